"""Databases that are on a server already, as places that apps could have there."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from multidb.document import APP_ID, printable
from multidb.model import ExistingPlace, Owner, counted

__all__ = ["ExistingGraphs", "places"]


@dataclass(frozen=True, slots=True)
class ExistingGraphs:
    """What was read.

    Args:
        databases: their names, but for the server's own.
        default: the one that every session begins in.
        nodes: how many it has.
        marks: whose apps' marks the server has.
    """

    databases: tuple[str, ...]
    default: str
    nodes: int
    marks: tuple[Owner, ...]


def places(read: ExistingGraphs, known: Collection[str]) -> list[ExistingPlace]:
    """A place for each database; the default one is nobody's own."""
    return [*(_place(name, read) for name in read.databases if name != read.default), *_default(read)]


def _place(name: str, read: ExistingGraphs) -> ExistingPlace:
    app = name.replace("-", "_")
    if mark := next((mark for mark in read.marks if mark.app == app), None):
        return ExistingPlace("database", name, app, owner=mark)
    if not re.fullmatch(APP_ID, app):
        return ExistingPlace("database", name, reason=f"{printable(name)!r} is no id of an app")
    return ExistingPlace("database", name, app)


def _default(read: ExistingGraphs) -> list[ExistingPlace]:
    """On a server without other databases, apps share the default one, or it is the one app's."""
    if read.marks and set(read.databases) <= {read.default}:
        return [ExistingPlace("database", read.default, mark.app, owner=mark) for mark in read.marks]
    if not read.nodes:
        return []
    reason = f"{counted(read.nodes, 'node')}; every session begins in it, so it is no app's own: bring the data in"
    return [ExistingPlace("database", read.default, reason=reason)]
