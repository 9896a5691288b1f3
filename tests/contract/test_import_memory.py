"""What an import takes of this machine's memory does not grow with what there is to import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract import case_neo4j, case_qdrant, case_redis
from tests.support.case import RealServer
from tests.support.command import REPOSITORY

pytestmark = [pytest.mark.server, pytest.mark.rare, pytest.mark.timeout(3600)]

GROWTH = 24  # MB that the threefold may take more: what an allocator keeps, and 16 to 32 bytes a key of Redis

# A process of its own, whose highest mark is that of the import alone.
_RUN = """
import re, sys
from pathlib import Path
from multidb.model import App, Endpoint, ImportOptions, PlaceKind, Server, SourceLocation, StoreContext
from multidb.provisioners import provisioner
from multidb.secrets import Secret
store, host, port, url, password, here = sys.argv[1:]
made = provisioner(store)
options = made.app_options(**({"collections": {"docs": {"size": 64, "distance": "dot"}}} if store == "qdrant" else {}))
app = App("shop", "shop", {store: options})
secret = Secret(here)
user = {"redis": "multidb", "neo4j": "neo4j", "qdrant": ""}[store]
endpoint = Endpoint(host, int(port), user, database="neo4j" if store == "neo4j" else "")
server = Server(store, store, endpoint, app="shop" if store == "neo4j" else None, scratch=store == "neo4j")
with made.connect(server, secret, "test") as session:
    context = StoreContext("memory", session.facts, made.server_options(), numbers={"shop": 1}, server=server)
class Marks:
    parts = []
    def done(self):
        return frozenset(self.parts)
    def add(self, part):
        self.parts.append(part)
names = {"old": "docs"} if store == "qdrant" else {}
location = SourceLocation(url, url, None, Secret(password))
with made.archive(server, secret, "test", None) as archive, made.source(location, ImportOptions(names=names)) as source:
    place = archive.prepare(PlaceKind.NEW, app, context)
    archive.bring_in(place, source, Marks(), lambda *words: None)
    there = archive.measure(place)
    assert source.copied() == there == source.measure(app, context), (source.copied(), there)
    archive.discard(place)
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def highest(store: str, there: RealServer, here: RealServer, url: str) -> int:
    """MB that an import takes at most."""
    endpoint = here.server.endpoint
    assert there.admin is not None
    assert here.admin is not None
    words = (store, endpoint.host, str(endpoint.port), url, there.admin.reveal(), here.admin.reveal())
    ran = subprocess.run(
        [sys.executable, "-c", _RUN, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


def test_three_times_the_keys_take_no_more(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        case_redis.real_server(tmp_path / "a", binary=case_redis.valkey_binary) as there,
        case_redis.real_server(tmp_path / "b", binary=case_redis.valkey_binary) as here,
    ):
        endpoint = there.server.endpoint
        url, taken = f"redis://{case_redis.ADMIN}@{endpoint.host}:{endpoint.port}/2", []
        for begin, end in ((0, 100_000), (100_000, 300_000)):
            with case_redis.as_admin(there, 2) as client, client.pipeline(transaction=False) as pipeline:
                for number in range(begin, end):
                    pipeline.execute_command("SET", f"key {number}", str(number) * 100)
                    if number % 10_000 == 0:
                        pipeline.execute_command("HSET", f"hash {number}", "f", "x" * 2_000_000)
                        pipeline.execute()
                pipeline.execute()
            taken.append(highest("redis", there, here, url))
    assert taken[1] <= taken[0] + GROWTH, taken
    print(taken)


def test_three_times_the_graph_takes_no_more(neo4j_servers: tuple[RealServer, RealServer]) -> None:
    there, here = neo4j_servers
    case_neo4j.emptied(there)
    endpoint = there.server.endpoint
    taken = []
    for begin, end in ((1, 30_000), (30_001, 90_000)):
        text = f"UNWIND range({begin}, {end}) AS id CREATE (:N {{id: id, text: toString(id) + '{'x' * 500}'}})"
        case_neo4j.as_admin(there, text, database="neo4j")
        taken.append(highest("neo4j", there, here, f"bolt://neo4j@{endpoint.host}:{endpoint.port}"))
    assert taken[1] <= taken[0] + GROWTH, taken
    print(taken)


def test_three_times_the_points_take_no_more(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        case_qdrant.real_server(tmp_path / "a", own=True) as there,
        case_qdrant.real_server(tmp_path / "b", own=True) as here,
    ):
        endpoint, taken = there.server.endpoint, []
        case_qdrant.ask(there, "PUT", "/collections/old", {"vectors": {"size": 64, "distance": "Dot"}})
        for begin, end in ((0, 20_000), (20_000, 60_000)):
            for at in range(begin, end, 1_000):
                points = [
                    {"id": number, "vector": [number / 7] * 64, "payload": {"text": str(number) * 100}}
                    for number in range(at, at + 1_000)
                ]
                body = {"points": points}
                case_qdrant.ask(there, "PUT", "/collections/old/points?wait=true", body).raise_for_status()
            taken.append(highest("qdrant", there, here, f"http://{endpoint.host}:{endpoint.port}"))
    assert taken[1] <= taken[0] + GROWTH, taken
    print(taken)
