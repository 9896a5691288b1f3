"""What the servers have refused an app, and what would help: what a developer asks when something does not work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from multidb.errors import Refused
from multidb.fleet import Fleet, Scope
from multidb.model import App, Finding, Level, Refusal, Server, moment_in_words
from multidb.provisioners import provisioner

__all__ = ["refusal_findings"]

_LINES: Final = 20_000  # of a log that are looked at


@dataclass(frozen=True, slots=True)
class _ServerRefusals:
    """What a server has of refusals of an app; `unread`: why nobody can look."""

    refusals: tuple[Refusal, ...] = ()
    unread: str = ""


def refusal_findings(fleet: Fleet, app: App) -> Iterator[Finding]:
    """What each server of the app has refused it, as warnings with what would help; that there is nothing, too."""
    for answer in fleet.on_servers(Scope(apps=frozenset({app.id})), lambda server: _refusals_on(fleet, server, app)):
        subject = answer.name
        if answer.value is None:
            problem = answer.error.sentence() if answer.error is not None else answer.skipped
            yield Finding(Level.ERROR if answer.error is not None else Level.WARNING, subject, problem)
            continue
        for refusal in answer.value.refusals:
            times = f", {refusal.count} times" if refusal.count > 1 else ""
            last = f", last on {moment_in_words(refusal.last)}" if refusal.last is not None else ""
            yield Finding(Level.WARNING, subject, f"refused {app.id}: {refusal.what}{times}{last}", refusal.hint)
        if answer.value.unread:
            yield Finding(Level.OK, subject, answer.value.unread)
        elif not answer.value.refusals:
            yield Finding(Level.OK, subject, f"knows of nothing that it refused {app.id}")


def _refusals_on(fleet: Fleet, server: Server, app: App) -> _ServerRefusals:
    store = provisioner(server.store)
    if store.refusals is not None:
        with fleet.open(server) as session:
            return _ServerRefusals(tuple(store.refusals(session, app)))
    if store.logged_refusals is None:
        return _ServerRefusals(unread=f"{store.title} keeps nothing of what it refuses")
    try:
        lines = fleet.runtime.logs(server.name, _LINES, follow=False)
        return _ServerRefusals(tuple(store.logged_refusals(app, lines)))
    except Refused as error:
        return _ServerRefusals(
            unread=f"what it refused {app.id} is in its log, which is not multidb's to read: {error.message}"
        )
