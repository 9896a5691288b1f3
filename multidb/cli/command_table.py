"""What may be typed after each command, as a table that completion reads instead of the commands themselves.

The table is `TABLE`, a file that `scripts/docs` writes beside docs/cli.md: importing a command to ask it for its
parameters takes longer than a person waits for a TAB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Final

from multidb.cli.candidates import TABLE
from multidb.cli.command_line import COMMANDS, takes_app_option, takes_yes_option

__all__ = ["TABLE", "command_table"]

_SOURCES: Final = {
    "NAME": "apps",
    "NAME|PLAN": "apps_or_plans",
    "STORE": "stores",
    "SERVER": "servers",
    "SET": "sets",
    "VARIABLE": "variables",
    "--adopt": "apps",
    "--apps": "app_lists",
    "--as": "apps",
    "--collection": "collections",
    "--env": "overlays",
    "--extension": "extensions",
    "--from": "targets",
    "--server": "servers",
    "--stores": "store_lists",
    "--into": "files",
    "--to": "targets",
    "--yes-destroy": "nothing",  # to be typed by hand: that is what it is for
    "backups list NAME": "backed_up",
    "backups prune NAME": "backed_up",
    "clone OTHER": "clones",
    "connect -- COMMAND": "files",
    "env FILE": "files",
    "import WHERE": "files",
    "import OLD=NEW": "nothing",
    "purge NAME": "removed",
    "secrets move WHERE": "nothing",
    "state move ADDRESS": "nothing",
    "rename-app NEW": "nothing",
    "undo-remove NAME": "removed",
}
"""Where the values of a parameter come from (functions of `multidb.cli.known_names`), by its command and metavar, its
option, or its metavar alone. What is not here is a file where the command takes a path, a choice where it takes one of
some words, and else nobody's business."""


def command_table(root: Any) -> str:
    """The table, as the text of its file: a parameter a line.

    Args:
        root: the group of all commands.
    """
    entries = []
    for name, (_, summary) in COMMANDS.items():
        command = root.get_command(None, name)
        for path, typed in [(name, command), *((f"{name} {sub}", one) for sub, one in _subcommands(command))]:
            lines = ",\n".join(f"   {json.dumps(row)}" for row in _rows(path, typed))
            text = json.dumps(summary if path == name else _sentence(typed.help))
            entries.append(f' {json.dumps(path)}: {{"help": {text}, "parameters": [\n{lines}\n ]}}')
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _subcommands(command: Any) -> list[tuple[str, Any]]:
    return list(getattr(command, "commands", {}).items())


def _rows(path: str, command: Any) -> Iterator[tuple[list[str], str | list[str] | None, bool, str]]:
    """Of each parameter: its names (none for an argument), the source of its values (none for a flag), whether it may
    be repeated, and what it is for."""
    if not _subcommands(command):
        for parameter in command.params:
            argument = parameter.param_type_name == "argument"
            names = [] if argument else [*parameter.opts, *parameter.secondary_opts]
            repeated = parameter.nargs == -1 or (not argument and parameter.multiple)
            yield names, _source(path, parameter), repeated, _sentence(parameter.help)
        if takes_app_option(command):
            named = next(parameter for parameter in command.params if parameter.param_type_name == "argument")
            source = "backed_up" if named.metavar == "SET" else _source(path, named)
            yield ["--app"], source, named.nargs == -1, _sentence(named.help)
        if takes_yes_option(command):
            yield ["--yes", "-y"], None, False, "Do not ask."
    yield ["--help", "-h"], None, False, "Show this message and exit."


def _source(path: str, parameter: Any) -> str | list[str] | None:
    if getattr(parameter, "is_flag", False) or getattr(parameter, "count", False):
        return None
    for key in (f"{path} {parameter.metavar}", *parameter.opts, parameter.metavar):
        if key in _SOURCES:
            return _SOURCES[key]
    kind = parameter.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [str(choice.value) for choice in kind]
    return "files" if kind is Path else "nothing"


def _sentence(text: str | None) -> str:
    """The first sentence, which is what a shell has room for."""
    line = " ".join((text or "").split("\n\n")[0].split())
    return line.partition(". ")[0].rstrip(".;:") + "."
