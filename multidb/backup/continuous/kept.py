"""Copies of servers that are kept at a moment, to be rolled on to later ones: looking for the moment before a mistake
takes several tries, and each of them would read the base backup again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from multidb.document import moment
from multidb.engine import Engine
from multidb.errors import MultidbError, UsageError
from multidb.fleet import Scope
from multidb.model import App, Server, moment_in_words
from multidb.state import ProjectState

__all__ = [
    "KEPT",
    "KeptCopy",
    "discard_copies",
    "discard_copy",
    "expire_copies",
    "forget_note",
    "kept_copies",
    "kept_copy",
    "note_copy",
    "require_copy",
]

KEPT: Final = timedelta(days=1)
"""How long a copy is kept."""

_SECTION: Final = "copies"  # of the state, of this machine: by server, of what and which moment its kept copy is


@dataclass(frozen=True, slots=True)
class KeptCopy:
    """What is known of a kept copy.

    Args:
        app: the only one whose data can be read out of it.
        stream, base: what of the archive it was made of.
        at: the moment that it waits at.
        since: when it got there.
    """

    app: str
    stream: str
    base: str
    at: datetime
    since: datetime


def kept_copy(state: ProjectState, server: Server) -> KeptCopy | None:
    """The copy of a server that is kept; None: there is none."""
    note: dict[str, Any] | None = state.read(_SECTION).get(server.name)
    if note is None:
        return None
    return KeptCopy(note["app"], note["stream"], note["base"], moment(note["at"]), moment(note["since"]))


def require_copy(state: ProjectState, server: Server, app: App, at: datetime) -> KeptCopy:
    """The copy of a server that can be rolled on to the moment.

    Raises:
        UsageError: there is none, or it is past the moment, or of another app.
    """
    kept = kept_copy(state, server)
    again = f"multidb restore {app.id} --at '{at:%Y-%m-%d %H:%M:%S.%f}' --keep-copy"
    if kept is None:
        raise UsageError(f"no copy of server {server.name} is kept", where="--until", hint=f"make one: {again}")
    if kept.app != app.id:
        raise UsageError(
            f"the copy of server {server.name} that is kept is one for app {kept.app}", where="--until", hint=again
        )
    if at < kept.at:
        raise UsageError(
            f"the copy of server {server.name} that is kept is as of {moment_in_words(kept.at)}, and never goes back",
            where="--until",
            hint=f"make one anew: {again}",
        )
    return kept


def note_copy(state: ProjectState, server: Server, kept: KeptCopy) -> None:
    """Remembers a copy, once it waits at its moment."""
    with state.change(_SECTION) as section:
        section[server.name] = {
            "app": kept.app,
            "stream": kept.stream,
            "base": kept.base,
            "at": kept.at.isoformat(),
            "since": kept.since.isoformat(),
        }


def forget_note(state: ProjectState, server: str) -> None:
    """What is being rolled on, or removed, is no copy that anybody may go on from."""
    with state.change(_SECTION) as section:
        section.pop(server, None)


def discard_copy(engine: Engine, server: Server) -> None:
    """Removes the copy of a server, with what a killed run may have left of one.

    Raises:
        Locked: another run is at it.
    """
    forget_note(engine.state, server.name)
    engine.fleet.runtime.forget_copy(server)


def kept_copies(engine: Engine) -> dict[str, KeptCopy]:
    """All that are kept, by server."""
    known = {server.name: kept_copy(engine.state, server) for server in engine.fleet.servers(Scope(idle=True))}
    return {name: kept for name, kept in known.items() if kept is not None}


def discard_copies(engine: Engine, names: Collection[str]) -> list[MultidbError]:
    """Removes the copies of these servers; what kept some of them from it."""
    errors: list[MultidbError] = []
    for server in engine.fleet.servers(Scope(idle=True)):
        if server.name in names:
            try:
                discard_copy(engine, server)
            except MultidbError as error:
                errors.append(error)
    return errors


def expire_copies(engine: Engine, now: datetime) -> None:
    """Removes those that were kept long enough. One that another run is at stays for now."""
    if engine.state.read(_SECTION):
        discard_copies(engine, [name for name, kept in kept_copies(engine).items() if now - kept.since >= KEPT])
