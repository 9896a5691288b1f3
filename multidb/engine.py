"""The imperative shell: the only module that carries a plan out on a session.

Reading, planning and applying go server by server, side by side; on one server the statements run in order, but for
what the store knows to be independent. Nothing is printed here: callers get values, and hear of progress through a
callback.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from multidb.access import forget_access
from multidb.closure import closures
from multidb.concurrency import side_by_side
from multidb.credentials import ISSUED, ensure_secrets, refit_verifiers
from multidb.errors import MachineError, MultidbError, Refused, ServerError, StalePlan, StatementFailed
from multidb.fleet import SERVERS_AT_ONCE, Answer, Fleet, Scope
from multidb.model import (
    Action,
    Change,
    Finding,
    Level,
    Move,
    Project,
    Server,
    Session,
    StoreContext,
)
from multidb.numbers import record_numbers
from multidb.orphans import orphan_findings, unlisted_in
from multidb.plan import (
    Plan,
    ServerPlan,
    conflict_error,
    refuse_conflicts,
)
from multidb.project import is_unchanged
from multidb.provisioners import provisioner
from multidb.renames import former_names, outdated_names, renamed_since, ways_of_outdated
from multidb.report import Failure, Report, ServerReport, account
from multidb.server_planning import ServerPlanner
from multidb.state import ProjectState
from multidb.tombstone import Phase, tombstones, ways_of_removed

__all__ = ["Engine"]


class Engine:
    """Brings the servers of a fleet to the manifest of its project."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._planner = ServerPlanner(fleet)
        self._stopping = threading.Event()

    @property
    def project(self) -> Project:
        """The checked manifest."""
        return self.fleet.project

    @property
    def state(self) -> ProjectState:
        """The project's ``.multidb/`` folder."""
        return self.fleet.state

    def plan(self, scope: Scope | None = None) -> Plan:
        """What would change. Takes no lock and changes no server; one that cannot be read is in `Plan.errors`.

        What the servers say already and is not known here (numbers and removed apps, after the state was lost) is
        written down; so are verifiers of the apps that the scope names, where they are not of the passwords beside
        them.
        """
        scope = scope or Scope()
        self.fleet.require(scope)
        refit_verifiers(self.fleet, scope)
        plans = [_server_plan(answer) for answer in self.fleet.ask(scope, self._planning(scope))]
        return Plan(self.project.name, tuple(plans), tuple(self._warnings(scope, plans)))

    def apply(self, scope: Scope | None = None, plan: Plan | None = None, *, agreed: bool = True) -> Report:
        """Makes the changes: lock each server, read it again, run, read once more to prove that they took effect.

        Args:
            plan: the plan that was agreed to, made with the same scope; None: what is to be done is decided when the
                server's lock is held, so that nothing is stale, however many runs wait for their turn.
            agreed: False: `plan` only says which servers there is something to do on, and nobody was asked.

        Raises:
            Conflict: something in the way that is not ours; nothing was changed.
            Refused: the manifest has an app by a name that it has no more; nothing was changed.

        A server that has moved on since `plan`, is locked by another run or fails is in the report; the others go on.
        So do the other apps of a server that refuses something of one app.
        """
        scope = scope or Scope()
        self._refuse_outdated(scope)
        agreed = agreed and plan is not None
        servers = {server.name: server for server in self.fleet.servers(scope)}
        if not agreed:
            scope = self.fleet.sparing_others(scope)
        plan = plan or self.plan(scope)
        refuse_conflicts(plan)
        todo = [one for one in plan.servers if one.changes or one.error is not None or one.unread or one.moves]

        def work(server_plan: ServerPlan) -> ServerReport:
            return self._apply_server(servers.get(server_plan.server), server_plan, scope, agreed=agreed)

        return Report(plan, tuple(side_by_side(work, todo, at_once=SERVERS_AT_ONCE, cancelled=self._stopping)))

    def settle(self, scope: Scope) -> tuple[ServerReport, ...]:
        """Brings the servers in scope to the manifest and the records: each is read once when its lock is held, and
        once more when everything was sent. For a step of a command that is taken whatever it needs, so that nobody
        agrees to single changes; whoever calls this keeps removals of the apps away.

        What is in the way of one app is that app's failure; the others, and the other servers, go on.
        """
        scope = self.fleet.sparing_others(scope)

        def work(server: Server) -> ServerReport:
            try:
                with self.fleet.locked(server) as session:
                    fresh = self._planner.read(server, session, scope)
                    return self._carry_out(server, session, scope, fresh)
            except MultidbError as error:  # it must not cost the other servers their report
                return ServerReport(server.name, server.store, error=error)
            except Exception as fault:
                return ServerReport(server.name, server.store, error=_of_machine(fault))

        return tuple(side_by_side(work, self.fleet.servers(scope), at_once=SERVERS_AT_ONCE, cancelled=self._stopping))

    def stop(self) -> None:
        """Asks a running apply to end after the statement in flight; what was not run is reported as not tried."""
        self._stopping.set()

    # Planning one server

    def _planning(self, scope: Scope) -> Callable[[Server, Session, StoreContext], ServerPlan]:
        def planned(server: Server, session: Session, context: StoreContext) -> ServerPlan:
            plan = self._planner.read(server, session, scope, context)
            if scope.apps is None and server.app is None:
                plan = replace(plan, orphans=unlisted_in(self.fleet, server, session))
            return plan

        return planned

    def _warnings(self, scope: Scope, plans: Sequence[ServerPlan]) -> Iterator[Finding]:
        """What an apply leaves as it is, though it is not as it should be for good."""
        for app, where in self.project.returned.items():
            if scope.apps is None:
                message = f"{self.project.removed[app].where}, and the manifest has it again ({where}); it stays off"
                yield Finding(Level.WARNING, f"app {app}", f"was {message}", ways_of_removed(app))
        if scope.apps is None:
            yield from orphan_findings(self.fleet, plans, scope.stores)
        for app, closure in closures(self.state).items():
            if app in self.project.apps and scope.wants(self.project.apps[app]):
                yield Finding(Level.WARNING, f"app {app}", closure.why, closure.way_on)

    # Applying to one server

    def _apply_server(self, server: Server | None, planned: ServerPlan, scope: Scope, *, agreed: bool) -> ServerReport:
        nothing = ServerReport(planned.server, planned.store, not_tried=planned.changes)
        if server is None or planned.error is not None:
            return replace(nothing, error=planned.error)
        try:
            with self.fleet.locked(server) as session:
                self._refuse_removed(scope)
                fresh = self._planner.read(server, session, scope)
                if not agreed:
                    refuse_conflicts(Plan(self.project.name, (fresh,)))
                elif not planned.covers(fresh):
                    raise StalePlan(
                        "it has changed since the plan was made", where=str(server), hint="run the command again"
                    )
                return self._carry_out(server, session, scope, fresh)
        except MultidbError as error:  # whatever it is, it must not cost the other servers their report
            return replace(nothing, error=error)
        except Exception as fault:
            return replace(nothing, error=_of_machine(fault))

    def _carry_out(self, server: Server, session: Session, scope: Scope, fresh: ServerPlan) -> ServerReport:
        """Makes the changes that were found under the server's lock, and reads once more. A conflict that is left among
        them is a failure of its app's."""
        self._record(server, session)
        conflicts = tuple(change for change in fresh.changes if change.action is Action.CONFLICT)
        changes = [change for change in fresh.changes if change.action is not Action.CONFLICT]
        report = self._run(server, session, scope, changes)
        in_the_way = tuple(Failure(change, conflict_error([change])) for change in conflicts)
        unread = {**fresh.unread, **{app: _not_moved(move) for app, move in fresh.moves.items()}}
        report = replace(report, unread=unread, failures=(*in_the_way, *report.failures))
        if report.error is None:
            report = self._read_once_more(server, session, scope, report)
        if any(change.resource.app is None for change in report.done):
            forget_access(self.state.folder, server.name)  # what the session knows of the server is from before
        return report

    def _refuse_outdated(self, scope: Scope) -> None:
        """An app would be made anew, empty, and what it is called now would be in no manifest. One that is purged, with
        its credentials, may have been followed by another of the old name."""
        issued, removed = self.state.read(ISSUED), self.project.removed
        for name in outdated_names(self.project.apps, former_names(self.state)).values():
            if name.new in issued and name.new not in removed and scope.wants(self.project.apps[name.old]):
                raise Refused(renamed_since(name), where=f"app {name.old}", hint=ways_of_outdated(name))

    def _refuse_removed(self, scope: Scope) -> None:
        """The manifest was read before the lock was ours: its logins must not come on again. Nor while it is on its way
        out, but where the manifest still has it: a removal may have died before that was changed."""
        removed = tombstones(self.state)
        for app in self.project.apps.values():
            stone = removed.get(app.id) if scope.wants(app) else None
            if stone is not None and (
                stone.removed.settled or (stone.phase is not Phase.RESTORING and not is_unchanged(self.project))
            ):
                raise StalePlan("it was removed meanwhile", where=f"app {app.id}", hint="run the command again")

    def _record(self, server: Server, session: Session) -> None:
        """Writes down durable choices before the first statement that relies on them."""
        numbers = self.fleet.context(server, session).numbers
        if numbers and numbers != self.fleet.numbers(server):
            record_numbers(self.state, server.name, numbers)

    def _run(self, server: Server, session: Session, scope: Scope, changes: Sequence[Change]) -> ServerReport:
        """Makes the changes. Where one app's is refused, the server is read again and the others' are made."""
        ensure_secrets(self.fleet, provisioner(server.store), changes)
        report = self._run_once(server, session, changes)
        while report.failures and report.error is None:
            spoilt = {failure.change.resource.app for failure in report.failures}
            withheld = tuple(change for change in report.not_tried if change.resource.app in spoilt)
            others = [change for change in report.not_tried if change.resource.app not in spoilt]
            if not others:
                break
            try:
                left = {change.resource.key: change for change in self._planner.read(server, session, scope).changes}
            except (ServerError, Refused) as error:
                return replace(report, error=error)
            # What was on its way when another's failed may have been done.
            also = tuple(change for change in others if change.resource.key not in left)
            keys = {change.resource.key for change in others}
            again = [left[key] for key in left if key in keys and left[key].action is not Action.CONFLICT]
            following = self._run_once(server, session, again)
            report = replace(
                following,
                done=(*report.done, *also, *following.done),
                failures=(*report.failures, *following.failures),
                not_tried=(*withheld, *following.not_tried),
            )
        return report

    def _run_once(self, server: Server, session: Session, changes: Sequence[Change]) -> ServerReport:
        """Makes the changes up to the first that fails. No `error` when it is a single app's and others can go on."""
        statements = [statement for change in changes for statement in change.statements]
        durable, failing = 0, -1
        error: StatementFailed | MachineError | None = None
        try:
            for durable in session.run(statements, self.state.secrets):
                self.fleet.progress(server.name, "applying", durable, len(statements))
                if self._stopping.is_set() and durable < len(statements):
                    raise StatementFailed("stopped on request", index=-1, durable=durable, where=str(server))
        except StatementFailed as failure:
            durable, failing, error = failure.durable, failure.index, failure
        except Exception as fault:
            error = _of_machine(fault)
        return account(server, changes, durable, failing, error)

    def _read_once_more(self, server: Server, session: Session, scope: Scope, report: ServerReport) -> ServerReport:
        """Reads the server once more: some servers answer a statement with success and change nothing."""
        self.fleet.progress(server.name, "checking")
        try:
            proof = self._planner.read(server, session, scope)
        except (ServerError, Refused) as failed:  # what the server has answered for is done all the same
            return replace(report, error=failed)
        except Exception as fault:
            return replace(report, error=_of_machine(fault))
        report = replace(report, unread={**report.unread, **proof.unread})
        failed_apps = {failure.change.resource.app for failure in report.failures}
        left = [change for change in proof.changes if change.resource.app not in failed_apps]
        if not left:
            return report
        what = ", ".join(f"{change.resource.kind} {change.resource.name}" for change in left[:3])
        error = ServerError(
            f"the server accepted the statements, yet {what} is not as the manifest says",
            where=str(server),
            hint="multidb plan shows what is left; the admin login may lack a right (multidb doctor)",
        )
        names = {change.resource.key for change in left}
        done = tuple(change for change in report.done if change.resource.key not in names)
        if all(change.resource.app is not None for change in left):
            untrue = tuple(Failure(change, error) for change in left)
            return replace(report, done=done, failures=(*report.failures, *untrue))
        untrue = tuple(Failure(change, error) for change in report.done if change.resource.key in names)
        return replace(report, done=done, failures=(*report.failures, *untrue[:1]), error=error)


def _of_machine(fault: Exception) -> MachineError:
    """What the machine did not let be done in the middle of it (no more files, threads, memory); raises any other."""
    error = MachineError.of(fault)
    if error is None:
        raise fault
    return error


def _not_moved(move: Move) -> Refused:
    """Why nothing is done for an app whose data an apply does not move."""
    return Refused(
        move.sentence,
        where=f"app {move.app.id}",
        hint=f"move it: {move.command}; or let the manifest say what is there",
    )


def _server_plan(answer: Answer[ServerPlan]) -> ServerPlan:
    """The plan of one server, or why there is none. Raises what is wrong with the project itself."""
    if answer.value is not None:
        return replace(answer.value, apps=answer.app_ids)
    if answer.error is not None and not isinstance(answer.error, ServerError | Refused):
        raise answer.error
    return ServerPlan(answer.name, answer.store, error=answer.error, skipped=answer.skipped, apps=answer.app_ids)
