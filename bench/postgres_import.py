"""Import of a Postgres database from elsewhere (250 MB; MULTIDB_BENCH_MB), against the bare pg_dump and pg_restore.

Ours dumps, measures every table on both sides, compares, puts the new database in the place of the app's and applies;
the floor pipes one program into the other, as the superuser, and drops the database. Both are on one server.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg

from bench.backup_ground import peak
from bench.ground import Result, admin, apps, open_engine, project, quiet, taking_turns
from bench.postgres_backup import MEGABYTES, ROWS_OF_A_MEGABYTE, RUNS
from multidb.backup.importing import ImportRequest, bring_in
from multidb.backup.source_locations import source_location
from multidb.model import ImportOptions
from multidb.provisioners.postgres.backup import programs


def measure() -> list[Result]:
    with project(apps("app", 1, "{stores: [postgres]}")) as folder:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        host, port, user, password = admin(engine, "postgres")
        login = {"host": host, "port": port, "user": user, "password": password}
        with psycopg.connect(**login, dbname="postgres", autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute("CREATE DATABASE elsewhere TEMPLATE template0")
        with psycopg.connect(**login, dbname="elsewhere", autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute("CREATE TABLE public.lines (id int PRIMARY KEY, word text, noise text)")
            connection.execute(
                "INSERT INTO public.lines SELECT n, repeat('word ', 50), "
                "concat(md5(n::text), encode(sha512(n::text::bytea), 'hex'), encode(sha512((-n)::text::bytea), 'hex')) "
                f"FROM generate_series(1, {MEGABYTES * ROWS_OF_A_MEGABYTE}) n"
            )
            connection.execute("CREATE INDEX ON public.lines (noise)")
        env = {**os.environ, "PGHOST": host, "PGPORT": str(port), "PGUSER": user, "PGPASSWORD": password}
        dump, load = (programs.find(name, 18, "bench").path for name in ("pg_dump", "pg_restore"))

        def floor() -> None:
            with psycopg.connect(**login, dbname="postgres", autocommit=True) as connection:  # type: ignore[arg-type]
                connection.execute("CREATE DATABASE floor TEMPLATE template0")
                writing = subprocess.Popen([dump, "-Fc", "elsewhere"], env=env, stdout=subprocess.PIPE)
                subprocess.run([load, "-d", "floor"], env=env, stdin=writing.stdout, check=True)
                assert writing.wait() == 0
                connection.execute("DROP DATABASE floor")

        url, environ = f"postgresql://{user}@{host}:{port}/elsewhere", {"MULTIDB_IMPORT_POSTGRES_PASSWORD": password}
        location = source_location("postgres", url, environ, Path(folder))
        request = ImportRequest("app0000", {"postgres": location}, ImportOptions(), replace=True, safety=False)

        def ours() -> None:
            done = bring_in(engine, request, quiet)
            assert done.report.error() is None

        own, bare = taking_turns(RUNS, ours, floor)
    return [Result(f"import of {MEGABYTES} MB into Postgres", own, bare, "pg_dump -Fc | pg_restore", "", peak())]
