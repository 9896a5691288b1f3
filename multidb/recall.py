"""What servers know of apps and the state does not, where that was lost or is an old copy: written down again."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import UTC, datetime

from multidb.alternation import alternates_on, recall_alternations
from multidb.errors import Locked, UsageError
from multidb.fleet import Fleet
from multidb.model import Server, StoreContext
from multidb.numbers import recall_numbers

__all__ = ["recall"]


def recall(fleet: Fleet, server: Server, context: StoreContext, settled: AbstractSet[str]) -> None:
    """Writes down what the server knows of the apps that are on it as the manifest says: their numbers, and which of
    their two credentials work. A state that cannot be written now is left as it is.

    Args:
        settled: those apps.
    """
    with suppress(Locked, UsageError):  # a plan does without
        numbers = {app: number for app, number in context.numbers.items() if app in settled}
        if not numbers.items() <= fleet.numbers(server).items():
            recall_numbers(fleet.state, server.name, numbers)
    with suppress(Locked, UsageError):
        seen = {app: alternates for app, alternates in context.alternates.items() if app in settled}
        if not seen.keys() <= alternates_on(fleet.state, server.store).keys():
            recall_alternations(fleet.state, server.store, seen, datetime.now(UTC))
