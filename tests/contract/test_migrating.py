"""docs/migrating.md, followed block by block: an app with four servers of its own moves to a set that it shares, while
a client of it writes all the time, and back."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import neo4j
import psycopg
import pytest
import redis
from dotenv import dotenv_values

from multidb.client import connect
from tests.contract import case_neo4j, case_qdrant, case_redis
from tests.support.command import REPOSITORY
from tests.support.guides import run
from tests.support.postgres_servers import SUPERUSER, cluster

pytestmark = [pytest.mark.server, pytest.mark.rare, pytest.mark.timeout(1800)]

PAGE = REPOSITORY / "docs" / "migrating.md"
NODES = 500
KEYS = 500
POINTS = 60


@dataclass
class Client:
    """The app: writes rows one after the other, at the address that it was given last, and remembers what was taken.

    Args:
        files: env files that may come; the last one that is there has the address.
        quiet: while this file is there, it writes nothing.
    """

    first: str
    files: tuple[Path, ...]
    quiet: Path
    rows: list[int] = field(default_factory=list)
    refused: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        for path in reversed(self.files):
            if path.exists() and (url := dotenv_values(path).get("DATABASE_URL")):
                return url
        return self.first

    def work(self) -> None:
        while not self.over.is_set():
            address = self.address
            try:
                with psycopg.connect(address, autocommit=True, connect_timeout=5) as connection:
                    while not self.over.is_set() and self.address == address:
                        if not self.quiet.exists():
                            row = connection.execute("INSERT INTO orders (note) VALUES ('x') RETURNING id").fetchone()
                            assert row is not None
                            self.rows.append(row[0])
                        time.sleep(0.02)
            except psycopg.Error:
                self.refused += 1
                time.sleep(0.1)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        thread = threading.Thread(target=self.work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            thread.join(30)


@dataclass(frozen=True)
class Old:
    """The servers that the app had for itself, with data: what the page calls them, and what they are here."""

    texts: dict[str, str]
    env: dict[str, str]
    postgres: str


@contextlib.contextmanager
def old_servers(root: Path) -> Iterator[Old]:
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(cluster(18, wal_level="logical"))
        postgres.sql("CREATE DATABASE lernmi")
        postgres.sql("CREATE TABLE orders (id serial PRIMARY KEY, note text)", database="lernmi")
        graph = stack.enter_context(case_neo4j.community(folder_at(root, "old-neo4j")))
        case_neo4j.as_admin(graph, f"UNWIND range(1, {NODES}) AS id CREATE (:Row {{id: id}})", database="neo4j")
        cache = stack.enter_context(
            case_redis.real_server(folder_at(root, "old-redis"), binary=case_redis.valkey_binary)
        )
        at = cache.server.endpoint
        login = f"{case_redis.ADMIN}:{case_redis.PASSWORD}"
        with redis.Redis.from_url(f"redis://{login}@{at.host}:{at.port}/0") as client:
            client.mset({f"key:{number}": number for number in range(KEYS)})
        vectors = folder_at(root, "old-qdrant")
        with case_qdrant.opened(str(vectors)) as client:
            fill(client)
        assert graph.admin is not None
        bolt = graph.server.endpoint
        yield Old(
            {
                "--from-qdrant env:OLD_QDRANT": f"--from-qdrant {vectors}",
                "postgres@pg.lernmi.example.com": f"{SUPERUSER}@127.0.0.1:{postgres.port}/postgres",
                "redis://cache.lernmi.example.com:6379": f"redis://{case_redis.ADMIN}@{at.host}:{at.port}",
                'redis-cli -u "$OLD_REDIS" CONFIG SET': (
                    "python -c \"import os, redis, sys; redis.Redis.from_url(os.environ['OLD_REDIS'])"
                    ".execute_command('CONFIG', 'SET', *sys.argv[1:])\""
                ),
                "cd ../back": "touch ../quiet; sleep 1; cd ../back",
            },
            {
                "OLD_POSTGRES": f"postgresql://{SUPERUSER}:{postgres.password}@127.0.0.1:{postgres.port}/lernmi",
                "OLD_NEO4J": f"bolt://neo4j:{graph.admin.reveal()}@{bolt.host}:{bolt.port}",
                "OLD_REDIS": f"redis://{login}@{at.host}:{at.port}/0",
                "OLD_POSTGRES_PASSWORD": postgres.password,
                "OLD_REDIS_PASSWORD": case_redis.PASSWORD,
                "MULTIDB_YES": "",
            },
            f"postgresql://{SUPERUSER}:{postgres.password}@127.0.0.1:{postgres.port}/lernmi",
        )


def folder_at(root: Path, name: str) -> Path:
    made = root / name
    made.mkdir()
    return made


def fill(client: Any) -> None:
    from qdrant_client import models

    client.create_collection("docs", models.VectorParams(size=4, distance=models.Distance.DOT))
    points = [
        models.PointStruct(id=number, vector=[number, 1, 0, 0], payload={"n": number}) for number in range(POINTS)
    ]
    client.upsert("docs", points, wait=True)


def test_the_page_is_followed_there_and_back_and_no_row_is_lost() -> None:
    with tempfile.TemporaryDirectory(prefix="migrating-") as name:
        root = Path(name)
        root.chmod(0o755)  # as root, Postgres runs as another user, who has to get in
        with old_servers(root) as old:
            there, back = root / "platform/apps/lernmi/.env", root / "back/apps/lernmi_back/.env"
            client = Client(old.postgres, (there, back), root / "quiet")
            try:
                with client.working():
                    run(PAGE, root, old.texts, env=old.env, timeout=1500)
                    (root / "quiet").unlink()
                    before = len(client.rows)
                    deadline = time.monotonic() + 60
                    while len(client.rows) < before + 10:
                        assert time.monotonic() < deadline, "the client does not work where it came back to"
                        time.sleep(0.1)
                compare(client, there, back)
            finally:
                subprocess.run([Path(sys.executable).parent / "multidb", "down"], cwd=root / "platform", check=False)


def compare(client: Client, there: Path, back: Path) -> None:
    """What was committed is there: until the way back in both places, after it in the last."""
    assert client.refused > 0, "nothing was ever cut over"
    new, last = dotenv_values(there), dotenv_values(back)
    assert ids(last) == sorted(client.rows)
    assert ids(new) == sorted(client.rows)[: len(ids(new))]
    assert len(ids(new)) >= len(client.rows) - 1000
    for variables in (new, last):
        with redis.Redis.from_url(variables["REDIS_URL"] or "") as cache:
            assert cache.dbsize() == KEYS
            assert cache.get("key:7") == b"7"
    login = (new["NEO4J_USER"] or "", new["NEO4J_PASSWORD"] or "")
    with neo4j.GraphDatabase.driver(new["NEO4J_URI"] or "", auth=login) as driver, driver.session() as session:
        assert session.run("MATCH (n:Row) RETURN count(n)").single(strict=True)[0] == NODES
    with connect(env_file=there) as place:
        assert len(place.qdrant.scroll("docs", limit=POINTS + 1)[0]) == POINTS


def ids(variables: dict[str, str | None]) -> list[int]:
    with psycopg.connect(variables["DATABASE_URL"] or "") as connection:
        return [number for (number,) in connection.execute("SELECT id FROM orders ORDER BY 1")]
