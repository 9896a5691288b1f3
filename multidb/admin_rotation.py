"""New passwords for the admins of servers that multidb runs, while apps work.

Each step is written down before it is taken (`multidb.admin_credentials`). The former password is kept until the new
one was tried, and beside it until the server was seen to refuse it, so that multidb is never locked out: whatever a
rotation was interrupted by, every command tries both, and the same command goes on with it.

Where a server takes another password while it runs, one command does all. Where it reads its passwords at its start, or
signs apps' credentials with its admin's, there are two steps, as for apps: from the first on both are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from multidb.admin_credentials import (
    AdminChange,
    AdminPhase,
    admin_changes,
    admin_ref,
    forget_admin_change,
    former_ref,
    next_ref,
    record_admin_change,
)
from multidb.deployment import Deployment
from multidb.engine import Engine
from multidb.errors import AuthenticationFailed, MultidbError, PartlyApplied, Refused
from multidb.fleet import Scope
from multidb.model import AdminPassword, AdminStatements, Facts, Project, Server, Statement, listed
from multidb.provisioners import provisioner
from multidb.runtime import ServerState
from multidb.secrets import MemorySecretStore, Secret, generate

__all__ = ["AdminRotation"]

_TELLING: Final = (AdminPhase.CHANGING, AdminPhase.REVERTING)


class AdminRotation:
    """The rotation of the passwords of some servers' admins. Whoever calls it keeps others from doing so
    (``ProjectState.lock``).

    Args:
        stores: only servers of these; None: all that can rotate.
        write: writes the variables of these apps where they read them, and says whether any was new.
        clock: the time now, in UTC.

    Attributes:
        left_out: by server, why its admin's password is not replaced.

    Raises:
        Refused: the servers are not multidb's own, or none of these can rotate.
        ServerError: a server of these does not run or does not let multidb in; nothing was changed.
    """

    def __init__(
        self,
        engine: Engine,
        stores: frozenset[str] | None,
        write: Callable[[Sequence[str]], bool],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine, self._fleet, self._state = engine, engine.fleet, engine.state
        self._write, self._clock = write, clock
        self.left_out: dict[str, str] = {}
        self._facts: dict[str, Facts] = {}
        self._servers = {server.name: server for server in self._reached(Scope(stores=stores))}
        if not self._servers:
            whys = "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
            raise Refused(f"no admin's password can be rotated: {whys or 'no app uses these servers'}")

    @property
    def servers(self) -> tuple[str, ...]:
        """The names of those whose admin's password is rotated."""
        return tuple(self._servers)

    def change(self, name: str) -> AdminChange | None:
        """What is recorded of the rotation of this server; None: nothing."""
        return admin_changes(self._state).get(name)

    def in_two_steps(self, name: str) -> bool:
        """Whether the former password goes with a restart of the server, or something that apps have goes with it."""
        password = self._password(name)
        return password.at_start or password.signs or self._fleet.runtime.tells_admin(self._servers[name])

    def statements(self, name: str) -> tuple[Statement, ...]:
        """What is sent to the server for a new password; nothing where it is started anew."""
        password, server = self._password(name), self._servers[name]
        about = (self._facts[name], server.endpoint.user, next_ref(name, server.store))
        drop = () if self.in_two_steps(name) else password.drop(*about)
        return (*password.take(*about), *drop)

    def restarts(self, name: str, *, finishing: bool) -> bool:
        """Whether the step has the server started anew.

        Args:
            finishing: the step that ends the former password, else the one that brings the new one.
        """
        return self.in_two_steps(name) if finishing else self._password(name).at_start

    def take(self, name: str) -> None:
        """Has the server take a new password, and has multidb use it. Goes on with one that was interrupted; nothing
        where both are taken already.

        Raises:
            PartlyApplied, ServerError: it could not be done. One of the two passwords is let in, and both are kept.
        """
        change = self.change(name)
        if change is None or change.phase in (AdminPhase.DONE, AdminPhase.REVERTING):
            self._begin(name)
            change = self.change(name)
        assert change is not None
        if change.phase is AdminPhase.CHANGING:
            self._tell(name, self._kept(name, new=True))
            self._adopt(name)
        self._hand_out(name)

    def finish(self, name: str, *, force: bool = False) -> None:
        """Ends the former password, and tries that it is refused. Nothing where none is left.

        Args:
            force: also where apps have read what the new one signed for less than a moment.

        Raises:
            Refused: the new one was not tried yet, or apps' variables have what it signed only since now.
            PartlyApplied, ServerError: it could not be done; the same again finishes.
        """
        server, change = self._servers[name], self.change(name)
        if change is None or not change.under_way:
            return
        if change.phase in _TELLING:
            raise Refused(
                "the server was not told of the new password yet",
                where=f"server {name}",
                hint=f"go on: multidb rotate --admin --store {server.store}; or go back: add --abort",
            )
        if self._hand_out(name) and not force:
            raise Refused(
                "apps' variables have what the new key signed only since now",
                where=f"server {name}",
                hint="let the apps read them (restart or reload them), then run the same again",
            )
        self._record(name, AdminPhase.FINISHING)
        if self.in_two_steps(name):
            self._restart(name)
        else:
            self._run(name, self._password(name).drop, self._kept(name))
        self._require_refused(name)
        self._state.secrets.delete([former_ref(name, server.store), next_ref(name, server.store)])
        self._record(name, AdminPhase.DONE)

    def revert(self, name: str) -> None:
        """Takes a rotation back that was interrupted before the new password was multidb's. Nothing where none was.

        Raises:
            Refused: it is too late.
        """
        server, change = self._servers[name], self.change(name)
        if change is None or not change.under_way:
            return
        if change.phase not in _TELLING:
            raise Refused(
                "it is too late to go back: multidb uses the new password",
                where=f"server {name}",
                hint=f"finish it: multidb rotate --admin --store {server.store} --finish",
            )
        if self._state.secrets.get(next_ref(name, server.store)) == self._kept(name):
            self._record(name, AdminPhase.CHANGED)  # it was interrupted right after that
            self.revert(name)
        self._record(name, AdminPhase.REVERTING)
        self._tell(name, self._kept(name))
        if self._password(name).at_start:
            self._restart(name)
        else:
            self._run(name, self._password(name).drop, self._kept(name))
        self._state.secrets.delete([next_ref(name, server.store)])
        forget_admin_change(self._state, name)

    # Steps

    def _begin(self, name: str) -> None:
        """Makes the password that is to come, and writes down that the server is to be told of it."""
        ref = next_ref(name, self._servers[name].store)
        if self._state.secrets.get(ref) is None:  # else the server may have been told of it
            self._state.secrets.put({ref: generate()})
        self._record(name, AdminPhase.CHANGING)

    def _tell(self, name: str, password: Secret) -> None:
        """Has the server take the password, unless it does, and tries it."""
        if self._let_in(name, password):
            return
        if self._password(name).at_start:
            self._restart(name)
        else:
            self._run(name, self._password(name).take, password)
        if not self._let_in(name, password):
            raise PartlyApplied(
                "the server does not take the new password, so the former one stays in use",
                where=f"server {name}",
                hint=f"correct the cause, then run the same again; or go back: multidb rotate --admin "
                f"--store {self._servers[name].store} --abort",
            )

    def _adopt(self, name: str) -> None:
        """The new password is the admin's from here on, and the one before it its former; both in one write."""
        store, secrets = self._servers[name].store, self._state.secrets
        former, new = secrets.get(admin_ref(name, store)), self._kept(name, new=True)
        assert former is not None
        if former != new:  # else it was interrupted between this and the record of it
            secrets.get(former_ref(name, store))  # a store takes a value in place of one that was read only
            secrets.put({admin_ref(name, store): new, former_ref(name, store): former})
        self._record(name, AdminPhase.CHANGED)

    def _hand_out(self, name: str) -> bool:
        """Writes the new password where the server's container reads it, and to apps what it signs; whether anything of
        that was new to an app."""
        project = self._fleet.project
        if project.runtime.in_containers:
            deployment = Deployment(project, self._state)
            deployment.write(deployment.files(new_secrets=True))
        if not self._password(name).signs:
            return False
        server = self._servers[name]
        apps = [app.id for app in self._fleet.apps_of(server)]
        scope = Scope(apps=frozenset(apps), stores=frozenset({server.store}))
        error = self._engine.apply(scope, agreed=False).error()
        if error is not None:
            raise PartlyApplied(
                f"not every app has what the new key signs, and both keys are taken: {error}",
                where=f"server {name}",
                hint=f"{error.hint or 'correct the cause'}; then run the same again",
            )
        return self._write(apps)

    def _restart(self, name: str) -> None:
        """Starts the server anew with the passwords that are kept for it."""
        server = self._servers[name]
        with self._fleet.runtime.without_scratch(server), self._fleet.turn(server):
            (restarted, *_) = self._fleet.runtime.restart(self._fleet.progress, [name])
        if restarted.status.state is not ServerState.RUNNING:
            raise PartlyApplied(
                f"it did not come up again: {restarted.status.message}",
                where=f"server {name}",
                hint=f"multidb restart {name}; then run the same again",
            )

    def _run(self, name: str, statements: AdminStatements, password: Secret) -> None:
        """Sends the statements for a password."""
        server, ref = self._servers[name], next_ref(name, self._servers[name].store)
        sent = MemorySecretStore({ref: Secret(self._password(name).derived(password.reveal()))})
        with self._fleet.runtime.without_scratch(server), self._fleet.locked(server) as session:
            for _ in session.run(statements(session.facts, server.endpoint.user, ref), sent):
                pass

    def _record(self, name: str, phase: AdminPhase) -> None:
        record_admin_change(self._state, AdminChange(name, self._servers[name].store, phase, self._clock()))

    # Servers

    def _password(self, name: str) -> AdminPassword:
        password = provisioner(self._servers[name].store).admin_password
        assert password is not None
        return password

    def _kept(self, name: str, *, new: bool = False) -> Secret:
        """The admin's password, or the one that is to follow it."""
        store = self._servers[name].store
        ref = next_ref(name, store) if new else admin_ref(name, store)
        kept = self._state.secrets.get(ref)
        if kept is None:
            raise Refused(
                f"the password {ref} is not in {self._state.where_secrets_are}",
                where=f"server {name}",
                hint=f"restore it from a copy; or go back: multidb rotate --admin --store {store} --abort",
            )
        return kept

    def _let_in(self, name: str, password: Secret) -> bool:
        try:
            with self._fleet.connect_with(self._servers[name], password):
                return True
        except AuthenticationFailed:
            return False

    def _require_refused(self, name: str) -> None:
        """Tries the former password, which has to be refused."""
        former = self._state.secrets.get(former_ref(name, self._servers[name].store))
        if former is not None and self._let_in(name, former):
            raise PartlyApplied(
                "the former password is still taken after it was dropped",
                where=f"server {name}",
                hint="see whether the server lets everybody in without a password: multidb audit",
            )

    def _reached(self, scope: Scope) -> Iterator[Server]:
        """The servers in scope whose admin's password can be replaced, each asked what it is."""
        for status, _ in self._fleet.missing(scope):
            if status.state is not ServerState.SKIPPED:
                raise status.not_running()
            self.left_out[status.name] = f"it cannot be had on this machine ({status.message})"
        servers = self._fleet.servers(scope)
        _refuse_others(self._fleet.project, [server for server in servers if server.external])
        contexts = self._fleet.contexts(servers)
        for server in servers:
            context = contexts[server.name]
            if isinstance(context, MultidbError):
                raise context
            assert context.facts is not None
            self._facts[server.name] = context.facts
            password = provisioner(server.store).admin_password
            why = password.obstacle(self._facts[server.name]) if password is not None else "the store has no way to"
            if why:
                self.left_out[server.name] = why
            else:
                yield server


def _refuse_others(project: Project, servers: Sequence[Server]) -> None:
    """`Refused` for servers that are not ours, with what their operator does: the password is kept by somebody else,
    in a variable or a file that multidb only reads."""
    steps = []
    for server in servers:
        password, spec = provisioner(server.store).admin_password, project.spec_of(server.name, server.store)
        source = spec.address.password if spec is not None and spec.address is not None else None
        kept = f"the variable {source.env}" if source and source.env else f"the file {source.file}" if source else ""
        if password is not None and kept:
            login = server.endpoint.user or "the admin"
            steps.append(f"{server.name}: {password.by_hand.format(login=login)}; then put the new one into {kept}")
    if servers:
        raise Refused(
            "the passwords of these servers' admins are kept outside of multidb, which only reads them: "
            + listed([server.name for server in servers]),
            where=project.file,
            hint=". ".join([*steps, "Then see that it is let in: multidb doctor"]),
        )
