"""An app's database as a dump, and back: `pg_dump` and `pg_restore` do the work, multidb looks after everything around.

**Backup.** One transaction holds a snapshot; the dump and the measures are both of that snapshot, the measures being
taken by the server while the dump is written. **Restore** goes into a database of its own, made from template0, that no
app may enter; everything in it belongs to the app's owner role from the start. **Replace** is one transaction of
renames, so an interruption leaves the old database or the new one, never half of each.

Inside a database that an app owns, a login works that may do no more than the app (`delegate`). What the admin's login
sends to one is in `groundwork.AdminInside`, and nothing else: decision 19 has the list, and why none of it can call
what an app has made.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, BinaryIO, Self

from multidb.errors import (
    ArchiveError,
    Conflict,
    NotAllowed,
    Refused,
    ServerDown,
    ServerError,
    ServerSlow,
    WrongVersion,
)
from multidb.model import (
    App,
    ArchiveReader,
    ArchiveWriter,
    Measures,
    Owner,
    Part,
    Place,
    PlaceKind,
    Progress,
    Server,
    StoreContext,
    listed,
)
from multidb.progress import ProgressTimer
from multidb.provisioners.postgres.backup import (
    archive_tables,
    bound,
    configuration,
    contents,
    extensions,
    loading,
    programs,
)
from multidb.provisioners.postgres.backup.bound import Beyond
from multidb.provisioners.postgres.backup.delegate import Delegate, Delegates
from multidb.provisioners.postgres.backup.locales import Locale
from multidb.provisioners.postgres.backup.places import NEW, OLD, SCRATCH, place_mark, place_names
from multidb.provisioners.postgres.backup.programs import Program
from multidb.provisioners.postgres.backup.signs import Signs
from multidb.provisioners.postgres.driver.connection import Traffic, Wire
from multidb.provisioners.postgres.isolation import rights
from multidb.provisioners.postgres.provision import catalog_text
from multidb.provisioners.postgres.provision.groundwork import AdminInside
from multidb.provisioners.postgres.provision.resources import MANAGED_SETTINGS, derived_names
from multidb.provisioners.postgres.provision.statements import RESTORED, UNFINISHED, identifier, literal, mark
from multidb.secrets import Secret

__all__ = ["PostgresArchive"]

_FORMAT = "pg_dump custom 1"
_FILE = "dump.pgc"
_MAGIC = b"PGDMP"
_CHUNK = 1 << 20
_LOOK = 5.0  # seconds without a byte of pg_dump, after which it is looked whether somebody keeps it waiting
_AT_ONCE = 500  # statements in one message
_ROUNDS = 10  # attempts to find a database without sessions
_BUSY, _LOCKED, _NO_PROVIDER = "55006", "55P03", "22023"
_ANOTHER = frozenset({"42P01", "3F000", "42809"})  # there is no such table or schema, or it is no table

# What would end a script that an operator has run at a time of the app's choice.
_ENDING = frozenset(
    {"statement_timeout", "transaction_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"}
)

# $1: names (JSON array). What has to be known of these databases to make one like it, or to put one in its place.
_DATABASES = """
SELECT coalesce(json_object_agg(d.datname, json_build_object(
  'mark', c.description, 'open', d.datallowconn, 'limit', d.datconnlimit,
  'encoding', pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
  'tablespace', (SELECT spcname FROM pg_tablespace s WHERE s.oid = d.dattablespace),
  'provider', {provider}, 'locale', {locale}, 'rules', {rules}, 'version', {version},
  'privileges', (SELECT json_agg(json_build_array(
       CASE x.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(x.grantee) END, x.privilege_type))
     FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x WHERE x.grantee <> d.datdba),
  'settings', (SELECT json_agg(json_build_array(r.rolname, s.setconfig))
     FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE s.setdatabase = d.oid),
  'prepared', (SELECT json_agg(p.gid) FROM pg_prepared_xacts p WHERE p.database = d.datname))), '{{}}'::json)
FROM pg_database d LEFT JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
WHERE d.datname IN (SELECT json_array_elements_text($1::json))"""

# $1: a database. Who holds something in it against everybody: process and login, or none and a prepared transaction.
_HOLDERS = """
SELECT coalesce(json_agg(DISTINCT jsonb_build_array(a.pid, coalesce(a.usename::text, p.gid))), '[]'::json)
FROM pg_locks l JOIN pg_database d ON d.oid = l.database LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_locks own ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
  AND own.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts p ON p.transaction = own.transactionid
WHERE d.datname = $1 AND l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted
  AND (a.usename IS NOT NULL OR p.gid IS NOT NULL)"""
# $1: a setting. Whether everybody may set it. One that the server does not know may become an extension's: not that.
_EVERYBODYS = """
SELECT CASE WHEN EXISTS (SELECT FROM pg_settings WHERE lower(name) = lower($1))
  THEN EXISTS (SELECT FROM pg_settings WHERE lower(name) = lower($1) AND context = 'user')
  ELSE strpos($1, '.') > 0
    AND NOT EXISTS (SELECT FROM pg_settings WHERE starts_with(lower(name), lower(split_part($1, '.', 1)) || '.'))
    AND NOT EXISTS (SELECT FROM pg_available_extensions WHERE lower(name) = lower(split_part($1, '.', 1))) END"""
# $1: names (JSON array), $2: a role. How many of these tablespaces are there and may be used by the role.
_TABLESPACES = """
SELECT count(*) FROM pg_tablespace
WHERE spcname IN (SELECT json_array_elements_text($1::json)) AND has_tablespace_privilege($2, oid, 'CREATE')"""
# $1: a login. Whether a session of it waits for a lock.
_WAITS = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = $1 AND cardinality(pg_blocking_pids(pid)) > 0)"""


class PostgresArchive:
    """The data of apps on one server, with the admin's login."""

    def __init__(self, server: Server, password: Secret | None, application_name: str) -> None:
        self._server = server
        self._where = str(server)
        self._password = password
        self._application = application_name
        self._signs = Signs(server, password, application_name)
        self._main = self._open()
        self._major = self._main.version // 10000
        self._delegates = Delegates(self._main, server, application_name, self._signs.of_process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._signs.close()
        self._main.close()

    # ------------------------------------------------------------------------------------------------------- backup

    def backup(self, app: App, context: StoreContext, writer: ArchiveWriter, progress: Progress) -> Part:
        """Writes the dump. Everything in it, and the measures, are of one moment.

        Raises:
            ArchiveError: no pg_dump here fits the server, or it failed; somebody else's things are in the database.
            ServerSlow: the app holds a table for longer than a minute.
        """
        program = self._program("pg_dump")
        live = self.live(app, context)
        with self._snapshot(live) as (delegate, holder, snapshot), ThreadPoolExecutor(1) as beside:
            database = self._databases(app.id)[app.id]
            beyond = json.loads(self._ask(holder, bound.inside(self._main.version, self._delegates.roles(app))))
            details = {
                "app": app.id,
                "postgres": self._major,
                "dump": program.major,
                "extensions": json.loads(self._ask(holder, contents.EXTENSIONS)),
                "extension_comments": json.loads(self._ask(holder, contents.EXTENSION_COMMENTS)),
                "policies": json.loads(self._ask(holder, contents.POLICIES)),
                "rights": json.loads(self._ask(holder, rights.query(literal(identifier(delegate.role))))),
                "locale": Locale.read(database).document(),
                "settings": database["settings"] or [],
                "beyond": beyond,
                "notes": bound.beyond(beyond).notes,
            }
            left_out = [pattern for pattern, *_ in self._kept_back(app, holder, progress)]
            tables = self._held(live, holder)
            if left := json.loads(self._ask(holder, contents.INVALID)):
                progress(app.id, f"indexes that are not valid, and so not in the set: {listed(left)}")
            measuring = beside.submit(self._measured, holder, tables)
            try:
                with writer.file(_FILE) as file:
                    arguments = programs.dump_arguments(self._address(program, delegate, app.id), snapshot, left_out)
                    self._dump(program, arguments, delegate, file, app, progress)
                measured = measuring.result()
            except BaseException:
                if (first := self._given_up(measuring, holder)) is not None:
                    raise first from None
                raise
        return Part(
            format=_FORMAT,
            server=f"PostgreSQL {self._version()}",
            client=f"pg_dump {program.version}",
            consistent=True,
            measures=measured,
            details=details,
        )

    def _kept_back(self, app: App, holder: Wire, progress: Progress) -> Sequence[Sequence[str]]:
        """What extensions keep from the app by row security, which is in no set; said."""
        found: list[list[str]] = json.loads(self._ask(holder, configuration.KEPT_BACK))
        for _, extension, name in found:
            said = f"rows of {name} are not in the set: extension {extension} shows an app some of them only"
            progress(app.id, said)
        return found

    def _dump(
        self,
        program: Program,
        arguments: Sequence[str],
        delegate: Delegate,
        file: BinaryIO,
        app: App,
        progress: Progress,
    ) -> None:
        with programs.running(program, arguments, delegate.password, self._where) as output:
            written = 0
            for chunk in self._flow(output, delegate, app.id):
                file.write(chunk)
                written += len(chunk)
                progress(app.id, "dumping", float(written))
        if not written:
            raise ArchiveError("pg_dump wrote nothing", where=self._where)

    def _flow(self, output: IO[bytes], delegate: Delegate, database: str) -> Iterator[bytes]:
        """What pg_dump writes. Not only tables can be held against it, and for the rest it would wait without end.

        Raises:
            ServerSlow: the app holds something for longer than a minute, or there is no progress.
        """
        timer = self._timer(delegate)
        waited = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while True:
                if selector.select(min(_LOOK, timer.pause)):
                    waited = 0.0
                    if not (chunk := os.read(output.fileno(), _CHUNK)):
                        return
                    yield chunk
                    timer.moved()
                elif timer.expired():
                    raise timer.error(self._server)
                elif self._main.ask(_WAITS, (delegate.name,)) != "t":
                    waited = 0.0
                elif (waited := waited + min(_LOOK, timer.pause)) >= contents.LOCK_TIMEOUT:
                    raise self._held_against(database)

    def _timer(self, delegate: Delegate) -> ProgressTimer:
        """Of a program that works by this login."""
        return ProgressTimer(self._server.progress_timeout, lambda: self._signs.of_login(delegate.name))

    def _held_against(self, database: str) -> ServerSlow:
        holders = json.loads(self._main.ask(_HOLDERS, (database,)))
        who = [
            f"a session of {who} (server process {pid})" if pid is not None else f"the prepared transaction {who}"
            for pid, who in holders
        ]
        hint = "run the command again"
        if holders:
            pid, name = holders[0]
            end = f"SELECT pg_terminate_backend({pid})" if pid is not None else f"ROLLBACK PREPARED {literal(name)}"
            hint = f"end it, in database {database}: {end}; then run the command again"
        return ServerSlow(
            f"something in {database} was held for {contents.LOCK_TIMEOUT} s by {listed(who) or 'the app'}",
            where=self._where,
            hint=hint,
        )

    @contextlib.contextmanager
    def _snapshot(self, place: Place) -> Iterator[tuple[Delegate, Wire, str]]:
        """A connection in a read-only transaction, and the name by which others see what it sees."""
        with self._reading(place) as (delegate, wire):
            yield delegate, wire, self._ask(wire, "SELECT pg_export_snapshot()")

    @contextlib.contextmanager
    def _reading(self, place: Place) -> Iterator[tuple[Delegate, Wire]]:
        """A connection that reads all of the app's and nothing else, in a read-only transaction.

        Raises:
            ArchiveError: the app's database is not there, or has things of others in it.
            NotAllowed: row security hides rows, and the admin cannot have that lifted.
        """
        role = self._role(place)
        with (
            self._delegates.acting(place.app, role, [place.name], reads=True) as delegate,
            delegate.open(place.name) as wire,
        ):
            self._do(wire, *contents.READING)
            if others := json.loads(self._ask(wire, contents.UNREADABLE)):
                raise self._not_the_apps(others, role)
            if hidden := json.loads(self._ask(wire, contents.HIDDEN)):
                self._delegates.see_all(delegate, hidden)
            self._do(wire, contents.STATEMENT_LIMIT, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield delegate, wire

    def _role(self, place: Place) -> str:
        """The owner role of what is in the place."""
        if place.kind is not PlaceKind.LIVE:
            return self._delegates.owner_or_stand_in(place.app)
        if place.name not in self._databases(place.name):
            raise ServerError(f"database {place.name} does not exist", where=self._where, hint="multidb apply makes it")
        role = self._delegates.owner(place.app)
        if role is None:
            raise ArchiveError(f"app {place.app.id} has no owner role here", where=self._where, hint="multidb apply")
        return role

    def _not_the_apps(self, others: Sequence[Sequence[str | None]], role: str) -> ArchiveError:
        named = [
            f"{kind} {name} (of {owner})" if extension is None else f"{kind} {name} (of extension {extension})"
            for kind, name, owner, extension, _ in others
        ]
        kind, name, _, extension, _ = others[0]
        if extension is not None:  # it stays the extension's: a grant of reading is all it takes
            schemas = sorted({schema for *_, schema in others if schema is not None})
            grants = [f"GRANT USAGE ON SCHEMA {schema} TO {identifier(role)}" for schema in schemas]
            grants += [f"GRANT SELECT ON {str(kind).upper()} {name} TO {identifier(role)}" for kind, name, *_ in others]
            return ArchiveError(
                f"what the app may not read has configuration that a dump holds: {listed(named)}",
                where=self._where,
                hint=f"let the app read it, in its database: {'; '.join(grants)}; then run the command again",
            )
        return ArchiveError(
            f"in the app's database there is what the app may not read: {listed(named)}",
            where=self._where,
            hint=f"in its database, ALTER {str(kind).upper()} {name} OWNER TO {identifier(role)} gives it to the app; "
            "or take it away; then run the command again",
        )

    def _held(self, place: Place, wire: Wire) -> contents.Found:
        """What there is to measure, its tables locked.

        Raises:
            ServerSlow: the app holds one of them for longer than a minute.
        """
        found = contents.found(lambda query: wire.ask(query, ()))
        for text in contents.locks(found.tables):
            answer = wire.send(text)
            if answer.refusal is not None and answer.refusal.sqlstate == _LOCKED:
                raise self._held_against(place.name)
            if answer.refusal is not None and answer.refusal.sqlstate in _ANOTHER:
                raise ArchiveError(
                    f"the app changes its tables at this moment: {answer.refusal.message}",
                    where=self._where,
                    hint="run the command again",
                )
            if answer.refusal is not None:
                raise wire.error(answer.refusal)
        contents.look_again(lambda query: wire.ask(query, ()), found.tables)
        return found

    def _measured(self, wire: Wire, found: contents.Found) -> Measures:
        return contents.measures(lambda query: wire.ask(query, ()), found)

    def _given_up(self, measuring: Future[Measures], wire: Wire) -> BaseException | None:
        """Ends what the connection measures, so that nobody waits for it. Why it has failed by itself, if it has: a
        session that ended took the snapshot with it, of which pg_dump then knows nothing."""
        ended = measuring.done()
        if not ended:
            self._cancel(wire)
        failure = measuring.exception()
        return failure if ended or isinstance(failure, ServerDown) else None

    def _cancel(self, wire: Wire) -> None:
        with contextlib.suppress(ServerError):
            self._main.send(f"SELECT pg_cancel_backend({wire.process})", timeout=self._server.timeout)

    # ------------------------------------------------------------------------------------------------------- places

    def live(self, app: App, context: StoreContext) -> Place:
        return Place(PlaceKind.LIVE, app, app.id)

    def prepare(self, kind: PlaceKind, app: App, context: StoreContext) -> Place:
        """A new database beside the app's own, with its locale, that nobody but the admin may connect to.

        Raises:
            Conflict: there is a database of that name that is not ours.
            Refused: `replace` would refuse.
        """
        if kind is PlaceKind.NEW:  # said before hours of loading, too
            self.require_unbound(app, context)
        place = Place(kind, app, app.id + {PlaceKind.SCRATCH: SCRATCH, PlaceKind.NEW: NEW}[kind])
        self.discard(place)
        like = self._databases(app.id).get(app.id)
        words = f"{Locale.read(like).clause}{_tablespace(like)}" if like is not None else "ENCODING 'UTF8'"
        self._make(place.name, words, place_mark(Owner(context.project, app.id)))
        return place

    def _make(self, database: str, words: str, comment: str) -> None:
        name = identifier(database)
        # Shut until nobody else may enter it; without a mark and shut, the next run takes it for what it is.
        self._do(self._main, f"CREATE DATABASE {name} TEMPLATE template0 {words} ALLOW_CONNECTIONS false")
        self._together(
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
            f"COMMENT ON DATABASE {name} IS {literal(comment)}",
            f"ALTER DATABASE {name} ALLOW_CONNECTIONS true",
        )

    def _as_in_the_set(self, place: Place, part: Part) -> None:
        """Makes the place again where the app's data was kept and compared in another way than it is here.

        Raises:
            WrongVersion: the server cannot do that. The place is gone.
            ArchiveError: the set does not say it as multidb does.
        """
        said = part.details.get("locale")
        if said is None:  # made by an earlier version
            return
        try:
            wanted = Locale.read(said if isinstance(said, Mapping) else {})
        except ValueError as error:
            raise ArchiveError(str(error), where=self._where, hint="take another set") from None
        there = self._databases(place.name)[place.name]
        if Locale.read(there) == wanted:
            return
        if place.kind is PlaceKind.LIVE:
            raise Refused(
                f"the set's database has {wanted}, and {place.name} has {Locale.read(there)}", where=self._where
            )
        self._drop(place.name, there)
        try:
            self._make(place.name, f"{wanted.clause}{_tablespace(there)}", str(there["mark"]))
        except ServerError as error:
            raise WrongVersion(
                f"cannot make a database like the set's ({wanted}): {error.message}",
                where=self._where,
                hint="install that locale on the server's machine, or take a server that has it",
            ) from None

    def discard(self, place: Place) -> None:
        """Drops the database of a place, whoever is connected to it.

        Raises:
            ValueError: it is the app's own.
            Conflict: it is not ours.
        """
        if place.kind is PlaceKind.LIVE:
            raise ValueError("a live place is not discarded")
        there = self._databases(place.name).get(place.name)
        if there is not None:
            if not _is_place(there, place.app):
                raise Conflict(
                    f"the database {place.name} exists and multidb did not make it",
                    where=self._where,
                    hint="rename it, or drop it if nobody needs it",
                )
            self._drop(place.name, there)
        self._delegates.forget(place.app)

    def leftovers(self, app: App, context: StoreContext) -> Sequence[Place]:
        """What an earlier run has left; the app's old database after an exchange is among it, as scratch."""
        there = self._databases(*place_names(app.id))
        return [
            Place(PlaceKind.NEW if name.endswith(NEW) else PlaceKind.SCRATCH, app, name)
            for name, database in there.items()
            if _is_place(database, app)
        ]

    def measure(self, place: Place) -> Measures:
        with self._reading(place) as (_, wire):
            return self._measured(wire, self._held(place, wire))

    def is_empty(self, place: Place) -> bool:
        """Whether nobody has made a table, a function, a type or a large object there."""
        role = self._role(place)
        with (
            self._delegates.acting(place.app, role, [place.name], reads=True) as delegate,
            delegate.open(place.name) as wire,
        ):
            return self._ask(wire, contents.EMPTY) == "t"

    # ------------------------------------------------------------------------------------------------------ restore

    def restore(self, place: Place, part: Part, reader: ArchiveReader, progress: Progress) -> None:
        """Loads the dump; everything will belong to the owner role of `place.app`, where the server has that.

        The dump is put into a nameless temporary file first: only a file can be read by several connections at once.

        Raises:
            WrongVersion: the server is older than the one that the dump is of.
            ArchiveError: the file is no dump, or is not whole; an extension is missing; pg_restore failed.
        """
        source, dumped_by = int(str(part.details["postgres"])), int(str(part.details["dump"]))
        if self._major < source:
            raise WrongVersion(
                f"is Postgres {self._major}, and the backup is of Postgres {source}",
                where=self._where,
                hint="upgrade the server",
            )
        program, beyond = self._program("pg_restore", dumped_by), self._loadable(part)
        self._as_in_the_set(place, part)
        role = self._role(place)
        with tempfile.TemporaryFile() as dump:
            _spool(reader, dump, place.app, progress)
            listing = loading.contents_of(program, dump, self._where)
            if place.kind is not PlaceKind.LIVE:
                self._do(self._main, f"GRANT CREATE ON DATABASE {identifier(place.name)} TO {identifier(role)}")
            roles = self._delegates.roles(place.app)
            with self._open(place.name) as wire:
                admin = AdminInside(wire)
                if place.kind is not PlaceKind.LIVE:
                    admin.give_schema(role)
                with self._delegates.acting(place.app, role, [place.name], reads=False) as delegate:
                    self._require_providers(delegate, place, beyond)
                    schemas = self._groundwork(admin, delegate, place, part, progress)
                    listing = self._configure(admin, delegate, place, part, program, dump, listing)
                    given, kept = self._rights(place, part, role)
                    owners = [each.while_loading for each in given if each.role == role]
                    self._inside(delegate, place, list(rights.defaults(owners, everywhere=True)))
                    before = admin.of_others([*roles, delegate.name])
                    address, kept_there = self._address(program, delegate, place.name), self._has_room(beyond, role)
                    target = loading.Target(program, address, role, delegate.password, self._server, kept_there)
                    progress(place.app.id, "loading")
                    first, last = loading.steps(listing, schemas, _entries(part, "policies"), beyond)
                    timer = self._timer(delegate)
                    for step in first:
                        loading.load(target, dump, step, timer=timer)
                    self._policies(delegate, place, part)
                    for step in last:
                        loading.load(target, dump, step, timer=timer)
                with self._delegates.acting(place.app, role, [place.name], reads=True) as delegate:
                    everywhere = rights.defaults(given, everywhere=True)
                    self._inside(delegate, place, [*everywhere, *rights.defaults(given, everywhere=False)])
                    self._give_rights(delegate, place, kept)
                    if place.kind is PlaceKind.NEW:
                        self._settings(delegate, place, part, progress)
                self._nothing_of_others(admin.of_others(roles) - before)
        if place.kind is PlaceKind.LIVE:
            self._unfinished(place.name)

    def _loadable(self, part: Part) -> Beyond:
        """What is left out of a load.

        Raises:
            Refused: that would not be enough.
            ArchiveError: the set does not say it as multidb does.
        """
        said = part.details.get("beyond")
        if said is None:  # made by an earlier version
            return Beyond()
        try:
            assert isinstance(said, Mapping)
            found = bound.beyond(said)
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise ArchiveError(
                f"the set does not say what no load can make as multidb does: {error}",
                where=self._where,
                hint="take another set",
            ) from None
        if found.needed:
            raise Refused(
                f"the set has what only an admin can make, and other things in it may need: {listed(found.needed, 10)}",
                where=self._where,
                hint="nothing was changed; take a set of before it was there, or load this one by hand "
                "(docs/restore-by-hand.md), once an admin has made that in the new database",
            )
        return found

    def _require_providers(self, delegate: Delegate, place: Place, beyond: Beyond) -> None:
        """`Refused` where the server lacks who looks after the set's security labels: they may be what masks data."""
        if not beyond.labels:
            return
        with delegate.open(place.name) as wire:
            self._do(wire, f"SET ROLE {identifier(delegate.role)}")
            for provider in beyond.labels:
                answer = wire.send(f"SECURITY LABEL FOR {identifier(provider)} ON SCHEMA public IS NULL")
                if answer.refusal is not None and answer.refusal.sqlstate == _NO_PROVIDER:
                    raise Refused(
                        f"the set has security labels of {provider}, which the server does not have loaded",
                        where=self._where,
                        hint="nothing was changed; let the server load it (shared_preload_libraries), or take one that "
                        "does",
                    )

    def _has_room(self, beyond: Beyond, role: str) -> bool:
        """Whether things can be in the tablespaces that they were in; the database's own has to do otherwise."""
        names = json.dumps(beyond.tablespaces)
        return int(self._main.ask(_TABLESPACES, (names, role))) == len(beyond.tablespaces)

    def _rights(self, place: Place, part: Part, role: str) -> tuple[Sequence[rights.Default], Sequence[rights.Right]]:
        """Those of the set, for the roles of `place.app`; roles that are no app's own get nothing."""
        said = part.details.get("rights")
        if said is None:  # made by an earlier version: apply gives them
            return (), ()
        try:
            assert isinstance(said, Mapping)
            return rights.read(said, self._renaming(place, part, role))
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise ArchiveError(
                f"the set does not say who may do what in it as multidb does: {error}",
                where=self._where,
                hint="take another set",
            ) from None

    def _renaming(self, place: Place, part: Part, role: str) -> Callable[[str], str | None]:
        """What a role of the app that the backup is of is called here; None where it is not there, or no app's own."""
        source, here = str(part.details["app"]), set(self._delegates.roles(place.app))
        ours = {name.name for name in derived_names(App(source, source, {}))}

        def renamed(name: str) -> str | None:
            if name == f"{source}_owner":
                return role
            other = place.app.id + name[len(source) :] if name in ours else ""
            return other if other in here else None

        return renamed

    def _settings(self, delegate: Delegate, place: Place, part: Part, progress: Progress) -> None:
        """The settings of the set's database and of the app's logins in it. Each login makes its own, so that it gets
        what it could give itself; for the database, the admin makes what everybody may set. What apply makes is left to
        it, and what cannot be made is said.
        """
        renamed, left = self._renaming(place, part, delegate.role), []
        with delegate.open(place.name) as wire:
            for login, entries in catalog_text.settings(part.details.get("settings", [])):
                role = renamed(login) if login is not None else None
                for entry in entries:
                    name = entry.partition("=")[0]
                    if role is not None and name in MANAGED_SETTINGS:
                        continue
                    if (login is None) is (role is None) and self._set(wire, place.name, role, entry):
                        continue
                    left.append(name if login is None else f"{name} of {login}")
        if left:
            progress(place.app.id, f"settings of the set that do not come back: {listed(left)}")

    def _set(self, wire: Wire, database: str, role: str | None, entry: str) -> bool:
        try:
            text = catalog_text.setting(database, role, entry)
        except ValueError:
            return False
        if role is not None:
            made = wire.send(f"SET ROLE {identifier(role)}; {text}").refusal is None
            self._do(wire, "RESET ROLE")
            return made
        if self._main.ask(_EVERYBODYS, (entry.partition("=")[0],)) != "t":
            return False
        return self._main.send(text).refusal is None

    def _give_rights(self, delegate: Delegate, place: Place, kept: Sequence[rights.Right]) -> None:
        if not kept:
            return
        asked = json.dumps([[each.type, each.names, each.args] for each in kept], ensure_ascii=False)
        with delegate.open(place.name) as wire:
            for step in (rights.owned, rights.given):
                there = rights.things(json.loads(wire.ask(rights.resolution(), (asked,))))
                pairs = [(right, thing) for right, thing in zip(kept, there, strict=True) if thing is not None]
                self._send(wire, [text for right, thing in pairs for text in step(right, thing)])
            for right, thing in pairs:
                for text, otherwise in rights.passed_on(right, thing):
                    # Who gave it may have lost its way to the thing since: the owner then gives the same.
                    if wire.send(text).refusal is not None:
                        self._do(wire, otherwise)

    def _inside(self, delegate: Delegate, place: Place, texts: Sequence[str]) -> None:
        if texts:
            with delegate.open(place.name) as wire:
                self._send(wire, texts)

    def _send(self, wire: Wire, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), _AT_ONCE):
            self._do(wire, ";\n".join(texts[start : start + _AT_ONCE]))

    def _nothing_of_others(self, found: frozenset[tuple[str, ...]]) -> None:
        """What was loaded belongs to the app, or it is not kept."""
        if found:
            kind, name, owner = min(found)[:3]
            raise ArchiveError(
                f"what was loaded made {kind} {name}, which belongs to {owner} and not to the app",
                where=self._where,
                hint="the set makes things in another name than the app's own: do not use it",
            )

    def _groundwork(
        self, admin: AdminInside, delegate: Delegate, place: Place, part: Part, progress: Progress
    ) -> frozenset[str]:
        """The set's extensions, made; the schemas that are there then."""
        if not _entries(part, "extensions"):
            return frozenset()
        ground = extensions.Ground(
            place,
            delegate.role,
            lambda path: self._as_the_role(delegate, place.name, path),
            lambda path: self._as_the_admin(place.name, path),
            lambda: self._extensions(place.app.id),
            self._renaming(place, part, delegate.role),
        )
        try:
            extensions.lay(ground, part, progress)
        except (ArchiveError, NotAllowed) as error:
            raise type(error)(error.message, where=error.where or self._where, hint=error.hint) from None
        with delegate.open(place.name) as wire:
            schemas = json.loads(wire.ask(contents.SCHEMAS, (delegate.role,)))
        if place.kind is not PlaceKind.LIVE:
            for name, is_the_apps, is_an_extensions in schemas:
                if not (is_the_apps or is_an_extensions):  # made by a script, for what an app puts there
                    admin.give_schema(delegate.role, name)
            # What a script sets for its database is in the set, or the app has taken it back.
            self._do(self._main, f"ALTER DATABASE {identifier(place.name)} RESET ALL")
        return frozenset(name for name, *_ in schemas)

    def _let_fill(
        self, admin: AdminInside, relation: configuration.Relation, delegate: Delegate, *, needed: bool
    ) -> bool:
        """Whether the delegate may write it now; the position of a sequence is not needed where no rows are."""
        try:
            admin.let_fill(relation, delegate.name)
        except NotAllowed:
            if needed:
                raise
            return False
        return True

    @contextlib.contextmanager
    def _as_the_role(self, delegate: Delegate, database: str, path: Sequence[str]) -> Iterator[Wire]:
        with delegate.open(database, path) as wire:
            self._do(wire, f"SET ROLE {identifier(delegate.role)}")
            yield wire

    @contextlib.contextmanager
    def _as_the_admin(self, database: str, path: Sequence[str]) -> Iterator[AdminInside]:
        with self._open(database, path) as wire:
            yield AdminInside(wire)

    def _configure(
        self,
        admin: AdminInside,
        delegate: Delegate,
        place: Place,
        part: Part,
        program: Program,
        dump: BinaryIO,
        listing: str,
    ) -> str:
        """Loads what the set's extensions keep of what is configured, before anything that may look there: by the
        delegate, which is let write these tables meanwhile. The table of contents without what is done with.

        Raises:
            ArchiveError: they do not take it.
            NotAllowed: there are rows, and the admin may not let anybody write them.
        """
        with delegate.open(place.name) as wire:
            there = configuration.read(wire.ask(configuration.RELATIONS, (delegate.role,)))
        found = configuration.entries(listing, there)
        empty = {
            each.name
            for each in found.values()
            if configuration.is_empty(part.measures.fingerprints.get(configuration.label(each.name)))
        }
        filled = {each.extension for each in found.values() if each.kind == "TABLE" and each.name not in empty}
        chosen: list[str] = []
        let: list[configuration.Relation] = []
        try:
            for line, each in found.items():
                if not each.fillable and each.name in empty:
                    continue
                if not each.fillable and not self._let_fill(admin, each, delegate, needed=each.extension in filled):
                    continue
                let += [] if each.fillable else [each]
                chosen.append(line)
            if chosen:
                address = self._address(program, delegate, place.name)
                target = loading.Target(program, address, None, delegate.password, self._server)
                step = loading.Step(chosen, in_order=True)
                timer = self._timer(delegate)
                loading.load(target, dump, step, timer=timer)
        except (ArchiveError, NotAllowed) as error:
            names = listed(sorted({each.extension for each in found.values()}))
            raise type(error)(
                f"what app {place.app.id} has configured of extensions ({names}) cannot be loaded: {error.message}",
                where=self._where,
                hint=error.hint or "take another set, or a server with the same versions of them",
            ) from None
        finally:
            for each in let:
                admin.keep_from(each, delegate.name)
        for each in found.values():
            if not each.readable:
                admin.let_read(each, delegate.role)
        return "\n".join(line for line in listing.split("\n") if line not in found)

    def _extensions(self, database: str) -> Sequence[str]:
        found = self._databases(database).get(database)
        if found is None or not found["open"]:
            return ()
        with self._open(database) as wire:
            return AdminInside(wire).extensions()

    def _policies(self, delegate: Delegate, place: Place, part: Part) -> None:
        """Row policies for roles by name, of the app's roles for those of the app that the backup is of. Making one may
        call what the app has made."""
        entries = _entries(part, "policies")
        if not entries:
            return
        source = str(part.details["app"])
        there = set(json.loads(self._ask(self._main, "SELECT json_agg(rolname) FROM pg_roles"))) | {"public"}
        ours = {name.name for name in derived_names(App(source, source, {}))}
        with delegate.open(place.name) as wire:
            self._do(wire, f"SET ROLE {identifier(delegate.role)}")
            for entry in entries:
                named = map(str, entry["roles"])
                roles = [place.app.id + name[len(source) :] if name in ours else name for name in named]
                known = [name for name in roles if name in there]
                try:  # a policy for nobody would be a policy for everybody
                    text = catalog_text.policy(entry, known or [delegate.role])
                except ValueError as error:
                    raise ArchiveError(str(error), where=self._where, hint="take another set") from None
                self._do(wire, text)

    # ------------------------------------------------------------------------------------------------------ replace

    def replace(self, new: Place, context: StoreContext) -> None:
        """Puts the new database in the place of the app's own, with its settings, privileges and limit.

        Its inside counts as unfinished until the next apply. Interrupted before the exchange, the app's database is
        shut at worst, which this or `multidb apply` mends; after it, only the old one is left to be dropped.

        Raises:
            Conflict: the app's database is not ours.
            Refused: something is bound to it (`require_unbound`); nothing was changed.
            ServerError: somebody cannot be kept out for long enough; nothing was changed.
        """
        live, old = new.app.id, new.app.id + OLD
        self.require_unbound(new.app, context)
        there = self._databases(live, new.name, old)
        if old in there:
            self.discard(Place(PlaceKind.SCRATCH, new.app, old))
        owner = Owner(context.project, new.app.id)
        texts = [f"ALTER DATABASE {identifier(new.name)} RENAME TO {identifier(live)}"]
        with self._open(new.name) as wire:
            inside = RESTORED if AdminInside(wire).has_rights() else UNFINISHED
        texts.append(f"COMMENT ON DATABASE {identifier(live)} IS {literal(mark(owner, inside))}")
        if live not in there:
            self._exchange([new.name], texts)
            return
        if not str(there[live]["mark"] or "").startswith(mark(owner, "")):
            raise Conflict(f"the database {live} is not ours", where=self._where, hint="multidb plan says whose it is")
        away = [
            f"ALTER DATABASE {identifier(live)} RENAME TO {identifier(old)}",
            f"COMMENT ON DATABASE {identifier(old)} IS {literal(place_mark(owner))}",
        ]
        likewise = self._likewise(live, there[live], there[new.name])
        self._do(self._main, f"ALTER DATABASE {identifier(live)} ALLOW_CONNECTIONS false")
        try:
            self._end_sessions([live, new.name])
            self._require_unbound_at_server(live)  # whoever was there until now may have made something
            self._exchange([live, new.name], [*away, *texts, *likewise])
        except BaseException:
            with contextlib.suppress(ServerError):
                self._do(self._main, f"ALTER DATABASE {identifier(live)} ALLOW_CONNECTIONS true")
            raise
        self._drop(old, self._databases(old)[old])

    def require_unbound(self, app: App, context: StoreContext) -> None:
        """Refuses what would be lost with the app's database, or would keep it.

        Raises:
            Refused: names it, with the statements that end it.
        """
        self._require_unbound_at_server(app.id)
        there = self._databases(app.id).get(app.id)
        if there is None or not there["open"]:  # shut: by an exchange that was interrupted, and had looked before
            return
        roles = self._delegates.roles(app)
        with self._open(app.id) as wire:
            found = AdminInside(wire).beyond(self._main.version, roles).bound
        if found:
            raise bound.refusal(found, app.id, self._where)

    def _require_unbound_at_server(self, database: str) -> None:
        found = list(bound.at_server(json.loads(self._main.ask(bound.AT_SERVER, (database,))), database))
        if found:
            raise bound.refusal(found, database, self._where)

    def _likewise(self, name: str, database: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
        """What makes a database treat its users as another one did, beside what is set for it already."""
        made = {(role, entry.partition("=")[0]) for role, entries in new["settings"] or () for entry in entries}
        texts = [f"ALTER DATABASE {identifier(name)} CONNECTION LIMIT {int(database['limit'])}"]
        texts += [catalog_text.privilege(name, grantee, right) for grantee, right in database["privileges"] or ()]
        for role, settings in database["settings"] or ():
            for entry in settings:
                if (role, entry.partition("=")[0]) in made:
                    continue
                try:
                    texts.append(catalog_text.setting(name, role, entry))
                except ValueError as error:
                    raise ArchiveError(
                        f"a setting of {role or 'everybody'} in {name} cannot be kept: {error}",
                        where=self._where,
                        hint="nothing was changed; ALTER ROLE .. IN DATABASE .. RESET ALL, then multidb apply",
                    ) from None
        return texts

    def _exchange(self, names: Sequence[str], texts: Sequence[str]) -> None:
        """The transaction, once no session is left in the databases."""
        for left in reversed(range(_ROUNDS)):
            self._end_sessions(names)
            answer = self._main.send("; ".join(["BEGIN", *texts, "COMMIT"]))
            if answer.refusal is None:
                return
            self._do(self._main, "ROLLBACK")
            if answer.refusal.sqlstate != _BUSY or not left:
                raise self._main.error(answer.refusal)
            time.sleep(0.1)

    def _end_sessions(self, names: Sequence[str]) -> None:
        within = ", ".join(map(literal, names))
        self._do(self._main, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ({within})")  # noqa: S608

    # ------------------------------------------------------------------------------------------------ single tables

    def find_tables(self, place: Place, names: Sequence[str]) -> Mapping[str, str]:
        with self._reading(place) as (_, wire):
            return archive_tables.find(wire, names)

    def replace_tables(self, new: Place, tables: Sequence[str], part: Part) -> None:
        """Every table with its rows, indexes, constraints, triggers, policies and the sequences that are its own.

        Raises:
            Refused: a view is made of one of them.
            ArchiveError: the app's database does not take them, or has no owner role.
        """
        live = Place(PlaceKind.LIVE, new.app, new.app.id)
        role, program = self._role(live), self._program("pg_dump")

        with (
            self._open(live.name) as inside,
            self._delegates.acting(new.app, role, [new.name, live.name], reads=True) as delegate,
            delegate.open(new.name) as source,
            delegate.open(live.name) as target,
        ):

            def script(patterns: Sequence[str], section: str) -> str:
                arguments = programs.tables_arguments(self._address(program, delegate, new.name), patterns, section)
                with programs.running(
                    program, arguments, delegate.password, self._where, timer=self._timer(delegate)
                ) as output:
                    return programs.statements_of(output.read().decode())

            self._do(source, *contents.READING)
            if hidden := json.loads(self._ask(source, contents.HIDDEN)):
                self._delegates.see_all(delegate, hidden)
            self._do(source, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            roles = [*self._delegates.roles(new.app), delegate.name]
            before = AdminInside(inside).of_others(roles)
            archive_tables.exchange(source, target, role, tables, script, part.measures)
            self._nothing_of_others(AdminInside(inside).of_others(roles) - before)

    # ------------------------------------------------------------------------------------------------------ scripts

    def run_script(self, app: App, text: str) -> None:
        """As the owner role, by a login made for it, with the settings that the app's own login has."""
        live = Place(PlaceKind.LIVE, app, app.id)
        role = self._role(live)
        with (
            self._delegates.acting(app, role, [live.name], reads=False) as delegate,
            delegate.open(live.name) as target,
        ):
            self._do(target, 'SET search_path = "$user", public')  # as a server has it where nobody says otherwise
            for name, value in json.loads(target.ask(contents.SETTINGS, (f"{app.id}_user",))):
                if name in _ENDING:
                    continue
                with contextlib.suppress(ServerError):  # one that only an admin may set
                    target.ask("SELECT set_config($1, $2, false)", (name, value))
            self._do(target, f"SET ROLE {identifier(role)}", "SET statement_timeout = 0")
            target.script(text)

    def _unfinished(self, database: str) -> None:
        """Lets the next apply look after everything inside."""
        found = str(self._databases(database)[database]["mark"] or "").split(" ")[0]
        self._do(self._main, f"COMMENT ON DATABASE {identifier(database)} IS {literal(f'{found} {UNFINISHED}')}")

    # -------------------------------------------------------------------------------------------------------- wires

    def _databases(self, *names: str) -> dict[str, Mapping[str, Any]]:
        known = {
            "provider": "d.datlocprovider" if self._major >= 15 else "'c'",
            "locale": "d.datlocale" if self._major >= 17 else "d.daticulocale" if self._major >= 15 else "NULL",
            "rules": "d.daticurules" if self._major >= 16 else "NULL",
            "version": "d.datcollversion" if self._major >= 15 else "NULL",
        }
        query = _DATABASES.format(**known)
        found: dict[str, Mapping[str, Any]] = json.loads(self._main.ask(query, (json.dumps(names),)))
        return found

    def _drop(self, name: str, database: Mapping[str, Any]) -> None:
        self._end_prepared(name, database)
        self._do(self._main, f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)")

    def _end_prepared(self, name: str, database: Mapping[str, Any]) -> None:
        """Prepared transactions keep a database, and only inside it can they be ended."""
        if not database["prepared"]:
            return
        self._do(self._main, f"ALTER DATABASE {identifier(name)} ALLOW_CONNECTIONS true")
        with self._open(name) as wire:
            for transaction in database["prepared"]:
                AdminInside(wire).roll_back(str(transaction))

    def _open(self, database: str = "", search_path: Sequence[str] = ()) -> Wire:
        """The admin's; with a search path for the scripts of extensions, in a place that is nobody's yet."""
        return Wire(
            self._server,
            self._password,
            self._application,
            Traffic(),
            database=database,
            search_path=search_path,
            fresh=bool(search_path),
            signs=self._signs.of_process,
        )

    def _address(self, program: Program, delegate: Delegate, database: str) -> str:
        return programs.address(program, delegate.server, database, self._main.version)

    def _program(self, name: str, dump: int = 0) -> Program:
        server = self._server
        tls = programs.needs_tls(server.endpoint)
        return programs.find(name, self._major, self._where, server.container, dump=dump, tls=tls)

    def _version(self) -> str:
        return self._ask(self._main, "SELECT current_setting('server_version')").split(" ")[0]

    def _ask(self, wire: Wire, query: str) -> str:
        return wire.ask(query, ())

    def _together(self, *texts: str) -> None:
        answer = self._main.send("; ".join(["BEGIN", *texts, "COMMIT"]))
        if answer.refusal is not None:
            self._do(self._main, "ROLLBACK")
            raise self._main.error(answer.refusal)

    def _do(self, wire: Wire, *texts: str) -> None:
        for text in texts:
            answer = wire.send(text)
            if answer.refusal is not None:
                raise wire.error(answer.refusal)


def _tablespace(database: Mapping[str, Any]) -> str:
    """What puts a database where another one is."""
    name = database["tablespace"]
    return f" TABLESPACE {identifier(name)}" if name != "pg_default" else ""


def _is_place(database: Mapping[str, Any], app: App) -> bool:
    """Whether it is a place of the app that multidb made, maybe half."""
    comment = database["mark"]
    if comment is None:
        return not database["open"]
    return str(comment).startswith(place_mark(Owner("", ""))[:-1]) and str(comment).endswith(f"/{app.id}")


def _spool(reader: ArchiveReader, dump: BinaryIO, app: App, progress: Progress) -> None:
    with reader.file(_FILE) as file:
        start = file.read(_CHUNK)
        if not start.startswith(_MAGIC):
            raise ArchiveError(f"{_FILE} is no dump of pg_dump")
        dump.write(start)
        while chunk := file.read(_CHUNK):
            dump.write(chunk)
            progress(app.id, "reading", float(dump.tell()))
    dump.flush()
    dump.seek(0)


def _entries(part: Part, name: str) -> Sequence[Any]:
    found = part.details[name]
    assert isinstance(found, list | tuple)
    return found
