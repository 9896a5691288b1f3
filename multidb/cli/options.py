"""The options that commands share, so that each means the same everywhere.

Completion and the commands that answer from what was kept import this module; what reads a manifest or asks a server is
imported where it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer
from typer.models import ArgumentInfo

from multidb.cli.output import TEXT, Output, is_attended
from multidb.errors import Refused, UsageError
from multidb.provisioners import INCLUDED

if TYPE_CHECKING:
    from datetime import timedelta

    from multidb.answers import Answers
    from multidb.engine import Engine
    from multidb.fleet import Fleet, Scope
    from multidb.history import RunRecord
    from multidb.model import Project
    from multidb.state import ProjectState

P = ParamSpec("P")

__all__ = [
    "AppArgument",
    "AppOrAllArgument",
    "AppsArgument",
    "AppsOption",
    "DeepOption",
    "EnvOption",
    "FileOption",
    "IdentityOption",
    "JsonOption",
    "LongFileOption",
    "Run",
    "SetArgument",
    "PartsOption",
    "StoresOption",
    "VerboseOption",
    "YesOption",
    "ask",
    "duration",
    "examples",
    "scope",
    "scope_of_sets",
    "with_run",
]


FileOption = Annotated[
    Path, typer.Option("--file", "-f", envvar="MULTIDB_FILE", help="The manifest.", show_default=True)
]
LongFileOption = Annotated[Path, typer.Option("--file", envvar="MULTIDB_FILE", help="The manifest.", show_default=True)]
"""For a command whose ``-f`` is follow."""
EnvOption = Annotated[
    str | None,
    typer.Option("--env", envvar="MULTIDB_ENV", help="Lay multidb.NAME.yaml over the manifest.", metavar="NAME"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; everything else on stderr.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say more: every statement, every step.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", envvar="MULTIDB_YES", help="Do not ask.")]
AppsOption = Annotated[list[str] | None, typer.Option("--app", help="Only this app; may be repeated.", metavar="NAME")]
_FILES = "files"  # `multidb.backup.sets.FILES`, which is slow to import

PartsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--store",
        help=f"Only this store ({', '.join(INCLUDED)}), or the app's files ({_FILES}); may be repeated.",
        metavar="STORE",
    ),
]
StoresOption = Annotated[
    list[str] | None,
    typer.Option("--store", help=f"Only this store ({', '.join(INCLUDED)}); may be repeated.", metavar="STORE"),
]
DeepOption = Annotated[
    bool, typer.Option("--deep/--shallow", help="Also look inside every app's database, or read shared catalogs only.")
]
AppArgument = Annotated[str, typer.Argument(metavar="NAME", help="The app; beep-boop means beep_boop.")]
AppsArgument = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Only these apps.")]
AppOrAllArgument = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Only this app; beep-boop means beep_boop. Default: every app.")
]
IdentityOption = Annotated[
    Path | None,
    typer.Option("--identity", help="Secret key of age or ssh; default: $MULTIDB_BACKUP_IDENTITY.", metavar="FILE"),
]
SetArgument = Annotated[
    str, typer.Argument(metavar="SET", help="A set's id or its beginning, APP/ID, or an app for its newest.")
]

DEFAULT_FILE = Path("multidb.yaml")

_SHARED = {"file", "env", "as_json", "verbose", "result_form"}  # what `with_run` keeps to itself
_JSON = "json"


@dataclass(frozen=True)
class Run:
    """One run of a command: where its manifest is and how it speaks."""

    command: str
    file: Path = DEFAULT_FILE
    overlay: str | None = None
    json: bool = False
    verbose: bool = False
    form: str = TEXT

    @cached_property
    def output(self) -> Output:
        """Where this run prints."""
        return Output(self.command, json=self.json, verbose=self.verbose, form=self.form)

    @property
    def answers(self) -> Answers:
        """What is kept of the manifest; to be asked before it is read."""
        from multidb.answers import Answers

        return Answers(self.file, self.overlay)

    def project(self, *, offline: bool = False) -> Project:
        """The manifest, read and checked now.

        Args:
            offline: a state that is kept elsewhere is not asked, so that nothing is known of removed apps.
        """
        from multidb.project import load_project

        return load_project(self.file, self.overlay, offline=offline)

    def fleet(self, output: Output, project: Project | None = None) -> Fleet:
        """The servers of the manifest, which is read and checked now, or of `project`."""
        from multidb.fleet import Fleet

        return Fleet(project or self.project(), progress=output.progress, command=self.command)

    def engine(self, output: Output, project: Project | None = None) -> Engine:
        """The engine for the manifest, which is read and checked now, or for `project`."""
        from multidb.engine import Engine

        return Engine(self.fleet(output, project))

    @contextmanager
    def recorded(
        self, state: ProjectState, apps: Iterable[str], plan: str | None = None, *, command: str | None = None
    ) -> Iterator[RunRecord]:
        """Has the history say that this run changes something, and when the block ends what came of it. For the part of
        a command that changes something, once that is agreed to.

        Args:
            apps: whom it is about.
            plan: the digest of what is carried out.
            command: its name, where it does another's work.

        Raises:
            UsageError: the history cannot be written, so nothing is changed.
        """
        from multidb.history import RunHistory

        def lost(why: Exception) -> None:
            self.output.note(f"{why}; the history does not say what came of this run", style="yellow")

        with RunHistory(state).recording(command or self.command, apps, plan, lost=lost) as record:
            yield record


def with_run(
    command: str,
    *,
    verbose: bool = False,
    file: Any = FileOption,
    env: bool = True,
    forms: type[StrEnum] | None = None,
) -> Callable[[Callable[Concatenate[Run, P], int]], Callable[..., int]]:
    """Gives a command its `Run`, made of the options that every command has: they come after its arguments.

    Whatever the command does, with ``--json`` there is a document.

    Args:
        verbose: it has ``--verbose`` too.
        file: its option for the manifest; None: it reads none.
        env: it has ``--env``.
        forms: in which its ``--format`` prints the result, `TEXT` and ``json`` among them.
    """

    def decorated(work: Callable[Concatenate[Run, P], int]) -> Callable[..., int]:
        assert not _SHARED & signature(work).parameters.keys(), f"{command} would never see an option of its own"

        @wraps(work)
        def with_options(
            *arguments: Any,
            file: Path = DEFAULT_FILE,
            env: str | None = None,
            result_form: str = TEXT,
            as_json: bool = False,
            verbose: bool = False,
            **options: Any,
        ) -> int:
            if as_json and result_form not in (TEXT, _JSON):
                raise UsageError(f"--json and --format {result_form} are two answers", hint="leave out one of them")
            run = Run(command, file, env, as_json or result_form == _JSON, verbose, result_form)
            code = work(run, *arguments, **options)
            run.output.end(code)
            return code

        shared = [_option("file", DEFAULT_FILE, file)] * (file is not None) + [_option("env", None, EnvOption)] * env
        last = [] if forms is None else [_option("result_form", forms(TEXT), _form_option(forms))]
        last += [_option("as_json", False, JsonOption)] + [_option("verbose", False, VerboseOption)] * verbose
        with_options.__signature__ = _with_shared(signature(work, eval_str=True), shared, last)  # type: ignore[attr-defined]
        return with_options

    return decorated


def _form_option(forms: type[StrEnum]) -> object:
    help_line = f"How to print the result: {', '.join(forms)}; json is what --json prints."
    return Annotated[forms, typer.Option("--format", metavar="FORM", help=help_line, show_default=False)]


def _option(name: str, default: object, annotation: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _with_shared(own: Signature, first: Sequence[Parameter], last: Sequence[Parameter]) -> Signature:
    """A command's signature as it is called: its arguments, then the options of every command around its own."""
    _, *parameters = own.parameters.values()
    arguments = [
        parameter for parameter in parameters if isinstance(parameter.annotation.__metadata__[0], ArgumentInfo)
    ]
    options = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters if parameter not in arguments]
    return own.replace(parameters=[*arguments, *first, *options, *last])


def examples(*lines: str) -> str:
    """The end of a command's help: one example a line, not rewrapped."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def scope(
    apps: Sequence[str] | None = None,
    stores: Sequence[str] | None = None,
    *,
    adopt: Sequence[str] | None = None,
    regenerate: Sequence[str] | None = None,
    deep: bool = True,
) -> Scope:
    """The scope that the shared options describe. `UsageError` for an unknown store or an impossible app id."""
    from multidb.fleet import Scope
    from multidb.provisioners import known_stores

    for store in stores or ():
        if store not in known_stores():
            raise UsageError(f"there is no store {store!r}", hint=f"stores: {', '.join(known_stores())}")
    adopted, regenerated = _ids(adopt), _ids(regenerate)
    only = _ids(apps) | adopted | regenerated
    return Scope(only or None, frozenset(stores) if stores else None, adopted, regenerated, deep)


def scope_of_sets(apps: Sequence[str] | None = None, stores: Sequence[str] | None = None) -> tuple[Scope, bool | None]:
    """The scope of a command about sets, which have the apps' files beside their stores (``--store files``); and
    whether it is about those, too. None: it is about everything.

    Raises:
        UsageError: as for `scope`.
    """
    if not stores:
        return scope(apps), None
    others = [store for store in stores if store != _FILES]
    asked = scope(apps, others)
    return (asked if others else replace(asked, stores=frozenset())), _FILES in stores


def duration(text: str) -> timedelta:
    """A length of time as it was typed. `UsageError` when it is none."""
    from multidb.model import duration_of

    try:
        return duration_of(text)
    except ValueError as error:
        raise UsageError(str(error), hint="for example 12h, 3d, 2w") from None


def ask(question: str, *, yes: bool) -> bool:
    """Whether the person agrees. `Refused` when there is nobody to ask and ``--yes`` was not given."""
    if yes:
        return True
    if not is_attended(sys.stdin):
        raise Refused("this needs a yes, and there is no terminal to ask on", hint="run it again with --yes")
    return typer.confirm(question, default=False, err=True)


def _ids(names: Sequence[str] | None) -> frozenset[str]:
    from multidb.manifest import app_id

    return frozenset(app_id(name) for name in names or ())
