"""Signs that a session does something although it says nothing: an index is built, a table is measured.

They are asked for on a connection of its own. The server shows what a session waits for, which statement it is at and
how far some of them are; on this machine, the system shows how much processor time its process has used. A process
that stands still shows the same every time.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from typing import Any, Final

import psutil

from multidb.errors import ServerError
from multidb.model import Server
from multidb.provisioners.postgres.driver.connection import Connection, SessionOptions, Traffic
from multidb.secrets import Secret

__all__ = ["Signs"]

# $1: a process, or 0; $2: a login, or nothing. Those sessions, and the workers of theirs. Nothing that tells the time.
_SIGNS: Final = """
SELECT coalesce(json_agg(json_build_array(a.pid, a.usename, a.state, a.wait_event, a.query_start, a.state_change,
    a.backend_xid::text, a.backend_xmin::text, (SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid),
    {progress}) ORDER BY a.pid), '[]'::json)
FROM pg_stat_activity a WHERE $1::int4 IN (a.pid, a.leader_pid) OR a.usename = $2"""
_PROGRESS: Final = ("vacuum", "analyze", "cluster", "create_index", "basebackup")
_PROGRESS_SINCE_14: Final = "copy"


class Signs:
    """What is seen of sessions. Any thread may ask; `close` ends the connection.

    Args:
        password: the admin's.
    """

    def __init__(self, server: Server, password: Secret | None, application: str) -> None:
        self._server = server
        self._password = password
        self._application = application
        self._guard = threading.Lock()
        self._connection: Connection | None = None
        self._here = server.container is None and _is_this_machine(server.endpoint.host)

    def close(self) -> None:
        with self._guard:
            self._end()

    def of_process(self, pid: int) -> object:
        """What is seen of a session and its workers; another answer than before means that it does something.

        Raises:
            ServerError: nobody answers.
        """
        return self._seen(pid, "")

    def of_login(self, name: str) -> object:
        """As `of_process`, for all sessions of a login."""
        return self._seen(0, name)

    def _seen(self, pid: int, login: str) -> object:
        with self._guard:
            try:
                if self._connection is None:
                    milliseconds = round(self._server.timeout * 1000)
                    options = SessionOptions(statement_timeout=milliseconds)
                    self._connection = Connection(
                        self._server, self._password, self._application, Traffic(), options=options
                    )
                names = [*_PROGRESS, *([_PROGRESS_SINCE_14] if self._connection.version >= 140000 else [])]
                rows = ", ".join(
                    f"(SELECT json_agg(p) FROM pg_stat_progress_{name} p WHERE p.pid = a.pid)"  # noqa: S608
                    for name in names
                )
                query = _SIGNS.format(progress=rows)
                answer = self._connection.ask(query, (str(pid), login), self._server.timeout)
            except ServerError:
                self._end()
                raise
        sessions: list[list[Any]] = json.loads(answer)
        times = [_processor_time(int(session[0]), str(session[1])) for session in sessions] if self._here else []
        return answer, times

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _is_this_machine(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _processor_time(pid: int, login: str) -> float | None:
    """Seconds of processor time that the session's process has used; None where that is not known: behind a loopback
    address there may be a container, which has numbers of its own."""
    try:
        process = psutil.Process(pid)
        title = " ".join(process.cmdline())
        if not title.startswith("postgres:") or login not in title:
            return None
        used = process.cpu_times()
    except (psutil.Error, OSError):
        return None
    return float(used.user + used.system)
