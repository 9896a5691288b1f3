"""Backup and restore of one app's Postgres data (1 GB; MULTIDB_BENCH_MB), against the bare pg_dump and pg_restore."""

from __future__ import annotations

import os
import subprocess

import psycopg

from bench.backup_ground import back_up, peak, restore_beside, somewhere
from bench.ground import Result, admin, apps, open_engine, project, taking_turns
from multidb.provisioners.postgres import programs

MEGABYTES, RUNS = int(os.environ.get("MULTIDB_BENCH_MB", "1000")), 3
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
                "(SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, 10) i) "
                f"FROM generate_series(1, {MEGABYTES * ROWS_OF_A_MEGABYTE}) n"
            )
            connection.execute("CREATE INDEX ON public.lines (noise)")
            connection.execute("CREATE DATABASE floor")
        env = {**os.environ, "PGHOST": host, "PGPORT": str(port), "PGUSER": user, "PGPASSWORD": password}
        dump, bare = programs.find("pg_dump", 18, "bench").path, str(sets / "floor.pgc")
        load = programs.find("pg_restore", 18, "bench").path

        def floor_dump() -> None:
            subprocess.run([dump, "-Fc", "-f", bare, "app0000"], env=env, check=True)

        def floor_restore() -> None:
            subprocess.run([load, "-j", "2", "--clean", "--if-exists", "-d", "floor", bare], env=env, check=True)

        ours, floor = taking_turns(RUNS, lambda: back_up(engine, sets), floor_dump)
        copy = back_up(engine, sets)
        back, bare_back = taking_turns(RUNS, lambda: restore_beside(engine, copy), floor_restore)
    return [
        Result(f"backup of {MEGABYTES} MB in Postgres", ours, floor, "pg_dump -Fc", "1.1", peak()),
        Result(f"restore of {MEGABYTES} MB into Postgres, measured", back, bare_back, "pg_restore -j 2", "1.2", peak()),
    ]
