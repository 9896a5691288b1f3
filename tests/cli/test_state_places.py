"""A project in two folders, as on two machines, with one state: in S3, and in the Postgres that it manages."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from multidb.project import load_project
from multidb.state import holder
from multidb.state_stores import open_state_store
from tests.support import seaweedfs
from tests.support.command import Folder

pytestmark = pytest.mark.server

_HOSTS = """\
version: 1
project: hosts
apps:
  host: {stores: [postgres, redis]}
"""
_MANIFEST = """\
version: 1
project: {project}
runtime: external
external:
  postgres: {{url: "{postgres}", password: {{file: postgres.txt}}}}
  redis: {{url: "{redis}", password: {{file: redis.txt}}}}
apps:
  ann: {{stores: [postgres, redis]}}
  bob: {{stores: [postgres, redis]}}
"""


@dataclass(frozen=True)
class Team:
    """Two folders of one project: what is committed and what is secret is in both, and nothing else."""

    one: Folder
    other: Folder
    place: str
    admin: str  # how psycopg comes to the Postgres server

    def share(self, source: Folder, to: Folder) -> None:
        """What a commit brings, and a store of secrets that both read."""
        (to.path / ".multidb").mkdir(exist_ok=True)
        for name in ("multidb.yaml", ".multidb/secrets.json"):
            shutil.copy2(source.path / name, to.path / name)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Folder]:
    with tempfile.TemporaryDirectory(prefix="hosts-") as name:
        Path(name).chmod(0o755)  # as root, Postgres runs as another user, who has to get in
        folder = Folder(Path(name), [])
        folder.manifest(_HOSTS)
        folder.ok("up")
        yield folder
        folder.run("down")


@pytest.fixture(scope="module")
def storage() -> Iterator[seaweedfs.S3Server]:
    with seaweedfs.s3_server() as server:
        yield server


@pytest.fixture(params=["s3", pytest.param("postgres", marks=pytest.mark.rare)])
def team(
    request: pytest.FixtureRequest, hosts: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Team]:
    kind = request.param
    place = kind
    if kind == "s3":
        for name, value in request.getfixturevalue("storage").environment().items():
            monkeypatch.setenv(name, value)
        place = f"s3://{seaweedfs.BUCKET}/{tmp_path.name}"
    where = {row["server"]: row["address"] for row in hosts.ok("status", "--json").json()["servers"]}
    secrets = json.loads((hosts.path / ".multidb/secrets.json").read_text())["secrets"]
    text = _MANIFEST.format(
        project=f"team_{kind}",
        postgres=f"postgresql://postgres@{where['postgres']}/postgres",
        redis=f"redis://multidb_admin@{where['redis']}",
    )
    folders = []
    for name in ("one", "other"):
        path = tmp_path / name
        path.mkdir()
        for store in ("postgres", "redis"):
            (path / f"{store}.txt").write_text(secrets[f"@{store}/{store}/admin"])
            (path / f"{store}.txt").chmod(0o600)
        folders.append(Folder(path, []))
        folders[-1].manifest(text)
    admin = f"postgresql://postgres:{secrets['@postgres/postgres/admin']}@{where['postgres']}/postgres"
    team = Team(*folders, place, admin)
    yield team
    purged: set[str] = set()
    for folder in folders:  # the next project's apps are called as these
        text = (folder.path / "multidb.yaml").read_text()
        for name in {*re.findall(r"^  (\w+): {stores", text, re.MULTILINE)} - purged:
            folder.run("remove-app", name, "--yes", "--no-backup")
            if folder.run("purge", name, "--yes-destroy", name).code == 0:
                purged.add(name)
    take_away(team)


def numbers(folder: Folder) -> dict[str, int]:
    pulled = json.loads(folder.ok("state", "pull").out)
    found: dict[str, int] = pulled["numbers"]["redis"]
    return found


def history(folder: Folder) -> list[tuple[str, str, list[str]]]:
    """What the history says: of each run, the newest first, its command, what came of it and the changes."""
    runs = folder.ok("history", "--json").json()["runs"]
    return [
        (run["command"], run["outcome"], [f"{change['action']} {change['kind']}" for change in run["changes"]])
        for run in runs
    ]


def test_two_folders_are_one_project(team: Team) -> None:
    one, other = team.one, team.other
    one.ok("apply", "--yes")
    before = numbers(one)
    stated = f"state: {team.place}\n" if team.place == "postgres" else f"state: '{team.place}'\n"
    committed = (one.path / "multidb.yaml").read_text()
    moved = one.ok("state", "move", "--to", team.place, "--yes", "--json").json()
    assert moved["moved"] >= 1
    assert (one.path / "multidb.yaml").read_text() == committed + stated
    assert numbers(one) == before
    one.ok("plan", "--check")
    assert one.ok("state", "move", "--to", team.place, "--yes", "--json").json()["from"] is None
    (moving, applied) = history(one)
    assert moving == ("state move", "done", ["move state"])
    assert (applied[:2], "create database" in applied[2]) == (("apply", "done"), True)

    # The manifest of before, in the folder of before: it says where the state went, and what it says works.
    (one.path / "multidb.yaml").write_text(committed)
    refused = one.run("plan")
    assert refused.code == 3
    (command,) = re.findall(r"multidb (state move --to \S+)", refused.err)
    one.ok(*shlex.split(command), "--yes")
    assert (one.path / "multidb.yaml").read_text() == committed + stated
    assert [run[0] for run in history(one)] == ["state move", "state move", "apply"]

    # The other folder has the same manifest and the secrets, and knows all the rest.
    team.share(one, other)
    other.ok("plan", "--check")
    env = [folder.ok("env", "ann", "--format", "json", "--reveal").json() for folder in (one, other)]
    assert env[0] == env[1]
    other.ok("remove-app", "bob", "--yes", "--no-backup")
    team.share(other, one)
    assert list(one.ok("purge", "--json").json()["removed"]) == ["bob"]
    one.ok("undo-remove", "bob")
    assert other.ok("purge", "--json").json()["removed"] == {}
    team.share(one, other)
    other.ok("plan", "--check")

    # Both add an app at the same moment.
    with ThreadPoolExecutor(2) as pool:
        added = list(pool.map(lambda pair: pair[0].run("add-app", pair[1], "--yes"), [(one, "cat"), (other, "dan")]))
    assert [done.code for done in added] == [0, 0], [done.err for done in added]
    after = numbers(one)
    assert sorted(after) == ["ann", "bob", "cat", "dan"]
    assert len(set(after.values())) == 4
    for folder, name in ((one, "cat"), (other, "dan")):
        assert folder.ok("health", name, "--read-only", "--json").json()["apps"][name]
    shown = other.ok("state", "show", "--json").json()
    assert shown["locks"] == []
    assert shown["sections"]["numbers"] == 1


def test_a_state_that_cannot_be_had_is_no_empty_one(team: Team) -> None:
    one, other = team.one, team.other
    one.ok("apply", "--yes")
    before = numbers(one)
    one.ok("state", "move", "--to", team.place, "--yes")
    copy = one.ok("state", "pull").out
    one.ok("remove-app", "bob", "--yes", "--no-backup")
    team.share(one, other)
    other.ok("plan", "--check")

    # Not reached: nothing that needs it goes on, and what needs it not does.
    with unreachable(team, other):
        for command in ("plan", "apply --yes", "add-app cat --yes", "env ann", "purge", "state show", "state pull"):
            done = other.run(*command.split())
            assert done.code == 4, (command, done.out, done.err)
            assert "state" in done.err
        for command in ("validate", "schema"):
            other.ok(command)
        checked = other.run("render", "--check")  # nothing is rendered here yet
        assert checked.code == 1
        assert "0 of 1 file is current" in checked.err
    other.ok("plan", "--check")

    # Gone: likewise, until somebody says so. What the servers know comes back.
    take_away(team)
    done = other.run("plan")
    assert done.code == 4
    assert "is gone" in done.err
    assert "multidb state recover" in done.err
    recovered = one.ok("state", "recover", "--json").json()
    assert recovered["removed"] == ["bob"]
    assert recovered["numbers"]["redis"]["ann"] == before["ann"]
    assert recovered["lost"] == []
    assert history(one)[0] == ("state recover", "done", ["recover state"])
    one.ok("state", "recover")  # nothing is lost
    assert [run[0] for run in history(one)].count("state recover") == 1
    team.share(one, other)
    other.ok("plan", "--check")
    assert list(other.ok("purge", "--json").json()["removed"]) == ["bob"]

    # A copy of a state that is not this one any more is no copy of it.
    (one.path / "copy.json").write_text(copy)
    refused = one.run("state", "push", "copy.json", "--yes")
    assert refused.code == 3
    assert "another one of this project" in refused.err
    (one.path / "copy.json").write_text(one.ok("state", "pull").out)
    one.ok("undo-remove", "bob")
    one.ok("state", "push", "copy.json", "--yes")
    assert history(other)[0] == ("state push", "done", ["replace state"])
    assert list(other.ok("purge", "--json").json()["removed"]) == ["bob"]
    one.ok("undo-remove", "bob")

    # A folder without the secrets, as after a loss of everything: each app is named with its way on.
    team.share(one, other)
    (other.path / ".multidb" / "secrets.json").unlink()
    lost = other.run("state", "recover")
    assert lost.code == 1
    for name in ("ann", "bob"):
        assert f"multidb apply --regenerate {name}" in lost.err
    refused = other.run("env", "ann")
    assert "multidb apply --regenerate ann" in refused.err
    other.ok("apply", "--regenerate", "ann", "--yes")
    other.ok("env", "ann")


def test_a_lock_of_the_dead_is_shown_and_taken(team: Team) -> None:
    one = team.one
    one.ok("apply", "--yes")
    one.ok("state", "move", "--to", team.place, "--yes")
    project = load_project(one.path / "multidb.yaml")
    store = open_state_store(project, project.state)
    with store.lock("app-bob", holder("multidb remove-app bob")):
        refused = one.run("remove-app", "bob", "--yes", "--no-backup")
        assert refused.code == 3
        assert "multidb remove-app bob by " in refused.err
        (command,) = re.findall(r"multidb (state unlock \S+)", refused.err)
        (shown,) = one.ok("state", "show", "--json").json()["locks"]
        assert (shown["name"], shown["command"]) == ("app-bob", "multidb remove-app bob")
        assert command == f"state unlock {shown['id']}"
        unasked = one.run(*command.split(), stdin="")
        assert unasked.code == 3
        one.ok(*command.split(), "--yes")
        assert history(one)[0] == ("state unlock", "done", ["take lock"])
        one.ok("remove-app", "bob", "--yes", "--no-backup")
    one.ok("undo-remove", "bob")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("states/digi", "state must be .multidb/, s3://BUCKET/PREFIX or postgres"),
        ("gs://states/digi", 'no state can be kept in "gs://states/digi"'),
        ("s3://", "state must be s3://BUCKET/PREFIX"),
        ("s3://states/../digi", "state must be s3://BUCKET/PREFIX"),
        ("redis", 'no state can be kept in "redis"'),
        ("postgres", "in a server of this machine's only"),
    ],
)
def test_an_address_that_is_none_is_said_to_be_none(tmp_path: Path, address: str, message: str) -> None:
    folder = Folder(tmp_path, [])
    folder.manifest(f"{_HOSTS}state: {address}\n")
    wrong = folder.run("validate")
    assert wrong.code == 2
    assert message in wrong.err
    assert "multidb.yaml:5:8: " in wrong.err
    folder.manifest(_HOSTS)
    moved = folder.run("state", "move", "--to", address, "--yes")
    assert moved.code == 2
    assert (tmp_path / "multidb.yaml").read_text() == _HOSTS


@contextmanager
def unreachable(team: Team, folder: Folder) -> Iterator[None]:
    """The place answers nobody, or lets nobody in."""
    if team.place == "postgres":
        right = (folder.path / "postgres.txt").read_text()
        (folder.path / "postgres.txt").write_text("wrong")
        yield
        (folder.path / "postgres.txt").write_text(right)
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        yield


def take_away(team: Team) -> None:
    """As by an accident of somebody who may."""
    if team.place == "postgres":
        with psycopg.connect(team.admin, autocommit=True) as connection:
            connection.execute('DROP DATABASE IF EXISTS "multidb-state-team_postgres" WITH (FORCE)')
    else:
        _, _, bucket, prefix = team.place.split("/")
        seaweedfs.client(os.environ["AWS_ENDPOINT_URL_S3"]).delete_object(Bucket=bucket, Key=f"{prefix}/state.json")
