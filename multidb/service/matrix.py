"""The audit as a matrix: every app on every store, and who tried whom. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from multidb.audit import Audit
from multidb.model import Isolation

__all__ = ["Matrix", "StoreAudit", "matrix"]

_TONES = {
    "breach": "bad",
    "hole": "bad",
    "not proved": "warn",
    "": "none",
    Isolation.ENFORCED.value: "good",
    Isolation.PARTIAL.value: "warn",
    Isolation.NAMING_ONLY.value: "bad",
}


@dataclass(frozen=True, slots=True)
class StoreAudit:
    """One store: the pairs that were tried, in words, and how many attempts came out which way."""

    store: str
    pairs: str
    refused: int
    allowed: int
    broken: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """By app and store, the verdict and its tone; an app that does not use the store has none."""

    stores: tuple[StoreAudit, ...]
    verdicts: Mapping[str, Mapping[str, tuple[str, str]]]


def matrix(audit: Audit) -> Matrix:
    """The matrix of one audit."""
    counted = Counter((tried.store, tried.probe.got.value) for tried in audit.tried)
    stores = tuple(
        StoreAudit(
            store,
            str(audit.pairs[store]) if store in audit.pairs else "nobody was tried",
            *(counted[store, outcome] for outcome in ("refused", "allowed", "broken")),
        )
        for store in audit.stores
    )
    verdicts = {
        app: {store: (verdict, _TONES[verdict]) for store in audit.stores if (verdict := audit.verdict(app, store))}
        for app in audit.apps
    }
    return Matrix(stores, verdicts)
