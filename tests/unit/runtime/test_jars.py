"""Fetching locked jars, from a Maven repository that the test serves on loopback."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from multidb import downloads
from multidb.errors import RuntimeUnavailable
from multidb.provisioners.neo4j.hosting import jars
from multidb.provisioners.neo4j.hosting.jars import Jar

CONTENT = {f"/org/x/part{n}/1.0/part{n}-1.0.jar": bytes([n]) * (1000 + n) for n in range(12)}


class Maven(ThreadingHTTPServer):
    """Serves `files`; `failures` makes the next answers for a path errors, `cuts` ends them before they are whole."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(CONTENT)
        self.failures: Counter[str] = Counter()
        self.cuts: Counter[str] = Counter()
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Maven

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        body = self.server.files.get(self.path)
        status = 200 if body is not None else 404
        if self.server.failures[self.path] > 0:
            self.server.failures[self.path] -= 1
            status, body = 503, None
        self.send_response(status)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.server.cuts[self.path] > 0:
            self.server.cuts[self.path] -= 1
            body = (body or b"")[:-7]
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


@pytest.fixture
def maven(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Maven]:
    locked = tuple(
        Jar(f"org.x:part{n}:1.0", hashlib.sha256(body).hexdigest(), len(body))
        for n, body in enumerate(CONTENT.values())
    )
    with Maven() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(jars, "locked", lambda version: locked)
        monkeypatch.setattr(downloads, "PAUSE", 0)
        monkeypatch.setenv("MULTIDB_MAVEN_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("MULTIDB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server
        server.shutdown()
        thread.join()


def quiet(*_: object) -> None:
    """A progress that nobody watches."""


def test_all_jars_arrive_and_progress_ends_at_the_total(maven: Maven) -> None:
    seen: list[tuple[float | None, float | None]] = []
    folder = jars.fetch_neo4j(lambda subject, message, done=None, total=None: seen.append((done, total)), "1")
    assert sorted(path.read_bytes() for path in folder.iterdir()) == sorted(CONTENT.values())
    total = sum(map(len, CONTENT.values()))
    assert seen[-1] == (total, total)
    assert len(seen) == len(CONTENT)


def test_what_is_there_is_not_fetched_again(maven: Maven) -> None:
    folder = jars.fetch_neo4j(quiet, "1")
    (folder / "part3-1.0.jar").unlink()
    (folder / "part5-1.0.jar").write_bytes(b"cut short")
    maven.asked.clear()
    jars.fetch_neo4j(quiet, "1")
    assert sorted(maven.asked) == ["/org/x/part3/1.0/part3-1.0.jar", "/org/x/part5/1.0/part5-1.0.jar"]
    assert (folder / "part5-1.0.jar").read_bytes() == CONTENT["/org/x/part5/1.0/part5-1.0.jar"]


def test_a_changed_jar_is_refused_by_name_and_never_kept(maven: Maven) -> None:
    path = "/org/x/part7/1.0/part7-1.0.jar"
    maven.files[path] = b"\xff" * len(CONTENT[path])
    with pytest.raises(RuntimeUnavailable, match=r"org\.x:part7:1\.0") as caught:
        jars.fetch_neo4j(quiet, "1")
    assert "MULTIDB_MAVEN_URL" in (caught.value.hint or "")
    folder = downloads.cache_folder() / "neo4j" / "1"
    assert not (folder / "part7-1.0.jar").exists()
    maven.files[path] = CONTENT[path]
    assert len(list(jars.fetch_neo4j(quiet, "1").iterdir())) == len(CONTENT)


def test_a_passing_fault_is_tried_again_and_a_lasting_one_named(maven: Maven) -> None:
    path = "/org/x/part2/1.0/part2-1.0.jar"
    maven.failures[path] = 2
    jars.fetch_neo4j(quiet, "1")
    assert maven.asked.count(path) == 3


def test_a_jar_that_was_cut_off_is_fetched_again_and_not_taken_for_a_changed_one(maven: Maven) -> None:
    path = "/org/x/part2/1.0/part2-1.0.jar"
    maven.cuts[path] = 2
    jars.fetch_neo4j(quiet, "1")
    assert maven.asked.count(path) == 3
    (downloads.cache_folder() / "neo4j" / "1" / "part2-1.0.jar").unlink()
    maven.cuts[path] = 9
    with pytest.raises(RuntimeUnavailable, match="ended after 995 of 1002 bytes"):
        jars.fetch_neo4j(quiet, "1")


def test_what_is_missing_is_said_before(maven: Maven) -> None:
    assert jars.to_fetch("1") == "Neo4j 1 from 127.0.0.1 (12.1 kB, once for all projects)"
    assert maven.asked == []
    jars.fetch_neo4j(quiet, "1")
    assert jars.to_fetch("1") == ""


def test_a_jar_that_the_mirror_lacks_is_not_asked_for_twice(maven: Maven) -> None:
    path = "/org/x/part2/1.0/part2-1.0.jar"
    del maven.files[path]
    with pytest.raises(RuntimeUnavailable, match="404"):
        jars.fetch_neo4j(quiet, "1")
    assert maven.asked.count(path) == 1


def test_no_network_says_what_to_do(maven: Maven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTIDB_MAVEN_URL", "http://127.0.0.1:1")
    with pytest.raises(RuntimeUnavailable, match="cannot fetch") as caught:
        jars.fetch_neo4j(quiet, "1")
    assert "https_proxy" in (caught.value.hint or "")


def test_two_at_once_fetch_each_jar_once(maven: Maven) -> None:
    threads = [threading.Thread(target=jars.fetch_neo4j, args=(quiet, "1")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(maven.asked) == sorted(CONTENT)


def test_the_lock_file_is_whole() -> None:
    found = jars.locked()
    assert len(found) == len({jar.file for jar in found}) == 225
    assert all(len(jar.sha256) == 64 and jar.size > 0 for jar in found)
    (server,) = [jar for jar in found if jar.coordinates == f"org.neo4j:neo4j:{jars.NEO4J_VERSION}"]
    assert server.path == f"org/neo4j/neo4j/{jars.NEO4J_VERSION}/neo4j-{jars.NEO4J_VERSION}.jar"
    native = next(jar for jar in found if jar.coordinates.endswith(":linux-x86_64"))
    assert native.file.endswith("-linux-x86_64.jar")


def test_a_version_without_a_lock_names_those_there_are() -> None:
    with pytest.raises(RuntimeUnavailable) as caught:
        jars.locked("1.0")
    assert jars.NEO4J_VERSION in (caught.value.hint or "")
