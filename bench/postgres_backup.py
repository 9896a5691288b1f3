"""Backup and restore of one app's Postgres data (250 MB; MULTIDB_BENCH_MB), against the bare pg_dump and pg_restore.

Ours makes a database, loads, measures and compares it, and drops it; the floor does the same without the measuring and
comparing, of its own dump, as the superuser.
"""

from __future__ import annotations

import os
import subprocess

import psycopg

from bench.backup_ground import back_up, peak, restore_beside, somewhere
from bench.ground import Result, admin, apps, open_engine, project, taking_turns
from multidb.backup.repository import Copy
from multidb.provisioners.postgres.backup import programs

MEGABYTES = int(os.environ.get("MULTIDB_BENCH_MB", "250"))
RUNS = 3 if MEGABYTES < 1000 else 1  # a few minutes in all
ROWS_OF_A_MEGABYTE = 1700  # about 600 bytes each, of which a half can be compressed


def measure() -> list[Result]:
    with project(apps("app", 1, "{stores: [postgres]}")) as folder, somewhere() as sets:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        host, port, user, password = admin(engine, "postgres")
        login = {"host": host, "port": port, "user": user, "password": password}
        with psycopg.connect(**login, dbname="app0000", autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute("CREATE TABLE public.lines (id int PRIMARY KEY, word text, noise text)")
            connection.execute(
                "INSERT INTO public.lines SELECT n, repeat('word ', 50), "
                "concat(md5(n::text), encode(sha512(n::text::bytea), 'hex'), encode(sha512((-n)::text::bytea), 'hex')) "
                f"FROM generate_series(1, {MEGABYTES * ROWS_OF_A_MEGABYTE}) n"
            )
            connection.execute("CREATE INDEX ON public.lines (noise)")
            connection.execute("ALTER TABLE public.lines OWNER TO app0000_owner")
        env = {**os.environ, "PGHOST": host, "PGPORT": str(port), "PGUSER": user, "PGPASSWORD": password}
        dump, bare = programs.find("pg_dump", 18, "bench").path, str(sets / "floor.pgc")
        load = programs.find("pg_restore", 18, "bench").path

        def floor_dump() -> None:
            subprocess.run([dump, "-Fc", "-f", bare, "app0000"], env=env, check=True)

        def floor_restore() -> None:
            with psycopg.connect(**login, dbname="postgres", autocommit=True) as connection:  # type: ignore[arg-type]
                connection.execute("CREATE DATABASE floor TEMPLATE template0")
                subprocess.run([load, "-j", "2", "-d", "floor", bare], env=env, check=True)
                connection.execute("DROP DATABASE floor")

        copies: list[Copy] = []
        ours, floor = taking_turns(RUNS, lambda: copies.append(back_up(engine, sets)), floor_dump)
        back, bare_back = taking_turns(RUNS, lambda: restore_beside(engine, copies[-1]), floor_restore)
    return [
        Result(f"backup of {MEGABYTES} MB in Postgres", ours, floor, "pg_dump -Fc", "1.1", peak()),
        Result(f"restore of {MEGABYTES} MB into Postgres, measured", back, bare_back, "pg_restore -j 2", "1.2", peak()),
    ]
