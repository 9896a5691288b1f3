"""A project's state in a database of its own on a Postgres server, which no app can enter.

One connection of a run carries both: the advisory locks that it holds, and what it writes. So a run whose connection
was lost, and with it its locks, cannot write either; and the server lets go of the locks of one that died.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from multidb.errors import Conflict, Locked, ServerDown, ServerError, ServerSlow, StateUnavailable, UsageError
from multidb.model import Server
from multidb.provisioners.postgres.driver.connection import Connection, SessionOptions, Traffic
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.secrets import Secret
from multidb.state_store import (
    TURN,
    HeldLock,
    Holder,
    Kept,
    KeptFile,
    damaged,
    identified,
    is_kept_file,
    lock_of,
    locked,
    refuse_other_project,
    state_of,
    state_text,
)

__all__ = ["PostgresStateStore", "database_of"]

T = TypeVar("T")

_CLASS: Final = zlib.crc32(b"multidb state") - 2**31  # of the advisory locks, in a database that only admins enter
_PAUSES: Final = (0.05, 0.3)  # seconds between two looks at a lock that is taken, at least and at most
_ATTEMPTS: Final = 5  # at making the database, which others make at the same time
_LOST: Final = (
    "bring the database back from a copy; without one, drop it, then: multidb state recover reads back from the "
    "servers what they know"
)
_LOOK: Final = """
SELECT coalesce((SELECT json_build_object(
  'mark', shobj_description(d.oid, 'pg_database'), 'owned', pg_has_role(current_user, d.datdba, 'USAGE'),
  'open', d.datallowconn, 'closed', NOT EXISTS (
    SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) WHERE grantee = 0))::text
  FROM pg_database d WHERE d.datname = $1), '')"""
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS public.multidb_state "
    "(project text PRIMARY KEY, version bigint NOT NULL, document text NOT NULL)",
    "CREATE TABLE IF NOT EXISTS public.multidb_lock "
    "(name text PRIMARY KEY, key integer NOT NULL, pid integer NOT NULL, holder text NOT NULL)",
    "CREATE TABLE IF NOT EXISTS public.multidb_file "
    "(name text PRIMARY KEY, version bigint NOT NULL, content text NOT NULL)",
)
_THERE: Final = "SELECT (to_regclass('public.multidb_file') IS NOT NULL)::text"  # the last that is made
_READ: Final = """
SELECT coalesce((SELECT json_build_array(version, document)::text FROM public.multidb_state WHERE project = $1{suffix}),
  '')"""
_HELD: Final = """
SELECT coalesce(json_agg(json_build_array(l.pid, l.name, l.holder) ORDER BY l.name), '[]')::text
FROM public.multidb_lock l WHERE EXISTS (SELECT FROM pg_locks p WHERE p.locktype = 'advisory' AND p.granted
  AND p.pid = l.pid AND p.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND p.classid::bigint = $1::bigint AND p.objid::bigint = (l.key::bigint + 4294967296) % 4294967296)"""
_BEGIN: Final = """
BEGIN;
INSERT INTO public.multidb_state VALUES ({project}, 0, '') ON CONFLICT DO NOTHING;
SELECT FROM public.multidb_state WHERE project = {project} FOR UPDATE"""
_WRITE: Final = "UPDATE public.multidb_state SET version = {version}, document = {document} WHERE project = {project}"
_NOTE_HOLDER: Final = """
INSERT INTO public.multidb_lock VALUES ({name}, {key}, pg_backend_pid(), {holder})
ON CONFLICT (name) DO UPDATE SET key = excluded.key, pid = excluded.pid, holder = excluded.holder"""
_LET_GO: Final = "DELETE FROM public.multidb_lock WHERE name = {name} AND pid = pg_backend_pid()"
_READ_FILE: Final = """
SELECT coalesce((SELECT json_build_array(version, content)::text FROM public.multidb_file WHERE name = $1), '')"""
_NEW_FILE: Final = "INSERT INTO public.multidb_file VALUES ({name}, 1, {text}) ON CONFLICT DO NOTHING RETURNING version"
_NEXT_FILE: Final = """
UPDATE public.multidb_file SET version = version + 1, content = {text} WHERE name = {name} AND version = {version}
RETURNING version"""
_FILE_NAMES: Final = "SELECT coalesce(json_agg(name ORDER BY name), '[]')::text FROM public.multidb_file"
_ALIVE: Final = (  # a machine that is gone is told from one that says nothing, within a minute
    "SET tcp_keepalives_idle = 20",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 4",
)


def database_of(project: str) -> str:
    """The database of the project's state. No app's can be called so: no app's id has a ``-``."""
    return f"multidb-state-{project}"


class PostgresStateStore:
    """A `StateStore` on a Postgres server.

    Args:
        reach: the server, and its admin's password. What it raises is why the state cannot be reached.
        application: how this run calls itself towards the server.
    """

    def __init__(self, reach: Callable[[], tuple[Server, Secret | None]], project: str, application: str) -> None:
        self._reach = reach
        self._project = project
        self._application = application
        self._database = database_of(project)
        self._mark = f"Kept by multidb: the state of the project {project}"
        self.title = f"the database {self._database} in Postgres"
        self._guard = threading.RLock()  # one talks at a time
        self._connection: Connection | None = None
        self._held: set[str] = set()

    def damaged(self, reason: str) -> UsageError:
        return damaged(reason, self.title, _LOST)

    def read(self) -> Kept:
        with self._talking(making=False) as connection:
            if connection is None:
                return Kept({})
            text = connection.ask(_READ.format(suffix=""), (self._project,))
        return self._understood(text)

    @contextlib.contextmanager
    def change(self, holder: Holder) -> Iterator[dict[str, Any]]:
        with self._talking(making=True) as connection:
            assert connection is not None
            project = literal(self._project)
            self._begin(connection, project)
            try:
                kept = self._understood(connection.ask(_READ.format(suffix=" FOR UPDATE"), (self._project,)))
                document = dict(kept.document)
                yield document
                identified(document, self._project)
                version, text = int(str(kept.version or 0)) + 1, literal(state_text(document))
                connection.execute(_WRITE.format(project=project, version=version, document=text), "COMMIT")
            except BaseException:
                with contextlib.suppress(ServerError):
                    connection.send("ROLLBACK")
                raise

    @contextlib.contextmanager
    def lock(
        self, name: str, holder: Holder, timeout: float = 0.0, waiting: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        key = (str(_CLASS), str(zlib.crc32(name.encode()) - 2**31))
        try:
            self._take(name, key, holder, timeout, waiting)
            yield
        finally:
            if name in self._held:
                self._held.discard(name)
                with contextlib.suppress(StateUnavailable), self._talking(making=False) as connection:
                    if connection is not None:  # one that is lost has let go of it already
                        connection.execute(_LET_GO.format(name=literal(name)))
                        connection.ask("SELECT pg_advisory_unlock($1::int4, $2::int4)", key)

    def locks(self) -> Sequence[HeldLock]:
        with self._talking(making=False) as connection:
            rows = [] if connection is None else json.loads(connection.ask(_HELD, (str(_CLASS % 2**32),)))
        return [lock_of(str(pid), name, _holder(text)) for pid, name, text in rows]

    def unlock(self, lock_id: str) -> HeldLock:
        held = next((lock for lock in self.locks() if lock.id == lock_id), None)
        if held is None:
            raise UsageError("no such lock is held", where=lock_id[:200], hint="multidb state show lists them")
        with self._talking(making=False) as connection:
            if connection is not None:
                connection.ask("SELECT pg_terminate_backend($1::int4)::text", (held.id,))
        return held

    def read_file(self, name: str) -> KeptFile:
        with self._talking(making=False) as connection:
            row = "" if connection is None else connection.ask(_READ_FILE, (name,))
        if not row:
            return KeptFile()
        version, text = json.loads(row)
        return KeptFile(text, version)

    def write_file(self, name: str, text: str, version: object) -> bool:
        with self._talking(making=True) as connection:
            assert connection is not None
            statement = _NEW_FILE if version is None else _NEXT_FILE
            answer = connection.send(statement.format(name=literal(name), text=literal(text), version=version))
            if answer.refusal is not None:
                raise connection.error(answer.refusal)
            return bool(answer.rows)

    def file_names(self) -> Sequence[str]:
        with self._talking(making=False) as connection:
            names = [] if connection is None else json.loads(connection.ask(_FILE_NAMES))
        return [name for name in names if is_kept_file(name)]

    # Locks

    def _take(
        self,
        name: str,
        key: tuple[str, str],
        holder: Holder,
        timeout: float,
        waiting: Callable[[str], None] | None,
    ) -> None:
        deadline, seen = time.monotonic() + timeout, ""
        while not self._taken(name, key, holder):
            held = next((lock for lock in self.locks() if lock.name == name), HeldLock("", name))
            if held.id != seen:
                deadline, seen = time.monotonic() + timeout, held.id
                if waiting is not None and timeout:
                    waiting(held.who)
            if time.monotonic() >= deadline:
                raise locked(held, self.title)
            time.sleep(random.uniform(*_PAUSES))  # noqa: S311 - so that two do not meet again

    def _taken(self, name: str, key: tuple[str, str], holder: Holder) -> bool:
        with self._talking(making=True) as connection:
            assert connection is not None
            if name in self._held or connection.ask("SELECT pg_try_advisory_lock($1::int4, $2::int4)", key) != "t":
                return False
            self._held.add(name)
            text = literal(json.dumps(dict(holder)))
            connection.execute(_NOTE_HOLDER.format(name=literal(name), key=key[1], holder=text))
            return True

    # The database

    def _begin(self, connection: Connection, project: str) -> None:
        """Begins a transaction in which nobody else writes."""
        answer = connection.send(_BEGIN.format(project=project))
        if answer.refusal is not None:
            connection.send("ROLLBACK")
            if answer.refusal.sqlstate == "55P03":
                raise Locked("another run has been changing it for a minute", where=self.title, hint="run it again")
            raise connection.error(answer.refusal)

    def _understood(self, text: str) -> Kept:
        if not text:
            return Kept({})
        version, document = json.loads(text)
        if not document:  # made for one who changes it for the first time
            return Kept({})
        state = state_of(document, self.title, _LOST)
        refuse_other_project(state, self._project, self.title)
        return Kept(state, version)

    @contextlib.contextmanager
    def _talking(self, *, making: bool) -> Iterator[Connection | None]:
        """The connection to the database, for one thread at a time; None where there is no such database yet.

        Args:
            making: make it then.
        """
        with self._guard:
            try:
                if self._connection is None:
                    if self._held:
                        raise self._lost("the connection is gone")
                    self._connection = self._opened(making=making)
                yield self._connection
            except (ServerDown, ServerSlow) as error:
                self._close()
                if self._held:
                    raise self._lost(f"the connection ended ({error.message})") from None
                raise self._unavailable(error) from None
            except ServerError as error:
                raise self._unavailable(error) from None

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _lost(self, reason: str) -> StateUnavailable:
        return StateUnavailable(
            f"{reason}, and with it the locks that this run had: it writes no more",
            where=self.title,
            hint="run the command again: it goes on from what is there now",
        )

    def _unavailable(self, error: ServerError) -> StateUnavailable:
        return StateUnavailable(f"{error.message} ({error.where})", where=self.title, hint=error.hint)

    def _opened(self, *, making: bool) -> Connection | None:
        server, password = self._reach()
        for attempt in range(_ATTEMPTS):
            try:
                if not self._is_there(server, password, making=making):
                    return None
                return self._entered(server, password, making=making)
            except ServerError:
                if not making or attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(*_PAUSES))  # noqa: S311 - another run makes it just now
        return None

    def _entered(self, server: Server, password: Secret | None, *, making: bool) -> Connection | None:
        options = SessionOptions(lock_timeout=round(TURN * 1000), fresh=True)
        connection = Connection(
            server, password, self._application, Traffic(), database=self._database, options=options
        )
        try:
            connection.execute(*_ALIVE)
            if connection.ask(_THERE) != "true":
                if not making:
                    connection.close()
                    return None
                connection.execute(*_TABLES)
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_there(self, server: Server, password: Secret | None, *, making: bool) -> bool:
        """Whether the database is there, closed to everybody else, which it is made if need be."""
        name = identifier(self._database)
        with Connection(server, password, self._application, Traffic()) as connection:
            text = connection.ask(_LOOK, (self._database,))
            if not text and not making:
                return False
            if not text:
                connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ALLOW_CONNECTIONS false")
                text = connection.ask(_LOOK, (self._database,))
            seen = json.loads(text)
            if seen["mark"] != self._mark and not (seen["mark"] is None and seen["owned"] and not seen["open"]):
                raise Conflict(
                    f"the database {self._database} is there, and multidb did not make it for this project",
                    where=str(server),
                    hint="rename it, or keep the state elsewhere: state: .multidb/",
                )
            if not making and not seen["open"]:
                return False
            if seen["mark"] is None:
                connection.execute(f"COMMENT ON DATABASE {name} IS {literal(self._mark)}")
            if not seen["closed"]:
                connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
            if not seen["open"]:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        return True


def _holder(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None
