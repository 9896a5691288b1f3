"""Rotations of admins' passwords on real servers by the command line: what apps see, killed anywhere, two at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
import redis

from multidb.admin_credentials import AdminPhase, admin_changes, admin_ref
from multidb.history import RunHistory
from multidb.runtime.ledger import Ledger
from multidb.secrets import Secret
from multidb.state import ProjectState
from tests.support.command import Folder, project_folder
from tests.support.stopped import kill, signal_at, stopped_at

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: admins
runtime: embedded
apps:
  ann: {stores: [postgres, redis]}
"""

STEPS = (
    "multidb.admin_rotation:record_admin_change",
    *("multidb.state:FileSecretStore.put", "multidb.state:FileSecretStore.delete"),
    *("multidb.fleet:Fleet.locked", "multidb.fleet:Fleet.connect_with"),
)
"""The command, killed before the effect of this number."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("admins-", MANIFEST) as found:
        found.ok("up")
        found.ok("apply", "--yes")
        yield found


def admin(folder: Folder, store: str) -> Secret:
    kept = ProjectState(folder.path).secrets.get(admin_ref(store, store))
    assert kept is not None
    return kept


def port(folder: Folder, store: str) -> int:
    return Ledger(ProjectState(folder.path)).read()[store].ports["port"]


def let_in(folder: Folder, store: str, password: Secret) -> bool:
    try:
        if store == "postgres":
            options = {"host": "127.0.0.1", "port": port(folder, store), "user": "postgres", "dbname": "postgres"}
            psycopg.connect(**options, password=password.reveal()).close()
        else:
            options = {"port": port(folder, store), "username": "multidb_admin"}
            with redis.Redis(**options, password=password.reveal()) as client:
                client.ping()
    except psycopg.OperationalError as error:
        if "password authentication failed" not in str(error):
            raise
        return False
    except redis.AuthenticationError:
        return False
    return True


def variable(folder: Folder, name: str) -> str:
    lines = (folder.path / "apps" / "ann" / ".env").read_text().splitlines()
    (value,) = [line.partition("=")[2].strip("'") for line in lines if line.startswith(f"{name}=")]
    return value


def test_new_passwords_while_an_app_works(folder: Folder) -> None:
    former = {store: admin(folder, store) for store in ("postgres", "redis")}
    env = (folder.path / "apps" / "ann" / ".env").read_text()
    with psycopg.connect(variable(folder, "DATABASE_URL"), autocommit=True) as session:
        client = redis.Redis.from_url(variable(folder, "REDIS_URL"))
        connection = client.client_id()
        said = folder.ok("rotate", "--admin", "--yes")
        assert session.execute("SELECT 1").fetchone() == (1,)
        assert client.client_id() == connection, "the same connection"
    for statement in ("ALTER ROLE", "ACL SETUSER multidb_admin #$admin_sha256", "ACL SAVE"):
        assert statement in said.err
    for store, password in former.items():
        assert not let_in(folder, store, password)
        assert let_in(folder, store, admin(folder, store))
        assert password.reveal() not in (folder.path / ".multidb" / "secrets.json").read_text()
        for text in (said.out, said.err, (folder.path / ".multidb" / "logs" / f"{store}.log").read_text()):
            assert password.reveal() not in text
            assert admin(folder, store).reveal() not in text
    assert (folder.path / "apps" / "ann" / ".env").read_text() == env, "apps keep what they have"
    folder.ok("plan", "--check")
    runs = [run for run in RunHistory(ProjectState(folder.path)).runs() if run.command == "rotate"]
    assert sorted(run.changes[0].name for run in runs[-2:]) == ["of server postgres", "of server redis"]
    folder.ok("restart")
    folder.ok("plan", "--check")
    assert all(let_in(folder, store, admin(folder, store)) for store in former)


def test_it_is_asked_and_one_store_leaves_the_others(folder: Folder) -> None:
    before = {store: admin(folder, store) for store in ("postgres", "redis")}
    assert folder.run("rotate", "--admin").code == 3
    assert {store: admin(folder, store) for store in before} == before
    document = folder.ok("rotate", "--admin", "--store", "redis", "--yes", "--json").json()
    assert [(one["server"], one["step"], one["phase"]) for one in document["servers"]] == [("redis", "now", "done")]
    assert admin(folder, "postgres") == before["postgres"]
    assert admin(folder, "redis") != before["redis"]
    assert folder.ok("rotate", "--admin", "--older-than", "1d", "--yes", "--json").json()["servers"] == []
    assert "Nothing is to be done" in folder.ok("rotate", "--admin", "--auto").out
    assert folder.run("rotate", "ann", "--admin").code == 2


def test_another_run_is_waited_for_by_nobody(folder: Folder) -> None:
    before = admin(folder, "redis")
    with ProjectState(folder.path).lock("admin-rotation", "multidb rotate --admin"):
        done = folder.run("rotate", "--admin", "--yes")
    assert done.code == 3
    assert "multidb rotate --admin" in done.err
    assert admin(folder, "redis") == before


def test_a_server_that_is_down_costs_no_other_its_password(folder: Folder) -> None:
    before = {store: admin(folder, store) for store in ("postgres", "redis")}
    state = (folder.path / ".multidb" / "secrets.json").read_text()
    os.kill(Ledger(ProjectState(folder.path)).read()["redis"].pid, signal.SIGKILL)
    done = folder.run("rotate", "--admin", "--yes")
    assert done.code == 4
    assert (folder.path / ".multidb" / "secrets.json").read_text() == state
    folder.ok("up")
    assert all(let_in(folder, store, password) for store, password in before.items())
    folder.ok("rotate", "--admin", "--yes")
    assert not any(let_in(folder, store, password) for store, password in before.items())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("apart", [5, pytest.param(1, marks=pytest.mark.rare)])
@pytest.mark.parametrize("store", ["postgres", "redis"])
def test_killed_anywhere_every_command_gets_in_and_the_same_again_finishes(
    folder: Folder, store: str, apart: int
) -> None:
    phases = set()
    for number in range(2, 60, apart):
        former = admin(folder, store)
        killed = partial(signal_at, number + 1, STEPS, signal.SIGKILL)
        done = folder.run("rotate", "--admin", "--store", store, "--yes", before=killed)
        if done.code != -signal.SIGKILL:
            assert done.code == 0, done.err
            break
        change = admin_changes(ProjectState(folder.path)).get(store)
        phases.add(change.phase if change is not None else None)
        folder.ok("plan", "--check")
        if number % 4 == 3:
            folder.ok("restart", store)
            folder.ok("plan", "--check")
        if number % 2 and change is not None and change.phase is AdminPhase.CHANGING:
            folder.run("rotate", "--admin", "--store", store, "--abort", "--yes")
        folder.ok("rotate", "--admin", "--store", store, "--yes")
        assert not let_in(folder, store, former), number
        assert let_in(folder, store, admin(folder, store)), number
        kept = ProjectState(folder.path).secrets.refs(f"@{store}")
        assert kept == {admin_ref(store, store)}, number
    assert len(phases - {None}) >= 2, phases


@pytest.mark.parametrize("store", ["postgres", pytest.param("redis", marks=pytest.mark.rare)])
@pytest.mark.parametrize("step", ["AdminRotation._adopt", pytest.param("AdminRotation.finish", marks=pytest.mark.rare)])
def test_where_the_state_was_lost_in_the_middle_it_is_known_from_the_passwords(
    folder: Folder, store: str, step: str
) -> None:
    before = admin(folder, store)
    process = stopped_at(folder, f"multidb.admin_rotation:{step}", "rotate", "--admin", "--store", store, "--yes")
    assert process is not None
    kill(process)
    with ProjectState(folder.path).change("admin-rotation") as section:
        section.clear()
    folder.ok("plan", "--check")
    folder.ok("rotate", "--admin", "--store", store, "--yes")
    assert not let_in(folder, store, before)
    assert let_in(folder, store, admin(folder, store))
    assert ProjectState(folder.path).secrets.refs(f"@{store}") == {admin_ref(store, store)}
    assert [finding["level"] for finding in folder.ok("doctor", "--json").json()["findings"]].count("error") == 0
    folder.ok("restart", store)
    folder.ok("plan", "--check")


def test_servers_of_others_are_told_what_to_do(tmp_path: Path) -> None:
    there = Folder(tmp_path, [])
    there.manifest(
        "version: 1\nproject: theirs\nruntime: external\nexternal:\n"
        '  postgres: {url: "postgresql://boss@127.0.0.1:1/postgres", password: {env: BOSS_PASSWORD}}\n'
        "apps: {ann: {stores: [postgres]}}\n"
    )
    done = there.run("rotate", "--admin", "--yes")
    assert done.code == 3
    assert "\\password" in done.err
    assert "BOSS_PASSWORD" in done.err
