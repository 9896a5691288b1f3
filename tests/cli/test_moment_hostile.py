"""An app that means harm, as its server is brought up aside as of a moment and read: nobody who may do more than it
calls what it has put there, and nothing that a superuser of then had at work is."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from datetime import datetime
from typing import BinaryIO

import psycopg
import pytest

from multidb.backup.continuous.moments import revived
from multidb.engine import Engine
from multidb.fleet import Fleet
from multidb.model import unwatched
from multidb.project import load_project
from tests.support.command import Folder, project_folder
from tests.support.moments import now
from tests.support.postgres_admin import as_admin
from tests.support.postgres_traps import TRAP, TRAPPED, caught_in

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: trapped
runtime: embedded
apps: {ann: {stores: [postgres], postgres: {roles: split}}}
backup: {to: [sets/], every: 52w, verify: never, postgres: {continuous: true}}
"""
# Of an app: what its logins and whoever enters its database would find first.
FIRST = """
CREATE SCHEMA first;
CREATE FUNCTION first.count(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT public.trap(''count'', 1)::int::bigint';
CREATE FUNCTION first.literally(text) RETURNS text LANGUAGE sql AS 'SELECT public.trap(''like'', 1)::text';
CREATE OPERATOR first.|| (FUNCTION = first.also, LEFTARG = name, RIGHTARG = name);
ALTER ROLE ann_user SET search_path = first, public, pg_catalog
"""
# Of a superuser of then.
AT_WORK = """
CREATE FUNCTION public.entered() RETURNS event_trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE LOG 'caught entered in % as %', current_database(), session_user; END $$;
CREATE EVENT TRIGGER entered ON login EXECUTE FUNCTION public.entered();
CREATE EVENT TRIGGER changed ON ddl_command_start EXECUTE FUNCTION public.entered();
ALTER DATABASE ann SET search_path = first, public, pg_catalog;
ALTER ROLE postgres SET search_path = first, public, pg_catalog
"""


class Written:
    """Files of a set, which nobody reads."""

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        yield io.BytesIO()


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("trapped-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        made.ok("backup", "--due")
        yield made


def test_what_an_app_or_a_superuser_has_planted_is_called_by_nobody_with_more_power(folder: Folder) -> None:
    (url,) = (value for name, value in folder.variables("ann").items() if name.endswith("MIGRATE_URL"))
    with psycopg.connect(url, autocommit=True) as ann:
        for text in [TRAP, *filter(str.strip, TRAPPED.split(";\n")), *filter(str.strip, FIRST.split(";\n"))]:
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction):
                ann.execute(text.replace("{app}", "ann"))
    with as_admin(folder, "ann") as admin:
        for text in AT_WORK.split(";\n"):
            admin.execute(text.replace(";\n", ""))
    with as_admin(folder, "ann") as admin, admin.transaction(force_rollback=True):  # a superuser is really caught
        admin.execute("SELECT public.trap('control', 1)")
    moment = now()
    live = caught_in(folder.path / ".multidb" / "logs" / "postgres.log")
    assert {("entered", "postgres"), ("control", "postgres")} <= live, "the traps are there, and work"
    folder.ok("backup", "--due")
    engine = Engine(Fleet(load_project(folder.path / "multidb.yaml")))
    log = folder.path / ".multidb" / "logs" / "scratch-postgres.log"
    with revived(engine, engine.project.apps["ann"], datetime.fromisoformat(moment), progress=unwatched) as there:
        with engine.fleet.archive(there.server, may_stop=False) as archive:
            part = archive.backup(there.app, there.context, Written(), unwatched)
        assert "cast_away" in str(part.measures), "all of it was read"
        called = caught_in(log)
        assert {who for _, who in called} <= {"ann__delegate"}
        password = engine.fleet.runtime.admin(there.server)
        assert password is not None
        login = {"host": "127.0.0.1", "user": "postgres", "password": password.reveal(), "dbname": "ann"}
        with psycopg.connect(**login, port=there.server.endpoint.port) as inside:
            powerful = (
                "SELECT rolname FROM pg_roles WHERE (rolsuper OR rolcreaterole) AND oid >= 16384 OR rolname ~ 'pwned'"
            )
            assert inside.execute(powerful).fetchall() == []
            inside.execute("SELECT public.trap('control', 1)")
        assert caught_in(log) - called == {("control", "postgres")}, "the control: the copy's log says who was called"
