"""What this process knows of servers and their admins already, so that a connection begins with it."""

from __future__ import annotations

import threading

from multidb.model import Server
from multidb.provisioners.postgres.driver.session_settings import Powers

__all__ = ["KNOWN_POWERS"]


class _KnownPowers:
    """What this process has learned of servers and their admins, so that the next connection begins with it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._powers: dict[tuple[str, int, str], Powers] = {}

    def recall(self, server: Server) -> Powers | None:
        with self._guard:
            return self._powers.get(self._key(server))

    def recall_version(self, server: Server) -> Powers | None:
        """As an app's own login, of whichever admin it was learned."""
        with self._guard:
            place = self._key(server)[:2]
            return next((Powers(powers.version) for key, powers in self._powers.items() if key[:2] == place), None)

    def note(self, server: Server, powers: Powers) -> None:
        with self._guard:
            self._powers[self._key(server)] = powers

    def forget(self, server: Server) -> None:
        """What was known of it does not hold any longer."""
        with self._guard:
            place = self._key(server)[:2]
            self._powers = {key: powers for key, powers in self._powers.items() if key[:2] != place}

    def _key(self, server: Server) -> tuple[str, int, str]:
        return server.endpoint.host, server.endpoint.port, server.endpoint.user


KNOWN_POWERS = _KnownPowers()
