"""A database elsewhere, loaded into a place of an app as a set is: by a login that may do no more than the app."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import BinaryIO, Final

from multidb.errors import ArchiveError, WrongVersion
from multidb.model import App, Place, Progress, StoreContext, Survey, listed
from multidb.provisioners.postgres.backup import contents, extensions, restore
from multidb.provisioners.postgres.backup.databases import Databases
from multidb.provisioners.postgres.backup.dump_file import PostgresDumpFile
from multidb.provisioners.postgres.backup.locales import COLLATIONS, Locale
from multidb.provisioners.postgres.backup.source import PostgresSource
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.provisioners.postgres.provision.roles import AppNames

__all__ = ["WHOLE", "bring_in", "load_file", "survey", "survey_of_file"]

# $1: names (JSON array).
_DEFAULTS: Final = """
SELECT coalesce(json_object_agg(name, default_version), '{}'::json) FROM pg_available_extensions
WHERE name::text IN (SELECT json_array_elements_text($1::json))"""

WHOLE: Final = "whole"  # the one part of an import: all of it

_APPLIES_AS_OWNER: Final = 160000  # the first whose subscriptions have run_as_owner


def survey_of_file(databases: Databases, app: App, context: StoreContext, source: PostgresDumpFile) -> Survey:
    """As `survey`, of a dump."""
    seen = source.survey(app, context)
    obstacles = list(seen.obstacles)
    if databases.major < source.major:
        obstacles.append(f"it is of Postgres {source.major}, and the app's server is {databases.major}: upgrade that")
    try:
        databases.program("pg_restore", source.dumped_by)
    except (ArchiveError, WrongVersion) as error:
        obstacles.append(error.sentence())
    entries, lacking = _in_version_of(databases, source)
    obstacles += [f"the server lacks extension {name}: install it on the server's machine" for name in lacking]
    _, against = extensions.prospect(databases.main.ask, extensions.read(entries), _given(databases, app), app.id)
    return replace(seen, obstacles=(*obstacles, *against))


def load_file(databases: Databases, place: Place, source: PostgresDumpFile, progress: Progress) -> None:
    """Loads a dump as it lies. Extensions are made in the version that the server has.

    Raises:
        As `restore.restore`.
    """
    entries, lacking = _in_version_of(databases, source)
    if lacking:
        raise ArchiveError(f"the server lacks {listed(lacking)}, which the dump needs", where=source.where)
    part = source.part(place.app, entries)
    part = replace(part, details={**part.details, "zone": _zone_here(databases, place.app)})
    with source.lying() as dump:
        restore.restore(databases, place, part, _NoReader(), progress, dump)


def _zone_here(databases: Databases, app: App) -> str:
    """The time zone that is set for the app here, since a dump does not say its own; empty: the server's."""
    database = home(app).database
    if not databases.find(database).get(database, {}).get("open"):
        return ""
    with databases.open(database) as connection:
        return connection.ask(contents.ZONE, (AppNames.of(app.id).user,))


class _NoReader:
    """An `ArchiveReader` of a dump that lies there already."""

    def names(self) -> Sequence[str]:
        return []

    def file(self, name: str) -> AbstractContextManager[BinaryIO]:
        raise ArchiveError(f"there is no {name}")


def _in_version_of(databases: Databases, source: PostgresDumpFile) -> tuple[list[list[str]], list[str]]:
    """The extensions of a dump, which says no versions, in those of this server; and what it lacks."""
    made = source.extensions()
    versions: dict[str, str] = json.loads(databases.main.ask(_DEFAULTS, (json.dumps([name for name, _ in made]),)))
    entries = [[name, versions[name], schema] for name, schema in made if name in versions]
    return entries, [name for name, _ in made if name not in versions]


def survey(databases: Databases, app: App, context: StoreContext, source: PostgresSource) -> Survey:
    """What the source says, and what this server has against it or keeps in another way."""
    seen = source.survey(app, context)
    losses, obstacles = list(seen.losses), list(seen.obstacles)
    if (place := home(app)).schema is not None:
        obstacles.append(
            f"app {app.id} has {place}, and what is imported is a whole database: import it into an app that has one, "
            "then move it with pg_dump and psql by multidb connect"
        )
    theirs, ours = Locale.read(source.overview()), _locale(databases, app, source)
    if ours != theirs:
        losses.append(f"text was kept with {theirs}, which this server does not have; here it is {ours}")
    if databases.major < source.major:
        obstacles.append(f"it is of Postgres {source.major}, and the app's server is {databases.major}: upgrade that")
    else:
        try:
            source.program(databases.major)
            databases.program("pg_restore")
        except (ArchiveError, WrongVersion) as error:
            obstacles.append(error.sentence())
    changed, against = extensions.prospect(
        databases.main.ask, extensions.read(source.extensions()), _given(databases, app), app.id
    )
    following = seen.following or "; ".join(following_here(databases))
    return replace(seen, losses=(*losses, *changed), obstacles=(*obstacles, *against), following=following)


def following_here(databases: Databases) -> Iterator[str]:
    """Why this server cannot follow another, each with the way on."""
    if databases.main.version < _APPLIES_AS_OWNER:
        yield (
            f"the app's server is Postgres {databases.major}, and before {_APPLIES_AS_OWNER // 10000} none writes what "
            "it follows as the owner of the table: upgrade it, or import without --live"
        )
    if databases.main.ask("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") != "t":
        yield "the admin of the app's server is no superuser, who makes the subscription: import without --live"


def bring_in(databases: Databases, place: Place, source: PostgresSource, progress: Progress, moment: str = "") -> None:
    """Dumps the source and loads that, as of one moment.

    Args:
        moment: as for `PostgresSource.dump`.

    Raises:
        As `restore.restore` and `PostgresSource.dump`.
    """
    locale = _locale(databases, place.app, source)
    with source.dump(place.app, databases.major, locale, progress, moment) as (part, reader):
        restore.restore(databases, place, part, reader, progress)


def _locale(databases: Databases, app: App, source: PostgresSource) -> Locale:
    """How text will be kept: as at the source where this server can, else in the same encoding."""
    theirs = Locale.read(source.overview())
    collations: list[str] = json.loads(databases.main.ask(COLLATIONS))
    if theirs.known_to(collations):
        return theirs
    live = databases.find(app.id).get(app.id)
    return theirs.like(Locale.read(live)) if live is not None else Locale(theirs.encoding, "C", "C")


def _given(databases: Databases, app: App) -> frozenset[str]:
    """The extensions that the manifest names for the app, or its database has."""
    options = app.stores.get(STORE)
    named = options.extensions if isinstance(options, AppOptions) else ()
    with databases.inside_live(app) as admin:
        return frozenset([*named, *(admin.extensions() if admin is not None else ())])
