"""What the service looks at, each kind at its own interval: an expensive look is made less often.

Only what other commands do too; nothing here changes a server, but for the probe of a health check, which leaves
nothing behind.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock

from multidb import audit, health, usage
from multidb.audit import Audit
from multidb.backup.creation import repository
from multidb.backup.jobs import JobFile
from multidb.backup.journal import Journal
from multidb.backup.repository import Copy
from multidb.backup.schedule import LastSets, freshness_now, last_sets
from multidb.credentials import credential_ages
from multidb.document import in_future
from multidb.engine import Engine
from multidb.errors import MultidbError
from multidb.fleet import Scope
from multidb.health import HealthReport
from multidb.health_history import HealthHistory
from multidb.history import RecordedRun, RunHistory
from multidb.model import Health, Project
from multidb.plan import Plan
from multidb.secrets import redact
from multidb.service.overview import Records, RunsSeen, SetsSeen
from multidb.usage import History, Look, UsageReport

__all__ = ["MOST_SETS", "SETS_SHOWN", "Sources", "UsageSeen"]

_RELOAD = 30.0  # seconds for which the manifest is taken to be as it was read
_AGES = 10.0  # seconds for which "newest set 5 minutes old" is near enough
SETS_SHOWN = 12  # of each app on each target that the page shows
MOST_SETS = 2_000  # of all of them: each is a request or two to a target
_RUNS = 100  # that the page shows of the project
_RUNS_OF_APP = 20  # that it shows of each app, also where all of them are older than those
_KEEP_EVERY = timedelta(hours=1)  # between two sizes kept for the sparklines


@dataclass(frozen=True, slots=True)
class UsageSeen:
    """What the apps use, and their sizes at earlier looks."""

    report: UsageReport
    looks: Sequence[Look]


class Sources:
    """The looks at one project. Each may block and may raise `MultidbError`; any thread may call any of them.

    Args:
        open_engine: reads the manifest; called again every half minute, so that a new app is seen without a restart.
        may_write: the health check also writes something and reads it back.
    """

    def __init__(self, open_engine: Callable[[], Engine], *, may_write: bool = True) -> None:
        self._open_engine = open_engine
        self._may_write = may_write
        self._guard = Lock()
        self._engine: Engine | None = None
        self._read_at = float("-inf")
        self._history: HealthHistory | None = None
        self._jobs: JobFile | None = None
        self._records = Records()
        self._freshness: Mapping[str, Health] = {}
        self._freshness_of: tuple[Engine, object] | None = None
        self._freshness_until = float("-inf")

    def engine(self) -> Engine:
        """The engine for the manifest as it is now, or was some seconds ago. `MultidbError` when it is wrong."""
        with self._guard:
            if self._engine is None or time.monotonic() - self._read_at > _RELOAD:
                self._engine = self._open_engine()
                self._read_at = time.monotonic()
            return self._engine

    @property
    def project(self) -> Project:
        """The manifest as it was last read; does not block."""
        return (self._engine or self.engine()).project

    def health(self) -> HealthReport:
        """Tries every app's every store, and keeps what was found in the history."""
        fresh = lambda app: self.freshness().get(app.id)  # noqa: E731
        fleet = self.engine().fleet
        history = self._history = self._history or HealthHistory(fleet.state)
        report = health.check(fleet, may_write=self._may_write, freshness=fresh)
        history.add(report)
        return report

    def records(self) -> Records:
        """What the project's folder says; reads no file that is as it was. The same value as long as it says the same.

        Raises:
            MultidbError: the manifest or the state is wrong.
        """
        engine = self._engine or self.engine()
        state = engine.state
        jobs = self._jobs = self._jobs or JobFile(state)
        credentials = credential_ages(state, engine.project.apps.values())
        histories = self._history.places if self._history is not None else {}
        records = Records(histories, credentials, jobs.jobs(Journal(state).working, datetime.now(UTC)))
        if records != self._records:
            self._records = records
        return self._records

    def sets(self) -> SetsSeen:
        """The newest sets on each target. A target that cannot be read costs the page its own sets only."""
        engine = self.engine()
        home = repository(engine.fleet)
        places = len(home.targets) * len(engine.project.apps)
        most = max(1, min(SETS_SHOWN, MOST_SETS // max(1, places)))
        copies: list[Copy] = []
        problems: dict[str, str] = {}
        for target in home.targets:
            try:
                copies += home.on(target).copies(engine.project.apps, most)
            except MultidbError as error:
                problems[target.name] = redact(error.sentence())
        return SetsSeen(tuple(sorted(copies, key=lambda copy: copy.id, reverse=True)), problems)

    def history(self) -> RunsSeen:
        """The newest runs of the project and of each app, and what is wrong with the lines of the history."""
        kept = RunHistory(self.engine().state)
        chain = kept.verify()
        problems = tuple(redact(problem) for problem in chain.problems)
        return RunsSeen(_newest(kept.runs()), problems, chain.way_on() if problems else "")

    def freshness(self) -> Mapping[str, Health]:
        """By app, what is to be said of its backups now. Computed anew, from the state alone, when that was written or
        some seconds are over, so that it agrees with the last backup and not with the last look.

        Raises:
            MultidbError: the manifest or the state is wrong.
        """
        engine = self._engine or self.engine()
        stamp = engine.state.stamp()
        with self._guard:
            known, until = self._freshness_of, self._freshness_until
            if known is None or known[0] is not engine or known[1] != stamp or time.monotonic() >= until:
                freshness = freshness_now(engine.fleet)
                freshness_of = {app.id: freshness(app) for app in engine.project.apps.values()}
                self._freshness = {app: health for app, health in freshness_of.items() if health is not None}
                self._freshness_of, self._freshness_until = (engine, stamp), time.monotonic() + _AGES
            return self._freshness

    def drift(self) -> Plan:
        """What an apply would change, as far as the servers' shared catalogs tell."""
        return self.engine().plan(Scope(deep=False))

    def audit(self) -> Audit:
        """Tries the walls between the apps."""
        engine = self.engine()
        result = audit.audit(engine.fleet)
        audit.remember(engine.state, result)
        return result

    def usage(self) -> UsageSeen:
        """Asks what each app uses."""
        engine = self.engine()
        history = History(engine.state)
        looks, _ = history.looks()
        now = datetime.now(UTC)
        due = not looks or now - looks[-1].at >= _KEEP_EVERY or in_future(looks[-1].at, now)
        report = usage.look(engine.fleet, keep=due)
        return UsageSeen(report, looks)

    def backups(self) -> Mapping[str, LastSets]:
        """How old each app's backups are. Asks no target: what was done is in the state."""
        engine = self.engine()
        return last_sets(engine.project, engine.state)


def _newest(runs: Sequence[RecordedRun]) -> tuple[RecordedRun, ...]:
    """The newest first: some of all, and some of each app."""
    counts: Counter[str] = Counter()
    newest: list[RecordedRun] = []
    for number, run in enumerate(reversed(runs)):
        if number < _RUNS or any(counts[app] < _RUNS_OF_APP for app in run.apps):
            newest.append(run)
        counts.update(run.apps)
    return tuple(newest)
