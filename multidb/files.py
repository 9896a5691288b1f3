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
import pwd
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from multidb.document import Unreadable, parse, printable
from multidb.errors import Locked, MachineError, UsageError

__all__ = [
    "PRIVATE",
    "PUBLIC",
    "append_line",
    "delete",
    "last_line",
    "lines",
    "lock",
    "make_folder",
    "open_own",
    "read_text",
    "sync_folder",
    "write_all",
    "write_text",
]

PUBLIC = 0o644
PRIVATE = 0o600
_LARGEST = 256 * 1024**2  # characters
_LARGEST_HOLDER = 4096  # bytes
_PAUSES = (0.001, 0.1)  # seconds between two looks at a lock that is taken: the first, doubled up to the last
_GLANCE = 0.1  # seconds within which who only looks whether a lock is held, and has it for that, has let go of it


def read_text(path: Path, *, errors: str = "strict") -> str | None:
    """The text of `path`, None when there is no such file. `UsageError` when it is there and cannot be read, or has no
    end that a file of a project would have.

    Args:
        errors: "surrogateescape" for a file that may hold other bytes than UTF-8's; `write_text` writes them back.
    """
    try:
        with path.open(encoding="utf-8", errors=errors, newline="") as file:  # line ends stay as they are
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return text
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None


def write_text(path: Path, text: str, *, mode: int | None = None) -> None:
    """Puts `text` at `path`, whole or not at all.

    Args:
        mode: exactly these permissions, for a file of ours; a link in its place is replaced. None: it is somebody's own
            file, such as the manifest: a link is followed and stays, and so do its permissions.

    Raises:
        UsageError: the folder cannot be written, or the disk is full. The old file is untouched.
    """
    write_all({path: (text, mode)})


def write_all(texts: Mapping[Path, tuple[str, int | None]]) -> None:
    """Puts every text (with its permissions, see `write_text`) at its path, or none: all are on the disk before the
    first is in place. What is replaced keeps its owner, as far as we may give files away; what is new
    belongs to the owner of its folder.

    Raises:
        UsageError: a folder cannot be written, or the disk is full. The old files are untouched, new ones are not left
            behind. Only a crash between two renames leaves some old and some new; each is whole in any case.
    """
    staged: dict[Path, Path] = {}
    path = Path()
    try:
        for path, (text, mode) in texts.items():
            final = path.resolve() if mode is None else path
            temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
            make_folder(final.parent)
            if final.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            staged[final] = temporary
            _write_new(temporary, text, mode, _status(final))
        for path, temporary in staged.items():
            temporary.replace(path)
        for folder in {path.parent for path in staged}:
            sync_folder(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        for temporary in staged.values():
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise _unwritable(path, error) from None


def lines(path: Path, longest: int) -> Iterator[bytes]:
    """The lines of a file that `append_line` keeps, without their ends; none when there is no such file. What a crash
    has left of a line is none.

    Args:
        longest: bytes of the longest line that is ours; a longer one comes in pieces.

    Raises:
        UsageError: it is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            while line := file.readline(longest + 1):
                if line.endswith(b"\n") or len(line) > longest or _is_whole(line):
                    yield line.removesuffix(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(path, error) from None


def last_line(path: Path, longest: int) -> tuple[bytes, int]:
    """The last whole line of such a file, without its end, and how many bytes of the file are whole lines; empty and 0
    when there is none.

    Raises:
        UsageError: it is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - 2 * (longest + 1))
            file.seek(start)
            tail = file.read()
    except FileNotFoundError:
        return b"", 0
    except OSError as error:
        raise _unreadable(path, error) from None
    whole, _, left = tail.rpartition(b"\n")
    if left and _is_whole(left):  # somebody's editor has left out its end
        return left, size
    return whole.rpartition(b"\n")[2], size - len(left)


def append_line(path: Path, line: str, end: int) -> None:
    """Adds a line to a file of lines (of mode 0600), whole or not at all; it is on the disk when this returns.

    Args:
        end: where the last whole line ends, see `last_line`; what a crash has left behind it is cut off.

    Raises:
        UsageError: the folder cannot be written, or the disk is full. The file has the lines that it had.
    """
    try:
        make_folder(path.parent)
        is_new = not path.exists()
        descriptor = open_own(path, os.O_RDWR | os.O_APPEND)
        try:
            os.ftruncate(descriptor, end)
            lacks_end = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
            data = ("\n" * lacks_end + line + "\n").encode()
            if os.write(descriptor, data) < len(data):
                os.ftruncate(descriptor, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None


def _is_whole(line: bytes) -> bool:
    """Whether a line that has no end is one all the same: it is JSON."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _status(path: Path) -> os.stat_result | None:
    """Of what is going to be replaced; None where there is nothing yet."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def delete(path: Path) -> None:
    """Removes a file, and its folder when that leaves it empty; nothing when there is no such file.

    Raises:
        UsageError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
    except OSError as error:
        raise _unwritable(path, error) from None


def _open_lock(path: Path) -> int:
    try:
        make_folder(path.parent)
        return open_own(path, os.O_RDWR)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UsageError:
    """A `MachineError` where nothing is said of what is in the file."""
    if isinstance(error, OSError) and error.errno != errno.EFBIG:
        return MachineError(f"cannot be read: {_why(error)}", where=str(path), hint=_whose(path, error))
    return UsageError(f"cannot be read: {_why(error)}", where=str(path))


def _unwritable(path: Path, error: Exception) -> UsageError:
    hint = _whose(path, error) or "free space or correct the permissions, then run the command again"
    return UsageError(f"cannot be written: {_why(error)}", where=str(path), hint=hint)


def _whose(path: Path, error: Exception) -> str | None:
    """What to do where `path`, or the folder that it is to be in, is another account's; None where it is not that."""
    if not isinstance(error, PermissionError):
        return None
    owner = os.geteuid()
    with contextlib.suppress(OSError):
        owner = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place)).stat().st_uid
    if owner == os.geteuid():
        return None
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"it belongs to user {owner}: run the command as that user, or correct the permissions"
    return f"it belongs to {name}: run the command as {name} (sudo -u {name} multidb ..), or correct the permissions"


# Another thread finds no folder that is root's still, and makes in it what would stay root's.
_MAKING = threading.RLock()


def make_folder(folder: Path) -> None:
    """Makes the folder and those above it that are not there; what root makes belongs to the owner of the folder above.
    Raises `OSError`."""
    with _MAKING:
        if folder.is_dir():
            return
        if folder.parent != folder:
            make_folder(folder.parent)
        # another run has made it just now; if it is no folder, that is found out
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                _give_to_owner_of(folder.parent, descriptor)
            finally:
                os.close(descriptor)


def open_own(path: Path, flags: int) -> int:
    """Opens a file of ours, of mode 0600, and makes it where there is none."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, PRIVATE)
        _give_to_owner_of(path.parent, descriptor)
        return descriptor
    return os.open(path, flags | os.O_CREAT, PRIVATE)


def _give_to_owner_of(folder: Path, descriptor: int) -> None:
    """What root has made in somebody's folder is theirs: after one command by sudo they would be locked out of their
    own project. Only what is new and open is given away: by its name it could be another thing by now."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a container may not give files away
            status = folder.stat()
            os.fchown(descriptor, status.st_uid, status.st_gid)


def _write_new(path: Path, text: str, mode: int | None, before: os.stat_result | None) -> None:
    kept = before is not None and stat.S_ISREG(before.st_mode)
    if mode is None:
        mode = stat.S_IMODE(before.st_mode) if kept and before is not None else PUBLIC
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        if kept and before is not None and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
            with contextlib.suppress(PermissionError):  # only root gives files away
                os.fchown(descriptor, before.st_uid, before.st_gid)
        if not kept:
            _give_to_owner_of(path.parent, descriptor)
        os.fchmod(descriptor, mode)  # the umask may have narrowed it
        file.write(text)
        file.flush()
        os.fsync(descriptor)


@contextlib.contextmanager
def lock(
    path: Path,
    holder: Mapping[str, object],
    timeout: float = 0.0,
    waiting: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Holds the lock file `path` while the block runs. The kernel lets go of it when the process dies.

    Args:
        holder: who we are, shown to whoever finds the lock taken (``command``, ``user``, ``pid``, ``since``).
        timeout: seconds to wait for one and the same holder; where another takes its place, they begin anew.
        waiting: told who has it, each time when that is another.

    Raises:
        Locked: another process holds it.
        UsageError: the folder cannot be written.
    """
    descriptor, enough = _open_lock(path), max(timeout, _GLANCE)
    deadline, seen, pause = time.monotonic() + enough, b"", _PAUSES[0]
    try:
        while not _taken(descriptor):
            held_by = os.pread(descriptor, _LARGEST_HOLDER, 0)
            if held_by != seen:
                deadline, seen = time.monotonic() + enough, held_by
                if waiting is not None and timeout:
                    waiting(_described(held_by)[0])
            if time.monotonic() >= deadline:
                who, hint = _described(held_by)
                raise Locked(f"another run works here: {who}", where=str(path), hint=hint)
            time.sleep(pause)
            pause = min(2 * pause, _PAUSES[1])
        with contextlib.suppress(OSError):  # on a full disk it is locked all the same, by nobody knows whom
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(dict(holder)).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def _described(raw: bytes) -> tuple[str, str]:
    """Who holds a lock, and what to do about it."""
    try:
        match parse(raw, _LARGEST_HOLDER):
            case {"command": str(command), "user": str(user), "pid": int(pid), "since": str(since)}:
                who = printable(f"{command} by {user}, process {pid}, since {since}", 200)
                resume = f"where it stands still, let it go on (kill -CONT {pid}) or end it (kill -KILL {pid})"
                return who, f"wait for it to end, then run the command again; {resume}"
    except Unreadable:
        pass
    return "it has just started", "wait for it to end, then run the command again"


def sync_folder(folder: Path) -> None:
    """Makes sure that a power cut does not take back the names in the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it is not UTF-8 text" if isinstance(error, UnicodeError) else "its links lead in a circle"
