"""What an audit has found, as values, and whether it is a proof. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from textwrap import shorten
from typing import Any

from multidb.audit.pairs import Pairs
from multidb.errors import MultidbError
from multidb.model import Hole, Isolation, Known, Outcome, Probe, Remark, Search, Unread

__all__ = ["Audit", "ServerHole", "ServerAudited", "Summary", "Tried", "Untried"]

_SHOWN = 160  # characters of what a server said


@dataclass(frozen=True, slots=True)
class Tried:
    """A probe, and where it was tried: the attacker's `server`."""

    store: str
    server: str
    probe: Probe

    @property
    def act(self) -> str:
        """Who tried what, in words: ``SELECT by lernmi against beep_boop``."""
        probe = self.probe
        return f"{probe.name} by {probe.app}" + (f" against {probe.target}" if probe.target else "")

    @property
    def detail(self) -> str:
        """What the server said to it, in parentheses on one line, to be put behind the act; or nothing."""
        detail = shorten(self.probe.detail, _SHOWN, placeholder=" ...")
        return f" ({detail})" if detail else ""

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        probe = self.probe
        return {
            "app": probe.app,
            "against": probe.target,
            "store": self.store,
            "server": self.server,
            "probe": probe.name,
            "expected": probe.expected.value,
            "got": probe.got.value,
            "ok": probe.ok,
            "detail": probe.detail,
        }


@dataclass(frozen=True, slots=True)
class ServerHole:
    """A hole, and the server that it was found on."""

    store: str
    server: str
    hole: Hole

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        hole = self.hole
        return {
            "store": self.store,
            "server": self.server,
            "app": hole.app,
            "hole": hole.name,
            "subject": hole.subject,
            "message": hole.message,
            "closes": list(hole.closes),
        }


@dataclass(frozen=True, slots=True)
class Untried:
    """An app, or a pair of apps, that should have been tried and was not, so that nothing is proved of it."""

    store: str
    app: str
    target: str | None
    why: str

    def __str__(self) -> str:
        against = f" against {self.target}" if self.target else ""
        return f"{self.app} on {self.store}{against}: {self.why}"


@dataclass(frozen=True, slots=True)
class ServerAudited:
    """One server as its catalogs have it.

    Args:
        apps: the audited apps that it serves.
        version: product and version.
        isolation: by app, how isolated it should be, and why.
        search: what was found in its catalogs, and in which.
        error: why it was not asked, instead of all this.
        skipped: why this machine cannot have it; then nothing of any app is there.
    """

    server: str
    store: str
    apps: tuple[str, ...] = ()
    version: str = ""
    isolation: Mapping[str, tuple[Isolation, str]] = field(default_factory=dict)
    search: Search = field(default_factory=Search)
    error: MultidbError | None = None
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of one audit in a few figures, as it is kept for the page and the metrics."""

    finished: datetime
    ok: bool
    probes: int
    breaches: int
    holes: int
    unproved: int
    errors: int


@dataclass(frozen=True)
class Audit:
    """What was tried, what came of it, and what could not be proved.

    Args:
        apps: the apps that it is about.
        pairs: by store, who tried whom.
        tried: every probe.
        servers: every server that was asked.
        untried: what was to be tried and gave no answer.
        refusals: by app and store, why a probe could not be made at all (the server, or its own login).
        started, finished: in UTC.
        multidb: the version of this program.
    """

    project: str
    apps: tuple[str, ...]
    pairs: Mapping[str, Pairs]
    tried: tuple[Tried, ...]
    servers: tuple[ServerAudited, ...]
    untried: tuple[Untried, ...]
    refusals: Mapping[tuple[str, str], MultidbError]
    started: datetime
    finished: datetime
    multidb: str

    @cached_property
    def breaches(self) -> tuple[Tried, ...]:
        """What worked and is promised not to."""
        return tuple(attempt for attempt in self.tried if attempt.probe.breach)

    @cached_property
    def broken(self) -> tuple[Tried, ...]:
        """Probes whose control did not work: they prove nothing, whatever they seem to say."""
        return tuple(attempt for attempt in self.tried if attempt.probe.got is Outcome.BROKEN)

    @cached_property
    def gaps(self) -> tuple[Tried, ...]:
        """What worked where no wall is promised."""
        both = (Outcome.ALLOWED, Outcome.ALLOWED)
        return tuple(attempt for attempt in self.tried if (attempt.probe.expected, attempt.probe.got) == both)

    @cached_property
    def exceptions(self) -> Mapping[tuple[str, str], int]:
        """The kinds of `gaps`: by store and probe, how many."""
        return Counter((attempt.store, attempt.probe.name) for attempt in self.gaps)

    @cached_property
    def holes(self) -> tuple[ServerHole, ...]:
        """Every hole on every server."""
        return tuple(
            ServerHole(server.store, server.server, hole) for server in self.servers for hole in server.search.holes
        )

    @cached_property
    def remarks(self) -> tuple[tuple[str, Remark], ...]:
        """What a person should know of, by server; no wall is open by it."""
        return tuple((server.server, remark) for server in self.servers for remark in server.search.remarks)

    @cached_property
    def known(self) -> tuple[tuple[str, Known], ...]:
        """The accounts that the manifest names as known, by server, and what each could do."""
        return tuple((server.server, known) for server in self.servers for known in server.search.known)

    @cached_property
    def unread(self) -> tuple[tuple[str, Unread], ...]:
        """What nobody could look at, by server. Of what is the server's own, and closed to the admin, no audit can
        prove anything; of an app, it is something that should have been."""
        return tuple((server.server, unread) for server in self.servers for unread in server.search.unread)

    @cached_property
    def _overlooked(self) -> frozenset[tuple[str, str]]:
        """The apps, by store, in whose places nobody could look."""
        return frozenset(
            (unread.app, server.store)
            for server in self.servers
            for unread in server.search.unread
            if unread.app is not None
        )

    @cached_property
    def errors(self) -> tuple[tuple[str, MultidbError], ...]:
        """What could not be asked, by server or by app and store, and why."""
        of_servers = [(server.server, server.error) for server in self.servers if server.error is not None]
        of_apps = [(f"{app} on {store}", error) for (app, store), error in self.refusals.items()]
        return (*of_servers, *of_apps)

    @property
    def ok(self) -> bool:
        """Whether every wall that is promised has been proved, as far as the admin may read (`unread`)."""
        return not (self.breaches or self.broken or self.holes or self.untried or self.errors or self._overlooked)

    @property
    def exit_code(self) -> int:
        """0 proved; 1 a breach, a hole or a probe that proves nothing; 4 only that something could not be asked."""
        if self.breaches or self.broken or self.holes:
            return 1
        if self.errors:
            return 4
        return 1 if self.untried or self._overlooked else 0

    @cached_property
    def isolation(self) -> dict[str, dict[str, tuple[Isolation, str]]]:
        """By app and store, what is promised and why."""
        levels: dict[str, dict[str, tuple[Isolation, str]]] = {app: {} for app in self.apps}
        for server in self.servers:
            for app, promised in server.isolation.items():
                if app in levels:
                    levels[app][server.store] = promised
        return levels

    @property
    def stores(self) -> tuple[str, ...]:
        """The stores that were looked at."""
        return tuple(dict.fromkeys(server.store for server in self.servers))

    def verdict(self, app: str, store: str) -> str:
        """One cell of the matrix: ``breach``, ``hole``, ``not proved``, the promised level, or nothing where the app
        does not use the store. A breach counts against the app whose wall it went through."""
        if any((breach.probe.wall, breach.store) == (app, store) for breach in self.breaches):
            return "breach"
        if any(hole.store == store and hole.hole.app in (app, None) for hole in self.holes) and self._has(app, store):
            return "hole"
        if self._unproved(app, store):
            return "not proved"
        promised = self.isolation.get(app, {}).get(store)
        return promised[0].value if promised else ""

    def summary(self) -> Summary:
        """The outcome in a few figures."""
        unproved = len(self.broken) + len(self.untried) + len(self._overlooked)
        figures = (len(self.tried), len(self.breaches), len(self.holes), unproved, len(self.errors))
        return Summary(self.finished, self.ok, *figures)

    def document(self) -> dict[str, Any]:
        """The audit as plain JSON values."""
        return {
            "project": self.project,
            "started_at": self.started.isoformat(timespec="seconds"),
            "finished_at": self.finished.isoformat(timespec="seconds"),
            "multidb": self.multidb,
            "pairs": {store: _pairs(pairs) for store, pairs in self.pairs.items()},
            "servers": [_server(server) for server in self.servers],
            "isolation": {
                app: {store: level.value for store, (level, _) in stores.items()}
                for app, stores in self.isolation.items()
            },
            "verdicts": {app: self._verdicts(app) for app in self.apps},
            "counts": _counts(self.tried),
            "breaches": [breach.document() for breach in self.breaches],
            "holes": [hole.document() for hole in self.holes],
            "remarks": [
                {"server": server, "app": remark.app, "subject": remark.subject, "message": remark.message}
                for server, remark in self.remarks
            ],
            "unread": [
                {"server": server, "app": unread.app, "catalog": unread.catalog, "why": unread.why}
                for server, unread in self.unread
            ],
            "known": [
                {"server": server, "account": known.account, "could": list(known.could)} for server, known in self.known
            ],
            "broken": [attempt.document() for attempt in self.broken],
            "untried": [
                {"store": attempt.store, "app": attempt.app, "against": attempt.target, "why": attempt.why}
                for attempt in self.untried
            ],
            "errors": [{"subject": subject, **error.document()} for subject, error in self.errors],
            "probes": [attempt.document() for attempt in self.tried],
        }

    def _verdicts(self, app: str) -> dict[str, str]:
        return {store: verdict for store in self.stores if (verdict := self.verdict(app, store))}

    def _has(self, app: str, store: str) -> bool:
        return store in self.isolation.get(app, {})

    def _unproved(self, app: str, store: str) -> bool:
        broken = [attempt.probe for attempt in self.broken if attempt.store == store]
        untried = [attempt for attempt in self.untried if attempt.store == store]
        return (
            (app, store) in self.refusals
            or (app, store) in self._overlooked
            or any(server.error and app in server.apps and server.store == store for server in self.servers)
            or any(app in (probe.app, probe.target) for probe in broken)
            or any(app in (attempt.app, attempt.target) for attempt in untried)
        )


def _counts(tried: Iterable[Tried]) -> dict[str, int]:
    """How many probes came out which way; each outcome is a key."""
    outcomes = [attempt.probe.got for attempt in tried]
    return {outcome.value: outcomes.count(outcome) for outcome in Outcome}


def _pairs(pairs: Pairs) -> dict[str, Any]:
    drawn = {"sampled": pairs.sampled, "seed": pairs.seed, "waiting": pairs.waiting}
    return {"tried": pairs.count, "possible": pairs.possible, **drawn}


def _server(server: ServerAudited) -> dict[str, Any]:
    searched = [
        {"catalog": catalog.catalog, "objects": catalog.objects, "looked_for": catalog.looked_for}
        for catalog in server.search.catalogs
    ]
    return {
        "server": server.server,
        "store": server.store,
        "version": server.version,
        "searched": searched,
        "error": server.error.document() if server.error else None,
        "skipped": server.skipped or None,
    }
