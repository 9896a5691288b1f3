"""Another api key. A server reads its keys at its start, two of them since 1.17: ``api_key`` and ``alt_api_key``, and
takes tokens that either has signed. Pure.
"""

from __future__ import annotations

from typing import Final

from multidb.model import AdminPassword, Facts
from multidb.provisioners.qdrant.provision.resources import QdrantFacts

__all__ = ["ADMIN_PASSWORD"]

_TWO_KEYS: Final = (1, 17)


def _obstacle(facts: Facts) -> str:
    qdrant = QdrantFacts.of(facts)
    if qdrant.local:
        return "a folder stands in for the server, and has no key"
    if _version(qdrant.version) < _TWO_KEYS:
        return f"Qdrant {qdrant.version} knows one key only (1.17 knows two): every token would be refused at once"
    return ""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("-")[0].split(".")[:2] if part.isdigit())


ADMIN_PASSWORD: Final = AdminPassword(
    by_hand="set service.api_key to the new key and service.alt_api_key to the former, restart the server, run multidb "
    "apply, let every app read its variables, then take alt_api_key out and restart it again",
    at_start=True,
    signs=True,
    obstacle=_obstacle,
)
