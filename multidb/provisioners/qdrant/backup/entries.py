"""What a part of a set says of its collections. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from multidb.errors import ArchiveError
from multidb.model import Part
from multidb.provisioners.qdrant.backup.configuration import is_configuration
from multidb.provisioners.qdrant.provision.resources import OWN_PREFIX

__all__ = ["POINTS", "SNAPSHOT", "entries_of", "renamed"]

SNAPSHOT: Final = "qdrant snapshot 1"
POINTS: Final = "qdrant points 1"
_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_ANOTHER: Final = "restore another set"


def entries_of(part: Part) -> Sequence[Mapping[str, Any]]:
    """The collections of a part. A set may come from anywhere: what it says becomes names and requests of the admin's.

    Raises:
        ArchiveError: it says what no backup writes.
    """
    entries = part.details.get("collections")
    suffix = "snapshot" if part.format == SNAPSHOT else "jsonl"
    if not isinstance(entries, Sequence) or not all(_is_entry(entry, suffix) for entry in entries):
        raise ArchiveError("what the set says of its collections is not what a backup writes", hint=_ANOTHER)
    types = [entry["type"] for entry in entries]
    if len(set(types)) < len(types):
        raise ArchiveError("the set names a collection twice", hint=_ANOTHER)
    return entries


def _is_entry(entry: object, suffix: str) -> bool:
    if not isinstance(entry, Mapping):
        return False
    kind, aliases = entry.get("type"), entry.get("aliases")
    return (
        isinstance(kind, str)
        and _TYPE.fullmatch(kind) is not None
        and entry.get("file") == f"{kind}.{suffix}"
        and is_configuration(entry)
        and isinstance(aliases, Sequence)
        and all(isinstance(alias, str) and alias and not alias.startswith(OWN_PREFIX) for alias in aliases)
        and (suffix != "snapshot" or re.fullmatch(r"[0-9a-f]{64}", str(entry.get("sha256"))) is not None)
    )


def renamed(aliases: Sequence[str], old: str, new: str) -> tuple[str, ...]:
    """The aliases for the app `new`: all of them, or those that begin with another app's name, rewritten."""
    if old == new:
        return tuple(aliases)
    return tuple(f"{new}_{alias.removeprefix(f'{old}_')}" for alias in aliases if alias.startswith(f"{old}_"))
