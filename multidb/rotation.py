"""New credentials for an app while it works: a second one beside the one that it has, and later the old one off.

Each step is written down before it is taken (`multidb.alternation`), and what a server needs for it is made by a plan
and an apply like any other, so a step that was interrupted anywhere is finished by the same command. Whoever calls
these functions holds the app's lock (`ProjectState.lock_apps`) and has read the manifest under it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from multidb.alternation import Alternation, RotationPhase, alternations, record_alternation
from multidb.closure import closures
from multidb.credentials import issued_at, make_anew
from multidb.engine import Engine
from multidb.errors import AuthenticationFailed, MultidbError, NotAllowed, PartlyApplied, Refused, ServerError
from multidb.fleet import Fleet, Scope
from multidb.model import (
    App,
    CredentialUse,
    Facts,
    Isolation,
    Server,
    Status,
    StoreContext,
    Tenant,
    counted,
    listed,
    moment_in_words,
)
from multidb.provisioners import provisioner
from multidb.runtime import ServerState
from multidb.secrets import Alternate

__all__ = [
    "Rotation",
    "Standing",
    "StoreUse",
    "UnknownUse",
    "recorded_standings",
    "standings",
    "use_in_words",
    "uses_in_words",
]

_BOTH: Final = (RotationPhase.PREPARED, RotationPhase.REVERTED)  # both work, and nothing is half done


@dataclasses.dataclass(frozen=True, slots=True)
class UnknownUse:
    """A store that cannot tell who uses a credential, and since when the app's variables have another one."""

    since: datetime


StoreUse = Sequence[CredentialUse] | UnknownUse
"""Who uses a credential that is to be turned off."""


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """How an app's credentials stand on one store.

    Args:
        alternation: what was recorded of their rotation; None: they were never rotated.
        issued: when those were made that the app's variables have; None: before that was recorded.
        use: who uses the other ones; None: they do not work.
    """

    alternation: Alternation | None
    issued: datetime | None
    use: StoreUse | None

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        alternation = self.alternation
        uses = self.use if self.use is not None and not isinstance(self.use, UnknownUse) else ()
        return {
            "current": (alternation.current if alternation is not None else Alternate.FIRST).value,
            "phase": alternation.phase.value if alternation is not None else None,
            "since": alternation.since.isoformat(timespec="seconds") if alternation is not None else None,
            "issued_at": self.issued.isoformat(timespec="seconds") if self.issued is not None else None,
            "former_used_by": [
                {
                    "login": use.login,
                    "sessions": use.sessions,
                    "address": use.address or None,
                    "since": use.since.isoformat(timespec="seconds") if use.since is not None else None,
                }
                for use in uses
            ],
        }


class Rotation:
    """The rotation of one app's credentials on some of its stores.

    Args:
        stores: None: all that it has, but for those that cannot rotate.
        write: writes the app's variables where it reads them, and says whether any was new; raises where that could
            not be done.
        clock: the time now, in UTC.

    Attributes:
        left_out: by store, why its credentials are not rotated.

    Raises:
        Refused: its logins are meant to be off, or no store of these can rotate.
        UsageError: no such app.
        ServerError: a server of these has no address, or does not answer.
    """

    def __init__(
        self,
        engine: Engine,
        app_id: str,
        stores: Iterable[str] | None,
        write: Callable[[], bool],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine, self._fleet, self._state = engine, engine.fleet, engine.state
        self._app = self._fleet.app(app_id)
        self._write, self._clock = write, clock
        self.left_out: dict[str, str] = {}
        if (closure := closures(self._state).get(app_id)) is not None:
            raise Refused(closure.why, where=f"app {app_id}", hint=closure.way_on)
        self._servers = self._serving(None if stores is None else frozenset(stores))

    @property
    def stores(self) -> tuple[str, ...]:
        """Those whose credentials are rotated."""
        return tuple(self._servers)

    def prepare(self) -> None:
        """Makes a second credential on each store, and puts it into the app's variables. From then on both work; so
        they do where this was interrupted. Nothing where that is so already.

        Raises:
            PartlyApplied: a server did not let it be done. The credential that the app has works.
        """
        self._go_on_finishing()
        entries = self._entries()
        fresh = [store for store in self._servers if store not in entries or not entries[store].under_way]
        self._begin(fresh, entries)
        making = self._in_phase(RotationPhase.PREPARING)
        if making:
            self._apply(making, "the credential that the app has works on")
            for store in making:
                self._require_let_in(store, making[store].current.other)
            self._record(making.values(), RotationPhase.PREPARED, flip=True)
        self._record(self._in_phase(RotationPhase.REVERTED).values(), RotationPhase.PREPARED, flip=True)
        self._write()

    def revert(self) -> bool:
        """Puts the credential of before into the app's variables again; both work on until `finish`.

        Returns:
            Whether the app may have taken the new one, so that it has to read its variables before that.

        Raises:
            Refused: it is too late.
        """
        finishing = self._in_phase(RotationPhase.FINISHING)
        if finishing:
            raise Refused(
                f"it is too late to go back: the former credentials on {listed(list(finishing))} are being turned off",
                where=f"app {self._app.id}",
                hint=f"finish it: multidb rotate {self._app.id} --finish",
            )
        given_out = bool(self._in_phase(RotationPhase.PREPARED) or self._in_phase(RotationPhase.REVERTED))
        self._record(self._in_phase(RotationPhase.PREPARING).values(), RotationPhase.REVERTED, flip=False)
        self._record(self._in_phase(RotationPhase.PREPARED).values(), RotationPhase.REVERTED, flip=True)
        self._write()
        return given_out

    def uses(self) -> dict[str, StoreUse]:
        """By store on which both work, who uses the one that is not in the app's variables.

        Raises:
            ServerError: a server does not answer, so that nobody can tell.
        """
        uses: dict[str, StoreUse] = {}
        for store, entry in self._entries().items():
            if entry.phase in _BOTH:
                uses[store] = _use(self._fleet, self._servers[store], self._app, entry)
        return uses

    def finish(self, *, force: bool, after: timedelta | None = None) -> dict[str, StoreUse]:
        """Turns off, on every store on which both work, the credential that is not in the app's variables, ends its
        sessions, and tries that it is refused. Nothing where no rotation is under way.

        Args:
            force: also while it is in use.
            after: where a store cannot tell who uses it: not before the app's variables have had the other one for so
                long; None: only by `force`.

        Returns:
            By store, who used it until now.

        Raises:
            Refused: it is in use, or was not prepared; nothing was changed.
            PartlyApplied: a server did not let it be done; the same again finishes.
        """
        making = self._in_phase(RotationPhase.PREPARING)
        if making:
            raise Refused(
                f"the new credentials on {listed(list(making))} are not all made yet",
                where=f"app {self._app.id}",
                hint=f"go on: multidb rotate {self._app.id}; or go back: multidb rotate {self._app.id} --abort",
            )
        uses = self.uses()
        if self._write() and uses and not force:  # whoever reads them from here on has what stays
            raise Refused(
                "its variables have the credentials that stay only since now",
                where=f"app {self._app.id}",
                hint="let the app read them (restart or reload it), then run the same again",
            )
        if not force:
            self._refuse_in_use(uses, after)
        self._record([entry for entry in self._entries().values() if entry.phase in _BOTH], RotationPhase.FINISHING)
        self._go_on_finishing()
        return uses

    # Steps

    def _begin(self, stores: Sequence[str], entries: Mapping[str, Alternation]) -> None:
        """Makes the secrets of the credentials that do not work now, and writes down that they are to."""
        if not stores:
            return
        begun = []
        for store in stores:
            entry = entries.get(store)
            current = entry.current if entry is not None else Alternate.FIRST
            issued = dict(entry.issued) if entry is not None else {}
            if entry is None and (known := issued_at(self._state, self._app.id, store)) is not None:
                issued[current] = known
            make_anew(self._state, provisioner(store).secrets(self._app), current.other)
            now = issued[current.other] = self._clock()
            serials = {**(entry.serials if entry is not None else {}), current.other: int(now.timestamp() * 1000)}
            begun.append(Alternation(self._app.id, store, current, RotationPhase.PREPARING, now, issued, serials))
        record_alternation(self._state, begun)

    def _go_on_finishing(self) -> None:
        finishing = self._in_phase(RotationPhase.FINISHING)
        if not finishing:
            return
        self._apply(finishing, "the new one works, and the old one may")
        for store, entry in finishing.items():
            self._require_refused(store, entry.current.other)
        self._record(finishing.values(), RotationPhase.DONE)

    def _apply(self, entries: Iterable[str], meanwhile: str) -> None:
        """Brings the stores to what is written down."""
        scope = Scope(apps=frozenset({self._app.id}), stores=frozenset(entries))
        error = self._engine.apply(scope, agreed=False).error()
        if error is None:
            return
        raise PartlyApplied(
            f"the rotation is not done, {meanwhile}: {error}",
            where=f"app {self._app.id}",
            hint=f"{error.hint or 'correct the cause'}; then run the same again, "
            f"or, before it is finished: multidb rotate {self._app.id} --abort",
        )

    def _record(self, entries: Iterable[Alternation], phase: RotationPhase, *, flip: bool = False) -> None:
        changed = [
            dataclasses.replace(
                entry, phase=phase, since=self._clock(), current=entry.current.other if flip else entry.current
            )
            for entry in entries
        ]
        if changed:
            record_alternation(self._state, changed)

    def _entries(self) -> dict[str, Alternation]:
        known = alternations(self._state)
        return {store: known[self._app.id, store] for store in self._servers if (self._app.id, store) in known}

    def _in_phase(self, phase: RotationPhase) -> dict[str, Alternation]:
        return {store: entry for store, entry in self._entries().items() if entry.phase is phase}

    def _refuse_in_use(self, uses: Mapping[str, StoreUse], after: timedelta | None) -> None:
        app, now = self._app.id, self._clock()
        reasons = []
        for store, use in uses.items():
            if isinstance(use, UnknownUse):
                if after is None or now - use.since < after:
                    reasons.append(uses_in_words(store, use))
            elif use:
                reasons.append(uses_in_words(store, use))
        if reasons:
            raise Refused(
                f"the credentials to be turned off are in use, or may be: {'; '.join(reasons)}",
                where=f"app {app}",
                hint="let the app read its variables again (restart or reload it), then run the same again; "
                "or end what uses them: --force",
            )

    # Servers

    def _serving(self, stores: frozenset[str] | None) -> dict[str, Server]:
        """By store, the app's server, as far as its credentials can be rotated there."""
        stores_in_scope = [store for store in self._app.stores if stores is None or store in stores]
        scope = Scope(apps=frozenset({self._app.id}), stores=frozenset(stores_in_scope))
        for status, _ in self._fleet.missing(scope):
            if status.state is not ServerState.SKIPPED:
                raise status.not_running()
            self.left_out[status.store] = f"its server cannot be had on this machine ({status.message})"
        serving: dict[str, Server] = {}
        servers = self._fleet.servers(scope)
        for server, context in zip(servers, self._fleet.contexts(servers).values(), strict=True):
            if isinstance(context, MultidbError):
                raise context
            if why := provisioner(server.store).rotates(self._app, Facts.of(context.facts)):
                self.left_out[server.store] = why
            else:
                serving[server.store] = server
        if not serving or (stores is not None and self.left_out):
            whys = [f"{store}: {why}" for store, why in self.left_out.items()]
            raise Refused(
                f"its credentials cannot be rotated: {'; '.join(whys) or 'it has none on the stores named'}",
                where=f"app {self._app.id}",
                hint=f"its stores: {', '.join(self._app.stores)}",
            )
        return {store: serving[store] for store in stores_in_scope if store in serving}

    def _tenant(self, store: str, alternate: Alternate) -> tuple[Tenant, StoreContext]:
        """The app as it comes with one of its two credentials."""
        server = self._servers[store]
        context = self._fleet.recorded_context(server)
        return self._fleet.tenant_with(server, context, self._app, alternate), context

    def _require_let_in(self, store: str, alternate: Alternate) -> None:
        """Tries the new credential before anybody is told of it."""
        check = provisioner(store).check_health
        if check is None:
            return
        tenant, _ = self._tenant(store, alternate)
        try:
            health = check(tenant, False)
            why = health.message if health.status is Status.UNHEALTHY else ""
        except ServerError as error:
            why = error.message
        if why:
            raise PartlyApplied(
                f"the new credential on {store} does not work, so the app keeps the one that it has: {why}",
                where=f"app {self._app.id}",
                hint=f"correct the cause, then run the same again; or go back: multidb rotate {self._app.id} --abort",
            )

    def _require_refused(self, store: str, alternate: Alternate) -> None:
        """Tries the old credential, which has to be refused."""
        check = provisioner(store).check_health
        tenant, context = self._tenant(store, alternate)
        level, _ = provisioner(store).isolation(self._app, Facts.of(context.facts))
        if check is None or level is Isolation.NAMING_ONLY:  # there, nothing keeps anybody out
            return
        try:
            check(tenant, False)
        except (AuthenticationFailed, NotAllowed):
            return
        raise PartlyApplied(
            f"the former credential on {store} still works after it was turned off",
            where=f"app {self._app.id}",
            hint="see whether the server lets everybody in without a password: multidb audit",
        )


def standings(fleet: Fleet, app_id: str) -> dict[str, Standing]:
    """How an app's credentials stand, by store; who uses one that is to be turned off is asked of the servers.

    Raises:
        UsageError: no such app.
        ServerError: a server does not answer.
    """
    app, known, stands = fleet.app(app_id), alternations(fleet.state), {}
    for server in fleet.servers(Scope(apps=frozenset({app_id}))):
        entry = known.get((app_id, server.store))
        use = _use(fleet, server, app, entry) if entry is not None and entry.phase in _BOTH else None
        stands[server.store] = Standing(entry, issued_at(fleet.state, app_id, server.store), use)
    return stands


def recorded_standings(fleet: Fleet, app_id: str) -> dict[str, Standing]:
    """As `standings`, from the records alone: who uses what is not asked.

    Raises:
        UsageError: no such app.
    """
    app, known = fleet.app(app_id), alternations(fleet.state)
    return {
        store: Standing(known.get((app_id, store)), issued_at(fleet.state, app_id, store), None) for store in app.stores
    }


def _use(fleet: Fleet, server: Server, app: App, entry: Alternation) -> StoreUse:
    """Who uses the credential that is not in the app's variables."""
    if not provisioner(server.store).tells_use:
        return UnknownUse(entry.since)
    with fleet.open(server) as session:
        return session.in_use(app, fleet.context(server, session), entry.current.other)


def uses_in_words(store: str, use: StoreUse) -> str:
    """Who uses a credential on a store, as part of a sentence."""
    return f"{store}: {use_in_words(use)}"


def use_in_words(use: StoreUse) -> str:
    """As `uses_in_words`, where the store is said already."""
    if isinstance(use, UnknownUse):
        return f"nobody can tell who uses them; the app has others since {moment_in_words(use.since)}"
    sessions = sum(one.sessions for one in use)
    addresses = sorted({one.address for one in use if one.address})
    began = min((one.since for one in use if one.since is not None), default=None)
    origin = f" from {listed(addresses, 4)}" if addresses else ""
    since = f", the oldest since {moment_in_words(began)}" if began is not None else ""
    return f"{counted(sessions, 'session')}{origin}{since}"
