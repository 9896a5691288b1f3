"""Who keeps a statement of the admin waiting: looked for on a connection of its own, while the statement waits.

An app can lock what the admin has to change: its own role (``ALTER ROLE`` in a transaction that stays open), its
schema, its tables. It is told by name. Where its end is what the command is for, its session is ended, again and again:
the admin's statement stands first in the queue for the lock, so no other session of the app can come before it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from multidb.errors import ServerDown, ServerError, ServerSlow
from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.provision import locks

__all__ = ["Blocker", "BlockerSearch", "BlockersOfSession"]


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session, or a prepared transaction (process 0), that another session waits for.

    Args:
        app: whose it is, by the mark of its role; None: no app's that is known.
        strong: it is a superuser's, or the admin's own.
        since, address: when its transaction began and where it comes from, as far as the admin may see that.
    """

    pid: int
    user: str | None
    database: str | None
    app: str | None
    strong: bool | None
    since: str | None
    address: str | None

    def belongs_to(self, app: str) -> bool:
        """Whether it is the app's: nobody but an app's own logins and admins may enter its database."""
        return bool(app) and (self.app == app or (self.database == app and not self.strong))

    def sentence(self, app: str) -> str:
        """Who holds something of `app`."""
        if not self.pid:
            return "held by a prepared transaction"
        whose = "a session of its own" if self.belongs_to(app) else f"a session of {self.user or 'the server'}"
        since = f", since {self.since}" if self.since else ""
        place = f", from {self.address}" if self.address else ""
        return f"held by {whose} (process {self.pid} of {self.user}{since}{place})"

    def way_out(self, app: str) -> str:
        """What lets the admin at it again."""
        if not self.pid:
            return "end it in its database (pg_prepared_xacts lists it): ROLLBACK PREPARED"
        again = f"multidb apply --app {app}" if app else "run the command again"
        return f"let the app end it, or: SELECT pg_terminate_backend({self.pid}); then: {again}"


class BlockerSearch:
    """Looks who is in the way of sessions; any thread may. Its connection is opened when something lasts, and kept
    until `close`.

    Args:
        open_: opens a connection to the maintenance database.
        timeout: seconds for each of its own questions.
    """

    def __init__(self, open_: Callable[[], Connection], timeout: float) -> None:
        self._open = open_
        self._timeout = timeout
        self._guard = threading.Lock()
        self._connection: Connection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def look(self, process: int, ending: str) -> tuple[Blocker, ...]:
        """Who is in the way of that process now, as far as that can be told; see `BlockersOfSession`."""
        with self._guard:
            try:
                if self._connection is None:
                    self._connection = self._open()
                text = self._connection.ask(locks.BLOCKERS, (str(process),), self._timeout)
                answer: list[dict[str, Any]] = json.loads(text)
                blockers = tuple(Blocker(**row) for row in answer)
                for blocker in blockers:
                    if blocker.pid and blocker.belongs_to(ending):
                        self._connection.send(f"SELECT pg_terminate_backend({blocker.pid})", self._timeout)
            except (ServerDown, ServerSlow):  # the statement itself will tell
                self._connection = None
            except ServerError:  # what keeps us from looking is no reason for the statement to fail
                pass
            else:
                return blockers
        return ()


class BlockersOfSession:
    """Who is in the way of one session: each call looks, and `last_seen` are those of the last look that saw any.

    Args:
        process: the server process of the session.
        ending: the app whose sessions are ended where they are in the way; empty: nobody's.
    """

    def __init__(self, search: BlockerSearch, process: int, ending: str = "") -> None:
        self._search = search
        self._process = process
        self._ending = ending
        self.last_seen: tuple[Blocker, ...] = ()

    def __call__(self) -> None:
        self.last_seen = self._search.look(self._process, self._ending) or self.last_seen
