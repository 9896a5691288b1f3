"""Data from a Redis, a Neo4j and a Qdrant that are nobody's here, brought into apps by `multidb import`. The same for
each store, on real servers."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import neo4j
import pytest
import redis

from multidb.state import ProjectState
from tests.contract import case_neo4j, case_qdrant, case_redis
from tests.support.case import RealServer
from tests.support.command import Folder, Ran, project_folder
from tests.support.stopped import go_on, kill, stopped_at

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure", "ignore:Qdrant client version"),
]

ROWS = 2_500
NUMBER = 3


@dataclass
class Elsewhere:
    """A server, or a folder, with data that multidb does not know, and an app that is to have it.

    Args:
        where: what stands after ``--from-<store>``.
        change: adds something to it.
        content: what the app has, told with its own credentials.
        expected: what the app has after an import of what was there at first.
        counts: of these, what a survey says.
        steps: functions at which a run is killed.
        more: options of the command.
    """

    store: str
    where: str
    password: str
    change: Callable[[], None]
    content: Callable[[Mapping[str, str]], int]
    counts: Mapping[str, int]
    steps: tuple[str, ...]
    manifest: str = ""
    more: tuple[str, ...] = ()
    expected: int = ROWS
    real: RealServer | None = None
    said: list[Ran] = field(default_factory=list)

    @property
    def variable(self) -> str:
        return f"MULTIDB_IMPORT_{self.store.upper()}_PASSWORD"

    def arguments(self, *more: str) -> tuple[str, ...]:
        return ("import", "shop", f"--from-{self.store}", self.where, *self.more, *more)

    def run(self, folder: Folder, *more: str, password: str | None = None) -> Ran:
        env = {self.variable: self.password if password is None else password}
        done = folder.run(*self.arguments(*more), env=env, timeout=900)
        assert not self.password or self.password not in done.out + done.err
        return done


@contextlib.contextmanager
def in_redis(folder: Path) -> Iterator[Elsewhere]:
    with case_redis.real_server(folder, binary=case_redis.valkey_binary) as real:
        endpoint = real.server.endpoint

        def client() -> redis.Redis:
            return redis.Redis(
                host=endpoint.host,
                port=endpoint.port,
                username=case_redis.ADMIN,
                password=case_redis.PASSWORD,
                db=NUMBER,
            )

        with client() as filling, filling.pipeline() as pipeline:
            for number in range(ROWS):
                pipeline.hset(f"old:{number}", mapping={"n": number, "text": "x" * (number % 90)})
            pipeline.set("other:1", "not chosen")
            pipeline.execute()

        def change() -> None:
            with client() as changing:
                changing.set("old:new", 1)

        def content(env: Mapping[str, str]) -> int:
            with redis.Redis.from_url(env["REDIS_URL"]) as app:
                assert app.hget("7", "n") in (b"7", None)
                return int(app.dbsize())

        yield Elsewhere(
            "redis",
            f"redis://{case_redis.ADMIN}@{endpoint.host}:{endpoint.port}/{NUMBER}",
            case_redis.PASSWORD,
            change,
            content,
            {"hash keys": ROWS},
            ("multidb.provisioners.redis.backup.keys:Keys.load", "multidb.provisioners.redis.backup.intake:by_size"),
            more=("--prefix", "old:"),
            real=real,
        )


@contextlib.contextmanager
def in_neo4j(folder: Path) -> Iterator[Elsewhere]:
    with case_neo4j.community(folder) as real:
        case_neo4j.as_admin(
            real,
            "CREATE CONSTRAINT row FOR (n:Row) REQUIRE n.id IS UNIQUE",
            f"UNWIND range(1, {ROWS}) AS id CREATE (:Row {{id: id, text: 'x' + id}})",
            "MATCH (a:Row), (b:Row {id: 1}) WHERE a.id <= 50 CREATE (a)-[:TO]->(b)",
            database="neo4j",
        )

        def change() -> None:
            case_neo4j.as_admin(real, "CREATE (:Row {id: -1})", database="neo4j")

        def content(env: Mapping[str, str]) -> int:
            login = (env["NEO4J_USER"], env["NEO4J_PASSWORD"])
            with neo4j.GraphDatabase.driver(env["NEO4J_URI"], auth=login) as driver, driver.session() as session:
                return int(session.run("MATCH (n) RETURN count(n) AS count").single(strict=True)["count"])

        assert real.admin is not None
        yield Elsewhere(
            "neo4j",
            f"bolt://neo4j@{real.server.endpoint.host}:{real.server.endpoint.port}",
            real.admin.reveal(),
            change,
            content,
            {"nodes": ROWS, "relationships": 50, "constraints": 1},
            ("multidb.provisioners.neo4j.backup.graph:_all#2",),
            real=real,
        )


@contextlib.contextmanager
def in_qdrant(folder: Path) -> Iterator[Elsewhere]:
    with contextlib.ExitStack() as stack:
        binary = _qdrant_binary()
        if binary:
            real = stack.enter_context(case_qdrant.real_server(folder, own=True))
            endpoint = real.server.endpoint
            where, password = f"http://{endpoint.host}:{endpoint.port}", real.admin.reveal() if real.admin else ""
        else:
            real = stack.enter_context(case_qdrant.local_folder(folder))
            where, password = real.server.endpoint.path, ""
        rows = ROWS if binary else 60  # local mode takes seconds for thousands
        _put(real, range(1, rows + 1))

        def content(env: Mapping[str, str]) -> int:
            with _opened(env) as client:
                points, _ = client.scroll("shop_docs", limit=rows + 10, with_payload=True)
                assert {point.payload["tenant_id"] for point in points} <= {"shop"}
                return len(points)

        options = "{size: 4, distance: dot}"
        yield Elsewhere(
            "qdrant",
            where,
            password,
            lambda: _put(real, [rows + 1]),
            content,
            {"points docs": rows},
            (
                "multidb.provisioners.qdrant.backup.transfer:Transfer.batches",
                "multidb.provisioners.qdrant.backup.stamp:now",
            ),
            f"    qdrant: {{collections: {{docs: {options}}}}}\n"
            + (f"servers: {{qdrant: {{binary: {binary}}}}}\n" if binary else "servers: {qdrant: {download: never}}\n"),
            ("--name", "old_docs=docs"),
            rows,
            real if binary else None,
        )


def _qdrant_binary() -> str:
    named = os.environ.get("MULTIDB_TEST_QDRANT", "")
    return named if Path(named).is_file() else shutil.which("qdrant") or ""


@contextlib.contextmanager
def _opened(env: Mapping[str, str]) -> Iterator[Any]:
    from qdrant_client import QdrantClient

    if "QDRANT_PATH" in env:
        with case_qdrant.opened(env["QDRANT_PATH"]) as client:
            yield client
        return
    client = QdrantClient(url=env["QDRANT_URL"], api_key=env["QDRANT_API_KEY"])
    yield client
    client.close()


def _put(real: RealServer, numbers: Any) -> None:
    from qdrant_client import QdrantClient, models

    endpoint = real.server.endpoint
    points = [models.PointStruct(id=number, vector=[number, 1, 0.5, 0.25], payload={"n": number}) for number in numbers]
    key = real.admin.reveal() if real.admin else None
    client = (
        QdrantClient(path=endpoint.path)
        if endpoint.path
        else QdrantClient(url=f"http://{endpoint.host}:{endpoint.port}", api_key=key)
    )
    with contextlib.closing(client):
        if not client.collection_exists("old_docs"):
            client.create_collection("old_docs", models.VectorParams(size=4, distance=models.Distance.DOT))
        client.upsert("old_docs", points, wait=True)


PLACES = {"redis": in_redis, "neo4j": in_neo4j, "qdrant": in_qdrant}


@pytest.fixture(scope="module", params=["redis", pytest.param("neo4j", marks=pytest.mark.rare), "qdrant"])
def moved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Elsewhere, Folder]]:
    store = request.param
    with PLACES[store](tmp_path_factory.mktemp(store)) as elsewhere:
        manifest = "version: 1\nproject: moving\nruntime: embedded\nbackup: {to: [sets/]}\napps:\n  shop:\n"
        manifest += f"    stores: [{store}]\n{elsewhere.manifest}"
        with project_folder("moving-", manifest) as folder:
            started = folder.run("up", "--json")
            assert started.code == 0, started.err
            if skipped := [one["message"] for one in started.json()["servers"] if one["state"] == "skipped"]:
                pytest.skip(skipped[0])
            folder.ok("apply", "--yes")
            yield elsewhere, folder


@pytest.fixture
def case(moved: tuple[Elsewhere, Folder]) -> tuple[Elsewhere, Folder]:
    """The app has nothing, and no import is under way."""
    _elsewhere, folder = moved
    assert importing(folder) == {}
    if has(moved):
        folder.ok("remove-app", "shop", "--no-backup", "--yes")
        folder.ok("purge", "shop", "--yes-destroy", "shop")
        (folder.path / "multidb.yaml").write_text(folder.path.joinpath("first.yaml").read_text())
        folder.ok("up")
        folder.ok("apply", "--yes")
    else:
        shutil.copy(folder.path / "multidb.yaml", folder.path / "first.yaml")
    return moved


def has(moved: tuple[Elsewhere, Folder]) -> int:
    elsewhere, folder = moved
    return elsewhere.content(folder.variables("shop"))


def importing(folder: Folder) -> Any:
    return ProjectState(folder.path).read("backup-work").get("importing", {})


def test_it_says_what_would_come_and_then_brings_it(case: tuple[Elsewhere, Folder]) -> None:
    elsewhere, folder = case
    said = elsewhere.run(folder, "--json")
    assert said.code == 0, said.err
    (survey,) = said.json()["data"]["sources"]
    assert {name: survey["counts"].get(name) for name in elsewhere.counts} == elsewhere.counts
    assert survey["obstacles"] == []
    assert has(case) == 0

    done = elsewhere.run(folder, "--yes")
    assert done.code == 0, done.out + done.err
    assert has(case) == elsewhere.expected
    folder.ok("plan", "--check")
    assert folder.ok("audit", "--json").json()["breaches"] == []
    assert importing(folder) == {}

    again = elsewhere.run(folder, "--yes")
    assert (again.code, "--replace" in again.err) == (3, True)
    replaced = elsewhere.run(folder, "--yes", "--replace", "--json")
    assert replaced.code == 0, replaced.err
    assert replaced.json()["data"]["safety_set"]
    assert has(case) == elsewhere.expected


def test_killed_at_a_step_the_same_command_goes_on(case: tuple[Elsewhere, Folder], monkeypatch: Any) -> None:
    elsewhere, folder = case
    monkeypatch.setenv(elsewhere.variable, elsewhere.password)
    steps = ("multidb.backup.places:differences", "multidb.backup.importing:durability", *elsewhere.steps)
    for number, step in enumerate(steps):
        options = ("--yes", *(["--replace"] if number else []))
        process = stopped_at(folder, step, *elsewhere.arguments(*options))
        assert process is not None, f"it never came to {step}"
        kill(process)
        assert importing(folder) != {}
        done = elsewhere.run(folder, *options)
        assert done.code == 0, f"{step}: {done.out}{done.err}"
        assert has(case) == elsewhere.expected
        assert importing(folder) == {}
    folder.ok("plan", "--check")


def test_a_source_that_goes_away_is_one_error_and_the_same_command_goes_on(case: tuple[Elsewhere, Folder]) -> None:
    elsewhere, folder = case
    if elsewhere.real is None or elsewhere.real.kill is None or elsewhere.real.restart is None:
        pytest.skip("a folder does not go away")
    os.environ[elsewhere.variable] = elsewhere.password
    try:
        process = stopped_at(folder, elsewhere.steps[0], *elsewhere.arguments("--yes"))
    finally:
        del os.environ[elsewhere.variable]
    assert process is not None
    if elsewhere.store == "redis":  # what is not written down is gone with it
        with case_redis.as_admin(elsewhere.real) as client:
            client.execute_command("SAVE")
    elsewhere.real.kill()
    code, said = go_on(process)
    elsewhere.real.restart()
    assert (code, "source " in said, "Traceback" in said) == (4, True, False), said
    assert has(case) == 0
    done = elsewhere.run(folder, "--yes")
    assert done.code == 0, done.out + done.err
    assert has(case) == elsewhere.expected
    if elsewhere.password:
        wrong = elsewhere.run(folder, "--replace", password="wrong-one-of-it")
        assert (wrong.code, elsewhere.variable in wrong.err) == (4, True), wrong.err


def test_a_source_that_is_written_meanwhile_is_said_so(case: tuple[Elsewhere, Folder], monkeypatch: Any) -> None:
    """The last of the tests: the source has one more afterwards."""
    elsewhere, folder = case
    monkeypatch.setenv(elsewhere.variable, elsewhere.password)
    process = stopped_at(folder, "multidb.backup.places:differences", *elsewhere.arguments("--yes"))
    assert process is not None
    if elsewhere.store == "qdrant" and elsewhere.real is None:
        kill(process)
        folder.ok("import", "shop", "--abort")
        pytest.skip("a folder of local mode cannot be written while it is read")
    elsewhere.change()
    code, said = go_on(process)
    assert (code, "the source was changed while it was copied" in said) == (3, True), said
    assert has(case) == 0
    done = elsewhere.run(folder, "--yes")
    assert done.code == 0, done.out + done.err
    assert has(case) == elsewhere.expected + 1
