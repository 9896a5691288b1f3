"""An app's database, read by a login that may do no more than the app: the dump of `pg_dump`, and measures by which a
restore is compared.

In a backup, one transaction holds a snapshot. Both are of that snapshot, the measures being taken by the server while
the dump is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import IO, Any, Final

from multidb.errors import ArchiveError, ServerDown, ServerError, ServerSlow
from multidb.model import App, ArchiveWriter, Measures, Part, Place, PlaceKind, Progress, counted, listed
from multidb.provisioners.postgres.backup import bound, configuration, contents, programs, storage
from multidb.provisioners.postgres.backup.databases import Databases
from multidb.provisioners.postgres.backup.delegate import Delegate, zone_of
from multidb.provisioners.postgres.backup.locales import Locale
from multidb.provisioners.postgres.backup.places import NEW, OLD
from multidb.provisioners.postgres.backup.programs import Program
from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.isolation import rights
from multidb.provisioners.postgres.provision.databases import Home, home
from multidb.provisioners.postgres.provision.marks import parse_mark
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.roles import AppNames
from multidb.provisioners.postgres.provision.script import printable

__all__ = ["LOOK_INTERVAL", "FILE", "backup", "held", "reading"]

FILE: Final = "dump.pgc"
_FORMAT = "pg_dump custom 1"
_CHUNK = 1 << 20
_SINGLE = frozenset({"pg_cron"})  # extensions that a server makes in the one database that its settings name
LOOK_INTERVAL = 5.0  # seconds without a byte of pg_dump, after which it is looked whether somebody keeps it waiting

# $1: a login. Whether a session of it waits for a lock.
_WAITS = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = $1 AND cardinality(pg_blocking_pids(pid)) > 0)"""
_LOCKED = "55P03"
_ANOTHER = frozenset({"42P01", "3F000", "42809"})  # there is no such table or schema, or it is no table

# $1: a database. Who holds something in it against everybody: process and login, or none and a prepared transaction.
_HOLDERS = """
SELECT coalesce(json_agg(DISTINCT jsonb_build_array(a.pid, coalesce(a.usename::text, p.gid))), '[]'::json)
FROM pg_locks l JOIN pg_database d ON d.oid = l.database LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_locks own ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
  AND own.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts p ON p.transaction = own.transactionid
WHERE d.datname = $1 AND l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted
  AND (a.usename IS NOT NULL OR p.gid IS NOT NULL)"""


def backup(databases: Databases, app: App, writer: ArchiveWriter, progress: Progress) -> Part:
    """Writes the dump. Everything in it, and the measures, are of one moment.

    Raises:
        ArchiveError: no pg_dump here fits the server, or it failed; somebody else's things are in the database.
        ServerSlow: the app holds a table for longer than a minute.
    """
    app = _as_there(databases, app)
    program, where = databases.program("pg_dump"), home(app)
    live = Place(PlaceKind.LIVE, app, where.database)
    with reading(databases, live) as (delegate, connection), ThreadPoolExecutor(1) as beside:
        snapshot = connection.ask("SELECT pg_export_snapshot()")
        if where.schema is not None:
            _require_whole(connection, where, databases.where)
        details = _details(databases, app, program, delegate, connection)
        left_out = [pattern for pattern, *_ in _kept_back(app, connection, progress)] if where.schema is None else []
        tables = held(databases, live, connection)
        details["storage"] = storage.find(connection.ask, databases.main.version)
        if left := json.loads(connection.ask(contents.INVALID)):
            progress(app.id, f"indexes that are not valid, and so not in the set: {listed(left)}")
        measuring = beside.submit(contents.measures, connection.ask, tables)
        try:
            with writer.file(FILE) as file:
                address = databases.address(program, delegate, live.name)
                encoding = details["locale"]["encoding"]
                arguments = programs.dump_arguments(address, snapshot, encoding, left_out, where.schema)
                with programs.running(program, arguments, delegate.password, databases.where) as output:
                    written = 0
                    for chunk in _flow(databases, output, delegate, live.name):
                        file.write(chunk)
                        written += len(chunk)
                        progress(app.id, "dumping", float(written))
                if not written:
                    raise ArchiveError("pg_dump wrote nothing", where=databases.where)
            measured = measuring.result()
        except BaseException:
            if (first := _given_up(databases, measuring, connection)) is not None:
                raise first from None
            raise
    version = databases.main.ask("SELECT current_setting('server_version')").split(" ")[0]
    return Part(
        format=_FORMAT,
        server=f"PostgreSQL {version}",
        client=f"pg_dump {program.version}",
        consistent=True,
        measures=measured,
        details=details,
    )


def _details(
    databases: Databases, app: App, program: Program, delegate: Delegate, connection: Connection
) -> dict[str, Any]:
    """What a restore has to know beside the dump, read in the transaction of the snapshot."""
    place, roles, login = home(app), databases.delegates.roles(app), AppNames.of(app.id).user
    database = databases.find(place.database)[place.database]
    document = json.loads(connection.ask(bound.inside(databases.main.version, roles)))
    extensions = json.loads(connection.ask(contents.EXTENSIONS))
    given = json.loads(connection.ask(rights.query(literal(identifier(delegate.role)))))
    settings = json.loads(connection.ask(contents.STORED_SETTINGS))
    everywhere = json.loads(connection.ask(contents.STORED_EVERYWHERE, (json.dumps(roles),)))
    if place.schema is not None:
        document, given = bound.of_schema(document, place.schema), rights.of_schema(given, place.schema, roles)
        settings = everywhere = []  # those of its logins stay as they are: no exchange of a schema touches them
    beyond = bound.beyond(document)
    notes = [*beyond.notes, *_extension_notes(extensions, given["members"], roles)]
    if place.schema is None and (strangers := rights.strangers(given, roles)):
        notes.append(
            f"rights of {listed(strangers, 10)} in it do not come back, who are none of the app's logins: whoever gave "
            "them gives them again"
        )
    if not databases.has_room(beyond.tablespaces, delegate.role):
        names = ", ".join(map(identifier, beyond.tablespaces))
        notes.append(
            f"a restore puts all tables and indexes into the database's own tablespace, unless {delegate.role} may use "
            f"the others: GRANT CREATE ON TABLESPACE {printable(names)} TO {identifier(delegate.role)}"
        )
    return {
        "app": app.id,
        "postgres": databases.major,
        "dump": program.major,
        "extensions": extensions,
        "extension_comments": json.loads(connection.ask(contents.EXTENSION_COMMENTS)),
        "policies": json.loads(connection.ask(contents.POLICIES)),
        "rights": given,
        "locale": Locale.read(database).document(),
        "settings": settings,
        "settings_everywhere": everywhere,
        "zone": _zone(databases, place.database, delegate, connection, login),
        "path": connection.ask(contents.PATH, (login,)) if connection.ask(contents.CALLS) == "t" else None,
        "schema": place.schema,
        "beyond": document,
        "notes": notes,
    }


def _zone(databases: Databases, database: str, delegate: Delegate, connection: Connection, login: str) -> str:
    """The time zone in which the app works; empty on a copy of its server, which may have another one, where it is the
    server's."""
    if databases.server.scratch:
        return connection.ask(contents.ZONE, (login,))
    return zone_of(connection, login, delegate, database)


def _as_there(databases: Databases, app: App) -> App:
    """The app with the schema that it has there: on a copy of a server as of a moment it may have had another name, as
    the app itself. `ArchiveError` where it has none."""
    place = home(app)
    with databases.inside_live(app) as admin:
        there = (json.loads(admin.schemas())["schemas"] or {}) if place.schema is not None and admin is not None else {}
    if place.schema is None or place.schema in there:
        return app
    owners = {name: parse_mark(schema["mark"])[0] for name, schema in there.items() if not name.endswith((NEW, OLD))}
    own = [name for name, owner in owners.items() if owner is not None and owner.app == app.id]
    options = app.stores[STORE]
    if databases.server.scratch and len(own) == 1 and isinstance(options, AppOptions):
        return replace(app, stores={**app.stores, STORE: options.model_copy(update={"schema_name": own[0]})})
    raise ArchiveError(
        f"app {app.id} has no schema {place.schema} in database {place.database}"
        + (" at that moment" if databases.server.scratch else ""),
        where=databases.where,
        hint="take a later moment" if databases.server.scratch else "multidb apply makes it",
    )


def _require_whole(connection: Connection, place: Home, where: str) -> None:
    """`ArchiveError` where the app has what no set of its schema alone has, or could be loaded without."""
    if (count := int(connection.ask(contents.BESIDE_SCHEMA))) > 0:
        raise ArchiveError(
            f"the app has {counted(count, 'large object')}, and a set of a schema has none",
            where=where,
            hint=f"let the app keep them in columns (bytea) and drop them, in database {place.database}: "
            "SELECT lo_unlink(oid) ..; then run the command again",
        )
    if outward := json.loads(connection.ask(contents.OUTWARD, (place.schema or "",))):
        named = listed([f"{ours} is made of {other}" for ours, other in outward], 5)
        raise ArchiveError(
            f"what is made of another app's schema is in no set, and nothing can be loaded that needs it: {named}",
            where=where,
            hint=f"let the app drop {outward[0][0]} and read the other's tables by queries instead; then run the "
            "command again",
        )


def _extension_notes(extensions: Sequence[Sequence[str]], given: Sequence[Any], roles: Sequence[str]) -> Iterator[str]:
    for name, *_ in extensions:
        if name in _SINGLE:
            yield (
                f"it cannot be loaded beside the app's database, and so not be verified: the server makes extension "
                f"{name} in one database only"
            )
    members = rights.members(given, lambda role: role if role in roles else None)
    names = [".".join(member.names) for member in members if member.given and not member.owner]
    if names:
        yield (
            f"rights on {listed(names, 10)}, which extensions have, come back where the app's database has them still, "
            "or everybody has; otherwise an admin gives them"
        )


def _kept_back(app: App, connection: Connection, progress: Progress) -> Sequence[Sequence[str]]:
    """What extensions keep from the app by row security, which is in no set; said."""
    rows: list[list[str]] = json.loads(connection.ask(configuration.KEPT_BACK))
    for _, extension, name in rows:
        progress(app.id, f"rows of {name} are not in the set: extension {extension} shows an app some of them only")
    return rows


def _flow(databases: Databases, output: IO[bytes], delegate: Delegate, database: str) -> Iterator[bytes]:
    """What pg_dump writes. Not only tables can be held against it, and for the rest it would wait without end.

    Raises:
        ServerSlow: the app holds something for longer than a minute, or there is no progress.
    """
    timer = databases.timer(delegate)
    waited = 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            if selector.select(min(LOOK_INTERVAL, timer.pause)):
                waited = 0.0
                if not (chunk := os.read(output.fileno(), _CHUNK)):
                    return
                yield chunk
                timer.moved()
            elif timer.expired():
                raise timer.error(databases.server)
            elif databases.main.ask(_WAITS, (delegate.name,)) != "t":
                waited = 0.0
            elif (waited := waited + min(LOOK_INTERVAL, timer.pause)) >= contents.LOCK_TIMEOUT:
                raise _held_against(databases, database)


def _given_up(databases: Databases, measuring: Future[Measures], connection: Connection) -> BaseException | None:
    """Ends what the connection measures, so that nobody waits for it. Why it has failed by itself, if it has: a
    session that ended took the snapshot with it, of which pg_dump then knows nothing."""
    ended = measuring.done()
    if not ended:
        with contextlib.suppress(ServerError):
            databases.main.send(f"SELECT pg_cancel_backend({connection.process})", timeout=databases.server.timeout)
    failure = measuring.exception()
    return failure if ended or isinstance(failure, ServerDown) else None


@contextlib.contextmanager
def reading(databases: Databases, place: Place) -> Iterator[tuple[Delegate, Connection]]:
    """A connection that reads all of the app's and nothing else, in a read-only transaction.

    Raises:
        ArchiveError: the app's database is not there, or has things of others in it.
        NotAllowed: row security hides rows, and the admin cannot have that lifted.
    """
    role = databases.owner_of(place)
    with (
        databases.delegates.acting(place.app, role, [place.name], reads=True) as delegate,
        delegate.open(place.name) as connection,
    ):
        only = home(place.app).schema if place.kind is PlaceKind.LIVE else None
        connection.execute(*contents.READING, contents.only_schema(only))
        if others := json.loads(connection.ask(contents.UNREADABLE)):
            raise _not_the_apps(others, role, databases.where)
        if hidden := json.loads(connection.ask(contents.HIDDEN)):
            databases.delegates.see_all(delegate, hidden)
        connection.execute(contents.STATEMENT_LIMIT, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield delegate, connection


def _not_the_apps(others: Sequence[Sequence[str | None]], role: str, where: str) -> ArchiveError:
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
            where=where,
            hint=f"let the app read it, in its database: {printable('; '.join(grants))}; then run the command again",
        )
    giving = printable(f"ALTER {str(kind).upper()} {name} OWNER TO {identifier(role)}")
    return ArchiveError(
        f"in the app's database there is what the app may not read: {listed(named)}",
        where=where,
        hint=f"in its database, {giving} gives it to the app; or take it away; then run the command again",
    )


def held(databases: Databases, place: Place, connection: Connection) -> contents.Contents:
    """What there is to measure, its tables locked.

    Raises:
        ServerSlow: the app holds one of them for longer than a minute.
    """
    inventory = contents.read(connection.ask, configuration_too=home(place.app).schema is None)
    for text in contents.locks(inventory.tables):
        answer = connection.send(text)
        if answer.refusal is not None and answer.refusal.sqlstate == _LOCKED:
            raise _held_against(databases, place.name)
        if answer.refusal is not None and answer.refusal.sqlstate in _ANOTHER:
            raise ArchiveError(
                f"the app changes its tables at this moment: {answer.refusal.message}",
                where=databases.where,
                hint="run the command again",
            )
        if answer.refusal is not None:
            raise connection.error(answer.refusal)
    contents.look_again(connection.ask, inventory.tables)
    return inventory


def _held_against(databases: Databases, database: str) -> ServerSlow:
    """The error for what somebody holds in a database, with who it is and the statement that ends it."""
    holders = json.loads(databases.main.ask(_HOLDERS, (database,)))
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
        where=databases.where,
        hint=hint,
    )
