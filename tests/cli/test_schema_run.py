"""Apps that share a Postgres database through the command line: their whole life, and commands that are killed."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.support.command import Folder, project_folder
from tests.support.moments import now

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: unity
runtime: embedded
defaults: {postgres: {database: contextunity}}
apps:
  brain: {stores: [postgres], postgres: {schema: mind, extensions: [ltree]}}
  commerce: {stores: [postgres], postgres: {schema: commerce, reads: [brain], roles: split}}
backup: {to: [sets/], every: 52w, verify: never}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("unity-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        with database(made, "brain") as brain:
            brain.execute("CREATE TABLE notes (id serial PRIMARY KEY, path ltree)")
            brain.execute("INSERT INTO notes (path) SELECT text2ltree('a.' || n) FROM generate_series(1, 20000) n")
            brain.execute("CREATE FUNCTION told() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM mind.notes'")
            brain.execute("CREATE VIEW parsed AS SELECT id FROM mind.notes")
        made.ok("backup")
        yield made


def database(folder: Folder, app: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(folder.variables(app)["DATABASE_URL"], autocommit=True)


def count(folder: Folder, app: str, table: str = "notes") -> int:
    with database(folder, app) as connection:
        (number,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone() or (-1,)
        assert isinstance(number, int)
        return number


def test_what_the_manifest_cannot_have_is_said_with_its_place(folder: Folder) -> None:
    for change, sentence in (
        ("schema: commerce, reads: [brain]", "would be named mind, as would one of"),
        ("reads: [brain]", "reads nobody, which is no app"),
        ("schema: commerce,", "must be a name of letters"),
    ):
        other = {
            "schema: commerce, reads: [brain]": "schema: mind",
            "reads: [brain]": "reads: [nobody]",
            "schema: commerce,": "schema: pg_x,",
        }[change]
        folder.manifest(MANIFEST.replace(change, other))
        ran = folder.run("validate")
        assert ran.code == 2
        assert sentence in ran.err
        assert "multidb.yaml:" in ran.err
    folder.manifest(MANIFEST)


def test_sets_and_copies_are_of_one_schema(folder: Folder) -> None:
    with database(folder, "brain") as brain:
        brain.execute("DELETE FROM notes WHERE id > 5")
        brain.execute("DROP VIEW parsed")
    restored = folder.ok("restore", "brain", "--table", "notes", "--replace", "--yes", "--json").json()
    assert restored["mentions"] == []
    assert count(folder, "brain") == 20000
    with database(folder, "brain") as brain:
        brain.execute("CREATE VIEW parsed AS SELECT id FROM mind.notes")
    cloned = folder.ok("clone", "brain", "copy", "--yes", "--json")
    assert cloned.json()["mentions"] == ["function copy.told()"]
    assert "names in its text what brain had, which is called otherwise in copy: function copy.told()" in cloned.err
    assert (count(folder, "copy"), count(folder, "copy", "parsed")) == (20000, 20000)
    with database(folder, "copy") as copy:  # `told` names mind, which copy is not called
        copy.execute("CREATE FUNCTION own() RETURNS int LANGUAGE sql SET search_path = copy AS 'SELECT 1'")
    rename = ("rename-app", "copy", "twin", "--yes-destroy", "copy")
    refused = folder.run(*rename)
    assert (refused.code, "otherwise afterwards: function copy.own()" in refused.out) == (3, True), refused.err
    assert "so that it is right under both names" in refused.err
    assert "multidb rename-app copy twin --accept" in refused.err
    assert "twin" not in (folder.path / "multidb.yaml").read_text()
    assert folder.ok(*rename, "--accept", "--json").json()["mentions"] == ["function copy.own()"]
    assert (count(folder, "twin", "twin.notes"), count(folder, "twin", "parsed")) == (20000, 20000)
    other = folder.ok("restore", "brain", "--as", "other", "--yes", "--json")
    assert other.json()["mentions"] == ["function other.told()"]
    assert "function other.told(); mend it in other" in other.err
    assert count(folder, "other", "other.notes") == 20000
    assert folder.ok("backups", "verify", "brain").code == 0
    assert folder.ok("plan", "--check").code == 0
    assert folder.ok("audit").code == 0
    for app in ("twin", "other"):
        folder.ok("remove-app", app, "--no-backup", "--yes")
        folder.ok("purge", app, "--yes-destroy", app)
    assert count(folder, "commerce", "mind.notes") == 20000


@pytest.mark.rare
def test_an_app_that_was_renamed_comes_back_as_of_a_moment_out_of_the_schema_that_it_had_then(folder: Folder) -> None:
    archived = MANIFEST.replace("verify: never", "verify: never, postgres: {continuous: true}")
    manifest = (folder.path / "multidb.yaml").read_text()
    folder.manifest(archived)
    try:
        folder.ok("backup", "--due")
        before = now()
        folder.ok("clone", "brain", "copy", "--yes")
        folder.ok("backup", "--due")
        moment = now()
        with database(folder, "copy") as copy:
            copy.execute("DELETE FROM notes")
        folder.ok("rename-app", "copy", "twin", "--yes-destroy", "copy")
        with database(folder, "twin") as twin:
            assert twin.execute("SELECT to_regnamespace('copy')").fetchone() == (None,)  # the control
        folder.ok("restore", "twin", "--at", moment, "--replace", "--yes")
        assert count(folder, "twin", "twin.notes") == 20000
        refused = folder.run("restore", "twin", "--at", before, "--replace", "--yes")
        assert refused.code == 6
        assert "copy has no schema" in refused.err
        assert "take a later moment" in refused.err
        folder.ok("remove-app", "twin", "--no-backup", "--yes")
        folder.ok("purge", "twin", "--yes-destroy", "twin")
    finally:
        folder.manifest(manifest)
        folder.ok("backup", "--due")  # the slot goes


@pytest.mark.rare
def test_killed_anywhere_a_restore_leaves_the_old_or_the_new(folder: Folder) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    began = time.monotonic()
    folder.ok("restore", "brain", "--replace", "--no-safety-set", "--yes")
    whole = time.monotonic() - began
    for _ in range(10):
        with database(folder, "brain") as brain:
            brain.execute("DELETE FROM notes WHERE id > 7")
        process = folder.begin("restore", "brain", "--replace", "--no-safety-set", "--yes")
        time.sleep(chance.uniform(0.1, whole))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert count(folder, "commerce", "mind.notes") in (7, 20000)
        if "backup brain" in folder.run("plan", "--check").out:  # it is closed until that has finished it
            folder.ok("backup", "brain")
        assert count(folder, "brain") in (7, 20000)
    folder.ok("restore", "brain", "--replace", "--no-safety-set", "--yes")
    assert count(folder, "brain") == 20000
    assert count(folder, "commerce", "mind.notes") == 20000
    with database(folder, "commerce") as commerce:
        left = commerce.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '__(new|old)$'").fetchall()
        left += commerce.execute("SELECT datname FROM pg_database WHERE datname ~ '__'").fetchall()
        left += commerce.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '__'").fetchall()
    assert left == []
    assert folder.ok("plan", "--check").code == 0


def test_an_app_that_is_elsewhere_is_left_there(folder: Folder) -> None:
    alone = MANIFEST.replace("defaults: {postgres: {database: contextunity}}\n", "")
    alone = alone.replace(", postgres: {schema: mind, extensions: [ltree]}", "")
    folder.manifest(alone.replace("schema: commerce, reads: [brain]", "database: contextunity, schema: commerce"))
    ran = folder.run("plan")
    assert "multidb move brain" in ran.err + ran.out
    folder.manifest(MANIFEST)
    assert count(folder, "brain") == 20000
    assert folder.ok("plan", "--check").code == 0


def test_the_last_one_leaves_the_database_to_whoever_types_its_name(folder: Folder) -> None:
    ran = folder.run("remove-app", "brain", "--no-backup", "--yes")
    assert ran.code == 0
    ran = folder.run("purge", "brain", "--yes-destroy", "brain")
    assert ran.code == 5
    assert "commerce may read schema mind of contextunity" in ran.err
    folder.manifest((folder.path / "multidb.yaml").read_text().replace(", reads: [brain]", ""))
    folder.ok("apply", "--yes")
    folder.ok("purge", "brain", "--yes-destroy", "brain")
    folder.ok("remove-app", "commerce", "--no-backup", "--yes")
    folder.ok("purge", "commerce", "--yes-destroy", "commerce")
    text = (folder.path / "multidb.yaml").read_text().replace("defaults: {postgres: {database: contextunity}}\n", "")
    folder.manifest(text.replace("apps:", "apps:\n  last: {stores: [postgres]}"))
    folder.ok("apply", "--yes")
    ran = folder.run("plan", "--check")
    assert ran.code == 1
    assert "contextunity: no app has a place any more in what apps shared: database contextunity" in ran.out
    assert "purge contextunity" in ran.out
    assert "undo-remove" not in ran.out
    assert "purge contextunity" in next(line for line in folder.ok("apps").out.splitlines() if "contextunity" in line)
    ran = folder.run("remove-app", "contextunity", "--yes")
    assert ran.code == 2
    assert "contextunity is no app" in ran.err
    folder.ok("plan")
    assert "contextunity" not in folder.ok("purge", "--json").json()["removed"]
    again = (folder.path / "multidb.yaml").read_text()
    one = "one: {stores: [postgres], postgres: {database: contextunity, schema: one}}"
    folder.manifest(again.replace("apps:", f"apps:\n  {one}"))
    ran = folder.ok("plan")
    assert "vacant: yes -> no" in ran.out
    assert "not by multidb" not in ran.out
    assert "purge" not in ran.out
    folder.manifest(again)
    folder.ok("purge", "contextunity", "--yes-destroy", "contextunity")
    folder.ok("apply", "--yes")
    with database(folder, "last") as last:
        names = last.execute("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1").fetchall()
    assert names == [("last",), ("postgres",)]
