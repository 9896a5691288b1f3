"""An app with readers and a test database through its life: rotated, brought back, cloned, renamed, removed, purged."""

from __future__ import annotations

import psycopg
import pytest

from tests.support.command import Folder, project_folder

pytestmark = [pytest.mark.server, pytest.mark.rare, pytest.mark.timeout(300)]

READERS = "{bi: {}, export: {tables: [public.orders, rep.*]}}"
MANIFEST = f"""\
version: 1
project: life
runtime: embedded
apps:
  sales: {{stores: [postgres], postgres: {{test_database: true, roles: split, readers: {READERS}}}}}
  other: {{stores: [postgres]}}
backup: {{to: [sets/]}}
"""
TABLES = "CREATE TABLE orders (a int); CREATE TABLE people (a int); CREATE SCHEMA rep; CREATE TABLE rep.t (a int)"


def readable(folder: Folder, app: str, reader: str) -> list[bool]:
    with psycopg.connect(folder.variables(app)[f"{app.upper()}_DB_READER_{reader}_URL"], autocommit=True) as connection:
        question = "SELECT has_table_privilege(t, 'SELECT') FROM unnest(ARRAY['orders', 'people', 'rep.t']) t"
        # The schema comes before the table: who may not enter it reads nothing there.
        assert connection.execute("SELECT has_schema_privilege('rep', 'USAGE')").fetchone() == (True,)
        return [allowed for (allowed,) in connection.execute(question)]


def holds(folder: Folder, app: str) -> None:
    assert readable(folder, app, "EXPORT") == [True, False, True]
    assert readable(folder, app, "BI") == [True, True, True]
    assert "No changes" in folder.ok("plan", "--check").out
    assert "Every wall that is promised was proved" in folder.ok("audit").out


def test_readers_and_the_test_database_go_where_their_app_goes() -> None:
    with project_folder("readers-", MANIFEST) as folder:
        folder.ok("up")
        folder.ok("apply", "--yes")
        folder.ok("connect", "sales", "--migrate", stdin=TABLES)
        folder.ok("apply", "--yes")
        holds(folder, "sales")
        former = folder.variables("sales")["SALES_DB_READER_EXPORT_URL"]
        folder.ok("rotate", "sales")
        folder.ok("rotate", "sales", "--finish", "--yes")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(former)
        holds(folder, "sales")
        (made,) = folder.ok("backup", "sales", "--json").json()["sets"]
        folder.ok("connect", "sales", "--migrate", stdin="DROP TABLE orders; DROP SCHEMA rep CASCADE")
        folder.ok("restore", made["set"], "--app", "sales", "--replace", "--yes")
        holds(folder, "sales")
        folder.ok("clone", "sales", "copied", "--yes")
        holds(folder, "copied")
        folder.ok("rename-app", "copied", "twin", "--yes-destroy", "copied")
        holds(folder, "twin")
        folder.ok("remove-app", "twin", "--yes")
        folder.ok("undo-remove", "twin", "--yes")
        holds(folder, "twin")
        folder.ok("remove-app", "twin", "--yes")
        folder.ok("purge", "twin", "--yes-destroy", "twin")
        named = (folder.path / "multidb.yaml").read_text().replace(f", readers: {READERS}", "")
        folder.manifest(named)
        folder.ok("apply", "--yes")
        assert "No changes" in folder.ok("plan", "--check").out
        assert "Every wall that is promised was proved" in folder.ok("audit").out
