"""A snapshot of one collection, in a file. What its points are can be told only by a server that takes it; of the file
no more is read here than the description of the collection, and nothing is unpacked."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from multidb.errors import ArchiveError, UsageError
from multidb.model import App, ImportOptions, Measures, StoreContext, Survey
from multidb.provisioners.qdrant.backup.incoming import Incoming, obstacles, type_of
from multidb.provisioners.qdrant.provision.resources import collection_name

__all__ = ["SnapshotSource"]

_CONFIGURATION: Final = "config.json"
_LARGEST: Final = 1 << 20  # bytes of a collection's description
_MEMBERS: Final = 1_000_000
_CHUNK: Final = 1 << 20
# A server calls a snapshot by its collection, itself and the moment.
_NAME: Final = re.compile(r"(?P<name>.+)-\d+-\d{4}(?:-\d\d){5}")


class SnapshotSource:
    """`multidb.model.ImportSource` for a snapshot of a collection."""

    product = "Qdrant snapshot"

    def __init__(self, path: Path, options: ImportOptions) -> None:
        self._path = path
        self._options = options
        self._copied: Measures | None = None

    def __enter__(self) -> Self:
        try:
            self._details = {"config": self._configuration(), "payload_schema": {}}
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UsageError(f"cannot be read: {reason}", where=str(self._path), hint="name a file") from None
        except (tarfile.TarError, ValueError, RecursionError):
            raise self._no_snapshot() from None
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def survey(self, app: App, context: StoreContext) -> Survey:
        """What is known without a server: nothing of its points."""
        one = self.incoming(app)
        return Survey(
            product=self.product,
            size=self._path.stat().st_size,
            renames={one.name: collection_name(app.id, one.type)},
            losses=("aliases, which are in no snapshot",),
            obstacles=tuple(obstacles(app, [one])),
            following="a file does not change: leave out --live",
        )

    def incoming(self, app: App) -> Incoming:
        """The collection that it becomes."""
        stem = self._path.name.removesuffix(".snapshot")
        match = _NAME.fullmatch(stem)
        name = match["name"] if match else stem
        return Incoming(name, type_of(name, app, self._options), self._details)

    def measure(self, app: App, context: StoreContext) -> Measures:
        """What was read of it when it was taken in: a file does not change."""
        return self._copied or Measures()

    def copied(self) -> Measures | None:
        return self._copied

    def keep(self, copied: Measures) -> None:
        """What it held, with what its points lacked."""
        self._copied = copied

    @contextlib.contextmanager
    def chunks(self) -> Iterator[Iterator[bytes]]:
        """Its bytes."""
        with self._path.open("rb") as file:
            yield iter(functools.partial(file.read, _CHUNK), b"")

    @functools.cached_property
    def sha256(self) -> str:
        """Its checksum, by which the server knows that it has come whole."""
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _configuration(self) -> Mapping[str, Any]:
        with tarfile.open(self._path, "r:") as archive:
            for number, member in enumerate(archive):
                if number > _MEMBERS:
                    break
                if member.name.removeprefix("./") == _CONFIGURATION and member.isreg() and member.size <= _LARGEST:
                    content = archive.extractfile(member)
                    assert content is not None  # of a regular file
                    configuration = json.load(content)
                    params = configuration.get("params") if isinstance(configuration, dict) else None
                    if not isinstance(params, dict):
                        raise ValueError
                    return dict(configuration)
        raise ValueError

    def _no_snapshot(self) -> ArchiveError:
        return ArchiveError(
            "is no snapshot of a collection", where=str(self._path), hint="name a file that Qdrant has made, unpacked"
        )
