"""Health, audit and usage of real embedded servers: as they are, with holes made by hand, and in trouble."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import redis

from multidb.audit import Audit, audit
from multidb.engine import Engine
from multidb.fleet import Fleet, Scope
from multidb.health import HealthReport, check
from multidb.model import Server, Status
from multidb.project import load_project
from tests.cli.throttle import throttled
from tests.support.command import REPOSITORY, Folder, project_folder
from tests.support.receiver import listening

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: watch
runtime: embedded
defaults: {postgres: {connection_limit: 4}}
apps:
  ann: {stores: [postgres, qdrant, redis], qdrant: {collections: {knowledge: {size: 4}}}}
  bob: {stores: [postgres, redis], quota: {postgres: {size: 12MB, enforce: read-only}}}
  eve: {stores: [postgres, redis]}
"""
TIMEOUT = 3.0  # seconds, of the tests of trouble


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("watch-", MANIFEST) as found:
        found.ok("up")
        found.ok("apply", "--yes")
        yield found


def status(folder: Folder) -> dict[str, dict[str, Any]]:
    return {each["store"]: each for each in folder.run("status", "--json").json()["servers"]}


def secret(folder: Folder, name: str) -> str:
    found: str = json.loads((folder.path / ".multidb" / "secrets.json").read_text())["secrets"][name]
    return found


def env(folder: Folder, app: str) -> dict[str, str]:
    found: dict[str, str] = folder.variables(app)
    return found


@contextmanager
def postgres(folder: Folder) -> Iterator[psycopg.Connection[Any]]:
    """The admin, in the maintenance database."""
    host, port = status(folder)["postgres"]["address"].split(":")
    password = secret(folder, "@postgres/postgres/admin")
    with psycopg.connect(
        host=host, port=port, user="postgres", password=password, dbname="postgres", autocommit=True
    ) as admin:
        yield admin


@contextmanager
def valkey(folder: Folder) -> Iterator[redis.Redis]:
    """The admin."""
    runtime = load_engine(folder).fleet.runtime
    server = next(each for each in runtime.servers() if each.store == "redis")
    password = runtime.admin(server)
    assert password is not None
    endpoint = server.endpoint
    with redis.Redis(endpoint.host, endpoint.port, username=endpoint.user, password=password.reveal()) as admin:
        yield admin


def load_engine(folder: Folder) -> Engine:
    return Engine(Fleet(load_project(folder.path / "multidb.yaml")))


class Impatient:
    """The runtime of a project, with little patience, and with other ports where told."""

    def __init__(self, engine: Engine, ports: dict[str, int]) -> None:
        self._runtime = engine.fleet.runtime
        self._ports = ports

    def servers(self) -> list[Server]:
        return [self._hasty(server) for server in self._runtime.servers()]

    def _hasty(self, server: Server) -> Server:
        port = self._ports.get(server.store, server.endpoint.port)
        return replace(server, timeout=TIMEOUT, endpoint=replace(server.endpoint, port=port))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)


def impatient(folder: Folder, **ports: int) -> tuple[HealthReport, float]:
    """A check with little patience, and the seconds that it took."""
    engine = load_engine(folder)
    engine.fleet.runtime = Impatient(engine, ports)  # type: ignore[assignment]
    began = time.monotonic()
    return check(engine.fleet), time.monotonic() - began


def of(report: HealthReport, store: str) -> dict[str, str]:
    return {each.app: each.health.status.value for each in report.checks if each.store == store}


def test_everybody_is_well_and_every_wall_is_proved(folder: Folder) -> None:
    document = folder.ok("health", "--json").json()
    assert (document["command"], document["ok"], document["status"]) == ("health", True, "healthy")
    assert {app: set(found["stores"]) for app, found in document["apps"].items()} == {
        "ann": {"postgres", "qdrant", "redis"},
        "bob": {"postgres", "redis"},
        "eve": {"postgres", "redis"},
    }
    assert all(store["latency_ms"] > 0 for app in document["apps"].values() for store in app["stores"].values())
    only = folder.ok("health", "bob", "--read-only", "--store", "redis")
    assert "bob  healthy  ok" in only.out
    assert "ann" not in only.out

    assert 'errors="0" skipped="0"' in folder.ok("health", "--format", "junit", "--store", "redis").out.splitlines()[1]
    assert folder.run("health", "--watch", "--format", "junit").code == 2
    done = folder.ok("audit", "--json", "--report", "audit.md").json()
    assert (done["ok"], done["counts"]["broken"], done["counts"]["allowed"]) == (True, 0, 0)
    assert done["counts"]["refused"] > 200
    assert done["verdicts"]["ann"] == {"postgres": "enforced", "redis": "enforced", "qdrant": "naming-only"}
    assert "every wall that is promised was proved" in (folder.path / "audit.md").read_text()
    assert load_engine(folder).plan().in_sync


def test_holes_made_by_hand_are_tried_found_and_closed_by_what_is_said(folder: Folder) -> None:
    with postgres(folder) as admin, valkey(folder) as client:
        admin.execute("GRANT CONNECT ON DATABASE bob TO PUBLIC")
        admin.execute("GRANT ann_owner TO eve_user")
        client.execute_command("ACL", "SETUSER", "ann_user", "alldbs", "~*")
    said = folder.run("audit", "--store", "postgres", "--store", "redis", "--report", "holes.md")
    found = audited(folder)
    assert said.code == found.exit_code == 1
    sarif = folder.run("audit", "--store", "postgres", "--format", "sarif")
    scanned = json.loads(sarif.out)["runs"][0]["results"]
    lines = (folder.path / "multidb.yaml").read_text().splitlines()
    places = [each["locations"][0]["physicalLocation"] for each in scanned if "against bob" in each["message"]["text"]]
    assert (sarif.code, {place["artifactLocation"]["uri"] for place in places}) == (1, {"multidb.yaml"})
    assert all(lines[place["region"]["startLine"] - 1].strip().startswith("bob:") for place in places)
    breaches = {(each.store, each.probe.app, each.probe.target) for each in found.breaches}
    assert breaches >= {
        ("postgres", "ann", "bob"),  # let in with everybody
        ("postgres", "eve", "bob"),
        ("postgres", "eve", "ann"),  # let in as a member
        ("redis", "ann", "bob"),
        ("redis", "ann", "eve"),
    }
    assert ("postgres", "bob", "ann") not in breaches
    assert found.verdict("eve", "postgres") == "enforced"
    subjects = " ".join(f"{each.hole.subject}: {each.hole.message}" for each in found.holes)
    assert all(word in subjects for word in ("database bob", "eve_user", "ann_user")), subjects
    report = (folder.path / "holes.md").read_text()
    with postgres(folder) as admin, valkey(folder) as client:
        for each in found.holes:
            for statement in each.hole.closes:
                assert statement in said.out
                assert statement in report
                if each.store == "postgres":
                    admin.execute(statement)  # type: ignore[call-overload]
                else:
                    client.execute_command(*shlex.split(statement))
    after = audited(folder)
    assert (after.breaches, after.holes, after.broken) == ((), (), ())
    assert load_engine(folder).plan().in_sync


def audited(folder: Folder) -> Audit:
    return audit(load_engine(folder).fleet, Scope(stores=frozenset({"postgres", "redis"})))


def quiet(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
    """Progress that nobody watches."""


def test_over_the_quota_an_app_may_only_read_and_delete_until_it_has_made_room(folder: Folder) -> None:
    address = env(folder, "bob")["DATABASE_URL"]
    before = folder.ok("usage", "--json").json()
    assert before["apps"]["bob"]["postgres"]["standing"] == "within"
    assert before["apps"]["bob"]["postgres"]["connection_limit"] == 4 + 5, "its login's and its reader's"
    fill = "INSERT INTO heap SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 9000) n"
    with psycopg.connect(address, autocommit=True) as bob:
        bob.execute("CREATE TABLE heap (n int, filling text)")
        bob.execute(fill)
    over = folder.run("usage")
    assert over.code == 1
    assert "bob postgres is over its quota of 12.0 MB" in over.out
    enforced = folder.run("usage", "--enforce", "--json")
    assert enforced.code == 1, "it still is over its quota"
    assert enforced.json()["enforced"] == {
        "read_only": {"postgres": ["bob"]},
        "lifted": {},
        "standing": {"postgres": ["bob"]},
        "powerless": {},
        "errors": {},
    }
    assert load_engine(folder).plan().in_sync
    with psycopg.connect(address, autocommit=True) as bob:
        with pytest.raises(psycopg.Error):
            bob.execute(fill)
        assert bob.execute("SELECT count(*) FROM heap").fetchone() == (9000,)
        bob.execute("DELETE FROM heap")
    with postgres(folder) as admin:
        info = psycopg.conninfo.conninfo_to_dict(admin.info.dsn, password=admin.info.password, dbname="bob")
    with psycopg.connect(psycopg.conninfo.make_conninfo(**info), autocommit=True) as admin:
        admin.execute("VACUUM FULL heap")
    back = folder.ok("usage", "--enforce", "--json").json()
    assert back["enforced"]["lifted"] == {"postgres": ["bob"]}
    assert load_engine(folder).plan().in_sync
    with psycopg.connect(address, autocommit=True) as bob:
        bob.execute("INSERT INTO heap VALUES (1, 'one')")


def test_an_app_at_its_connection_limit(folder: Folder) -> None:
    address = env(folder, "eve")["DATABASE_URL"]
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(psycopg.connect(address))
        done = folder.run("health", "--store", "postgres", "--json")
    assert done.code == 1
    stores = {app: found["stores"]["postgres"] for app, found in done.json()["apps"].items()}
    assert [stores[app]["status"] for app in ("ann", "bob", "eve")] == ["healthy", "healthy", "unhealthy"]
    assert "connection" in stores["eve"]["message"]
    assert stores["eve"]["hint"]
    assert stores["eve"]["reached"] is True


def test_a_slow_server_is_told_by_its_latency_and_a_slower_one_by_its_timeout(folder: Folder) -> None:
    port = int(status(folder)["postgres"]["address"].split(":")[1])
    with throttled(port, 0.1) as slow:
        report, _ = impatient(folder, postgres=slow)
    assert report.status is not Status.UNHEALTHY
    assert all(each.health.latency and each.health.latency > 0.1 for each in report.checks if each.store == "postgres")
    with throttled(port, 3 * TIMEOUT) as hanging:
        report, took = impatient(folder, postgres=hanging)
    assert set(of(report, "postgres").values()) == {"unhealthy"}
    assert set(of(report, "redis").values()) == {"healthy"}
    assert took < 3 * TIMEOUT


@pytest.mark.parametrize("store", ["postgres", "redis"])
def test_a_stopped_server_costs_one_timeout_and_the_others_are_well(folder: Folder, store: str) -> None:
    """SIGSTOP: the kernel goes on accepting connections, and nobody answers."""
    other = "redis" if store == "postgres" else "postgres"
    pid = status(folder)[store]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        report, took = impatient(folder)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert set(of(report, store).values()) == {"unhealthy"}
    assert set(of(report, other).values()) == {"healthy"}
    assert not report.unreachable
    assert {each.reached for each in report.checks if each.store == store} == {False}
    assert took < 3 * TIMEOUT
    after, _ = impatient(folder)
    assert after.status is Status.HEALTHY


def watched(folder: Folder, *options: str) -> subprocess.Popen[str]:
    command = ["health", "--watch", "--every", "0.3", "--store", "redis", *options]
    return subprocess.Popen(
        [sys.executable, "-c", "from multidb.cli import main; main()", *command],
        cwd=folder.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_watching_into_a_pipe_prints_each_round_below_the_last(folder: Folder) -> None:
    watching = watched(folder)
    assert watching.stdout is not None
    heads = 0
    for line in watching.stdout:
        heads += line.startswith("app ")
        if heads == 3:
            break
    watching.send_signal(signal.SIGINT)
    rest, err = watching.communicate(timeout=20)
    assert (heads, watching.returncode, err) == (3, 0, ""), rest


def test_watching_a_server_die_and_ending_with_ctrl_c(folder: Folder) -> None:
    """One document a line. The server is killed while watched, which is told once; the last round decides the exit
    code."""
    with listening() as receiver:
        (folder.path / "hook").write_text(receiver.address)
        folder.manifest(MANIFEST + "notify: {webhooks: [{url: {file: hook}}]}\n")
        _watch_it_die(folder)
        folder.manifest(MANIFEST)
    # A round may be under way when it dies, in which some were answered yet.
    alarms = [alarm for _, _, message in receiver.heard for alarm in message["alarms"]]
    assert {(alarm["news"], alarm["kind"], alarm["store"]) for alarm in alarms} == {("began", "unhealthy", "redis")}
    assert sorted(alarm["app"] for alarm in alarms) == ["ann", "bob", "eve"], "each once"
    done = folder.run("health")
    assert done.code == 1, "the others answer"
    assert "multidb up" in done.out
    assert audited(folder).exit_code == 4


def _watch_it_die(folder: Folder) -> None:
    watching = watched(folder, "--json", "--notify")
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["status"] == "healthy"
    os.kill(status(folder)["redis"]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (last := json.loads(watching.stdout.readline()))["status"] == "healthy":
        assert time.monotonic() < deadline
    assert last["ok"] is False
    assert last["apps"]["ann"]["stores"]["redis"]["reached"] is False
    for _ in range(2):
        assert json.loads(watching.stdout.readline())["ok"] is False
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=20)
    assert watching.returncode == 4, err
    assert err == ""
