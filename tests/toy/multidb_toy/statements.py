"""From a change to what the server is told. A process that dies between two of them leaves a box that is marked."""

from __future__ import annotations

from collections.abc import Sequence

from multidb.model import Action, Change, Statement, StoreContext
from multidb_toy.resources import Box, digest_of

__all__ = ["statements"]


def statements(change: Change, context: StoreContext) -> Sequence[Statement]:
    """See `multidb.model.Provisioner`."""
    box, found = change.resource, []
    assert isinstance(box, Box)
    if change.action is Action.CREATE:
        found.append(Statement(f"MAKE {box.name} {box.owner}"))
    elif change.changed("owner"):
        found.append(Statement(f"OWN {box.name} {box.owner}"))
    if change.changed("colour"):
        found.append(Statement(f"PAINT {box.name} {box.colour}"))
    if change.changed("sealed"):
        found.append(Statement(f"SEAL {box.name} {'shut' if box.sealed else 'open'}"))
    if change.changed("opened_by") and box.opened_by == "off":
        found.append(Statement(f"SHUT {box.name}"))
    elif change.changed("opened_by"):
        found.append(Statement(f"LOCK {box.name} $digest", binds=(("digest", digest_of(box.name)),)))
    return found
