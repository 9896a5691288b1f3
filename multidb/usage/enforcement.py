"""Makes apps over their quota read-only, and those that have made room writable again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

from multidb.engine import Engine
from multidb.errors import MultidbError
from multidb.fleet import Fleet, Scope
from multidb.history import RunRecord
from multidb.model import StoreContext
from multidb.provisioners import provisioner
from multidb.read_only import changing_read_only
from multidb.report import Report
from multidb.usage.quotas import ReadOnlyApps, read_only_after
from multidb.usage.report import UsageReport

__all__ = ["Enforcement", "enforce"]

Recording: TypeAlias = Callable[[Collection[str]], AbstractContextManager[RunRecord | None]]


def _unrecorded(apps: Collection[str]) -> AbstractContextManager[None]:
    """For who keeps no history."""
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Enforcement:
    """What was decided, and what came of it.

    Args:
        read_only: by store, the apps that are read-only from now on; `lifted`: those that no longer are.
        standing: by store, every app that is read-only.
        powerless: by store, apps that should be, on servers that cannot do that for one app; nothing is changed there.
        reports: what the applies did, by store.
    """

    read_only: ReadOnlyApps = field(default_factory=dict)
    lifted: ReadOnlyApps = field(default_factory=dict)
    standing: ReadOnlyApps = field(default_factory=dict)
    powerless: ReadOnlyApps = field(default_factory=dict)
    reports: Mapping[str, Report] = field(default_factory=dict)

    @property
    def errors(self) -> dict[str, MultidbError]:
        """By store, why an apply could not make it so; the next enforcement tries again."""
        errors = {store: report.error() for store, report in self.reports.items()}
        return {store: error for store, error in errors.items() if error is not None}

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        words = {
            "read_only": self.read_only,
            "lifted": self.lifted,
            "standing": self.standing,
            "powerless": self.powerless,
        }
        document = {word: {store: sorted(apps) for store, apps in by.items()} for word, by in words.items()}
        errors = {store: error.document() for store, error in self.errors.items()}
        return {**document, "errors": errors}


def enforce(engine: Engine, report: UsageReport, recording: Recording = _unrecorded) -> Enforcement:
    """Writes down who is read-only after `report`, then applies the manifest to those apps, so that it takes effect.

    The decision is written first: when the apply fails or is cut off, the next plan shows what is left, and the next
    apply or enforcement does it. Apps that were read-only before are applied again, which finishes what was left.

    Args:
        recording: what the applies are done in, where another app is read-only than before; see `Run.recorded`.

    Raises:
        Conflict: something stands in the way of an apply; the decision is written all the same.
    """
    with changing_read_only(engine.state) as read_only:
        before = dict(read_only)
        asked = read_only_after(engine.project, report, before)
        after = _only(asked, lambda store, app: _able(engine.fleet, store, app))
        read_only.clear()
        read_only.update(after)
    concerned = {store: before.get(store, frozenset()) | after.get(store, frozenset()) for store in {*before, *after}}
    known = {store: apps & engine.project.apps.keys() for store, apps in sorted(concerned.items())}
    changed = {app for store in known for app in before.get(store, frozenset()) ^ after.get(store, frozenset())}
    with recording(changed) if changed else nullcontext() as record:
        reports = {
            store: engine.apply(Scope(apps=apps, stores=frozenset({store}))) for store, apps in known.items() if apps
        }
        if record is not None:
            record.applied(*reports.values())
    return Enforcement(_more(after, before), _more(before, after), after, _more(asked, after), reports)


def _able(fleet: Fleet, store: str, app: str) -> bool:
    """Whether the app would get anything else on its server if it were read-only. Taken to be so where the server
    cannot be asked: then the decision waits for it."""
    for server in fleet.servers(Scope(apps=frozenset({app}), stores=frozenset({store}))):
        try:
            context = fleet.recorded_context(server)
        except MultidbError:
            continue
        if context.facts is not None and _given(fleet, context, app, set()) == _given(fleet, context, app, {app}):
            return False
    return True


def _given(fleet: Fleet, context: StoreContext, app: str, read_only: set[str]) -> list[dict[str, Any]]:
    """Every field of what the app gets, also of those that are not compared."""
    assert context.server is not None
    store = provisioner(context.server.store)
    resources = store.desired([fleet.project.apps[app]], replace(context, read_only=frozenset(read_only)))
    return [asdict(resource) for resource in resources]


def _only(these: ReadOnlyApps, keep: Callable[[str, str], bool]) -> dict[str, frozenset[str]]:
    chosen = {store: frozenset(app for app in apps if keep(store, app)) for store, apps in these.items()}
    return {store: apps for store, apps in chosen.items() if apps}


def _more(these: ReadOnlyApps, those: ReadOnlyApps) -> dict[str, frozenset[str]]:
    """What is in `these` and not in `those`."""
    return _only(these, lambda store, app: app not in those.get(store, frozenset()))
