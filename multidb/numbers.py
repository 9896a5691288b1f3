"""The numbers that apps have on servers (such as Redis DBs), as they are recorded: by server and app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from multidb.state import ProjectState

__all__ = ["forget_numbers", "numbers_by_server", "numbers_on", "recall_numbers", "record_numbers"]

_SECTION: Final = "numbers"


def numbers_by_server(state: ProjectState) -> dict[str, dict[str, int]]:
    """All of them: by server's name, by app."""
    return {server: dict(numbers) for server, numbers in state.read(_SECTION).items()}


def numbers_on(state: ProjectState, server: str) -> dict[str, int]:
    """Those on one server, by app."""
    return dict(state.read(_SECTION).get(server, {}))


def record_numbers(state: ProjectState, server: str, numbers: Mapping[str, int]) -> None:
    """Writes down which apps have which numbers there, before anything on the server relies on it."""
    with state.change(_SECTION) as section:
        section[server] = dict(numbers)


def recall_numbers(state: ProjectState, server: str, numbers: Mapping[str, int]) -> None:
    """Writes down numbers that the server has: they are the apps', whatever else was recorded of these or of others."""
    with state.change(_SECTION) as section:
        held = section.setdefault(server, {})
        taken = {app for app, number in held.items() if app not in numbers and number and number in numbers.values()}
        section[server] = {app: number for app, number in held.items() if app not in taken} | dict(numbers)


def forget_numbers(state: ProjectState, app: str) -> None:
    """Gives the app's numbers back, on every server."""
    with state.change(_SECTION) as section:
        for numbers in section.values():
            numbers.pop(app, None)
