"""What stands on servers that multidb has not made: what could be an app's place there, and what could not, and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multidb.model.core import Owner
    from multidb.model.provisioner import Session

__all__ = ["ExistingPlace", "Scanning"]


@dataclass(frozen=True, slots=True)
class ExistingPlace:
    """Something on a server that holds data, or lets somebody have some.

    Args:
        kind, name: as the server calls it: ``database``, ``crm``.
        app: the id of the app whose place it would be; empty: it can be none's.
        options: what the app's entry has to say of the store for it, as plain values.
        owner: whose it is by its mark; None: it carries none.
        reason: why it can be no app's.
        accounts: those that may use it, beside an app's own.
        notes: what of it the entry does not say.
    """

    kind: str
    name: str
    app: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    owner: Owner | None = None
    reason: str = ""
    accounts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scanning:
    """How a store's servers are searched for what is there already.

    Args:
        read: everything that has to be known, by a number of questions that does not grow with what is there, and one
            look into each place that only its inside tells of.
        places: pure: what was read, and the ids of apps that are known from elsewhere -> the places.
        options: pure: the options of one app's places -> what its entry says of the store; None: those of its only one.
    """

    read: Callable[[Session], Any]
    places: Callable[[Any, Collection[str]], Sequence[ExistingPlace]]
    options: Callable[[Sequence[ExistingPlace]], Mapping[str, Any]] | None = None
    prefixed: bool = False  # whose a place is, is told by the beginning of its name: apps of other stores come first
