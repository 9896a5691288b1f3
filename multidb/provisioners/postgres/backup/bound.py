"""What of an app's database no load can make again, and what would be lost with the database: found in catalogs. Pure.

A set is loaded by a login that may do no more than the app (decision 19), so what takes an admin does not come back:
decision 28 has the list. Of that, what nothing else needs is left out of a load and said; the rest keeps a set from
being loaded. In the place of a database that has any of it, no set is put, since it would be lost without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from multidb.errors import Refused
from multidb.model import listed
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.script import printable

__all__ = ["AT_SERVER", "Beyond", "Bound", "at_server", "beyond", "inside", "of_schema", "refusal"]

_MOST: Final = 10  # things that a message names
_ENDING: Final = 10000  # milliseconds in which a consumer ends

# $1: a database. What is bound to it on the server: slots go with it, a subscription keeps it, a prepared transaction
# would have to be given up, and labels of the database itself are the database's.
AT_SERVER: Final = """
SELECT json_build_object(
  'slots', (SELECT coalesce(json_agg(json_build_array(slot_name, active_pid, temporary) ORDER BY slot_name), '[]'::json)
            FROM pg_replication_slots WHERE database = $1),
  'subscriptions', (SELECT coalesce(json_agg(s.subname ORDER BY s.subname), '[]'::json) FROM pg_subscription s
                    JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = $1),
  'prepared', (SELECT coalesce(json_agg(gid ORDER BY gid), '[]'::json) FROM pg_prepared_xacts WHERE database = $1),
  'labels', (SELECT coalesce(json_agg(l.provider ORDER BY l.provider), '[]'::json) FROM pg_shseclabel l
             JOIN pg_database d ON d.oid = l.objoid AND l.classoid = 'pg_database'::regclass WHERE d.datname = $1))"""

# A foreign table that nothing in the database is made of, beside what comes and goes with it.
_ALONE = """NOT EXISTS (SELECT FROM pg_inherits WHERE c.oid IN (inhrelid, inhparent)) AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.deptype = 'n' AND (d.refclassid, d.refobjid) IN (
        ('pg_class'::regclass, c.oid), ('pg_type'::regclass, c.reltype),
        ('pg_type'::regclass, (SELECT typarray FROM pg_type WHERE oid = c.reltype)))
      AND NOT EXISTS (SELECT FROM pg_depend a WHERE (a.classid, a.objid) = (d.classid, d.objid)
        AND a.refclassid = 'pg_class'::regclass AND a.refobjid = c.oid AND a.deptype IN ('a', 'i')))"""
# How the entries begin, in a table of contents, of what is about it or hangs on it and has no oid there: with names of
# schemas as they are, and others as SQL quotes them.
_LINES = """(SELECT coalesce(json_agg(line), '[]'::json) FROM (
    SELECT format('%s - PUBLICATION %I ', about, pubname) AS line FROM pg_publication, about
      WHERE t.class = 'pg_publication'::regclass AND oid = t.oid
    UNION ALL SELECT format(form, about, nspname, relname) FROM relation, about,
      (VALUES ('%s %s FOREIGN TABLE %I '), ('%s %s COLUMN %I.')) line (form)
    UNION ALL SELECT format('COMMENT %s CONSTRAINT %I ON %I ', nspname, conname, relname)
      FROM pg_constraint JOIN relation ON conrelid = relation.oid
    UNION ALL SELECT format('COMMENT %s TRIGGER %I ON %I ', nspname, tgname, relname)
      FROM pg_trigger JOIN relation ON tgrelid = relation.oid
    UNION ALL SELECT format('COMMENT %s STATISTICS %I ', n.nspname, stxname) FROM pg_statistic_ext
      JOIN relation ON stxrelid = relation.oid JOIN pg_namespace n ON n.oid = stxnamespace
    UNION ALL SELECT format(form, n.nspname, s.relname) FROM relation
      JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = relation.oid AND d.deptype IN ('a', 'i')
      JOIN pg_class s ON d.classid = 'pg_class'::regclass AND s.oid = d.objid AND s.relkind = 'S'
      JOIN pg_namespace n ON n.oid = s.relnamespace,
      (VALUES ('COMMENT %s SEQUENCE %I '), ('SEQUENCE SET %s %s '), ('SEQUENCE OWNED BY %s %s ')) line (form)) entry)"""
_ABOUT = f"""
  LATERAL (WITH about (about) AS (VALUES ('COMMENT'), ('SECURITY LABEL')), relation AS (
      SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE t.class = 'pg_class'::regclass AND c.oid = t.oid)
    SELECT {_LINES} AS lines) about"""  # noqa: S608
# All that is made of it, however far, by oid and, beside what comes and goes with it anyway, by name.
_REACHED = """
  LATERAL (WITH RECURSIVE reached (class, oid, sub) AS (
      SELECT t.class, t.oid, 0
      UNION SELECT x.class, x.oid, x.sub FROM reached r
      JOIN pg_depend d ON d.refclassid = r.class AND d.refobjid = r.oid AND r.sub IN (0, d.refobjsubid)
        AND d.deptype IN ('n', 'a', 'i'),
      LATERAL (SELECT d.classid, d.objid, d.objsubid
               UNION ALL SELECT 'pg_class'::regclass, w.ev_class, 0 FROM pg_rewrite w
               WHERE d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid) x (class, oid, sub))
    SELECT json_agg(json_build_array(r.class::bigint, r.oid::bigint)) FILTER (WHERE r.sub = 0) AS ids,
      coalesce(json_agg(DISTINCT o.type || ' ' || o.identity) FILTER (
        WHERE (r.class, r.oid) <> (t.class, t.oid) AND r.class <> 'pg_rewrite'::regclass AND NOT EXISTS (
          SELECT FROM pg_depend a WHERE (a.classid, a.objid) = (r.class, r.oid) AND a.deptype IN ('a', 'i')
            AND (a.refclassid, a.refobjid) IN (SELECT class, oid FROM reached))), '[]'::json) AS names
    FROM reached r, pg_identify_object(r.class, r.oid, r.sub) o) reached"""
# Catalog, its rows, whether a load can leave them out, and what ends one (%s: its identity).
_BEYOND: Final = (
    ("pg_publication", "pg_publication c WHERE {wide}", "true", "DROP PUBLICATION %s"),
    ("pg_event_trigger", "pg_event_trigger c WHERE true", "true", "DROP EVENT TRIGGER %s"),
    ("pg_foreign_data_wrapper", "pg_foreign_data_wrapper c WHERE true", "true", "DROP FOREIGN DATA WRAPPER %s"),
    ("pg_foreign_server", "pg_foreign_server c WHERE true", "true", "DROP SERVER %s"),
    ("pg_class", "pg_class c WHERE c.relkind = 'f'", _ALONE, "DROP FOREIGN TABLE %s"),
    ("pg_am", "pg_am c WHERE true", "false", "DROP ACCESS METHOD %s"),
    ("pg_language", "pg_language c WHERE true", "false", "DROP LANGUAGE %s"),
    (
        "pg_proc",
        "pg_proc c JOIN pg_language l ON l.oid = c.prolang "
        "WHERE NOT l.lanpltrusted AND c.prokind <> 'a' OR c.prosupport <> 0",
        "false",
        "DROP ROUTINE %s",
    ),
    ("pg_proc", "pg_proc c WHERE c.proleakproof", "false", "ALTER ROUTINE %s NOT LEAKPROOF"),
    (
        "pg_proc",
        # A parameter that the session does not know is an admin's to set, also one of an extension that is not loaded
        # yet. PL/pgSQL's are known where a function of it was made before.
        "pg_proc c WHERE EXISTS (SELECT FROM unnest(c.proconfig) e, LATERAL (SELECT split_part(e, '=', 1)) k (name) "
        "LEFT JOIN pg_settings s ON lower(s.name) = lower(k.name) "
        "WHERE coalesce(s.context <> 'user', k.name NOT LIKE 'plpgsql.%') AND NOT {granted})",
        "false",
        "ALTER ROUTINE %s RESET ALL",
    ),
    (
        "pg_proc",
        "pg_proc c JOIN pg_aggregate a ON a.aggfnoid = c.oid "
        "WHERE 'internal'::regtype IN (a.aggtranstype, a.aggmtranstype)",
        "false",
        "DROP AGGREGATE %s",
    ),
    (
        "pg_type",
        "pg_type c WHERE (c.typtype = 'b' AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = c.oid)) "
        "OR (c.typtype = 'p' AND NOT c.typisdefined)",
        "false",
        "DROP TYPE %s",
    ),
    ("pg_opfamily", "pg_opfamily c WHERE true", "false", "DROP OPERATOR FAMILY %s"),
    ("pg_opclass", "pg_opclass c WHERE true", "false", "DROP OPERATOR CLASS %s"),
    ("pg_ts_parser", "pg_ts_parser c WHERE true", "false", "DROP TEXT SEARCH PARSER %s"),
    ("pg_ts_template", "pg_ts_template c WHERE true", "false", "DROP TEXT SEARCH TEMPLATE %s"),
    (
        "pg_cast",
        "pg_cast c WHERE c.castmethod = 'b' OR NOT EXISTS (SELECT FROM pg_type t JOIN pg_roles r ON r.oid = t.typowner "
        "WHERE t.oid IN (c.castsource, c.casttarget) AND r.rolname IN ({roles}))",
        "false",
        "DROP CAST %s",
    ),
    # Who makes one owns its functions, which take an `internal`: of what an app may write functions in, nothing does.
    ("pg_transform", "pg_transform c WHERE true", "false", "DROP TRANSFORM %s"),
)
# What ends a thing calls it so. Postgres 15 describes a transform in words that its DROP does not take; 18 does not.
_NAMED: Final = (
    "CASE WHEN t.class = 'pg_transform'::regclass THEN (SELECT format('FOR %s LANGUAGE %I', "
    "format_type(f.trftype, NULL), l.lanname) FROM pg_transform f JOIN pg_language l ON l.oid = f.trflang "
    "WHERE f.oid = t.oid) ELSE i.identity END"
)
# What somebody without power has put under an extension after that was made: the extension's script makes none of it,
# and what an extension has is in no dump.
_GIVEN: Final = """
SELECT -1 AS number, d.classid::oid AS class, d.objid AS oid, false AS alone,
  format('ALTER EXTENSION %I DROP ', replace(e.extname, '%', '%%')) || upper(i.type) || ' %s' AS ending, e.extname
FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
LEFT JOIN pg_proc f ON d.classid = 'pg_proc'::regclass AND f.oid = d.objid
LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid AND t.typtype <> 'm'
  AND NOT EXISTS (SELECT FROM pg_type x WHERE x.typarray = t.oid)
  AND NOT EXISTS (SELECT FROM pg_class x WHERE x.oid = t.typrelid AND x.relkind <> 'c')
JOIN pg_roles r ON r.oid = coalesce(c.relowner, f.proowner, t.typowner) AND NOT r.rolsuper,
pg_identify_object(d.classid, d.objid, 0) i
WHERE d.deptype = 'e' AND age(d.xmin) < age(e.xmin)"""
# Entries of a table of contents that are always an admin's. What an extension has made is no entry.
_GENERAL: Final = (
    *(
        f"{prefix}{kind} "
        for kind in ("EVENT TRIGGER", "FOREIGN DATA WRAPPER", "SERVER")
        for prefix in ("", "COMMENT - ", "SECURITY LABEL - ")
    ),
    "USER MAPPING ",
)


def inside(version: int, roles: Sequence[str], makers: Sequence[str] | None = None) -> str:
    """The query for all of it that is in a database, as JSON: see `beyond`. It reads catalogs, with functions of the
    server's own that describe objects and evaluate no expression.

    Args:
        version: ``server_version_num``.
        roles: those of the app.
        makers: those whose types will be the app's; None: its own only.
    """
    recent = version >= 150000
    ours = ", ".join(map(literal, roles)) or "NULL"
    words = {
        "wide": "c.puballtables OR EXISTS (SELECT FROM pg_publication_namespace n WHERE n.pnpubid = c.oid)"
        if recent
        else "c.puballtables",
        "granted": "EXISTS (SELECT FROM pg_roles r "
        f"WHERE r.rolname IN ({ours}) AND has_parameter_privilege(r.oid, k.name, 'SET'))"
        if recent
        else "false",
        "roles": ours if makers is None else ", ".join(map(literal, makers)) or "NULL",
    }
    query = " UNION ALL ".join(
        f"SELECT {number} AS number, '{catalog}'::regclass::oid AS class, c.oid, {alone} AS alone, "  # noqa: S608
        f"{literal(end)}::text AS ending FROM {source.format(**words)}"
        for number, (catalog, source, alone, end) in enumerate(_BEYOND)
    )
    return f"""
WITH object AS ({query}),
thing AS (
  SELECT * FROM (
    SELECT DISTINCT ON (class, oid) *, NULL::name AS extension FROM object o WHERE oid >= 16384 AND NOT EXISTS (
      SELECT FROM pg_depend e WHERE e.classid = o.class AND e.objid = o.oid AND e.deptype IN ('e', 'i'))
    ORDER BY class, oid, number) beyond
  UNION ALL {_GIVEN})
SELECT json_build_object(
  'things', (SELECT coalesce(json_agg(json_build_object(
      'type', i.type, 'schema', i.schema, 'name', i.name, 'identity', i.identity, 'alone', t.alone,
      'extension', t.extension,
      'ending', format(t.ending, {_NAMED}), 'id', json_build_array(t.class::bigint, t.oid::bigint),
      'reached', reached.ids, 'dependants', reached.names, 'lines', about.lines,
      'entries', (SELECT coalesce(json_agg(json_build_array(p.class::bigint, p.oid::bigint)), '[]'::json) FROM (
          SELECT t.class, t.oid UNION SELECT d.classid, d.objid FROM pg_depend d
          WHERE (d.refclassid, d.refobjid) = (t.class, t.oid) AND d.deptype IN ('a', 'i')) p (class, oid)))
      ORDER BY t.number, i.identity), '[]'::json)
    FROM thing t, pg_identify_object(t.class, t.oid, 0) i,{_REACHED},{_ABOUT}),
  'mappings', (SELECT coalesce(json_agg(json_build_array(
      CASE umuser WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(umuser)) END, quote_ident(srvname))
      ORDER BY srvname, umuser), '[]'::json) FROM pg_user_mappings),
  'labels', (SELECT coalesce(json_agg(DISTINCT l.provider), '[]'::json) FROM pg_seclabel l
    WHERE l.objoid >= 16384 OR l.classoid = 'pg_namespace'::regclass),
  'tablespaces', (SELECT coalesce(json_agg(DISTINCT s.spcname), '[]'::json) FROM pg_class c
    JOIN pg_tablespace s ON s.oid = c.reltablespace JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid >= 16384 AND c.relpersistence <> 't'
      AND coalesce(current_setting('multidb.schema', true), '') IN ('', n.nspname::text)))"""  # noqa: S608


def of_schema(document: Mapping[str, Any], schema: str) -> dict[str, Any]:
    """An answer to `inside` as far as it is about one schema of a database that apps share: what is in none is the
    admin's, and in no dump of a schema."""
    return {**document, "things": [thing for thing in document["things"] if thing["schema"] == schema], "mappings": []}


@dataclass(frozen=True, slots=True)
class Bound:
    """One thing that would not outlive the exchange of its database, and the statement that ends it there.

    Args:
        dependants: names of what goes with it.
        reached: catalogs and oids of all that goes with it, itself first.
    """

    name: str
    ending: str
    dependants: tuple[str, ...] = ()
    reached: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Beyond:
    """What of a database a load cannot make.

    Args:
        left: names of what a load leaves out.
        needed: names of what other things may need, so that a load without them would fail.
        given: names of what is in no dump, since the app has put it under an extension.
        labels: providers of security labels, which a server has to have.
        tablespaces: where tables and indexes are, beside the database's own.
    """

    left: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    bound: tuple[Bound, ...] = ()
    entries: frozenset[tuple[int, int]] = frozenset()  # catalog and oid, as a table of contents has them
    lines: tuple[str, ...] = ()  # beginnings of entries that have no oid
    labels: tuple[str, ...] = ()
    tablespaces: tuple[str, ...] = ()

    def leaves_out(self, catalog: int, oid: int, what: str) -> bool:
        """Whether a load leaves out an entry of a table of contents: its catalog, its oid, and what it is."""
        return (catalog, oid) in self.entries or what.startswith((*_GENERAL, *self.lines))

    @property
    def notes(self) -> list[str]:
        """What a person should know of a set that was made of it."""
        notes = []
        if self.left:
            notes.append(
                f"a restore does not make {listed(self.left, _MOST)}: that takes an admin, who makes it anew afterwards"
            )
        if self.needed:
            named = listed(self.needed, _MOST)
            notes.append(f"it cannot be loaded again, since only an admin can make {named}; sets of before it can")
        if self.given:
            notes.append(
                f"it does not have {listed(self.given, _MOST)}: what an extension was given is in no dump until it is "
                "taken back (ALTER EXTENSION .. DROP ..)"
            )
        return notes


def beyond(document: Mapping[str, Any]) -> Beyond:
    """An answer to `inside`, as a set's manifest keeps it.

    Raises:
        KeyError, TypeError, ValueError: it is no such answer.
    """
    things = list(document["things"])
    mappings = [(_text(user), _text(server)) for user, server in document["mappings"]]
    left: list[str] = []
    needed: list[str] = []
    given: list[str] = []
    bound: list[Bound] = []
    lines: list[str] = []
    entries: set[tuple[int, int]] = set()
    for thing in things:
        name = f"{_text(thing['type'])} {_text(thing['identity'])}"
        if thing.get("extension") is not None:  # sets of earlier versions say none
            given.append(f"{name} (of extension {_text(thing['extension'])})")
            bound.append(Bound(name, _text(thing["ending"])))
            continue
        dependants = tuple(map(_text, thing.get("dependants", ())))
        reached = [(int(catalog), int(oid)) for catalog, oid in (thing["id"], *thing["reached"])]
        bound.append(
            Bound(name, _text(thing["ending"]) + (" CASCADE" if dependants else ""), dependants, tuple(reached))
        )
        if not thing["alone"]:
            needed.append(name)
            continue
        left.append(name)
        entries.update((int(catalog), int(oid)) for catalog, oid in thing["entries"])
        lines += [re.sub("[\n\r]", " ", _text(line)) for line in thing.get("lines", ())]
    for user, server in mappings:
        left.append(f"user mapping for {user} on server {server}")
        bound.append(Bound(left[-1], f"DROP USER MAPPING IF EXISTS FOR {user} SERVER {server}"))
    return Beyond(
        left=tuple(left),
        needed=tuple(needed),
        given=tuple(given),
        bound=tuple(bound),
        entries=frozenset(entries),
        lines=tuple(lines),
        labels=tuple(map(_text, document["labels"])),
        tablespaces=tuple(map(_text, document["tablespaces"])),
    )


def at_server(document: Mapping[str, Any], database: str, version: int) -> Iterator[Bound]:
    """What an answer to `AT_SERVER` says is bound to the database, on a server of this ``server_version_num``."""
    for name in document["subscriptions"]:
        quoted = identifier(name)
        yield Bound(
            f"subscription {name}",
            f"ALTER SUBSCRIPTION {quoted} DISABLE; ALTER SUBSCRIPTION {quoted} SET (slot_name = NONE); "
            f"DROP SUBSCRIPTION {quoted}",
        )
    for name, process, temporary in document["slots"]:
        # A slot is free once its consumer has ended, which a server tells since 14.
        ending = "" if version < 140000 else f", {_ENDING}"
        texts = [f"SELECT pg_terminate_backend({int(process)}{ending})"] if process is not None else []
        texts += [] if temporary else [f"SELECT pg_drop_replication_slot({literal(name)})"]
        yield Bound(f"replication slot {name}", "; ".join(texts))
    for name in document["prepared"]:
        yield Bound(f"prepared transaction {name}", f"ROLLBACK PREPARED {literal(name)}")
    for provider in document["labels"]:
        yield Bound(
            f"the database's security label of {provider}",
            f"SECURITY LABEL FOR {identifier(provider)} ON DATABASE {identifier(database)} IS NULL",
        )


def refusal(things: Sequence[Bound], database: str, where: str) -> Refused:
    """The error for a database that something is bound to."""
    ending: list[str] = []
    gone: set[tuple[int, int]] = set()
    for thing in things[:_MOST]:
        ending += [] if gone.intersection(thing.reached[:1]) else [thing.ending]
        gone.update(thing.reached)
    ends = printable("; ".join(ending))
    names = [
        f"{thing.name} (with {listed(thing.dependants, _MOST)})" if thing.dependants else thing.name for thing in things
    ]
    return Refused(
        f"{listed(names, _MOST)} would not outlive the exchange of database {database}",
        where=where,
        hint=f"nothing was changed; end what is bound to it, in database {database}: {ends}; then run the command "
        "again, and make it anew afterwards",
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{str(value)[:40]!r} is no name")
    return value
