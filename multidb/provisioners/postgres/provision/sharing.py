"""What only a look at all apps of a manifest can tell of those that share a database. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from multidb.model import App, AppMode
from multidb.provisioners.postgres.backup.places import place_names
from multidb.provisioners.postgres.provision.databases import database_names, home
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.provisioners.postgres.provision.resources import RESERVED

__all__ = ["check", "own_options"]


def check(apps: Sequence[App]) -> Iterator[tuple[App, str]]:
    """See `Provisioner.check`. That schemas of one database have different names is known from their names."""
    by_id = {app.id: app for app in apps}
    taken = {name: app.id for app in apps for name in (app.id, *database_names(app))}
    for_a_while = {name: app.id for app in apps for name in place_names(app.id)}
    for app in apps:
        place = home(app)
        if place.schema is None:
            continue
        if (other := taken.get(place.database)) is not None:
            yield app, f"app {app.id}: database {place.database} is called as app {other} or its database; rename it"
        elif any(fnmatchcase(place.database, pattern) for pattern in RESERVED):
            yield app, f"app {app.id}: database {place.database} is the server's own, and no app's; rename it"
        elif (other := for_a_while.get(place.database)) is not None:
            made = f"one that a backup or a restore of {other} makes for a while"
            yield app, f"app {app.id}: database {place.database} is called as {made}; rename it"
        if app.mode(STORE) is not AppMode.AUTHORITATIVE:
            mode = app.mode(STORE)
            yield app, f"app {app.id}: mode {mode} is for a database of its own, and a shared one has many owners"
        yield from ((app, problem) for problem in _of_reads(app, by_id))


def own_options(options: Mapping[str, Any], app: str) -> dict[str, Any]:
    """See `Provisioner.own_options`: a schema in a shared database is called as the app then."""
    return {"schema": app} if options.get("schema") else {}


def _of_reads(app: App, by_id: Mapping[str, App]) -> Iterator[str]:
    for name in AppOptions.of(app.stores[STORE]).reads:
        other = by_id.get(name)
        if name == app.id:
            yield f"app {app.id}: it reads itself anyway; take it out of reads"
        elif other is None:
            yield f"app {app.id}: reads {name}, which is no app with a database here; take it out of reads"
        elif home(other).schema is None or home(other).database != home(app).database:
            database = home(app).database
            yield f"app {app.id}: reads {name}, which has no schema in database {database}; take it out of reads"
