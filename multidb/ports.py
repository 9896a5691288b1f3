"""TCP ports of this machine: which is taken, and which one a server gets."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Collection

from multidb.errors import UsageError

__all__ = ["FIRST", "LAST", "LOOPBACK", "choose", "is_taken"]

LOOPBACK = "127.0.0.1"

# Below the ports that Linux (32768) and macOS (49152) hand out to outgoing connections: one of those could sit on a
# remembered port just while its server is down.
FIRST, LAST = 20000, 31999
_TRIES = 200


def is_taken(port: int) -> bool:
    """Whether something on this machine listens on `port`, so that a server on the loopback address could not."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # A server that has just gone leaves connections in TIME_WAIT, which do not matter to the next one.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):  # EACCES: below 1024, as an ordinary user
                return True
            raise
    return False


def choose(reserved: Collection[int], first: int | None = None) -> int:
    """A port that is neither taken nor in `reserved`: a random one, or the lowest from `first` on."""
    candidates = range(first, 65536) if first else random.sample(range(FIRST, LAST + 1), _TRIES)
    for port in candidates:
        if port not in reserved and not is_taken(port):
            return port
    raise UsageError(
        f"no free port from {first or FIRST} on",
        hint="name a port in the manifest, under servers.<store>.port",
    )
