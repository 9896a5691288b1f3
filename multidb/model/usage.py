"""How much of a shared server each app uses. Sizes are bytes, times are seconds; None: the server cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

__all__ = ["AppUsage", "CredentialUse", "Enforce", "Query", "Quota", "ServerUsage"]


class Enforce(StrEnum):
    """What happens to an app that has used up its quota."""

    WARN = "warn"  # it is shown, and `multidb usage` exits with 1
    READ_ONLY = "read-only"  # and `multidb usage --enforce` lets it read and delete only, where the server can do that


@dataclass(frozen=True, slots=True)
class Quota:
    """The most bytes that an app should keep in a store, and what happens when it has more."""

    size: int
    enforce: Enforce = Enforce.WARN


@dataclass(frozen=True, slots=True)
class Query:
    """One kind of query, as the server's own statistics have it. `text` has no literals in it."""

    text: str
    calls: int
    mean: float
    total: float


@dataclass(frozen=True, slots=True)
class AppUsage:
    """One app on one server.

    Args:
        size: bytes that the app's data takes.
        estimated: whether `size` was reckoned from a sample instead of read.
        connections: open now; `connection_limit`: the most that the app may open.
        counts: what the store counts: ``rows``, ``keys``, ``points``, ``vectors``, ``nodes``, ``relationships``; also
            rates and counters (``cache_hit`` from 0 to 1, ``deadlocks``, ``temp_bytes``, ``queries``, ``query_time``).
        largest: the largest tables, collections or kinds of keys, with their bytes, largest first, at most ten.
        slow: the queries that took the most time in all, at most ten.
        notes: what a reader has to know to understand the figures.
    """

    size: int | None = None
    estimated: bool = False
    connections: int | None = None
    connection_limit: int | None = None
    counts: Mapping[str, float] = field(default_factory=dict)
    largest: tuple[tuple[str, int], ...] = ()
    slow: tuple[Query, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CredentialUse:
    """Sessions of one login, from one address.

    Args:
        login: as the server calls it.
        address: where they come from; empty: the server does not say, or it is the server's own machine.
        since: when the oldest of them began; None: the server does not say.
    """

    login: str
    sessions: int
    address: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class ServerUsage:
    """One server, and every app on it by app id. Read in a number of round trips that does not grow with the apps."""

    size: int | None = None
    connections: int | None = None
    connection_limit: int | None = None
    apps: Mapping[str, AppUsage] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
