"""An import that follows its source while that is written, until it is cut over. On real servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from multidb.backup.followed_places import FollowingPhase
from multidb.backup.journal import Journal
from multidb.errors import UsageError
from multidb.runtime.hosted import admin_ref
from multidb.state import ProjectState
from tests.support.command import Folder, Ran
from tests.support.importing import MANIFEST, PASSWORD, databases, emptied, importing_project, there
from tests.support.postgres_servers import Cluster, cluster
from tests.support.stopped import kill, stopped_at

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]

OWNER = "old_owner"
VARIABLE = "MULTIDB_IMPORT_POSTGRES_PASSWORD"
THEIRS = (
    "CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)",
    "INSERT INTO orders (note) SELECT 'order ' || n FROM generate_series(1, 3000) n",
    "CREATE TABLE logged (id int PRIMARY KEY)",
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
    "$$BEGIN INSERT INTO logged VALUES (NEW.id); RETURN NEW; END$$",
    "CREATE TRIGGER noted AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION note()",
    "CREATE MATERIALIZED VIEW total AS SELECT count(*) FROM orders",
    "CREATE FUNCTION counted() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count FROM public.total); END'",
    "CREATE MATERIALIZED VIEW again AS SELECT counted()",  # made before the other one by a load, and filled from it
    # as the server's time zone there tells days
    "CREATE TABLE visits (id int PRIMARY KEY, at timestamptz, day date, CHECK (at::date = day))",
    "INSERT INTO visits VALUES (1, '2024-01-01 00:30+09', '2024-01-01')",
    "CREATE MATERIALIZED VIEW days AS SELECT at::date AS day FROM visits",
)


@pytest.fixture(scope="module")
def source() -> Iterator[Cluster]:
    with cluster(18, wal_level="logical", TimeZone="Asia/Tokyo") as served:
        served.sql(f"CREATE ROLE {OWNER} LOGIN REPLICATION PASSWORD '{PASSWORD}'")
        yield served


@pytest.fixture
def old(source: Cluster) -> Iterator[str]:
    source.sql(f"CREATE DATABASE old OWNER {OWNER}")
    source.sql(f"GRANT ALL ON SCHEMA public TO {OWNER}", f"SET ROLE {OWNER}", *THEIRS, database="old")
    yield f"postgresql://{OWNER}@127.0.0.1:{source.port}/old"
    for (name,) in source.sql("SELECT slot_name FROM pg_replication_slots WHERE NOT active"):
        source.sql(f"SELECT pg_drop_replication_slot('{name}')")
    source.sql("DROP DATABASE old WITH (FORCE)")


@pytest.fixture(scope="module")
def served() -> Iterator[Folder]:
    with importing_project() as made:
        yield made


@pytest.fixture
def folder(served: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv(VARIABLE, PASSWORD)
    return emptied(served)


def run(folder: Folder, *arguments: str) -> Ran:
    done = folder.run("import", "shop", *arguments, env={VARIABLE: PASSWORD})
    assert PASSWORD not in done.out + done.err
    return done


def left_at(source: Cluster) -> list[tuple[str, ...]]:
    """What an import has made at the source and in its settings."""
    rows = source.sql("SELECT slot_name::text FROM pg_replication_slots")
    rows += source.sql("SELECT pubname::text FROM pg_publication", database="old")
    return rows + source.sql("SELECT setconfig::text FROM pg_db_role_setting")


@contextmanager
def writing(source: Cluster) -> Iterator[list[int]]:
    """Somebody who writes at the source all the time, as long as that is possible; the ids that were committed."""
    ids: list[int] = []
    over = threading.Event()

    def work() -> None:
        address = f"host=127.0.0.1 port={source.port} dbname=old user={OWNER} password={PASSWORD}"
        while not over.is_set():
            try:
                with psycopg.connect(address, autocommit=True) as connection:
                    while not over.is_set():
                        row = connection.execute("INSERT INTO orders (note) VALUES ('live') RETURNING id").fetchone()
                        assert row is not None
                        ids.append(row[0])
                        if len(ids) % 7 == 0:
                            connection.execute("DELETE FROM logged WHERE id = %s", [ids[-1] - 3])
                        time.sleep(0.002)
            except psycopg.Error:
                time.sleep(0.02)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield ids
    finally:
        over.set()
        thread.join(20)


def test_it_follows_a_source_that_is_written_and_takes_its_place(folder: Folder, old: str, source: Cluster) -> None:
    with writing(source) as ids:
        begun = run(folder, "--from-postgres", old, "--live", "--yes")
        assert begun.code == 0, begun.out + begun.err
        assert there(folder) == []
        for command in (
            ("import", "shop", "--from-postgres", old, "--yes"),
            ("remove-app", "shop", "--no-backup", "--yes"),
        ):
            refused = folder.run(*command, env={VARIABLE: PASSWORD})
            assert (refused.code, "--cutover" in refused.err) == (3, True), command
        forgotten = folder.run("import", "shop", "--live", env={VARIABLE: ""})
        assert (forgotten.code, VARIABLE in forgotten.err) == (4, True), forgotten.err
        assert "--from-" not in forgotten.err, "the way on can be gone: where the source is is known"
        folder.ok("backup", "shop")
        folder.ok("backups", "verify", "shop")
        seen = len(ids)
        said = run(folder, "--live", "--json")
        assert said.code == 0, said.err
        (lag,) = said.json()["data"]["following"]
        assert (lag["store"], lag["problem"]) == ("postgres", None)
        done = run(folder, "--cutover", "--yes", "--json")
        assert done.code == 0, done.out + done.err
        assert len(ids) > seen
    data = done.json()["data"]
    assert (data["imported"], data["left"]) == (True, [])
    print(f"downtime {data['downtime']} s, {len(ids)} rows written meanwhile")
    with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as connection:
        rows = {number for (number,) in connection.execute("SELECT id FROM orders WHERE note = 'live'")}
        assert rows == set(ids), "what was committed at the source is here, and nothing else"
        assert connection.execute("SELECT * FROM total").fetchone() == (3000 + len(ids),)
        assert connection.execute("SELECT * FROM again").fetchone() == (3000 + len(ids),)
        assert connection.execute("SELECT day::text FROM days").fetchone() == ("2024-01-01",)
        (new,) = connection.execute("INSERT INTO orders (note) VALUES ('here') RETURNING id").fetchone() or (0,)
        assert new > max(ids)
    assert left_at(source) == [("{default_transaction_read_only=on}",)]
    assert not [name for name in databases(folder) if "__" in name or "multidb_shop" in name]
    folder.ok("plan", "--check")
    audited = folder.ok("audit", "--json").json()
    assert (audited["breaches"], audited["holes"]) == ([], [])
    assert ProjectState(folder.path).read("backup-work").get("following", {}) == {}


CLIMB = (
    """CREATE FUNCTION climb(int) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
      BEGIN EXECUTE 'ALTER ROLE shop_user SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
      BEGIN EXECUTE 'RESET ROLE'; EXECUTE 'ALTER ROLE shop_user SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
      RETURN true;
    END $$""",
    "ALTER TABLE orders ADD COLUMN climbed int DEFAULT 1 CHECK (climb(climbed))",
)


def test_what_a_source_has_made_climbs_nowhere_when_changes_are_written(
    folder: Folder, old: str, source: Cluster
) -> None:
    source.sql(f"SET ROLE {OWNER}", *CLIMB, database="old")
    assert run(folder, "--from-postgres", old, "--live", "--yes").code == 0
    source.sql(f"SET ROLE {OWNER}", "INSERT INTO orders (note) VALUES ('called')", database="old")
    done = run(folder, "--cutover", "--yes")
    assert done.code == 0, done.out + done.err
    address = folder.variables("shop")["DATABASE_URL"]
    superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = 'shop_user'"
    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT count(*) FROM orders WHERE note = 'called'").fetchone() == (1,)
        assert connection.execute(superuser).fetchone() == (False,)
    admin = ProjectState(folder.path).secrets.get(admin_ref("postgres", "postgres"))
    assert admin is not None
    place = urlsplit(address)
    with psycopg.connect(
        host=place.hostname, port=place.port, user="postgres", password=admin.reveal(), dbname="shop", autocommit=True
    ) as connection:  # the positive control: called by who may, it climbs
        connection.execute("SELECT public.climb(1)")
        assert connection.execute(superuser).fetchone() == (True,)
        connection.execute("ALTER ROLE shop_user NOSUPERUSER")


def test_given_up_nothing_is_left_and_the_source_is_written_again(folder: Folder, old: str, source: Cluster) -> None:
    begun = run(folder, "--from-postgres", old, "--live", "--yes")
    assert begun.code == 0, begun.err
    assert len(left_at(source)) == 2
    process = stopped_at(
        folder, "multidb.provisioners.postgres.backup.following:drain", "import", "shop", "--cutover", "--yes"
    )
    assert process is not None
    kill(process)
    done = run(folder, "--abort")
    assert done.code == 0, done.err
    assert left_at(source) == []
    assert there(folder) == []
    assert not [name for name in databases(folder) if "__" in name]
    source.sql("INSERT INTO orders (note) VALUES ('again')", database="old")
    assert run(folder, "--abort").code == 2
    assert run(folder, "--live").code == 2


@pytest.mark.rare
def test_servers_that_start_anew_meanwhile_cost_nothing(folder: Folder, old: str, source: Cluster) -> None:
    assert run(folder, "--from-postgres", old, "--live", "--yes").code == 0
    source.sql("INSERT INTO orders (note) VALUES ('before')", database="old")
    source.crash()
    source.start()
    folder.ok("restart", "postgres")
    source.sql("INSERT INTO orders (note) VALUES ('after')", database="old")
    done = run(folder, "--cutover", "--yes")
    assert done.code == 0, done.out + done.err
    with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (3002,)
    assert left_at(source) == [("{default_transaction_read_only=on}",)]


@pytest.mark.rare
def test_given_up_while_the_source_is_gone_it_says_what_is_left_there(
    folder: Folder, old: str, source: Cluster
) -> None:
    assert run(folder, "--from-postgres", old, "--live", "--yes").code == 0
    ((slot,), _) = left_at(source)
    source.crash()
    try:
        said = run(folder, "--live")
        assert (said.code, "start it where it runs" in said.err) == (4, True), said.err
        cut = run(folder, "--cutover", "--yes")
        assert cut.code == 4, cut.err
        done = run(folder, "--abort")
        assert (done.code, slot in done.err) == (1, True), done.err
    finally:
        source.start()
    assert not [name for name in databases(folder) if "__" in name]
    assert there(folder) == []
    assert run(folder, "--live").code == 2
    source.sql(f"SELECT pg_drop_replication_slot('{slot}')", database="old")


def test_a_table_that_is_made_anew_at_the_source_is_no_reason_to_lose_it(
    folder: Folder, old: str, source: Cluster
) -> None:
    assert run(folder, "--from-postgres", old, "--live", "--yes").code == 0
    source.sql(f"SET ROLE {OWNER}", "CREATE TABLE later (id int PRIMARY KEY)", database="old")
    done = run(folder, "--cutover", "--yes")
    assert (done.code, "table public.later" in done.err) == (3, True), done.err
    assert left_at(source)[2:] == [], "and it may be written again"
    source.sql("INSERT INTO later VALUES (1)", database="old")
    assert there(folder) == []
    assert run(folder, "--abort").code == 0
    assert left_at(source) == []


def test_what_no_change_could_be_told_of_is_named_before_a_source_is_touched(
    folder: Folder, old: str, source: Cluster
) -> None:
    source.sql(
        f"SET ROLE {OWNER}",
        "CREATE TABLE late_key (id int PRIMARY KEY DEFERRABLE)",
        "CREATE TYPE spot AS (at point)",
        "CREATE DOMAIN spots AS spot[]",
        "CREATE TABLE of_spots (where_ spots)",
        "ALTER TABLE of_spots REPLICA IDENTITY FULL",
        "CREATE TABLE of_texts (a text, b varchar, c char(3), d name, e int[], f int4range, g regclass, h jsonb)",
        "ALTER TABLE of_texts REPLICA IDENTITY FULL",
        "CREATE TABLE made (a int, b int GENERATED ALWAYS AS (a) STORED)",
        "ALTER TABLE made REPLICA IDENTITY FULL",
        "CREATE TABLE made_key (a int, b int GENERATED ALWAYS AS (a) STORED PRIMARY KEY)",
        "CREATE TYPE mood AS ENUM ('sad')",
        "CREATE TABLE moods (mood mood PRIMARY KEY) PARTITION BY HASH (mood)",
        "CREATE TABLE of_mood PARTITION OF moods FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        database="old",
    )
    refused = run(folder, "--from-postgres", old, "--live", "--yes")
    assert refused.code == 3, refused.out + refused.err
    said = refused.err
    assert "followed: public.late_key have no key that is checked at once" in said
    assert "; public.made, public.of_spots have no key, and columns by which no row is known (json" in said
    assert "; public.made_key have a key with a generated column" in said
    assert "; public.of_mood are parted by the hash of an enum" in said
    assert left_at(source) == []


def test_a_table_that_is_made_meanwhile_is_written_there_also_where_a_superuser_follows(
    folder: Folder, old: str, source: Cluster
) -> None:
    source.sql(f"ALTER ROLE {OWNER} SUPERUSER")
    try:
        assert run(folder, "--from-postgres", old, "--live", "--yes").code == 0
        texts = ("CREATE TABLE keyless AS SELECT 1 AS a", "UPDATE keyless SET a = 2", "DELETE FROM keyless")
        source.sql(f"SET ROLE {OWNER}", *texts, "DROP TABLE keyless", database="old")
        source.sql("INSERT INTO orders (note) VALUES ('after')", database="old")
        done = run(folder, "--cutover", "--yes")
        assert done.code == 0, done.err
    finally:
        source.sql(f"ALTER ROLE {OWNER} NOSUPERUSER")


def test_a_source_that_cut_it_off_once_is_followed_again(folder: Folder, old: str, source: Cluster) -> None:
    assert run(folder, "--from-postgres", old, "--live", "--yes").code == 0
    source.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
    source.sql("INSERT INTO orders (note) VALUES ('after')", database="old")
    done = run(folder, "--cutover", "--yes")
    assert done.code == 0, done.out + done.err
    with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (3001,)


def test_what_would_take_the_place_away_is_refused_before_its_logins_are_off(folder: Folder, old: str) -> None:
    assert run(folder, "--from-postgres", old, "--live", "--yes").code == 0
    elsewhere = MANIFEST.replace("shop: {stores: [postgres]}", "shop: {stores: [postgres], postgres: {schema: shop}}")
    elsewhere = elsewhere.replace("{schema: shop}", "{database: unity, schema: shop}")
    cloned = MANIFEST.replace("shop: {stores", "shop: {labels: {clone_of: other}, stores")
    for manifest, command in (
        (MANIFEST, ("rename-app", "shop", "store", "--no-backup", "--yes-destroy", "shop")),
        (elsewhere, ("move", "shop", "--no-backup", "--yes-destroy", "shop")),
        (cloned, ("clone", "other", "shop", "--replace")),
    ):
        folder.manifest(manifest)
        refused = folder.run(*command)
        assert (refused.code, "multidb import shop --cutover" in refused.err) == (3, True), refused.err
        folder.manifest(MANIFEST)
        folder.ok("plan", "--check")
        assert there(folder) == []
        assert [ProjectState(folder.path).read(section) for section in ("renames", "moves", "closed")] == [{}, {}, {}]
    assert run(folder, "--abort").code == 0


STEPS = (
    "multidb.provisioners.postgres.backup.restore:restore",
    "multidb.provisioners.postgres.provision.admin_inside:AdminInside.subscribe",
    "multidb.provisioners.postgres.backup.followed:FollowedPostgres.stop_writing",
    "multidb.provisioners.postgres.backup.following:drain",
    "multidb.backup.cut_over:differences",
    "multidb.provisioners.postgres.backup.place_databases:_exchange",
    "multidb.backup.cut_over:taken_away",
)


@pytest.mark.rare
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_it_goes_on_or_is_given_up(folder: Folder, old: str, source: Cluster, step: str) -> None:
    live = ("import", "shop", "--from-postgres", old, "--live", "--yes")
    if step in STEPS[:2]:
        process = stopped_at(folder, step, *live)
        assert process is not None
        kill(process)
        refused = run(folder, "--live")
        assert (refused.code, "--abort" in refused.err) == (3, True)
        backup = folder.run("backup", "other")
        assert (backup.code, "import shop --abort" in backup.err) == (0, True)
        assert run(folder, "--abort").code == 0
        assert left_at(source) == []
        assert not [name for name in databases(folder) if "__" in name]
    assert run(folder, *live[2:]).code == 0
    if step in STEPS[2:]:
        process = stopped_at(folder, step, "import", "shop", "--cutover", "--yes")
        assert process is not None
        kill(process)
    done = run(folder, "--cutover", "--yes")
    assert done.code == 0, done.out + done.err
    assert there(folder) == ["public.logged", "public.orders", "public.visits"]
    assert left_at(source) == [("{default_transaction_read_only=on}",)]
    assert not [name for name in databases(folder) if "__" in name]


def test_a_source_that_is_gone_when_places_were_being_exchanged_keeps_nobody_from_ending_it(
    folder: Folder, old: str, source: Cluster
) -> None:
    assert run(folder, "--from-postgres", old, "--live", "--yes").code == 0
    ((slot,), _) = left_at(source)
    exchange = "multidb.provisioners.postgres.backup.place_databases:_exchange"
    process = stopped_at(folder, exchange, "import", "shop", "--cutover", "--yes")
    assert process is not None
    kill(process)
    source.crash()
    try:
        refused = run(folder, "--cutover", "--yes")
        assert (refused.code, "--cutover --accept-differences" in refused.err) == (4, True), refused.err
        assert run(folder, "--abort").code == 3
        done = run(folder, "--cutover", "--yes", "--accept-differences", "--json")
        assert done.code == 1, done.out + done.err
        assert slot in "".join(done.json()["data"]["left"])
    finally:
        source.start()
    assert there(folder) == ["public.logged", "public.orders", "public.visits"]
    folder.ok("plan", "--check")
    source.sql(f"SELECT pg_drop_replication_slot('{slot}')", database="old")


@pytest.mark.parametrize("entry", ["", pytest.param("  shop: {stores: [redis]}\n", marks=pytest.mark.rare)])
def test_it_is_given_up_also_where_the_manifest_has_no_such_place_any_more(
    folder: Folder, old: str, source: Cluster, entry: str
) -> None:
    begun = run(folder, "--from-postgres", old, "--live", "--yes")
    assert begun.code == 0, begun.out + begun.err
    folder.manifest(MANIFEST.replace("  shop: {stores: [postgres]}\n", entry))
    refused = folder.run("purge", "shop", "--yes-destroy", "shop")
    assert (refused.code != 0, left_at(source) != []) == (True, True)
    assert entry or "multidb import shop --abort" in refused.err
    assert run(folder, "--cutover", "--yes").code == 2
    given_up = run(folder, "--abort")
    assert given_up.code == 0, given_up.err
    assert left_at(source) == []
    assert not [name for name in databases(folder) if "__" in name]
    folder.manifest(MANIFEST)
    folder.ok("plan", "--check")


def _cannot_note(phase: str) -> None:
    """In the process of a command: a disk that is full when it comes so far."""
    begin = Journal.begin

    def full(journal: Journal, kind: str, app: str, note: Mapping[str, Any]) -> None:
        if note.get("phase") == phase:
            raise UsageError("cannot be written: No space left on device", where="state.json", hint="free space")
        begin(journal, kind, app, note)

    Journal.begin = full  # type: ignore[method-assign]


def test_a_disk_that_is_full_leaves_nothing_at_the_source_and_lets_it_be_written(
    folder: Folder, source: Cluster, old: str
) -> None:
    env = {VARIABLE: PASSWORD}
    live = ("import", "shop", "--from-postgres", old, "--live", "--yes")
    full = folder.run(*live, env=env, before=partial(_cannot_note, FollowingPhase.FOLLOWING))
    assert (full.code, left_at(source)) == (2, []), full.err
    folder.ok(*live, env=env)
    cutover = ("import", "shop", "--cutover", "--yes")
    full = folder.run(*cutover, env=env, before=partial(_cannot_note, FollowingPhase.EXCHANGING))
    assert full.code == 2, full.err
    with psycopg.connect(old, password=PASSWORD) as session:
        session.execute("INSERT INTO orders (note) VALUES ('since')")
    folder.ok(*cutover, env=env)
    with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as session:
        assert session.execute("SELECT count(*) FROM orders WHERE note = 'since'").fetchone() == (1,)
