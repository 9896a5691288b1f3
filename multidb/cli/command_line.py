"""What every command takes and how its help looks, whichever command it is.

Each takes ``--yes`` (harmless where nothing is asked), and an app that it takes by NAME also by ``--app NAME``. A
command's module says nothing of either.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise, takewhile
from os import environ
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, Final

import typer
from typer.core import TyperGroup

__all__ = [
    "COMMANDS",
    "GROUPS",
    "RootCommand",
    "named_command",
    "prepared",
    "takes_app_option",
    "takes_yes_option",
    "usage_error",
    "wants_document",
]

_NARROWEST: Final = 40  # columns

GROUPS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Start": {
        "init": ("init", "Write a commented manifest to start from."),
        "up": ("up", "Start the servers of the manifest and wait until each answers."),
        "down": ("down", "Stop the servers that `up` started; data stays."),
        "restart": ("restart", "Stop and start servers, with the options of the manifest; data stays."),
        "doctor": ("doctor", "Check versions, ports, client tools and capacity, each with its fix."),
        "validate": ("validate", "Check the manifest; every problem at once."),
        "schema": ("schema", "Print the manifest's JSON Schema, for editors."),
        "completion": ("completion", "Print or install what completes commands and names in a shell."),
    },
    "Change": {
        "plan": ("plan", "Show what would change on the servers."),
        "apply": ("apply", "Bring the servers to the manifest."),
        "import": ("import_apps", "Find apps on servers that exist already; give an app data that is elsewhere."),
        "add-app": ("add_app", "Add an app: manifest entry, stores, credentials, env file."),
        "rotate": ("rotate", "Give an app new credentials while it works."),
        "rename-app": ("rename_app", "Give an app another name, everywhere."),
        "move": ("move", "Move an app to where the manifest has it: a database of its own, a schema."),
        "render": ("render", "Write the compose, env and init files of the manifest."),
        "secrets": ("secrets", "Where secrets are kept: move, rekey."),
        "state": ("state", "Where the state is kept: show, copy, move and recover it."),
        "recover": ("recover", "Get back into a Neo4j whose admin's password an app has changed."),
    },
    "See": {
        "apps": ("apps", "List every app, also removed ones and orphans."),
        "show": ("show", "Show an app: its stores, names and how isolated it is."),
        "env": ("env", "Print the variables with which an app reaches its stores."),
        "connect": ("connect", "Work in an app's place: psql, valkey-cli, cypher-shell, or a prompt."),
        "status": ("status", "Show the servers."),
        "logs": ("logs", "Show what the servers say."),
        "health": ("health", "Try each app's stores with the app's own credentials."),
        "audit": ("audit", "Prove that the apps are kept from each other."),
        "usage": ("usage", "Show what each app uses, against its limits and quotas."),
        "query": ("query", "Put one read-only question to every app, answers side by side."),
        "history": ("history", "Show what was done, by whom, and what came of it."),
        "serve": ("serve", "Serve health, metrics and a page over HTTP."),
    },
    "Back up": {
        "backup": ("backup", "Make a set of each app: all of its stores, on every target."),
        "backups": ("backups", "The sets that there are: list, show, verify, copy, prune."),
        "restore": ("restore", "Bring a set back, into its app or into another."),
        "clone": ("clone", "Make an app like another, with its data: for a preview, for CI."),
    },
    "End": {
        "expire": ("expire", "Remove the clones whose time is up."),
        "remove-app": ("remove_app", "Take an app out: final backup, logins off; its data stays for a time of grace."),
        "undo-remove": ("undo_remove", "Bring a removed app back as it was."),
        "purge": ("purge", "Drop everything that a removed app has."),
    },
}
"""Heading of the help -> command -> (module under multidb.cli, one line of help), in the order of ``--help``."""

COMMANDS: Final = {name: entry for group in GROUPS.values() for name, entry in group.items()}


_VALUES: Final = {"path": "PATH", "str": "TEXT", "int": "N", "int range": "N", "float": "N", "float range": "N"}
"""Types as typer writes them -> what stands in the help for a value."""

_Context: Final[Any] = TyperGroup.context_class


class _Formatter(_Context.formatter_class):  # type: ignore[misc]  # typer names neither class
    """Help as wide as the terminal, its headings bold where there are colours."""

    def __init__(self, *, width: int | None = None, **_: Any) -> None:
        super().__init__(width=width or max(get_terminal_size().columns, _NARROWEST))

    def write_heading(self, heading: str) -> None:
        super().write_heading(typer.style(heading, bold=True) if _has_colours() else heading)


class _HelpContext(_Context):  # type: ignore[misc]
    formatter_class = _Formatter


class RootCommand(TyperGroup):
    """The root command: knows its commands by name and imports the one that is run."""

    context_class = _HelpContext

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"multidb.cli.{COMMANDS[cmd_name][0]}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return prepared(command)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        _take_as_typed(self, ctx)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}.{_did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for heading, group in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, summary) for name, (_, summary) in group.items()], col_max=14)


def prepared(command: Any) -> Any:
    """The command of a module, with what every command takes; of a group, each of its commands."""
    command.context_class = _HelpContext
    if isinstance(command, TyperGroup):
        for subcommand in command.commands.values():
            prepared(subcommand)
        return command
    aliases = _Aliases(yes=takes_yes_option(command), app=takes_app_option(command))
    parse = command.parse_args

    def parse_args(ctx: Any, args: list[str]) -> Any:
        _take_as_typed(command, ctx)
        return parse(ctx, list(aliases.resolved(args)))

    command.parse_args = parse_args
    for parameter in command.params:
        if hasattr(parameter, "display_type_rich"):  # earlier versions of typer have words of their own
            parameter.display_type_rich = partial(_value_in_help, parameter, parameter.display_type_rich)
    return command


def _value_in_help(parameter: Any, typed: Callable[..., str | None], ctx: Any) -> str | None:
    """What stands in the help for a parameter's value: a word for people (``PATH``) or the choices, and not the name of
    a type of Python's (``<list[str]>``). An argument that has a name there already needs no more."""
    text = (typed(ctx=ctx) or "").removeprefix("<").removesuffix(">")
    if parameter.param_type_name == "argument" and "|" not in text:
        return None
    if text.startswith("list["):  # each time that it is given
        text = text[len("list[") : -1]
    return _VALUES.get(text, text)


def _take_as_typed(command: Any, ctx: Any) -> None:
    for parameter in command.get_params(ctx):
        if hasattr(parameter, "get_runtime_param"):  # earlier versions of typer do without pydantic
            parameter.get_runtime_param = partial(_AsTyped, parameter, parameter.get_runtime_param)


class _AsTyped:
    """How a parameter takes its value: as it was typed, where that is what the command wants. What has to be converted
    is left to typer, which loads pydantic for it, and that takes as long as all else that a short command does.
    """

    def __init__(self, parameter: Any, converting: Callable[[], Any]) -> None:
        self._kind = parameter.type_descriptor.annotation
        self._converting = converting

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if isinstance(self._kind, type) and isinstance(value, self._kind):
            return value
        if self._kind is Path and isinstance(value, str):
            return Path(value)
        return self._converting().coerce(value, param=param, ctx=ctx)


def usage_error(error: Any) -> tuple[str, str]:
    """What was wrong on the command line, and where to read what is right.

    Args:
        error: one of typer's usage errors.
    """
    path = error.ctx.command_path if error.ctx is not None else "multidb"
    message = error.message if hasattr(error, "possibilities") else error.format_message()
    if near := getattr(error, "possibilities", None):
        message = f"{message}.{_did_you_mean(error.option_name, near)}"
    return message, f"{path} --help"


def named_command(arguments: Sequence[str]) -> str:
    """The command that a command line names, with that of its group, such as ``backups list``. Nothing where it names
    none of ours."""
    words = [argument for argument in _own(arguments) if not argument.startswith("-")]
    if not words or words[0] not in COMMANDS:
        return ""
    module = sys.modules.get(f"multidb.cli.{COMMANDS[words[0]][0]}")  # if it got as far as naming one of a group
    group = {command.name for command in module.app.registered_commands} if module is not None else set()
    return " ".join(words[:2]) if len(group) > 1 and words[1:] and words[1] in group else words[0]


def wants_document(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a JSON document, also where it is wrong in something else."""
    own = _own(arguments)
    by_format = "--format=json" in own or ("--format", "json") in pairwise(own)
    return "--json" in own or (by_format and named_command(arguments) != "env")  # where that is a form of an env file


def _own(arguments: Iterable[str]) -> list[str]:
    """Those that are for multidb, not for a program that it is to run."""
    return list(takewhile(lambda argument: argument != "--", arguments))


def _did_you_mean(typed: str, known: Sequence[str] | dict[str, Any]) -> str:
    from difflib import get_close_matches  # for who mistyped

    near = get_close_matches(typed, list(known), 2, cutoff=0.7)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _has_colours() -> bool:
    return sys.stdout.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def takes_yes_option(command: Any) -> bool:
    """Whether ``--yes`` says nothing to it, since it has none of its own."""
    return _lacks(command, "--yes")


def takes_app_option(command: Any) -> bool:
    """Whether it takes apps by name, or sets, where an app stands for its newest, and has no ``--app`` of its own: then
    that is another way to name them."""
    metavars = [parameter.metavar or "" for parameter in command.params if parameter.param_type_name == "argument"]
    return any("NAME" in metavar or metavar == "SET" for metavar in metavars) and _lacks(command, "--app")


def _lacks(command: Any, option: str) -> bool:
    return not any(option in parameter.opts for parameter in command.params)


@dataclass(frozen=True, slots=True)
class _Aliases:
    """What a command takes beside its own parameters.

    Args:
        yes: ``--yes``, which says nothing here.
        app: ``--app NAME``, which is NAME.
    """

    yes: bool
    app: bool

    def resolved(self, arguments: Iterable[str]) -> Iterator[str]:
        """The arguments as the command's own."""
        rest = iter(arguments)
        for argument in rest:
            if argument == "--":
                yield argument
                yield from rest
            elif self.app and argument == "--app":
                yield from (name for name in [next(rest, None)] if name is not None)
            elif self.app and argument.startswith("--app="):
                yield argument.removeprefix("--app=")
            elif not (self.yes and argument in ("--yes", "-y")):
                yield argument
