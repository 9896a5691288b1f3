"""Names, ports and error messages of a hosted server, for all modules of the embedded runtime."""

from __future__ import annotations

import re
from pathlib import Path

from multidb import processes
from multidb.admin_credentials import admin_ref, other_password
from multidb.errors import AuthenticationFailed, MultidbError, RuntimeUnavailable, UsageError
from multidb.model import HostedServer, Server, ServerKind
from multidb.model.options import ContainerOptions
from multidb.runtime import ServerState, ServerStatus
from multidb.runtime.ledger import Process
from multidb.secrets import Secret
from multidb.state import ProjectState

__all__ = [
    "SKIPPED",
    "absent",
    "admin_ref",
    "configured_port",
    "forget_ports",
    "last_words",
    "lost",
    "options_text",
    "outdated",
    "port_key",
    "probed",
]

SKIPPED = "skipped"
"""The section of the state that holds, by server name, why the last ``up`` could not have a server: commands that come
later leave it out as well, instead of trying to reach it."""


def probed(kind: ServerKind, server: Server, admin: Secret, state: ProjectState) -> str | None:
    """`ServerKind.probe`, also by the other of two passwords while the admin's is being replaced."""
    try:
        return kind.probe(server, admin)
    except AuthenticationFailed:
        other = other_password(state, server.name, server.store)
        if other is None:
            raise
        return kind.probe(server, other)


def configured_port(hosted: HostedServer, option: str) -> int | None:
    """The port that the manifest fixes. For servers of one app each, the option is only where their row begins."""
    return hosted.options.port_of(option) if hosted.app is None else None


def port_key(hosted: HostedServer, option: str) -> str:
    """The key in the state under which a chosen port is remembered."""
    return hosted.name if option == "port" else f"{hosted.name}.{option}"


def forget_ports(state: ProjectState, name: str) -> None:
    """Gives the ports back that were chosen for the server `name`."""
    with state.change("ports") as remembered:
        for key in [key for key in remembered if key.partition(".")[0] == name]:
            del remembered[key]


def options_text(options: ContainerOptions, before: str = "") -> str:
    """The options that a running server knows of, to tell later whether they have changed. Those at their default are
    not among them: a new version's option, or another default, changes nothing for who has said nothing.

    Args:
        before: what was recorded; options at their default are among them if they are in it, as in multidb 0.1.0.
    """
    fields = type(options).model_fields
    named = set(re.findall(r"[( ]([a-z_]+)=", before))
    parts = [
        f"{name}={value!r}"
        for name, value in options
        if name in named or (fields[name].repr and value != fields[name].get_default(call_default_factory=True))
    ]
    return f"{type(options).__name__}({', '.join(parts)})"


def outdated(hosted: HostedServer, process: Process) -> str:
    """What to add to the message of a server that runs with options which the manifest no longer has."""
    now = (options_text(hosted.options), options_text(hosted.options, process.options))
    return "" if process.options in now else f"; its options have changed: multidb restart {hosted.name}"


def absent(hosted: HostedServer, error: MultidbError) -> ServerStatus:
    """The status of a server that cannot be started on this machine."""
    reason = error.sentence(where=False)
    if isinstance(error, RuntimeUnavailable):
        return ServerStatus(hosted.name, hosted.store, ServerState.SKIPPED, None, reason)
    return ServerStatus(hosted.name, hosted.store, ServerState.FAILED, None, reason, error=error)


def lost(hosted: HostedServer, where: str) -> MultidbError:
    """The error for data whose admin password is not known any more.

    Args:
        where: where secrets are kept, for the message.
    """
    return UsageError(
        f"its data is there, and its admin password is not in {where}",
        hint=f"restore it from a copy, or move {hosted.folder} away to begin with an empty server",
    )


def last_words(problem: str, log: Path, since: int = 0) -> str:
    """`problem`, with the end of the log and where to read on."""
    lines = processes.tail(log, since)
    return f"{problem}; {_short(log)} ends with:\n{lines}" if lines else f"{problem}; its log is {_short(log)}"


def _short(path: Path) -> str:
    """A path in the project's own folder, as one types it there."""
    parts = path.parts
    return str(Path(*parts[parts.index(".multidb") :])) if ".multidb" in parts else str(path)
