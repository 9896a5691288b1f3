"""Every server of a manifest, asked once: whether it lets multidb in, what it is, and what its admin may do there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from multidb.errors import MultidbError, NotAllowed
from multidb.fleet import Answer, Fleet, Scope
from multidb.model import Finding, Level, Server
from multidb.provisioners import provisioner

__all__ = ["AskedServer", "first_problem", "is_absent", "try_connections"]


@dataclass(frozen=True, slots=True)
class AskedServer:
    """One server, and what came of asking it.

    Args:
        where: file:line:column of what the manifest says of it.
        server: where it is; None where it has no address yet.
        product: what it is, with its version; empty where it could not be asked.
        findings: what its admin may do there, and what not.
        error: why it could not be asked, or why it cannot have the apps of the manifest.
        skipped: why this machine cannot have it, where it cannot.
    """

    name: str
    store: str
    where: str
    server: Server | None = None
    product: str = ""
    findings: tuple[Finding, ...] = ()
    error: MultidbError | None = None
    skipped: str = ""

    @property
    def problem(self) -> MultidbError | None:
        """What an apply would fail by; None where nothing is known to be in its way."""
        wrong = next((finding for finding in self.findings if finding.level is Level.ERROR), None)
        if self.error is not None or wrong is None:
            return self.error
        return NotAllowed(wrong.message, where=str(self.server), hint=wrong.fix or None)


def try_connections(fleet: Fleet) -> list[AskedServer]:
    """Every server that the manifest names or its apps use, in the order of their stores. Changes nothing, and starts
    no server."""
    answers = fleet.on_servers(Scope(idle=True), lambda server: _asked(fleet, server))
    order = {spec.store: position for position, spec in enumerate(fleet.project.servers)}
    return [_named(fleet, answer) for answer in sorted(answers, key=lambda answer: order[answer.store])]


def is_absent(server: Server) -> bool:
    """Whether it is a folder that nobody has made yet. To open one would make it."""
    return bool(server.endpoint.path) and not Path(server.endpoint.path).exists()


def _asked(fleet: Fleet, server: Server) -> AskedServer:
    asked, apps = AskedServer(server.name, server.store, "", server), fleet.apps_of(server)
    if is_absent(server):
        absent = Finding(Level.WARNING, server.name, "local mode: the folder is not there yet", server.start_hint)
        return replace(asked, findings=(absent,))
    fleet.progress(server.name, "asking")
    with fleet.open(server) as session:
        product = f"{session.facts.product} {session.facts.version}"
        try:
            context = fleet.context(server, session)
            provisioner(server.store).desired(apps, context)
        except MultidbError as error:
            asked, context = replace(asked, error=error), fleet.known_context(server)
        return replace(asked, product=product, findings=tuple(session.admin_rights(context, apps)))


def _named(fleet: Fleet, answer: Answer[AskedServer]) -> AskedServer:
    spec = fleet.project.spec_of(answer.name, answer.store)
    where = spec.where if spec is not None else ""
    if answer.value is not None:
        return replace(answer.value, where=where)
    return AskedServer(answer.name, answer.store, where, answer.server, error=answer.error, skipped=answer.skipped)


def first_problem(connections: Sequence[AskedServer]) -> MultidbError | None:
    """What is wrong with the first of the servers that has something in an apply's way."""
    return next((connection.problem for connection in connections if connection.problem is not None), None)
