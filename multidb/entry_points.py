"""What packages installed beside multidb add to it by entry points: stores, places of secrets and of state."""

from __future__ import annotations

import sys
from collections.abc import Container
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

from multidb.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = ["added_modules", "record_in", "unusable"]


def added_modules(group: str, included: Container[str]) -> dict[str, str]:
    """By name the modules that the entry points of a group name. None takes the place of one that is `included`.

    Every installed distribution is looked into, once for all groups.
    """
    points = _on_path(tuple(sys.path)).select(group=group)
    return {point.name: point.value for point in points if point.name not in included}


@cache
def _on_path(path: tuple[str, ...]) -> EntryPoints:
    """All that the distributions on Python's path have; of hundreds of them it takes a while."""
    from importlib.metadata import entry_points

    return cast("EntryPoints", entry_points())  # before Python 3.12 it is of another class, with the same method


def record_in(module: str, attribute: str, where: str, what: str = "it") -> object:
    """What the module has under this name; None where it has nothing.

    Args:
        where, what: as for `unusable`.

    Raises:
        UsageError: it cannot be imported.
    """
    try:
        return getattr(import_module(module), attribute, None)
    except ImportError as error:
        raise unusable(module, f"cannot be imported: {error}", where, what) from None


def unusable(module: str, problem: str, where: str, what: str = "it") -> UsageError:
    """That a package cannot be used.

    Args:
        where: what would have been had from it (``store toy``).
        what: how that is called in the hint.
    """
    return UsageError(
        f"its module {module} {problem}",
        where=where,
        hint=f"install another version of the package that adds {what}, or uninstall it",
    )
