"""A database elsewhere whose changes are followed after it was copied: by logical replication, for which a publication
and a slot are made there, and taken away at the end. Decision 87 has the reasons.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, Self

from psycopg.conninfo import make_conninfo

from multidb.errors import NotAllowed, ServerSlow
from multidb.model import App, StoreContext, Survey, listed
from multidb.provisioners.postgres.backup import contents
from multidb.provisioners.postgres.backup.source import PostgresSource
from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.driver.replication import ReplicationConnection
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.script import printable
from multidb.secrets import Secret

__all__ = ["FollowedPostgres"]

_MOST: Final = 10
_LOCKED: Final = "55P03"
_ROUNDS: Final = 5  # attempts to lock tables that somebody holds
_ATTEMPT: Final = 3000  # milliseconds of such an attempt

# What following takes: of the server, of the login, of the tables.
_NEEDS: Final = """
SELECT json_build_object(
  'level', current_setting('wal_level'),
  'standby', pg_is_in_recovery(),
  'slots', current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots),
  'superuser', r.rolsuper, 'replication', r.rolsuper OR r.rolreplication,
  'owner', pg_has_role(d.datdba, 'USAGE'), 'create', has_database_privilege(d.oid, 'CREATE'),
  'others', (SELECT coalesce(json_agg(name ORDER BY name), '[]'::json) FROM tables
             WHERE NOT pg_has_role(owner, 'USAGE')),
  'keyless', (SELECT coalesce(json_agg(name ORDER BY name), '[]'::json) FROM tables
              WHERE identity = 'n' AND oid NOT IN (SELECT oid FROM unfit)),
  'unfit', (SELECT coalesce(json_agg(name ORDER BY name), '[]'::json) FROM tables
            WHERE identity <> 'k' AND oid IN (SELECT oid FROM unfit)),
  'made', (SELECT coalesce(json_agg(name ORDER BY name), '[]'::json) FROM tables WHERE key_is_made),
  'parted', (SELECT coalesce(json_agg(name ORDER BY name), '[]'::json) FROM tables WHERE parted_by_number),
  'unlogged', (SELECT coalesce(json_agg(name ORDER BY name), '[]'::json) FROM tables WHERE persistence = 'u'),
  'forced', (SELECT coalesce(json_agg(name ORDER BY name), '[]'::json) FROM tables WHERE forced),
  'firing', (SELECT coalesce(json_agg(DISTINCT name), '[]'::json) FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid
             WHERE NOT g.tgisinternal AND g.tgenabled IN ('A', 'R')),
  'objects', (SELECT count(*) FROM pg_largeobject_metadata))
FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()"""
# identity: by what a change says which row it is: a key, the full row, nothing. A server refuses changes of a table
# that is published and has nothing: a primary key that may be checked later is none. unfit: the full row cannot be it,
# since values of a type have no equality (json, point), or, from 18 on, since it has generated columns.
_TABLES: Final = f"""
WITH RECURSIVE tables AS MATERIALIZED (
  SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relowner AS owner, c.relpersistence AS persistence,
    c.relforcerowsecurity AS forced,
    CASE WHEN c.relreplident = 'f' THEN 'f' WHEN k.indexrelid IS NOT NULL THEN 'k' ELSE 'n' END AS identity,
    EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (k.indkey) AND a.attgenerated <> '')
      AS key_is_made,
    EXISTS {contents.WHOLE.format("c.oid")} AS parted_by_number
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index k ON k.indrelid = c.oid
    AND (c.relreplident = 'd' AND k.indisprimary AND k.indimmediate OR c.relreplident = 'i' AND k.indisreplident)
  WHERE c.relkind = 'r' AND c.oid >= 16384 AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
    AND n.nspname <> 'information_schema' AND NOT EXISTS (
      SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')),
part (oid, type) AS (
  SELECT t.oid, a.atttypid FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid
  WHERE t.identity <> 'k' AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
  UNION
  SELECT p.oid, n.type FROM part p JOIN pg_type y ON y.oid = p.type, LATERAL (
    SELECT y.typbasetype WHERE y.typtype = 'd'
    UNION ALL SELECT y.typelem WHERE y.typelem <> 0 AND y.typlen = -1
    UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE y.typtype = 'c' AND a.attrelid = y.typrelid AND a.attnum > 0
      AND NOT a.attisdropped) n (type)),
unfit AS MATERIALIZED (
  SELECT p.oid FROM part p JOIN pg_type y ON y.oid = p.type
  WHERE y.typtype = 'b' AND NOT (y.typelem <> 0 AND y.typlen = -1) AND NOT EXISTS (
    SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod
    WHERE o.opcdefault AND m.amname IN ('btree', 'hash') AND (o.opcintype = y.oid OR EXISTS (
      SELECT FROM pg_cast s WHERE s.castsource = y.oid AND s.casttarget = o.opcintype AND s.castmethod = 'b'
        AND s.castcontext = 'i')))
  UNION SELECT t.oid FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid
  WHERE current_setting('server_version_num')::int >= 180000 AND a.attgenerated <> '' AND NOT a.attisdropped)"""  # noqa: S608
# Of each: its name, its position, and whether that was given out.
_SEQUENCES: Final = """
SELECT coalesce(json_agg(format('%I.%I', n.nspname, c.relname) ORDER BY c.oid), '[]'::json)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.oid >= 16384 AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND NOT EXISTS (
  SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')"""
_OTHERS: Final = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> 'multidb import'"""


class FollowedPostgres(PostgresSource):
    """A `multidb.model.FollowedSource`."""

    def __enter__(self) -> Self:
        super().__enter__()
        self._held_by: ExitStack = ExitStack()
        self._holding: Connection | None = None
        return self

    def __exit__(self, *exc: object) -> None:
        self._held_by.close()
        super().__exit__(*exc)

    def survey(self, app: App, context: StoreContext) -> Survey:
        return replace(super().survey(app, context), following="; ".join(self._against()))

    def _against(self) -> Iterator[str]:
        """Why its changes cannot be followed, each with the way on."""
        needs = json.loads(self._connection.ask(f"{_TABLES} {_NEEDS}"))
        user = identifier(self.server.endpoint.user)
        if needs["standby"]:
            yield "it is a standby: name its primary"
        if needs["level"] != "logical":
            yield f"its wal_level is {needs['level']}: set it to logical, which takes a restart there"
        if not needs["replication"]:
            yield f"{user} may not replicate: ALTER ROLE {user} REPLICATION, at the source"
        if not needs["superuser"] and (needs["others"] or not needs["owner"] or not needs["create"]):
            yield f"{user} does not own the database and all of its tables: name a login that does, or a superuser"
        if needs["slots"] < 1:
            yield "it has no free slot: raise max_replication_slots there"
        for names, words in (
            (
                needs["keyless"],
                "have no key that is checked at once: ALTER TABLE .. REPLICA IDENTITY FULL, at the source",
            ),
            (
                needs["unfit"],
                "have no key, and columns by which no row is known (json, xml, point and such, from Postgres 18 on "
                "also generated ones): ALTER TABLE .. ADD PRIMARY KEY, and REPLICA IDENTITY DEFAULT, at the source",
            ),
            (
                needs["made"],
                "have a key with a generated column, which no stream has: ALTER TABLE .. REPLICA IDENTITY USING INDEX "
                "of another one, at the source",
            ),
            (
                needs["parted"],
                "are parted by the hash of an enum, which is another one here",
            ),
            (needs["unlogged"], "are unlogged, and no log has their changes"),
            (needs["forced"], "force row security upon their owner, as whom changes would be written"),
            (needs["firing"], "have triggers that fire for replicated rows, too"),
        ):
            if names:
                yield f"{listed(names, _MOST)} {words}"
        if needs["objects"]:
            yield "it has large objects, whose changes are in no stream"

    def address_for(self, application_name: str) -> Secret:
        """Where a server finds the database, with the password."""
        endpoint = self.server.endpoint
        tls = {"sslmode": "require"} if endpoint.tls else {}
        return Secret(
            make_conninfo(
                **{**tls, **endpoint.params},
                host=endpoint.host,
                port=endpoint.port,
                user=endpoint.user,
                dbname=self._database,
                application_name=application_name,
                **({"password": self._password.reveal()} if self._password is not None else {}),
            )
        )

    # ---------------------------------------------------------------------------------------------------- following

    @contextlib.contextmanager
    def published(self, mark: str) -> Iterator[str]:
        """Makes a publication of the tables that are there, and a slot that has every change of them from a moment on.
        Gives the snapshot of that moment, good for the block. Both stay.

        Raises:
            NotAllowed, ServerError: the source does not make them.
        """
        self.unfollow(mark)
        # By name, whoever makes it: one FOR ALL TABLES has those that are made meanwhile, too, which nobody has looked
        # at, and which are not there where the changes are written.
        tables = [table.name for table in contents.read(self._connection.ask).tables if table.condition is None]
        what = f"FOR TABLE {', '.join(f'ONLY {name}' for name in tables)}" if tables else ""
        self._writing(f"CREATE PUBLICATION {identifier(mark)} {what}")
        with ReplicationConnection(self.server, self._password, self._database, "multidb import") as connection:
            yield connection.make_slot(mark)

    def unfollow(self, mark: str) -> None:
        name = literal(mark)
        ending = f"SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE slot_name = {name}"  # noqa: S608
        drop = f"SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE slot_name = {name}"  # noqa: S608
        for left in reversed(range(_ROUNDS)):
            self._connection.send(ending)
            answer = self._connection.send(f"SELECT pg_sleep(0.2); {drop}")
            if answer.refusal is None:
                break
            if not left:
                raise self._connection.error(answer.refusal)
        self._writing(f"DROP PUBLICATION IF EXISTS {identifier(mark)}")

    def left_behind(self, mark: str, *, stopped: bool) -> str:
        closed = ", and let its owner set the database to be written again" if stopped else ""
        return f"what is called {mark} at the source could not be taken away; drop it there{closed}"

    def behind(self, mark: str) -> int | None:
        """Bytes that the consumer of the slot does not have yet; None: there is no such slot."""
        answer = self._connection.ask(
            "SELECT coalesce((SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), confirmed_flush_lsn)::text "  # noqa: S608
            f"FROM pg_replication_slots WHERE slot_name = {literal(mark)}), 'none')"
        )
        return None if answer == "none" else max(int(float(answer)), 0)

    def position(self) -> str:
        """A place in the log of the source behind all that was committed; the log is on its disk as far as that."""
        self._connection.execute("SET synchronous_commit = on")
        return self._connection.ask("SELECT pg_logical_emit_message(true, 'multidb', '')::text")

    def has_passed(self, mark: str, position: str) -> bool:
        """Whether the consumer of the slot has everything up to a position."""
        return (
            self._connection.ask(
                "SELECT EXISTS (SELECT FROM pg_replication_slots "  # noqa: S608
                f"WHERE slot_name = {literal(mark)} AND confirmed_flush_lsn >= {literal(position)}::pg_lsn)"
            )
            == "t"
        )

    def sequences(self) -> list[tuple[str, str, bool]]:
        """Name, position and whether that was given out, of all that no extension has brought."""
        names: list[str] = json.loads(self._connection.ask(_SEQUENCES))
        positions = []
        for name in names:
            text = self._connection.ask(f"SELECT json_build_array(last_value::text, is_called) FROM {name}")  # noqa: S608
            value, called = json.loads(text)
            positions.append((name, str(value), bool(called)))
        return positions

    def stopping(self) -> str:
        return (
            "sessions are ended, and new ones can only read from then on, until its owner lets them: " + self._allowing
        )

    def stop_writing(self) -> None:
        """New sessions are read-only from now on; others are ended, and all tables are locked against writers until
        this source is left."""
        database = identifier(self._database)
        setting = f"ALTER DATABASE {database} SET default_transaction_read_only = on"
        try:
            self._writing(setting)
        except NotAllowed as error:
            raise NotAllowed(
                f"the login may not set the database read-only: {error.message}",
                where=self.where,
                hint=f"as its owner, there: {printable(setting)}; or name a login that owns it",
            ) from None
        tables = [table.name for table in contents.read(self._connection.ask).tables if table.condition is None]
        holding = self._held_by.enter_context(self._connected())
        holding.execute(f"SET lock_timeout = {_ATTEMPT}")
        for left in reversed(range(_ROUNDS)):
            self._connection.send(_OTHERS)  # who may not be ended holds a lock, or does no harm
            if self._locked(holding, tables):
                self._holding = holding
                return
            if not left:
                raise ServerSlow(
                    "somebody writes there and could not be ended",
                    where=self.where,
                    hint="end it at the source, then run the command again",
                )

    def _locked(self, holding: Connection, tables: Sequence[str]) -> bool:
        holding.execute("BEGIN")
        for start in range(0, len(tables), 200):
            names = ", ".join(f"ONLY {name}" for name in tables[start : start + 200])
            answer = holding.send(f"LOCK TABLE {names} IN SHARE MODE")
            if answer.refusal is not None:
                holding.execute("ROLLBACK")
                if answer.refusal.sqlstate == _LOCKED:
                    return False
                raise holding.error(answer.refusal)
        return True

    def require_stopped(self) -> None:
        if self._holding is None:
            raise ServerSlow("its tables are not locked", where=self.where, hint="run the command again")
        self._holding.ask("SELECT 1")  # the locks last as long as their session

    def allow_writing(self) -> None:
        self._holding = None
        self._held_by.close()
        self._writing(self._allowing)

    @property
    def _allowing(self) -> str:
        return f"ALTER DATABASE {identifier(self._database)} RESET default_transaction_read_only"

    def _writing(self, text: str) -> None:
        try:
            self._connection.execute(text)
        except NotAllowed as error:
            raise NotAllowed(
                error.message, where=self.where, hint="name a login that owns the database there, or a superuser"
            ) from None
