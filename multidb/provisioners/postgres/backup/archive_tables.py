"""Single tables of a set on their way from a database that holds all of it into the app's own, in one transaction.

`pg_dump --table` says how a table is made; its rows go from one database into the other by COPY. A foreign key of
another table that refers to it is taken off and made again, and the server proves it. A table that views are made of is
refused. Until the transaction ends the app has the old tables, and then all of the new ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from multidb.errors import ArchiveError, Refused, ServerError
from multidb.model import Measures, listed
from multidb.provisioners.postgres.backup import contents, storage
from multidb.provisioners.postgres.backup.programs import USUAL, USUAL_ZONE, Surroundings, behind_the_servers
from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.isolation import rights
from multidb.provisioners.postgres.provision.quoting import identifier, literal

__all__ = ["Expected", "exchange", "find"]

_WORK = 24 * 3600.0  # seconds for one statement that may run what the app has made
_IN_USE = frozenset({"55P03", "40P01"})
_ALL = "restore all of it: the same command with --replace and --store postgres, without --table"
_MADE_OF_IT = "drop them and make them again afterwards"
_FREE_NAME = "let the app drop or rename what has that name, then run the command again"
_LACKS = "let the app make what is missing, then run the command again"
# What is to be done about a refusal that no other table helps against, by its code.
_WAYS_ON = {
    "2BP01": _MADE_OF_IT,
    "3F000": "let the app make that schema (CREATE SCHEMA ..), then run the command again",
    "42704": _LACKS,
    "42883": _LACKS,
    "42P01": "name the table that is missing, too (where it is none, let the app make it, and run the command again)",
    "42710": _FREE_NAME,
    "42809": _FREE_NAME,
    "42P07": _FREE_NAME,
}

# $1: names as people write them (JSON array), $2: the schema of those without one.
_FIND = """
SELECT coalesce(json_agg(json_build_array(asked, format('%I.%I', n.nspname, c.relname),
    (SELECT format('%I.%I', m.nspname, p.relname) FROM pg_inherits i
     JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace m ON m.oid = p.relnamespace
     WHERE i.inhrelid = c.oid AND c.relispartition))), '[]'::json)
FROM json_array_elements_text($1::json) asked, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
  LATERAL (SELECT format('"%s"', replace(c.relname, '"', '""')) AS quoted) q
WHERE c.relkind IN ('r', 'p') AND c.oid >= 16384 AND c.relpersistence <> 't'
  AND (asked IN (format('%I.%I', n.nspname, c.relname), n.nspname || '.' || c.relname,
         format('%I.%s', n.nspname, quoted), format('"%s".%I', replace(n.nspname, '"', '""'), c.relname),
         format('"%s".%s', replace(n.nspname, '"', '""'), quoted))
       OR n.nspname = $2 AND asked IN (format('%I', c.relname), c.relname, quoted))"""

# $1: tables by full name (JSON array). With their partitions, however deep; those that are not there are left out.
_NAMED = """
WITH named AS (SELECT to_regclass(name)::oid AS oid FROM json_array_elements_text($1::json) name),
     meant AS (SELECT oid FROM named WHERE oid IS NOT NULL
               UNION SELECT relid::oid FROM named, pg_partition_tree(named.oid))
"""

_TABLES = f"""{_NAMED}
SELECT coalesce(json_agg(json_build_object(
  'name', format('%I.%I', n.nspname, c.relname), 'rows', c.relkind = 'r', 'forced', c.relforcerowsecurity,
  'pattern', format('"%s"."%s"', replace(n.nspname, '"', '""'), replace(c.relname, '"', '""')),
  'oid', c.oid::text, 'whole', (SELECT format('%I.%I', m.nspname, w.relname) FROM pg_class w
                                JOIN pg_namespace m ON m.oid = w.relnamespace WHERE w.oid = parted.whole),
  'columns', (SELECT coalesce(json_agg(quote_ident(attname) ORDER BY attnum), '[]'::json) FROM pg_attribute
              WHERE attrelid = coalesce(parted.whole, c.oid) AND attnum > 0 AND NOT attisdropped),
  'written', (SELECT coalesce(json_agg(quote_ident(attname) ORDER BY attnum), '[]'::json) FROM pg_attribute
              WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''),
  'sequences', (SELECT coalesce(json_agg(s.oid::regclass::text), '[]'::json) FROM pg_depend d
                JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
                WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                  AND d.refobjid = c.oid AND d.deptype IN ('a', 'i')))), '[]'::json)
FROM meant JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace,
  LATERAL (SELECT {contents.WHOLE.format("c.oid")}) parted (whole)"""  # noqa: S608

# What an owner has by itself on such a table or its sequence, and has not: the app takes it away from what it makes.
_LACKING = f"""{_NAMED},
made AS (SELECT oid FROM meant UNION SELECT d.objid FROM pg_depend d JOIN pg_class s ON s.oid = d.objid
         WHERE s.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
           AND d.refobjid IN (SELECT oid FROM meant) AND d.deptype IN ('a', 'i'))
SELECT coalesce(json_agg(format('%s ON %s %s', o.privilege_type,
                                CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass)), '[]'::json)
FROM made JOIN pg_class c USING (oid),
  aclexplode(acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) o
WHERE c.relacl IS NOT NULL AND o.grantee = c.relowner AND NOT EXISTS (
  SELECT FROM aclexplode(c.relacl) a WHERE (a.grantee, a.privilege_type) = (o.grantee, o.privilege_type))"""  # noqa: S608

_FOREIGN_KEYS = f"""{_NAMED}
SELECT coalesce(json_agg(json_build_array(k.conrelid::regclass::text, quote_ident(k.conname),
                                          pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint'))
                         ORDER BY k.oid), '[]'::json)
FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0
  AND k.confrelid IN (SELECT oid FROM meant) AND k.conrelid NOT IN (SELECT oid FROM meant)"""  # noqa: S608

# Views, and rules of tables that stay.
_VIEWS = f"""{_NAMED}
SELECT coalesce(json_agg(DISTINCT format('%s%s of %s', CASE c.relkind WHEN 'r' THEN format('rule %I on ', r.rulename)
    WHEN 'p' THEN format('rule %I on ', r.rulename) END, r.ev_class::regclass, d.refobjid::regclass)), '[]'::json)
FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid AND r.ev_class <> d.refobjid JOIN pg_class c ON c.oid = r.ev_class
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid IN (SELECT oid FROM meant)
  AND NOT (c.relkind IN ('r', 'p') AND r.ev_class IN (SELECT oid FROM meant))"""  # noqa: S608

# Publications that name one of them: what the table's part in it is, with columns and a condition since Postgres 15.
_PUBLISHED = f"""{_NAMED}
SELECT coalesce(json_agg(json_build_array(quote_ident(p.pubname), r.prrelid::regclass::text, {{columns}}, {{condition}})
                         ORDER BY r.oid), '[]'::json)
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid IN (SELECT oid FROM meant)"""  # noqa: S608
_COLUMNS = """(SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
  WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs))"""

# Which pg_dump leaves out where tables are named.
_STATISTICS = f"""{_NAMED}
SELECT coalesce(json_agg(json_build_array(format('%I.%I', n.nspname, s.stxname), pg_get_statisticsobjdef(s.oid),
                                          nullif(s.stxstattarget, -1), obj_description(s.oid, 'pg_statistic_ext'))
                         ORDER BY s.oid), '[]'::json)
FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
WHERE s.stxrelid IN (SELECT oid FROM meant)"""  # noqa: S608

# As in a script of pg_dump; but what waits for a lock gives up.
_SETTINGS = (
    *contents.SESSION,
    "SET row_security = on",
    "SET statement_timeout = 0",
    "SET lock_timeout = '30s'",
    "SET standard_conforming_strings = on",
    "SET check_function_bodies = false",
    "SET xmloption = content",
    "SET client_min_messages = warning",
    "SET default_tablespace = ''",
    "SELECT set_config('search_path', '', false)",
)


def find(connection: Connection, names: Sequence[str], schema: str = "public") -> dict[str, str]:
    """The full name, quoted where it has to be, of each table in `names` that is there. Partitioned ones are tables.

    Args:
        names: ``orders``, ``shop.orders``, quoted as in SQL or as they are.
        schema: where a table is whose name has none.

    Raises:
        Refused: a name that means two tables, or a partition.
    """
    paths: dict[str, str] = {}
    for asked, name, parent in json.loads(connection.ask(_FIND, (json.dumps(list(names), ensure_ascii=False), schema))):
        if parent is not None:
            raise Refused(f"{name} is a partition", hint=f"restore the whole table: --table {parent}")
        if paths.setdefault(asked, name) != name:
            raise Refused(f"{asked} may be {paths[asked]} or {name}", hint="write it with quotes, as in SQL")
    return paths


@dataclass(frozen=True, slots=True)
class _Table:
    """One table with rows or partitions; every name is quoted."""

    name: str
    oid: str
    whole: str | None
    rows: bool
    forced: bool
    pattern: str
    columns: Sequence[str]
    written: Sequence[str]
    sequences: Sequence[str]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the set says of its tables.

    Args:
        kept: who of `roles` may do what with single things, where that is not what every new one gets.
        roles: the app's. Others, who read there as the manifest says, keep what every new thing gives them.
        surroundings: in which rows are written: checks of the app may tell days by them, and look names up.
    """

    measures: Measures
    kept: Sequence[rights.Right] = ()
    roles: Collection[str] = ()
    surroundings: Surroundings = USUAL


def exchange(
    source: Connection,
    target: Connection,
    role: str,
    names: Sequence[str],
    script: Callable[[Sequence[str], str], str],
    expected: Expected,
) -> None:
    """Makes the tables `names` of the database at `target` what they are in the one at `source`, or changes nothing.

    Args:
        source: the admin's, in a database that nobody else uses.
        target: of a login that may become `role`, who owns what is made.
        script: what pg_dump writes of tables (patterns) in a section.

    Raises:
        Refused: a view is made of one of them; says which.
        ArchiveError: the server did not take it, or it is not what the set holds. Nothing was changed.
    """
    asked = (json.dumps(list(names), ensure_ascii=False),)
    tables = [_Table(**table) for table in json.loads(source.ask(_TABLES, asked))]
    patterns = [table.pattern for table in tables]
    _do(target, *_SETTINGS, f"SET ROLE {identifier(role)}", "BEGIN")
    there = [table["name"] for table in json.loads(target.ask(_TABLES, asked)) if table["name"] in names]
    if there:
        _do(target, f"LOCK TABLE {', '.join(there)} IN ACCESS EXCLUSIVE MODE")
    if views := json.loads(target.ask(_VIEWS, asked)):
        raise Refused(
            f"there are views or rules made of it: {listed(views)}",
            hint=f"{_MADE_OF_IT}, or {_ALL}",
        )
    keys = json.loads(target.ask(_FOREIGN_KEYS, asked))
    published = json.loads(target.ask(_published(target.version), asked))
    _do(target, *(f"ALTER TABLE {table} DROP CONSTRAINT {name}" for table, name, _, _ in keys))
    if there:
        _do(target, f"DROP TABLE {', '.join(there)}")
    _do(target, script(patterns, "pre-data"))
    columns = [column for column in storage.read(storage.find(source.ask, source.version)) if column.table in patterns]
    _do(target, *(column.loading for column in columns))
    lacking = json.loads(target.ask(_LACKING, asked))
    _do(target, *(f"GRANT {right} TO {identifier(role)}" for right in lacking))
    for table in tables:
        _fill(source, target, table, expected.surroundings)
    _compare(target, tables, expected.measures)
    if path := expected.surroundings.path:
        _do(target, _looking_up(behind_the_servers(path)))
    _do(target, script(patterns, "post-data"))
    _do(target, _looking_up(()))
    _make_again(target, keys, [table.name for table in tables if table.forced])
    _do(target, *_statistics(json.loads(source.ask(_STATISTICS, asked))), *_in_publications(published))
    _do(target, *(f"REVOKE {right} FROM {identifier(role)}" for right in lacking))
    _do(target, *(column.declared for column in columns))
    names_made = {name for table in tables for name in (table.name, *table.sequences)}
    _give_rights(source, target, role, expected, names_made)
    _do(target, "COMMIT")


def _published(version: int) -> str:
    known = version >= 150000
    return _PUBLISHED.format(
        columns=_COLUMNS if known else "NULL",
        condition="pg_get_expr(r.prqual, r.prrelid)" if known else "NULL",
    )


def _in_publications(published: Sequence[Sequence[Any]]) -> Iterator[str]:
    """What the tables were in stays as it is now; those for all tables, or all of a schema, have them anyway."""
    for publication, table, columns, condition in published:
        part = f" ({columns})" if columns is not None else ""
        part += f" WHERE ({condition})" if condition is not None else ""
        yield f"ALTER PUBLICATION {publication} ADD TABLE ONLY {table}{part}"


def _statistics(statistics: Sequence[Sequence[Any]]) -> Iterator[str]:
    for name, definition, most, comment in statistics:
        yield definition
        if most is not None:
            yield f"ALTER STATISTICS {name} SET STATISTICS {int(most)}"
        if comment is not None:
            yield f"COMMENT ON STATISTICS {name} IS {literal(comment)}"


def _fill(source: Connection, target: Connection, table: _Table, around: Surroundings) -> None:
    """Its rows and the positions of its sequences."""
    if table.rows:
        columns = f" ({', '.join(table.written)})" if table.written else ""
        _do(target, f"SET TimeZone = {literal(around.zone or USUAL_ZONE)}", _looking_up(around.path))
        try:
            # As they are stored: not every byte of every encoding has a place in the sessions' own.
            encoding = f"(ENCODING {literal(source.ask('SELECT getdatabaseencoding()'))})"
            into = f"COPY {table.whole or table.name}{columns} FROM STDIN {encoding}"
            source.copy_to(f"COPY {table.name}{columns} TO STDOUT {encoding}", target, into)
        except ServerError as error:
            raise _failed(error.message) from None
        _do(target, f"SET TimeZone = {literal(USUAL_ZONE)}", _looking_up(()))
    for sequence in table.sequences:
        position = f"SELECT json_build_array(last_value, is_called) FROM {sequence}"  # noqa: S608
        last, called = json.loads(source.ask(position, ()))
        _do(target, f"SELECT pg_catalog.setval({literal(sequence)}, {last}, {str(called).lower()})")


def _compare(target: Connection, tables: Sequence[_Table], measures: Measures) -> None:
    """Compares the rows with the set, while no row security hides any. `ArchiveError` where they differ."""
    having = [contents.Table(table.name, table.oid, table.columns, None, table.whole) for table in tables if table.rows]
    for name, total in contents.totals(lambda query: target.ask(query, ()), having).items():
        if total != (measures.counts[name], measures.fingerprints[name]):
            raise ArchiveError(f"{name}: restored, it is not what was backed up", hint="take another set")


def _looking_up(path: Sequence[str]) -> str:
    return f"SET search_path = {', '.join(map(identifier, path)) or literal('')}"


def _give_rights(source: Connection, target: Connection, role: str, expected: Expected, names: Collection[str]) -> None:
    """Who may do what with what is made, as the set has it: what is new has what every new thing gets.

    Args:
        names: of tables and sequences, as the server writes them.
    """
    kept = [right for right in expected.kept if right.type in ("table", "sequence")]
    things = _resolved(source, kept)
    ours = [right for right, thing in zip(kept, things, strict=True) if thing is not None and thing.identity in names]
    made = _resolved(target, ours)
    pairs = [
        (_beside_others(right, thing, expected.roles), thing)
        for right, thing in zip(ours, made, strict=True)
        if thing is not None
    ]
    _do(target, *(text for right, thing in pairs for text in rights.given(right, thing)))
    for right, thing in pairs:
        for text, otherwise in rights.passed_on(right, thing):
            # Who gave it may have lost its way to the thing since: the owner then gives the same.
            answer = target.send(f"SAVEPOINT passing; {text}; RELEASE passing", within=_WORK)
            if answer.refusal is not None:
                _do(target, "ROLLBACK TO passing")
            if answer.refusal is not None or answer.warnings:
                _do(target, f"SET ROLE {identifier(role)}", otherwise)
    _do(target, f"SET ROLE {identifier(role)}")


def _beside_others(right: rights.Right, thing: rights.Thing, roles: Collection[str]) -> rights.Right:
    """The right with what is given on the thing to others than these roles, and than everybody."""
    if right.column is not None:
        return right
    others = {grant for grant in thing.grants if grant[0] and grant[0] not in roles}
    return replace(right, grants=right.grants | others)


def _resolved(connection: Connection, kept: Sequence[rights.Right]) -> list[rights.Thing | None]:
    asked = json.dumps([[right.type, right.names, right.args] for right in kept], ensure_ascii=False)
    return rights.things(json.loads(connection.ask(rights.resolution(), (asked,))))


def _make_again(target: Connection, keys: Sequence[Sequence[Any]], forced: Sequence[str]) -> None:
    """Foreign keys of other tables. One to a table that hides rows from its owner could not be proved."""
    _do(target, *(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY" for table in forced))
    for table, name, definition, comment in keys:
        _do(target, f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
        if comment is not None:
            _do(target, f"COMMENT ON CONSTRAINT {name} ON {table} IS {literal(comment)}")
    _do(target, *(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY" for table in forced))


def _do(target: Connection, *texts: str) -> None:
    for text in texts:
        answer = target.send(text, within=_WORK)
        if answer.refusal is not None:
            raise _failed(answer.refusal.message, answer.refusal.sqlstate)


def _failed(message: str, sqlstate: str = "") -> ArchiveError:
    hint = f"{_WAYS_ON.get(sqlstate, 'name what is missing, too')}, or {_ALL}"
    if sqlstate in _IN_USE:
        hint = "the app is at work with them; run the command again"
    return ArchiveError(f"the tables do not go into the app's database: {message}", hint=f"nothing was changed; {hint}")
