"""The embedded runtime: real servers as processes of this machine, from installed packages, without Docker.

Everything a server keeps is in ``.multidb/servers/<name>/``, what it says in ``.multidb/logs/<name>.log``. Servers
listen on the loopback address only and outlive the command that started them; ``multidb down`` ends them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from multidb import processes
from multidb.admin_credentials import forget_admin_change
from multidb.concurrency import side_by_side
from multidb.errors import MultidbError, Refused, RuntimeUnavailable, ServerError, UsageError
from multidb.model import (
    App,
    Endpoint,
    FetchedKind,
    HostedServer,
    Hosting,
    Offline,
    OfflineKind,
    Progress,
    Project,
    RecoverableKind,
    RevivableKind,
    Revival,
    Server,
    ServerSpec,
    TakeOffline,
    unwatched,
)
from multidb.provisioners import provisioner
from multidb.runtime import Restarted, ServerState, ServerStatus
from multidb.runtime.control import Control
from multidb.runtime.hosted import (
    SKIPPED,
    absent,
    admin_ref,
    configured_port,
    forget_ports,
    last_words,
    lost,
    outdated,
    port_key,
    probed,
)
from multidb.runtime.ledger import Ledger, Process
from multidb.runtime.log_file import log_lines
from multidb.runtime.offline import OfflineServers
from multidb.runtime.operation import LOCK_TIMEOUT, clear_errors, one_at_a_time, selected
from multidb.runtime.product import Products
from multidb.runtime.scratch import ScratchServers
from multidb.runtime.starting import Start
from multidb.secrets import Secret, generate
from multidb.state import ProjectState

__all__ = ["EmbeddedRuntime"]

_STOP_LIMIT = 60.0  # seconds until a server that does not leave is killed


class EmbeddedRuntime:
    """A `Runtime` of processes on this machine, for the stores that apps of the manifest use, or removed ones.

    Args:
        project: its `servers` have the options read here (``port``, ``max_connections`` ...).
        state: remembers ports and processes; its secret store keeps the admins' passwords, which are generated.
    """

    def __init__(self, project: Project, state: ProjectState) -> None:
        self._project = project
        self._state = state
        self._ledger = Ledger(state)
        self._products = Products(state)
        self._switched: frozenset[str] = frozenset()

    def up(self, progress: Progress, only: Sequence[str] | None = None) -> list[ServerStatus]:
        """See `Runtime.up`. `only` takes names of servers, or of stores for all their servers.

        Raises:
            Locked: another ``up`` or ``down`` works on this project.
            UsageError: `only` names no server of the project; the project's folder cannot be written.
        """
        report = one_at_a_time(progress)
        with clear_errors(), self._turn("multidb up", report):
            chosen = self._chosen(only)
            self._stop_strays(report)
            self._scratch_servers(report).clear()
            statuses = Start(self._state, self._ledger, report, self._products).all(chosen)
            self._offline_servers(report).settle(statuses)
            return statuses

    def _turn(self, command: str, report: Progress) -> AbstractContextManager[None]:
        def waiting(who: str) -> None:
            report("servers", f"waiting for {who}")

        return self._state.machine_lock("runtime", command, LOCK_TIMEOUT, waiting)

    def to_fetch(self, only: Sequence[str] | None = None) -> list[str]:
        """See `Runtime.to_fetch`.

        Raises:
            UsageError: `only` names no server of the project.
        """
        recorded, missing = self._ledger.read(), []
        for hosted in self._chosen(only):
            kind, process = hosted.kind, recorded.get(hosted.name)
            if not isinstance(kind, FetchedKind) or (process is not None and process.alive()):
                continue
            if self._products.obstacle(hosted) is None:
                with contextlib.suppress(RuntimeUnavailable, OSError):  # which `up` then says of the server
                    missing.append(kind.to_fetch(hosted))
        return [what for what in dict.fromkeys(missing) if what]

    def switch(self, stores: Sequence[str]) -> None:
        """See `Runtime.switch`."""
        for store in stores:
            chosen = self._chosen([store])
            for name in sorted({hosted.name for hosted in chosen} & set(self._ledger.read())):
                if self._ledger.read()[name].alive():
                    raise UsageError(
                        "still runs", where=f"server {name}", hint=f"multidb down, then: multidb up --switch {store}"
                    )
        self._switched = frozenset(stores)
        self._products = Products(self._state, self._switched)

    def down(self, progress: Progress, *, erase: bool = False) -> list[ServerStatus]:
        """See `Runtime.down`. The list has an entry for each process that there was to stop.

        Raises:
            Locked: another ``up`` or ``down`` works on this project.
            Refused: `erase`; data of processes is in folders, which a person can see and delete.
        """
        if erase:
            raise Refused(
                "only containers have volumes, and the manifest does not say runtime: compose",
                hint="embedded servers keep their data in .multidb/servers: multidb down, then delete that folder "
                "yourself",
            )
        if not self._state.folder.exists():
            return []
        report = one_at_a_time(progress)
        with clear_errors(), self._state.machine_lock("runtime", "multidb down"):
            self._stop_strays(report)
            self._scratch_servers(report).clear()
            offline_servers = self._offline_servers(report)
            offline_servers.forget(offline_servers.left())
            return side_by_side(
                lambda process: self._stop(process, report), list(self._ledger.read().values()), finishing=True
            )

    def restart(self, progress: Progress, only: Sequence[str] | None = None) -> list[Restarted]:
        """See `Runtime.restart`. `only` as of `up`.

        Raises:
            Locked: another ``up`` or ``down`` works on this project.
            UsageError: `only` names no server of the project; the project's folder cannot be written.
        """
        report, stopped = one_at_a_time(progress), set[str]()

        def end(process: Process) -> None:
            if process.alive():
                stopped.add(process.name)
            self._stop(process, report)

        with clear_errors(), self._turn("multidb restart", report):
            chosen = self._chosen(only)
            self._stop_strays(report)
            self._scratch_servers(report).clear()
            before = self._ledger.read()
            statuses = Start(self._state, self._ledger, report, self._products, end).all(chosen)
            self._offline_servers(report).settle(statuses)
        return [
            Restarted(_still_running(status, before.get(status.name), status.name in stopped), status.name in stopped)
            for status in statuses
        ]

    def retire(self, app: App, progress: Progress, *, erase: bool = False) -> list[ServerStatus]:
        """See `Runtime.retire`.

        Raises:
            Locked: an ``up`` or ``down`` works on this project.
        """
        report = one_at_a_time(progress)
        of_app = (self._hosted_servers_of(spec, (app,)) for spec in self._project.servers)
        own = [hosted for servers in of_app for hosted in servers if hosted.app == app.id]
        with clear_errors(), self._state.machine_lock("runtime", "multidb"):
            recorded = self._ledger.read()
            stopped = [self._stop(recorded[hosted.name], report) for hosted in own if hosted.name in recorded]
            for hosted in own if erase else ():
                self._erase(hosted)
        return stopped

    def tells_admin(self, server: Server) -> bool:
        """See `Runtime.tells_admin`: what is written at a start is what is known then."""
        return False

    def scratch(self, server: Server, progress: Progress, *, adoptable: bool) -> AbstractContextManager[Server] | None:
        """See `Runtime.scratch`. None for a server with room for a second place, and for one that apps share: its data
        is not one app's.

        Raises:
            Locked: another run has one for this server, or an ``up`` or ``down`` works on this project.
            ServerError: it does not start.
        """
        hosted = self._hosted_server(server)
        return (
            None
            if hosted is None or not hosted.one_place
            else self._scratch_servers(one_at_a_time(progress)).running(hosted)
        )

    def revived(self, server: Server, revival: Revival, progress: Progress) -> AbstractContextManager[Server] | None:
        """See `Runtime.revived`."""
        hosted = self._hosted_server(server)
        if hosted is None or not isinstance(hosted.kind, RevivableKind):
            return None
        kind = hosted.kind.copying(hosted, revival.base.product)
        return self._revived(dataclasses.replace(hosted, kind=kind), kind, revival, one_at_a_time(progress))

    def forget_copy(self, server: Server) -> None:
        """See `Runtime.forget_copy`."""
        hosted = self._hosted_server(server)
        if hosted is None or not isinstance(hosted.kind, RevivableKind):
            return
        scratch_servers = self._scratch_servers(unwatched)
        with self._state.machine_lock(scratch_servers.beside(hosted).name, "multidb"):
            scratch_servers.end_strays(scratch_servers.copy(hosted).name)
            _remove_copy(scratch_servers.copy(hosted), hosted.kind)

    def clear_scratch(self, progress: Progress) -> None:
        """Ends and removes the scratch servers that nobody uses any more."""
        if any(self._servers.glob("scratch-*")):
            with clear_errors(), self._turn("multidb", progress):
                self._scratch_servers(one_at_a_time(progress)).clear()

    def without_scratch(self, server: Server) -> AbstractContextManager[None]:
        """See `Runtime.without_scratch`."""
        hosted = self._hosted_server(server)
        if hosted is None or not hosted.one_place:
            return contextlib.nullcontext()
        return self._state.machine_lock(self._scratch_servers(unwatched).beside(hosted).name, "multidb")

    def adopt(self, server: Server, scratch: Server, progress: Progress) -> None:
        """See `Runtime.adopt`.

        Raises:
            Locked: an ``up`` or ``down`` works on this project.
            ServerError: the server does not start with the new data.
        """
        hosted = self._hosted_server(server)
        if hosted is None or not scratch.scratch:
            raise ValueError(f"{scratch} is no scratch server of {server}")
        self._scratch_servers(one_at_a_time(progress)).adopt(hosted)

    def take_offline(self, server: Server) -> TakeOffline | None:
        """See `Runtime.take_offline`. Only a server of one app, and the scratch server of one."""
        hosted = self._hosted_or_scratch(server)
        if hosted is None or server.app is None or not isinstance(hosted.kind, OfflineKind):
            return None
        return lambda progress: self._offline(server, one_at_a_time(progress))

    def recover(self, name: str, progress: Progress) -> Server:
        """See `Runtime.recover`. An admin's password that was lost here is generated anew.

        Raises:
            Locked: an ``up`` or ``down`` works on this project.
            Refused: a server of this kind needs no recovery: its admin's password is written at every start.
            ServerError: it does not come up; what was taken away is kept in its folder.
            UsageError: there is no such server.
        """
        report = one_at_a_time(progress)
        hosted = next((hosted for hosted in self._all() if hosted.name == name), None) or self._chosen([name])[0]
        kind = hosted.kind
        if not isinstance(kind, RecoverableKind):
            raise Refused(
                f"no app can change the admin's password on {hosted.store}",
                where=f"server {hosted.name}",
                hint=f"start it anew with the password that multidb has: multidb restart {hosted.name}",
            )
        ref = admin_ref(hosted.name, hosted.store)
        with clear_errors(), self._state.machine_lock("runtime", "multidb recover"):
            control = self._control(report)
            control.stop(hosted.name)
            if self._state.secrets.get(ref) is None:
                self._state.secrets.put({ref: generate()})
            kind.forget_logins(hosted)
            server = control.start(hosted)
            kind.forgotten(hosted)
        return server

    def resume(self, progress: Progress) -> list[ServerStatus]:
        """See `Runtime.resume`.

        Raises:
            Locked: an ``up`` or ``down`` works on this project.
        """
        self.clear_scratch(progress)
        offline_servers = self._offline_servers(progress)
        left = set(offline_servers.left())
        known = [hosted.name for hosted in self._all() if hosted.name in left]
        offline_servers.forget(sorted(left.difference(known)))
        if not known:
            return []
        running = {status.name for status in self.status() if status.state is ServerState.RUNNING}
        return [status for status in self.up(progress, known) if status.name not in running]

    def status(self) -> list[ServerStatus]:
        """See `Runtime.status`."""
        with clear_errors():
            recorded, used = self._ledger.read(), self._all()
            unused = self._unused(recorded, used)
            statuses = side_by_side(lambda hosted: self._look(hosted, recorded.get(hosted.name)), used, finishing=True)
            idle = side_by_side(lambda hosted: self._ask(hosted, recorded[hosted.name]), unused, finishing=True)
        return [*statuses, *(status.without_apps() for status in idle)]

    def servers(self) -> list[Server]:
        """See `Runtime.servers`. One that was never started and has no port in the manifest has no address."""
        with clear_errors():
            recorded, used = self._ledger.read(), self._all()
            there = (*used, *self._unused(recorded, used))
            servers = [self._located(hosted, recorded.get(hosted.name)) for hosted in there]
        return [server for server in servers if server is not None]

    def missing(self) -> list[ServerStatus]:
        """See `Runtime.missing`."""
        located = {server.name for server in self.servers()}
        with clear_errors():
            return [self._look(hosted, None) for hosted in self._all() if hosted.name not in located]

    def app_endpoints(self) -> dict[str, Endpoint]:
        """See `Runtime.app_endpoints`: apps are processes of this machine, too."""
        return {server.name: server.endpoint for server in self.servers()}

    def names_for(self, app: App) -> list[str]:
        """See `Runtime.names_for`."""
        return [hosted.name for hosted in self._all() if hosted.store in app.stores and hosted.serves(app.id)]

    def admin(self, server: Server) -> Secret | None:
        """See `Runtime.admin`."""
        if server.endpoint.path:
            return None
        secret = self._state.secrets.get(admin_ref(server.name, server.store))
        if secret is not None:
            return secret
        where = f"server {server.name}"
        for hosted in self._all():
            if hosted.name == server.name and hosted.kind is not None and hosted.kind.initialised(hosted):
                problem = lost(hosted, self._state.where_secrets_are)
                raise UsageError(problem.message, where=where, hint=problem.hint)
        raise UsageError("has no admin password yet", where=where, hint="start it: multidb up")

    def logs(self, name: str, lines: int, follow: bool) -> Iterator[str]:
        """See `Runtime.logs`."""
        return log_lines(self._state.folder / "logs" / f"{name}.log", lines, follow)

    @contextlib.contextmanager
    def _revived(
        self, hosted: HostedServer, kind: RevivableKind, revival: Revival, report: Progress
    ) -> Iterator[Server]:
        scratch_servers = self._scratch_servers(report)
        copy = scratch_servers.copy(hosted)

        def fill(beside: HostedServer, admin: Secret) -> None:
            if revival.keep:
                scratch_servers.end_strays(copy.name)
                if not revival.go_on:
                    _remove_copy(copy, kind)
                copy.folder.mkdir(parents=True, exist_ok=True)
            kind.revive(beside, admin, revival, report, copy if revival.keep else None)

        try:
            with scratch_servers.running(hosted, fill) as server:
                yield server
        finally:
            kind.forget(scratch_servers.beside(hosted))

    # Which servers there are

    def _all(self) -> list[HostedServer]:
        needed = [spec for spec in self._project.servers if self._project.needs(spec)]
        return [hosted for spec in needed for hosted in self._hosted_servers_of(spec, self._project.apps_on(spec))]

    def _unused(self, recorded: Mapping[str, Process], used: Sequence[HostedServer]) -> list[HostedServer]:
        """Those of the record that run and are none of those that are used."""
        names = {hosted.name for hosted in used}
        left = {name for name, process in recorded.items() if name not in names and process.alive()}
        unused = []
        for spec in self._project.servers if left else ():
            owners = [owner for owner in map(spec.owner, left) if owner is not None]
            apps = [App(owner, owner, {}) for owner in owners]
            unused += [hosted for hosted in self._hosted_servers_of(spec, apps) if hosted.name in left]
        return unused

    def _hosted_servers_of(self, spec: ServerSpec, apps: Sequence[App]) -> Sequence[HostedServer]:
        describe = provisioner(spec.store).processes
        if describe is None:
            return ()
        hosting = Hosting(
            root=Path(self._project.root),
            apps=apps,
            options=spec.options,
            server=lambda app: self._hosted(spec, app),
            product=self._products.recorded,
            skipped=lambda name: self._state.read(SKIPPED).get(name),
            switched=spec.store in self._switched,
        )
        return describe(hosting)

    def _hosted_server(self, server: Server) -> HostedServer | None:
        return next((hosted for hosted in self._all() if hosted.name == server.name), None)

    def _hosted_or_scratch(self, server: Server) -> HostedServer | None:
        scratch_servers = self._scratch_servers(unwatched)
        pairs = ((hosted, scratch_servers.beside(hosted)) for hosted in self._all())
        return next((hosted for pair in pairs for hosted in pair if hosted.name == server.name), None)

    def _scratch_servers(self, report: Progress) -> ScratchServers:
        return ScratchServers(self._control(report), self._servers)

    def _control(self, report: Progress) -> Control:
        return Control(self._state, self._ledger, report, self._stop)

    def _offline_servers(self, report: Progress) -> OfflineServers:
        return OfflineServers(self._control(report))

    @contextlib.contextmanager
    def _offline(self, server: Server, report: Progress) -> Iterator[Offline]:
        hosted = self._hosted_or_scratch(server)
        assert hosted is not None
        assert isinstance(hosted.kind, OfflineKind)
        with self._offline_servers(report).of(hosted, hosted.kind.offline) as offline:
            yield offline

    def _hosted(self, spec: ServerSpec, app: str | None) -> HostedServer:
        name = spec.name if app is None else spec.own_server(app)
        return HostedServer(
            name=name,
            store=spec.store,
            project=self._project.name,
            folder=self._servers / name,
            log=self._state.folder / "logs" / f"{name}.log",
            options=spec.options,
            app=app,
            apps=spec.apps,
            progress_timeout=self._project.progress_timeout,
        )

    @property
    def _servers(self) -> Path:
        return self._state.folder.resolve() / "servers"

    def _chosen(self, only: Sequence[str] | None) -> list[HostedServer]:
        return selected({(hosted.name, hosted.store): hosted for hosted in self._all()}, only, self._project.file)

    # Looking and stopping

    def _look(self, hosted: HostedServer, recorded: Process | None) -> ServerStatus:
        kind = hosted.kind
        if kind is None:
            state = ServerState.RUNNING if hosted.local else ServerState.SKIPPED
            return ServerStatus(hosted.name, hosted.store, state, hosted.local, hosted.note)
        if recorded is not None and recorded.alive():
            return self._ask(hosted, recorded)
        server = self._located(hosted, None)
        obstacle = self._unavailable(hosted)
        if obstacle is not None:
            return absent(hosted, obstacle)
        if hosted.name in self._offline_servers(unwatched).left():
            message = "stopped for a moment, for its backup; if no run is at it: multidb up"
            return ServerStatus(hosted.name, hosted.store, ServerState.STOPPED, server, message)
        if recorded is None:
            return ServerStatus(hosted.name, hosted.store, ServerState.STOPPED, server, "not started; multidb up")
        if recorded.before_boot():
            message = "the machine was restarted since; multidb up"
            return ServerStatus(hosted.name, hosted.store, ServerState.STOPPED, server, message)
        message = last_words("is gone; multidb up starts it again", hosted.log)
        return ServerStatus(hosted.name, hosted.store, ServerState.FAILED, server, message)

    def _ask(self, hosted: HostedServer, recorded: Process) -> ServerStatus:
        assert hosted.kind is not None
        server = hosted.server(recorded.ports)
        secret = self._state.secrets.get(admin_ref(hosted.name, hosted.store))
        try:
            version = probed(hosted.kind, server, secret, self._state) if secret else None
        except ServerError as error:
            reason = error.sentence(where=False)
            return ServerStatus(hosted.name, hosted.store, ServerState.FAILED, server, reason, recorded.pid)
        if version is None:
            silent = f"runs and does not answer; start it anew: multidb restart {hosted.name}"
            message = silent if secret else "runs, and its admin password is lost"
            return ServerStatus(hosted.name, hosted.store, ServerState.FAILED, server, message, recorded.pid)
        message = version + outdated(hosted, recorded)
        return ServerStatus(hosted.name, hosted.store, ServerState.RUNNING, server, message, recorded.pid)

    def _unavailable(self, hosted: HostedServer) -> MultidbError | None:
        """Why a server that does not run cannot be had: seen now, or by the last ``up``."""
        reason = self._state.read(SKIPPED).get(hosted.name)
        return self._products.obstacle(hosted) or (self._products.unavailable(hosted, reason) if reason else None)

    def _located(self, hosted: HostedServer, recorded: Process | None) -> Server | None:
        if hosted.kind is None:
            return hosted.local
        if recorded is not None and recorded.alive():
            return hosted.server(recorded.ports)
        remembered = self._state.read("ports")
        numbers = {
            option: configured_port(hosted, option) or remembered.get(port_key(hosted, option))
            for option in hosted.kind.ports
        }
        known = {option: number for option, number in numbers.items() if number is not None}
        if len(known) < len(numbers) or self._unavailable(hosted) is not None:
            return None
        return hosted.server(known)

    def _stop(self, process: Process, progress: Progress) -> ServerStatus:
        began = time.monotonic()
        message = "was not running"
        if process.alive():
            progress(process.name, "stopping")
            left = processes.stop(
                process.pid,
                _STOP_LIMIT,
                lambda seconds: progress(process.name, "stopping", seconds),
            )
            took = time.monotonic() - began
            message = f"stopped in {took:.1f} s" if left else f"killed: it did not leave in {_STOP_LIMIT:.0f} s"
        with contextlib.suppress(UsageError):  # on a full disk it stays in the record, as one that is not alive
            self._ledger.forget(process.name)
        return ServerStatus(process.name, process.store, ServerState.STOPPED, None, message)

    def _erase(self, hosted: HostedServer) -> None:
        if hosted.folder.exists():
            shutil.rmtree(hosted.folder)
        hosted.log.unlink(missing_ok=True)
        self._state.secrets.delete(self._state.secrets.refs(f"@{hosted.name}"))
        forget_admin_change(self._state, hosted.name)
        self._products.forget(hosted.name)
        forget_ports(self._state, hosted.name)

    def _stop_strays(self, progress: Progress) -> None:
        """Ends what an interrupted ``up`` started and could not record any more."""

        def end(stray: tuple[int, str]) -> bool:
            pid, mark = stray
            name = Path(mark).name
            progress(name, "stopping what an interrupted run left behind")
            return processes.stop(pid, _STOP_LIMIT)

        side_by_side(end, list(self._ledger.strays(self._servers).items()), finishing=True)


def _still_running(status: ServerStatus, process: Process | None, stopped: bool) -> ServerStatus:
    """The status after a restart; of a server that was left alone, since it would not come up again, that it runs."""
    if status.state is ServerState.RUNNING or stopped or process is None or not process.alive():
        return status
    return dataclasses.replace(
        status, state=ServerState.FAILED, message=f"runs on as it was: {status.message}", pid=process.pid
    )


def _remove_copy(copy: HostedServer, kind: RevivableKind) -> None:
    kind.forget(copy)
    shutil.rmtree(copy.folder, ignore_errors=True)
