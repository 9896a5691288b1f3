"""An app's schema in a database that apps share, exchanged for one that was loaded beside it.

A set is loaded into a database of its own first, as any: nobody else is there, and it is compared there. From there the
schema comes into the shared database under another name, by a dump as ever, and is compared once more; then one
transaction of renames puts it in the place of the app's own. An interruption leaves the old schema or the new one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from typing import Any, Final

from multidb.errors import ArchiveError, Conflict, Refused
from multidb.model import App, Measures, Owner, Part, Place, PlaceKind, listed, unwatched
from multidb.provisioners.postgres.backup import contents, conversions, loading, programs, storage
from multidb.provisioners.postgres.backup.bound import Beyond
from multidb.provisioners.postgres.backup.databases import Databases
from multidb.provisioners.postgres.backup.delegate import Delegate
from multidb.provisioners.postgres.backup.dump import held
from multidb.provisioners.postgres.backup.place_databases import discard as discard_database
from multidb.provisioners.postgres.backup.places import NEW, OLD, is_of_another_kind, parse_place_mark, place_mark
from multidb.provisioners.postgres.backup.restore import Load, require_none_of_others
from multidb.provisioners.postgres.isolation import rights
from multidb.provisioners.postgres.provision.admin_inside import AdminInside
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.marks import RESTORED, mark, parse_mark
from multidb.provisioners.postgres.provision.options import EXTENSION_SCHEMA
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.roles import PEER, AppNames

__all__ = ["discard", "leftovers", "replace", "require_unbound"]

_MOST: Final = 5  # things that a message names
_CHUNK: Final = 1 << 20
_ABOUT_SCHEMA: Final = "COMMENT - SCHEMA "
# $1: a schema. Some of its tables, partitions before what they are of. Dropping one takes about eight locks, and a
# server has room for some thousands at once.
_SOME_TABLES: Final = """
SELECT coalesce(json_agg(name), '[]'::json) FROM (
  SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') ORDER BY c.relispartition DESC, c.oid DESC LIMIT 100) those"""


def require_unbound(databases: Databases, app: App) -> None:
    """Refuses what would be lost with the app's schema: what other apps have made of its tables, types and functions.

    Raises:
        Refused: names it.
    """
    place = home(app)
    with databases.inside_live(app) as admin:
        others = admin.made_of(place.schema or "") if admin is not None else []
    if others:
        named = listed([f"{other} (of {ours})" for other, ours in others], _MOST)
        raise Refused(
            f"{named} would not outlive the exchange of {place}",
            where=databases.where,
            hint=f"nothing was changed; let the app that has made it drop {others[0][0]}, then run the command again, "
            "and make it anew afterwards",
        )


def replace(databases: Databases, new: Place, project: str) -> None:
    """Puts the schema that was loaded into a new database in the place of the app's own.

    Raises:
        Conflict: the app's schema is not ours.
        Refused: `require_unbound`; nothing was changed.
        ArchiveError: what came into the shared database is not what was loaded. Nothing was changed.
    """
    app, place, owner = new.app, home(new.app), Owner(project, new.app.id)
    assert place.schema is not None
    coming, old = place.schema + NEW, place.schema + OLD
    require_unbound(databases, app)
    discard(databases, app)
    role = databases.owner_of(Place(PlaceKind.LIVE, app, place.database))
    with databases.open(place.database) as connection:
        admin = AdminInside(connection)
        there = json.loads(admin.schemas())["schemas"] or {}
        live = there.get(place.schema)
        if live is not None and parse_mark(live["mark"])[0] != owner:
            raise Conflict(f"{place} is not ours", where=databases.where, hint="multidb plan says whose it is")
        held = {grantee for grantee, *_ in live["rights"] or ()} if live is not None else set()
        readers = sorted(grantee for grantee in held if grantee.endswith(f"_{PEER}{app.id}"))
        if is_of_another_kind(databases.find(new.name)[new.name]["mark"]):
            conversions.into_schema(databases, new, coming, role)
        else:
            _rename(databases, new, role, coming)
        admin.make_schema(coming, role, place_mark(owner))
        before = admin.of_others(databases.delegates.neighbours(app))
        _bring(databases, new, place.database, coming, role, readers)
        require_none_of_others(admin.of_others(databases.delegates.neighbours(app)) - before, databases.where)
        databases.end_sessions_of(databases.delegates.roles(app))
        require_unbound(databases, app)  # whoever was there until now may have made something
        admin.exchange_schemas(place.schema, old, coming, (place_mark(owner), mark(owner, RESTORED)), readers)
    discard(databases, app)
    discard_database(databases, new)


def _bring(databases: Databases, new: Place, database: str, schema: str, role: str, readers: Sequence[str]) -> None:
    """Dumps what was loaded, and loads it into the schema of the shared database; compares the two.

    Args:
        readers: the roles by which other apps read.
    """
    live = Place(PlaceKind.LIVE, new.app, database)
    with (
        tempfile.TemporaryFile() as dump,
        databases.delegates.acting(new.app, role, [new.name, database], reads=True) as delegate,
        delegate.open(new.name) as source,
    ):
        source.execute(*contents.READING)
        if hidden := json.loads(source.ask(contents.HIDDEN)):
            databases.delegates.see_all(delegate, hidden)
        program = databases.program("pg_dump")
        encoding = databases.encoding_of(new.name)
        arguments = programs.schema_arguments(databases.address(program, delegate, new.name), schema, encoding)
        timer = databases.timer(delegate)
        with programs.running(program, arguments, delegate.password, databases.where, timer=timer) as output:
            while chunk := output.read(_CHUNK):
                dump.write(chunk)
                timer.moved()
        dump.flush()
        # Of all things, also those that have what their owner gives by default: by default it may give something else
        # in the shared database.
        given = json.loads(source.ask(rights.query(literal(identifier(delegate.name)))))
        with delegate.open(database) as shared:
            login = AppNames.of(new.app.id).user
            details = {
                "policies": (),
                "storage": storage.find(source.ask, databases.main.version),
                "zone": shared.ask(contents.ZONE, (login,)),
                "path": f"{identifier(schema)}, {EXTENSION_SCHEMA}" if source.ask(contents.CALLS) == "t" else None,
            }
        part = Part("", "", "", True, Measures(), details)
        restoring = databases.program("pg_restore", program.major)
        listing = loading.contents_of(restoring, dump, databases.where, encoding)
        lines = [line for line in listing.split("\n") if _ABOUT_SCHEMA not in line]
        load = Load(databases, live, part, role, {}, unwatched, restoring, dump)
        # What the app keeps from its owner by default has to be filled all the same.
        load.run(delegate, _owning(schema, role, "GRANT", "TO"))
        load.load_dump(delegate, "\n".join(lines), frozenset({schema}), Beyond())
        load.run(delegate, _owning(schema, role, "REVOKE", "FROM"))
        document = rights.of_schema(given, schema, databases.delegates.roles(new.app))
        defaults, kept = rights.read(document, lambda name: name)
        load.give_rights(delegate, [right for right in kept if right.type != "schema"])
        here, there = (_measured(databases, delegate, place, schema) for place in (live, new))
        _compare(here, there, databases.where)
        load.run(delegate, [*rights.defaults(defaults, everywhere=True), *rights.defaults(defaults, everywhere=False)])
        _let_read(load, delegate, schema, readers)


def _owning(schema: str, role: str, gives: str, whom: str) -> list[str]:
    """The statements by which the owner has, or has not, all rights on what it makes in the schema by default."""
    name, owner = identifier(schema), identifier(role)
    start = f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {name} {gives} ALL ON"
    return [f"{start} {kind} {whom} {owner}" for kind in ("TABLES", "SEQUENCES", "FUNCTIONS", "TYPES")]


def _let_read(load: Load, delegate: Delegate, schema: str, readers: Sequence[str]) -> None:
    """Other apps that read go on reading, without an apply of theirs."""
    name, role = identifier(schema), identifier(load.role)
    later = f"ALTER DEFAULT PRIVILEGES FOR ROLE {role} IN SCHEMA {name}"
    texts = [f"SET ROLE {role}"]
    for reader in map(identifier, readers):
        texts += [f"GRANT SELECT ON ALL TABLES IN SCHEMA {name} TO {reader}"]
        texts += [f"{later} GRANT SELECT ON TABLES TO {reader}"]
    load.run(delegate, texts)


def _rename(databases: Databases, new: Place, role: str, schema: str) -> None:
    """Gives the one schema that was loaded the name that it has to come in by."""
    with (
        databases.delegates.acting(new.app, role, [new.name], reads=False) as delegate,
        delegate.open(new.name) as source,
    ):
        names: list[list[Any]] = json.loads(source.ask(contents.SCHEMAS, (role,)))
        loaded = [name for name, _, is_an_extensions in names if not is_an_extensions and name != EXTENSION_SCHEMA]
        if len(loaded) != 1:
            raise ArchiveError(
                f"the set has {listed(loaded) or 'no schema'}, and not one schema", hint="take another set"
            )
        if loaded != [schema]:
            source.execute(
                f"SET ROLE {identifier(role)}",
                f"ALTER SCHEMA {identifier(loaded[0])} RENAME TO {identifier(schema)}",
            )


def _measured(databases: Databases, delegate: Delegate, place: Place, schema: str) -> Measures:
    with delegate.open(place.name) as connection:
        connection.execute(*contents.READING, contents.only_schema(schema))
        if hidden := json.loads(connection.ask(contents.HIDDEN)):
            databases.delegates.see_all(delegate, hidden)
        connection.execute(contents.STATEMENT_LIMIT, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return contents.measures(connection.ask, held(databases, place, connection))


def _compare(here: Measures, there: Measures, where: str) -> None:
    differing = sorted(
        name
        for one, other in ((here.counts, there.counts), (here.fingerprints, there.fingerprints))
        for name in {*one, *other}
        if one.get(name) != other.get(name)
    )
    if differing:
        raise ArchiveError(
            f"what came into the shared database is not what was loaded: {listed(differing, _MOST)}",
            where=where,
            hint="nothing was changed; look into what the app's functions do in a load, or take another set",
        )


def leftovers(databases: Databases, app: App) -> list[Place]:
    """Schemas that an earlier run has left in the shared database."""
    return [Place(PlaceKind.SCRATCH, app, app.id + NEW) for _ in _left(databases, app)[:1]]


def discard(databases: Databases, app: App) -> None:
    """Drops what an earlier run has left in the shared database: as the app's own owner role, which owns it.

    Raises:
        Refused: another app has made something of it.
    """
    place = home(app)
    for schema in _left(databases, app):
        with databases.open(place.database) as connection:
            admin = AdminInside(connection)
            if others := admin.made_of(schema):
                raise Refused(
                    f"{others[0][0]} is made of {others[0][1]}, which is to go",
                    where=databases.where,
                    hint="let the app that has made it drop it, then run the command again",
                )
            role = databases.owner_of(Place(PlaceKind.LIVE, app, place.database))
            admin.hand_over_schema(schema, role, place.database)
        with (
            databases.delegates.acting(app, role, [place.database], reads=False) as delegate,
            delegate.open(place.database) as connection,
        ):
            connection.execute(f"SET ROLE {identifier(role)}")
            while tables := json.loads(connection.ask(_SOME_TABLES, (schema,))):
                connection.execute(f"DROP TABLE {', '.join(tables)} CASCADE")
            connection.execute(f"DROP SCHEMA {identifier(schema)} CASCADE")


def _left(databases: Databases, app: App) -> list[str]:
    place = home(app)
    with databases.inside_live(app) as admin:
        there = json.loads(admin.schemas())["schemas"] or {} if admin is not None else {}
    names = (f"{place.schema}{NEW}", f"{place.schema}{OLD}")
    return [
        name
        for name in names
        if name in there and (owner := parse_place_mark(there[name]["mark"])) is not None and owner.app == app.id
    ]
