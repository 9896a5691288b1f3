"""Which apps the overview shows, and in which order: what a person asks for in the page's address. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from multidb.model import Status
from multidb.service.overview import AppRow, Trouble

__all__ = ["ANY_TROUBLE", "SORTS", "TROUBLES", "Selection", "labels_of"]

ANY_TROUBLE: Final = "any"
"""Whatever is wrong."""

TROUBLES: Final[Mapping[str, str]] = {
    "": "all",
    ANY_TROUBLE: "with any trouble",
    Trouble.UNHEALTHY: "unhealthy",
    Trouble.DEGRADED: "degraded",
    Trouble.OPEN: "wall open",
    Trouble.UNCERTAIN: "wall not proved",
    Trouble.DRIFT: "drifted",
    Trouble.BACKUP: "backup late",
    Trouble.QUOTA: "near or over quota",
}
"""By the word in the address: which apps it leaves."""

_LONGEST: Final = 100  # characters of what is searched for; no name is longer
_NEVER: Final = datetime(1, 1, 1, tzinfo=UTC)


def _worst_first(row: AppRow) -> tuple[Any, ...]:
    order = [Status.UNHEALTHY, Status.DEGRADED, None, Status.HEALTHY]
    return (not row.open and row.status is not Status.UNHEALTHY, order.index(row.status), -len(row.troubles))


SORTS: Final[Mapping[str, tuple[str, Callable[[AppRow], Any] | None]]] = {
    "": ("as in the manifest", None),
    "name": ("by name", lambda row: row.app),
    "trouble": ("worst first", _worst_first),
    "size": ("largest first", lambda row: -(row.size if row.size is not None else -1)),
    "latency": ("slowest first", lambda row: -(row.latency if row.latency is not None else -1.0)),
    "backup": ("oldest backup first", lambda row: (row.backup and row.backup.verified) or _NEVER),
    "drift": ("most drift first", lambda row: -(row.drift if row.drift is not None else -1)),
}
"""By the word in the address: what it is called, and by what it sorts."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is asked for; the empty one is every app as in the manifest.

    Args:
        text: part of an app's name.
        trouble: one of `Trouble`, or `ANY_TROUBLE`.
        label: ``key=value``.
        sort: one of `SORTS`.
    """

    text: str = ""
    trouble: str = ""
    label: str = ""
    sort: str = ""

    @classmethod
    def of(cls, text: str = "", trouble: str = "", label: str = "", sort: str = "") -> Selection:
        """What the address of the page says; what is not to be understood counts as not said."""
        return cls(
            text.strip()[:_LONGEST],
            trouble if trouble in {ANY_TROUBLE, *Trouble} else "",
            label[: 2 * _LONGEST],
            sort if sort in SORTS else "",
        )

    @property
    def address(self) -> str:
        """What stands behind the page's path."""
        query = {"q": self.text, "trouble": self.trouble, "label": self.label, "sort": self.sort}
        text = urlencode({name: value for name, value in query.items() if value})
        return f"?{text}" if text else ""

    @property
    def narrow(self) -> bool:
        """Whether it leaves apps out."""
        return bool(self.text or self.trouble or self.label)

    def rows(self, rows: Sequence[AppRow]) -> tuple[AppRow, ...]:
        """Those that are asked for."""
        _, key = SORTS[self.sort]
        chosen = [row for row in rows if self._wants(row)]
        return tuple(chosen if key is None else sorted(chosen, key=key))

    def _wants(self, row: AppRow) -> bool:
        troubles = row.troubles if self.trouble else frozenset()
        return (
            self.text.lower().replace("-", "_") in row.app
            and (not self.trouble or self.trouble in troubles or (self.trouble == ANY_TROUBLE and bool(troubles)))
            and (not self.label or self.label in map("=".join, row.labels.items()))
        )


def labels_of(rows: Sequence[AppRow]) -> list[str]:
    """Every ``key=value`` that there is."""
    return sorted({"=".join(label) for row in rows for label in row.labels.items()})
