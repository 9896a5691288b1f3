"""Neo4j's jars, fetched once per machine from Maven Central and checked against a lock file that ships with multidb.

Neo4j Community is under the GPL, so multidb does not carry it: it carries ``neo4j-<version>.lock``, the full list of
jars with their sizes and SHA-256 checksums, and fetches them when an embedded Neo4j is first wanted.

``MULTIDB_MAVEN_URL`` names a mirror; `multidb.downloads` says where the cache is, and how proxies are named.
"""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from multidb.downloads import NotFetched, cache_folder, fetch, filling, host_of
from multidb.errors import RuntimeUnavailable
from multidb.model import Progress, size_in_words

__all__ = ["NEO4J_VERSION", "Jar", "fetch_neo4j", "locked", "to_fetch"]

NEO4J_VERSION: Final = "2026.08.1"
_MAVEN_CENTRAL: Final = "https://repo1.maven.org/maven2"
_AT_ONCE: Final = 8
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


def to_fetch(version: str) -> str:
    """How much `fetch_neo4j` would fetch and from where, for people; empty where nothing is missing.

    Raises:
        RuntimeUnavailable: as `locked`.
    """
    missing = _missing(_folder(version), locked(version))
    size = size_in_words(sum(jar.size for jar in missing))
    return f"Neo4j {version} from {host_of(_mirror())} ({size}, once for all projects)" if missing else ""


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
    folder = _folder(version)
    if _missing(folder, jars):
        with filling(folder, waiting):
            _fetch_all(folder, _missing(folder, jars), sum(jar.size for jar in jars), progress)
    return folder


def _folder(version: str) -> Path:
    return cache_folder() / "neo4j" / version


def _mirror() -> str:
    return os.environ.get("MULTIDB_MAVEN_URL", _MAVEN_CENTRAL)


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
    url = f"{_mirror().rstrip('/')}/{jar.path}"
    part = (
        folder.with_name(f"{folder.name}.parts") / jar.file
    )  # beside the folder: every file in it is on the class path
    part.parent.mkdir(exist_ok=True)
    try:
        digest = fetch(url, part, jar.size, lambda done, total: None)
    except NotFetched as error:
        raise _unavailable(jar, url, error) from None
    if digest != jar.sha256:
        part.unlink()
        raise RuntimeUnavailable(
            f"{jar.coordinates} is not what multidb expects: its SHA-256 is {digest}, not {jar.sha256}",
            where=host_of(url),
            hint="the mirror or a proxy changes files: try another with MULTIDB_MAVEN_URL",
        )
    part.replace(folder / jar.file)


def _unavailable(jar: Jar, url: str, error: NotFetched) -> RuntimeUnavailable:
    if error.untrusted:
        hint = "name the certificates of your proxy with SSL_CERT_FILE, then run the command again"
    else:
        hint = f"{_AGAIN}. Behind a proxy set https_proxy; for a mirror set MULTIDB_MAVEN_URL"
    return RuntimeUnavailable(f"cannot fetch {jar.coordinates} from {host_of(url)}: {error}", where="neo4j", hint=hint)
