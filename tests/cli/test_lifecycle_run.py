"""An app's life on real Postgres and Valkey through the command line, with several commands at it."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
import redis

from multidb.runtime.hosted import admin_ref
from multidb.state import ProjectState
from multidb.tombstone import tombstones
from tests.support.command import Folder, project_folder

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: lives
runtime: embedded
backup: {to: [sets/]}
apps:
  ann: {stores: [postgres, redis]} # goes
  bob: {stores: [postgres, redis]}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("lives-", MANIFEST) as found:
        found.ok("up")
        yield found


@pytest.fixture
def applied(folder: Folder) -> Folder:
    for app in tombstones(ProjectState(folder.path)):
        folder.ok("purge", app, "--yes-destroy", app)
    folder.manifest(MANIFEST)
    folder.ok("apply", "--yes")
    with psycopg.connect(folder.variables("ann")["DATABASE_URL"]) as connection:
        connection.execute("DROP TABLE IF EXISTS notes")
        connection.execute("CREATE TABLE notes AS SELECT 'kept' AS text")
    return folder


def names_on_the_server(folder: Folder, app: str) -> list[str]:
    """The databases and roles that bear the app's name."""
    with psycopg.connect(folder.variables("bob")["DATABASE_URL"]) as connection:
        query = "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles"
        return [name for (name,) in connection.execute(query) if name == app or name.startswith(f"{app}_")]


def let_in(env: dict[str, str]) -> bool:
    try:
        psycopg.connect(env["DATABASE_URL"]).close()
    except psycopg.OperationalError:
        return False
    return True


COMMANDS: dict[str, Sequence[str]] = {
    "remove-app": ("ann", "--no-backup", "--yes"),
    "undo-remove": ("ann",),
    "purge": ("ann", "--yes-destroy", "ann"),
    "restore": ("ann", "--replace"),
    "clone": ("bob", "ann", "--replace"),
}


def test_commands_that_make_or_end_one_app_exclude_each_other(applied: Folder) -> None:
    applied.ok("backup", "ann")
    state = ProjectState(applied.path)
    applied.manifest(MANIFEST.replace("ann: {", "ann: {labels: {clone_of: bob}, "))
    for command, arguments in COMMANDS.items():
        if command == "undo-remove":
            applied.ok("remove-app", "ann", "--no-backup", "--yes")
        with state.lock_apps(["ann"], "multidb, the other"):
            refused = applied.run(command, *arguments)
            assert (refused.code, "multidb, the other" in refused.err) == (3, True), command
            if command == "purge":
                applied.ok("backup", "bob")  # what is at work with one app keeps no other's waiting
                break
    assert {"ann", "ann_user"} <= set(names_on_the_server(applied, "ann"))


def test_of_an_undo_and_a_purge_at_once_one_wins_and_nothing_is_half(applied: Folder) -> None:
    env = applied.variables("ann")
    seed = int(os.environ.get("MULTIDB_TEST_SEED", str(random.randrange(10**6))))
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(3):
        applied.ok("remove-app", "ann", "--no-backup", "--yes")
        first, second = dice.sample(["undo-remove", "purge"], 2)
        one = applied.begin(first, *COMMANDS[first])
        time.sleep(dice.uniform(0, 0.4))
        other = applied.begin(second, *COMMANDS[second])
        said = {first: one.communicate(timeout=120), second: other.communicate(timeout=120)}
        codes = {first: one.returncode, second: other.returncode}
        assert sorted(code == 0 for code in codes.values()) == [False, True], said
        assert tombstones(ProjectState(applied.path)) == {}, said
        if codes["undo-remove"] == 0:
            with psycopg.connect(env["DATABASE_URL"]) as connection:
                assert connection.execute("SELECT text FROM notes").fetchone() == ("kept",)
            applied.ok("plan", "--check")
            continue
        assert names_on_the_server(applied, "ann") == []
        assert "ann" not in (applied.path / "multidb.yaml").read_text()
        return


def test_an_undo_that_was_interrupted_ends_with_a_removal(applied: Folder) -> None:
    env = applied.variables("ann")
    applied.ok("remove-app", "ann", "--no-backup", "--yes")
    undo = applied.begin("undo-remove", "ann")
    while "ann:" not in (applied.path / "multidb.yaml").read_text():
        assert undo.poll() is None
        time.sleep(0.005)
    undo.kill()
    undo.communicate()
    applied.ok("remove-app", "ann", "--no-backup", "--yes")
    assert not let_in(env)
    assert "ann:" not in (applied.path / "multidb.yaml").read_text()
    applied.ok("undo-remove", "ann")
    assert let_in(env)
    assert (applied.path / "multidb.yaml").read_text() == MANIFEST


def test_an_old_manifest_with_a_removed_app_blocks_nobody(applied: Folder) -> None:
    env = applied.variables("ann")
    applied.ok("remove-app", "ann", "--no-backup", "--yes")
    applied.manifest(MANIFEST.replace("ann: {stores", "ann: {labels: {tier: old}, stores"))
    for command in (["validate"], ["apply", "--yes"], ["env", "bob"], ["backup"], ["health", "bob"], ["audit"]):
        applied.ok(*command)
    assert not let_in(env), "apply makes nothing of it"
    checked = applied.run("plan", "--check")
    assert (checked.code, "multidb.yaml:6:3" in checked.out, "multidb undo-remove ann" in checked.out) == (
        1,
        True,
        True,
    )
    for command in (["env", "ann"], ["add-app", "ann"], ["apply", "--app", "ann", "--yes"]):
        told = applied.run(*command)
        assert (told.code, "was removed on" in told.err, "multidb purge ann" in told.err) == (2, True, True)
    applied.ok("undo-remove", "ann")
    assert let_in(env)
    assert "tier: old" in (applied.path / "multidb.yaml").read_text()
    applied.ok("remove-app", "ann", "--no-backup", "--yes")
    applied.manifest(MANIFEST)
    applied.ok("purge", "ann", "--yes-destroy", "ann")
    assert "ann" not in (applied.path / "multidb.yaml").read_text()
    assert names_on_the_server(applied, "ann") == []
    applied.ok("plan", "--check")


def test_an_app_whose_entry_was_deleted_by_hand_is_seen_and_can_be_ended(applied: Folder) -> None:
    env = applied.variables("ann")
    without = MANIFEST.replace("  ann: {stores: [postgres, redis]} # goes\n", "")
    applied.manifest(without)
    checked = applied.run("plan", "--check", "--json")
    (warning,) = checked.json()["warnings"]
    assert (checked.code, warning["subject"], "role ann_" in warning["message"]) == (1, "app ann", True)
    assert ("multidb remove-app ann" in warning["hint"], "multidb purge ann" in warning["hint"]) == (True, True)
    applied.ok("apply", "--yes")
    assert let_in(env), "apply leaves it as it is"
    assert applied.run("remove-app", "nobody", "--yes").code == 2
    assert applied.run("purge", "bob", "--yes-destroy", "bob").code == 3, "an app in use"

    applied.ok("remove-app", "ann", "--yes")
    assert not let_in(env)
    applied.ok("plan", "--check")
    applied.ok("undo-remove", "ann")
    assert let_in(env)
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT text FROM notes").fetchone() == ("kept",)

    applied.manifest(without)
    applied.ok("purge", "ann", "--yes-destroy", "ann")
    assert names_on_the_server(applied, "ann") == []
    applied.ok("plan", "--check")


def test_ten_apps_added_at_once_wait_their_turn_and_are_all_there(applied: Folder) -> None:
    names = [f"many{number}" for number in range(10)]
    running = [applied.begin("add-app", name, "--stores", "postgres,redis", "--yes") for name in names]
    said = [each.communicate(timeout=280) for each in running]
    assert [each.returncode for each in running] == [0] * len(names), said
    envs = [applied.variables(name) for name in names]
    assert all(let_in(env) for env in envs)
    assert len({env["REDIS_DB"] for env in envs}) == len(names)
    applied.ok("plan", "--check")


def test_on_a_server_of_others_what_closes_it_is_asked_for_and_known_accounts_stay(applied: Folder) -> None:
    admin = ProjectState(applied.path).secrets.get(admin_ref("postgres", "postgres"))
    assert admin is not None
    (place,) = (
        each["address"] for each in applied.ok("status", "--json").json()["servers"] if each["server"] == "postgres"
    )
    host, _, port = place.rpartition(":")
    with psycopg.connect(f"postgresql://postgres@{place}/postgres", password=admin.reveal()) as connection:
        connection.execute("GRANT CONNECT, TEMPORARY ON DATABASE postgres, template1 TO PUBLIC")
        for role in ("monitor", "unrelated"):
            connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'of their own'".encode())

    def gets_in(role: str) -> bool:
        try:
            psycopg.connect(host=host, port=port, user=role, password="of their own", dbname="postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def manifest(servers: str = "") -> str:
        return (
            f"version: 1\nproject: guest\nruntime: external\n{servers}known: {{postgres: [monitor, not_there]}}\n"
            f"external: {{postgres: {{url: 'postgresql://postgres@{place}', password: {{env: ADMIN_PASSWORD}}}}}}\n"
            "apps:\n  gus: {stores: [postgres]}\n"
        )

    env = {"ADMIN_PASSWORD": admin.reveal()}
    with tempfile.TemporaryDirectory(prefix="guest-") as name:
        guest = Folder(Path(name), [])
        guest.manifest(manifest())
        told = guest.ok("add-app", "adam", "--stores", "postgres", "--yes", env=env).err
        assert "server database postgres" in told
        assert "multidb apply closes it, and asks first" in told
        assert (gets_in("monitor"), gets_in("unrelated")) == (True, True), "nobody was asked"

        guest.manifest(manifest("servers: {postgres: {close_defaults: false}}\n"))
        assert "server database" not in guest.ok("apply", "--yes", env=env).out
        assert gets_in("unrelated")
        assert "partial" in guest.ok("show", "gus", env=env).out

        guest.manifest(manifest())
        assert guest.run("apply", env=env).code == 3, "nobody there to ask"
        assert gets_in("unrelated")
        said = guest.ok("apply", "--yes", env=env).err
        assert "monitor, not_there (known) keep what they have" in said
        assert (gets_in("monitor"), gets_in("unrelated")) == (True, False)
        assert "enforced" in guest.ok("show", "gus", env=env).out
        guest.ok("purge", "adam", "--yes-destroy", "adam", env=env)  # the manifest has lost it meanwhile


def test_two_projects_on_one_server_do_not_make_each_others_plans_stale(applied: Folder) -> None:
    """Postgres's own databases are open to everybody; both projects plan to close them."""
    state = ProjectState(applied.path)
    ports = {each["server"]: each["address"] for each in applied.ok("status", "--json").json()["servers"]}
    admin = state.secrets.get(admin_ref("postgres", "postgres"))
    assert admin is not None
    address = f"postgresql://postgres@{ports['postgres']}"
    with psycopg.connect(address, password=admin.reveal(), dbname="postgres") as connection:
        connection.execute("GRANT CONNECT ON DATABASE postgres, template1 TO PUBLIC")
    with tempfile.TemporaryDirectory(prefix="second-") as name:
        other = Folder(Path(name), [])
        other.manifest(
            "version: 1\nproject: second\nruntime: external\n"
            f"external: {{postgres: {{url: '{address}', password: {{env: ADMIN_PASSWORD}}}}}}\n"
            "apps: {eve: {stores: [postgres]}}\n"
        )
        env = {"ADMIN_PASSWORD": admin.reveal()}
        other.ok("plan", "--out", "next.json", env=env)
        applied.ok("apply", "--yes")
        done = other.ok("apply", "next.json", "--yes", env=env)
        assert "changes made" in done.out
        other.ok("plan", "--check", env=env)
        other.ok("remove-app", "eve", "--no-backup", "--yes", env=env)
        other.ok("purge", "eve", "--yes-destroy", "eve", env=env)


def test_on_a_redis_of_others_the_default_user_is_asked_for_and_left_until_then(applied: Folder) -> None:
    admin = ProjectState(applied.path).secrets.get(admin_ref("redis", "redis"))
    assert admin is not None
    (place,) = (
        each["address"] for each in applied.ok("status", "--json").json()["servers"] if each["server"] == "redis"
    )
    host, _, port = place.rpartition(":")
    server = redis.Redis(host, int(port), username="multidb_admin", password=admin.reveal(), decode_responses=True)
    server.execute_command("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all")
    server.execute_command("ACL", "SETUSER", "monitor", "on", ">of their own", "+ping")
    held = redis.Redis(host, int(port), single_connection_client=True)
    held.ping()

    def gets_in(**login: str) -> bool:
        with redis.Redis(host, int(port), **login) as client:  # type: ignore[arg-type]
            try:
                return client.ping() is True
            except redis.AuthenticationError:
                return False

    def manifest(servers: str = "") -> str:
        return (
            f"version: 1\nproject: guest\nruntime: external\n{servers}known: {{redis: [monitor]}}\n"
            f"external: {{redis: {{url: 'redis://multidb_admin@{place}', password: {{env: ADMIN_PASSWORD}}}}}}\n"
            "apps:\n  gus: {stores: [redis]}\n"
        )

    env = {"ADMIN_PASSWORD": admin.reveal()}
    keep = "servers: {redis: {default_user: keep}}\n"
    with server, held, tempfile.TemporaryDirectory(prefix="guest-") as name:
        guest = Folder(Path(name), [])
        guest.manifest(manifest())
        told = guest.ok("add-app", "adam", "--stores", "redis", "--yes", env=env).err
        assert "redis: default user default: open, and left so, because others may use the server" in told
        again = guest.ok("add-app", "adam", "--stores", "redis", "--yes", env=env)
        assert "nothing to do" in again.out, "what is left open is no change that is made again and again"
        assert gets_in(), "nobody was asked"
        assert "multidb apply turns it off" in guest.ok("show", "adam", env=env).out

        guest.manifest(manifest(keep))
        assert "default user" not in guest.ok("apply", "--yes", env=env).err
        assert gets_in()
        assert "servers.redis.default_user is keep" in guest.ok("show", "gus", env=env).out

        guest.manifest(manifest())
        line = "redis: default user default: turned off: whoever comes in without a password, also programs of others"
        planned = guest.ok("plan", "--out", "saved.json", env=env)
        assert "~ default user default" in planned.out
        assert line in planned.err
        assert guest.run("apply", env=env).code == 3, "nobody there to ask"
        assert gets_in()
        said = guest.ok("apply", "saved.json", "--yes", env=env).err
        assert line in said
        assert "(known) keep what they have" not in said, "nothing is granted to them here, nor taken"
        assert (gets_in(), gets_in(username="monitor", password="of their own")) == (False, True)
        assert held.ping(), "a connection that was open stays"
        assert "default is off, and who is logged in" in guest.run("audit", env=env).out
        assert "naming-only" not in guest.ok("show", "gus", env=env).out
        guest.ok("purge", "adam", "--yes-destroy", "adam", env=env)  # the manifest has lost it meanwhile
        guest.ok("plan", "--check", env=env)
        server.execute_command("ACL", "DELUSER", "monitor")
