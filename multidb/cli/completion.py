"""`multidb completion`: the scripts by which shells complete commands and names."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from multidb import files
from multidb.cli.options import Run, examples, with_run
from multidb.errors import UsageError

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_SCRIPTS: Final = Path(__file__).parent / "scripts"


class Shell(StrEnum):
    """The shells that there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command(
    epilog=examples(
        "multidb completion --install                (for the shell that is yours)",
        'eval "$(multidb completion bash)"           (in ~/.bashrc)',
        'eval "$(multidb completion zsh)"            (in ~/.zshrc, after compinit)',
        "multidb completion fish | source            (in ~/.config/fish/config.fish)",
    )
)
@with_run("completion", file=None, env=False)
def completion(
    run: Run,
    shell: Annotated[
        Shell | None, typer.Argument(metavar="SHELL", help="bash, zsh or fish; default: what $SHELL says.")
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Write it where the shell looks for it, and say what is left to do.")
    ] = False,
) -> int:
    """Print the script by which a shell completes multidb's commands, options, apps, stores, servers, sets, targets and
    variables; or install it. No file of the shell's own is edited.
    """
    output = run.output
    chosen = shell or _own_shell()
    script = files.read_text(_SCRIPTS / f"multidb.{chosen}") or ""
    if not install:
        output.document(True, {"shell": chosen.value, "script": script})
        if not run.json:
            typer.echo(script, nl=False)
        return 0
    path, left = _place(chosen)
    files.write_text(path, script, mode=files.PUBLIC)
    output.document(True, {"shell": chosen.value, "written": [str(path)], "to_do": left})
    output.say(f"Written: {path}", style="green")
    output.say(left)
    return 0


def _own_shell() -> Shell:
    name = os.path.basename(os.environ.get("SHELL", ""))  # noqa: PTH119  # a login shell's name may be anything
    if name not in list(Shell):
        raise UsageError(
            f"$SHELL is {name or 'not set'}, and there are scripts for {', '.join(Shell)}",
            hint="name one: multidb completion bash",
        )
    return Shell(name)


def _place(shell: Shell) -> tuple[Path, str]:
    """Where the script goes, and what is left to do there."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    match shell:
        case Shell.BASH:
            path = data / "bash-completion" / "completions" / "multidb"
            return path, (
                "New shells have it where the package bash-completion is installed; without it, add to ~/.bashrc:\n"
                f"  source {path}"
            )
        case Shell.ZSH:
            path = data / "zsh" / "site-functions" / "_multidb"
            return path, (
                "Where that folder is not in $fpath yet, add to ~/.zshrc, before compinit:\n"
                f"  fpath=({path.parent} $fpath); autoload -Uz compinit; compinit"
            )
        case Shell.FISH:
            configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
            return configuration / "fish" / "completions" / "multidb.fish", "New shells have it."
