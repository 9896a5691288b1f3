"""A database elsewhere, loaded into a place of an app as a set is: by a login that may do no more than the app."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from multidb.errors import ArchiveError, WrongVersion
from multidb.model import App, Place, Progress, StoreContext, Survey
from multidb.provisioners.postgres.backup import extensions, restore
from multidb.provisioners.postgres.backup.databases import Databases
from multidb.provisioners.postgres.backup.locales import COLLATIONS, Locale
from multidb.provisioners.postgres.backup.source import PostgresSource
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.options import STORE, AppOptions

__all__ = ["WHOLE", "bring_in", "survey"]

WHOLE: Final = "whole"  # the one part of an import: all of it

_APPLIES_AS_OWNER: Final = 160000  # the first whose subscriptions have run_as_owner


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
