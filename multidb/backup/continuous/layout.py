"""Where a stream's files lie on a target, and what signs them. Pure."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from multidb.document import Unreadable
from multidb.secrets import Secret

__all__ = [
    "BASE",
    "POSITIONS",
    "LogFile",
    "base_folder",
    "log_path",
    "mac_of",
    "place_of",
    "server_folder",
    "signed",
    "slot",
    "verified",
]

BASE: Final = "base.json"
"""The document of a base backup, which is written last: without it there is none."""
POSITIONS: Final = "positions.json"
"""What of the server's log a stream has, by time."""

_ROOT: Final = "_continuous"  # no project is called that
_LOG: Final = "log"
_LOG_FILE: Final = re.compile(r"log/([0-9A-F]{24}|[0-9A-F]{8}\.history)-([0-9a-f]{64})\.zst(\.age)?")
_SEGMENT: Final = 24  # characters in the name of a part of the log
_NO_SLOT: Final = re.compile(r"[^a-z0-9_]")
_MAC: Final = "mac"


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file of a server's log, as it lies on a target.

    Args:
        name: as the server calls it.
        mac: of its plain bytes and its name (`mac_of`).
        path: in the stream's folder.
    """

    name: str
    mac: str
    path: str

    @property
    def encrypted(self) -> bool:
        return self.path.endswith(".age")

    @property
    def is_segment(self) -> bool:
        """Whether it is a part of the log itself, and not of what says how parts follow one another."""
        return len(self.name) == _SEGMENT

    @property
    def place(self) -> str:
        """Where in the log it is; the same in each history of it."""
        return place_of(self.name)

    @classmethod
    def of(cls, path: str) -> LogFile | None:
        """The one that has this path in a stream's folder; None: it is something else."""
        match = _LOG_FILE.fullmatch(path)
        return cls(match[1], match[2], path) if match is not None else None


def place_of(name: str) -> str:
    """Where in the log a part of it is, by its name: what follows the eight digits of its history."""
    return name[8:]


def server_folder(project: str, server: str) -> str:
    """What is archived of a server."""
    return f"{_ROOT}/{project}/{server}"


def base_folder(stream: str, base: str) -> str:
    """Where a base backup lies in its server's folder."""
    return f"{stream}/base/{base}"


def log_path(name: str, mac: str) -> str:
    """The name of a file of the log, as what writes it (`StoreWriter`) puts it into the stream's folder."""
    return f"{name}-{mac}"


def slot(project: str) -> str:
    """The name under which a server keeps its log for the project: of what every server takes in names."""
    digest = hashlib.sha256(project.encode()).hexdigest()[:8]
    return f"multidb_{_NO_SLOT.sub('_', project)[:40]}_{digest}"


def mac_of(key: Secret, context: str) -> hmac.HMAC:
    """What signs bytes, to be fed with them.

    Args:
        context: what they are: the same bytes elsewhere are not signed by it.
    """
    return hmac.new(key.reveal().encode(), f"{context}\0".encode(), hashlib.sha256)


def signed(document: Mapping[str, Any], key: Secret, context: str) -> str:
    """The text of a document, with what signs it."""
    return json.dumps({**document, _MAC: _document_mac(document, key, context)}, indent=1) + "\n"


def verified(document: object, key: Secret, context: str) -> dict[str, Any]:
    """The document that `signed` has made. `Unreadable` where the key has not signed it for this place."""
    if not isinstance(document, dict) or not isinstance(mac := document.pop(_MAC, None), str):
        raise Unreadable("is not signed")
    if not hmac.compare_digest(mac, _document_mac(document, key, context)):
        raise Unreadable("was not written by this project: its signature does not fit")
    return document


def _document_mac(document: Mapping[str, Any], key: Secret, context: str) -> str:
    mac = mac_of(key, context)
    mac.update(json.dumps(document, sort_keys=True).encode())
    return mac.hexdigest()
