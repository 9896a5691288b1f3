"""Which product a project's server is, kept from its first answer on: ``Valkey 9.1.2``.

What one product wrote is not given to another by chance, and a server that is not to be had for a moment is not taken
for one that never was: an error says what is missing, until it is back or another is chosen (``multidb up --switch``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from multidb.errors import MultidbError, RuntimeUnavailable, ServerError
from multidb.model import HostedServer
from multidb.state import ProjectState

__all__ = ["Products", "fits"]

_SECTION: Final = "products"


class Products:
    """What the servers of one project are.

    Args:
        switched: the stores whose servers may be another product from now on.
    """

    def __init__(self, state: ProjectState, switched: Collection[str] = ()) -> None:
        self._state = state
        self._switched = switched

    def recorded(self, name: str) -> str | None:
        """What the server `name` said of itself when it last came up; None where it never did."""
        product: str | None = self._state.read(_SECTION).get(name)
        return product

    def record(self, name: str, product: str) -> None:
        """To be called once the server `name` has answered."""
        if self.recorded(name) != product:
            with self._state.change(_SECTION) as section:
                section[name] = product

    def forget(self, name: str) -> None:
        """To be called once the data of the server `name` is gone."""
        with self._state.change(_SECTION) as section:
            section.pop(name, None)

    def obstacle(self, hosted: HostedServer) -> MultidbError | None:
        """Why the server of `hosted` cannot be started now: `RuntimeUnavailable` where the project never had one, which
        goes on without it; `ServerError` where it had, or has the data of its apps on other servers."""
        assert hosted.kind is not None
        reason = hosted.kind.missing()
        if reason is not None:
            return self.unavailable(hosted, reason)
        if hosted.store in self._switched:
            return None
        if not hosted.kind.initialised(hosted):
            begun = hosted.kind.initialised
            others = [other for other in hosted.others if begun(other) and not any(map(begun, other.others))]
            if others:
                return _elsewhere(hosted, others)
        before = hosted.kind.wrote(hosted) or self.recorded(hosted.name)
        now = hosted.kind.product(hosted) if before is not None else None
        if before is None or now is None or fits(before, now, one_major=hosted.kind.one_major):
            return None
        return ServerError(
            f"its data was written by {before}, and what is to be had now is {now}",
            where=f"server {hosted.name}",
            hint=hosted.kind.way_back(before),
        )

    def unavailable(self, hosted: HostedServer, reason: str) -> MultidbError:
        """The error for a server that cannot be had here."""
        assert hosted.kind is not None
        where = f"server {hosted.name}"
        if self.recorded(hosted.name) is None and not hosted.kind.initialised(hosted):
            return RuntimeUnavailable(reason, where=where)
        return ServerError(reason, where=where, hint="its data is kept; once it can be had again: multidb up")


def _elsewhere(hosted: HostedServer, others: Sequence[HostedServer]) -> ServerError:
    """The apps would have an empty place, and nobody would say so."""
    names = ", ".join(other.name for other in others)
    return ServerError(
        f"its apps' data is on {names}, as servers.{hosted.store}.isolation was before",
        where=f"server {hosted.name}",
        hint="set that back, then: multidb up; to take the data along, from there: multidb backup, multidb down, "
        f"the new isolation, multidb up --switch {hosted.store} (a new server, empty), multidb apply, and multidb "
        f"restore SET; what {names} has stays in .multidb/servers/, to be deleted by hand",
    )


def fits(before: str, now: str, *, one_major: bool) -> bool:
    """Whether `now` reads what `before` wrote: the same product, not older by its first two numbers (servers read what
    earlier versions of theirs wrote), or with `one_major` of the same major version."""
    if before.split()[0] != now.split()[0]:
        return False
    ours, theirs = _numbers(now), _numbers(before)
    return ours[:1] == theirs[:1] if one_major else ours >= theirs


def _numbers(product: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", product)[:2]]
