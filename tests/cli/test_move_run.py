"""Apps that move between a database of their own and a schema through the command line: planned, asked for, killed at
each step, gone back on, and beside what stands in the way."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from multidb.state import ProjectState
from tests.support.command import Folder, project_folder
from tests.support.stopped import kill, stopped_at

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]

MANIFEST = """\
version: 1
project: moving
runtime: embedded
apps:
  brain: {stores: [postgres], postgres: {roles: split, extensions: [ltree]}}
  commerce: {stores: [postgres], postgres: {database: unity, schema: commerce}}
backup: {to: [sets/], every: 52w, verify: never}
"""
SHARED = MANIFEST.replace("{roles: split,", "{database: unity, schema: mind, roles: split,")

STEPS = (
    "multidb.moving:removal.suspend",
    "multidb.moving:cloning.carry",
    "multidb.backup.cloning:restore",
    "multidb.provisioners.postgres.backup.conversions:bring_extensions",
    "multidb.backup.places:compare",
    "multidb.backup.restoring:_Restore._exchange",
    "multidb.provisioners.postgres.backup.conversions:_become",
    "multidb.provisioners.postgres.backup.databases:Databases.{exchange}",
    "multidb.moving:_leave",
    "multidb.cli.move:moving.finish",
    "multidb.cli.move:write_env_files",
)
"""In the order in which a move comes to them; `exchange` is what comes before the new place takes its name."""
USUAL = ("multidb.backup.restoring:_Restore._exchange", "multidb.moving:_leave")
"""Those that are tried in every run; the others are rare."""
OPEN = STEPS[-2:]
"""At which the logins are on."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("moving-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        with entered(made, "brain", "BRAIN_DB_MIGRATE_URL") as brain:
            brain.execute("CREATE TABLE notes (id serial PRIMARY KEY, path ltree)")
            brain.execute("INSERT INTO notes (path) SELECT text2ltree('a.' || n) FROM generate_series(1, 3000) n")
            brain.execute("CREATE FUNCTION named() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM public.notes'")
        with entered(made, "commerce") as commerce:
            commerce.execute("CREATE TABLE orders AS SELECT generate_series(1, 7) AS id")
        yield made


def entered(folder: Folder, app: str, variable: str = "DATABASE_URL") -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(folder.variables(app)[variable], autocommit=True)


def counted(folder: Folder) -> tuple[object, ...]:
    """The rows that both apps see, and the schemas in which the first looks names up."""
    with entered(folder, "brain") as brain, entered(folder, "commerce") as commerce:
        (notes,) = brain.execute("SELECT count(*) FROM notes WHERE path ~ 'a.*'").fetchone() or ()
        (orders,) = commerce.execute("SELECT count(*) FROM orders").fetchone() or ()
        (path,) = brain.execute("SELECT current_schemas(false)").fetchone() or ()
        return notes, orders, path


def on_server(folder: Folder) -> set[str]:
    """Every database, role and schema of what apps share that is there for a while only, or is brain's."""
    query = (
        "SELECT datname FROM pg_database WHERE datname ~ '__|^brain' UNION ALL SELECT rolname FROM pg_roles "
        "WHERE rolname ~ '__' UNION ALL SELECT nspname FROM pg_namespace WHERE nspname ~ '__|mind'"
    )
    with entered(folder, "commerce") as commerce:
        return {str(name) for (name,) in commerce.execute(query)}


def let_in(address: str) -> bool:
    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return False
    return True


def test_it_is_planned_and_an_apply_leaves_it_to_its_own_command(folder: Folder) -> None:
    folder.manifest(SHARED)
    planned = folder.ok("plan", "--json").json()
    (move,) = planned["moves"]
    assert (move["app"], move["from"], move["to"]) == ("brain", "database brain", "schema mind of unity")
    assert (move["obstacles"], move["mentions"]) == ([], ["function public.named()"])
    assert move["size"] > 1_000_000
    assert planned["changes"] == []
    assert folder.run("plan", "--check").code == 1
    text = folder.ok("plan").out
    assert "> brain: moves from database brain (" in text
    assert "to schema mind of unity: multidb move brain" in text
    assert "Plan: 1 to move, each by its own command." in text
    assert "moves from database brain" in folder.ok("plan", "--format", "markdown").out
    applied = folder.run("apply", "--yes")
    assert (applied.code, "multidb move brain" in applied.err) == (3, True)
    for arguments, words in (
        ([], "function public.named()"),
        (["--accept"], "needs the name brain as an answer"),
        (["--accept", "--yes-destroy", "mind"], "'mind' is not brain"),
    ):
        refused = folder.run("move", "brain", *arguments)
        assert (refused.code, words in refused.err) == (3, True), refused.err
    assert folder.run("move", "nobody").code == 2
    assert folder.run("move", "brain", "--abort").code == 2
    folder.manifest(MANIFEST)
    assert "is where the manifest has it" in folder.ok("move", "brain").out
    folder.ok("plan", "--check")


def test_killed_at_each_step_it_goes_on_there_and_back(folder: Folder, request: pytest.FixtureRequest) -> None:
    before, address = counted(folder), folder.variables("brain")["DATABASE_URL"]
    password = folder.variables("brain")["POSTGRES_PASSWORD"]
    steps = STEPS if request.config.getoption("--all") else USUAL
    for manifest, begun, path, left, exchange in (
        (SHARED, ["--yes-destroy", "brain", "--accept"], ["mind", "extensions"], {"mind"}, "end_sessions_of"),
        (MANIFEST, ["--yes-destroy", "brain", "--no-backup"], ["public"], {"brain"}, "end_sessions"),
    ):
        folder.manifest(manifest)
        for step in steps:
            process = stopped_at(folder, step.format(exchange=exchange), "move", "brain", *begun)
            assert process is not None, f"it never came to {step}"
            try:
                if step == steps[0]:
                    second = folder.run("move", "brain", *begun)
                    assert (second.code, "multidb move" in second.err) == (3, True), "two at once"
                folder.ok("apply", "--yes")
                assert let_in(address) == (step in OPEN and manifest == MANIFEST), f"{step}: it is open"
            finally:
                kill(process)
        folder.ok("move", "brain", "--json")
        assert counted(folder) == (*before[:2], path)
        assert on_server(folder) == left
        folder.ok("plan", "--check")
        folder.ok("health")
        assert folder.variables("brain")["POSTGRES_PASSWORD"] == password
        assert (
            f"POSTGRES_DB={'unity' if left == {'mind'} else 'brain'}" in (folder.path / "apps/brain/.env").read_text()
        )
    audited = folder.ok("audit", "--json").json()
    assert (audited["breaches"], audited["holes"]) == ([], [])


def test_back_before_all_is_there_and_other_commands_wait(folder: Folder) -> None:
    before, env = counted(folder), folder.variables("brain")
    folder.manifest(SHARED)
    process = stopped_at(
        folder, "multidb.backup.restoring:_Restore._exchange", "move", "brain", "--yes-destroy", "brain", "--accept"
    )
    assert process is not None
    kill(process)
    for command in (
        ["remove-app", "brain", "--yes"],
        ["rename-app", "brain", "mind2", "--yes-destroy", "brain"],
        ["restore", "brain", "--replace"],
        ["backup", "brain"],
        ["rotate", "brain"],
    ):
        refused = folder.run(*command)
        said = refused.err + refused.out
        assert (refused.code != 0, "multidb move brain --abort" in said) == (True, True), (command, said)
    told = folder.run("health", "brain")
    assert (told.code, "multidb move brain" in told.out) == (1, True)
    folder.manifest(MANIFEST)
    refused = folder.run("move", "brain")
    assert (refused.code, "another place than the one that it is on its way to" in refused.err) == (3, True)
    process = stopped_at(folder, "multidb.moving:finish", "move", "brain", "--abort")
    assert process is not None
    kill(process)
    assert folder.run("move", "brain").code == 3
    folder.ok("move", "brain", "--abort")
    assert counted(folder) == before
    assert folder.variables("brain") == env
    assert on_server(folder) == {"brain"}
    folder.ok("plan", "--check")


@pytest.mark.parametrize("begun", [SHARED, pytest.param(MANIFEST, marks=pytest.mark.rare)])
def test_an_old_copy_of_the_state_does_not_drop_what_has_moved(folder: Folder, begun: str) -> None:
    command = ("move", "brain", "--no-backup", "--yes-destroy", "brain", "--accept")
    elsewhere = MANIFEST if begun == SHARED else SHARED
    if begun == MANIFEST:
        folder.manifest(SHARED)
        folder.ok(*command)
    before, state = counted(folder)[:2], folder.path / ".multidb" / "state.json"
    folder.manifest(begun)
    process = stopped_at(folder, "multidb.moving:cloning.carry", *command)
    assert process is not None
    kill(process)
    old = state.read_text()
    folder.ok("move", "brain")
    state.write_text(old)
    refused = folder.run("move", "brain", "--abort")
    assert (refused.code, "what it has is at the new one" in refused.err) == (3, True), refused.err
    folder.ok("move", "brain")
    assert (counted(folder)[:2], ProjectState(folder.path).read("moves")) == (before, {})
    folder.ok("plan", "--check")
    if elsewhere == MANIFEST:
        folder.manifest(MANIFEST)
        folder.ok(*command)


def test_a_restore_that_was_killed_is_finished_where_it_was_begun(folder: Folder) -> None:
    """Once the app is on its way elsewhere, nobody would look for it there."""
    before = counted(folder)
    (made,) = folder.ok("backup", "brain", "--json").json()["sets"]
    with entered(folder, "brain") as brain:
        brain.execute("DELETE FROM notes")
    step = "multidb.backup.restoring:_Restore._exchange"
    process = stopped_at(folder, step, "restore", made["set"], "--replace", "--no-safety-set")
    assert process is not None
    kill(process)
    folder.manifest(SHARED)
    (folder.path / "sets").rename(folder.path / "away")
    command = ("move", "brain", "--no-backup", "--yes-destroy", "brain", "--accept")
    refused = folder.run(*command)
    assert (refused.code, "a restore of it was interrupted" in refused.err) == (3, True), refused.err
    assert ProjectState(folder.path).read("moves") == {}
    (folder.path / "away").rename(folder.path / "sets")
    folder.ok(*command)
    assert counted(folder) == (*before[:2], ["mind", "extensions"])
    folder.manifest(MANIFEST)
    folder.ok("move", "brain", "--no-backup", "--yes-destroy", "brain")
    assert (counted(folder), on_server(folder)) == (before, {"brain"})


def test_a_set_of_the_old_place_comes_back_and_single_tables_of_it_do_not(folder: Folder) -> None:
    with entered(folder, "brain", "BRAIN_DB_MIGRATE_URL") as brain:
        brain.execute("DROP FUNCTION named()")
    (made,) = folder.ok("backup", "brain", "--json").json()["sets"]
    folder.manifest(SHARED)
    folder.ok("move", "brain", "--yes-destroy", "brain", "--no-backup")
    with entered(folder, "brain") as brain:
        brain.execute("DELETE FROM notes")
    refused = folder.run("restore", made["set"], "--table", "notes", "--replace")
    assert (refused.code != 0, "has no table notes" in refused.err) == (True, True), refused.err
    folder.ok("restore", made["set"], "--replace", "--no-safety-set")
    assert counted(folder) == (3000, 7, ["mind", "extensions"])
    folder.ok("backups", "verify", made["set"])
    folder.ok("plan", "--check")
    folder.ok("backup", "brain")
