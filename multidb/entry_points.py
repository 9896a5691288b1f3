"""What packages installed beside multidb add to it by entry points: stores, places of secrets and of state."""

from __future__ import annotations

from collections.abc import Container
from importlib import import_module

from multidb.errors import UsageError

__all__ = ["added_modules", "record_in", "unusable"]


def added_modules(group: str, included: Container[str]) -> dict[str, str]:
    """By name the modules that the entry points of a group name. None takes the place of one that is `included`.

    Every installed distribution is looked into.
    """
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=group) if point.name not in included}


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
