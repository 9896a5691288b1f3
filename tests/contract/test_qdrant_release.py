"""A Qdrant server that is fetched, from a release host of the test's own: right, broken in every way, or not there."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from multidb import downloads
from multidb.certificates import issue, new_authority
from multidb.errors import RuntimeUnavailable, UsageError
from multidb.model import unwatched
from multidb.processes import ask_version
from multidb.provisioners.qdrant.hosting import releases
from multidb.provisioners.qdrant.hosting.releases import Release, release
from tests.support.command import REPOSITORY, Folder

pytestmark = pytest.mark.server

SERVER = os.environ.get("MULTIDB_TEST_QDRANT") or shutil.which("qdrant")
VERSION = "9.9.9"  # one that multidb has no digest of: its release has to publish it
SAYS = b"#!/bin/sh\necho qdrant 9.9.9\n"


def packed(*members: tuple[str, bytes], mode: str = "w:gz", **links: str) -> bytes:
    """An archive of these files; `links`: of symbolic links as well."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return archive.getvalue()


class Host(ThreadingHTTPServer):
    """A release host. `answers` are what stands in for a file's own answer, by the end of its path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        self.let_go = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mirror"

    def offer(self, archive: bytes, digest: str | None = None) -> None:
        path = f"/mirror/v{VERSION}/{offered(self)._archive}"
        self.files[path] = archive
        self.files[f"{path}.sha256"] = f"{digest or hashlib.sha256(archive).hexdigest()}  a name\n".encode()

    def archives(self) -> int:
        """How often the archive was asked for."""
        return sum(path.endswith(".tar.gz") for path in self.asked)


class _Answer(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        for end, answer in self.server.answers.items():
            if self.path.endswith(end):
                return answer(self)
        body = self.server.files.get(self.path)
        return send(self, 404, b"") if body is None else send(self, 200, body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


def send(answer: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    answer.send_response(status)
    answer.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        answer.send_header(name, value)
    answer.end_headers()
    answer.wfile.write(body)


def half(answer: BaseHTTPRequestHandler) -> None:
    """Says that there is more than it sends, and ends."""
    answer.send_response(200)
    answer.send_header("Content-Length", "100000")
    answer.end_headers()
    answer.wfile.write(b"\x1f\x8b" * 20_000)
    answer.close_connection = True


def silent(answer: Any) -> None:
    """Sends the beginning, and then nothing for a long time."""
    answer.send_response(200)
    answer.send_header("Content-Length", "100000")
    answer.end_headers()
    answer.wfile.write(b"\x1f\x8b" * 20_000)
    answer.server.let_go.wait(60)


@contextlib.contextmanager
def serving(host: Host) -> Iterator[Host]:
    thread = threading.Thread(target=host.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield host
    finally:
        host.let_go.set()
        host.shutdown()
        host.server_close()
        thread.join()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Host]:
    monkeypatch.setenv("MULTIDB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    with serving(Host()) as server:
        server.offer(packed(("qdrant", SAYS)))
        yield server


def offered(host: Host) -> Release:
    return release(VERSION, host.url)


def left(tmp_path: Path) -> list[str]:
    """The files in the cache, but for locks."""
    files = (file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.suffix != ".lock")
    return sorted(file.name for file in files)


def test_it_is_said_before_it_is_fetched_and_fetched_once(host: Host, tmp_path: Path) -> None:
    told: list[tuple[str, float | None, float | None, int]] = []
    wanted = offered(host)
    assert wanted.to_fetch.startswith(f"Qdrant {VERSION} from 127.0.0.1 (some ")
    program = wanted.fetch(
        lambda _, message, done=None, total=None: told.append((message, done, total, len(host.asked)))
    )
    assert told[0] == (f"fetching Qdrant {VERSION} from 127.0.0.1", None, None, 0)
    size = len(host.files[f"/mirror/v{VERSION}/{wanted._archive}"])
    assert told[-1][1:3] == (size, size)
    assert (program.read_bytes(), program.stat().st_mode & 0o777, left(tmp_path)) == (SAYS, 0o755, ["qdrant"])
    asked = len(host.asked)
    assert wanted.fetch(unwatched) == program
    assert (len(host.asked), wanted.to_fetch) == (asked, "")


def _redirected(to: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda answer: send(answer, 302, b"", Location=to)


BROKEN: dict[str, tuple[str, Callable[[Host], None]]] = {
    "another digest": (
        r"its SHA-256 is [0-9a-f]{64}, not 0{64}",
        lambda host: host.offer(packed(("qdrant", SAYS)), "0" * 64),
    ),
    "no digest": ("404", lambda host: host.answers.update({".sha256": lambda answer: send(answer, 404, b"")})),
    "a digest that is none": ("publishes no SHA-256", lambda host: host.offer(packed(("qdrant", SAYS)), "<html>")),
    "cut": ("ended after 40000 of 100000 bytes", lambda host: host.answers.update({".gz": half})),
    "silent": ("no byte has come for", lambda host: host.answers.update({".gz": silent})),
    "not there": ("404", lambda host: host.answers.update({".gz": lambda answer: send(answer, 404, b"")})),
    "failing": ("503", lambda host: host.answers.update({".gz": lambda answer: send(answer, 503, b"")})),
    "sent to a file": ("is not allowed", lambda host: host.answers.update({".gz": _redirected("file:///etc/passwd")})),
    "sent in a circle": ("30[0-9]", lambda host: host.answers.update({".gz": _redirected("/mirror/x.gz")})),
    "too large": ("larger than 300 kB", lambda host: host.offer(packed(("qdrant", os.urandom(400_000))))),
    "one that grows": ("more than 1 GB", lambda host: host.offer(packed(("x", bytes(2_000_000)), ("qdrant", SAYS)))),
    "a program that grows": ("1 GB", lambda host: host.offer(packed(("qdrant", bytes(1_030_000))))),
    "out of its folder": (
        "may lead elsewhere",
        lambda host: host.offer(packed(("../../qdrant", SAYS), ("qdrant", SAYS))),
    ),
    "from the root": ("may lead elsewhere", lambda host: host.offer(packed(("/tmp/qdrant", SAYS), ("qdrant", SAYS)))),
    "a link": ("neither a file nor a folder", lambda host: host.offer(packed(qdrant="/bin/sh"))),
    "a link beside it": ("neither a file", lambda host: host.offer(packed(("qdrant", SAYS), x="/etc"))),
    "two programs": ("two programs", lambda host: host.offer(packed(("qdrant", SAYS), ("qdrant", SAYS)))),
    "no program": ("no file qdrant", lambda host: host.offer(packed(("bin/qdrant", SAYS)))),
    "no archive": ("not used", lambda host: host.offer(b"<html>not found</html>")),
    "no tar": ("not used", lambda host: host.offer(gzip.compress(b"x" * 3000))),
    "half an archive": ("not used", lambda host: host.offer(packed(("qdrant", os.urandom(9000)))[:5000])),
    "another version": (
        "says that it is version 9.9.8",
        lambda host: host.offer(packed(("qdrant", SAYS.replace(b"9.9.9", b"9.9.8")))),
    ),
    "not for this machine": ("does not run", lambda host: host.offer(packed(("qdrant", b"\x7fELF" + bytes(100))))),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_refused_in_words_and_leaves_nothing(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(downloads, "IDLE_TIMEOUT", 0.3)
    monkeypatch.setattr(releases, "LARGEST_ARCHIVE", 300_000)
    monkeypatch.setattr(releases, "LARGEST_PROGRAM", 1_000_000)
    message, breaks = BROKEN[broken]
    breaks(host)
    with pytest.raises(RuntimeUnavailable, match=message) as caught:
        offered(host).fetch(unwatched)
    assert "127.0.0.1" in caught.value.message
    assert "multidb up" in (caught.value.hint or "")
    assert left(tmp_path) == []
    tries = {"silent": 1, "cut": 3, "failing": 3}  # of what may pass, and does not keep people waiting
    assert broken not in tries or host.archives() == tries[broken]
    host.answers.clear()
    host.offer(packed(("./qdrant", SAYS), ("LICENSE", b"Apache")))
    assert offered(host).fetch(unwatched).read_bytes() == SAYS


def test_a_digest_of_ours_outweighs_the_one_that_is_published(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {VERSION: {offered(host).platform: "0" * 64}}
    monkeypatch.setattr(releases, "DIGESTS", ours)
    with pytest.raises(RuntimeUnavailable, match=r"not 0{64}"):
        offered(host).fetch(unwatched)
    assert [path for path in host.asked if path.endswith(".sha256")] == []


def test_github_tells_the_digest_of_a_version_that_we_do_not_know(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = offered(host)
    digest = hashlib.sha256(host.files[f"/mirror/v{VERSION}/{wanted._archive}"]).hexdigest()
    other = {"name": "qdrant.deb", "digest": "sha256:00"}
    about = json.dumps({"assets": [other, {"name": wanted._archive, "digest": f"sha256:{digest}"}]})
    host.files[f"/tags/v{VERSION}"] = about.encode()
    monkeypatch.setattr(releases, "GITHUB", host.url)
    monkeypatch.setattr(releases, "ABOUT", host.url.replace("mirror", "tags"))
    monkeypatch.delenv("MULTIDB_QDRANT_DOWNLOAD")
    assert release(VERSION, None) == wanted
    assert wanted.fetch(unwatched).read_bytes() == SAYS
    host.files[f"/tags/v{VERSION}"] = about.encode()[:-5]
    wanted.program.unlink()
    with pytest.raises(RuntimeUnavailable, match="publishes no SHA-256"):
        wanted.fetch(unwatched)


@pytest.mark.parametrize("downgraded", [False, True])
def test_a_way_that_began_with_https_does_not_leave_it(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, downgraded: bool
) -> None:
    now = datetime.now(UTC)
    authority = new_authority("test", now)
    identity = issue(authority, "127.0.0.1", now)
    (tmp_path / "ca.pem").write_text(authority.certificate)
    (tmp_path / "server.pem").write_text(identity.bundle().reveal())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with serving(Host()) as secure:
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        secure.files = dict(host.files)
        base = f"https://127.0.0.1:{secure.server_port}"
        wanted = release(VERSION, f"{base}/mirror")
        with pytest.raises(RuntimeUnavailable, match="certificate") as caught:
            wanted.fetch(unwatched)
        assert "SSL_CERT_FILE" in (caught.value.hint or "")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        path = f"/mirror/v{VERSION}/{wanted._archive}"
        secure.files["/elsewhere"] = secure.files[path]
        secure.answers[path] = _redirected(
            f"http://127.0.0.1:{host.server_port}{path}" if downgraded else f"{base}/elsewhere"
        )
        if downgraded:
            with pytest.raises(RuntimeUnavailable, match="without https"):
                wanted.fetch(unwatched)
            assert host.asked == []
        else:
            assert wanted.fetch(unwatched).read_bytes() == SAYS


def test_two_that_want_it_fetch_it_once(host: Host) -> None:
    threads = [threading.Thread(target=offered(host).fetch, args=(unwatched,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert host.archives() == 1
    assert offered(host).fetched


def test_a_killed_fetch_leaves_nothing_that_is_taken_for_a_program(host: Host, tmp_path: Path) -> None:
    host.answers[".gz"] = silent
    code = (
        "import sys; from multidb.model import unwatched;"
        "from multidb.provisioners.qdrant.hosting.releases import release;"
        "release(sys.argv[1], sys.argv[2]).fetch(unwatched)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, VERSION, host.url], env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ) as fetching:
        deadline = time.monotonic() + 60
        while left(tmp_path) != ["archive.part"]:
            assert fetching.poll() is None
            assert time.monotonic() < deadline
        fetching.send_signal(signal.SIGKILL)
    assert not offered(host).fetched
    host.answers.clear()
    assert offered(host).fetch(unwatched).read_bytes() == SAYS
    assert left(tmp_path) == ["qdrant"]


def test_without_a_network_it_is_known_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PAUSE", 60)
    began = time.monotonic()
    with pytest.raises(RuntimeUnavailable, match="Connection refused"):
        release("1.18.3", "http://127.0.0.1:1").fetch(unwatched)
    with pytest.raises(RuntimeUnavailable, match="has to come by https"):
        release(VERSION, "http://mirror.invalid").fetch(unwatched)
    assert time.monotonic() - began < 5


def test_a_cache_that_cannot_be_written(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MULTIDB_CACHE", str(tmp_path / "file"))
    with pytest.raises(RuntimeUnavailable, match="cache cannot be written") as caught:
        offered(host).fetch(unwatched)
    assert "MULTIDB_CACHE" in (caught.value.hint or "")


def test_a_user_without_a_home(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTIDB_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # as in a container of a user that nobody has heard of
    with pytest.raises(RuntimeUnavailable, match="no home folder"):
        offered(host).fetch(unwatched)


@pytest.mark.parametrize("said", ["ftp://host/x", "https://user:password@host/x", "Never", "https://"])
def test_a_variable_that_is_no_mirror(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("MULTIDB_QDRANT_DOWNLOAD", said)
    with pytest.raises(UsageError, match="MULTIDB_QDRANT_DOWNLOAD") as caught:
        release(VERSION, None)
    assert "password" not in str(caught.value)
    assert release(VERSION, "https://mirror.example.com/x/").source == "https://mirror.example.com/x"


def test_a_platform_without_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases.platform, "machine", lambda: "riscv64")
    with pytest.raises(RuntimeUnavailable, match="riscv64"):
        release(VERSION, "https://mirror.example.com")


@pytest.mark.rare
@pytest.mark.skipif(not SERVER, reason="no Qdrant server: MULTIDB_TEST_QDRANT names no binary")
def test_the_real_program_in_a_real_archive_by_a_digest_of_ours(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SERVER is not None
    (tmp_path / "qdrant").symlink_to(SERVER)
    archive = tmp_path / "real.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1, dereference=True) as tar:
        tar.add(tmp_path / "qdrant", "qdrant")
    version = ask_version((SERVER, "--version"))
    assert version is not None
    wanted = release(version, host.url)
    host.files[f"/mirror/v{version}/{wanted._archive}"] = archive.read_bytes()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(releases, "DIGESTS", {version: {wanted.platform: digest}})
    program = wanted.fetch(unwatched)
    assert ask_version((str(program), "--version")) == version
    assert program.stat().st_size == Path(SERVER).stat().st_size
    assert host.asked == [f"/mirror/v{version}/{wanted._archive}"]


# --- by the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, host: Host) -> Iterator[Project]:
    found = Project(tmp_path / "shop", host)
    yield found
    found.run("down")


class Project(Folder):
    """A project on a machine without a Qdrant, which may fetch one from `host`."""

    def __init__(self, path: Path, host: Host) -> None:
        super().__init__(path, [])
        path.mkdir()
        self.surroundings = {
            "MULTIDB_QDRANT_DOWNLOAD": host.url,
            "MULTIDB_CACHE": os.environ["MULTIDB_CACHE"],
            "MULTIDB_QDRANT": "",
            "PATH": "/usr/bin:/bin",
            "no_proxy": "127.0.0.1",
        }
        self.says()

    def says(self, options: str = f"version: {VERSION}") -> None:
        self.manifest(
            "version: 1\nproject: shop\nruntime: embedded\n"
            f"servers: {{qdrant: {{{options}}}}}\n"
            "defaults: {qdrant: {collections: {knowledge: {size: 4}}}}\n"
            "apps:\n  ann: {stores: [qdrant]}\n  bob: {stores: [qdrant]}\n"
        )

    def run(self, *arguments: str, env: dict[str, str] | None = None, **more: Any) -> Any:
        return super().run(*arguments, env={**self.surroundings, **(env or {})}, **more)

    def message(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """State and message of the server, as a command says them."""
        done = self.run(*arguments, "--json")
        assert done.code == code, done.out + done.err
        (server,) = done.json()["servers"]
        return server["state"], server["message"]


def wrapped() -> bytes:
    """The real server, as a version that its release publishes the digest of."""
    assert SERVER is not None
    script = f'#!/bin/sh\n[ "$1" = --version ] && exec echo qdrant {VERSION}\nexec {SERVER} "$@"\n'
    return packed(("qdrant", script.encode()))


@pytest.mark.skipif(not SERVER, reason="no Qdrant server: MULTIDB_TEST_QDRANT names no binary")
def test_up_fetches_the_server_and_its_apps_have_walls(project: Project, host: Host, tmp_path: Path) -> None:
    host.offer(wrapped())
    assert "not started" in project.message("status", code=1)[1]
    assert host.asked == []  # nobody but `up` fetches
    done = project.ok("up")
    assert f"Fetching Qdrant {VERSION} from 127.0.0.1" in done.err
    assert "servers.qdrant.download: never" in done.err
    assert project.message("status")[1].startswith("Qdrant 1.")
    project.ok("apply", "--yes")
    assert project.ok("show", "ann", "--json").json()["stores"]["qdrant"]["isolation"] == "enforced"
    audited = project.ok("audit", "--json").json()
    assert audited["verdicts"] == {"ann": {"qdrant": "enforced"}, "bob": {"qdrant": "enforced"}}
    assert audited["remarks"] == []
    assert {(probe["app"], probe["against"]) for probe in audited["probes"]} >= {("ann", "bob"), ("bob", "ann")}
    assert "Fetching" not in project.ok("up").err
    other = Project(tmp_path / "other", host)
    try:
        assert "Fetching" not in other.ok("up").err
    finally:
        other.run("down")
    assert host.archives() == 1

    # The cache is lost, and the host with it: the project has a server, and no folder takes its place.
    project.ok("down")
    shutil.rmtree(os.environ["MULTIDB_CACHE"])
    host.answers[""] = lambda answer: send(answer, 404, b"")
    state, message = project.message("up", code=4)
    assert (state, "404" in message) == ("failed", True)
    assert not (project.path / ".multidb/servers/qdrant-local").exists()
    host.answers.clear()
    assert project.message("up")[0] == "running"
    assert project.run("plan", "--check").code == 0


@pytest.mark.skipif(not SERVER, reason="no Qdrant server: MULTIDB_TEST_QDRANT names no binary")
def test_what_cannot_be_fetched_is_a_folder_that_says_why_until_it_is_switched(project: Project, host: Host) -> None:
    host.offer(wrapped(), "0" * 64)
    for command, asked in (("up", 1), ("status", 1), ("up", 1)):  # asked for once, however often it is started
        state, message = project.message(command)
        assert state == "running"
        assert message.startswith("local mode: ")
        assert "its SHA-256 is" in message
        assert message.endswith("multidb up --switch qdrant")
        assert "\n" not in message
        assert host.archives() == asked
    project.ok("apply", "--yes")
    assert project.ok("show", "ann", "--json").json()["stores"]["qdrant"]["isolation"] == "naming-only"
    assert project.ok("audit", "--json").json()["verdicts"]["ann"] == {"qdrant": "naming-only"}
    assert "its SHA-256 is" in project.message("up", "--switch", "qdrant")[1]
    assert host.archives() == 2
    host.offer(wrapped())
    assert project.message("up")[1].startswith("local mode: ")
    assert project.message("up", "--switch", "qdrant")[1].startswith("Qdrant 1.")
    assert project.message("status")[1].startswith("Qdrant 1.")


def dripping(answer: Any) -> None:
    """Sends a little every moment, as a slow network does."""
    answer.send_response(200)
    answer.send_header("Content-Length", "100000000")
    answer.end_headers()
    with contextlib.suppress(OSError):
        while not answer.server.let_go.wait(0.02):
            answer.wfile.write(bytes(1000))


def test_an_interrupted_up_does_not_wait_for_what_it_fetches(project: Project, host: Host, tmp_path: Path) -> None:
    host.answers[".gz"] = dripping
    with subprocess.Popen(
        [sys.executable, "-c", "from multidb.cli import main; main()", "up"],
        cwd=project.path,
        env={**os.environ, **project.surroundings, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            deadline = time.monotonic() + 60
            while left(tmp_path) != ["archive.part"]:
                assert running.poll() is None
                assert time.monotonic() < deadline
            running.send_signal(signal.SIGINT)
            _, told = running.communicate(timeout=60)
        finally:
            running.kill()
    assert "Interrupted" in told
    assert left(tmp_path) == []
    assert not (project.path / ".multidb/servers/qdrant-local").exists()


@pytest.mark.parametrize("where", ["key", "variable"])
def test_never_asks_nobody_and_says_how_to_have_a_server(project: Project, host: Host, where: str) -> None:
    if where == "key":
        project.says("download: never")
    else:
        project.surroundings["MULTIDB_QDRANT_DOWNLOAD"] = "never"
    assert project.message("status")[0] == "running"
    state, message = project.message("up")
    assert (state, host.asked) == ("running", [])
    assert ("servers.qdrant.download is never" if where == "key" else "MULTIDB_QDRANT_DOWNLOAD is never") in message
    assert "servers.qdrant.binary" in message


def test_a_mirror_that_is_none_is_an_error_with_its_place(project: Project) -> None:
    project.says("download: 'ftp://host'")
    done = project.run("validate")
    assert done.code == 2
    assert "multidb.yaml:4:" in done.err + done.out
    assert "must be never, or" in done.err + done.out
