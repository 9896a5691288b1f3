"""What stands between a project and a good day: versions, ports, client tools, capacity; each finding with its fix."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from multidb import DISTRIBUTION, __version__, distribution
from multidb.admin_credentials import admin_changes, other_password
from multidb.backup.journal import Journal, is_at_work
from multidb.connections import is_absent
from multidb.deployment import Deployment
from multidb.errors import RuntimeUnavailable
from multidb.fleet import Answer, Fleet, Scope
from multidb.history import RunHistory
from multidb.model import Finding, Level, Project, Server, counted
from multidb.provisioners import known_stores, provisioner
from multidb.runtime import ServerState, ServerStatus
from multidb.tombstone import ways_of_removed

__all__ = ["certificate_findings", "diagnose", "taken_ports"]

_OLDEST_PYTHON = (3, 11)
_PORT_SECONDS = 0.5

_Answer: TypeAlias = Answer[tuple[Sequence[Finding], str]]
"""A server's advice, and its version."""


def diagnose(fleet: Fleet) -> list[Finding]:
    """Every finding about the project of `fleet`, good ones too. Changes nothing; asks every server that runs."""
    try:
        statuses = fleet.runtime.status()
    except RuntimeUnavailable as error:  # no Docker engine: nothing else can be said of its servers
        return [
            _python(),
            *_distribution(),
            Finding(Level.ERROR, "docker", error.message, error.hint or ""),
            *_beside(fleet, (), ()),
            *_history(fleet),
        ]
    asked = fleet.on_servers(Scope(idle=True), lambda server: _asked(fleet, server))
    return [
        _python(),
        *_distribution(),
        *map(_server, statuses),
        *taken_ports(statuses),
        *_capacity(asked, statuses),
        *_beside(fleet, statuses, asked),
        *_admin_passwords(fleet),
        *_interrupted(fleet),
        *certificate_findings(fleet.project, Deployment(fleet.project, fleet.state).certificates(), datetime.now(UTC)),
        *_history(fleet),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _OLDEST_PYTHON:
        return Finding(Level.ERROR, "python", f"Python {version} is too old", "use Python 3.11 or newer")
    return Finding(Level.OK, "python", f"Python {version}")


def _distribution() -> Iterator[Finding]:
    """What pip has installed under our names: ``multidb`` on the package index is another project's library."""
    again = distribution.repair_commands()
    other, ours = distribution.namesake(), distribution.installed()
    if other is not None:
        message = f"the distribution multidb {other.version} is another project's, with a module of the same name"
        yield Finding(Level.WARNING, "package", message, again)
    folder = Path(__file__).parent
    if ours is None:
        yield Finding(Level.OK, "package", f"multidb {__version__} runs from its source in {folder.parent}")
    elif ours.version != __version__:
        message = f"multidb {__version__} runs from {folder}, and {DISTRIBUTION} {ours.version} is installed"
        yield Finding(Level.WARNING, "package", message, "install this version, or start the multidb that is installed")
    elif changed := distribution.changed_files(ours):
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        message = f"{changed[0]}{more} of {DISTRIBUTION} {ours.version} is not as it was installed"
        yield Finding(Level.ERROR, "package", message, again)
    else:
        yield Finding(Level.OK, "package", f"{DISTRIBUTION} {ours.version}")


def _admin_passwords(fleet: Fleet) -> Iterator[Finding]:
    """Rotations of admins' passwords that are not finished: the former one may be taken as long as that is so."""
    for change in admin_changes(fleet.state).values():
        if change.under_way:
            message = f"the former password of its admin may be taken as well, since {change.since:%Y-%m-%d %H:%M} UTC"
            yield Finding(Level.WARNING, change.server, message, f"multidb rotate --admin --store {change.store}")
    changes = admin_changes(fleet.state)
    for server in fleet.runtime.servers():
        known = server.name in changes and changes[server.name].under_way
        if not known and not server.external and other_password(fleet.state, server.name, server.store) is not None:
            message = "a new password of its admin was being made when the state was lost, and both may be taken"
            yield Finding(Level.WARNING, server.name, message, f"multidb rotate --admin --store {server.store}")


def _interrupted(fleet: Fleet) -> Iterator[Finding]:
    """Apps that may have some of what they had and some of what they were to get."""
    if is_at_work(fleet.state):
        return
    for app, what in Journal(fleet.state).unsettled():
        message = f"{what} of it was interrupted, and may have given it some of its data"
        fix = f"finish it, or undo it: multidb backup {app}"
        if app in fleet.project.removed:
            fix = ways_of_removed(app)
        elif app not in fleet.project.apps:
            message += "; the manifest does not have it"
            fix = f"put its entry back, then {fix}; or end it for good: multidb purge {app}"
        yield Finding(Level.WARNING, f"app {app}", message, fix)


def certificate_findings(project: Project, ends: Mapping[str, datetime | None], now: datetime) -> Iterator[Finding]:
    """Until when the deployment's certificates hold, by whose they are, the authority's apart.

    Args:
        ends: as `Deployment.certificates` gives them.
    """
    from multidb.certificates import RENEWED  # cryptography: 60 ms

    own = project.deploy.tls == "own"
    renewed = "multidb up makes a new one and has the server take it, by a new start where it has to"
    way = renewed if own else "put a new one there, then: multidb up"
    for name, end in ends.items():
        subject = f"certificate {name}"
        if end is None:
            yield Finding(Level.ERROR, subject, "is not a certificate in PEM, or not there", way)
        elif end <= now:
            yield Finding(Level.ERROR, subject, f"has ended on {end:%Y-%m-%d}: clients refuse it", way)
        elif end - now < RENEWED:
            yield Finding(Level.WARNING, subject, f"ends on {end:%Y-%m-%d}, in {(end - now).days} days", way)
        else:
            yield Finding(Level.OK, subject, f"holds until {end:%Y-%m-%d}")


def _history(fleet: Fleet) -> Iterator[Finding]:
    """Whether what was done is still all written down."""
    history = RunHistory(fleet.state)
    chain = history.verify()
    for problem in chain.problems:
        yield Finding(Level.ERROR, "history", f"{history.title}: {problem}", chain.way_on())
    if chain.whole and chain.lines:
        yield Finding(Level.OK, "history", f"{counted(chain.lines, 'line')}, all as written")


def _server(status: ServerStatus) -> Finding:
    match status.state:
        case ServerState.RUNNING:
            return Finding(Level.OK, status.name, status.message or "runs")
        case ServerState.SKIPPED:
            return Finding(Level.WARNING, status.name, f"skipped: {status.message}")
        case ServerState.STOPPED:
            what = status.message if status.server is not None and status.server.external else "is not running"
            return Finding(Level.WARNING, status.name, what, status.start_hint)
        case ServerState.FAILED:
            fix = "" if status.pid is not None else status.start_hint  # one that runs says itself what helps
            return Finding(Level.ERROR, status.name, status.message, fix)


def taken_ports(statuses: Iterable[ServerStatus]) -> Iterator[Finding]:
    """A server of ours that has no process and whose port answers: somebody else has it."""
    for status in statuses:
        server = status.server
        if status.pid is not None or status.state is ServerState.RUNNING or server is None:
            continue
        if server.external or not server.endpoint.port:
            continue
        with socket.socket() as probe:
            probe.settimeout(_PORT_SECONDS)
            if probe.connect_ex((server.endpoint.host, server.endpoint.port)) == 0:
                yield Finding(
                    Level.ERROR,
                    status.name,
                    f"port {server.endpoint.port} is taken by another program",
                    f"stop it, or set servers.{status.store}.port to another number",
                )


def _capacity(asked: Iterable[_Answer], statuses: Iterable[ServerStatus]) -> Iterator[Finding]:
    """What each store has to say about its own limits, asked of the servers with a login. That one does not run is said
    already; one that is there and does not let us in is not."""
    findings: list[Finding] = []
    for answer in asked:
        if answer.server is not None:
            error = answer.error
            findings += answer.value[0] if answer.value else ()
            findings += [Finding(Level.ERROR, answer.name, error.message, error.hint or "")] if error else ()
    unreachable = {status.name for status in statuses if status.state is not ServerState.RUNNING}
    yield from (
        finding for finding in findings if finding.level is not Level.ERROR or finding.subject not in unreachable
    )


def _asked(fleet: Fleet, server: Server) -> tuple[Sequence[Finding], str]:
    if is_absent(server):
        return (), ""
    with fleet.open(server) as session:
        context, apps = fleet.context(server, session), fleet.apps_of(server)
        advise = provisioner(server.store).advise
        advice = advise(apps, context) if advise and apps else ()
        return (*session.admin_rights(context, apps), *advice), str(session.facts.version)


def _beside(fleet: Fleet, statuses: Iterable[ServerStatus], asked: Iterable[_Answer]) -> Iterator[Finding]:
    """What each store that an app uses needs beside its servers."""
    for store in known_stores():
        examine = provisioner(store).examine
        if examine is not None and fleet.project.apps_with(store):
            servers = [status.server for status in statuses if status.store == store and status.server is not None]
            versions = [answer.value[1] for answer in asked if answer.store == store and answer.value]
            majors = [re.search(r"\d+", version) for version in versions]
            yield from examine(servers, sorted({int(major[0]) for major in majors if major}))
