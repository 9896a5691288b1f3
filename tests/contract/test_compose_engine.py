"""The whole way with Docker: render, up, healthy, apply, apps on their stores, down. Nothing is pulled."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from multidb.ports import choose
from multidb.runtime import compose_tool
from tests.contract.docker_engine import (
    OFFICIAL,
    CannotBeHad,
    Engine,
    most_open_files,
    multidb_image,
    prepare,
    running_engine,
)
from tests.support.command import REPOSITORY, Folder

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(1200)]

PROJECT = "multidbtest"
IMAGES = {"postgres": "postgres", "redis": "valkey", "qdrant": "qdrant", "neo4j": "neo4j"}
TLS_IMAGES = {**IMAGES, "redis": "redis"}
APPS = ("lernmi", "beep_boop")
PSQL = ("sh", "-c", 'PGPASSWORD=$POSTGRES_PASSWORD exec psql -U postgres "$@"', "psql")
"""In the container of a Postgres: a program of its own is let in with the password only, as everybody is."""


@dataclass
class Stack:
    """A project that is up and applied."""

    folder: Folder
    engine: Engine
    stores: list[str]
    left_out: dict[str, str]

    @property
    def services(self) -> set[str]:
        found = {store for store in self.stores if store != "neo4j"}
        return found | ({"neo4j-lernmi", "neo4j-beep-boop"} if "neo4j" in self.stores else set())

    def secrets(self) -> list[str]:
        document = json.loads((self.folder.path / ".multidb" / "secrets.json").read_text())
        return [value for value in document["secrets"].values() if len(value) > 20]

    def inspect(self, service: str) -> Any:
        (found,) = json.loads(self.engine.docker("inspect", self.container(service)))
        return found

    def container(self, service: str) -> str:
        labels = [f"label=com.docker.compose.project={PROJECT}", f"label=com.docker.compose.service={service}"]
        return self.engine.docker("ps", "-aq", "--filter", labels[0], "--filter", labels[1]).strip()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    try:
        with running_engine() as running:
            yield running
    except CannotBeHad as reason:
        pytest.skip(f"no Docker engine: {reason}")


@pytest.fixture(scope="module")
def left_out(engine: Engine) -> dict[str, str]:
    try:
        return prepare(engine)
    except CannotBeHad as reason:
        pytest.skip(f"no images: {reason}")


@pytest.fixture(scope="module")
def compose() -> list[str]:
    return compose_tool.command()


@pytest.fixture(scope="module")
def stack(
    engine: Engine, left_out: dict[str, str], compose: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    stores = [store for store in IMAGES if store not in left_out]
    folder = place(tmp_path_factory.mktemp("compose"))
    folder.manifest(manifest(stores))
    run(folder, engine, "render")
    run(folder, engine, "up", "--json")
    run(folder, engine, "apply", "--yes")
    yield Stack(folder, engine, stores, left_out)
    run(folder, engine, "down", "--volumes", "--yes-destroy", PROJECT)


def place(path: Path) -> Folder:
    """A project's folder, with a template of its own where this machine allows fewer open files than Qdrant's wants."""
    template = (REPOSITORY / "templates" / "services" / "qdrant.yml.j2").read_text()
    asked = max(int(number) for number in re.findall(r"(?:soft|hard): (\d+)", template))
    if most_open_files() < asked:
        own = path / "templates" / "services" / "qdrant.yml.j2"
        own.parent.mkdir(parents=True)
        own.write_text(template.replace(str(asked), str(most_open_files())))
    return Folder(path, [])


def manifest(
    stores: list[str],
    *,
    project: str = PROJECT,
    extra: str = "",
    images: Mapping[str, str] = IMAGES,
    apps: Mapping[str, list[str]] | None = None,
) -> str:
    ports: set[int] = set()
    lines = [f"version: 1\nproject: {project}\nruntime: compose\n{extra}servers:\n"]
    for store in stores:
        names = ["port", "grpc_port"] if store == "qdrant" else ["port"]
        # Where each app has a server of its own, ports count up.
        numbers = {name: choose(ports | {port + 1 for port in ports} | {port - 1 for port in ports}) for name in names}
        ports |= set(numbers.values())
        entry = {**numbers, **({"cpus": "2"} if store == "neo4j" else {})}
        entry |= {} if OFFICIAL else {"image": f"multidb-test/{images[store]}:1"}
        lines.append(f"  {store}: {{{', '.join(f'{name}: {value}' for name, value in entry.items())}}}\n")
    lines.append("apps:\n")
    for app, used in (apps or dict.fromkeys(APPS, stores)).items():
        lines.append(f"  {app}: {{stores: [{', '.join(used)}], deploy: {{image: 'multidb-test/app:1'}}}}\n")
    return "".join(lines)


def run(folder: Folder, engine: Engine, *arguments: str, code: int = 0) -> Any:
    done = folder.run(*arguments, env={"DOCKER_HOST": engine.host}, timeout=600)
    assert done.code == code, f"multidb {' '.join(arguments)}: exit {done.code}\n{done.out}\n{done.err}"
    return done


def test_every_server_comes_up_healthy_and_a_second_plan_is_empty(stack: Stack) -> None:
    servers = run(stack.folder, stack.engine, "status", "--json").json()["servers"]

    assert {each["state"] for each in servers} == {"running"}, servers
    assert {each["server"].replace("_", "-") for each in servers} == stack.services
    assert run(stack.folder, stack.engine, "plan", "--check", "--json").json()["changes"] == []
    run(stack.folder, stack.engine, "render", "--check")
    for service in stack.services:
        assert stack.inspect(service)["State"]["Health"]["Status"] == "healthy"
    print("servers:", [(each["server"], each["message"]) for each in servers], "left out:", stack.left_out)


@pytest.mark.parametrize(("app", "other"), [APPS, APPS[::-1]])
def test_an_app_has_its_own_stores_and_is_refused_by_the_others(
    stack: Stack, compose: list[str], app: str, other: str
) -> None:
    env = (stack.folder.path / "apps" / other / ".env").read_text()
    number = re.search(r"^REDIS_DB=(\d+)$", env, re.MULTILINE)
    about = {
        "OTHER_APP": other,
        "OTHER_REDIS_DB": number[1] if number else "",
        "OTHER_NEO4J": f"neo4j-{other.replace('_', '-')}",
    }
    argv = [*compose, "-p", f"{PROJECT}-{app}", "run", "--rm"]
    argv += [part for name, value in about.items() for part in ("-e", f"{name}={value}")]
    folder = stack.folder.path / "apps" / app
    done = subprocess.run(
        [*argv, app.replace("_", "-")], cwd=folder, env=stack.engine.environment, capture_output=True, text=True
    )
    subprocess.run([*compose, "-p", f"{PROJECT}-{app}", "down"], cwd=folder, env=stack.engine.environment, check=True)

    assert done.returncode == 0, done.stderr
    said = {tuple(line.split()[:2]): line for line in done.stdout.splitlines()}
    tried = {(store, whose) for store in stack.stores for whose in ("own", "other")}
    assert set(said) == tried, done.stdout
    for store in stack.stores:
        assert said[store, "own"].split()[2] == "ok", said[store, "own"]
        assert said[store, "other"].split()[2] == "refused", said[store, "other"]
    # Refused for the right reason: the server was reached, and said no.
    reasons = {
        "postgres": "permission denied for database",
        "redis": "No permissions to access",
        "qdrant": "403",
        "neo4j": "Unauthorized",
    }
    for store in stack.stores:
        assert reasons[store] in said[store, "other"]
    print(done.stdout)


def test_servers_are_published_on_the_loopback_address_only(stack: Stack) -> None:
    for service in stack.services:
        bound = [each for ports in stack.inspect(service)["NetworkSettings"]["Ports"].values() for each in ports or []]
        assert bound, service
        assert {each["HostIp"] for each in bound} == {"127.0.0.1"}


def test_no_secret_stands_in_a_command_line(stack: Stack) -> None:
    lines = [stack.engine.docker("top", stack.container(service), "-eo", "pid,args") for service in stack.services]
    lines += [json.dumps([stack.inspect(service)[key] for key in ("Path", "Args")]) for service in stack.services]

    assert len(stack.secrets()) >= len(stack.services)
    assert not [secret for secret in stack.secrets() for line in lines if secret in line]


def test_no_secret_is_shown_or_readable_by_others(stack: Stack) -> None:
    said = "".join(each.out + each.err for each in stack.folder.said)
    said += "".join(run(stack.folder, stack.engine, "logs", "-n", "1000").out)
    for path in stack.folder.path.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o077:
            said += path.read_text(errors="replace")

    assert "neo4j" in said or "postgres" in said
    assert not [secret for secret in stack.secrets() if secret in said]


def test_up_again_leaves_running_containers_alone(stack: Stack) -> None:
    before = {service: stack.container(service) for service in stack.services}
    run(stack.folder, stack.engine, "up")

    assert {service: stack.container(service) for service in stack.services} == before


def test_a_killed_server_is_seen_and_comes_back_with_its_users(stack: Stack) -> None:
    stack.engine.docker("kill", stack.container("redis"))

    servers = run(stack.folder, stack.engine, "status", "--json", code=1).json()["servers"]
    (valkey,) = [each for each in servers if each["server"] == "redis"]
    assert valkey["state"] == "failed"
    assert "exit code 137" in valkey["message"]

    run(stack.folder, stack.engine, "up", "--server", "redis")
    run(stack.folder, stack.engine, "plan", "--check")


def test_a_paused_server_is_named_with_the_command_that_lets_it_go_on(stack: Stack) -> None:
    stack.engine.docker("pause", stack.container("redis"))
    try:
        for command in ("up", "restart"):
            (valkey,) = [
                each
                for each in run(stack.folder, stack.engine, command, "--json", "--yes", code=4).json()["servers"]
                if each["server"] == "redis"
            ]
            assert "its container is paused" in valkey["message"]
            assert "port" not in valkey["message"]
    finally:
        way = re.search(r"docker (unpause \S+),", valkey["message"])
        assert way is not None
        stack.engine.docker(*way[1].split())
    run(stack.folder, stack.engine, "up")


def test_a_restart_makes_one_container_anew_and_its_app_is_named(stack: Stack) -> None:
    before = {service: stack.container(service) for service in stack.services}
    done = run(stack.folder, stack.engine, "restart", "postgres", "--json").json()

    assert [(each["server"], each["state"]) for each in done["servers"]] == [("postgres", "running")]
    assert done["cut_off"] == list(APPS)
    after = {service: stack.container(service) for service in stack.services}
    assert after.pop("postgres") != before.pop("postgres")
    assert after == before
    run(stack.folder, stack.engine, "plan", "--check")


def test_down_keeps_the_data_and_takes_the_network_only_when_nobody_is_in_it(stack: Stack) -> None:
    stack.engine.docker("run", "-d", "--name", "outsider", "--network", PROJECT, "multidb-test/app:1", "sleep", "600")
    try:
        run(stack.folder, stack.engine, "down")
        assert PROJECT in stack.engine.docker("network", "ls", "--format", "{{.Name}}").splitlines()
    finally:
        stack.engine.docker("rm", "-f", "outsider")
    run(stack.folder, stack.engine, "down")
    assert PROJECT not in stack.engine.docker("network", "ls", "--format", "{{.Name}}").splitlines()
    assert stack.container("postgres") == ""

    run(stack.folder, stack.engine, "up")
    run(stack.folder, stack.engine, "plan", "--check")


def test_data_is_deleted_only_for_the_projects_name(stack: Stack) -> None:
    before = stack.engine.docker("volume", "ls", "-q")
    asked = run(stack.folder, stack.engine, "down", "--volumes", code=3)
    run(stack.folder, stack.engine, "down", "--volumes", "--yes-destroy", "other", code=3)

    assert f"--yes-destroy {PROJECT}" in asked.err
    assert stack.engine.docker("volume", "ls", "-q") == before
    assert stack.container("postgres") != ""


def test_another_folder_with_the_same_project_is_refused(stack: Stack, tmp_path: Path) -> None:
    other = Folder(tmp_path, [])
    other.manifest((stack.folder.path / "multidb.yaml").read_text())
    before = stack.container("postgres")

    for arguments in (["up"], ["down"], ["down", "--volumes", "--yes-destroy", PROJECT]):
        assert "were made from" in run(other, stack.engine, *arguments, code=3).err
    assert stack.container("postgres") == before
    assert not (tmp_path / "infrastructure").exists()


def test_a_taken_port_keeps_that_server_only(stack: Stack, tmp_path: Path) -> None:
    taken = re.search(r"postgres: {port: (\d+)", (stack.folder.path / "multidb.yaml").read_text())
    assert taken is not None
    other = Folder(tmp_path, [])
    text = manifest(["postgres", "redis"], project="multidbtest2")
    other.manifest(re.sub(r"postgres: {port: \d+", f"postgres: {{port: {taken[1]}", text))
    try:
        done = run(other, stack.engine, "up", "--json", code=4)
    finally:
        run(other, stack.engine, "down", "--volumes", "--yes-destroy", "multidbtest2")

    found = {each["server"]: each for each in done.json()["servers"]}
    assert f"port {taken[1]} is taken" in found["postgres"]["message"]
    assert "servers.postgres.port" in found["postgres"]["message"]
    assert found["redis"]["state"] == "running"


def test_an_image_that_cannot_be_pulled_is_named(stack: Stack, tmp_path: Path) -> None:
    other = Folder(tmp_path, [])
    text = manifest(["postgres"], project="multidbtest3")
    other.manifest(re.sub(r"postgres: {port: (\d+)[^}]*}", r'postgres: {port: \1, image: "127.0.0.1:1/no:1"}', text))

    (server,) = run(other, stack.engine, "up", "--json", code=4).json()["servers"]

    assert server["state"] == "failed"
    assert "the image 127.0.0.1:1/no:1 cannot be pulled" in server["message"]
    assert "docker pull 127.0.0.1:1/no:1" in server["message"]


def test_with_expose_none_nothing_is_published_and_apply_works(stack: Stack, tmp_path: Path) -> None:
    other = Folder(tmp_path, [])
    stores = ["postgres", "redis"]
    other.manifest(manifest(stores, project="multidbtest4", extra="deploy: {expose: none}\n"))
    try:
        run(other, stack.engine, "up")
        run(other, stack.engine, "apply", "--yes")
        run(other, stack.engine, "plan", "--check")
        servers = run(other, stack.engine, "status", "--json").json()["servers"]
        ids = stack.engine.docker("ps", "-q", "--filter", "label=com.docker.compose.project=multidbtest4").split()
        ports = [json.loads(stack.engine.docker("inspect", each))[0]["HostConfig"]["PortBindings"] for each in ids]
        run(other, stack.engine, "down")
        stopped = run(other, stack.engine, "plan", code=4)
    finally:
        run(other, stack.engine, "down", "--volumes", "--yes-destroy", "multidbtest4")

    assert len(ids) == len(stores)
    assert not any(ports), ports
    assert not any(each["address"].startswith("127.") for each in servers), servers
    assert "multidb up" in stopped.out + stopped.err


def test_without_its_password_existing_data_is_left_alone(stack: Stack, tmp_path: Path) -> None:
    other = Folder(tmp_path, [])
    other.manifest(manifest(["redis"], project="multidbtest5"))
    try:
        run(other, stack.engine, "up")
        run(other, stack.engine, "down")
        secrets = tmp_path / ".multidb" / "secrets.json"
        kept = secrets.rename(tmp_path / "secrets.bak")
        done = run(other, stack.engine, "up", code=2)
        assert "its data is there (volume multidbtest5_redis-data)" in done.err
        assert not secrets.exists()
        kept.rename(secrets)
        run(other, stack.engine, "up")
    finally:
        run(other, stack.engine, "down", "--volumes", "--yes-destroy", "multidbtest5")


def services_of(engine: Engine, project: str) -> dict[str, str]:
    """The running containers of a compose project: their ids by service."""
    label = '{{.Label "com.docker.compose.service"}} {{.ID}}'
    listed = engine.docker("ps", "--filter", f"label=com.docker.compose.project={project}", "--format", label)
    return dict(line.split() for line in listed.splitlines())


def run_app(compose: list[str], engine: Engine, folder: Path, service: str) -> list[str]:
    """What the app says that is started with nothing but its rendered files. Compose finds its project in `.env`."""
    argv = [*compose, "run", "--rm", "-T", service]
    done = subprocess.run(argv, cwd=folder, env=engine.environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_apps_with_servers_of_their_own_over_tls(
    engine: Engine, compose: list[str], left_out: dict[str, str], tmp_path: Path
) -> None:
    """Strategy separate: a compose project for each app; and all of it over TLS."""
    project = "multidbtest6"
    stores = [store for store in IMAGES if store not in left_out and (store != "redis" or "redis-tls" not in left_out)]
    apps = {"lernmi": stores, "beep_boop": ["postgres"]}
    folder = place(tmp_path)
    options = "deploy: {strategy: separate, tls: own}\n"
    folder.manifest(manifest(stores, project=project, extra=options, images=TLS_IMAGES, apps=apps))
    try:
        up = run(folder, engine, "up", "--json").json()["servers"]
        run(folder, engine, "apply", "--yes")
        run(folder, engine, "plan", "--check")
        run(folder, engine, "health")
        status = run(folder, engine, "status", "--json").json()["servers"]
        before = {app: services_of(engine, f"{project}-{app}") for app in apps}
        said = run_app(compose, engine, tmp_path / "apps" / "lernmi", "lernmi")
        logs = run(folder, engine, "logs", "postgres-beep_boop").out
        run(folder, engine, "up")
        again = {app: services_of(engine, f"{project}-{app}") for app in apps}
        run(folder, engine, "down")
        left = {app: services_of(engine, f"{project}-{app}") for app in apps}
        kept = engine.docker("volume", "ls", "-q", "--filter", f"name={project}").split()
        run(folder, engine, "up", "--server", "postgres-beep_boop")
        run(folder, engine, "plan", "--check", "--app", "beep_boop")
    finally:
        run(folder, engine, "down", "--volumes", "--yes-destroy", project)

    names = {f"{store}-{app}" for app, used in apps.items() for store in used}
    assert {each["server"] for each in up} == {each["server"] for each in status} == names
    assert {each["state"] for each in status} == {"running"}
    assert {service for found in before.values() for service in found} == {name.replace("_", "-") for name in names}
    assert sorted(said) == sorted(f"{store} own ok" for store in stores)
    assert "database system is ready" in logs
    assert again == before
    assert left == {app: {} for app in apps}
    assert {f"{project}_{name.replace('_', '-')}-data" for name in names} == set(kept)
    assert not engine.docker("volume", "ls", "-q", "--filter", f"name={project}").split()
    print("over TLS:", said, [(each["server"], each["message"]) for each in status])


def test_a_pooler_over_tls_and_renewed_certificates(
    engine: Engine, compose: list[str], left_out: dict[str, str], tmp_path: Path
) -> None:
    """Strategy single, with a pooler before Postgres. Both take new certificates, and those of another authority,
    without a start; a client that waits for nothing but connections is refused none."""
    if "pgbouncer" in left_out:
        pytest.skip(left_out["pgbouncer"])
    project = "multidbtest7"
    folder = Folder(tmp_path, [])
    options = (
        "deploy: {strategy: single, tls: own, profiles: [pgbouncer], pgbouncer_image: 'multidb-test/pgbouncer:1'}\n"
    )
    folder.manifest(manifest(["postgres"], project=project, extra=options))
    refused: list[str] = []
    done = threading.Event()

    def keep_connecting(addresses: Mapping[str, tuple[str, int]]) -> None:
        while not done.wait(0.02):
            for name, address in addresses.items():
                try:
                    shown_certificate(*address)
                except OSError as error:
                    refused.append(f"{name}: {error}")

    try:
        up = run(folder, engine, "up", "--json").json()["servers"]
        run(folder, engine, "apply", "--yes")
        running = services_of(engine, project)
        said = run_app(compose, engine, tmp_path / "infrastructure", "lernmi")
        addresses = {
            "postgres": (address_of(engine, running["postgres"]), 5432),
            "pgbouncer": (address_of(engine, running["pgbouncer"]), 6432),
        }
        former = {name: shown_certificate(*address) for name, address in addresses.items()}
        client = threading.Thread(target=keep_connecting, args=(addresses,))
        client.start()
        for options in ((), ("--authority",)):
            command = ("rotate", "--certificates", *options, "--yes", "--json")
            rotated = run(folder, engine, *command).json()["certificates"]
            former = unlike(former, addresses)
            said += run_app(compose, engine, tmp_path / "infrastructure", "lernmi")
        run(folder, engine, "up")
        renewed = services_of(engine, project)
        done.set()
        client.join()
        run(folder, engine, "plan", "--check")
        status = run(folder, engine, "status", "--json").json()["servers"]
    finally:
        done.set()
        run(folder, engine, "down", "--volumes", "--yes-destroy", project)

    address = (tmp_path / "apps" / "lernmi" / ".env").read_text()
    assert "@pgbouncer:6432/lernmi?sslmode=verify-full" in address
    assert {each["server"]: each["state"] for each in up} == {"postgres": "running", "pgbouncer": "running"}
    assert set(running) == {"postgres", "pgbouncer"}, "up starts servers, not apps"
    assert said == ["postgres own ok"] * 3
    assert [(one["name"], one["restarted"], one["error"]) for one in rotated] == [
        (name, False, None) for name in ("authority", "postgres", "pgbouncer")
    ]
    assert renewed == running
    assert refused == []
    assert {each["state"] for each in status} == {"running"}


def unlike(former: Mapping[str, bytes], addresses: Mapping[str, tuple[str, int]]) -> dict[str, bytes]:
    """The certificates that are shown once each is another one."""
    shown: dict[str, bytes] = {}

    def others() -> bool:
        shown.update({name: shown_certificate(*address) for name, address in addresses.items()})
        return all(shown[name] != former[name] for name in addresses)

    until(others)
    return shown


def address_of(engine: Engine, container: str) -> str:
    """Where a container is reached from this machine."""
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    return engine.docker("inspect", "--format", form, container).split()[0]


def shown_certificate(host: str, port: int) -> bytes:
    """The certificate that what speaks Postgres' protocol there shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, port), 10) as plain:
        plain.sendall(struct.pack("!ii", 8, 80877103))  # SSLRequest
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain, server_hostname=host) as encrypted:
            return encrypted.getpeercert(binary_form=True) or b""


def test_a_backup_and_back_with_the_programs_in_the_servers_container(
    engine: Engine, left_out: dict[str, str], tmp_path: Path
) -> None:
    """As on a machine without Postgres' programs: those in the container dump, prove, and restore."""
    project = "multidbtest9"
    folder = Folder(tmp_path / "project", [])
    folder.path.mkdir()
    options = "deploy: {tls: own}\nbackup: {to: [sets/], verify: always}\n"
    folder.manifest(manifest(["postgres"], project=project, extra=options))
    bare = tmp_path / "bare"  # Python runs the file in it as it starts
    bare.mkdir()
    (bare / "sitecustomize.py").write_text(
        "from multidb.provisioners.postgres.backup import programs\nprograms.candidates = lambda name: iter(())\n"
    )

    def without(*arguments: str, code: int = 0) -> Any:
        env = {"DOCKER_HOST": engine.host, "PYTHONPATH": f"{bare}:{REPOSITORY}"}
        done = folder.run(*arguments, env=env, timeout=600)
        assert done.code == code, f"multidb {' '.join(arguments)}: exit {done.code}\n{done.out}\n{done.err}"
        return done

    def sql(text: str) -> str:
        container = services_of(engine, project)["postgres"]
        return engine.docker("exec", container, *PSQL, "-d", "lernmi", "-qAtc", text)

    looked = "SELECT count(*), sum(id), md5(string_agg(note, '' ORDER BY id)) FROM people; TABLE totals"
    try:
        run(folder, engine, "up")
        run(folder, engine, "apply", "--yes")
        sql(
            "SET ROLE lernmi_owner; CREATE TABLE people (id int PRIMARY KEY, note text);"
            "INSERT INTO people SELECT n, repeat(md5(n::text), 40) FROM generate_series(1, 20000) n;"
            "CREATE INDEX ON people (md5(note));"
            "CREATE MATERIALIZED VIEW totals AS SELECT count(*), sum(id) FROM people;"
            "ALTER TABLE people ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON people USING (true);"
            "CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 50) n;"
            "CREATE TABLE parted (id int) PARTITION BY LIST (id)"
        )
        before = sql(looked)
        clean = engine.docker("exec", services_of(engine, project)["postgres"], "ls", "/tmp")
        (made,) = without("backup", "lernmi", "--json").json()["sets"]
        sql(
            "DELETE FROM people WHERE id > 3; DROP MATERIALIZED VIEW totals;"
            "SET ROLE lernmi_owner; CREATE TABLE later ()"
        )
        without("restore", made["set"], "--replace")
        after = sql(looked)
        sql("DELETE FROM orders WHERE id > 3")
        without("restore", made["set"], "--replace", "--table", "orders")
        again = sql("SELECT count(*) FROM orders")
        container = services_of(engine, project)["postgres"]
        left = engine.docker("exec", container, "ls", "/tmp")
        run(folder, engine, "plan", "--check")
        ended = interrupted_at_a_lock(folder, engine, container, str(bare))
        engine.docker("exec", container, "sh", "-c", "rm -f /usr/bin/pg_dump /usr/lib/postgresql/*/bin/pg_dump")
        refused = without("backup", "lernmi", code=6)
    finally:
        run(folder, engine, "down", "--volumes", "--yes-destroy", project)

    assert made["verified"]
    assert before.startswith("20000|")
    assert after == before
    assert again.strip() == "50"
    assert left == clean
    assert "pg_dump" in ended[0]
    assert "pg_dump" not in ended[1], "it went on in the container"
    said = refused.out + refused.err
    assert "this machine has none, the server's container none" in said
    assert "postgresql-client-" in said


def test_the_sidecars_back_up_and_watch_from_inside_the_network(
    engine: Engine, compose: list[str], left_out: dict[str, str], tmp_path: Path
) -> None:
    """The services beside the servers, where nothing is published: the backup's is killed while it makes a set; started
    again, it clears that away and makes one that is proved, and the host restores it. `serve` answers."""
    try:
        image = multidb_image(engine)
    except CannotBeHad as reason:
        pytest.skip(str(reason))
    project = "multidbtest10"
    folder = Folder(tmp_path, [])
    options = (
        f"deploy: {{expose: none, profiles: [backup, monitoring], backup_image: '{image}'}}\n"
        "backup: {every: 24h, to: [sets/], verify: always}\n"
    )
    folder.manifest(manifest(["postgres", "redis"], project=project, extra=options))

    def composed(*arguments: str) -> str:
        argv = [*compose, "--profile", "backup", "--profile", "monitoring", *arguments]
        done = subprocess.run(
            argv, cwd=tmp_path / "infrastructure", env=engine.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def sql(text: str) -> str:
        container = services_of(engine, project)["postgres"]
        return engine.docker("exec", container, *PSQL, "-d", "lernmi", "-qAtc", text)

    def half_made() -> list[Path]:
        return [path for path in (tmp_path / "sets").rglob("*.part") if "lernmi" in path.parts]

    def asked(path: str, token: str) -> str:
        ask = "import sys, urllib.request as r; a, t = sys.argv[1:]\n"
        ask += "q = r.Request('http://127.0.0.1:8642' + a, headers={'Authorization': 'Bearer ' + t})\n"
        ask += "print(r.urlopen(q, timeout=60).read().decode())"
        return engine.docker("exec", services_of(engine, project)["multidb"], "python3", "-c", ask, path, token)

    try:
        run(folder, engine, "up")
        run(folder, engine, "apply", "--yes")
        sql(
            "SET ROLE lernmi_owner; CREATE TABLE people AS SELECT n AS id FROM generate_series(1, 1000) n;"
            "CREATE TABLE parted (id int) PARTITION BY LIST (id)"  # for which only pg_dump waits, its file begun
        )
        lock = [*PSQL, "-d", "lernmi", "-c", "BEGIN; LOCK TABLE parted; SELECT pg_sleep(600)"]
        engine.docker("exec", "-d", services_of(engine, project)["postgres"], *lock)
        until(
            lambda: sql("SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'parted'::regclass")
        )
        composed("up", "-d", "backup", "multidb")
        until(half_made)
        engine.docker("kill", services_of(engine, project)["backup"])
        interrupted = half_made()
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%'")
        composed("up", "-d", "backup")
        until(lambda: "verified" in composed("logs", "backup"))
        sets = run(folder, engine, "backups", "list", "lernmi", "--json").json()["sets"]
        sql("DELETE FROM people")
        run(folder, engine, "restore", "lernmi", "--replace")
        restored = sql("SELECT count(*) FROM people")
        token = re.search("^MULTIDB_TOKEN=(.*)$", (tmp_path / "infrastructure/.env").read_text(), re.MULTILINE)
        assert token is not None
        health = json.loads(asked("/health/databases", token[1]))
        metrics = asked("/metrics", token[1])
        said = composed("logs")
        secrets = json.loads((tmp_path / ".multidb/secrets.json").read_text())["secrets"].values()
        user = engine.docker("exec", services_of(engine, project)["backup"], "id", "-u").strip()
        composed("stop", "backup", "multidb")
        ended = [engine.docker("inspect", "--format", "{{.State.ExitCode}}", name) for name in stopped(engine, project)]
    finally:
        run(folder, engine, "down", "--volumes", "--yes-destroy", project)

    assert interrupted
    assert "lernmi: removed what an interrupted backup left" in said
    assert not half_made()
    assert [each["verified"] for each in sets] == [True]
    assert restored.strip() == "1000"
    assert user == str(tmp_path.stat().st_uid)
    assert health["status"] == "healthy", health
    assert 'multidb_app_status{app="lernmi",status="healthy"} 1.0' in metrics
    assert not [secret for secret in secrets if len(secret) > 20 and secret in said]
    assert [code.strip() for code in ended] == ["0", "0"], "told to stop, they end by themselves"


def until(seen: Callable[[], object]) -> None:
    """Waits until it is so."""
    for _ in range(300):
        if seen():
            return
        time.sleep(0.2)
    pytest.fail("it was not so within a minute")


def stopped(engine: Engine, project: str) -> list[str]:
    """The containers of a compose project that have ended."""
    label = f"label=com.docker.compose.project={project}"
    return engine.docker("ps", "-aq", "--filter", label, "--filter", "status=exited").split()


def interrupted_at_a_lock(folder: Folder, engine: Engine, container: str, path: str) -> list[str]:
    """What runs in the container while pg_dump waits there for a table, and once it was interrupted by Ctrl-C."""
    # one without rows of its own: multidb itself waits for the others, before pg_dump is started
    waiting = "BEGIN; LOCK TABLE parted; SELECT pg_sleep(600)"
    lock = ["docker", "exec", container, *PSQL, "-d", "lernmi", "-c", waiting]
    program = [sys.executable, "-c", "from multidb.cli import main; main()", "backup", "lernmi"]
    env = {**engine.environment, "PYTHONPATH": f"{path}:{REPOSITORY}"}
    with (
        subprocess.Popen(lock, env=engine.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
        subprocess.Popen(program, cwd=folder.path, env=env, stderr=subprocess.DEVNULL) as backup,
    ):
        found = []
        for _ in range(150):
            found = [engine.docker("top", container, "-eo", "pid,args")]
            if "pg_dump" in found[0] and "LOCK TABLE waiting" in found[0]:
                break
            time.sleep(0.2)
        backup.send_signal(signal.SIGINT)
        backup.wait(60)
        found.append(engine.docker("top", container, "-eo", "pid,args"))
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%'"
        engine.docker("exec", container, *PSQL, "-c", end)
    return found


def test_a_new_app_gets_a_server_of_its_own_and_what_the_others_share(
    engine: Engine, left_out: dict[str, str], tmp_path: Path
) -> None:
    """Where a store has a server for each app, `add-app` makes and starts the new one; the others' are left alone."""
    if "neo4j" in left_out:
        pytest.skip(left_out["neo4j"])
    project = "multidbtest11"
    folder = Folder(tmp_path, [])
    folder.manifest(manifest(["redis", "neo4j"], project=project, apps={"lernmi": ["redis", "neo4j"]}))
    try:
        run(folder, engine, "render")
        run(folder, engine, "up")
        run(folder, engine, "apply", "--yes")
        before = services_of(engine, project)
        run(folder, engine, "add-app", "beep-boop", "--stores", "redis,neo4j", "--yes")
        after = services_of(engine, project)
        health = run(folder, engine, "health", "--json").json()["apps"]
        plan = run(folder, engine, "plan", "--check", "--json").json()["changes"]
        run(folder, engine, "render", "--check")
        run(folder, engine, "up")
        again = services_of(engine, project)
        run(folder, engine, "audit", "beep_boop")
    finally:
        run(folder, engine, "down", "--volumes", "--yes-destroy", project)

    assert set(before) == {"redis", "neo4j-lernmi"}
    assert {name: after[name] for name in before} == before
    assert set(after) == {*before, "neo4j-beep-boop"}
    assert {store: status["status"] for store, status in health["beep_boop"]["stores"].items()} == {
        "neo4j": "healthy",
        "redis": "healthy",
    }
    assert plan == []
    assert again == after
    assert "NEO4J_PASSWORD=" in (tmp_path / "apps" / "beep_boop" / ".env").read_text()


def test_an_app_in_a_container_is_brought_back_to_a_moment(
    engine: Engine, left_out: dict[str, str], tmp_path: Path
) -> None:
    """Its server's log is taken through the network, and its copy brought up as a process of this machine."""
    project = "multidbtest14"
    folder = place(tmp_path)
    extra = "backup: {to: [sets/], every: 52w, verify: never, postgres: {continuous: true}}\n"
    folder.manifest(manifest(["postgres"], project=project, extra=extra))

    def sql(text: str) -> str:
        container = services_of(engine, project)["postgres"]
        return engine.docker("exec", container, *PSQL, "-d", "lernmi", "-qAtc", text).strip()

    try:
        run(folder, engine, "up")
        run(folder, engine, "apply", "--yes")
        (first,) = run(folder, engine, "backup", "--due", "--json").json()["archived"]
        sql("SET ROLE lernmi_owner; CREATE TABLE people AS SELECT n AS id FROM generate_series(1, 1000) n")
        time.sleep(0.2)
        moment = sql("SELECT clock_timestamp() AT TIME ZONE 'UTC'")
        time.sleep(0.2)
        sql("DROP TABLE people")
        (second,) = run(folder, engine, "backup", "--due", "--json").json()["archived"]
        run(folder, engine, "restore", "lernmi", "--at", moment, "--replace")
        restored = sql("SELECT count(*) FROM people")
        run(folder, engine, "plan", "--check")
        (tried,) = run(folder, engine, "backups", "verify", "lernmi", "--at", "newest", "--json").json()["sets"]
        refused = engine.docker("exec", services_of(engine, project)["postgres"], *PSQL, "-Atc", _REPLICATING)
    finally:
        run(folder, engine, "down", "--volumes", "--yes-destroy", project)

    assert first["base"]
    assert first["error"] is None
    assert second["files"]
    assert restored == "1000"
    assert tried["verified"]
    assert refused.split() == ["postgres"], "nobody but the admin may take the log"


_REPLICATING = "SELECT rolname FROM pg_roles WHERE rolreplication AND rolcanlogin"


def test_admins_get_new_passwords_in_their_containers(engine: Engine, left_out: dict[str, str], tmp_path: Path) -> None:
    """The admins' passwords are replaced while apps work; the next `up` makes what remembers the former ones anew."""
    project = "multidbtest12"
    stores = [store for store in IMAGES if store not in left_out]
    folder = place(tmp_path)
    folder.manifest(manifest(stores, project=project, apps={"lernmi": stores}))
    env = tmp_path / "infrastructure" / ".env"
    try:
        run(folder, engine, "up")
        run(folder, engine, "apply", "--yes")
        credentials = (tmp_path / "apps" / "lernmi" / ".env").read_text()
        former = env.read_text()
        started = services_of(engine, project)
        run(folder, engine, "rotate", "--admin", "--yes")
        between = services_of(engine, project)
        run(folder, engine, "health")
        run(folder, engine, "rotate", "--admin", "--finish", "--yes")
        finished = services_of(engine, project)
        run(folder, engine, "health")
        run(folder, engine, "up")
        made_anew = services_of(engine, project)
        run(folder, engine, "plan", "--check")
        health = run(folder, engine, "health", "--json").json()
        run(folder, engine, "up")
        again = services_of(engine, project)
        renewed = env.read_text()
    finally:
        run(folder, engine, "down", "--volumes", "--yes-destroy", project)

    assert health["status"] == "healthy"
    names = r"^(POSTGRES_PASSWORD|NEO4J_AUTH_\w+|QDRANT__SERVICE__API_KEY|REDISCLI_AUTH)=(?:neo4j/)?(\S+)$"
    old = dict(re.findall(names, former, re.MULTILINE))
    assert len(old) >= len(stores)
    assert {name for name in old if old[name] in renewed} == set()
    assert {name: between[name] for name in between if not name.startswith("qdrant")} == {
        name: started[name] for name in started if not name.startswith("qdrant")
    }
    for service in finished:
        same = finished[service] == started[service]
        assert same == service.startswith(("postgres", "neo4j")), f"{service} was made anew by --finish: {not same}"
    assert made_anew["redis"] == finished["redis"]
    assert made_anew["postgres"] != finished["postgres"]
    assert again == made_anew
    if "qdrant" not in stores:
        assert (tmp_path / "apps" / "lernmi" / ".env").read_text() == credentials


def test_a_proxy_speaks_tls_before_the_service(
    engine: Engine, compose: list[str], left_out: dict[str, str], tmp_path: Path
) -> None:
    """The profile `proxy`, as rendered: https on this machine, answers with the token only, and knows who asks."""
    if "caddy" in left_out:
        pytest.skip(left_out["caddy"])
    try:
        image = multidb_image(engine)
    except CannotBeHad as reason:
        pytest.skip(str(reason))
    project = "multidbtest13"
    folder = Folder(tmp_path, [])
    own = "" if OFFICIAL else "proxy: {image: 'multidb-test/caddy:1'}, "
    options = f"deploy: {{profiles: [proxy], {own}backup_image: '{image}'}}\n"
    folder.manifest(manifest(["redis"], project=project, extra=options))

    def composed(*arguments: str) -> str:
        argv = [*compose, "--profile", "proxy", *arguments]
        done = subprocess.run(
            argv, cwd=tmp_path / "infrastructure", env=engine.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def asked(path: str, token: str = "") -> tuple[int, str]:
        request = urllib.request.Request("https://localhost" + path)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, ""

    try:
        run(folder, engine, "up")
        run(folder, engine, "apply", "--yes")
        composed("up", "-d", "multidb", "proxy")
        authority = tmp_path / "root.crt"
        place = "/data/caddy/pki/authorities/local/root.crt"
        until(lambda: engine.docker("exec", services_of(engine, project)["proxy"], "ls", place, check=False).strip())
        engine.docker("cp", f"{services_of(engine, project)['proxy']}:{place}", str(authority))
        context = ssl.create_default_context(cafile=str(authority))
        token = re.search("^MULTIDB_TOKEN=(.*)$", (tmp_path / "infrastructure/.env").read_text(), re.MULTILINE)
        assert token is not None
        live = asked("/health/live")
        refused = asked("/health/databases")
        health = asked("/health/databases", token[1])
        page = asked("/", token[1])
        said = composed("logs", "multidb")
        running = services_of(engine, project)
        bindings = ("inspect", "--format", "{{json .HostConfig.PortBindings}}")
        ports = [json.loads(engine.docker(*bindings, running[name])) for name in ("proxy", "multidb")]
        composed("down")
    finally:
        run(folder, engine, "down", "--volumes", "--yes-destroy", project)

    assert live[0] == 200
    assert refused[0] == 401
    assert health[0] == 200
    assert json.loads(health[1])["status"] == "healthy"
    assert "<html" in page[1]
    assert token[1] not in said
    assert {binding["HostIp"] for of in ports for bound in of.values() for binding in bound} == {"127.0.0.1"}


def test_a_container_that_no_app_uses_any_more_is_asked_like_the_others(
    engine: Engine, left_out: dict[str, str], tmp_path: Path
) -> None:
    project, stores = "multidbtest9", ["redis", "postgres"]
    folder = place(tmp_path)
    both = manifest(stores, project=project, apps={"ann": stores, "bob": ["postgres"]})
    folder.manifest(both)
    try:
        run(folder, engine, "up")
        run(folder, engine, "apply", "--yes")
        login = folder.variables("ann")
        folder.manifest("".join(line for line in both.splitlines(keepends=True) if not line.startswith("  ann:")))
        run(folder, engine, "up")
        listed = run(folder, engine, "status", "--json").json()["servers"]
        addresses = {each["server"]: each["address"] for each in listed}
        planned = run(folder, engine, "plan", "--check", code=1)
        run(folder, engine, "remove-app", "ann", "--yes", "--no-backup")
        (host, port), user = addresses["redis"].split(":"), login["REDIS_USER"]
        with (
            redis.Redis(host, int(port), username=user, password=login["REDIS_PASSWORD"]) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
        run(folder, engine, "purge", "ann", "--yes-destroy", "ann")
        run(folder, engine, "plan", "--check")
        run(folder, engine, "down")
        assert not services_of(engine, project)
    finally:
        run(folder, engine, "down", "--volumes", "--yes-destroy", project)

    assert "no app of the manifest uses it" in {each["server"]: each["message"] for each in listed}["redis"]
    assert "app ann: is on the servers and not in the manifest: " in planned.out
    assert "acl user ann_user" in planned.out


def test_the_typed_name_of_the_project_deletes_its_data(
    engine: Engine, left_out: dict[str, str], tmp_path: Path
) -> None:
    project = "multidbtest8"
    folder = Folder(tmp_path, [])
    folder.manifest(manifest(["redis"], project=project))
    try:
        run(folder, engine, "up")
        refused = at_a_terminal(folder, engine, "yes", "down", "--volumes")
        there = services_of(engine, project)
        agreed = at_a_terminal(folder, engine, project, "down", "--volumes")
    finally:
        run(folder, engine, "down", "--volumes", "--yes-destroy", project)

    assert refused[0] == 3
    assert f"Type {project} to go on" in refused[1]
    assert "nothing was stopped or deleted" in refused[1]
    assert set(there) == {"redis"}
    assert agreed[0] == 0, agreed[1]
    assert "its data is deleted" in agreed[1]
    assert not engine.docker("volume", "ls", "-q", "--filter", f"name={project}_").split()


def at_a_terminal(folder: Folder, engine: Engine, answer: str, *arguments: str) -> tuple[int, str]:
    """Runs multidb at a terminal, and types `answer` when it asks. The exit code, and what the screen has shown."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder.path)
        environment = {**engine.environment, "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "COLUMNS": "120", "CI": ""}
        program = [sys.executable, "-c", "from multidb.cli import main; main()", *arguments]
        os.execve(sys.executable, program, environment)
    shown = b""
    typed = False
    with contextlib.suppress(OSError):  # a terminal whose program has ended is an error to read from
        while part := os.read(terminal, 4096):
            shown += part
            if not typed and b"to go on" in shown:
                os.write(terminal, answer.encode() + b"\n")
                typed = True
    _, state = os.waitpid(process, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(state), shown.decode(errors="replace")
