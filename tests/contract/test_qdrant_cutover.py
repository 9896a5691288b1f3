"""Collections that are written elsewhere: copied, caught up and cut over by `multidb import`, or given up."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from multidb.state import ProjectState
from tests.contract.case_qdrant import ask, opened
from tests.contract.qdrant_sets import put
from tests.contract.qdrant_sources import create, some_place
from tests.support.case import RealServer
from tests.support.command import Folder, Ran, on_terminal, project_folder
from tests.support.postgres_servers import SUPERUSER, cluster
from tests.support.stopped import go_on, kill, stopped_at

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure", "ignore:Qdrant client version"),
]

VARIABLE = "MULTIDB_IMPORT_QDRANT_PASSWORD"
KEY = "a-key-of-the-tests-with-more-than-32-bytes"
STOP = "multidb.provisioners.qdrant.backup.source:CollectionsSource.stop_writing"
POINTS = 60


@dataclass
class Elsewhere:
    """A Qdrant with a collection that an app is to have."""

    real: RealServer
    folder: Folder
    written: dict[Any, Any] = field(default_factory=dict)  # by id, the number in its payload; acknowledged

    @property
    def where(self) -> str:
        endpoint = self.real.server.endpoint
        return endpoint.path or f"http://{endpoint.host}:{endpoint.port}"

    @property
    def is_server(self) -> bool:
        return not self.real.server.endpoint.path

    def run(self, *arguments: str) -> Ran:
        done = self.folder.run("import", "shop", *arguments, timeout=900)
        assert KEY not in done.out + done.err
        return done

    def ok(self, *arguments: str) -> Ran:
        done = self.run(*arguments)
        assert done.code == 0, done.out + done.err
        return done

    def begin(self, *more: str) -> Ran:
        return self.ok("--from-qdrant", self.where, "--name", "old_docs=docs", "--live", "--yes", *more)

    def write(self, points: dict[Any, int]) -> None:
        put(self.real, "old_docs", [point(identity, number) for identity, number in points.items()])
        self.written |= points

    def delete(self, identity: Any) -> None:
        if self.is_server:
            body = {"points": [identity]}
            ask(self.real, "POST", "/collections/old_docs/points/delete?wait=true", body).raise_for_status()
        else:
            with opened(self.real.server.endpoint.path) as client:
                client.delete("old_docs", [identity])
        self.written.pop(identity, None)

    @property
    def here(self) -> dict[Any, Any]:
        """What the app has, told with its own credentials."""
        env = self.folder.variables("shop")
        with client_of(env) as client:
            records, _ = client.scroll("shop_docs", limit=100_000, with_payload=True)
        return {record.id: record.payload["n"] for record in records}

    @property
    def left(self) -> list[str]:
        """Collections that multidb has beside the app's own."""
        with client_of(self.folder.variables("shop"), admin=self.folder) as client:
            names = [each.name for each in client.get_collections().collections]
        return [name for name in names if name.startswith("multidb__new")]

    def following(self) -> Any:
        return ProjectState(self.folder.path).read("backup-work").get("following", {})


@contextlib.contextmanager
def client_of(env: dict[str, str], admin: Folder | None = None) -> Iterator[Any]:
    from qdrant_client import QdrantClient

    if "QDRANT_PATH" in env:
        with opened(env["QDRANT_PATH"]) as client:
            yield client
        return
    key = env["QDRANT_API_KEY"]
    if admin is not None:
        from multidb.runtime.hosted import admin_ref

        secret = ProjectState(admin.path).secrets.get(admin_ref("qdrant", "qdrant"))
        assert secret is not None
        key = secret.reveal()
    client = QdrantClient(url=env["QDRANT_URL"], api_key=key)
    yield client
    client.close()


def point(identity: Any, number: int) -> dict[str, Any]:
    return {"id": identity, "vector": [number % 7 + 0.5, 1, 0.25, number % 3], "payload": {"n": number}}


def binary() -> str:
    import shutil

    named = os.environ.get("MULTIDB_TEST_QDRANT", "")
    return named if Path(named).is_file() else shutil.which("qdrant") or ""


@pytest.fixture(scope="module", params=["local", "server"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    with some_place(request.param, tmp_path_factory.mktemp("elsewhere") / "there") as real:
        servers = f"{{qdrant: {{binary: {binary()}}}}}" if request.param == "server" else "{qdrant: {download: never}}"
        manifest = "version: 1\nproject: moving\nruntime: embedded\nbackup: {to: [sets/]}\napps:\n  shop:\n"
        manifest += "    stores: [qdrant]\n    qdrant: {collections: {docs: {size: 4, distance: cosine}}}\n"
        with project_folder("moving-", f"{manifest}servers: {servers}\n") as folder:
            folder.ok("up")
            yield Elsewhere(real, folder)


@pytest.fixture
def case(made: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """The source has its points, the app has nothing, and no import is under way."""
    monkeypatch.setenv(VARIABLE, KEY if made.is_server else "")
    folder = made.folder
    first = folder.path / "first.yaml"
    if first.exists():
        if made.following():
            made.run("--abort")
        folder.run("remove-app", "shop", "--no-backup", "--yes")
        folder.run("purge", "shop", "--yes-destroy", "shop")
        (folder.path / "multidb.yaml").write_text(first.read_text())
    else:
        first.write_text((folder.path / "multidb.yaml").read_text())
    folder.ok("apply", "--yes")
    with contextlib.suppress(Exception):
        drop(made.real)
    create(made.real, "old_docs", {"vectors": {"size": 4, "distance": "Cosine"}})
    made.written = {}
    made.write({number: number for number in range(1, POINTS + 1)})
    return made


def drop(real: RealServer) -> None:
    if real.server.endpoint.path:
        with opened(real.server.endpoint.path) as client:
            client.delete_collection("old_docs")
    else:
        ask(real, "DELETE", "/collections/old_docs")


@contextlib.contextmanager
def writing(case: Elsewhere) -> Iterator[threading.Event]:
    """Somebody who writes, changes and deletes all the time, until told to stop; as only a server can be written."""
    over = threading.Event()

    def work() -> None:
        for number in itertools.count(1_000):
            if over.is_set():
                return
            case.write({number: number, f"00000000-0000-0000-0000-{number:012}": number})
            case.write({number % POINTS + 1: -number})
            case.delete(number - 3)
            time.sleep(0.002)

    thread = threading.Thread(target=work, daemon=True)
    if case.is_server:
        thread.start()
    try:
        yield over
    finally:
        over.set()
        if case.is_server:
            thread.join(60)


def test_what_is_written_meanwhile_is_there_after_the_cut_over(case: Elsewhere) -> None:
    with writing(case) as over:
        begun = case.begin()
        assert "copied, while its source is written" in begun.out
        assert case.here == {}
        assert case.left
        refused = case.run("--from-qdrant", case.where, "--name", "old_docs=docs", "--yes")
        assert (refused.code, "--cutover" in refused.err) == (3, True)
        case.folder.ok("backup", "shop")
        case.write({"aaaaaaaa-0000-0000-0000-000000000000": 7, 3: 33})
        case.delete(4)
        (lag,) = case.ok("--live", "--json").json()["data"]["following"]
        assert (lag["size"], lag["problem"]) == (None, None)
        (later,) = case.ok("--live", "--yes", "--json").json()["data"]["following"]
        assert later["as_of"] >= lag["as_of"]
        case.write({5: 55})
        case.delete(6)
        process = stopped_at(case.folder, STOP, "import", "shop", "--cutover", "--yes", "--json")
        assert process is not None
        over.set()  # where a person would stop what writes there
        time.sleep(0.3)
    code, said = go_on(process)
    assert code == 0, said
    assert case.here == case.written
    assert case.left == []
    assert case.following() == {}
    print(said[said.index('"downtime"') :][:40], len(case.written), "points")
    case.folder.ok("plan", "--check")
    assert case.folder.ok("audit", "--json").json()["breaches"] == []


def test_a_source_that_is_written_on_is_found_and_nothing_is_exchanged(case: Elsewhere) -> None:
    case.begin()
    if not case.is_server:
        pytest.skip("a folder that is open cannot be written")
    process = stopped_at(case.folder, "multidb.backup.cut_over:_unlike", "import", "shop", "--cutover", "--yes")
    assert process is not None
    case.write({5: 55, 1_000: 1})
    code, said = go_on(process)
    assert (code, "points docs: 2 are other ones" in said) == (3, True), said
    assert case.here == {}
    case.ok("--cutover", "--yes")
    assert case.here == case.written


def test_on_a_terminal_it_asks_when_all_but_the_last_is_there(case: Elsewhere) -> None:
    if not case.is_server:
        pytest.skip("nobody has to stop the writers of a folder")
    case.begin()
    password = {VARIABLE: KEY}
    command = ["import", "shop", "--cutover"]
    code, shown = on_terminal(case.folder.path, command, typed="y\nn\n", **password)
    assert (code, "its writers go on" in shown) == (3, True), shown
    assert case.here == {}
    code, shown = on_terminal(case.folder.path, command, typed="y\ny\n", **password)
    assert (code, f"Does nobody write at {case.where} any more?" in shown) == (0, True), shown
    assert case.here == case.written


def test_given_up_nothing_is_left(case: Elsewhere) -> None:
    case.begin()
    assert case.left
    case.ok("--abort")
    assert (case.left, case.here, case.following()) == ([], {}, {})
    assert case.run("--abort").code == 2


STEPS = {
    "begin": (
        "multidb.provisioners.qdrant.backup.making:Maker.index",
        "multidb.provisioners.qdrant.backup.renewal:Renewal._apply",
    ),
    "cut over": (
        "multidb.provisioners.qdrant.backup.renewal:Renewal._apply",
        "multidb.backup.cut_over:_unlike",
        "multidb.provisioners.qdrant.backup.archive:QdrantArchive._become",
        "multidb.provisioners.qdrant.backup.archive:QdrantArchive._drop",
        "multidb.backup.cut_over:taken_away",
    ),
}


@pytest.mark.rare
def test_killed_at_a_step_it_goes_on_or_is_given_up(case: Elsewhere) -> None:
    for step in STEPS["begin"]:
        live = ("--from-qdrant", case.where, "--name", "old_docs=docs", "--live", "--yes")
        process = stopped_at(case.folder, step, "import", "shop", *live)
        assert process is not None, step
        kill(process)
        refused = case.run("--live")
        assert (refused.code, "--abort" in refused.err) == (3, True)
        assert case.run("--cutover", "--yes").code == 3
        case.ok("--abort")
        assert (case.left, case.here) == ([], {})
    for number, step in enumerate(STEPS["cut over"]):
        more = ["--replace"] if number else []
        case.begin(*more)
        case.write({5: 100 + number})
        process = stopped_at(case.folder, step, "import", "shop", "--cutover", "--yes", *more)
        assert process is not None, step
        kill(process)
        case.ok("--cutover", "--yes", *more)
        assert case.here == case.written, step
        assert (case.left, case.following()) == ([], {}), step
    case.folder.ok("plan", "--check")


@pytest.mark.rare
def test_a_database_and_collections_in_one_cut_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = "version: 1\nproject: moving\nruntime: embedded\napps:\n  shop:\n    stores: [postgres, qdrant]\n"
    manifest += "    qdrant: {collections: {docs: {size: 4, distance: cosine}}}\nservers: {qdrant: {download: never}}\n"
    with (
        cluster(18, wal_level="logical") as database,
        some_place("local", tmp_path / "there") as vectors,
        project_folder("moving-", manifest) as folder,
    ):
        database.sql("CREATE DATABASE old")
        database.sql("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1)", database="old")
        create(vectors, "old_docs", {"vectors": {"size": 4, "distance": "Cosine"}})
        case = Elsewhere(vectors, folder)
        case.write({1: 1, 2: 2})
        folder.ok("up")
        folder.ok("apply", "--yes")
        monkeypatch.setenv("MULTIDB_IMPORT_POSTGRES_PASSWORD", database.password)
        where = f"postgresql://{SUPERUSER}@127.0.0.1:{database.port}/old"
        case.begin("--from-postgres", where)
        database.sql("INSERT INTO orders VALUES (2)", database="old")
        case.write({3: 3})
        case.delete(1)
        lags = {one["store"]: one for one in case.ok("--live", "--json").json()["data"]["following"]}
        assert (lags["qdrant"]["size"], lags["postgres"]["size"] is not None) == (None, True)
        case.ok("--cutover", "--yes")
        assert case.here == {2: 2, 3: 3}
        with psycopg.connect(folder.variables("shop")["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT count(*) FROM orders").fetchone() == (2,)
        assert (case.left, case.following()) == ([], {})
