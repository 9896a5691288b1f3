"""The only module that writes project files: whole or not at all, owner-only where they hold a secret.

Every write goes to a temporary file in the same folder, is flushed to the disk and renamed over the old one, so that a
crash, a full disk or a second process never leaves half a file behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from multidb.errors import Locked, UsageError

__all__ = ["PRIVATE", "PUBLIC", "lock", "read_text", "write_text"]

PUBLIC = 0o644
PRIVATE = 0o600


def read_text(path: Path) -> str | None:
    """The text of `path`, None when there is no such file. `UsageError` when it is there and cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:  # line ends stay as they are
            return file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {_why(error)}", where=str(path)) from None


def write_text(path: Path, text: str, *, mode: int = PUBLIC) -> None:
    """Puts `text` at `path`, whole or not at all, with exactly the permissions `mode`.

    Raises:
        UsageError: the folder cannot be written, or the disk is full. The old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            os.fchmod(descriptor, mode)  # the umask may have narrowed it
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UsageError(
            f"cannot be written: {_why(error)}",
            where=str(path),
            hint="free space or correct the permissions, then run the command again",
        ) from None


@contextlib.contextmanager
def lock(path: Path, holder: Mapping[str, object]) -> Iterator[None]:
    """Holds the lock file `path` while the block runs. The kernel lets go of it when the process dies.

    Args:
        holder: who we are, shown to whoever finds the lock taken (``command``, ``user``, ``pid``, ``since``).

    Raises:
        Locked: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise Locked(
                f"another run works here: {_describe(os.pread(descriptor, 4096, 0))}",
                where=str(path),
                hint="wait for it to end, then run the command again",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(dict(holder)).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _describe(raw: bytes) -> str:
    try:
        holder = json.loads(raw)
        return f"{holder['command']} by {holder['user']}, process {holder['pid']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "it has just started"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "it is not UTF-8 text"
