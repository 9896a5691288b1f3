"""The compose runtime where no engine is needed, or none answers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from multidb.deployment import containers
from multidb.diagnosis import diagnose
from multidb.errors import Locked, Refused, RuntimeUnavailable, ServerError, UsageError
from multidb.fleet import Fleet
from multidb.model import Finding, Level, Project, Server, Statement, unwatched
from multidb.project import load_project
from multidb.provisioners import provisioner
from multidb.provisioners.postgres.backup import programs
from multidb.provisioners.postgres.backup.inside import Inside
from multidb.provisioners.postgres.backup.programs import Program
from multidb.runtime import ServerState, open_runtime
from multidb.runtime.compose import ComposeRuntime
from multidb.runtime.compose_servers import RECORD, ComposeServers, located
from multidb.runtime.compose_start import ComposeStart, outdated
from multidb.runtime.container_state import ContainerState
from multidb.runtime.docker_engine import DockerEngine
from multidb.secrets import Secret
from multidb.state import ProjectState

MANIFEST = """\
version: 1
project: digi
runtime: compose
servers:
  postgres: {port: 15432}
apps:
  lernmi: {}
  beep_boop: {stores: [postgres, neo4j]}
"""


@pytest.fixture(autouse=True)
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")


def project(root: Path, manifest: str = MANIFEST) -> Project:
    (root / "multidb.yaml").write_text(manifest)
    return load_project(root / "multidb.yaml")


def opened(root: Path, manifest: str = MANIFEST, *, started: bool = True) -> ComposeRuntime:
    loaded, state = project(root, manifest), ProjectState(root)
    if started:
        state.secrets.put({each.admin_ref: Secret(f"secret-of-{each.server}") for each in containers(loaded)})
    runtime = open_runtime(loaded, state)
    assert isinstance(runtime, ComposeRuntime)
    return runtime


def test_published_servers_are_on_the_loopback_address_and_known_without_the_engine(tmp_path: Path) -> None:
    found = {server.name: server for server in opened(tmp_path).servers()}

    assert {name: str(server.endpoint) for name, server in found.items()} == {
        "postgres": "127.0.0.1:15432",
        "neo4j-lernmi": "127.0.0.1:7687",
        "neo4j-beep_boop": "127.0.0.1:7688",
        "qdrant": "127.0.0.1:6333",
        "redis": "127.0.0.1:6379",
    }
    assert found["qdrant"].endpoint.params == {"grpc_port": "6334"}
    assert found["neo4j-beep_boop"].app == "beep_boop"
    assert found["redis"].endpoint.user == "multidb_admin"
    assert found["neo4j-beep_boop"].container == ("digi", "neo4j-beep-boop")


def test_a_server_that_was_never_started_has_no_address(tmp_path: Path) -> None:
    runtime = opened(tmp_path, started=False)

    assert runtime.servers() == []
    assert {status.name for status in runtime.missing()} == {
        "postgres",
        "neo4j-lernmi",
        "neo4j-beep_boop",
        "qdrant",
        "redis",
    }
    assert all(status.state is ServerState.STOPPED for status in runtime.missing())


def test_an_app_names_its_own_servers_only(tmp_path: Path) -> None:
    loaded = project(tmp_path)

    assert opened(tmp_path).names_for(loaded.apps["beep_boop"]) == ["postgres", "neo4j-beep_boop"]


def test_with_backups_sets_are_tried_in_a_server_that_no_app_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = opened(tmp_path)
    neo4j = next(server for server in plain.servers() if server.name == "neo4j-lernmi")
    assert plain.scratch(neo4j, unwatched, adoptable=False) is None

    manifest = f"{MANIFEST}deploy: {{profiles: [backup]}}\n"
    runtime = opened(tmp_path, manifest)
    assert runtime.servers() == plain.servers()
    assert runtime.missing() == []
    assert runtime.names_for(project(tmp_path).apps["beep_boop"]) == ["postgres", "neo4j-beep_boop"]
    postgres = next(server for server in runtime.servers() if server.store == "postgres")
    assert runtime.scratch(postgres, unwatched, adoptable=False) is None
    assert runtime.scratch(neo4j, unwatched, adoptable=True) is None, "its data cannot become the other's"

    for inside, address in (("", "127.0.0.1:7686"), ("1", "scratch-neo4j:7687")):
        monkeypatch.setenv("MULTIDB_INSIDE", inside)
        lending = opened(tmp_path, manifest)
        lent, other = (lending.scratch(neo4j, unwatched, adoptable=False) for _ in range(2))
        assert lent is not None
        assert other is not None
        with lent as scratch:
            assert (str(scratch.endpoint), scratch.app, scratch.scratch, scratch.kept) == (
                address,
                "lernmi",
                True,
                True,
            )
            assert lending.admin(scratch) == Secret("secret-of-scratch-neo4j")
            with pytest.raises(Locked), other:
                pass


@pytest.mark.parametrize(
    ("more", "scratch_servers"),
    [
        ("deploy: {profiles: [backup]}", ["scratch-neo4j"]),
        ("deploy: {strategy: single, profiles: [backup]}", ["scratch-neo4j"]),
        ("deploy: {strategy: separate, profiles: [backup]}", []),
        ("deploy: {profiles: [monitoring]}", []),
        ("deploy: {profiles: [backup]}\nservers: {neo4j: {isolation: label}}", []),
        ("deploy: {profiles: [backup]}\nservers: {neo4j: {isolation: database}}", []),
    ],
)
def test_only_servers_with_room_for_one_place_have_a_scratch_server(
    tmp_path: Path, more: str, scratch_servers: list[str]
) -> None:
    loaded = project(tmp_path, f"version: 1\nproject: digi\nruntime: compose\napps: {{lernmi: {{}}}}\n{more}\n")
    assert [each.server for each in containers(loaded) if each.scratch] == scratch_servers


def test_without_published_ports_a_server_is_reached_inside_the_network(tmp_path: Path) -> None:
    qdrant = next(each for each in containers(project(tmp_path)) if each.store == "qdrant")
    seen = ContainerState("qdrant", "running", addresses={"other": "172.19.0.9", "digi": "172.18.0.4"})

    server = located(qdrant, seen, "digi")

    assert server is not None
    assert str(server.endpoint) == "172.18.0.4:6333"
    assert server.endpoint.params == {"grpc_port": "6334"}


@pytest.mark.parametrize(
    "seen", [None, ContainerState("qdrant", "exited"), ContainerState("qdrant", "running", addresses={"x": "10.0.0.1"})]
)
def test_without_published_ports_a_server_that_does_not_run_has_no_address(
    tmp_path: Path, seen: ContainerState | None
) -> None:
    qdrant = next(each for each in containers(project(tmp_path)) if each.store == "qdrant")

    assert located(qdrant, seen, "digi") is None


@pytest.mark.parametrize("action", ["up", "restart", "down", "status"])
def test_without_an_engine_the_error_says_what_to_start(tmp_path: Path, action: str) -> None:
    runtime = opened(tmp_path)

    with pytest.raises(RuntimeUnavailable, match="no Docker engine answers at unix://") as caught:
        runtime.status() if action == "status" else getattr(runtime, action)(_quiet)

    assert "systemctl start docker" in str(caught.value.hint)
    assert not (tmp_path / "infrastructure").exists()


def test_an_engine_on_another_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://build.example.com:2376")

    with pytest.raises(RuntimeUnavailable, match="on another machine"):
        opened(tmp_path).status()


def test_apps_with_servers_of_their_own_are_compose_projects_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def containers_of(engine: DockerEngine) -> dict[str, ContainerState]:
        asked.append(engine._project)
        return {}

    monkeypatch.setattr(DockerEngine, "containers", containers_of)
    runtime = opened(tmp_path, MANIFEST + "deploy: {strategy: separate, tls: own}\n")

    found = {status.name: status.server for status in runtime.status()}

    assert sorted(asked) == ["digi-beep_boop", "digi-lernmi"]
    assert {"postgres-lernmi", "postgres-beep_boop", "neo4j-beep_boop", "redis-lernmi"} < found.keys()
    server = found["postgres-beep_boop"]
    assert server is not None
    assert server.endpoint.tls
    assert server.endpoint.params == {
        "sslmode": "verify-full",
        "sslrootcert": f"{tmp_path}/apps/beep_boop/tls/ca.crt",
    }


def test_containers_of_an_app_made_elsewhere_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = opened(tmp_path, MANIFEST + "deploy: {strategy: separate}\n")
    made = {"redis-lernmi": ContainerState("redis-lernmi", "running", folder="/srv/other/apps/lernmi")}
    monkeypatch.setattr(DockerEngine, "containers", lambda engine: made if engine._project == "digi-lernmi" else {})

    for work in (lambda: runtime.up(_quiet), lambda: runtime.down(_quiet), runtime.status):
        with pytest.raises(Refused, match="digi-lernmi were made from /srv/other/apps/lernmi"):
            work()


def test_a_container_older_than_a_file_that_it_mounts_isoutdated(tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    for name in ("valkey.conf", "tls/server.crt"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1000, 1000))
    mounted = [tmp_path / "valkey.conf", tmp_path / "tls", tmp_path / "not there"]

    assert not outdated(ContainerState("redis", "running", started=1001), mounted)
    os.utime(tmp_path / "tls" / "server.crt", (1002, 1002))
    assert outdated(ContainerState("redis", "running", started=1001), mounted)
    assert not outdated(ContainerState("redis", "exited", started=1001), mounted)
    assert not outdated(None, mounted)


def test_a_server_that_can_takes_a_renewed_certificate_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other one is started anew, and so is one that could not, or whose configuration is another too."""
    manifest = MANIFEST.replace("lernmi: {}", "lernmi: {stores: [postgres, qdrant, redis]}") + "deploy: {tls: own}\n"
    opened(tmp_path, manifest)
    loaded, state = project(tmp_path, manifest), ProjectState(tmp_path)
    servers = ComposeServers(loaded, state)
    start = ComposeStart(loaded, state, servers, unwatched)
    start.render()
    tls = tmp_path / "infrastructure" / "tls"
    for file in (tmp_path / "infrastructure").rglob("*"):
        os.utime(file, (1000, 1000))
    seen = {name: ContainerState(name, "running", started=2000) for name in ("postgres", "redis", "qdrant")}
    executed: list[tuple[str, str]] = []
    told: list[str] = []
    stopped: list[str] = []

    class Told:
        def __init__(self, server: Server, *_: object) -> None:
            self._server = server

        def __enter__(self) -> Told:
            return self

        def __exit__(self, *_: object) -> None: ...

        def run(self, statements: Sequence[Statement], _: object) -> Iterator[int]:
            told.extend(statement.text for statement in statements)
            yield len(statements)

    monkeypatch.setattr(ComposeServers, "session", lambda _, server, secret: Told(server))
    monkeypatch.setattr(
        DockerEngine, "execute", lambda _, service, command: executed.append((service, " ".join(command)))
    )
    monkeypatch.setattr(DockerEngine, "stop", lambda _, service, seconds: stopped.append(service))
    chosen = [container for container in servers.containers if container.name in seen]

    def after(*changed: Path) -> tuple[set[str], set[str], list[str]]:
        for file in changed:
            os.utime(file, (3000, 3000))
        for calls in (executed, told, stopped):
            calls.clear()
        start.stop_outdated(chosen, seen)
        for file in changed:
            os.utime(file, (1000, 1000))
        return {service for service, _ in executed}, set(stopped), told

    certificates = [tls / name / "server.crt" for name in seen]
    assert after() == (set(), set(), [])
    assert after(*(tls / name / "ca.crt" for name in seen)) == (set(), set(), []), "no server looks at it"
    taken, started_anew, statements = after(*certificates)
    assert (taken, started_anew) == ({"postgres", "redis"}, {"qdrant"})
    assert "SELECT pg_reload_conf()" in statements
    assert any(text.startswith("CONFIG SET tls-cert-file /run/multidb/server.crt") for text in statements)
    assert {command for _, command in executed} == {"sh /etc/multidb-tls/key.sh"}
    assert after(certificates[0], tls / "postgres" / "start.sh") == (set(), {"postgres"}, [])

    def fails(_: DockerEngine, service: str, command: Sequence[str]) -> None:
        raise ServerError("its container is gone", where=service)

    monkeypatch.setattr(DockerEngine, "execute", fails)
    assert after(*certificates)[1] == {"postgres", "redis", "qdrant"}


def test_an_unknown_server_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no server named mysql") as caught:
        opened(tmp_path).up(_quiet, ["mysql"])

    assert "neo4j-lernmi" in str(caught.value.hint)


def _quiet(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
    """Nobody watches."""


def test_a_pooler_is_shown_beside_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = opened(tmp_path, MANIFEST + "deploy: {profiles: [pgbouncer]}\n", started=False)
    monkeypatch.setattr(
        DockerEngine, "containers", lambda _: {"pgbouncer": ContainerState("pgbouncer", "running", "healthy")}
    )

    found = {status.name: status.state for status in runtime.status()}

    assert found["pgbouncer"] is ServerState.RUNNING
    assert found["postgres"] is ServerState.STOPPED


def test_doctor_says_that_there_is_no_engine(tmp_path: Path) -> None:
    opened(tmp_path)
    findings = diagnose(Fleet(load_project(tmp_path / "multidb.yaml")))

    (found,) = [each for each in findings if each.subject == "docker"]
    assert found.level is Level.ERROR
    assert "no Docker engine answers" in found.message


def test_doctor_looks_for_pg_dump_as_backups_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, inside = Program("/usr/bin/pg_dump", "18.6", 18), Program("pg_dump", "15.18", 15, Inside("0123abcd"))
    monkeypatch.setattr(programs, "candidates", lambda name: iter(["/usr/bin/pg_dump"]))
    monkeypatch.setattr(programs, "program_at", lambda path: here)
    monkeypatch.setattr(programs, "located", lambda *labels: Inside("0123abcd"))
    monkeypatch.setattr(programs, "program_inside", lambda name, place: inside)
    servers = [each for each in opened(tmp_path).servers() if each.store == "postgres"]
    outside = [replace(each, container=None) for each in servers]
    examine = provisioner("postgres").examine
    assert examine is not None

    def found(majors: list[int], servers: list[Server]) -> Finding:
        (finding,) = examine(servers, majors)
        return finding

    assert not list(examine(servers, [])), "nobody knows yet what its container has"
    assert found([18], servers) == Finding(Level.OK, "pg_dump", "version 18.6")
    assert found([15], servers) == Finding(Level.OK, "pg_dump", "version 15.18 in the server's container is taken")
    assert found([15], outside).level is Level.ERROR
    assert "postgresql-client-15" in found([15], outside).fix
    assert found([], []).level is Level.OK
    monkeypatch.setattr(programs, "program_at", lambda path: None)
    assert found([], []).level is Level.WARNING
    assert "no server has said its version" in found([], []).message
    assert "no server has said its version" not in found([18], outside).message


def test_a_container_that_runs_though_no_app_uses_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = opened(tmp_path)
    made = ["digi_postgres-data", "digi_redis-data", "digi_qdrant-data"]
    with ProjectState(tmp_path).change(RECORD) as record:
        record["volumes"] = made
    folder = str(tmp_path / "infrastructure")
    running = {name: ContainerState(name, "running", folder=folder) for name in ("postgres", "redis", "neo4j-lernmi")}
    running["qdrant"] = ContainerState("qdrant", "exited", folder=folder)
    asked: list[DockerEngine] = []

    def containers_of(engine: DockerEngine) -> dict[str, ContainerState]:
        asked.append(engine)
        return running

    monkeypatch.setattr(DockerEngine, "containers", containers_of)
    assert started.servers()
    assert not asked, "every server has an app that uses it"

    without = MANIFEST[: MANIFEST.index("apps:")] + "apps: {lernmi: {stores: [postgres]}}\n"
    runtime = opened(tmp_path, without)
    left = {server.name: server for server in runtime.servers()}
    assert left.keys() == {"postgres", "redis"}
    assert str(left["redis"].endpoint) == "127.0.0.1:6379"
    assert runtime.admin(left["redis"]) == Secret("secret-of-redis")
    assert runtime.missing() == []
    assert "no app of the manifest uses it" in {status.name: status.message for status in runtime.status()}["redis"]

    with ProjectState(tmp_path).change(RECORD) as record:
        record["volumes"] = []
    assert [server.name for server in opened(tmp_path, without).servers()] == ["postgres"], "not ours"


def test_without_an_engine_nothing_is_said_of_servers_that_no_app_uses(tmp_path: Path) -> None:
    opened(tmp_path)
    with ProjectState(tmp_path).change(RECORD) as record:
        record["volumes"] = ["digi_redis-data"]
    without = MANIFEST[: MANIFEST.index("apps:")] + "apps: {lernmi: {stores: [postgres]}}\n"
    assert [server.name for server in opened(tmp_path, without).servers()] == ["postgres"]
