"""Qdrant's server as its makers release it: one program for each platform, fetched once for all projects of the user.

It is fetched when a project first wants a Qdrant and has no program for it, from GitHub or a mirror that
``servers.qdrant.download`` or ``MULTIDB_QDRANT_DOWNLOAD`` names; ``never`` in one of them is final. A mirror has the
paths of GitHub's releases. What arrives is compared with a digest before anything looks into it: for the versions in
`DIGESTS` with that one, for others with the one that the release publishes (a mirror: as ``<archive>.sha256``).
"""

from __future__ import annotations

import gzip
import os
import platform
import re
import sys
import tarfile
import time
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from multidb import files
from multidb.document import Unreadable, inside, parse, printable
from multidb.downloads import NotFetched, cache_folder, fetch, filling, host_of, read
from multidb.errors import RuntimeUnavailable, UsageError
from multidb.model import Progress
from multidb.processes import ask_version

__all__ = [
    "LARGEST_PROGRAM",
    "LARGEST_ARCHIVE",
    "DIGESTS",
    "ABOUT",
    "GITHUB",
    "DOWNLOAD",
    "NEVER",
    "Release",
    "release",
]

DOWNLOAD: Final = "MULTIDB_QDRANT_DOWNLOAD"
NEVER: Final = "never"
GITHUB: Final = "https://github.com/qdrant/qdrant/releases/download"
ABOUT: Final = "https://api.github.com/repos/qdrant/qdrant/releases/tags"  # its assets have a digest since June 2025
# Of the release's archives, by platform. Not yet measured on the files by this project: they are those that a recipe
# for Julia's packages, several Homebrew taps and other installers have in common, which fetch the files by them
# (decision 56). A wrong one would refuse the right file, and let no other in.
DIGESTS: Final[Mapping[str, Mapping[str, str]]] = {
    "1.18.3": {
        "x86_64-unknown-linux-musl": "b4faedcdf8c9577bf1c8f2ab9b454636b87e056c116c99d49bd4f9fb2e634285",
        "aarch64-unknown-linux-musl": "1e738b45f90935c383b4076c30f377f390964cb5962b5bff24439812d157dc24",
        "x86_64-apple-darwin": "45bdd4642e7f25611e9cd74f9f91482b27c5376840cd8dc476da67b87abe25a6",
        "aarch64-apple-darwin": "0cb040a261035c316779bd7b4cca2e6ab39faf62640d6918bbbe320e2a9a6547",
    },
}
_PLATFORMS: Final[Mapping[tuple[str, str], str]] = {
    ("linux", "x86_64"): "x86_64-unknown-linux-musl",  # needs no library of the machine
    ("linux", "aarch64"): "aarch64-unknown-linux-musl",
    ("darwin", "x86_64"): "x86_64-apple-darwin",
    ("darwin", "arm64"): "aarch64-apple-darwin",
}
_PROGRAM: Final = "qdrant"
_ROUGHLY: Final = "some 30 MB"
LARGEST_ARCHIVE: Final = 256 * 1024**2  # bytes; version 1.18.3 has 31 million
LARGEST_PROGRAM: Final = 1024**3  # bytes
_LARGEST_DOCUMENT: Final = 4 * 1024**2  # bytes
_CHUNK: Final = 1 << 16
_TRIES, _PAUSE = 5, 0.2  # seconds; see `_answers`


@dataclass(frozen=True, slots=True)
class Release:
    """A version of the server that can be had on this platform.

    Args:
        version: as in ``1.18.3``.
        platform: as the release calls it.
        source: where the release's archives are; what comes after it is the same on GitHub and on every mirror.
    """

    version: str
    platform: str
    source: str

    def __str__(self) -> str:
        return f"Qdrant {self.version}"

    @property
    def program(self) -> Path:
        """Where it is once it was fetched."""
        return cache_folder() / "qdrant" / self.version / self.platform / _PROGRAM

    @property
    def fetched(self) -> bool:
        """Whether it is there."""
        return os.access(self.program, os.X_OK)

    @property
    def to_fetch(self) -> str:
        """How much `fetch` would fetch and from where, for people; empty where it is there."""
        if self.fetched:
            return ""
        return f"{self} from {host_of(self.source)} ({_ROUGHLY}, once for all projects)"

    def fetch(self, progress: Progress) -> Path:
        """The server's program, which is fetched where it is not there. A second process that wants the same waits.

        Raises:
            RuntimeUnavailable: it cannot be had, is not what it should be, or does not run here.
            Locked: another process has fetched it for ten minutes.
        """

        def waiting(who: str) -> None:
            progress("qdrant", f"waiting for {who}, which fetches the same server")

        folder = self.program.parent
        if not self.fetched:
            with filling(folder, waiting):
                if not self.fetched:
                    self._fill(folder, progress)
        return self.program

    def _fill(self, folder: Path, progress: Progress) -> None:
        """Everything is made beside the program's place, so that a program that is there is whole."""
        archive, program = folder / "archive.part", folder / "program.part"
        message = f"fetching {self} from {host_of(self.source)}"
        progress("qdrant", message)
        try:
            with self._fetching():
                expected = self._digest()
                digest = fetch(
                    self._url,
                    archive,
                    LARGEST_ARCHIVE,
                    lambda done, total: progress("qdrant", message, done, total),
                    reconnect=False,  # a folder can take its place: nobody is kept waiting
                )
            if digest != expected:
                raise self._refused(f"its SHA-256 is {digest}, not {expected}")
            try:
                _unpack(archive, program)
            except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, ValueError) as error:
                raise self._refused(printable(str(error)) or "it is damaged") from None
            program.chmod(0o755)
            if (version := _answers(program)) != self.version:
                raise self._refused(f"its program says that it is version {version}" if version else "it does not run")
            program.replace(self.program)
            files.sync_folder(folder)
        finally:
            archive.unlink(missing_ok=True)
            program.unlink(missing_ok=True)

    @contextmanager
    def _fetching(self) -> Iterator[None]:
        try:
            yield
        except NotFetched as error:
            hint = "behind a proxy set https_proxy; for a mirror set servers.qdrant.download; then: multidb up"
            if error.untrusted:
                hint = "name the certificates of your proxy with SSL_CERT_FILE, then: multidb up"
            raise RuntimeUnavailable(
                f"Qdrant {self.version} cannot be fetched from {host_of(self.source)}: {error}", hint=hint
            ) from None

    def _refused(self, why: str) -> RuntimeUnavailable:
        return RuntimeUnavailable(
            f"what {host_of(self.source)} has as Qdrant {self.version} for {self.platform} is not used: {why}",
            hint="take it from another place (servers.qdrant.download), or name a program with servers.qdrant.binary; "
            "then: multidb up",
        )

    @property
    def _archive(self) -> str:
        return f"qdrant-{self.platform}.tar.gz"

    @property
    def _url(self) -> str:
        return f"{self.source}/v{self.version}/{self._archive}"

    def _digest(self) -> str:
        """The SHA-256 that the archive has to have. `NotFetched` where nobody says it."""
        if pinned := DIGESTS.get(self.version, {}).get(self.platform):
            return pinned
        if self.source == GITHUB:
            digest = _asset_digest(read(f"{ABOUT}/v{self.version}", _LARGEST_DOCUMENT), self._archive)
        else:
            address = urllib.parse.urlsplit(self.source)
            if address.scheme != "https" and address.hostname not in ("127.0.0.1", "::1", "localhost"):
                raise NotFetched("the digest of a version that multidb does not know has to come by https")
            words = read(f"{self._url}.sha256", _LARGEST_DOCUMENT).split()
            digest = words[0].decode(errors="replace").lower() if words else ""
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise NotFetched(f"it publishes no SHA-256 of {self._archive}")
        return digest


def release(version: str, download: str | None) -> Release:
    """The release for this machine.

    Args:
        download: what ``servers.qdrant.download`` says; None: what ``MULTIDB_QDRANT_DOWNLOAD`` says, else GitHub.

    Raises:
        RuntimeUnavailable: there is none, or none is wanted.
        UsageError: ``MULTIDB_QDRANT_DOWNLOAD`` is neither never nor an address.
    """
    by_default = os.environ.get(DOWNLOAD) or None
    key, source = (DOWNLOAD, by_default) if download is None else ("servers.qdrant.download", download)
    if source == NEVER:
        raise RuntimeUnavailable(f"{key} is {NEVER}")
    if source is not None and not re.fullmatch(r"https?://[^\s@?#]+", source):
        raise UsageError(
            f"is neither {NEVER} nor the http:// or https:// address of a mirror without a login", where=DOWNLOAD
        )
    machine = (sys.platform, platform.machine())
    if machine not in _PLATFORMS:
        raise RuntimeUnavailable(f"Qdrant releases no server for {' on '.join(machine)}")
    return Release(version, _PLATFORMS[machine], (source or GITHUB).rstrip("/"))


def _asset_digest(document: bytes, archive: str) -> str:
    """The digest that GitHub tells of an archive of a release; empty where it tells none."""
    try:
        about = parse(document, _LARGEST_DOCUMENT)
    except Unreadable:
        return ""
    match about:
        case {"assets": [*assets]}:
            for asset in assets:
                match asset:
                    case {"name": str(name), "digest": str(digest)} if name == archive:
                        return digest.removeprefix("sha256:")
    return ""


def _unpack(archive: Path, program: Path) -> None:
    """Writes the one program of `archive` to `program`. No name in it is ever a path of ours, and no link is followed.

    Raises:
        ValueError: it is anything else than a release: it has other things than files and folders, a name that leads
            out of it, no program or two, or more in it than a release may have.
        tarfile.TarError, zlib.error, OSError, EOFError: it is damaged.
    """
    programs = 0
    with _Bounded(archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as tar:
        for member in tar:
            if member.isdir() and member.name == ".":
                continue
            name = inside(member.name.removeprefix("./"))
            if not (member.isfile() or member.isdir()):
                raise ValueError(f"{printable(name)} in it is neither a file nor a folder")
            if name != _PROGRAM or member.isdir():
                continue
            programs += 1
            source = tar.extractfile(member)
            if programs > 1 or source is None or member.size > LARGEST_PROGRAM:
                raise ValueError("it has two programs, or one of more than 1 GB")
            with program.open("wb") as file:
                while chunk := source.read(_CHUNK):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
    if not programs:
        raise ValueError(f"there is no file {_PROGRAM} in it")


class _Bounded(gzip.GzipFile):
    """An archive that ends with an error where a program and its wrapping could not be as long."""

    _read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._read += len(data)
        if self._read > LARGEST_PROGRAM + _CHUNK:
            raise ValueError("there is more than 1 GB in it")
        return data


def _answers(program: Path) -> str | None:
    """The version that the program says; None where it does not run. For a moment after a file was written the system
    may refuse to run it: a process that another thread is just starting has it open still."""
    for attempt in range(_TRIES):
        if (version := ask_version((str(program), "--version"))) is not None:
            return version
        if attempt + 1 < _TRIES:
            time.sleep(_PAUSE)
    return None
