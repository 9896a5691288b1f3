"""An SQLite database as it is at one moment, while others write to it: by SQLite's own online backup.

SQLite opens a database by its path, follows links, and rolls back what a crash has left beside it, with all the power
of who opens it. So a process of its own does that, as whoever the database is of where we are root. It looks at what it
has opened: nothing but the file that was seen, in the folder that was seen, and what lies beside it under its name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

__all__ = ["COMPANIONS", "HEADER", "NotADatabase", "copied"]

HEADER: Final = b"SQLite format 3\x00"
"""What such a file begins with."""
COMPANIONS: Final = ("-wal", "-shm", "-journal")
"""The ends of the names of what SQLite keeps beside one."""
_SLOWEST: Final = 1024**2  # bytes a second
_LONGEST_WAIT: Final = 30  # seconds for who writes
_COPY: Final = """
import os, pathlib, sqlite3, stat, sys
source, copy, wait, folder, file = sys.argv[1:]
def identity(status):
    return f"{status.st_dev}:{status.st_ino}"
def elsewhere():
    names = [source + end for end in ("", "-wal", "-shm", "-journal")]
    near = {identity(os.lstat(name)) for name in names if os.path.lexists(name) and not os.path.islink(name)}
    held = set()
    for descriptor in os.listdir("/dev/fd"):
        try:
            status = os.stat(int(descriptor))
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            held.add(identity(status))
    there = identity(os.stat(os.path.dirname(source))) == folder and identity(os.lstat(source)) == file
    return not there or file not in held or held - near
for mode in ("rw", "ro"):
    try:
        live = sqlite3.connect(pathlib.Path(source).as_uri() + "?mode=" + mode, uri=True, timeout=float(wait))
        live.execute("PRAGMA schema_version").fetchone()
        if elsewhere():
            sys.exit("it leads elsewhere")
        new = sqlite3.connect(copy)
        live.backup(new)
        new.close()
        if elsewhere():
            os.unlink(copy)
            sys.exit("it leads elsewhere")
        sys.exit(0)
    except sqlite3.Error as error:
        last = error
sys.exit(type(last).__name__ + ": " + str(last))
"""


class NotADatabase(Exception):
    """SQLite cannot read it, or nobody let it; with what it said."""


@contextmanager
def copied(path: Path, folder: os.stat_result, file: os.stat_result) -> Iterator[Path]:
    """A copy of the database for the block.

    Args:
        folder, file: what the folder that it is in, and the database, were when they were last seen.

    Raises:
        NotADatabase: there is none that could be read.
    """
    account = _account(folder, file)
    work = Path(tempfile.mkdtemp(prefix="multidb-sqlite-"))
    try:
        if account:
            os.chown(work, *account)
        copy = work / "copy.db"
        identities = [f"{status.st_dev}:{status.st_ino}" for status in (folder, file)]
        _run([str(path.absolute()), str(copy), str(_LONGEST_WAIT), *identities], account, file.st_size / _SLOWEST)
        yield copy
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _account(folder: os.stat_result, file: os.stat_result) -> tuple[int, int] | None:
    """As whom we read it; None: as ourselves. Who has the folder decides what lies in it under which name."""
    if os.geteuid() != 0:
        return None
    owner = folder if folder.st_uid else file
    return (owner.st_uid, owner.st_gid) if owner.st_uid else None


def _run(arguments: list[str], account: tuple[int, int] | None, seconds: float) -> None:
    as_account: dict[str, Any] = {"user": account[0], "group": account[1], "extra_groups": []} if account else {}
    try:
        done = subprocess.run(
            [os.path.realpath(sys.executable), "-I", "-S", "-c", _COPY, *arguments],
            cwd="/",
            env={"PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=2 * _LONGEST_WAIT + seconds,
            check=False,
            **as_account,
        )
    except subprocess.TimeoutExpired:
        raise NotADatabase("it was locked for too long") from None
    except OSError as error:
        raise NotADatabase(error.strerror or type(error).__name__) from None
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it was ended"]
        raise NotADatabase(last[0])
