"""Reading a dump with `pg_restore`: what is in it, and loading some of that.

On this machine, the program is given files by their numbers, and several connections load at once. In a container those
files do not exist, and the dump goes through its standard input instead: one connection then has to do, but no copy of
an app's data lies in the container, whatever happens.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from multidb.errors import ArchiveError
from multidb.model import Server
from multidb.progress import ProgressTimer
from multidb.provisioners.postgres.backup import inside, programs
from multidb.provisioners.postgres.backup.bound import Beyond
from multidb.provisioners.postgres.backup.programs import Input, Program
from multidb.secrets import Secret

__all__ = [
    "SHORTEST_LIMIT",
    "Step",
    "Target",
    "calls_apart",
    "contents_of",
    "fill",
    "load",
    "named",
    "schema_apart",
    "steps",
    "table_of_contents",
    "unpinned",
]

# A load may take an hour, and besides as long as so many compressed bytes a second: a tenth of what a slow disk does.
SHORTEST_LIMIT, _SLOWEST = 3600.0, 100_000
_ENTRY = re.compile(r"[0-9]+; ([0-9]+) ([0-9]+) (.*)")  # of a table of contents: its number, catalog, oid, what it is
_HEAD = 1 << 20  # bytes of a dump, at whose beginning it says how names are looked up
_PINNING = b"SELECT pg_catalog.set_config('search_path', '', false);"
_UNPINNING = b"RESET search_path;"  # to what the session has begun with
_ROWS = "TABLE DATA "
_CHECK = "CHECK CONSTRAINT "
_KEPT_BY = ("INDEX ", "CONSTRAINT ", _CHECK)  # what may call functions for every row
_SECURITY, _FILLING = "ROW SECURITY ", "MATERIALIZED VIEW DATA "
_CAUSE = re.compile(r"ERROR: +(.+?)(?=\s+(?:DETAIL|HINT|CONTEXT|Command was): |$)", re.DOTALL)
_ATTACHING, _REFERRING, _COMMENT = "INDEX ATTACH ", "FK CONSTRAINT ", "COMMENT "


@dataclass(frozen=True, slots=True)
class Step:
    """Lines of a table of contents that are loaded together.

    Args:
        in_order: one after the other, never at once.
        calls: functions of the app may be called, and look names up where the session does; for a file of ours.
        names: the lines do name things: what they mean is the server's own before it is the app's.
    """

    lines: Sequence[str]
    in_order: bool = False
    calls: bool = False
    names: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """Where a dump is loaded, and by what.

    Args:
        address: as libpq reads it.
        role: who will own everything; None: the login.
        tablespaces: whether things go into the tablespaces that they were in.
    """

    program: Program
    address: str
    role: str | None
    password: Secret
    server: Server
    tablespaces: bool = True


def contents_of(program: Program, dump: BinaryIO | Path, where: str, encoding: str = "UTF8") -> str:
    """The table of contents of a dump, as `load` takes it.

    Args:
        dump: the file, or the folder of one in directory format.
        encoding: in which it was written, as the server calls it; names in it are compared.

    Raises:
        ArchiveError: it is not a whole dump.
    """
    if program.inside is not None and not isinstance(dump, Path):
        dump.seek(0)
        arguments, given = ["--list"], Input(feed=[dump])
    else:
        name, files = named(program, dump, where)
        arguments, given = ["--list", name], Input(files=files)
    with programs.running(program, arguments, None, where, given=given) as output:
        return output.read().decode(_codec(encoding), errors="surrogateescape")


def _codec(encoding: str) -> str:
    """What Python calls an encoding of a server; for one without a name there, that of most."""
    with contextlib.suppress(LookupError):
        return codecs.lookup(encoding.replace("WIN", "cp").replace("KOI8", "koi8-")).name
    return "utf-8"


def steps(
    listing: str, schemas: frozenset[str], policies: Sequence[Mapping[str, Any]], beyond: Beyond
) -> tuple[list[Step], list[Step], Step]:
    """A table of contents without what is made already, or will be with other names, or takes an admin: the steps
    before the policies for roles by name are made, those after it, and the filling of materialized views (`fill`).

    An index of a partition is attached while nothing else is made: `pg_restore` does not know of the locks which that
    takes, and two of its connections would wait for each other. Foreign keys may need what is attached. Row security
    comes after everything that it would hide rows from (a foreign key of a table that forces it upon its owner is
    refused), and materialized views are filled last, as their owner would fill them. A check that rows need not
    pass (NOT VALID) comes after all of them: one of a domain would be made beside them.

    Args:
        schemas: those that are made already, with the extensions in them.
        policies: as the set's manifest has them.
    """
    # By its oid a policy is known for certain: of a name, the line has neither its line breaks nor where it ends.
    known = {entry["oid"] for entry in policies if isinstance(entry.get("oid"), int)}
    skipped = ["EXTENSION - ", "COMMENT - EXTENSION "]
    skipped += [
        f"POLICY {policy['schema']} {policy['table']} {policy['name']} " for policy in policies if "oid" not in policy
    ]
    without = _starts(skipped)
    # A name may have spaces in it, and the owner comes after it: "a b" is not "a" of an owner "b owner".
    made = {f"SCHEMA - {schema}" for schema in _starts(tuple(schemas))}
    kept = {}
    for line in listing.split("\n"):
        match = _ENTRY.match(line)
        if match is None or match[3].startswith(without) or match[3].rpartition(" ")[0] in made:
            continue
        catalog, oid, what = int(match[1]), int(match[2]), match[3]
        if not (beyond.leaves_out(catalog, oid, what) or (what.startswith("POLICY ") and oid in known)):
            kept[line] = what
    attaching = [line for line, what in kept.items() if what.startswith(_ATTACHING)]
    checks = [line for line, what in kept.items() if what.startswith(_CHECK)]
    filling = Step([line for line, what in kept.items() if what.startswith(_FILLING)])
    late: tuple[str, ...] = (_SECURITY,)
    if policies or attaching or checks:  # nothing hangs on a comment, and what it is about may be made late
        late += (_COMMENT,)
    last = [line for line, what in kept.items() if what.startswith(late)]
    last.sort(key=lambda line: late.index(next(start for start in late if kept[line].startswith(start))))
    for line in (*last, *checks, *filling.lines):
        del kept[line]
    first = [*_first(kept, attaching), *([Step(checks)] if checks else [])]
    return first, [Step(last, in_order=True)] if last else [], filling


def _first(kept: Mapping[str, str], attaching: Sequence[str]) -> list[Step]:
    if not attaching:
        return [Step(list(kept))]
    made = [Step([line for line, what in kept.items() if not what.startswith((_ATTACHING, _REFERRING))])]
    made.append(Step(attaching, in_order=True))
    referring = [line for line, what in kept.items() if what.startswith(_REFERRING)]
    return made + ([Step(referring)] if referring else [])


def schema_apart(steps: Sequence[Step]) -> tuple[Step, list[Step]]:
    """What makes tables, and the same steps without it: a table of contents has it before all rows."""
    lines = steps[0].lines
    rows = (number for number, line in enumerate(lines) if (entry := _ENTRY.match(line)) and entry[3].startswith(_ROWS))
    start = next(rows, len(lines))
    parted = [Step(lines[start:], steps[0].in_order), *steps[1:]]
    return Step(lines[:start]), [step for step in parted if step.lines]


def calls_apart(steps: Sequence[Step]) -> list[Step]:
    """The same steps with what calls functions apart: the rows of tables, indexes and constraints. Rows name no
    function by themselves, indexes and constraints do."""
    before: list[Step] = []
    for step in steps:
        begun = (number for number, line in enumerate(step.lines) if _is(line, (_ROWS, *_KEPT_BY)))
        start = next(begun, len(step.lines))
        rows = [line for line in step.lines[start:] if _is(line, _ROWS)]
        rest = [line for line in step.lines[start:] if not _is(line, _ROWS)]
        runs = [(calls, list(run)) for calls, run in itertools.groupby(rest, _is_kept)]
        parts = [Step(step.lines[:start], step.in_order), Step(rows, calls=True)]
        parts += [Step(run, step.in_order, calls, names=calls) for calls, run in runs]
        before += [part for part in parts if part.lines]
    return before


def fill(step: Step, run: Callable[[Step], None]) -> Mapping[str, str]:
    """Fills the materialized views of a step, and says which could not be filled, and why.

    A view may need another one of which no table of contents knows, through a function: one that fails is tried again
    while others can be filled. What is left could not be filled in the app either, and has no rows of its own.

    Args:
        run: loads a step.

    Raises:
        ServerError: the server's disk is full, or it went away, which says nothing of a view.
    """
    if not step.lines:
        return {}
    with contextlib.suppress(ArchiveError):
        run(step)
        return {}
    left, before = dict.fromkeys(step.lines, ""), 0
    while left and len(left) != before:
        before = len(left)
        left = {line: cause for line in left if (cause := _refusal(replace(step, lines=[line]), run))}
    return {_called(line): cause for line, cause in left.items()}


def _refusal(step: Step, run: Callable[[Step], None]) -> str:
    try:
        run(step)
    except ArchiveError as error:
        cause = _CAUSE.search(error.message)
        return cause[1] if cause is not None else error.message
    return ""


def _called(line: str) -> str:
    """What a view is called in the line about its rows: schema and name, and then its owner."""
    entry = _ENTRY.match(line)
    words = entry[3].removeprefix(_FILLING) if entry is not None else line
    return ".".join(words.rpartition(" ")[0].split(" ", 1))


def _is_kept(line: str) -> bool:
    """Comments stand between what they are about."""
    return _is(line, (*_KEPT_BY, _COMMENT)) and not _is(line, _ATTACHING)


def _is(line: str, starts: str | tuple[str, ...]) -> bool:
    entry = _ENTRY.match(line)
    return entry is not None and entry[3].startswith(starts)


@contextlib.contextmanager
def unpinned(dump: BinaryIO) -> Iterator[None]:
    """Lets names be looked up where the session does while the dump is loaded. `pg_dump` has every load say that they
    are looked up nowhere, which a function that is called then may need."""
    at = os.pread(dump.fileno(), _HEAD, 0).find(_PINNING)
    if at < 0:
        yield
        return
    os.pwrite(dump.fileno(), _UNPINNING.ljust(len(_PINNING)), at)
    try:
        yield
    finally:
        os.pwrite(dump.fileno(), _PINNING, at)


def _starts(texts: Sequence[str]) -> tuple[str, ...]:
    """How the lines of these begin: a line break in a name is a space there."""
    return tuple(re.sub("[\n\r]", " ", text) for text in texts)


def load(target: Target, dump: BinaryIO | Path, step: Step, *, timer: ProgressTimer) -> None:
    """Loads the lines of a step.

    Args:
        dump: the file, or the folder of one in directory format.
        timer: tells when it makes no progress.

    Raises:
        ArchiveError: a statement failed.
        ServerError: the server's disk is full, or it went away.
        ServerSlow: it made no progress.
    """
    run = partial(programs.running, target.program, password=target.password, where=str(target.server), timer=timer)
    timer.moved()
    limit = SHORTEST_LIMIT + _size(dump) / _SLOWEST
    if step.calls and not isinstance(dump, Path):
        with unpinned(dump):
            load(target, dump, replace(step, calls=False), timer=timer)
        return
    if target.program.inside is not None and not isinstance(dump, Path):
        _load_inside(target, dump, step, run, limit)
        return
    with table_of_contents(step.lines) as (listed, contents):
        name, files = named(target.program, dump, str(target.server))
        arguments = [*_arguments(target, contents, 1 if step.in_order else _jobs()), name]
        with run(arguments, given=Input(files=[*files, listed]), limit=limit) as output:
            output.read()


def _load_inside(target: Target, dump: BinaryIO, step: Step, run: Any, limit: float) -> None:
    with tempfile.TemporaryFile() as listed:
        listed.write("\n".join([*step.lines, ""]).encode(errors="surrogateescape"))
        size = listed.tell()
        for file in (dump, listed):
            file.seek(0)
        given = Input(feed=[listed, dump], listed=size)
        with run(_arguments(target, inside.LIST, 1), given=given, limit=limit) as output:
            output.read()


@contextlib.contextmanager
def table_of_contents(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """These lines of one, in a file without a name: its number, and what a child process calls it."""
    with tempfile.TemporaryFile() as listed:
        listed.write("\n".join([*lines, ""]).encode(errors="surrogateescape"))
        listed.seek(0)
        yield listed.fileno(), _by_number(listed)


def named(program: Program, dump: BinaryIO | Path, where: str) -> tuple[str, list[int]]:
    """What a program of this machine calls a dump, and the numbers of the files that it gets for that."""
    if isinstance(dump, Path):
        return _of_folder(program, dump, where), []
    dump.seek(0)
    return _by_number(dump), [dump.fileno()]


def _size(dump: BinaryIO | Path) -> int:
    if isinstance(dump, Path):
        return sum(file.stat().st_size for file in dump.iterdir())
    return os.fstat(dump.fileno()).st_size


def _of_folder(program: Program, folder: Path, where: str) -> str:
    if program.inside is not None:
        raise ArchiveError(
            "pg_restore is in the server's container, where the folder is not",
            where=where,
            hint="dump it into one file: pg_dump --format=custom; or install the client's programs on this machine",
        )
    return str(folder)


def _arguments(target: Target, contents: str, jobs: int) -> list[str]:
    return programs.restore_arguments(target.address, contents, target.role, jobs, tablespaces=target.tablespaces)


def _by_number(file: BinaryIO) -> str:
    """A name by which a child process opens a file that has none."""
    return f"/dev/fd/{file.fileno()}"


def _jobs() -> int:
    """How many connections load at once. Elsewhere than on Linux all who open a file by number share one position."""
    return min(os.cpu_count() or 1, 4) if sys.platform == "linux" else 1
