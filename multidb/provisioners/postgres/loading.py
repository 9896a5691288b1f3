"""Reading a dump with `pg_restore`: what is in it, and loading some of that.

On this machine, the program is given files by their numbers, and several connections load at once. In a container those
files do not exist, and the dump goes through its standard input instead: one connection then has to do, but no copy of
an app's data lies in the container, whatever happens.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from typing import BinaryIO

from multidb.provisioners.postgres import inside, programs
from multidb.provisioners.postgres.programs import Program
from multidb.secrets import Secret

__all__ = ["contents_of", "load"]

# A load may take an hour, and besides as long as so many compressed bytes a second: a tenth of what a slow disk does.
_SHORTEST, _SLOWEST = 3600.0, 100_000


def contents_of(program: Program, dump: BinaryIO, where: str) -> str:
    """The table of contents of a dump, as `load` takes it.

    Raises:
        ArchiveError: it is not a whole dump.
    """
    dump.seek(0)
    if program.inside is not None:
        with programs.running(program, ["--list"], None, where, feed=[dump]) as output:
            return output.read().decode(errors="surrogateescape")
    arguments = ["--list", _by_number(dump)]
    with programs.running(program, arguments, None, where, files=[dump.fileno()]) as output:
        return output.read().decode(errors="surrogateescape")


def load(
    program: Program,
    address: str,
    dump: BinaryIO,
    chosen: Sequence[str],
    role: str | None,
    password: Secret,
    where: str,
    *,
    in_order: bool = False,
) -> None:
    """Loads the chosen lines of the table of contents; everything will belong to `role`, or to the login without it.

    Args:
        in_order: one after the other, never at once.

    Raises:
        ArchiveError: a statement failed.
    """
    with tempfile.TemporaryFile() as listed:
        limit = _SHORTEST + os.fstat(dump.fileno()).st_size / _SLOWEST
        listed.write("\n".join([*chosen, ""]).encode(errors="surrogateescape"))
        size = listed.tell()
        for file in (dump, listed):
            file.seek(0)
        if program.inside is not None:
            arguments = programs.restore_arguments(address, inside.LIST, role, 1)
            feed = [listed, dump]
            with programs.running(program, arguments, password, where, feed=feed, listed=size, limit=limit) as output:
                output.read()
            return
        arguments = programs.restore_arguments(address, _by_number(listed), role, 1 if in_order else _jobs())
        files = [dump.fileno(), listed.fileno()]
        arguments.append(_by_number(dump))
        with programs.running(program, arguments, password, where, files=files, limit=limit) as output:
            output.read()


def _by_number(file: BinaryIO) -> str:
    """A name by which a child process opens a file that has none."""
    return f"/dev/fd/{file.fileno()}"


def _jobs() -> int:
    """How many connections load at once. Elsewhere than on Linux all who open a file by number share one position."""
    return min(os.cpu_count() or 1, 4) if sys.platform == "linux" else 1
