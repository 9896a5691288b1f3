"""Many operators at the same moment, each in a folder of its own, with one state and one store of secrets, some of them
killed: afterwards the project is whole from every folder.

The seed is printed; MULTIDB_TEST_SEED tries one again.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis

from multidb.state_stores.s3 import LEASE
from tests.cli.test_state_places import hosts, storage  # noqa: F401
from tests.support import seaweedfs
from tests.support.command import Folder, Ran, started
from tests.support.openbao import ROOT_TOKEN, Bao
from tests.support.openbao import running as openbao_server

pytestmark = pytest.mark.server

SEED = int(os.environ.get("MULTIDB_TEST_SEED", random.SystemRandom().randrange(10**6)))
_MANIFEST = """\
version: 1
project: {project}
runtime: external
state: '{place}'
secrets: {{vault: {{url: '{vault}', mount: kv, path: {project}}}}}
external:
  postgres: {{url: "{postgres}", password: {{file: postgres.txt}}}}
  redis: {{url: "{redis}", password: {{file: redis.txt}}}}
backup: {{to: [sets/]}}
apps:
"""
_ENTRY = "  {name}: {{stores: [postgres, redis]}}\n"
_AGAIN = 4 * LEASE  # seconds for which an operator gives the same command: one that was killed has its lock for a lease


@dataclass(frozen=True)
class Team:
    """Folders of one project, as on so many machines."""

    folders: list[Folder]

    def at_once(self, commands: Sequence[Sequence[str]], kills: Callable[[int], float | None]) -> list[int]:
        """Each folder's command, all begun together; their exit codes. Those for which `kills` says so are killed after
        so many seconds."""
        with tempfile.TemporaryDirectory(prefix="operators-") as name:
            streams = [Path(name) / str(number) for number in range(len(commands))]
            for path in streams:
                path.mkdir()
            began = time.monotonic()
            processes = [
                started(folder.path, tuple(command), path)
                for folder, command, path in zip(self.folders, commands, streams, strict=True)
            ]
            killed = sorted((at, number) for number in range(len(commands)) if (at := kills(number)) is not None)
            for at, number in killed:
                time.sleep(max(0.0, began + at - time.monotonic()))
                processes[number].kill()
            codes = []
            for process, command, path in zip(processes, commands, streams, strict=True):
                process.join(240)
                code = process.exitcode
                assert code is not None, f"{command} does not end"
                err = (path / "err").read_text() if (path / "err").exists() else ""
                assert "Traceback" not in err, err
                lost = code == 5 and "was taken from this run" in err  # on a machine that stands still for its lease
                assert code in (0, 3, -9) or lost, f"{command}: exit {code}\n{err}"
                codes.append(code)
            return codes

    def finish(self, commands: Sequence[Sequence[str]], codes: Sequence[int]) -> None:
        """Whoever was killed, or told to wait, gives the command again, as an operator would; likewise all at once."""
        left = [number for number, code in enumerate(codes) if code != 0]
        until = time.monotonic() + _AGAIN
        while time.monotonic() < until:
            with ThreadPoolExecutor(max(1, len(left))) as pool:
                done = dict(zip(left, pool.map(lambda n: self.folders[n].run(*commands[n]), left), strict=True))
            left = [number for number in left if not _is_done(done[number])]
            if not left:
                return
        raise AssertionError([done[number] for number in left])

    def merge(self) -> list[str]:
        """What Git makes of it: every folder has what any has added, and nothing that any has taken out. The apps."""
        manifests = [(folder.path / "multidb.yaml").read_text().splitlines(True) for folder in self.folders]
        before = (self.folders[0].path / "before.yaml").read_text().splitlines(True)
        kept = [line for line in before if all(line in manifest for manifest in manifests)]
        added = [line for manifest in manifests for line in manifest if line not in before]
        text = "".join(kept + added)
        for folder in self.folders:
            folder.manifest(text)
        (self.folders[0].path / "before.yaml").write_text(text)
        return [line.split(":")[0].strip() for line in kept + added if line.startswith("  ") and "stores" in line]


def _is_done(ran: Ran) -> bool:
    """Done, or done by the run that was killed."""
    return ran.code == 0 or (ran.arguments[0] == "remove-app" and "was removed" in ran.err)


@pytest.fixture(scope="module")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with openbao_server(tmp_path_factory.mktemp("bao")) as server:
        server.ask("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        yield server


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "postgres":
        return "postgres"
    for name, value in request.getfixturevalue("storage").environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{seaweedfs.BUCKET}/{tmp_path.name}"


@pytest.fixture
def team_of(
    hosts: Folder,  # noqa: F811
    openbao: Bao,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[int], Team]]:
    monkeypatch.setenv("VAULT_TOKEN", ROOT_TOKEN)
    where = {row["server"]: row["address"] for row in hosts.ok("status", "--json").json()["servers"]}
    passwords = json.loads((hosts.path / ".multidb/secrets.json").read_text())["secrets"]
    teams: list[Team] = []

    def made(size: int) -> Team:
        project = f"many_{size}_{place.partition(':')[0]}"
        text = _MANIFEST.format(
            project=project,
            place=place,
            vault=openbao.url,
            postgres=f"postgresql://postgres@{where['postgres']}/postgres",
            redis=f"redis://multidb_admin@{where['redis']}",
        ) + "".join(_ENTRY.format(name=f"old{number}") for number in range(size))
        folders = []
        for number in range(size):
            folder = Folder(tmp_path / f"machine{number}", [])
            folder.path.mkdir()
            folder.manifest(text)
            for store in ("postgres", "redis"):
                (folder.path / f"{store}.txt").write_text(passwords[f"@{store}/{store}/admin"])
                (folder.path / f"{store}.txt").chmod(0o600)
            folders.append(folder)
        (folders[0].path / "before.yaml").write_text(text)
        teams.append(Team(folders))
        return teams[-1]

    yield made
    for team in teams:  # the next project's apps are called as these
        apps = team.folders[0].run("apps", "--json").json()["apps"]
        for name in [app["app"] for app in apps]:
            team.folders[0].run("remove-app", name, "--yes", "--no-backup")
        commands = [("purge", app["app"], "--yes-destroy", app["app"]) for app in apps]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda command, folder=team.folders[0]: folder.run(*command), commands))


@pytest.mark.parametrize(
    ("place", "size"),
    [
        pytest.param("s3", 4, marks=pytest.mark.rare),
        pytest.param("postgres", 4, marks=pytest.mark.rare),
        pytest.param("s3", 10, marks=pytest.mark.rare),
        pytest.param("postgres", 10, marks=pytest.mark.rare),
    ],
    indirect=["place"],
)
@pytest.mark.timeout(1500)
def test_ten_operators_at_once_with_kills_among_them(team_of: Callable[[int], Team], size: int) -> None:
    print(f"seed {SEED}")
    chosen, team = random.Random(f"{SEED} {size}"), team_of(size)
    began = time.monotonic()
    team.folders[0].ok("apply", "--yes")
    usual = (time.monotonic() - began) * size / 2  # how long as many take on two cores, about

    def kills(number: int) -> float | None:
        return chosen.uniform(0.1, 1.0) * usual if number % 2 else None

    adding = [["add-app", f"new{number}", "--stores", "postgres,redis", "--yes"] for number in range(size)]
    team.finish(adding, team.at_once(adding, kills))
    assert set(team.merge()) == {f"{kind}{number}" for kind in ("old", "new") for number in range(size)}

    work = [
        ["rotate", "old0", "--now", "--yes"],
        ["remove-app", "old1", "--yes", "--no-backup"],
        ["backup", "old2"],
        ["add-app", "more3", "--stores", "postgres,redis", "--yes"],
        ["rotate", "new4", "--now", "--yes"],
        ["rotate", "old5", "--now", "--yes"],
        ["backup", "new6"],
        ["remove-app", "new7", "--yes", "--no-backup"],
        ["apply", "--yes"],
        ["remove-app", "old9", "--yes", "--no-backup"],
    ][:size]
    team.finish(work, team.at_once(work, kills))
    apps = team.merge()
    assert "old1" not in apps
    assert "more3" in apps

    whole(team, apps)


def whole(team: Team, apps: Sequence[str]) -> None:
    """The project is one, from every folder."""
    first, last = team.folders[0], team.folders[-1]
    with ThreadPoolExecutor(4) as pool:
        plans = list(pool.map(lambda folder: folder.run("plan", "--check"), team.folders))
    assert [plan.code for plan in plans] == [0] * len(plans), plans[-1].out + plans[-1].err
    numbers = json.loads(first.ok("state", "pull").out)["numbers"]["redis"]
    assert len(set(numbers.values())) == len(numbers)
    assert set(apps) <= numbers.keys()
    assert first.ok("state", "show", "--json").json()["locks"] == []
    health = last.run("health", "--json").json()["apps"]
    assert set(health) == set(apps)
    assert {store["status"] for app in health.values() for store in app["stores"].values()} <= {"healthy", "degraded"}
    for number, app in enumerate(apps):  # each by what some machine has to say of it
        found = team.folders[number % len(team.folders)].ok("env", app, "--format", "json", "--reveal").json()
        with psycopg.connect(found["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == (app,)
        with redis.Redis.from_url(found["REDIS_URL"]) as client:
            client.set(f"{app}:known", app)
            assert client.get(f"{app}:known") == app.encode()
    history = last.ok("history", "--limit", "1000", "--json").json()
    assert history["problems"] == []
    assert {run["command"] for run in history["runs"]} >= {"apply", "add-app", "rotate", "remove-app", "backup"}
    assert first.ok("history", "--json").json()["digest"] == history["digest"]


@pytest.mark.parametrize("place", ["s3", pytest.param("postgres", marks=pytest.mark.rare)], indirect=True)
def test_a_rotation_and_a_rename_go_on_from_another_folder(team_of: Callable[[int], Team]) -> None:
    team = team_of(2)
    one, other = team.folders
    one.ok("apply", "--yes")
    before = variables(other, "old0")
    one.ok("rotate", "old0", "--yes")
    prepared = variables(other, "old0")
    assert prepared["DATABASE_URL"] != before["DATABASE_URL"]
    assert [comes_in(found) for found in (before, prepared)] == [True, True]
    early = other.run("rotate", "old0", "--finish", "--yes")
    assert (early.code, "since now" in early.err) == (3, True), "the variables of this folder's app were older"
    other.ok("rotate", "old0", "--finish", "--yes")
    assert variables(one, "old0") == prepared
    assert [comes_in(found) for found in (before, prepared)] == [False, True]

    now = ["rotate", "old1", "--now", "--yes"]  # both the same, at the same moment
    codes = team.at_once([now, now], lambda _: None)
    assert 0 in codes
    found = variables(one, "old1")
    assert found == variables(other, "old1")
    assert comes_in(found)

    one.ok("rename-app", "old0", "fresh", "--no-backup", "--yes-destroy", "old0")
    other.manifest((one.path / "multidb.yaml").read_text())
    other.ok("plan", "--check")
    assert variables(other, "fresh") == variables(one, "fresh")
    assert comes_in(variables(other, "fresh"))
    done = other.ok("history", "--json").json()
    assert done["runs"][0]["command"] == "rename-app"
    assert {"rotate", "apply"} <= {run["command"] for run in done["runs"]}
    for folder in team.folders:
        folder.ok("plan", "--check")


def variables(folder: Folder, app: str) -> dict[str, str]:
    found: dict[str, str] = folder.variables(app)
    return found


def comes_in(found: dict[str, str]) -> bool:
    """Whether both servers let the app in with these credentials."""
    try:
        with psycopg.connect(found["DATABASE_URL"]) as connection:
            connection.execute("SELECT 1")
        with redis.Redis.from_url(found["REDIS_URL"]) as client:
            client.ping()
    except (psycopg.OperationalError, redis.AuthenticationError):
        return False
    return True
