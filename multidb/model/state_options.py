"""Where the manifest has a project's state kept, as text: ``.multidb/``, ``s3://bucket/prefix``, or a server's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["FOLDER", "INCLUDED_STATES", "StateAddress", "is_folder", "is_state_address", "scheme_of"]

FOLDER: Final = ".multidb/"
"""In the manifest's folder, on this machine: where it is where the manifest names no place."""
_SERVER: Final = re.compile(r"[a-z][a-z0-9_]*")
_ADDRESS: Final = re.compile(r"([a-z][a-z0-9]*)://[!-~]{0,200}")


@dataclass(frozen=True, slots=True)
class StateAddress:
    """How addresses with one scheme look.

    Args:
        form: for people: ``s3://BUCKET/PREFIX``.
        pattern: regular expression that a whole address fits, with its scheme.
    """

    form: str
    pattern: str

    def fits(self, address: str) -> bool:
        """Whether the address names a place."""
        return re.fullmatch(self.pattern, address) is not None


INCLUDED_STATES: Final[Mapping[str, StateAddress]] = MappingProxyType(
    {"s3": StateAddress("s3://BUCKET/PREFIX", r"(?!.*\.\.)s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.=-]+)*/?")}
)
"""By scheme the places that come with multidb; no package can take one's place."""


def is_folder(address: str) -> bool:
    """Whether it is the folder."""
    return address.rstrip("/") == FOLDER.rstrip("/")


def scheme_of(address: str) -> str:
    """What the address begins with, before ``://``; empty where it is of no such form."""
    match = _ADDRESS.fullmatch(address)
    return match[1] if match else ""


def is_state_address(address: str) -> bool:
    """Whether it has the form of a place. Whether there is a server of the name, or a place of the scheme, is another
    matter."""
    return is_folder(address) or bool(scheme_of(address)) or _SERVER.fullmatch(address) is not None
