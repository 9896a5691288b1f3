"""The plan of one server: what is to be there, what is there, and the changes between them, with their statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from multidb.access import access_of, record_access
from multidb.baseline import Baseline
from multidb.errors import MultidbError, ServerError
from multidb.fleet import Fleet, Scope
from multidb.model import (
    Action,
    App,
    AppMode,
    Change,
    Inspection,
    Move,
    Provisioner,
    Resource,
    Server,
    Session,
    StoreContext,
)
from multidb.plan import LOST, ServerPlan, added, diff, in_order, without_half_apps
from multidb.provisioners import provisioner
from multidb.recall import recall

__all__ = ["ServerPlanner"]


class ServerPlanner:
    """Reads servers of a fleet, and says what would bring them to the manifest. Changes none."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._state = fleet.state

    def read(self, server: Server, session: Session, scope: Scope, context: StoreContext | None = None) -> ServerPlan:
        """What would change on the server. What it knows and is not known here is written down.

        Args:
            context: where it was made already.

        Raises:
            ServerError: the server does not answer, or does not let it be read.
        """
        store = provisioner(server.store)
        context = context or self._fleet.context(server, session)
        context = replace(context, moving=context.moving | scope.moving)
        in_scope = [app for app in self._fleet.apps_of(server) if scope.wants(app)]
        apps = [app for app in in_scope if app.mode(store.name) is not AppMode.OBSERVE]
        observed = [app for app in in_scope if app.mode(store.name) is AppMode.OBSERVE]
        unread: dict[str, MultidbError] = {}
        moves: dict[str, Move] = {}
        desired, live, left = self._compared(server, session, scope, context, apps, unread, moves)
        left += self._observed(session, scope, context, observed)
        known = [change for change in diff(desired, live, scope.adopt) if change.resource.app not in unread]
        changes = in_order(without_half_apps(self._refuse_lost(change, scope) for change in known))
        written = [_with_statements(change, store, context, unread) for change in changes]
        if scope.deep:
            baseline = Baseline(self._state, server.name)
            written = [baseline.explained(change) for change in written]
            added_to = {app.id for app in apps if app.mode(store.name) is AppMode.ADDITIVE}
            baseline.learn(desired, changes, {app.id for app in apps} - unread.keys() - added_to)
        unsettled = {*unread, *(change.resource.app for change in changes)}
        recall(self._fleet, server, context, {app.id for app in apps} - unsettled)
        isolation = {app.id: store.isolation(app, session.facts) for app in in_scope}
        record_access(self._state.folder, server.name, access_of(isolation, desired), self._fleet.project.apps)
        return ServerPlan(
            server.name,
            server.store,
            f"{session.facts.product} {session.facts.version}",
            isolation,
            tuple(change for change in written if change.resource.app not in unread),
            unread={app: error for app, error in unread.items() if app not in moves},
            moves=moves,
            notes=tuple(store.caveats(session.facts)) if store.caveats else (),
            left=tuple(_with_statements(change, store, context, {}) for change in left),
        )

    def _compared(
        self,
        server: Server,
        session: Session,
        scope: Scope,
        context: StoreContext,
        apps: Sequence[App],
        unread: dict[str, MultidbError],
        moves: dict[str, Move],
    ) -> tuple[tuple[Resource, ...], Sequence[Resource], list[Change]]:
        """What is to be there, what is there, and what is left of apps from which nothing is taken.

        Args:
            unread: filled with the apps whose place could not be read, and why.
            moves: filled with those of them that have another place than the manifest gives them.
        """
        store = provisioner(server.store)
        desired = tuple(store.desired(apps, context))
        of_server = self._fleet.apps_of(server)
        deciding = not of_server or any(app.mode(store.name) is AppMode.AUTHORITATIVE for app in of_server)
        if server.name in scope.left_open or not deciding:
            desired = tuple(resource for resource in desired if not resource.closing)
        if not deciding and not apps:
            desired = ()  # nothing is changed on a server that is observed
        inspection = Inspection(context, apps, desired, self._state.secrets, scope.deep)
        live = session.inspect(inspection)
        unread.update(inspection.unread)
        moves.update(inspection.moves)
        adding = frozenset(app.id for app in apps if app.mode(store.name) is AppMode.ADDITIVE) - scope.adopt
        if not adding:
            return desired, live, []
        lesser = added(desired, live, adding)
        there = {resource.key: resource for resource in live} | {resource.key: resource for resource in lesser}
        left = [change for change in diff(desired, there.values(), adding) if change.resource.app in adding]
        again = replace(inspection, desired=lesser)  # what a session sees may follow from what is asked for
        return lesser, session.inspect(again), left

    def _observed(self, session: Session, scope: Scope, context: StoreContext, apps: Sequence[App]) -> list[Change]:
        """What would be changed of apps of which nothing is, if they were taken over."""
        if not apps:
            return []
        assert context.server is not None
        ids = frozenset(app.id for app in apps)
        desired = tuple(provisioner(context.server.store).desired(apps, context))
        live = session.inspect(Inspection(context, apps, desired, self._state.secrets, scope.deep))
        return [change for change in diff(desired, live, ids) if change.resource.app in ids]

    def _refuse_lost(self, change: Change, scope: Scope) -> Change:
        lost = [field.field for field in change.fields if field.old == LOST]
        app = change.resource.app
        if not lost or app in scope.regenerate or app in scope.adopt:
            return change
        return replace(
            change,
            action=Action.CONFLICT,
            reason=f"the {lost[0]} of {change.resource.kind} {change.resource.name} is not in the secret store; "
            f"restore {self._state.where_secrets_are}, or make new credentials: multidb apply --regenerate {app}",
        )


def _with_statements(
    change: Change, store: Provisioner, context: StoreContext, unread: dict[str, MultidbError]
) -> Change:
    """The change with what makes it; in `unread`, why that cannot be said for its app."""
    assert context.server is not None
    change = replace(change, store=store.name, server=context.server.name)
    if change.action is Action.CONFLICT:
        return change
    app = change.resource.app or ""
    try:
        return replace(
            change, statements=tuple(replace(statement, app=app) for statement in store.statements(change, context))
        )
    except ServerError as error:
        if not app:
            raise
        error.where = error.where or f"app {app} on {context.server}"
        unread[app] = error
        return change
