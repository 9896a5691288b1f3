"""The env files that commands leave for an app: ``apps/<app>/.env`` (0600) and ``.env.example``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from multidb import files
from multidb.cli.output import Output
from multidb.deployment import Deployment
from multidb.environment import Environment, environments
from multidb.errors import MultidbError
from multidb.fleet import Fleet
from multidb.render.env import env_files, is_ours
from multidb.report import Report

__all__ = ["by_hand", "following_servers", "write_env_files", "write_variables"]


def by_hand(fleet: Fleet, apps: Iterable[str]) -> list[str]:
    """Those of the apps whose env file a person wrote, so that multidb leaves it alone."""
    root = Path(fleet.project.root) / "apps"
    texts = {app: files.read_text(root / app / ".env") for app in apps}
    return [app for app, text in texts.items() if text is not None and not is_ours(text)]


def write_variables(fleet: Fleet, output: Output, apps: Sequence[str]) -> dict[str, Path | MultidbError | None]:
    """Writes the env files of apps that have to have them, in one pass: by app the file where it is new, None where it
    was so already or a person wrote it, or why there is none."""
    foreign = by_hand(fleet, apps)
    outcomes: dict[str, Path | MultidbError | None] = dict.fromkeys(foreign)
    deployment = Deployment(fleet.project, fleet.state)
    for app, variables in environments(fleet, [app for app in apps if app not in foreign]):
        try:
            outcomes[app] = variables if isinstance(variables, MultidbError) else _written(deployment, app, variables)
        except MultidbError as error:
            outcomes[app] = error
    _note_written(output, [path for path in outcomes.values() if isinstance(path, Path)])
    return outcomes


def write_env_files(fleet: Fleet, output: Output, apps: Iterable[str], report: Report | None = None) -> list[Path]:
    """Writes the env files of `apps` and says so. A file that a person wrote is left alone; a server that does not
    answer costs its app the file, with a note, and nothing else.

    Args:
        report: what was made before. An app of which something could not be made gets no file, which would name what
            is not there; one that it has already is kept as new as its credentials.
    """
    written: list[Path] = []
    deployment, root = Deployment(fleet.project, fleet.state), Path(fleet.project.root) / "apps"
    unmade = _unmade(fleet, report) if report is not None else frozenset()
    texts = {app: files.read_text(root / app / ".env") for app in apps}
    for app in [app for app, text in texts.items() if text is None and app in unmade]:
        output.note(f"{root / app / '.env'}: not written, since not all of it was made", style="yellow")
        del texts[app]
    foreign = by_hand(fleet, texts)
    for app in foreign:
        output.note(
            f"{root / app / '.env'}: left alone, multidb did not write it (see: multidb env {app})", style="yellow"
        )
    for app, variables in environments(fleet, [app for app in texts if app not in foreign]):
        if isinstance(variables, MultidbError):
            output.note(f"{root / app / '.env'}: not written, {variables}", style="yellow")
            continue
        if (path := _written(deployment, app, variables)) is not None:
            written.append(path)
    _note_written(output, written)
    return written


def _written(deployment: Deployment, app: str, variables: Environment) -> Path | None:
    """Writes an app's env file; gives it where it was not so already."""
    root = Path(deployment.project.root)
    env, example = env_files(app, variables.env).items()
    here = dict([env] if (root / example[0]).exists() else [env, example])  # render looks after that one
    return root / env[0] if env[0] in deployment.write(here) else None


def _note_written(output: Output, written: Sequence[Path]) -> None:
    if written:
        output.note(f"Wrote {', '.join(str(path) for path in written)}")


def _unmade(fleet: Fleet, report: Report) -> frozenset[str]:
    """The apps for which something was not made that was to be."""
    unmade: set[str] = set()
    for server in report.servers:
        changes = [*(failure.change for failure in server.failures), *server.not_tried]
        unmade |= {change.resource.app for change in changes if change.resource.app is not None} | {*server.unread}
        if server.error is not None and not changes:
            unmade |= {app.id for app in fleet.project.apps_with(server.store)}
    return frozenset(unmade)


@contextmanager
def following_servers(fleet: Fleet, output: Output) -> Iterator[None]:
    """Writes the env files again of apps that reach a server at another address after the block: its port was taken, or
    was forgotten with the state."""
    before = fleet.runtime.app_endpoints()
    yield
    moved = {name for name, endpoint in fleet.runtime.app_endpoints().items() if before.get(name) != endpoint}
    apps = [
        app for app in fleet.project.apps.values() if (Path(fleet.project.root) / "apps" / app.id / ".env").exists()
    ]
    write_env_files(fleet, output, [app.id for app in apps if moved & set(fleet.runtime.names_for(app))])
