"""One app brought back to a moment (200 MB of it, and twice as much of another app on its server; MULTIDB_BENCH_MB),
against the bare tools: a copy of the base backup, Postgres' own replay, pg_dump and pg_restore.

Ours reads a compressed archive, leaves out what is the other app's, measures and compares what it has read and loaded,
makes the owners anew, and puts it in the place of what is there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from bench.backup_ground import peak, somewhere
from bench.ground import Result, admin, apps, open_engine, project, quiet, taking_turns
from multidb.account import unprivileged
from multidb.backup.continuous.archiving import archive_servers
from multidb.backup.continuous.moments import FOLDER, set_of_moment
from multidb.backup.creation import repository
from multidb.backup.restoring import SetSource, restore
from multidb.engine import Engine
from multidb.ports import choose
from multidb.provisioners.postgres.backup import programs

MEGABYTES = int(os.environ.get("MULTIDB_BENCH_MB", "200"))
RUNS = 3
ROWS_OF_A_MEGABYTE = 1700


class Bare:
    """What somebody would do without us, with a base backup and WAL that are kept as they are."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        host, port, user, password = admin(engine, "postgres")
        self._login = {"host": host, "port": port, "user": user, "password": password, "dbname": "postgres"}
        self._folder = folder
        self._env = {**os.environ, "PGHOST": host, "PGPORT": str(port), "PGUSER": user, "PGPASSWORD": password}
        self._bin = Path(programs.find("pg_dump", 18, "bench").path).parent
        folder.mkdir()
        self._account = unprivileged()
        self._port = choose(set(), 26000)
        for path in (folder, folder.parent):  # another user runs the server, who has to get in
            path.chmod(0o755)

    def copy_base(self) -> None:
        with psycopg.connect(**self._login, autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute("SELECT pg_create_physical_replication_slot('bare', true)")
        self._run("pg_basebackup", "-D", str(self._folder / "base"), "-X", "none", "-c", "fast")
        (self._folder / "wal").mkdir()

    def take_log(self, end: str) -> None:
        self._run("pg_receivewal", "-D", str(self._folder / "wal"), "-S", "bare", "--no-loop", f"--endpos={end}")

    def restore(self, moment: str) -> None:
        data = self._folder / "scratch"
        shutil.copytree(self._folder / "base", data)
        for path in (self._folder / "wal").iterdir():
            shutil.copy(path, data / "pg_wal" / path.name.removesuffix(".partial"))
        (data / "recovery.signal").touch()
        with (data / "postgresql.auto.conf").open("a") as file:
            file.write(f"restore_command = 'false'\nrecovery_target_time = '{moment}'\n")
            file.write("recovery_target_action = 'promote'\nhot_standby = off\nfsync = off\nautovacuum = off\n")
        if self._account is not None:
            shutil.chown(self._folder, self._account.uid, self._account.gid)
            subprocess.run(["chown", "-R", f"{self._account.uid}:{self._account.gid}", str(data)], check=True)
        data.chmod(0o700)
        user = self._account.uid if self._account is not None else None
        options = ["-c", f"port={self._port}", "-c", "unix_socket_directories="]
        with (self._folder / "log").open("w") as log:
            server = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(data), *options], user=user, stdout=log, stderr=log
            )
        try:
            self._wait(server)
            dump = str(self._folder / "bare.pgc")
            self._run("pg_dump", "-Fc", "-Z1", "-f", dump, "-p", str(self._port), "app0000")
            subprocess.run([str(self._bin / "createdb"), "-T", "template0", "bare"], env=self._env, check=True)
            self._run("pg_restore", "-j", "2", "-d", "bare", dump)
            subprocess.run([str(self._bin / "dropdb"), "bare"], env=self._env, check=True)
        finally:
            server.terminate()
            server.wait()
            shutil.rmtree(data)

    def _wait(self, server: subprocess.Popen[bytes]) -> None:
        ready = [str(self._bin / "pg_isready"), "-q", "-p", str(self._port)]
        while subprocess.run(ready, env=self._env, check=False).returncode:
            assert server.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.05)

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run([str(self._bin / name), *arguments], env=self._env, check=True, stderr=subprocess.DEVNULL)


def measure() -> list[Result]:
    with project(apps("app", 2, "{stores: [postgres]}")) as folder, somewhere() as sets:
        manifest = folder / "multidb.yaml"
        archived = f"backup: {{to: ['{sets / 'ours'}'], postgres: {{continuous: true}}}}\n"
        manifest.write_text(manifest.read_text() + archived)
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        host, port, user, password = admin(engine, "postgres")
        login = {"host": host, "port": port, "user": user, "password": password}
        for number, share in enumerate((1, 2)):
            with psycopg.connect(**login, dbname=f"app000{number}", autocommit=True) as connection:  # type: ignore[arg-type]
                connection.execute("CREATE TABLE public.lines (id int PRIMARY KEY, word text, noise text)")
                connection.execute(
                    "INSERT INTO public.lines SELECT n, repeat('word ', 50), "
                    "concat(md5(n::text), encode(sha512(n::text::bytea), 'hex'), md5((-n)::text)) "
                    f"FROM generate_series(1, {share * MEGABYTES * ROWS_OF_A_MEGABYTE}) n"
                )
                connection.execute(f"ALTER TABLE public.lines OWNER TO app000{number}_owner")
        (archive,) = archive_servers(engine, quiet)
        assert archive.error is None, archive.error
        bare = Bare(engine, sets / "bare")
        bare.copy_base()
        with psycopg.connect(**login, dbname="app0000", autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute("UPDATE public.lines SET word = 'changed' WHERE id % 10 = 0")
            moment = datetime.now(UTC)
            connection.execute("DELETE FROM public.lines")
            end = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
            assert end is not None
            connection.execute("SELECT pg_switch_wal()")
        (archive,) = archive_servers(engine, quiet)
        assert archive.error is None, archive.error
        bare.take_log(str(end[0]))
        app = engine.project.apps["app0000"]

        def ours() -> None:
            with set_of_moment(engine, app, moment, progress=quiet) as copy:
                source = SetSource(repository(engine.fleet, [FOLDER]), copy)
                restore(engine, source, app.id, replace=True, safety=False, progress=quiet)

        back = taking_turns(RUNS, ours, lambda: bare.restore(moment.isoformat(sep=" ")))
        with psycopg.connect(**login, dbname="app0000") as connection:  # type: ignore[arg-type]
            rows = connection.execute("SELECT count(*) FROM public.lines").fetchone()
            assert rows == (MEGABYTES * ROWS_OF_A_MEGABYTE,)
    floor = "copy of the base backup, replay, pg_dump -Fc, pg_restore -j 2"
    return [Result(f"{MEGABYTES} of {3 * MEGABYTES} MB in Postgres to a moment", *back, floor, "", peak())]
