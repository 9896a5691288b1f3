"""What to ask of the inside of a database that apps share, and how to read the answers as resources. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from multidb.errors import Refused
from multidb.model import App, Inspection, Owner, Resource, listed
from multidb.provisioners.postgres.provision import interior, reading
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.marks import parse_mark
from multidb.provisioners.postgres.provision.move_survey import placed
from multidb.provisioners.postgres.provision.options import EXTENSION_SCHEMA
from multidb.provisioners.postgres.provision.privileges import privileges_of
from multidb.provisioners.postgres.provision.resources import Interior, PostgresFacts, Reading
from multidb.provisioners.postgres.provision.roles import PEER, READS
from multidb.provisioners.postgres.provision.shared_resources import (
    VACANT,
    Schema,
    SharedAccess,
    SharedDatabase,
    SharedInterior,
    is_shared,
    unfinished_name,
)

__all__ = [
    "SHARED",
    "DesiredInside",
    "elsewhere",
    "inside",
    "shared_access",
    "shared_database",
]

Ask = Callable[..., str]

_RIGHTS: Final = """(SELECT json_agg(json_build_array(
      CASE x.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(x.grantee) END, x.privilege_type, x.is_grantable))
    FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x WHERE x.grantee <> n.nspowner)"""

# lo_creat, lo_create, lo_from_bytea: as in `interior.INTERIOR`.
SHARED: Final = f"""
SELECT json_build_object(
  'schemas', (SELECT json_object_agg(n.nspname, json_build_object(
      'owner', pg_get_userbyid(n.nspowner), 'mark', obj_description(n.oid, 'pg_namespace'), 'rights', {_RIGHTS}))
    FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'),
  'large_objects', (SELECT json_agg(json_build_array(p.proname,
      CASE x.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(x.grantee) END))
    FROM pg_proc p CROSS JOIN aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
    WHERE p.oid IN (957, 715, 3457) AND x.grantee <> p.proowner))"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class DesiredInside:
    """What is to be in a database that apps share."""

    shared: SharedInterior
    schemas: tuple[Schema, ...]
    interiors: tuple[Interior, ...]

    @classmethod
    def of(cls, database: str, desired: Iterable[Resource]) -> Self:
        """What of all that is desired is in this database."""
        resources = list(desired)
        return cls(
            next(one for one in resources if isinstance(one, SharedInterior) and one.name == database),
            tuple(one for one in resources if isinstance(one, Schema) and one.database == database),
            tuple(one for one in resources if isinstance(one, Interior) and one.database == database),
        )

    @property
    def apps(self) -> tuple[str, ...]:
        """The apps that it is about."""
        return tuple(one.app for one in self.schemas if one.app is not None)


def shared_database(
    row: Mapping[str, Any], desired: SharedDatabase, owners: Mapping[str, Owner | None]
) -> SharedDatabase | None:
    """The database by its row in the answer to `catalog.overview_query`; one that has not got its name yet, too. None:
    somebody else's database is called as one of ours would be for a moment.

    Args:
        owners: by role, whose it is.
    """
    if row["name"] == unfinished_name(desired.name):
        ours = not row["open"] and row["owner"] == desired.belongs_to
        return replace(desired, finished=False) if ours else None
    owner = parse_mark(row["mark"])[0] if is_shared(row["mark"]) else None
    project = desired.owner.project if desired.owner is not None else ""
    return SharedDatabase(
        name=row["name"],
        owner=owner,
        belongs_to=row["owner"],
        connection_limit=row["connection_limit"],
        template=row["template"],
        allow_connections=row["open"],
        vacant=row["mark"].endswith(f" {VACANT}") if owner is not None else False,
        strangers=frozenset(
            (who, right)
            for who, right in privileges_of(row["privileges"])
            if (whose := owners.get(who)) is None or whose.project != project
        ),
    )


def shared_access(row: Mapping[str, Any], project: str, owners: Mapping[str, Owner | None]) -> Iterator[SharedAccess]:
    """By app of the project, what its roles may do on the database."""
    held: dict[str, set[tuple[str, str]]] = {}
    for who, right in privileges_of(row["privileges"]):
        whose = owners.get(who)
        if whose is not None and whose.project == project:
            held.setdefault(whose.app, set()).add((who, right))
    for app, pairs in held.items():
        name = f"{app} in {row['name']}"
        yield SharedAccess(name=name, app=app, database=row["name"], privileges=frozenset(pairs))


def _shared_interior(answer: str, desired: SharedInterior) -> SharedInterior:
    """What is nobody's there, by the answer to `SHARED`."""
    document = json.loads(answer)
    schemas = document["schemas"] or {}
    extensions = schemas.get(EXTENSION_SCHEMA)
    public = schemas.get("public")
    return SharedInterior(
        name=desired.name,
        belongs_to=extensions["owner"] if extensions is not None else None,
        extensions=privileges_of(extensions["rights"]) if extensions is not None else frozenset(),
        public=privileges_of(public["rights"]) if public is not None else frozenset(),
        large_objects=None if desired.large_objects is None else frozenset(map(tuple, document["large_objects"] or ())),
    )


def _schemas(rows: Mapping[str, Any], desired: Iterable[Schema]) -> Iterator[Schema]:
    for schema in desired:
        if (row := rows.get(schema.schema)) is not None:
            owner, _ = parse_mark(row["mark"])
            yield replace(schema, app=owner.app if owner else None, owner=owner, belongs_to=row["owner"])


def _interior(ask: Ask, row: Mapping[str, Any], desired: Interior, roles: Collection[str]) -> Interior:
    owner, revision = parse_mark(row["mark"])
    revision = revision if owner is not None and owner.app == desired.app else ""
    query = interior.INTERIOR if revision else interior.INTERIOR_TO_TAKE_OVER
    live = interior.read_interior(ask(query, *interior.parameters(desired)), desired, revision)
    return _without_guests(live, roles)


def inside(desired: DesiredInside, readings: Sequence[Reading], roles: Collection[str], ask: Ask) -> Iterator[Resource]:
    """What is in a database that apps share.

    Args:
        readings: what is to be read of schemas there, by readers and by apps.
        roles: the roles with the project's mark.
        ask: answers a query there, with its parameters.
    """
    answer = ask(SHARED)
    rows: Mapping[str, Any] = json.loads(answer)["schemas"] or {}
    yield _shared_interior(answer, desired.shared)
    yield from _schemas(rows, desired.schemas)
    for part in desired.interiors:
        if (row := rows.get(part.schema or "")) is not None:
            yield _interior(ask, row, part, roles)
    there = [one for one in readings if one.schemas <= rows.keys()]
    if there:
        yield from reading.read_readings(ask(reading.READING, *reading.parameters(there)), there)


def apps_of(answer: str, project: str) -> dict[str, str]:
    """The schemas that apps of the project have, and whose each is, by the answer to `SHARED`."""
    schemas = {name: parse_mark(row["mark"])[0] for name, row in (json.loads(answer)["schemas"] or {}).items()}
    return {name: owner.app for name, owner in schemas.items() if owner is not None and owner.project == project}


def marked(answer: str, owner: Owner, database: str) -> list[str]:
    """The schemas that carry an app's mark, by the answer to `SHARED`.

    Raises:
        Refused: another app reads one of them.
    """
    names = []
    for name, row in (json.loads(answer)["schemas"] or {}).items():
        if parse_mark(row["mark"])[0] != owner:
            continue
        names.append(name)
        readers = sorted(who for who, _ in privileges_of(row["rights"]) if who.endswith(f"_{PEER}{owner.app}"))
        if readers:
            apps = listed([who.removesuffix(f"_{PEER}{owner.app}") for who in readers])
            raise Refused(
                f"{apps} may read schema {name} of {database}: take {owner.app} out of its reads first",
                where=f"app {owner.app}",
                hint=f"take {owner.app} out of its reads in the manifest, multidb apply, then run the command again",
            )
    return names


def _without_guests(interior: Interior, roles: Collection[str]) -> Interior:
    """The inside of a schema without what roles hold that a `Reading` describes: entering it, and no more.

    Args:
        roles: the roles with the project's mark.
    """
    app = interior.app or ""

    def is_guest(name: str) -> bool:
        return name in roles and (name.endswith(f"_{PEER}{app}") or name.startswith(f"{app}_{READS}"))

    kept = frozenset(pair for pair in interior.schema_privileges if not (pair[1] == "USAGE" and is_guest(pair[0])))
    return replace(interior, schema_privileges=kept)


def elsewhere(
    rows: Iterable[Mapping[str, Any]], inspection: Inspection, owners: Mapping[str, Owner | None]
) -> Iterator[tuple[App, App]]:
    """Apps whose data is elsewhere than where the manifest wants it, and that are not on their way: each as it is, and
    as the manifest has it.

    Args:
        rows: the databases in the answer to `catalog.overview_query`.
        owners: by role, whose it is.
    """
    context, facts = inspection.context, inspection.context.facts
    assert isinstance(facts, PostgresFacts)
    apps = {app.id: app for app in inspection.apps if app.id not in context.moving}
    schemas = {(one.owner, one.database): one.schema for one in facts.schemas}
    for row in rows:
        if is_shared(row["mark"]):
            owning = {owners.get(who) for who, _ in privileges_of(row["privileges"])}
            inside = {owner.app for owner in owning if owner is not None and owner.project == context.project}
            for app in (apps[app_id] for app_id in sorted(inside & apps.keys())):
                schema = schemas.get((Owner(context.project, app.id), row["name"]))
                if home(app).database != row["name"] and schema is not None:
                    yield placed(app, {"database": row["name"], "schema": schema}), app
            continue
        owner, _ = parse_mark(row["mark"])
        one = apps.get(owner.app) if owner is not None and owner.project == context.project else None
        if one is not None and home(one).schema is not None:
            yield placed(one, {"database": None, "schema": None}), one
