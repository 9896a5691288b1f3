"""A place that was loaded from a set of another kind than the app's place here: one of a whole database where the app
has a schema in one that apps share, or the other way.

It is made what a set of the app's own kind would have made of it, by renaming: what a server has parsed knows things by
their oids and follows. What is text does not, and is looked for before.
"""

from __future__ import annotations

import json
from typing import Any, Final

from multidb.errors import NotAllowed, Refused, ServerDown, ServerError, ServerSlow
from multidb.model import App, Owner, Part, Place, listed
from multidb.provisioners.postgres.backup.databases import Databases
from multidb.provisioners.postgres.backup.places import NEW, is_of_another_kind, parse_place_mark, place_mark
from multidb.provisioners.postgres.provision.admin_inside import AdminInside
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.mentions import mentions
from multidb.provisioners.postgres.provision.move_survey import Layout, renamed_schemas
from multidb.provisioners.postgres.provision.options import EXTENSION_SCHEMA, STORE, AppOptions
from multidb.provisioners.postgres.provision.quoting import identifier, literal

__all__ = [
    "bring_extensions",
    "into_database",
    "into_schema",
    "kept_extensions",
    "note",
    "of_another_kind",
    "require_possible",
]

_MOST: Final = 5  # things that a message names
_STANDARD: Final = "standard public schema"  # as a new database says of it


def of_another_kind(part: Part, app: App) -> bool:
    """Whether the set is of a whole database and the app has a schema in a shared one, or the other way."""
    return (part.details.get("schema") is None) is not (home(app).schema is None)


def kept_extensions(part: Part, app: App) -> list[Any]:
    """Those of a set of a schema that the app wants in a database of its own: the set names its neighbours' too."""
    entries = part.details["extensions"]
    names = AppOptions.of(app.stores[STORE]).extensions
    return [entry for entry in entries if entry[0] in names] if isinstance(entries, list | tuple) else []


def note(databases: Databases, place: Place) -> None:
    """Writes down on the place that what was loaded is of another kind."""
    there = databases.find(place.name)[place.name]
    owner = parse_place_mark(there["mark"]) or Owner("", place.app.id)
    comment = literal(place_mark(owner, another_kind=True))
    databases.main.execute(f"COMMENT ON DATABASE {identifier(place.name)} IS {comment}")


def require_possible(databases: Databases, app: App, *, accepted: bool) -> None:
    """Refuses what `into_schema` or `into_database` could not make of the app's new place, if there is one that was
    loaded from a set of another kind.

    Args:
        accepted: somebody has agreed to what would name a place that is no more.

    Raises:
        Refused: says what stands against it.
    """
    name = app.id + NEW
    there = databases.find(name).get(name)
    if there is None or not is_of_another_kind(there["mark"]):
        return
    shared = home(app).schema is not None
    with databases.open(name) as connection:
        admin = AdminInside(connection)
        layout = Layout.read(admin.layout())
        names = renamed_schemas(layout, home(app).schema or "public", shared=shared)
        empty = {one for one, filled in layout.schemas.items() if not filled}  # their extensions are elsewhere by now
        names |= empty - {EXTENSION_SCHEMA if shared else "public"}
        named = mentions(json.loads(admin.texts(names)), names) if names and not accepted else []
    obstacles = [*layout.obstacles()]
    if shared:
        with databases.inside_live(app) as live:
            known = set(live.extensions()) if live is not None else set()
        lacking = sorted(name for name, (_, _, used) in layout.extensions.items() if used and name not in known)
        if lacking:
            obstacles.append(f"extension {listed(lacking)} is needed: name it under {STORE}.extensions, multidb apply")
    if obstacles:
        raise Refused(
            f"the set is of an app with another kind of place, and does not fit {home(app)}: {'; '.join(obstacles)}",
            where=databases.where,
            hint="nothing was changed; restore it as an app whose entry says the same of database and schema as the "
            "app's did when the set was made",
        )
    if named:
        raise Refused(
            f"the set is of an app with another kind of place, and text in it names what is called otherwise in "
            f"{home(app)}: {listed(named, _MOST)}",
            where=databases.where,
            hint="nothing was changed; let the entry say what it said when the set was made, multidb move "
            f"{app.id}, restore it, and move the app back, which asks about such text",
        )


def bring_extensions(databases: Databases, place: Place) -> None:
    """Has the extensions of what was loaded where the app's own kind of place has them.

    Raises:
        Refused: one of them cannot come there. Nothing but the place was changed.
    """
    with databases.open(place.name) as connection:
        admin = AdminInside(connection)
        layout = Layout.read(admin.layout())
        shared = home(place.app).schema is not None
        schema = EXTENSION_SCHEMA if shared else layout.own  # which will be the database's public
        entries = layout.extensions.items()
        coming = [name for name, (there, movable, used) in entries if there != schema and (movable or used)]
        if coming and shared:
            admin.open_extension_schema()
        for name in coming:
            try:
                admin.move_extension(name, schema)
            except (ServerDown, ServerSlow):
                raise
            except ServerError as error:
                raise Refused(
                    f"extension {name} cannot come to where {home(place.app)} has its extensions: {error.message}",
                    where=databases.where,
                    hint="nothing was changed; "
                    + (
                        "use a superuser as the admin login"
                        if isinstance(error, NotAllowed)
                        else "rename what is in its way, or do without the extension"
                    )
                    + "; then run the command again",
                ) from None


def into_schema(databases: Databases, new: Place, schema: str, role: str) -> None:
    """Makes of a database's one schema the `schema` that comes into the shared database. What is done already is
    left."""
    _become(databases, new, schema, role)


def into_database(databases: Databases, new: Place, role: str) -> None:
    """Makes of the one schema that was loaded the database's ``public``. What is done already is left."""
    _become(databases, new, "public", role)


def _become(databases: Databases, new: Place, name: str, role: str) -> None:
    with databases.open(new.name) as connection:
        layout = Layout.read(AdminInside(connection).layout())
    own = layout.own
    kept = {own, *(schema for schema, *_ in layout.extensions.values())}
    texts = [f"DROP SCHEMA IF EXISTS {identifier(one)}" for one in layout.schemas if one not in kept]
    if own != name:
        texts.append(f"ALTER SCHEMA {identifier(own)} RENAME TO {identifier(name)}")
        texts += [f"COMMENT ON SCHEMA public IS {literal(_STANDARD)}"] if name == "public" else []
    if not texts:
        return
    with (
        databases.delegates.acting(new.app, role, [new.name], reads=False) as delegate,
        delegate.open(new.name) as as_the_app,
    ):
        as_the_app.execute(f"SET ROLE {identifier(role)}")
        as_the_app.transact(*texts)
