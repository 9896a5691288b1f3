"""TLS on real servers: started with what is rendered for their containers, with the paths of this test put in.

Each has to answer who knows its authority, and nobody else: a client with another authority hangs up, a plain one is
not let in, and the certificate holds for the names that it has only.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import yaml
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from multidb.client import connect as connect_app
from multidb.deployment import Deployment, containers, secured
from multidb.downloads import cache_folder
from multidb.errors import MultidbError
from multidb.model import Server
from multidb.model.container import Container
from multidb.ports import choose
from multidb.project import load_project
from multidb.provisioners import provisioner
from multidb.provisioners.neo4j.hosting import jars, program
from multidb.runtime.compose_servers import located
from multidb.secrets import Secret, SecretRef
from multidb.state import ProjectState
from tests.support.postgres_servers import cluster

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

MANIFEST = """
version: 1
project: PROJECT
runtime: compose
deploy: {tls: own}
apps: {ann: {}}
"""


@dataclass
class Rendered:
    """A deployment on the disk."""

    root: Path
    deployment: Deployment

    @property
    def authority(self) -> Path:
        return self.root / "infrastructure" / "tls" / "ca.crt"

    def container(self, store: str) -> Container:
        return next(each for each in containers(self.deployment.project) if each.store == store)

    def service(self, store: str) -> dict[str, Any]:
        document = yaml.safe_load((self.root / "infrastructure" / "docker-compose.yml").read_text())
        found: dict[str, Any] = document["services"][self.container(store).name]
        return found

    def folder(self, store: str) -> Path:
        return self.root / "infrastructure" / "tls" / self.container(store).name


@dataclass
class Inside:
    """The folders of a container, somewhere else."""

    root: Path
    rendered: Rendered
    store: str

    def moved(self, text: str) -> str:
        """A text of the container with the places that it has here."""
        text = text.replace("/etc/multidb-tls", str(self.rendered.folder(self.store)))
        return text.replace("/run/multidb", str(self.root))

    def install_key(self) -> None:
        """What ``key.sh`` does, with nobody as the image's user."""
        script = self.moved((self.rendered.folder(self.store) / "key.sh").read_text())
        script = re.sub(r"for user in .*;", "for user in nobody;", script)
        subprocess.run(["sh", "-c", script], check=True)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return _rendered(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of an authority that has nothing to do with our servers."""
    return _rendered(tmp_path_factory.mktemp("theirs"), "theirs").authority


def _rendered(root: Path, project: str) -> Rendered:
    (root / "multidb.yaml").write_text(MANIFEST.replace("PROJECT", project))
    loaded = load_project(root / "multidb.yaml")
    deployment = Deployment(loaded, ProjectState(root))
    deployment.write(deployment.files(new_secrets=True))
    return Rendered(root, deployment)


@pytest.fixture
def inside(rendered: Rendered, request: pytest.FixtureRequest) -> Iterator[Inside]:
    with tempfile.TemporaryDirectory(prefix="mdb-tls-") as name:
        Path(name).chmod(0o755)
        yield Inside(Path(name), rendered, request.param)


def server_at(rendered: Rendered, store: str, authority: Path, **ports: int) -> Server:
    """The server as multidb reaches it, on the ports of this test."""
    container = replace(rendered.container(store), published=ports)
    found = located(container, None, None)
    assert found is not None
    return replace(found, endpoint=secured(found.endpoint, container, str(authority)), timeout=30.0)


def login(server: Server, admin: Secret) -> str:
    with provisioner(server.store).connect(server, admin, "multidb test") as session:
        return str(session.facts.product)


def assert_closed_to_strangers(server: Server, admin: Secret, stranger: Path) -> None:
    """The three ways in that must not be; the one that must has been taken by the test before."""
    endpoint = server.endpoint
    trusting = {name: value if name == "sslmode" else str(stranger) for name, value in endpoint.params.items()}
    trusting |= {name: value for name, value in endpoint.params.items() if name.endswith("port")}
    plain = {name: "disable" for name in endpoint.params if name == "sslmode"}
    for wrong, said in (
        (replace(endpoint, params=trusting), "the TLS connection fails"),
        (replace(endpoint, host="127.0.0.2"), "the TLS connection fails"),  # by a name that it does not have
        (replace(endpoint, tls=False, params=plain), ""),
    ):
        socket.create_connection((wrong.host, wrong.port), 5).close()  # it is there: nothing but TLS keeps us out
        with pytest.raises(MultidbError) as caught:
            login(replace(server, endpoint=wrong, external=True), admin)
        assert admin.reveal() not in str(caught.value)
        assert said in caught.value.message
        assert not said or "start it" not in str(caught.value.hint)


def take_another_certificate(inside: Inside, server: Server, admin: Secret) -> None:
    """What `multidb up` does with a server that can take one while it runs: the files, the copy, the statement."""
    rendered, container = inside.rendered, inside.rendered.container(inside.store)
    state = rendered.deployment.state
    state.secrets.delete([SecretRef("@tls", "tls", container.name)])  # as one that is due
    rendered.deployment.write(rendered.deployment.files(new_secrets=True))
    inside.install_key()
    taking = [replace(statement, text=inside.moved(statement.text)) for statement in container.takes_certificate]
    with provisioner(server.store).connect(server, admin, "multidb test") as session:
        assert [*session.run(taking, state.secrets)] == [1]


def certificate_of(inside: Inside) -> bytes:
    """The one that was made for the server last."""
    text = (inside.rendered.folder(inside.store) / "server.crt").read_text()
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN") :])


@contextlib.contextmanager
def running(argv: Sequence[str | Path], port: int, env: Mapping[str, str], cwd: Path) -> Iterator[None]:
    log = cwd / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(argv, env=dict(env), cwd=cwd, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.mark.parametrize("inside", ["postgres"], indirect=True)
def test_postgres_takes_verified_connections_only(inside: Inside, rendered: Rendered, stranger: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a key to another user, as the container's start does")
    inside.install_key()
    hba = inside.root / "pg_hba.conf"  # the rendered one, where nobody may read it
    hba.write_text((rendered.root / "infrastructure/postgres/pg_hba.conf").read_text())
    words = rendered.service("postgres")["command"]
    settings = dict(inside.moved(word).split("=", 1) for word in words if "=" in word)
    settings |= {"hba_file": str(hba), "listen_addresses": "127.0.0.1,127.0.0.2"}
    with cluster(15, **settings) as made:
        server = server_at(rendered, "postgres", rendered.authority, port=made.port)

        assert login(server, made.admin()) == "PostgreSQL"
        assert_closed_to_strangers(server, made.admin(), stranger)

        ours = {"host": "localhost", "port": made.port, "user": "postgres", "password": made.password}
        trust = {"sslmode": "verify-full", "sslrootcert": str(rendered.authority)}
        with psycopg.connect(**ours, **trust, dbname="postgres") as connection:
            query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            assert connection.execute(query).fetchone() == (True,)
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            psycopg.connect(**ours, sslmode="disable", dbname="postgres")

        before = certificate_of(inside)
        with psycopg.connect(**ours, **trust, dbname="postgres") as lasting:
            assert shown_by_postgres(made.port) == before
            take_another_certificate(inside, server, made.admin())
            assert certificate_of(inside) != before
            deadline = time.monotonic() + 20
            while shown_by_postgres(made.port) == before:  # the server is told, and does it by and by
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert shown_by_postgres(made.port) == certificate_of(inside)
            assert login(server, made.admin()) == "PostgreSQL"
            assert lasting.execute("SELECT 1").fetchone() == (1,), "nobody's connection ends by it"


def shown_by_postgres(port: int) -> bytes:
    """The certificate that the server shows to who asks for TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 5) as plain:
        plain.sendall(struct.pack("!ii", 8, 80877103))  # SSLRequest
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain) as encrypted:
            return encrypted.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize("inside", ["redis"], indirect=True)
def test_redis_takes_verified_connections_only(inside: Inside, rendered: Rendered, stranger: Path) -> None:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server with TLS on this machine (Debian: apt-get install redis-server)")
    mounted, data, programs = inside.root / "mounted", inside.root / "data", inside.root / "programs"
    for folder in (mounted, data, programs):
        folder.mkdir()
    port = choose(())
    for file in (rendered.root / "infrastructure" / "valkey").iterdir():
        text = inside.moved(file.read_text()).replace("/data", str(data))
        (mounted / file.name).write_text(text.replace("tls-port 6379", f"tls-port {port}\nbind 127.0.0.1 127.0.0.2"))
    key = rendered.folder("redis") / "key.sh"
    (mounted / "start.sh").write_text((mounted / "start.sh").read_text().replace(str(key), str(mounted / "key.sh")))
    (mounted / "key.sh").write_text(inside.moved(key.read_text()))
    (programs / "docker-entrypoint.sh").write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    (programs / "docker-entrypoint.sh").chmod(0o755)
    admin = Secret("an-admin-password-of-the-tests")
    env = {"PATH": f"{programs}:/usr/bin:/bin", "REDISCLI_AUTH": admin.reveal()}
    with running(["sh", mounted / "start.sh", mounted / "valkey.conf"], port, env, inside.root):
        server = server_at(rendered, "redis", rendered.authority, port=port)

        assert login(server, admin) == "Redis"
        assert_closed_to_strangers(server, admin, stranger)

        options = {"username": "multidb_admin", "password": admin.reveal(), "ssl_ca_certs": str(rendered.authority)}
        with redis.Redis(port=port, ssl=True, **options) as client:
            assert client.config_get("port") == {"port": "0"}, "no plain port beside it"
        check = inside.moved(rendered.service("redis")["healthcheck"]["test"][1]).replace(
            "redis-cli", f"redis-cli -p {port}"
        )
        assert subprocess.run(["sh", "-c", check], env=env, timeout=20).returncode == 0

        before = certificate_of(inside)
        with redis.Redis(port=port, ssl=True, single_connection_client=True, **options) as lasting:
            session = lasting.client_id()
            assert ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port))) == before
            take_another_certificate(inside, server, admin)
            shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))
            assert shown == certificate_of(inside) != before
            assert login(server, admin) == "Redis"
            assert lasting.client_id() == session, "nobody's connection ends by it"


@pytest.mark.parametrize("inside", ["qdrant"], indirect=True)
def test_qdrant_takes_verified_connections_only(inside: Inside, rendered: Rendered, stranger: Path) -> None:
    program = os.environ.get("MULTIDB_TEST_QDRANT") or shutil.which("qdrant")
    if not program or not Path(program).is_file():
        pytest.skip("no Qdrant server: set MULTIDB_TEST_QDRANT to its binary")
    admin = Secret("an-api-key-of-the-tests-that-is-long-enough")
    port = choose(())
    grpc = choose({port})
    environment = {name: inside.moved(str(value)) for name, value in rendered.service("qdrant")["environment"].items()}
    environment |= {
        "QDRANT__SERVICE__API_KEY": admin.reveal(),
        "QDRANT__SERVICE__HOST": "0.0.0.0",  # as in the image
        "QDRANT__SERVICE__HTTP_PORT": str(port),
        "QDRANT__SERVICE__GRPC_PORT": str(grpc),
        "QDRANT__STORAGE__STORAGE_PATH": str(inside.root / "storage"),
        "QDRANT__STORAGE__SNAPSHOTS_PATH": str(inside.root / "snapshots"),
    }
    with running([program], port, environment, inside.root):
        server = server_at(rendered, "qdrant", rendered.authority, port=port, grpc_port=grpc)

        assert login(server, admin) == "Qdrant"
        assert_closed_to_strangers(server, admin, stranger)

        env = {"QDRANT_URL": f"https://127.0.0.1:{port}", "QDRANT_API_KEY": admin.reveal()}
        env |= {"QDRANT_COLLECTION_PREFIX": "ann_", "APP_TENANT_ID": "ann", "APP_NAME": "ann"}
        for authority, said in ((rendered.authority, "Not found: Collection"), (stranger, "CERTIFICATE_VERIFY_FAILED")):
            with (
                connect_app(variables={**env, "QDRANT_CA_FILE": str(authority)}, retry_for=0) as app,
                pytest.raises((UnexpectedResponse, ResponseHandlingException), match=said),
            ):
                app.qdrant.count("knowledge")


@pytest.mark.parametrize("inside", ["neo4j"], indirect=True)
def test_neo4j_takes_verified_connections_only(inside: Inside, rendered: Rendered, stranger: Path) -> None:
    java = program.find_java()
    library = cache_folder() / "neo4j" / jars.NEO4J_VERSION
    if java is None or not library.is_dir():
        pytest.skip("no Neo4j on this machine: an embedded multidb up fetches its jars")
    subprocess.run(["sh", "-c", inside.moved((rendered.folder("neo4j") / "key.sh").read_text())], check=True)
    admin, port = Secret("an-admin-password-of-the-tests"), choose(())
    program.prepare(inside.root, bolt_port=port, password=admin, heap="384m")
    settings = {
        name.removeprefix("NEO4J_").replace("__", "\0").replace("_", ".").replace("\0", "_"): inside.moved(str(value))
        for name, value in rendered.service("neo4j")["environment"].items()
        if "ssl" in name or "tls" in name
    }
    conf = inside.root / "conf" / "neo4j.conf"
    text = conf.read_text().replace("bolt.listen_address=127.0.0.1", "bolt.listen_address=0.0.0.0")
    conf.write_text(text + "".join(f"{name}={value}\n" for name, value in settings.items()))
    argv = program.command(java, library, inside.root, "384m")
    with running(argv, port, os.environ, inside.root):
        server = server_at(rendered, "neo4j", rendered.authority, port=port)

        assert login(server, admin) == "Neo4j"
        assert_closed_to_strangers(server, admin, stranger)
