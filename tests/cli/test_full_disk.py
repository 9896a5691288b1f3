"""A disk that is really full under what multidb writes down, in the middle of an exchange: the app has all of one or
all of the other, or is closed and said to be; with room again, what is named finishes it. On real servers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from multidb.backup.journal import IMPORTING, RESTORING, Journal
from multidb.state import ProjectState
from tests.support.command import Folder, project_folder
from tests.support.credentials import let_in
from tests.support.postgres_admin import as_admin
from tests.support.qdrant_project import count, put_points, qdrant_folder
from tests.support.small_disk import emptied, fill, small_disk, small_project
from tests.support.stopped import go_on, stopped_at

pytestmark = pytest.mark.server

SERVERS = "version: 1\nproject: filling\nruntime: embedded\napps: {old: {stores: [postgres, redis]}}\n"
SERVER = """\
version: 1
project: full_server
runtime: embedded
apps: {ann: {stores: [postgres]}}
backup: {to: [sets/], verify: never}
"""
APPS = "apps: {ann: {stores: [postgres, redis]}, bob: {stores: [redis]}}\nbackup: {to: [sets/], verify: never}\n"


@pytest.fixture(scope="module")
def servers() -> Iterator[Folder]:
    with project_folder("filling-", SERVERS) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


@pytest.fixture(scope="module")
def folder(servers: Folder) -> Iterator[Folder]:
    with small_project(servers, "2m", APPS) as made:
        yield made


def write(folder: Folder, app: str, what: str) -> None:
    """The app writes it everywhere, in the place of what it had."""
    variables = folder.variables(app)
    with psycopg.connect(variables["DATABASE_URL"]) as connection:
        connection.execute("DROP TABLE IF EXISTS notes")
        connection.execute("CREATE TABLE notes AS SELECT %s::text AS note", [what])
    with redis.Redis.from_url(variables["REDIS_URL"]) as client:
        client.set("note", what)


def contents(folder: Folder) -> tuple[str, str]:
    variables = folder.variables("ann")
    with (
        psycopg.connect(variables["DATABASE_URL"]) as connection,
        redis.Redis.from_url(variables["REDIS_URL"]) as client,
    ):
        ((note,),) = connection.execute("SELECT note FROM notes")
        return note, client.get("note").decode()


def said_in_one(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def set_id(folder: Folder) -> str:
    write(folder, "ann", "of the set")
    (made,) = folder.ok("backup", "ann", "--json").json()["sets"]
    return str(made["set"])


@pytest.mark.parametrize("again", [("backup", "ann"), ("restore", "SET", "--replace", "--no-safety-set")])
@pytest.mark.parametrize("exchanged", [1, 2])
def test_a_restore_that_cannot_write_down_what_it_has_exchanged(
    folder: Folder, set_id: str, exchanged: int, again: tuple[str, ...]
) -> None:
    write(folder, "ann", "later")
    step = f"multidb.backup.restoring:_Restore._note_exchanged#{exchanged}"
    process = stopped_at(folder, step, "restore", set_id, "--replace", "--no-safety-set")
    assert process is not None
    fill(folder)
    code, said = go_on(process)
    assert (code, said.count("Error:"), "Traceback" in said) == (2, 1, False), said
    assert "multidb backup ann" in said_in_one(said)
    assert not any(let_in(folder.variables("ann")))
    for looking in (("plan", "--check"), ("health", "ann")):
        done = folder.run(*looking)
        assert (done.code, "multidb backup ann" in said_in_one(done.out + done.err)) == (1, True), done
    emptied(folder)
    assert not any(let_in(folder.variables("ann")))
    folder.ok(*(word.replace("SET", set_id) for word in again))
    assert contents(folder) == ("of the set", "of the set")
    assert Journal(ProjectState(folder.path)).open(RESTORING) == {}
    folder.ok("plan", "--check")


@pytest.mark.parametrize("again", [("backup", "ann"), ("import",)])
@pytest.mark.parametrize("refused", [False, True])
def test_an_import_that_cannot_write_down_what_it_has_exchanged(
    folder: Folder, servers: Folder, monkeypatch: pytest.MonkeyPatch, refused: bool, again: tuple[str, ...]
) -> None:
    """Where the exchange was refused, what had been copied was gone, and the next run called the import finished."""
    write(folder, "ann", "later")
    write(servers, "old", "of the source")
    source = servers.variables("old")
    own, keys = urlsplit(source["DATABASE_URL"]), urlsplit(source["REDIS_URL"])
    for store, url in (("POSTGRES", own), ("REDIS", keys)):
        monkeypatch.setenv(f"MULTIDB_IMPORT_{store}_PASSWORD", url.password or "")
    places = [f"{url.scheme}://{url.username}@{url.hostname}:{url.port}{url.path}" for url in (own, keys)]
    command = ("import", "ann", "--from-postgres", places[0], "--from-redis", places[1])
    command += ("--replace", "--no-safety-set", "--yes")
    step = (
        "multidb.provisioners.postgres.backup.place_databases:replace"
        if refused
        else "multidb.backup.importing:_Import._note#4"
    )
    process = stopped_at(folder, step, *command)
    assert process is not None
    fill(folder)
    with as_admin(servers, "ann") as admin:
        if refused:
            admin.execute("CREATE SUBSCRIPTION heard CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (connect = false)")
        code, said = go_on(process)
        if refused:
            admin.execute("ALTER SUBSCRIPTION heard SET (slot_name = NONE)")
            admin.execute("DROP SUBSCRIPTION heard")
    assert (code, said.count("Error:")) == (3 if refused else 2, 1), said
    assert "multidb backup ann" in said_in_one(said)
    assert not any(let_in(folder.variables("ann")))
    assert folder.run("plan", "--check").code == 1
    emptied(folder)
    folder.ok(*(command if again == ("import",) else again))
    assert contents(folder) == ("of the source", "of the source")
    assert Journal(ProjectState(folder.path)).open(IMPORTING) == {}
    folder.ok("plan", "--check")


def test_a_servers_disk_that_is_full_says_nothing_of_a_set() -> None:
    """A set that had been verified was marked as one that cannot be restored."""
    with project_folder("full-server-", SERVER) as made, small_disk(made.path / ".multidb" / "servers" / "postgres"):
        made.ok("up")
        made.ok("apply", "--yes")
        with psycopg.connect(made.variables("ann")["DATABASE_URL"]) as ann:
            ann.execute(
                "CREATE TABLE notes AS SELECT n, md5(random()::text) || md5(n::text) AS note "
                "FROM generate_series(1, 60000) n"
            )
            ann.execute("CREATE MATERIALIZED VIEW seen AS SELECT * FROM notes")
        made.ok("backup", "ann")
        made.ok("backups", "verify", "ann")
        full = made.path / ".multidb" / "servers" / "postgres" / "full"
        for step in ("loading:load", "loading:fill"):
            for command in (("backups", "verify", "ann"), ("restore", "ann", "--replace", "--no-safety-set")):
                process = stopped_at(made, f"multidb.provisioners.postgres.backup.{step}", *command)
                assert process is not None
                room = os.statvfs(full.parent)
                full.write_bytes(b"\0" * room.f_bsize * max(room.f_bavail - 500, 0))
                code, said = go_on(process)
                full.unlink()
                assert code != 0, said
                made.ok("up")
                (kept,) = made.ok("backups", "list", "ann", "--json").json()["sets"]
                assert (kept["verified"], kept["problem"]) == (True, None), said
                with psycopg.connect(made.variables("ann")["DATABASE_URL"]) as ann:
                    assert ann.execute("SELECT count(*) FROM seen").fetchone() == (60_000,)
        made.ok("restore", "ann", "--replace", "--no-safety-set")
        made.ok("plan", "--check")


def test_a_redis_that_cannot_write_down_who_is_off_keeps_what_it_had_and_says_what_helps() -> None:
    with project_folder("full-redis-", SERVER.replace("postgres", "redis")) as made:
        servers = made.path / ".multidb" / "servers" / "redis"
        with small_disk(servers, "4m"):
            made.ok("up")
            made.ok("apply", "--yes")
            with redis.Redis.from_url(made.variables("ann")["REDIS_URL"]) as client:
                client.set("note", "of the set")
                made.ok("backup", "ann")
                client.set("note", "later")
            full = servers / "full"
            room = os.statvfs(servers)
            full.write_bytes(b"\0" * room.f_bsize * room.f_bavail)
            command = ("restore", "ann", "--replace", "--no-safety-set")
            refused = made.run(*command)
            assert (refused.code, "free space on the server's disk" in said_in_one(refused.err)) == (4, True), refused
            with redis.Redis.from_url(made.variables("ann")["REDIS_URL"]) as client:
                assert client.get("note") == b"later"
            full.unlink()
            made.ok(*command)
            with redis.Redis.from_url(made.variables("ann")["REDIS_URL"]) as client:
                assert client.get("note") == b"of the set"
            made.ok("plan", "--check")


def leave(disk: Path, left: int) -> Path:
    """No more bytes than this are left; gives the file that takes the rest."""
    full, room = disk / "full", os.statvfs(disk)
    full.write_bytes(b"\0" * max(room.f_bsize * room.f_bavail - left, 0))
    return full


def snapshots_of(folder: Folder) -> Path:
    return folder.path / ".multidb" / "servers" / "qdrant" / "snapshots"


@pytest.fixture(scope="module")
def vectors() -> Iterator[Folder]:
    """An app's set, on a Qdrant with a small disk for its snapshots. Where the disk of its
    collections is full, it may end itself: it writes into memory that is a file."""
    with qdrant_folder("full-qdrant-") as made, small_disk(snapshots_of(made)):
        made.ok("up")
        made.ok("apply", "--yes")
        put_points(made, "ann", 1, 3000)
        made.ok("backup", "ann")
        made.ok("backups", "verify", "ann")
        yield made


def test_a_qdrants_disk_that_is_full_says_nothing_of_a_set(vectors: Folder) -> None:
    """A good set was marked as one that cannot be restored: Qdrant does not say why it takes no snapshot."""
    full = leave(snapshots_of(vectors), 0)
    restore = ("restore", "ann", "--replace", "--no-safety-set")
    for command in (("backup", "ann"), ("backups", "verify", "ann"), restore):
        refused = vectors.run(*command)
        assert refused.code in (4, 6), refused
        assert "free space on the server's disk" in said_in_one(refused.out + refused.err), refused
    full.unlink()
    (kept,) = vectors.ok("backups", "list", "ann", "--json").json()["sets"]
    assert (kept["verified"], kept["problem"]) == (True, None)
    assert count(vectors, "ann") == 3000
    vectors.ok("backups", "verify", "ann")
    vectors.ok("plan", "--check")


@pytest.mark.parametrize("room", [0, 1.5])  # for no snapshot; for that of what was loaded, and not for its copy
def test_an_exchange_that_finds_no_room_on_a_qdrant_keeps_the_app_closed_and_is_finished(
    vectors: Folder, room: float
) -> None:
    """It was taken for a refusal: the app was open and called healthy, and the next backup replaced what it had
    written since."""
    (made,) = vectors.ok("backup", "ann", "--json").json()["sets"]
    size: int = made["stores"]["qdrant"]["size"]
    put_points(vectors, "ann", 10_001, 10)
    step = "multidb.provisioners.qdrant.backup.archive:QdrantArchive._take_over"
    process = stopped_at(vectors, step, "restore", "ann", "--replace", "--no-safety-set")
    assert process is not None
    full = leave(snapshots_of(vectors), int(room * size))
    code, said = go_on(process)
    full.unlink()
    assert (code, "multidb backup ann" in said_in_one(said)) == (4, True), said
    with pytest.raises(AssertionError, match="Invalid JWT"):
        count(vectors, "ann")
    assert vectors.run("health").code == 1
    vectors.ok("backup", "ann")
    assert count(vectors, "ann") == 3000
    vectors.ok("plan", "--check")


def test_a_qdrant_keeps_no_file_that_a_set_was_tried_with(vectors: Folder) -> None:
    """It keeps what it is sent, with all that is in it, and nobody saw it: also when its app was gone for good."""
    vectors.ok("backups", "verify", "ann")
    vectors.ok("restore", "ann", "--replace", "--no-safety-set")
    assert [file.name for file in snapshots_of(vectors).rglob("*") if file.is_file()] == []


def test_a_full_disk_under_local_mode_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a fault of multidb itself."""
    monkeypatch.delenv("MULTIDB_QDRANT", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    collections = "qdrant: {collections: {notes: {size: 4}}}"
    manifest = SERVER.replace("{stores: [postgres]}", f"{{stores: [qdrant], {collections}}}")
    with project_folder("full-local-", manifest) as made, small_disk(made.path / ".multidb" / "servers", "8m"):
        made.ok("up")
        made.ok("apply", "--yes")
        made.ok("backup", "ann")
        full = leave(made.path / ".multidb" / "servers", 0)
        for command in (("backups", "verify", "ann"), ("restore", "ann", "--replace", "--no-safety-set")):
            refused = made.run(*command)
            assert refused.code in (4, 6), refused
            assert "free space on the server's disk" in said_in_one(refused.out + refused.err), refused
        full.unlink()
        made.ok("restore", "ann", "--replace", "--no-safety-set")
        made.ok("backups", "verify", "ann")
        made.ok("plan", "--check")
