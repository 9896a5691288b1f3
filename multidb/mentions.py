"""Text of an app's that names its place, where the app gets another name: servers keep it as it is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from multidb.engine import Engine
from multidb.fleet import Scope
from multidb.model import App, MovingSession
from multidb.provisioners import provisioner

__all__ = ["mentions"]


def mentions(
    engine: Engine, inside: App, was: Mapping[str, Any], becomes: App, stores: Collection[str] | None = None
) -> list[str]:
    """What `inside` has whose text names a place by a name that `becomes` does not have it under.

    Args:
        engine: of a project with `inside`, whose servers are there.
        was: the entry by which the place is called so, as plain values; it may come out of a set.
        stores: only in these; None: in all of them.

    Raises:
        ServerError: a server cannot be asked.
    """
    named: list[str] = []
    for store in inside.stores if stores is None else stores:
        options = was.get(store)
        if not isinstance(options, Mapping) or store not in becomes.stores or provisioner(store).placed is None:
            continue
        for server in engine.fleet.servers(Scope(frozenset({inside.id}), frozenset({store}))):
            with engine.fleet.open(server) as session:
                assert isinstance(session, MovingSession)
                named += session.mentions(inside, options, becomes)
    return named
