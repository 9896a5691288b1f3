"""The audit's effects: reads each server's catalogs as the admin, and tries the walls as the apps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from multidb import __version__
from multidb.audit.findings import Audit, ServerAudited, Tried, Untried
from multidb.audit.pairs import ALL_PAIRS, Pairs, choose
from multidb.closure import Closure, closures
from multidb.concurrency import side_by_side
from multidb.errors import (
    AuthenticationFailed,
    MultidbError,
    NotAllowed,
    Refused,
    ServerDown,
    ServerError,
    ServerSlow,
    UsageError,
    one_line,
)
from multidb.fleet import Answer, Fleet, Scope
from multidb.model import (
    App,
    Inspection,
    Isolation,
    Known,
    Outcome,
    Probe,
    Progress,
    Remark,
    Search,
    Server,
    Session,
    StoreContext,
    Tenant,
)
from multidb.provisioners import provisioner
from multidb.secrets import redact

__all__ = ["audit"]

_ATTACKERS_AT_ONCE = 8  # each with its own login on one server, so that no app's connection limit is eaten


def audit(fleet: Fleet, scope: Scope | None = None, *, seed: int | None = None, most: int = ALL_PAIRS) -> Audit:
    """Proves, or not, that the apps in scope are kept from every other app of the manifest, and these from them.

    Reads catalogs, and tries acts that change nothing even where they succeed; no app's data is read or written.

    Args:
        seed: draws the ring of pairs where there are too many; by default the day, so that days differ.
        most: see `choose`.

    Raises:
        UsageError: an app of the scope is not in the manifest.
    """
    scope = scope or Scope()
    fleet.require(scope)
    started = datetime.now(UTC)
    drawn = started.toordinal() if seed is None else seed
    servers = [_audited(answer) for answer in fleet.ask(scope, _reading(fleet, scope), "reading catalogs")]
    participants = _Participants.of(fleet, scope)
    pairs = {
        store: choose(tuple(participants.tenants[store]), drawn, scope.apps, most) for store in participants.tenants
    }
    attack = _Attack(participants, pairs, closures(fleet.state), fleet.progress)
    attempts = side_by_side(attack.attempt, attack.attempts, at_once=_ATTACKERS_AT_ONCE)
    return Audit(
        project=fleet.project.name,
        apps=tuple(app.id for app in fleet.project.apps.values() if scope.wants(app)),
        pairs=pairs,
        tried=tuple(tried for attempt in attempts for tried in attempt.tried),
        servers=tuple(servers),
        untried=(*participants.never_made, *(gap for attempt in attempts for gap in attack.untried(attempt))),
        refusals={
            (attempt.attacker.app.id, attempt.attacker.server.store): attempt.error
            for attempt in attempts
            if attempt.error
        },
        started=started,
        finished=datetime.now(UTC),
        multidb=__version__,
    )


def _reading(fleet: Fleet, scope: Scope) -> Callable[[Server, Session, StoreContext], ServerAudited]:
    """What a server's own catalogs say: who should be isolated how, and what is open all the same."""

    def catalogs(server: Server, session: Session, context: StoreContext) -> ServerAudited:
        store, everyone = provisioner(server.store), fleet.apps_of(server)
        names = tuple(app.id for app in everyone if scope.wants(app))
        # All apps, also those that were removed and may come back: what belongs to none of them is a stranger's.
        # The holes of those out of scope are dropped after.
        removed = [app for app in fleet.project.removed.values() if server.store in app.stores]
        known = [*everyone, *(app for app in removed if server.app is None)]
        inspection = Inspection(context, known, store.desired(known, context), fleet.state.secrets)
        others = {app.id for app in known} - set(names)
        kept = (_kept_for_good(app) for app in everyone if app.id in names and fleet.project.never_rotates(app))
        search = _without_others(_sorted(session.search(inspection), context.known), others)
        search = replace(search, remarks=(*search.remarks, *kept))
        isolation = {app.id: store.isolation(app, session.facts) for app in everyone if app.id in names}
        version = f"{session.facts.product} {session.facts.version}"
        return ServerAudited(server.name, server.store, names, version, isolation, search)

    return catalogs


def _kept_for_good(app: App) -> Remark:
    message = "the manifest says rotate: never, so whoever has learned them may use them for good"
    return Remark(f"credentials of {app.id}", message, app.id)


def _audited(answer: Answer[ServerAudited]) -> ServerAudited:
    """What was found on one server, or why nothing was."""
    if answer.value is not None:
        return answer.value
    return ServerAudited(answer.name, answer.store, answer.app_ids, error=answer.error, skipped=answer.skipped)


def _sorted(search: Search, known: frozenset[str]) -> Search:
    """With what is for a known account told of it, and no hole."""
    could = {
        account: tuple(
            f"{hole.name}, {hole.subject}: {hole.message}" for hole in search.holes if hole.account == account
        )
        for account in sorted(known)
    }
    holes = tuple(hole for hole in search.holes if hole.account not in known)
    return replace(search, holes=holes, known=tuple(Known(*entry) for entry in could.items()))


def _without_others(search: Search, others: set[str]) -> Search:
    """Without what is of `others`. The names in it are of things that anybody may have made, so that each subject and
    message is put on one line: none can add a line of its own to a report."""
    return replace(
        search,
        holes=tuple(
            replace(hole, subject=one_line(hole.subject), message=one_line(hole.message))
            for hole in search.holes
            if hole.app not in others
        ),
        known=tuple(Known(one_line(entry.account), tuple(map(one_line, entry.could))) for entry in search.known),
        unread=tuple(
            replace(unread, catalog=one_line(unread.catalog), why=one_line(redact(unread.why)))
            for unread in search.unread
            if unread.app not in others
        ),
        remarks=tuple(
            replace(remark, subject=one_line(remark.subject), message=one_line(remark.message))
            for remark in search.remarks
            if remark.app not in others
        ),
    )


@dataclass(frozen=True, slots=True)
class _Participants:
    """Everybody who can take part, by store and app, the promise that each was given, and who has nothing yet."""

    tenants: Mapping[str, Mapping[str, Tenant]]
    promised: Mapping[tuple[str, str], Isolation]
    never_made: tuple[Untried, ...]
    former: Mapping[tuple[str, str], Tenant]  # with the credentials of before the last rotation

    @classmethod
    def of(cls, fleet: Fleet, scope: Scope) -> _Participants:
        """From every server that let the admin in: what is promised there is computed from what the server is."""
        everyone = Scope(stores=scope.stores)
        tenants: dict[str, dict[str, Tenant]] = {}
        promised: dict[tuple[str, str], Isolation] = {}
        former: dict[tuple[str, str], Tenant] = {}
        never_made: list[Untried] = []
        for answer in fleet.on_servers(everyone, fleet.recorded_context):
            server, context = answer.server, answer.value
            # One with an error is among the audited servers, or serves no app that is.
            if server is None or context is None or context.facts is None:
                continue
            there, missing = fleet.tenants_of(server, context, everyone)
            never_made += [
                Untried(server.store, app, None, redact(error.sentence(where=False)))
                for app, error in missing.items()
                if scope.apps is None or app in scope.apps
            ]
            for tenant in there:
                tenants.setdefault(server.store, {})[tenant.app.id] = tenant
                if (dead := _former(fleet, tenant)) is not None:
                    former[tenant.app.id, server.store] = dead
                level, _ = provisioner(server.store).isolation(tenant.app, context.facts)
                promised[tenant.app.id, server.store] = level
        return cls(tenants, promised, tuple(never_made), former)


def _former(fleet: Fleet, tenant: Tenant) -> Tenant | None:
    """The app as it came before its credentials were rotated; None: they never were, or nobody has the old ones."""
    alternates = tenant.context.alternates_of(tenant.app.id)
    for alternate in set(alternates.made) - alternates.working:
        try:
            return fleet.tenant_with(tenant.server, tenant.context, tenant.app, alternate)
        except UsageError:
            return None
    return None


def _with_former(tenant: Tenant, expected: Isolation) -> Probe:
    """What comes of an app's own credential of before its last rotation. The one that it has now, whose probes come
    after, is the control."""
    act, check = (
        "come in with the credential of before the last rotation",
        provisioner(tenant.server.store).check_health,
    )
    promised = Outcome.ALLOWED if expected is Isolation.NAMING_ONLY else Outcome.REFUSED
    try:
        if check is None:
            return Probe(tenant.app.id, None, act, promised, Outcome.BROKEN, "the store has no check")
        check(tenant, False)
    except (AuthenticationFailed, NotAllowed) as error:
        return Probe(tenant.app.id, None, act, promised, Outcome.REFUSED, redact(error.message))
    return Probe(tenant.app.id, None, act, promised, Outcome.ALLOWED, "it was let in")


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One app's attempts on its victims, and what came of them; `error`: why it had to stop."""

    attacker: Tenant
    victims: tuple[Tenant, ...]
    tried: tuple[Tried, ...] = ()
    error: MultidbError | None = None


class _Attack:
    """Every attempt of one audit, and which servers have turned out to answer nobody."""

    def __init__(
        self, participants: _Participants, pairs: Mapping[str, Pairs], closed: Mapping[str, Closure], progress: Progress
    ) -> None:
        self._participants = participants
        self._closed = closed
        self._progress = progress
        self._guard = threading.Lock()
        self._silent: dict[str, ServerError] = {}
        self._done = 0
        self.attempts: Sequence[_Attempt] = [
            _Attempt(tenants[attacker], tuple(tenants[victim] for victim in victims))
            for store, tenants in participants.tenants.items()
            for attacker, victims in pairs[store].victims.items()
        ]

    def attempt(self, planned: _Attempt) -> _Attempt:
        """Makes the attempts. Raises nothing: what goes wrong is in the result."""
        attacker = planned.attacker
        store, server = provisioner(attacker.server.store), attacker.server
        if (closure := self._closed.get(attacker.app.id)) is not None:
            return _Attempt(attacker, planned.victims, error=Refused(closure.why, hint=closure.way_on))
        with self._guard:
            silent = self._silent.get(server.name)
        if silent is not None:
            return _Attempt(attacker, planned.victims, error=silent)
        tried: list[Tried] = []
        error: MultidbError | None = None
        try:
            if (former := self._participants.former.get((attacker.app.id, server.store))) is not None:
                promise = self._participants.promised[attacker.app.id, server.store]
                tried.append(Tried(server.store, server.name, _with_former(former, promise)))
            for probe in store.probe(attacker, planned.victims) if store.probe else ():
                tried.append(Tried(server.store, server.name, probe))  # noqa: PERF401 - what came before an error stays
        except (ServerDown, ServerSlow) as lost:
            error = lost
            with self._guard:
                self._silent.setdefault(server.name, lost)
        except MultidbError as refused:
            error = refused
        except Exception as fault:  # a fault in one store's probes must not hide what the others found
            error = MultidbError(redact(f"the probe itself failed ({type(fault).__name__}: {fault})"))
        with self._guard:
            self._done += 1
            self._progress("audit", "trying", self._done, len(self.attempts))
        return _Attempt(attacker, planned.victims, tuple(tried), error)

    def untried(self, made: _Attempt) -> Iterable[Untried]:
        """The victims that were promised a wall which nobody has tried."""
        store, attacker = made.attacker.server.store, made.attacker.app.id
        reached = {act.probe.target for act in made.tried}
        for victim in made.victims:
            name = victim.app.id
            if name not in reached and self._participants.promised[name, store] is not Isolation.NAMING_ONLY:
                why = redact(made.error.sentence(where=False)) if made.error else "no probe was made"
                yield Untried(store, attacker, name, why)
