"""How many requests a caller may make: a bucket of tokens for each, which fills up again with time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import ip_address
from typing import Final

__all__ = ["ClientRate", "network_of"]

_MOST: Final = 10_000  # callers that are remembered; of more, those that were seen last
_PREFIX: Final = 64  # bits of an IPv6 address that one subscriber has for himself


class ClientRate:
    """At most so many requests a minute by each caller, all of them at once if he likes. Belongs to one thread.

    Args:
        per_minute: more than 0.
        clock: seconds; only differences count.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = float(per_minute)
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # (requests left, as of when)

    def wait(self, caller: Hashable) -> float:
        """Counts a request of `caller`. 0 when it may be answered, else the seconds until the next one may be."""
        now = self._clock()
        left, at = self._buckets.pop(caller, (self._most, now))
        left = min(self._most, left + (now - at) * self._most / 60)
        answered = left >= 1
        self._buckets[caller] = (left - 1 if answered else left, now)
        if len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)
        return 0.0 if answered else (1 - left) * 60 / self._most


def network_of(client: str) -> str:
    """What one subscriber's addresses have in common: an IPv4 address whole, of an IPv6 address the first 64 bits."""
    try:
        address = ip_address(client)
    except ValueError:
        return client
    return client if address.version == 4 else str(int(address) >> (128 - _PREFIX))
