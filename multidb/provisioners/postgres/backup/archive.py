"""An app's database as a dump, and back: `pg_dump` and `pg_restore` do the work, multidb looks after everything around.

Inside a database that an app owns, a login works that may do no more than the app (`delegate`). What the admin's login
sends to one is in `admin_inside.AdminInside`, and nothing else: decision 19 has the list, and why none of it can call
what an app has made.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from multidb.errors import ArchiveError, ServerError
from multidb.model import (
    App,
    ArchiveReader,
    ArchiveWriter,
    Checkpoint,
    ImportSource,
    Lag,
    Measures,
    Part,
    Place,
    PlaceKind,
    Progress,
    Server,
    StoreContext,
    Survey,
)
from multidb.provisioners.postgres.backup import (
    archive_tables,
    contents,
    conversions,
    derived,
    dump,
    following,
    importing,
    place_databases,
    place_schemas,
    programs,
    restore,
)
from multidb.provisioners.postgres.backup.databases import Databases
from multidb.provisioners.postgres.backup.delegate import zone_of
from multidb.provisioners.postgres.backup.dump import held, reading
from multidb.provisioners.postgres.backup.dump_file import PostgresDumpFile
from multidb.provisioners.postgres.backup.followed import FollowedPostgres
from multidb.provisioners.postgres.backup.source import PostgresSource
from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.provision.admin_inside import AdminInside
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.quoting import identifier
from multidb.provisioners.postgres.provision.roles import AppNames
from multidb.provisioners.postgres.provision.setting_values import members
from multidb.secrets import Secret

__all__ = ["PostgresArchive"]

# What would end a script that an operator has run at a time of the app's choice.
_ENDING = frozenset(
    {"statement_timeout", "transaction_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"}
)


class PostgresArchive:
    """The data of apps on one server, with the admin's login."""

    def __init__(self, server: Server, password: Secret | None, application_name: str) -> None:
        self._databases = Databases(server, password, application_name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._databases.close()

    def backup(self, app: App, context: StoreContext, writer: ArchiveWriter, progress: Progress) -> Part:
        return dump.backup(self._databases, app, writer, progress)

    def live(self, app: App, context: StoreContext) -> Place:
        return Place(PlaceKind.LIVE, app, home(app).database)

    def prepare(self, kind: PlaceKind, app: App, context: StoreContext) -> Place:
        if home(app).schema is not None:
            if kind is PlaceKind.NEW:  # said before hours of loading, too
                place_schemas.require_unbound(self._databases, app)
            place_schemas.discard(self._databases, app)
        return place_databases.prepare(self._databases, kind, app, context.project)

    def discard(self, place: Place) -> None:
        place_databases.discard(self._databases, place)
        if home(place.app).schema is not None:
            place_schemas.discard(self._databases, place.app)

    def leftovers(self, app: App, context: StoreContext) -> Sequence[Place]:
        left = place_databases.leftovers(self._databases, app)
        return [*left, *(place_schemas.leftovers(self._databases, app) if home(app).schema is not None else ())]

    def measure(self, place: Place) -> Measures:
        with reading(self._databases, place) as (_, connection):
            return contents.measures(connection.ask, held(self._databases, place, connection))

    def is_empty(self, place: Place) -> bool:
        """Whether nobody has made a table, a function, a type or a large object there."""
        role = self._databases.owner_of(place)
        with (
            self._databases.delegates.acting(place.app, role, [place.name], reads=True) as delegate,
            delegate.open(place.name) as connection,
        ):
            connection.execute(contents.only_schema(home(place.app).schema if place.kind is PlaceKind.LIVE else None))
            return connection.ask(contents.EMPTY) == "t"

    def restore(self, place: Place, part: Part, reader: ArchiveReader, progress: Progress) -> None:
        restore.restore(self._databases, place, part, reader, progress)

    def replace(self, new: Place, context: StoreContext) -> None:
        if home(new.app).schema is not None:
            place_schemas.replace(self._databases, new, context.project)
        else:
            place_databases.replace(self._databases, new, context.project)

    def survey(self, app: App, context: StoreContext, source: ImportSource) -> Survey:
        if isinstance(source, PostgresDumpFile):
            seen = importing.survey_of_file(self._databases, app, context, source)
        else:
            seen = importing.survey(self._databases, app, context, _own(source))
        if home(app).schema is None:
            return seen
        against = (
            f"app {app.id} has a schema in a database that apps share: let it have a database of its own, import into "
            f"that, then move it: multidb move {app.id}"
        )
        return replace(seen, obstacles=(*seen.obstacles, against))

    def bring_in(self, place: Place, source: ImportSource, done: Checkpoint, progress: Progress) -> None:
        if importing.WHOLE in done.done():
            return
        if isinstance(source, PostgresDumpFile):
            importing.load_file(self._databases, place, source, progress)
        else:
            importing.bring_in(self._databases, place, _own(source), progress)
        done.add(importing.WHOLE)

    def follow(self, place: Place, source: ImportSource, mark: str, progress: Progress) -> None:
        following.follow(self._databases, place, _followed(source), mark, progress)

    def catch_up(self, place: Place, source: ImportSource, mark: str, progress: Progress) -> None:
        """Nothing to do: places follow by themselves."""

    def lag(self, place: Place, source: ImportSource, mark: str) -> Lag:
        return following.lag(self._databases, _followed(source), mark)

    def drain(self, place: Place, source: ImportSource, mark: str, progress: Progress) -> None:
        following.drain(self._databases, place, _followed(source), mark, progress)

    def detach(self, place: Place, mark: str) -> None:
        self._databases.end_subscriptions(place.name)

    def require_unbound(self, app: App, context: StoreContext) -> None:
        if home(app).schema is not None:
            place_schemas.require_unbound(self._databases, app)
        else:
            place_databases.require_unbound(self._databases, app)
        conversions.require_possible(self._databases, app, accepted=app.id in context.moving)

    def find_tables(self, place: Place, names: Sequence[str]) -> Mapping[str, str]:
        with reading(self._databases, place) as (_, connection):
            return archive_tables.find(connection, names, home(place.app).schema or "public")

    def replace_tables(self, new: Place, tables: Sequence[str], part: Part) -> None:
        """Every table with its rows, indexes, constraints, triggers, policies and the sequences that are its own.

        Raises:
            Refused: a view is made of one of them.
            ArchiveError: the app's database does not take them, or has no owner role.
        """
        restore.require_same_kind(part, new.app, self._databases.where)
        databases, live = self._databases, Place(PlaceKind.LIVE, new.app, home(new.app).database)
        role, program = databases.owner_of(live), databases.program("pg_dump")

        with (
            databases.open(live.name) as inside,
            databases.delegates.acting(new.app, role, [new.name, live.name], reads=True) as delegate,
            delegate.open(new.name) as source,
            delegate.open(live.name) as target,
        ):

            def script(patterns: Sequence[str], section: str) -> str:
                arguments = programs.tables_arguments(databases.address(program, delegate, new.name), patterns, section)
                with programs.running(
                    program, arguments, delegate.password, databases.where, timer=databases.timer(delegate)
                ) as output:
                    return programs.statements_of(output.read().decode())

            source.execute(*contents.READING)
            target.execute(contents.only_schema(home(new.app).schema))
            if hidden := json.loads(source.ask(contents.HIDDEN)):
                databases.delegates.see_all(delegate, hidden)
            source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            roles = [*databases.delegates.neighbours(new.app), delegate.name]
            before = AdminInside(inside).of_others(roles)
            kept = restore.kept_rights(databases, new, part, role)
            login = AppNames.of(new.app.id).user
            zone = restore.zone_of_set(databases, part) or zone_of(target, login, delegate, live.name)
            surroundings = programs.Surroundings(zone, _path(target, login))
            own = {*databases.delegates.roles(new.app), role}
            expected = archive_tables.Expected(part.measures, kept, own, surroundings)
            archive_tables.exchange(source, target, role, tables, script, expected)
            restore.require_none_of_others(AdminInside(inside).of_others(roles) - before, databases.where)

    def run_script(self, app: App, text: str) -> None:
        """As the owner role, by a login made for it, with the settings that the app's own login has."""
        databases, live = self._databases, Place(PlaceKind.LIVE, app, home(app).database)
        role = databases.owner_of(live)
        with (
            databases.delegates.acting(app, role, [live.name], reads=False) as delegate,
            delegate.open(live.name) as target,
        ):
            _set_as_for(target, app)
            target.execute(f"SET ROLE {identifier(role)}", "SET statement_timeout = 0")
            target.script(text)
        with (
            databases.delegates.acting(app, role, [live.name], reads=True) as delegate,
            delegate.open(live.name, own_zone=True) as target,
        ):
            _set_as_for(target, app)
            target.execute("SET statement_timeout = 0")
            for name, cause in derived.refill(target).items():
                raise ArchiveError(
                    f"the materialized view {name} cannot be filled from what it has left: {cause}",
                    where=databases.where,
                )
            derived.analyze(target)


def _set_as_for(connection: Connection, app: App) -> None:
    """Gives a session the settings that one of the app's own login has."""
    connection.execute('SET search_path = "$user", public')  # as a server has it where nobody says otherwise
    for name, value in json.loads(connection.ask(contents.SETTINGS, (AppNames.of(app.id).user,))):
        if name in _ENDING:
            continue
        with contextlib.suppress(ServerError):  # one that only an admin may set
            connection.ask("SELECT set_config($1, $2, false)", (name, value))


def _path(connection: Connection, login: str) -> Sequence[str]:
    """Where the login looks names up in this database, if what keeps its rows may."""
    return members(connection.ask(contents.PATH, (login,))) if connection.ask(contents.CALLS) == "t" else ()


def _own(source: ImportSource) -> PostgresSource:
    assert isinstance(source, PostgresSource)
    return source


def _followed(source: ImportSource) -> FollowedPostgres:
    assert isinstance(source, FollowedPostgres)
    return source
