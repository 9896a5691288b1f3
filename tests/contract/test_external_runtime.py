"""The external runtime against real sockets and files."""

import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from multidb.errors import Refused, UsageError
from multidb.model import App, Project, RuntimeKind, unwatched
from multidb.runtime import ServerState
from multidb.runtime.external import ExternalRuntime
from multidb.state import ProjectState
from tests.support.specs import spec


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def runtime(root: Path, **external: Mapping[str, object]) -> ExternalRuntime:
    apps = {"a": App("a", "a", dict.fromkeys(external))}
    servers = tuple(spec(store, address) for store, address in external.items())
    return ExternalRuntime(Project("p", RuntimeKind.EXTERNAL, apps, servers, root=str(root)), ProjectState(root))


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_status_tells_who_can_be_reached(tmp_path: Path, listening: int) -> None:
    it = runtime(
        tmp_path,
        postgres={"url": f"postgresql://127.0.0.1:{listening}"},
        redis={"url": f"redis://127.0.0.1:{closed_port()}"},
        qdrant={"path": "vectors"},
        neo4j={"url": "bolt://no-such-host.invalid"},
    )
    found = {status.name: status for status in it.status()}
    assert found["postgres"].state is ServerState.RUNNING
    assert found["redis"].state is ServerState.FAILED
    assert "refused" in found["redis"].message
    assert found["qdrant"].state is ServerState.STOPPED
    assert found["neo4j"].state is ServerState.FAILED
    (tmp_path / "vectors").mkdir()
    assert {s.name: s.state for s in it.status()}["qdrant"] is ServerState.RUNNING
    assert not (tmp_path / ".multidb").exists()


def test_a_restart_is_for_whoever_runs_the_servers(tmp_path: Path, listening: int) -> None:
    it = runtime(tmp_path, postgres={"url": f"postgresql://127.0.0.1:{listening}"})
    with pytest.raises(Refused, match="not ours to restart") as caught:
        it.restart(unwatched, ["postgres"])
    assert "whoever runs them restarts them" in (caught.value.hint or "")


def test_servers_that_ignore_us_are_waited_for_together(tmp_path: Path) -> None:
    """A listener whose queue is full takes no connection and refuses none."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    port = full.getsockname()[1]
    waiting = []
    try:
        for _ in range(8):
            extra = socket.socket()
            extra.setblocking(False)
            extra.connect_ex(("127.0.0.1", port))
            waiting.append(extra)
        schemes = {"redis": "redis", "postgres": "postgresql", "qdrant": "http", "neo4j": "bolt"}
        it = runtime(
            tmp_path,
            **{store: {"url": f"{scheme}://127.0.0.1:{port}", "timeout": 4} for store, scheme in schemes.items()},
        )
        began = time.monotonic()
        found = it.status()
        took = time.monotonic() - began
    finally:
        for each in (*waiting, full):
            each.close()
    assert [status.state for status in found] == [ServerState.FAILED] * 4
    assert all("4 s" in status.message for status in found)
    assert took < 14, "one after the other they take 16 s"


def test_the_password_from_a_file(tmp_path: Path) -> None:
    it = runtime(tmp_path, postgres={"url": "postgresql://db", "password": {"file": "admin.txt"}})
    (server,) = it.servers()
    with pytest.raises(UsageError, match=r"admin\.txt"):
        it.admin(server)
    (tmp_path / "admin.txt").write_text("pa ss\n")
    secret = it.admin(server)
    assert secret is not None
    assert secret.reveal() == "pa ss"
    (tmp_path / "admin.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not text"):
        it.admin(server)
