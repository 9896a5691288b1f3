"""What stands against an app's move between a database of its own and a schema, and what would be otherwise afterwards.
Pure: queries, and answers to sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from multidb.errors import ServerError
from multidb.model import App, AppMode, Move, counted, listed
from multidb.provisioners.postgres.backup.contents import INWARD
from multidb.provisioners.postgres.provision.databases import Home, home
from multidb.provisioners.postgres.provision.mentions import TEXTS, mentions, pattern
from multidb.provisioners.postgres.provision.options import EXTENSION_SCHEMA, STORE, AppOptions
from multidb.provisioners.postgres.provision.resources import MANAGED_SETTINGS, SEARCH_PATH
from multidb.provisioners.postgres.provision.roles import PEER, AppNames

__all__ = [
    "LAYOUT",
    "Layout",
    "left_schema",
    "naming",
    "place_options",
    "placed",
    "renamed_schemas",
    "survey",
    "unseen",
    "unsurveyed",
]

_MOST: Final = 5  # things that a sentence names
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# $1: the app's schema; empty: all of the database is the app's. Schemas with whether there is anything in them that no
# extension has brought; extensions, and those that something of the app's is made of; what is in no schema; sizes.
LAYOUT: Final = """
WITH member AS MATERIALIZED (SELECT classid, objid, refobjid FROM pg_depend WHERE deptype = 'e' AND refclassid = 3079),
schema AS MATERIALIZED (
  SELECT oid, nspname FROM pg_namespace n
  WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND $1 IN ('', n.nspname::text)
    AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 2615 AND m.objid = n.oid)),
thing AS MATERIALIZED (
  SELECT t.class, t.oid, t.schema FROM (
    SELECT 1259 AS class, oid, relnamespace AS schema FROM pg_class WHERE relkind <> 't'
    UNION ALL SELECT 1247, oid, typnamespace FROM pg_type
    UNION ALL SELECT 1255, oid, pronamespace FROM pg_proc
    UNION ALL SELECT 2617, oid, oprnamespace FROM pg_operator
    UNION ALL SELECT 2616, oid, opcnamespace FROM pg_opclass
    UNION ALL SELECT 2753, oid, opfnamespace FROM pg_opfamily
    UNION ALL SELECT 3456, oid, collnamespace FROM pg_collation
    UNION ALL SELECT 2607, oid, connamespace FROM pg_conversion
    UNION ALL SELECT 3602, oid, cfgnamespace FROM pg_ts_config
    UNION ALL SELECT 3600, oid, dictnamespace FROM pg_ts_dict
    UNION ALL SELECT 3601, oid, prsnamespace FROM pg_ts_parser
    UNION ALL SELECT 3764, oid, tmplnamespace FROM pg_ts_template
    UNION ALL SELECT 3381, oid, stxnamespace FROM pg_statistic_ext) t
  WHERE t.oid >= 16384 AND t.schema IN (SELECT oid FROM schema)
    AND NOT EXISTS (SELECT FROM member m WHERE m.classid = t.class AND m.objid = t.oid)),
-- a type of an extension's brings an array type that is no member
own AS MATERIALIZED (
  SELECT t.* FROM thing t WHERE NOT (t.class = 1247 AND EXISTS (
    SELECT FROM pg_type a JOIN member m ON m.classid = 1247 AND m.objid = a.typelem
    WHERE a.oid = t.oid AND a.typelem <> 0 AND a.typlen = -1))),
part AS (
  SELECT class, oid FROM own
  UNION ALL SELECT 2618, w.oid FROM pg_rewrite w JOIN own o ON o.class = 1259 AND o.oid = w.ev_class
  UNION ALL SELECT 2604, d.oid FROM pg_attrdef d JOIN own o ON o.class = 1259 AND o.oid = d.adrelid
  UNION ALL SELECT 2606, k.oid FROM pg_constraint k WHERE k.connamespace IN (SELECT schema FROM own)
  UNION ALL SELECT 2620, t.oid FROM pg_trigger t JOIN own o ON o.class = 1259 AND o.oid = t.tgrelid
  UNION ALL SELECT 3256, p.oid FROM pg_policy p JOIN own o ON o.class = 1259 AND o.oid = p.polrelid),
beside AS (
  SELECT 2605 AS class, c.oid FROM pg_cast c WHERE ($1 = ''
      OR EXISTS (SELECT FROM own o WHERE o.class = 1247 AND o.oid IN (c.castsource, c.casttarget)))
    -- a range brings the one to its multirange
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 2605 AND d.objid = c.oid AND d.deptype = 'i')
  UNION ALL SELECT 3576, t.oid FROM pg_transform t WHERE $1 = ''
  UNION ALL SELECT 6104, oid FROM pg_publication WHERE $1 = ''
  UNION ALL SELECT 3466, oid FROM pg_event_trigger WHERE $1 = ''
  UNION ALL SELECT 2328, oid FROM pg_foreign_data_wrapper WHERE $1 = ''
  UNION ALL SELECT 1417, oid FROM pg_foreign_server WHERE $1 = ''
  UNION ALL SELECT 2612, oid FROM pg_language WHERE $1 = ''
  UNION ALL SELECT 2601, oid FROM pg_am WHERE $1 = '')
SELECT json_build_object(
  'schemas', (SELECT coalesce(json_object_agg(s.nspname, EXISTS (SELECT FROM own o WHERE o.schema = s.oid)), '{}'::json)
              FROM schema s),
  'extensions', (SELECT coalesce(json_object_agg(e.extname, json_build_array(n.nspname, e.extrelocatable,
      EXISTS (SELECT FROM part p JOIN pg_depend d ON d.classid = p.class AND d.objid = p.oid
              JOIN member m ON m.classid = d.refclassid AND m.objid = d.refobjid
              WHERE m.refobjid = e.oid))), '{}'::json)
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.oid >= 16384),
  'beside', (SELECT coalesce(json_agg(i.type || ' ' || i.identity ORDER BY i.type, i.identity), '[]'::json)
    FROM beside b, pg_identify_object(b.class, b.oid, 0) i WHERE b.oid >= 16384
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = b.class AND m.objid = b.oid)),
  'large_objects', (SELECT count(*) FROM pg_largeobject_metadata WHERE $1 = ''),
  'size', (SELECT CASE $1 WHEN '' THEN pg_database_size(d.oid) ELSE (
      SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)
      FROM pg_class c JOIN own o ON o.class = 1259 AND o.oid = c.oid
      WHERE c.relkind IN ('r', 'm')) END FROM pg_database d WHERE d.datname = current_database()),
  'settings', (SELECT coalesce(json_agg(json_build_array(r.rolname, s.setconfig)), '[]'::json)
    FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
    WHERE d.datname = current_database()),
  'readers', (SELECT coalesce(json_agg(pg_get_userbyid(x.grantee)::text), '[]'::json)
    FROM pg_namespace n CROSS JOIN aclexplode(n.nspacl) x WHERE n.nspname = $1 AND x.grantee <> 0))"""


@dataclass(frozen=True, slots=True)
class Layout:
    """How an app's things lie in a database, by the answer to `LAYOUT`.

    Args:
        schemas: each with whether there is anything in it beside extensions.
        extensions: by name, their schema, whether that can be another, and whether anything is made of it.
        beside: what is in no schema.
        settings: by role (none: everybody), what is set for it in this database.
        readers: the roles that were let into the app's schema.
    """

    schemas: Mapping[str, bool]
    extensions: Mapping[str, tuple[str, bool, bool]]
    beside: Sequence[str]
    large_objects: int
    size: int
    settings: Sequence[tuple[str | None, Sequence[str]]]
    readers: Sequence[str]

    @classmethod
    def read(cls, answer: str) -> Self:
        document = json.loads(answer)
        document["extensions"] = {name: tuple(entry) for name, entry in document["extensions"].items()}
        document["settings"] = [tuple(entry) for entry in document["settings"]]
        return cls(**document)

    @property
    def own(self) -> str:
        """The schema that a move takes: the only one with anything in it, or ``public`` where there is nothing."""
        having = [name for name, filled in self.schemas.items() if filled]
        return having[0] if len(having) == 1 else "public"

    def obstacles(self) -> Iterator[str]:
        """What is in the database and in no dump of its one schema, as sentences."""
        having = sorted(name for name, filled in self.schemas.items() if filled)
        if len(having) > 1:
            yield f"a move takes one schema, and the app has things in {listed(having, _MOST)}: bring them into one"
        if self.beside:
            named = listed(list(self.beside), _MOST)
            yield f"what is in no schema does not go with one: drop it, and make it anew afterwards: {named}"
        if self.large_objects:
            yield (
                f"{counted(self.large_objects, 'large object')} would stay behind: keep them in columns (bytea), and "
                "drop them"
            )

    def fixed(self, schema: str) -> list[str]:
        """Extensions that something is made of and that cannot come to this schema."""
        entries = self.extensions.items()
        return sorted(name for name, (there, movable, used) in entries if used and there != schema and not movable)


def place_options(app: App) -> dict[str, Any]:
    """The options by which an app has its place, as plain values (`Move.there`)."""
    options = AppOptions.of(app.stores[STORE])
    return {"database": options.database, "schema": options.schema_name}


def placed(app: App, options: Mapping[str, Any]) -> App:
    """See `Provisioner.placed`. What an app cannot have there is left out; so is what it reads of others elsewhere."""
    named = {"database": options["database"], "schema_name": options["schema"]}
    own = AppOptions.of(app.stores[STORE])
    if (own.database, own.schema_name) != (named["database"], named["schema_name"]):
        named |= {"reads": (), "test_database": False, "locale": None}
    return replace(app, stores={**app.stores, STORE: own.model_copy(update=named)})


def survey(ask: Callable[..., str], there: App, app: App, *, superuser: bool) -> Move:
    """See `MovingSession.survey`.

    Args:
        ask: answers a query in the database where the app is, with its parameters.
        superuser: whether the admin is one.
    """
    source, schema = home(there), home(there).schema or ""
    layout = Layout.read(ask(LAYOUT, schema))
    looked_for = renamed_schemas(layout, home(app).schema or "public", shared=home(app).schema is not None, own=schema)
    named = naming(ask, looked_for, schema)
    inward = json.loads(ask(INWARD, schema)) if schema else []
    obstacles = [*_obstacles(layout, there, app, superuser=superuser), *_odd_names(layout, source, home(app))]
    if inward:
        others = listed([f"{other} (of {ours})" for other, ours in inward], _MOST)
        obstacles.append(f"other apps have made something of its schema, which they have to drop first: {others}")
    return unseen(there, app, layout.size, obstacles, [*named, *_left(layout, there, app)])


def naming(ask: Callable[..., str], schemas: Collection[str], inside: str) -> list[str]:
    """What has text that names one of the schemas.

    Args:
        ask: as for `survey`.
        inside: the schema where that is looked for; empty: all of the database.
    """
    return mentions(json.loads(ask(TEXTS, pattern(schemas), inside)), schemas) if schemas else []


def left_schema(was: Mapping[str, Any], becomes: App) -> str | None:
    """The schema of an entry's options, where the app has one that is called otherwise; None: it does not.

    Args:
        was: may come out of a set, with anything in it.
    """
    schema, own = was.get("schema"), home(becomes).schema
    if own is None or not isinstance(schema, str) or schema == own or not _PLAIN.fullmatch(schema):
        return None
    return schema


def unseen(
    there: App, app: App, size: int | None = None, obstacles: Sequence[str] = (), named: Sequence[str] = ()
) -> Move:
    """A move of which no more is known than this."""
    return Move(
        app=there,
        there=place_options(there),
        destination=place_options(app),
        source_title=_title(home(there)),
        destination_title=_title(home(app)),
        size=size,
        obstacles=tuple(obstacles),
        mentions=tuple(named),
    )


def unsurveyed(there: App, app: App, error: ServerError) -> Move:
    """A move of an app whose place could not be looked into."""
    return unseen(there, app, None, [f"nobody can say what it has there: {error}"])


def _title(place: Home) -> str:
    return str(place) if place.schema is not None else f"database {place.database}"


def renamed_schemas(layout: Layout, becomes: str, *, shared: bool, own: str = "") -> set[str]:
    """The schemas that are called otherwise afterwards, or are no place of what is in them now.

    Args:
        becomes: what the app's own schema is called then.
        shared: whether it is in a database that apps share.
        own: that schema; empty: the only one that there is.
    """
    own = own or layout.own
    names = {own} if own != becomes else set()
    extensions = EXTENSION_SCHEMA if shared else "public"
    names |= {schema for schema, _, used in layout.extensions.values() if used and schema != extensions}
    return {name for name in names if _PLAIN.fullmatch(name)}


def _odd_names(layout: Layout, source: Home, destination: Home) -> Iterator[str]:
    own = source.schema or layout.own
    if not _PLAIN.fullmatch(own) and own != (destination.schema or "public"):
        yield f"schema {own!r} has a name that nobody can look for in texts: ALTER SCHEMA .. RENAME TO a plain one"


def _obstacles(layout: Layout, there: App, app: App, *, superuser: bool) -> Iterator[str]:
    source, destination = home(there), home(app)
    if app.mode(STORE) is not AppMode.AUTHORITATIVE:
        yield f"mode {app.mode(STORE)} leaves what is there as it is: take it out of the entry of {app.id} first"
    if source.schema is None:
        yield from layout.obstacles()
    elif layout.beside:
        yield f"what is in no schema does not go with one: drop it: {listed(list(layout.beside), _MOST)}"
    readers = [name for name in layout.readers if name.endswith(f"_{PEER}{there.id}")]
    if readers:
        apps = listed(sorted(name.removesuffix(f"_{PEER}{there.id}") for name in readers))
        yield f"{apps} may read its schema: take {there.id} out of its reads, multidb apply --app {apps}"
    extensions = EXTENSION_SCHEMA if destination.schema is not None else "public"
    if fixed := layout.fixed(extensions):
        yield f"extension {listed(fixed)} cannot come to schema {extensions}, where extensions are in {destination}"
    coming = sorted(name for name, (schema, _, used) in layout.extensions.items() if used and schema != extensions)
    if coming and not fixed and not superuser:
        yield f"extension {listed(coming)} comes to schema {extensions} by a superuser alone: use one as the admin"
    in_manifest = AppOptions.of(app.stores[STORE]).extensions
    lacking = sorted(name for name, (_, _, used) in layout.extensions.items() if used and name not in in_manifest)
    if lacking:
        yield f"extension {listed(lacking)} is needed, and not in the manifest: name it under {STORE}.extensions"


def _left(layout: Layout, there: App, app: App) -> Iterator[str]:
    """What stays behind, though nothing says that it is needed."""
    if home(there).schema is None:
        in_manifest = AppOptions.of(app.stores[STORE]).extensions
        for name, (_, _, used) in sorted(layout.extensions.items()):
            if not used and name not in in_manifest:
                yield f"extension {name}, which is not in the manifest, and which the text of functions may need"
    roles = {role for role, _ in layout.settings if role is not None and role.startswith(f"{there.id}_")}
    ours = roles if home(there).schema is not None else {*roles, None}
    managed = MANAGED_SETTINGS | ({SEARCH_PATH} if home(there).schema is not None else frozenset())
    owner = AppNames.of(there.id).owner
    for role, entries in layout.settings:
        names = sorted(entry.partition("=")[0] for entry in entries)
        left = [name for name in names if role is None or name not in managed]
        if role in ours and left and role != owner:
            yield f"setting {listed(left)} of {role or 'everybody'} in database {home(there).database}"
