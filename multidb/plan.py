"""Comparing what is wanted with what is there: pure functions over values, the same for every store."""

from __future__ import annotations

from collections.abc import Iterable

from multidb.model import Action, Change, FieldChange, Resource

__all__ = ["diff"]


def diff(
    desired: Iterable[Resource], live: Iterable[Resource], adopt: frozenset[str] = frozenset()
) -> tuple[Change, ...]:
    """The changes that turn `live` into `desired`, in the order in which they have to be made.

    Laws (tests/properties): ``diff(x, x)`` is empty; applying ``diff(d, l)`` to ``l`` gives ``d`` plus what is not
    ours; the order of the input does not matter.

    Args:
        adopt: apps whose unmarked resources are taken over (an update that writes the mark) instead of refused.

    An app with a conflict gets its conflicts and nothing else: half of its changes would be of no use to anybody.
    What exists and is no longer desired is left alone, except edges (a membership, a grant), whose surplus is a hole.
    """
    wanted = {resource.key: resource for resource in desired}
    there = {resource.key: resource for resource in live}
    changes: list[Change] = []
    for key, want in wanted.items():
        have = there.get(key)
        if have is None:
            changes.append(Change(Action.CREATE, want, None))
        elif (reason := _foreign(want, have, adopt)) is not None:
            changes.append(Change(Action.CONFLICT, want, have, reason=reason))
        elif fields := _differences(want, have):
            changes.append(Change(Action.UPDATE, want, have, fields))
    changes += [Change(Action.DELETE, None, have) for key, have in there.items() if have.edge and key not in wanted]
    refused = {change.resource.app for change in changes if change.action is Action.CONFLICT}
    kept = [change for change in changes if change.action is Action.CONFLICT or change.resource.app not in refused]
    return tuple(sorted(kept, key=_order))


def _foreign(want: Resource, have: Resource, adopt: frozenset[str]) -> str | None:
    if not want.marked or have.owner == want.owner:
        return None
    if have.owner is not None:
        return f"{have.kind} {have.name} belongs to {have.owner}, which another manifest manages"
    if want.app in adopt:
        return None
    return f"{have.kind} {have.name} exists already and multidb did not make it"


def _differences(want: Resource, have: Resource) -> tuple[FieldChange, ...]:
    if want == have:
        return ()
    old = have.compared()
    return tuple(FieldChange(name, old[name], value) for name, value in want.compared().items() if old[name] != value)


def _order(change: Change) -> tuple[int, int, str, str]:
    resource = change.resource
    # Surplus edges go first within their rank: a hole is closed before anything is built beside it.
    return (resource.rank, 0 if change.action is Action.DELETE else 1, resource.app or "", resource.name)
