"""New credentials for apps while they work: a second one beside the one that each has, and later the old one off.

Each step is written down before it is taken (`multidb.alternation`), and what a server needs for it is made by a plan
and an apply like any other, so a step that was interrupted anywhere is finished by the same command. A step is taken
for all apps together: their secrets are made in one write, each server is changed once for all of them, and their
variables are written in one pass. Whoever calls these functions holds the apps' locks (`ProjectState.lock_apps`) and
has read the manifest under them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from multidb.alternation import Alternation, RotationPhase, alternations, record_alternation
from multidb.closure import closures
from multidb.concurrency import side_by_side
from multidb.credentials import credential_ages, make_anew
from multidb.engine import Engine
from multidb.errors import AuthenticationFailed, MultidbError, NotAllowed, PartlyApplied, Refused, ServerError
from multidb.fleet import Scope
from multidb.model import (
    App,
    Facts,
    Isolation,
    Server,
    Status,
    StoreContext,
    listed,
)
from multidb.provisioners import provisioner
from multidb.report import ServerReport
from multidb.rotation_state import BOTH_WORK, Place, StoreUse, UnknownUse, uses_in_words, uses_of
from multidb.runtime import ServerState
from multidb.secrets import Alternate

__all__ = [
    "Rotation",
    "Write",
]


Write = Callable[[Sequence[str]], Mapping[str, bool | MultidbError]]
"""(apps) -> by app, whether any of its variables was new where it reads them; or why they could not be written."""

_TRIES_AT_ONCE: Final = 8


class Rotation:
    """The rotation of apps' credentials on some of their stores. What goes wrong with one app is in `errors` and
    changes no other's result; nothing more is done for it then, by any step.

    Args:
        stores: None: all that each app has, but for those that cannot rotate.
        write: writes apps' variables where they read them.
        clock: the time now, in UTC.

    Attributes:
        errors: by app, why its step was not taken, or not to its end. `Refused`: its logins are meant to be off, no
            store of these can rotate, or the step does not fit; `ServerError`: a server of its has no address or does
            not answer; `PartlyApplied`: a server did not let all of it be done; `UsageError`: no such app.
        left_out: by app and store, why its credentials there are not rotated.
        unable: those of `errors` that have no credentials to rotate on these stores.
    """

    def __init__(
        self,
        engine: Engine,
        apps: Iterable[str],
        stores: Iterable[str] | None,
        write: Write,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine, self._fleet, self._state = engine, engine.fleet, engine.state
        self._write_variables, self._clock = write, clock
        self.errors: dict[str, MultidbError] = {}
        self.left_out: dict[str, dict[str, str]] = {}
        self.unable: set[str] = set()
        self._apps: dict[str, App] = {}
        closed = closures(self._state)
        for name in apps:
            with self._its_own(name):
                self._apps[name] = self._fleet.app(name)
                if name in closed:
                    raise Refused(closed[name].why, where=f"app {name}", hint=closed[name].way_on)
        self._servers = self._serving(None if stores is None else frozenset(stores))

    def stores_of(self, app: str) -> tuple[str, ...]:
        """Those whose credentials are rotated."""
        return tuple(store for name, store in self._servers if name == app)

    def prepare(self, apps: Iterable[str]) -> None:
        """Makes a second credential of each app on each store, and puts it into the app's variables. From then on both
        work; so they do where this was interrupted. Nothing where that is so already."""
        names = list(apps)
        self._go_on_finishing(names)
        self._in_one([name for name in names if name not in self.errors], self._begin)
        making = self._in_phase(names, RotationPhase.PREPARING)
        if making:
            self._apply(making, "the credential that the app has works on")
            self._try(self._require_let_in, making)
            self._record(self._in_phase(names, RotationPhase.PREPARING), RotationPhase.PREPARED, flip=True)
        self._record(self._in_phase(names, RotationPhase.REVERTED), RotationPhase.PREPARED, flip=True)
        self._write(names)

    def revert(self, apps: Iterable[str]) -> frozenset[str]:
        """Puts the credentials of before into the apps' variables again; both work on until `finish`. Refused where it
        is too late.

        Returns:
            The apps that may have taken the new ones, so that they have to read their variables before that.
        """
        names = list(apps)
        for app, stores in self._stores_in_phase(names, RotationPhase.FINISHING).items():
            self.errors[app] = Refused(
                f"it is too late to go back: the former credentials on {listed(stores)} are being turned off",
                where=f"app {app}",
                hint=f"finish it: multidb rotate {app} --finish",
            )
        prepared = self._in_phase(names, RotationPhase.PREPARED)
        given_out = {app for app, _ in [*prepared, *self._in_phase(names, RotationPhase.REVERTED)]}
        self._record(self._in_phase(names, RotationPhase.PREPARING), RotationPhase.REVERTED)
        self._record(prepared, RotationPhase.REVERTED, flip=True)
        self._write(names)
        return frozenset(given_out)

    def uses(self, apps: Iterable[str]) -> dict[str, dict[str, StoreUse]]:
        """By app and store on which both work, who uses the one that is not in the app's variables. A server that does
        not answer is an error of its apps: nobody can tell."""
        entries = {place: entry for place, entry in self._entries(apps).items() if entry.phase in BOTH_WORK}
        answers = uses_of(self._fleet, {place: (self._servers[place], entry) for place, entry in entries.items()})
        uses: dict[str, dict[str, StoreUse]] = {}
        for (app, store), answer in answers.items():
            if isinstance(answer, MultidbError):
                self.errors.setdefault(app, answer)
            else:
                uses.setdefault(app, {})[store] = answer
        return {app: of_app for app, of_app in uses.items() if app not in self.errors}

    def finish(
        self, apps: Iterable[str], *, force: bool, after: timedelta | None = None
    ) -> dict[str, dict[str, StoreUse]]:
        """Turns off, on every store on which both work, the credential that is not in the app's variables, ends its
        sessions, and tries that it is refused. Nothing where no rotation is under way. Refused where it is in use, or
        was not prepared: nothing was changed for that app.

        Args:
            force: also while it is in use.
            after: where a store cannot tell who uses it: not before the app's variables have had the other one for so
                long; None: only by `force`.

        Returns:
            By app and store, who used it until now.
        """
        names = list(apps)
        for app, stores in self._stores_in_phase(names, RotationPhase.PREPARING).items():
            self.errors[app] = Refused(
                f"the new credentials on {listed(stores)} are not all made yet",
                where=f"app {app}",
                hint=f"go on: multidb rotate {app}; or go back: multidb rotate {app} --abort",
            )
        uses = self.uses(names)
        for app in self._write(names):  # whoever reads them from here on has what stays
            if uses.get(app) and not force:
                self.errors[app] = Refused(
                    "its variables have the credentials that stay only since now",
                    where=f"app {app}",
                    hint="let the app read them (restart or reload it), then run the same again",
                )
        for app, of_app in uses.items():
            if not force and app not in self.errors:
                self._refuse_in_use(app, of_app, after)
        both = {place: entry for place, entry in self._entries(names).items() if entry.phase in BOTH_WORK}
        self._record(both, RotationPhase.FINISHING)
        self._go_on_finishing(names)
        return uses

    # Steps

    def _begin(self, apps: Sequence[str]) -> None:
        """Makes the secrets of the credentials that do not work now, and writes down that they are to."""
        entries = self._entries(apps)
        ages = credential_ages(self._state, [self._apps[app] for app in apps])
        fresh = [place for place in self._places(apps) if place not in entries or not entries[place].under_way]
        if not fresh:
            return
        begun, specs, now = [], [], self._clock()
        for app, store in fresh:
            entry = entries.get((app, store))
            current = entry.current if entry is not None else Alternate.FIRST
            issued = dict(entry.issued) if entry is not None else {}
            if entry is None and (known := ages[app, store].issued) is not None:
                issued[current] = known
            issued[current.other] = now
            serials = {**(entry.serials if entry is not None else {}), current.other: int(now.timestamp() * 1000)}
            begun.append(Alternation(app, store, current, RotationPhase.PREPARING, now, issued, serials))
            all_specs = provisioner(store).secrets(self._apps[app])
            specs += [spec for spec in all_specs if spec.alternate is current.other]
        make_anew(self._state, specs)
        record_alternation(self._state, begun)

    def _go_on_finishing(self, apps: Sequence[str]) -> None:
        finishing = self._in_phase(apps, RotationPhase.FINISHING)
        if not finishing:
            return
        self._apply(finishing, "the new one works, and the old one may")
        self._try(self._require_refused, finishing)
        self._record(self._in_phase(apps, RotationPhase.FINISHING), RotationPhase.DONE)

    def _apply(self, entries: Iterable[Place], meanwhile: str) -> None:
        """Brings the stores to what is written down: each server once, for all of its apps. An app's database is looked
        into only where its mark says that a second login changes something there."""
        for apps, stores in _scopes(entries):
            reports = self._engine.settle(Scope(apps=apps, stores=stores, deep=False))
            for app in apps:
                errors = [(report.server, error) for report in reports for error in self._errors_of(report, app)]
                if errors:
                    hint = next((error.hint for _, error in errors if error.hint), None) or "correct the cause"
                    why = "; ".join(f"{server}: {error}" for server, error in errors)
                    self.errors[app] = PartlyApplied(
                        f"the rotation is not done, {meanwhile}: {why}",
                        where=f"app {app}",
                        hint=f"{hint}; then run the same again, "
                        f"or, before it is finished: multidb rotate {app} --abort",
                    )

    def _errors_of(self, report: ServerReport, app: str) -> tuple[MultidbError, ...]:
        """What went wrong for the app on a server that it uses."""
        server = self._servers.get((app, report.store))
        return report.errors_of(app) if server is not None and server.name == report.server else ()

    def _record(self, entries: Mapping[Place, Alternation], phase: RotationPhase, *, flip: bool = False) -> None:
        now = self._clock()
        changed = [
            dataclasses.replace(entry, phase=phase, since=now, current=entry.current.other if flip else entry.current)
            for entry in entries.values()
        ]
        if changed:
            record_alternation(self._state, changed)

    def _write(self, apps: Sequence[str]) -> list[str]:
        """Writes the variables of all of these; gives those that have new ones."""
        names = [app for app in apps if app not in self.errors]
        written = self._write_variables(names) if names else {}
        self.errors |= {app: answer for app, answer in written.items() if isinstance(answer, MultidbError)}
        return [app for app, answer in written.items() if answer is True]

    def _places(self, apps: Iterable[str]) -> list[Place]:
        """Of the apps with which nothing is wrong, where their credentials are rotated."""
        names = {app for app in apps if app not in self.errors}
        return [place for place in self._servers if place[0] in names]

    def _entries(self, apps: Iterable[str]) -> dict[Place, Alternation]:
        known = alternations(self._state)
        return {place: known[place] for place in self._places(apps) if place in known}

    def _stores_in_phase(self, apps: Iterable[str], phase: RotationPhase) -> dict[str, list[str]]:
        stores: dict[str, list[str]] = {}
        for app, store in self._in_phase(apps, phase):
            stores.setdefault(app, []).append(store)
        return stores

    def _in_phase(self, apps: Iterable[str], phase: RotationPhase) -> dict[Place, Alternation]:
        return {place: entry for place, entry in self._entries(apps).items() if entry.phase is phase}

    def _refuse_in_use(self, app: str, uses: Mapping[str, StoreUse], after: timedelta | None) -> None:
        now, reasons = self._clock(), []
        for store, use in uses.items():
            if isinstance(use, UnknownUse):
                if after is None or now - use.since < after:
                    reasons.append(uses_in_words(store, use))
            elif use:
                reasons.append(uses_in_words(store, use))
        if reasons:
            self.errors[app] = Refused(
                f"the credentials to be turned off are in use, or may be: {'; '.join(reasons)}",
                where=f"app {app}",
                hint="let the app read its variables again (restart or reload it), then run the same again; "
                "or end what uses them: --force",
            )

    # One app's errors are its own

    @contextmanager
    def _its_own(self, app: str) -> Iterator[None]:
        """What goes wrong in the block is this app's error."""
        try:
            yield
        except MultidbError as error:
            self.errors.setdefault(app, error)

    def _in_one(self, apps: Sequence[str], work: Callable[[Sequence[str]], None]) -> None:
        """Work that writes once for all apps; where that fails, by itself for each, so that each has its own answer."""
        try:
            work(apps)
        except MultidbError:
            for app in apps:
                with self._its_own(app):
                    work([app])

    def _try(
        self, require: Callable[[Place, Alternate, StoreContext], None], entries: Mapping[Place, Alternation]
    ) -> None:
        """Tries the credential of each place that is not in its app's variables."""
        contexts: dict[str, StoreContext] = {}
        tried = [place for place in entries if place[0] not in self.errors]
        for place in tried:
            server = self._servers[place]
            with self._its_own(place[0]):
                if server.name not in contexts:
                    contexts[server.name] = self._fleet.recorded_context(server)

        def work(place: Place) -> None:
            with self._its_own(place[0]):
                require(place, entries[place].current.other, contexts[self._servers[place].name])

        side_by_side(work, [place for place in tried if place[0] not in self.errors], at_once=_TRIES_AT_ONCE)

    # Servers

    def _serving(self, stores: frozenset[str] | None) -> dict[Place, Server]:
        """By app and store, the app's server, as far as its credentials can be rotated there."""
        scope = Scope(apps=frozenset(self._apps), stores=stores)
        for status, users in self._fleet.missing(scope):
            for app in users:
                if status.state is not ServerState.SKIPPED:
                    self.errors.setdefault(app.id, status.not_running())
                why = f"its server cannot be had on this machine ({status.message})"
                self.left_out.setdefault(app.id, {})[status.store] = why
        serving: dict[Place, Server] = {}
        servers = self._fleet.servers(scope)
        for server, context in zip(servers, self._fleet.contexts(servers).values(), strict=True):
            for app in [app for app in self._fleet.apps_of(server) if app.id in self._apps]:
                if isinstance(context, MultidbError):
                    self.errors.setdefault(app.id, context)
                elif why := provisioner(server.store).rotates(app, Facts.of(context.facts)):
                    self.left_out.setdefault(app.id, {})[server.store] = why
                else:
                    serving[app.id, server.store] = server
        for name, app in self._apps.items():
            in_scope = [store for store in app.stores if stores is None or store in stores]
            left_out = self.left_out.get(name, {})
            rotates = any((name, store) in serving for store in in_scope)
            if name not in self.errors and (not rotates or (stores is not None and left_out)):
                whys = [f"{store}: {why}" for store, why in left_out.items()]
                self.unable.add(name)
                self.errors[name] = Refused(
                    f"its credentials cannot be rotated: {'; '.join(whys) or 'it has none on the stores named'}",
                    where=f"app {name}",
                    hint=f"its stores: {', '.join(app.stores)}",
                )
        return {
            (name, store): serving[name, store]
            for name, app in self._apps.items()
            for store in app.stores
            if (name, store) in serving
        }

    def _require_let_in(self, place: Place, alternate: Alternate, context: StoreContext) -> None:
        """Tries the new credential before anybody is told of it."""
        app, store = place
        check = provisioner(store).check_health
        if check is None:
            return
        tenant = self._fleet.tenant_with(self._servers[place], context, self._apps[app], alternate)
        try:
            health = check(tenant, False)
            why = health.message if health.status is Status.UNHEALTHY else ""
        except ServerError as error:
            why = error.message
        if why:
            raise PartlyApplied(
                f"the new credential on {store} does not work, so the app keeps the one that it has: {why}",
                where=f"app {app}",
                hint=f"correct the cause, then run the same again; or go back: multidb rotate {app} --abort",
            )

    def _require_refused(self, place: Place, alternate: Alternate, context: StoreContext) -> None:
        """Tries the old credential, which has to be refused."""
        app, store = place
        check = provisioner(store).check_health
        level, _ = provisioner(store).isolation(self._apps[app], Facts.of(context.facts))
        if check is None or level is Isolation.NAMING_ONLY:  # there, nothing keeps anybody out
            return
        try:
            check(self._fleet.tenant_with(self._servers[place], context, self._apps[app], alternate), False)
        except (AuthenticationFailed, NotAllowed):
            return
        raise PartlyApplied(
            f"the former credential on {store} still works after it was turned off",
            where=f"app {app}",
            hint="see whether the server lets everybody in without a password: multidb audit",
        )


def _scopes(places: Iterable[Place]) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Places as apps and stores: as few pairs of these as there are different sets of apps on the stores."""
    apps_of: dict[str, set[str]] = {}
    for app, store in places:
        apps_of.setdefault(store, set()).add(app)
    stores_of: dict[frozenset[str], set[str]] = {}
    for store, apps in apps_of.items():
        stores_of.setdefault(frozenset(apps), set()).add(store)
    return [(apps, frozenset(stores)) for apps, stores in stores_of.items()]
