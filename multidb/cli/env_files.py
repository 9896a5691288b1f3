"""The env files that commands leave for an app: ``apps/<app>/.env`` (0600) and ``.env.example``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from multidb import files
from multidb.cli.output import Output
from multidb.environment import environments
from multidb.errors import MultidbError
from multidb.fleet import Fleet
from multidb.render import EnvFormat, env_example, env_text, is_ours

__all__ = ["following_servers", "write_env_files"]


def write_env_files(fleet: Fleet, output: Output, apps: Iterable[str]) -> list[Path]:
    """Writes the env files of `apps` and says so. A file that a person wrote is left alone; a server that does not
    answer costs its app the file, with a note, and nothing else."""
    written: list[Path] = []
    root = Path(fleet.project.root) / "apps"
    before = {app: files.read_text(root / app / ".env") for app in apps}
    foreign = [app for app, text in before.items() if text is not None and not is_ours(text)]
    for app in foreign:
        output.note(
            f"{root / app / '.env'}: left alone, multidb did not write it (see: multidb env {app})", style="yellow"
        )
    for app, variables in environments(fleet, [app for app in before if app not in foreign]):
        folder = root / app
        if isinstance(variables, MultidbError):
            output.note(f"{folder / '.env'}: not written, {variables}", style="yellow")
            continue
        text = env_text(app, variables.env, EnvFormat.DOTENV)
        if text != before[app]:
            files.write_text(folder / ".env", text, mode=files.PRIVATE)
            if files.read_text(folder / ".env.example") is None:  # multidb render looks after one that is there
                files.write_text(folder / ".env.example", env_example(app, variables.env))
            written.append(folder / ".env")
    if written:
        output.note(f"Wrote {', '.join(str(path) for path in written)}")
    return written


@contextmanager
def following_servers(fleet: Fleet, output: Output) -> Iterator[None]:
    """Writes the env files again of apps with a server that has another address after the block: its port was taken, or
    was forgotten with the state."""
    if fleet.project.runtime == "compose":  # apps in containers see names and ports that stay
        yield
        return
    before = _addresses(fleet)
    yield
    moved = {name for name, address in _addresses(fleet).items() if before.get(name) != address}
    apps = [
        app for app in fleet.project.apps.values() if (Path(fleet.project.root) / "apps" / app.id / ".env").exists()
    ]
    write_env_files(fleet, output, [app.id for app in apps if moved & set(fleet.runtime.names_for(app))])


def _addresses(fleet: Fleet) -> dict[str, str]:
    return {server.name: str(server.endpoint) for server in fleet.runtime.servers()}
