"""Neo4j's jars, fetched once per machine from Maven Central and checked against a lock file that ships with multidb.

Neo4j Community is under the GPL, so multidb does not carry it: it carries ``neo4j-<version>.lock``, the full list of
jars with their sizes and SHA-256 checksums, and fetches them when an embedded Neo4j is first wanted.

``MULTIDB_CACHE`` moves the cache, ``MULTIDB_MAVEN_URL`` names a mirror. Proxies come from ``https_proxy`` and
``no_proxy``, certificate authorities from ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, as everywhere in Python.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.resources
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from multidb import files
from multidb.errors import RuntimeUnavailable
from multidb.model import PROGRESS_TIMEOUT, Progress
from multidb.state import holder

__all__ = ["NEO4J_VERSION", "Jar", "cache_folder", "fetch_neo4j", "locked"]

NEO4J_VERSION: Final = "2026.08.1"
_MAVEN_CENTRAL: Final = "https://repo1.maven.org/maven2"
_AT_ONCE: Final = 8
_ATTEMPTS: Final = 3
_SILENCE: Final = 30.0  # seconds without a byte before a download counts as broken
_CHUNK: Final = 1 << 16
_AGAIN: Final = "run the command again; what has arrived is kept"


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked jar.

    Args:
        coordinates: ``group:artifact:version`` or ``group:artifact:version:classifier``.
        sha256: lower-case hexadecimal.
        size: bytes.
    """

    coordinates: str
    sha256: str
    size: int

    @property
    def file(self) -> str:
        """Its file name in the cache: that of Maven's repository, unique among the jars of a lock file."""
        return self.path.rpartition("/")[2]

    @property
    def path(self) -> str:
        """Where it is below the root of a Maven repository."""
        group, artifact, version, *classifier = self.coordinates.split(":")
        name = "-".join([artifact, version, *classifier])
        return f"{group.replace('.', '/')}/{artifact}/{version}/{name}.jar"


def locked(version: str = NEO4J_VERSION) -> tuple[Jar, ...]:
    """The jars of one Neo4j version.

    Raises:
        RuntimeUnavailable: multidb has no lock file for that version; the hint lists those it has.
    """
    folder = importlib.resources.files("multidb.provisioners.neo4j.hosting")
    try:
        text = folder.joinpath(f"neo4j-{version}.lock").read_text(encoding="utf-8")
    except FileNotFoundError:
        names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".lock"))
        known = ", ".join(name.removeprefix("neo4j-").removesuffix(".lock") for name in names)
        raise RuntimeUnavailable(
            f"multidb has no list of jars for Neo4j {version}", hint=f"set servers.neo4j.version to one of: {known}"
        ) from None
    rows = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return tuple(Jar(coordinates, sha256, int(size)) for sha256, size, coordinates in rows)


def cache_folder() -> Path:
    """The user's cache of multidb, shared by all projects: ``MULTIDB_CACHE``, else the platform's usual place."""
    if chosen := os.environ.get("MULTIDB_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "multidb"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multidb"


def fetch_neo4j(progress: Progress, version: str = NEO4J_VERSION) -> Path:
    """The folder that holds exactly the jars of `version`, fetching those that are missing, eight at a time.

    A jar gets its name in the folder only after its checksum was right, so an interrupted fetch goes on where it
    stopped, and one whose size is right is not read again. A second process that wants the same jars waits.

    Args:
        progress: told after each jar, in bytes.

    Raises:
        RuntimeUnavailable: no network, no such file on the mirror, a wrong checksum, or no room on the disk.
        Locked: another process has fetched them for ten minutes.
    """

    def waiting(who: str) -> None:
        progress("neo4j", f"waiting for {who}, which fetches the same jars")

    jars = locked(version)
    folder = cache_folder() / "neo4j" / version
    if not _missing(folder, jars):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.lock(folder.with_name(f"{folder.name}.lock"), holder("multidb"), PROGRESS_TIMEOUT, waiting):
            missing = _missing(folder, jars)
            _fetch_all(folder, missing, sum(jar.size for jar in jars), progress)
    except OSError as error:
        raise RuntimeUnavailable(
            f"the cache of Neo4j's jars cannot be written: {error.strerror or error}",
            where=str(folder),
            hint="free space, or choose another place with MULTIDB_CACHE",
        ) from None
    return folder


def _missing(folder: Path, jars: Sequence[Jar]) -> list[Jar]:
    try:
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    except FileNotFoundError:
        return list(jars)
    return [jar for jar in jars if sizes.get(jar.file) != jar.size]


def _fetch_all(folder: Path, missing: Sequence[Jar], total: int, progress: Progress) -> None:
    done = total - sum(jar.size for jar in missing)
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="jars")
    try:
        # The biggest first: a large one that starts last would be waited for alone.
        tasks = {pool.submit(_fetch, jar, folder): jar for jar in sorted(missing, key=lambda jar: -jar.size)}
        for task in as_completed(tasks):
            task.result()
            done += tasks[task].size
            progress("neo4j", "fetching Neo4j from Maven", done, total)
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch(jar: Jar, folder: Path) -> None:
    url = f"{os.environ.get('MULTIDB_MAVEN_URL', _MAVEN_CENTRAL).rstrip('/')}/{jar.path}"
    part = (
        folder.with_name(f"{folder.name}.parts") / jar.file
    )  # beside the folder: every file in it is on the class path
    part.parent.mkdir(exist_ok=True)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            digest = _download(url, part)
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == _ATTEMPTS:
                raise _unavailable(jar, url, f"the server answers {error.code} {error.reason}") from None
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if attempt == _ATTEMPTS or isinstance(reason, ssl.SSLCertVerificationError):
                raise _unavailable(jar, url, str(reason) or type(reason).__name__) from None
        else:
            break
        time.sleep(attempt)
    if digest != jar.sha256:
        part.unlink()
        raise RuntimeUnavailable(
            f"{jar.coordinates} is not what multidb expects: its SHA-256 is {digest}, not {jar.sha256}",
            where=url,
            hint="the mirror or a proxy changes files: try another with MULTIDB_MAVEN_URL",
        )
    part.replace(folder / jar.file)


def _download(url: str, part: Path) -> str:
    """Writes what is at `url` to `part`; the SHA-256 of what arrived."""
    digest = hashlib.sha256()
    request = urllib.request.Request(url, headers={"User-Agent": "multidb"})  # noqa: S310 - the user names the mirror
    with urllib.request.urlopen(request, timeout=_SILENCE) as response, part.open("wb") as file:  # noqa: S310
        while chunk := response.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _unavailable(jar: Jar, url: str, reason: str) -> RuntimeUnavailable:
    host = urllib.parse.urlsplit(url).hostname or url
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        hint = "name the certificates of your proxy with SSL_CERT_FILE, then run the command again"
    else:
        hint = f"{_AGAIN}. Behind a proxy set https_proxy; for a mirror set MULTIDB_MAVEN_URL"
    return RuntimeUnavailable(f"cannot fetch {jar.coordinates} from {host}: {reason}", where="neo4j", hint=hint)
