"""Snapshots of collections: made by the server, copied off it, and put in the place of a collection's content."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from multidb.errors import ArchiveError, ServerError
from multidb.model import Progress, Server
from multidb.provisioners.qdrant.driver.transport import NO_SPACE_HINT, UPLOADED, Http, expect
from multidb.provisioners.qdrant.provision.catalog import Catalog
from multidb.provisioners.qdrant.provision.statements import Call, path_of
from multidb.secrets import redact

__all__ = ["WORK_SECONDS", "Snapshot", "Snapshots"]

WORK_SECONDS: Final = 24 * 3600.0  # making, or taking in, a snapshot of a large collection
_NAME_SECONDS: Final = 1.1  # a snapshot's name holds its second, so two of one second are one
_ATTEMPTS: Final = 3
# What a server says that could not write down what it was sent, or what is in that: mostly without saying why.
_NOT_WRITTEN: Final = ("An error occurred processing field", "failed to unpack", "No space left", "os error 122")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot on the server: its size and checksum as the server says them, and its bytes, as often as asked for."""

    size: int
    sha256: str
    bytes: Callable[[], AbstractContextManager[Iterator[bytes]]]


class Snapshots:
    """The snapshots of one server."""

    def __init__(self, server: Server, http: Http, catalog: Catalog) -> None:
        self._server = server
        self._http = http
        self._catalog = catalog

    def copied(self, name: str, snapshot: Snapshot, write: Callable[[bytes], object], progress: Progress) -> str:
        """Writes a snapshot out; its SHA-256."""
        digest, size = hashlib.sha256(), 0
        with snapshot.bytes() as chunks:
            for chunk in chunks:
                digest.update(chunk)
                write(chunk)
                size += len(chunk)
                progress(self._server.name, f"copying {name}", size, snapshot.size)
        if digest.hexdigest() != snapshot.sha256 or size != snapshot.size:
            raise ArchiveError(
                f"the snapshot of {name} did not arrive as the server made it",
                where=str(self._server),
                hint="run the backup again",
            )
        return snapshot.sha256

    @contextmanager
    def taken(self, name: str) -> Iterator[Snapshot]:
        """A new snapshot, which is deleted from the server at the end."""
        made = self._made(name)
        file = f"{path_of(name)}/snapshots/{quote(str(made['name']), safe='')}"
        try:
            yield Snapshot(int(made["size"]), str(made["checksum"]), lambda: self._http.download(file))
        finally:
            self._http.send(Call("DELETE", f"{file}?wait=true", {}), seconds=WORK_SECONDS)

    def _made(self, name: str) -> Mapping[str, Any]:
        """A snapshot that is still there a moment later: another one of the same second has the same name, and takes
        it along when it is deleted."""
        for _ in range(_ATTEMPTS):
            reply = self._http.send(Call("POST", f"{path_of(name)}/snapshots?wait=true", {}), seconds=WORK_SECONDS)
            made: Mapping[str, Any] = expect(self._server, reply).result
            if made["name"] in self._catalog.snapshots([name]).get(name, ()):
                return made
            time.sleep(_NAME_SECONDS)
        raise ArchiveError(
            f"somebody deletes the snapshots of {name} as they are made",
            where=str(self._server),
            hint="run the backup again when nothing else makes snapshots",
        )

    def recover(self, name: str, chunks: Iterator[bytes], sha256: str) -> None:
        """Puts a snapshot's content in the place of a collection's. The server checks it whole before it does. It
        keeps the file that was sent, also when its collection is dropped, so that goes at the end.

        Raises:
            ArchiveError: it is no snapshot that the server takes.
            ServerError: the server could not write it down, which says nothing of the snapshot.
        """
        target = f"{path_of(name)}/snapshots/upload?priority=snapshot&wait=true&checksum={sha256}"
        reply = self._http.upload(target, chunks, WORK_SECONDS)
        with suppress(ServerError):  # what the server has answered is what is told
            self.forget_uploaded(name)
        if reply.status in (400, 422, 500):
            if any(words in reply.error for words in _NOT_WRITTEN):
                raise ServerError(
                    f"collection {name}: it could not write down the snapshot ({redact(reply.error)[:200]})",
                    where=str(self._server),
                    hint=f"{NO_SPACE_HINT}; where there is room, take another snapshot or set",
                )
            raise ArchiveError(
                f"the server does not take the snapshot ({redact(reply.error)[:200]})",
                where=f"collection {name}",
                hint="verify the set (multidb backups verify), or restore another one",
            )
        expect(self._server, reply)

    def forget_uploaded(self, name: str) -> None:
        """Removes the file that was sent for the collection, where there is one."""
        call = Call("DELETE", f"{path_of(name)}/snapshots/{UPLOADED}?wait=true", {})
        reply = self._http.send(call, seconds=WORK_SECONDS)
        if reply.status != 404:
            expect(self._server, reply)
