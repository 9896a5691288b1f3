"""Which apps are read-only on a store because of their quota, as it is recorded; every plan goes by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from multidb.state import ProjectState

__all__ = ["changing_read_only", "forget_read_only", "read_only_on", "rename_read_only"]

_SECTION: Final = "restricted"  # older than the word read-only


def read_only_on(state: ProjectState, store: str) -> frozenset[str]:
    """The apps that are read-only on the store."""
    return frozenset(state.read(_SECTION).get(store, ()))


@contextmanager
def changing_read_only(state: ProjectState) -> Iterator[dict[str, frozenset[str]]]:
    """By store, the apps that are; what the block makes of it is recorded when it ends."""
    with state.change(_SECTION) as section:
        read_only = {store: frozenset(apps) for store, apps in section.items()}
        yield read_only
        section.clear()
        section.update({store: sorted(apps) for store, apps in sorted(read_only.items())})


def rename_read_only(state: ProjectState, old: str, new: str) -> None:
    """What holds for an app holds for its new name."""
    _change_apps(state, lambda apps: [new if app == old else app for app in apps])


def forget_read_only(state: ProjectState, app: str) -> None:
    """Nothing holds for an app that is gone."""
    _change_apps(state, lambda apps: [name for name in apps if name != app])


def _change_apps(state: ProjectState, change: Callable[[list[str]], list[str]]) -> None:
    with state.change(_SECTION) as section:
        for store, apps in section.items():
            section[store] = change(apps)
