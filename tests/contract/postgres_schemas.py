"""Schemas as hostile as real ones get, by a grammar: from a seed, the statements that make one. Pure.

Each schema has every kind of thing that an app's login can make, and by the seed other names, variants, owners and
rights. What a version of the server does not know is left out for it. `OWNER`, `RW`, `RO` and `USER` stand for the
app's roles.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = ["OWNER", "RO", "RW", "USER", "Schema", "literal", "quoted", "schema"]

OWNER, RW, RO, USER = "\1owner\1", "\1rw\1", "\1ro\1", "\1user\1"
_NAME_LIMIT: Final = 63  # bytes

_NAMES: Final = (
    "plain",
    "select",
    "user",
    "table",
    "null",
    "UPPER",
    "Mixed case",
    " ",
    " leading",
    "trailing ",
    'one"quote',
    '""',
    "it's",
    "semi;colon",
    "x; DROP SCHEMA public CASCADE; --",
    "/* open",
    "*/",
    "-- comment",
    "$$",
    "$1",
    "$body$",
    "back\\slash",
    "\\",
    "%s%%I",
    "{}",
    "{a,b}",
    "a.b",
    "a,b",
    "(x)",
    "[]",
    "line\nbreak",
    "return\rhere",
    "tab\tstop",
    "\x01\x7f",
    "0start",
    "_",
    "pg",
    "-",
    "x EXTENSION - y",
    "SCHEMA - public",
    "é",
    "Ünïcödé",
    "ß",
    "日本語",
    "\U0001f418",
    "\u202eright to left",
    "e\u0301",
    "\u00a0",
    "\u2028",
    "x" * 63,
    "é" * 31,
    "\U0001f418" * 15,
    "primary key",
    "public",
    "information_schema",
    "oid",
)
_TEXTS: Final = (
    "",
    "it's",
    "back\\slash \\\\ \\n",
    "line\nbreak\r\n\ttab",
    "$$ $body$ %",
    "\\.",
    "\\N",
    "NULL",
    "\x01\x1f\x7f",
    "é ü ß",
    "日本語 \U0001f418 \u2028",
    "--",
    'a"b',
    "x" * 500,
)
# A type of the server's own, and texts of values of it: none is written with a zone or a format of the session's.
_VALUES: Final[Sequence[tuple[str, tuple[str, ...]]]] = (
    ("int2", ("-32768", "0", "32767")),
    ("int8", ("-9223372036854775808", "9223372036854775807")),
    ("numeric", ("NaN", "-0.000", "1" + "0" * 3000 + ".5", "0." + "0" * 2000 + "1")),
    ("numeric(12,2)", ("1.10", "-9999999999.99")),
    ("float4", ("NaN", "Infinity", "1e-45", "0.1")),
    ("float8", ("NaN", "-Infinity", "-0", "5e-324", "0.1")),
    ("money", ("-1.01", "92233720368547758.07")),
    ("bool", ("t", "f")),
    ("char(5)", ("a", "  b  ")),
    ('"char"', ("x",)),
    ("name", ("n",)),
    ("varchar(9)", ("", "123456789")),
    ("bytea", ("\\x", "\\x00ff5c27", "\\x" + "00" * 3000)),
    ("date", ("infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2024-02-29")),
    ("time", ("24:00", "00:00:00.000001")),
    ("timetz", ("12:00+05:30", "24:00-15:59")),
    ("timestamp", ("infinity", "-infinity", "294276-12-31 23:59:59.999999", "0001-01-01 BC")),
    ("timestamptz", ("infinity", "-infinity", "2024-03-31 02:30:00+00", "1883-11-18 12:03:57-07:52:58")),
    ("interval", ("-1 year 3 days -04:05:06.7", "178000000 years", "0")),
    ("interval day to second(3)", ("1 2:03:04.567",)),
    ("uuid", ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",)),
    ("json", ('{"a": 1, "a": 2,  "b":[]}', "null", '"\\u00e9"')),
    ("jsonb", ('{"b": [null, 1.50, {"": ""}]}', "1e400")),
    ("bit(5)", ("10101",)),
    ("varbit", ("", "1")),
    ("inet", ("::1/64", "10.0.0.1/8")),
    ("cidr", ("10.0.0.0/8",)),
    ("macaddr8", ("08:00:2b:01:02:03:04:05",)),
    ("point", ("(1,NaN)", "(-0,1e300)")),
    ("path", ("[(0,0),(1,1)]", "((0,0),(1,1))")),
    ("circle", ("<(0,0),1>",)),
    ("tsvector", ("a:1A fat:2,3 'it''s'",)),
    ("tsquery", ("fat & !cat | a:*B",)),
    ("int4range", ("empty", "[1,5)", "(,)")),
    ("nummultirange", ("{}", "{[1,2),[5,)}")),
    ("tstzrange", ("[-infinity,infinity]",)),
    ("int[]", ("{}", "{{1,2},{3,4}}", "[2:3]={1,NULL}")),
    ("text[]", ('{NULL,"NULL","","a,b","\\"","\\\\"}',)),
    ("pg_lsn", ("16/B374D848",)),
    ("xid8", ("18446744073709551615",)),
    ("regclass", ("pg_class",)),
    ("jsonpath", ("$.a[*] ? (@ > 1)",)),
)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


@dataclass
class Schema:
    """What is being made.

    Args:
        version: the server's major one.
        encoding: of the database, as Python calls it; what it does not have is in no name and no value.
        extras: what can be had here besides: ``icu``, ``xml``, ``utf-8`` (it is the server's encoding, too), ``forced``
            (row security may be forced upon the owner).
        limit: bytes that a name may have at most.
        statements: in their order, for the login that makes what the app needs.
        by_user: for the app's runtime login, afterwards.
        settings: for an admin.
        by_superuser: what no load can make, and what a refusal calls it.
    """

    chance: random.Random
    version: int
    encoding: str
    extras: frozenset[str] = frozenset()
    limit: int = _NAME_LIMIT
    statements: list[str] = field(default_factory=list)
    by_user: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    by_superuser: tuple[str, str] = ("", "")
    schemas: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    types: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)

    def do(self, text: str) -> None:
        self.statements.append(text)

    def fits(self, text: str) -> bool:
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            return False
        return True

    def pick(self, *options: str) -> str:
        return self.chance.choice(options)

    def maybe(self, text: str, odds: float = 0.5) -> str:
        return text if self.chance.random() < odds else ""

    def bare(self) -> str:
        """A name that nothing else has, cut to what the server takes, not quoted."""
        while True:
            name = self.chance.choice(_NAMES)
            if not self.fits(name) or len(name.encode(self.encoding)) > self.limit:
                continue
            if name in self._taken or name in ("public", "information_schema", "oid"):
                tail = str(len(self._taken))
                while len((name + tail).encode(self.encoding)) > self.limit:
                    name = name[:-1]
                name += tail
            if name not in self._taken:
                self._taken.add(name)
                return name

    def name(self) -> str:
        return quoted(self.bare())

    def parameter(self) -> str:
        """A name that PL/pgSQL gives to no parameter by itself."""
        return next(name for name in iter(self.name, None) if not name.startswith('"$'))

    def within(self) -> str:
        """A name in one of the schemas."""
        return f"{self.chance.choice(self.schemas)}.{self.name()}"

    def text(self) -> str:
        return literal(self.chance.choice([each for each in _TEXTS if self.fits(each)]))

    def comment(self, what: str) -> None:
        if self.chance.random() < 0.5:
            self.comments.append(f"COMMENT ON {what} IS {literal('about ' + self.chance.choice(_TEXTS[:7]))}")


def schema(
    seed: int, version: int, encoding: str = "utf-8", extras: frozenset[str] = frozenset(), limit: int = _NAME_LIMIT
) -> Schema:
    """The schema of a seed, for a server of a major version and a database of an encoding; the rest as in `Schema`."""
    made = Schema(random.Random(seed), version, encoding, extras, limit)
    for part in _PARTS:
        part(made)
    made.statements += made.comments
    return made


# ------------------------------------------------------------------------------------------------------------ parts


def _schemas(made: Schema) -> None:
    made.schemas.append("public")
    for _ in range(2):
        name = made.name()
        made.schemas.append(name)
        made.do(f"CREATE SCHEMA {name}")
        made.comment(f"SCHEMA {name}")
    for kind, right in (("TABLES", "TRUNCATE"), ("FUNCTIONS", "EXECUTE"), ("SEQUENCES", "UPDATE"), ("TYPES", "USAGE")):
        where = made.maybe(f" IN SCHEMA {made.schemas[-1]}")
        option = made.maybe(" WITH GRANT OPTION", 0.3)
        made.do(f"ALTER DEFAULT PRIVILEGES{where} GRANT {right} ON {kind} TO {made.pick(RW, RO, USER)}{option}")
    made.do(f"ALTER DEFAULT PRIVILEGES REVOKE {made.pick('USAGE ON TYPES', 'EXECUTE ON ROUTINES')} FROM PUBLIC")


def _types(made: Schema) -> None:
    enum, labels = made.within(), [made.bare() for _ in range(3)]
    made.do(f"CREATE TYPE {enum} AS ENUM ({', '.join(map(literal, labels[:2]))})")
    made.do(f"ALTER TYPE {enum} ADD VALUE {literal(labels[2])} BEFORE {literal(labels[1])}")
    made.types.append((enum, tuple(labels)))
    made.comment(f"TYPE {enum}")
    made.do(f"CREATE TYPE {made.within()} AS ENUM ()")
    small, check = made.within(), made.name()
    made.do(f"CREATE DOMAIN {small} AS int DEFAULT 7 CONSTRAINT {check} CHECK (VALUE < 1000)")
    made.comment(f"CONSTRAINT {check} ON DOMAIN {small}")
    smaller = made.within()
    made.do(f"CREATE DOMAIN {smaller} AS {small}{made.maybe(' NOT NULL')} CHECK (VALUE <> 13)")
    made.do(f"ALTER DOMAIN {smaller} ADD CONSTRAINT {made.name()} CHECK (VALUE > 0) NOT VALID")
    made.types.append((smaller, ("1", "999")))
    worded = made.within()
    made.do(f'CREATE DOMAIN {worded} AS text COLLATE "C" CHECK (VALUE !~ {literal("^x$")})')
    made.types.append((worded, ("", "y")))
    pair = made.within()
    made.do(f'CREATE TYPE {pair} AS ({made.name()} int, {made.name()} text COLLATE "C", {made.name()} {enum}[])')
    made.types.append((pair, ('(1,"x,y",)', "(,,)")))
    span, multi = made.within(), made.within()
    made.do(f"CREATE TYPE {span} AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = float8mi, MULTIRANGE_TYPE_NAME = {multi})")
    made.types += [(span, ("empty", "[1.5,2)", "(,)")), (multi, ("{[1,2)}", "{}"))]
    made.types.append((f"{span}[]", ('{"[1,2)",NULL}',)))
    made.do(f"CREATE COLLATION {made.within()} (LOCALE = 'C')")
    made.do(f'CREATE COLLATION {made.within()} FROM "POSIX"')
    if made.chance.random() < 0.5:
        made.do(f"GRANT USAGE ON TYPE {enum} TO {made.pick(RO, RW)} WITH GRANT OPTION")
    made.do(f"REVOKE USAGE ON DOMAIN {small} FROM PUBLIC")
    if made.version < 17:  # later ones have the privileges of their range
        made.do(f"GRANT USAGE ON TYPE {multi} TO {RO}")


def _functions(made: Schema) -> None:
    first, label = made.within(), made.name()
    made.do(
        f"CREATE FUNCTION {first}({label} int, text DEFAULT {made.text()}) RETURNS int LANGUAGE sql "
        f"{made.pick('IMMUTABLE', 'STABLE', 'VOLATILE')} {made.maybe('STRICT')} PARALLEL {made.pick('SAFE', 'UNSAFE')} "
        f"COST {made.pick('1', '0.5', '12345')} AS 'SELECT 2 * $1'"
    )
    made.comment(f"FUNCTION {first}(int, text)")
    made.do(f"REVOKE ALL ON FUNCTION {first} FROM PUBLIC")
    made.do(
        f"CREATE FUNCTION {made.within()}"
        f"(VARIADIC {made.parameter()} numeric[], OUT {made.parameter()} int, OUT {made.parameter()} text) "
        f"LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, {made.schemas[1]}, pg_temp "
        f"SET work_mem = '5MB' SET DateStyle = 'SQL, DMY' SET application_name = {made.text()} "
        f"AS $a$ BEGIN /* {made.chance.choice(_TEXTS[:5]).replace('$', '')} */ END $a$"
    )
    made.do(
        f"CREATE FUNCTION {made.within()}() RETURNS TABLE ({made.name()} int, {made.name()} text) ROWS 7 "
        f"LANGUAGE sql BEGIN ATOMIC SELECT 1, {made.text()}::text; SELECT 2, 'x'::text; END"
    )
    made.do(f"CREATE FUNCTION {made.within()}(anyelement, anyarray) RETURNS anyelement LANGUAGE sql AS 'SELECT $1'")
    procedure = made.within()
    made.do(
        f'CREATE PROCEDURE {procedure}(INOUT "a b" int, IN "b;" text DEFAULT \'x\') '
        f"LANGUAGE plpgsql AS {literal('BEGIN END')}"
    )
    made.comment(f"PROCEDURE {procedure}(int, text)")
    made.do("CREATE FUNCTION public.fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$")
    made.do("CREATE FUNCTION public.pure(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 % 10'")
    made.do("CREATE FUNCTION public.pure(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN lower($1)")
    total = made.within()
    made.do(
        f"CREATE AGGREGATE {total}(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0', COMBINEFUNC = int4pl, "
        "MSFUNC = int4pl, MINVFUNC = int4mi, MSTYPE = int, MINITCOND = '0', PARALLEL = SAFE)"
    )
    made.comment(f"AGGREGATE {total}(int)")
    made.do(f"CREATE AGGREGATE {made.within()}(*) (SFUNC = int8inc, STYPE = int8, INITCOND = '0')")
    made.do(
        f"CREATE AGGREGATE {made.within()}(VARIADIC {made.name()} text[]) (SFUNC = array_cat, STYPE = text[], "
        f"INITCOND = {literal('{}')})"
    )


def _operators(made: Schema) -> None:
    where = made.schemas[1]
    made.do(f"CREATE FUNCTION {where}.same(text, text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 = $2'")
    made.do(
        f"CREATE OPERATOR {where}.=== (FUNCTION = {where}.same, LEFTARG = text, RIGHTARG = text, "
        f"COMMUTATOR = OPERATOR({where}.===), NEGATOR = OPERATOR({where}.!==), RESTRICT = eqsel, JOIN = eqjoinsel, "
        f"{made.maybe('HASHES, ')}MERGES)"
    )
    made.do(f"CREATE FUNCTION {where}.other(text, text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 <> $2'")
    made.do(
        f"CREATE OPERATOR {where}.!== (FUNCTION = {where}.other, LEFTARG = text, RIGHTARG = text, "
        f"NEGATOR = OPERATOR({where}.===))"
    )
    made.comment(f"OPERATOR {where}.=== (text, text)")
    made.do(f"CREATE FUNCTION {where}.flipped(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT reverse($1)'")
    made.do(f"CREATE OPERATOR {where}.~~~ (FUNCTION = {where}.flipped, RIGHTARG = text)")
    whole = made.within()
    made.do(f"CREATE TYPE {whole} AS (n int)")
    made.do(f"CREATE FUNCTION {where}.as_int({whole}) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1.n'")
    made.do(f"CREATE CAST ({whole} AS int) WITH FUNCTION {where}.as_int({whole}) {made.pick('', 'AS ASSIGNMENT')}")
    made.comment(f"CAST ({whole} AS int)")
    made.do(f"CREATE CAST ({whole} AS json) WITH INOUT")
    conversion = made.within()
    made.do(f"CREATE CONVERSION {conversion} FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8")
    made.comment(f"CONVERSION {conversion}")
    words, search = made.within(), made.within()
    made.do(f"CREATE TEXT SEARCH DICTIONARY {words} (TEMPLATE = simple, ACCEPT = false)")
    made.do(f"CREATE TEXT SEARCH CONFIGURATION {search} (COPY = {made.pick('simple', 'english')})")
    made.do(f"ALTER TEXT SEARCH CONFIGURATION {search} ALTER MAPPING FOR word, asciiword WITH {words}, simple")
    made.do(f"ALTER TEXT SEARCH CONFIGURATION {search} DROP MAPPING FOR url")
    made.comment(f"TEXT SEARCH CONFIGURATION {search}")
    made.comment(f"TEXT SEARCH DICTIONARY {words}")


def _sequences(made: Schema) -> None:
    for _ in range(2):
        name = made.within()
        kind = made.maybe("UNLOGGED ", 0.3) if made.version >= 15 else ""
        made.do(
            f"CREATE {kind}SEQUENCE {name} AS {made.pick('int2', 'int', 'int8')} INCREMENT {made.pick('-3', '7')} "
            f"MINVALUE -100 MAXVALUE 100 CACHE {made.pick('1', '5')} {made.maybe('CYCLE')}"
        )
        made.comment(f"SEQUENCE {name}")
        if made.chance.random() < 0.7:
            made.do(f"SELECT setval({literal(name)}, {made.pick('-100', '42')}, {made.pick('true', 'false')})")
        made.do(f"GRANT {made.pick('SELECT', 'UPDATE', 'USAGE')} ON SEQUENCE {name} TO {made.pick(RO, USER, 'PUBLIC')}")


def _tables(made: Schema) -> None:
    for number in range(4):
        _table(made, number)
    name = made.within()
    made.do(f"CREATE TABLE {name} ()")
    made.do(f"INSERT INTO {name} DEFAULT VALUES")
    wide = made.within()
    made.do(f"CREATE TABLE {wide} ({', '.join(f'c{n} int' for n in range(300))})")
    made.do(f"INSERT INTO {wide} (c0, c299) VALUES (1, 2)")


def _table(made: Schema, number: int) -> None:
    table, key = made.within(), made.name()
    made.tables.append(table)
    types = [*made.chance.sample(_VALUES, 12), *made.chance.sample(made.types, 4)]
    columns = [(made.name(), kind, values) for kind, values in types]
    identity = f"GENERATED {made.pick('ALWAYS', 'BY DEFAULT')} AS IDENTITY"
    identity += f" (START 7 INCREMENT {made.pick('3', '-1')} MINVALUE -99 MAXVALUE 999)"
    texts = made.name()
    lines = [f"{key} int {made.pick(identity, 'NOT NULL')}", "num int", f"dropped_{number} text"]
    lines += [f"{name} {kind}" for name, kind, _ in columns]
    collated = made.maybe(f" COLLATE {quoted('C')}")
    lines.append(f"{texts} text{collated} DEFAULT {made.text()}{made.maybe(' NOT NULL', 0.3)}")
    lines.append("made int GENERATED ALWAYS AS (num * 2) STORED")
    if made.version >= 18:
        lines.append("virtual int GENERATED ALWAYS AS (num + 1) VIRTUAL")
    # the first is referred to by others
    deferred = made.maybe(" DEFERRABLE INITIALLY DEFERRED", 0.3 if number else 0.0)
    lines.append(f"CONSTRAINT {made.name()} PRIMARY KEY ({key}){deferred}")
    lines.append(f"CONSTRAINT {made.name()} CHECK (public.pure(num) >= 0){made.maybe(' NO INHERIT', 0.3)}")
    persistence = made.maybe("UNLOGGED ", 0.2) if number > 1 else ""
    options = made.maybe(" WITH (fillfactor = 70, autovacuum_enabled = false, toast.autovacuum_enabled = false)", 0.4)
    made.do(f"CREATE {persistence}TABLE {table} ({', '.join(lines)}){options}")
    given = ", ".join([key, "num", *(name for name, _, _ in columns), texts])
    own = {kind for kind, _ in made.types}  # of which some keep NULL out
    for row in range(3):
        values = ", ".join(
            "NULL" if row == 2 and kind not in own else literal(made.chance.choice(texts_of))
            for _, kind, texts_of in columns
        )
        made.do(
            f"INSERT INTO {table} ({given}) OVERRIDING SYSTEM VALUE VALUES ({row + 1}, {row}, {values}, {made.text()})"
        )
    made.do(f"ALTER TABLE {table} DROP COLUMN dropped_{number}")
    made.do(f"ALTER TABLE {table} ADD COLUMN late timestamptz DEFAULT '2024-01-01 00:00:00+00' NOT NULL")
    _constraints(made, table, texts)
    _column_options(made, table, texts, columns[0][0])
    _indexes(made, table, key, texts)
    made.comment(f"TABLE {table}")
    made.comment(f"COLUMN {table}.{texts}")
    statistics = made.within()
    kinds = made.pick("", "(ndistinct, mcv)", "(dependencies)")
    made.do(f"CREATE STATISTICS {statistics} {kinds} ON num, {texts}, late FROM {table}")
    made.do(f"ALTER STATISTICS {statistics} SET STATISTICS {made.pick('0', '99')}")
    made.comment(f"STATISTICS {statistics}")
    made.do(f"CREATE STATISTICS {made.within()} ON (num + 1), lower({texts}) FROM {table}")


def _constraints(made: Schema, table: str, texts: str) -> None:
    check = made.name()
    made.do(f"ALTER TABLE {table} ADD CONSTRAINT {check} CHECK (num > {literal('1')}::int) NOT VALID")
    made.comment(f"CONSTRAINT {check} ON {table}")
    distinct = made.maybe("NULLS NOT DISTINCT ") if made.version >= 15 else ""
    deferred = made.maybe(" DEFERRABLE")
    made.do(f"ALTER TABLE {table} ADD CONSTRAINT {made.name()} UNIQUE {distinct}(num) INCLUDE (late){deferred}")
    made.do(f"ALTER TABLE {table} ADD COLUMN during tstzrange")
    made.do(
        f"ALTER TABLE {table} ADD CONSTRAINT {made.name()} EXCLUDE USING gist (during WITH &&) "
        f"WHERE (num > 0){made.maybe(' DEFERRABLE INITIALLY DEFERRED')}"
    )
    if made.version >= 18:
        made.do(f"ALTER TABLE {table} ADD CONSTRAINT {made.name()} CHECK ({texts} <> 'never') NOT ENFORCED")
        made.do(f"ALTER TABLE {table} ADD CONSTRAINT {made.name()} NOT NULL during NOT VALID")


def _column_options(made: Schema, table: str, texts: str, other: str) -> None:
    for change in (
        f"ALTER COLUMN {texts} SET STORAGE {made.pick('EXTERNAL', 'MAIN', 'PLAIN')}",
        f"ALTER COLUMN {texts} SET COMPRESSION pglz",
        f"ALTER COLUMN num SET STATISTICS {made.pick('0', '1234')}",
        "ALTER COLUMN late SET (n_distinct = -0.5, n_distinct_inherited = 7)",
        f"ALTER COLUMN {other} SET STATISTICS 10",
    ):
        if made.chance.random() < 0.6:
            made.do(f"ALTER TABLE {table} {change}")


def _indexes(made: Schema, table: str, key: str, texts: str) -> None:
    expression, unique = made.name(), made.name()
    where = table.partition('".')[0] + '"' if table.startswith('"') else "public"
    made.do(f"CREATE INDEX {expression} ON {table} (public.pure(num), lower({texts}) text_pattern_ops DESC NULLS LAST)")
    made.do(f"ALTER INDEX {where}.{expression} ALTER COLUMN 1 SET STATISTICS 77")
    made.comment(f"INDEX {where}.{expression}")
    made.do(f"CREATE INDEX {made.name()} ON {table} USING {made.pick('hash', 'btree')} ({texts}) WHERE num IS NOT NULL")
    many = "timestamptz_minmax_multi_ops(values_per_range = 16)"
    made.do(f"CREATE INDEX {made.name()} ON {table} USING brin (late {many}) WITH (pages_per_range = 7)")
    made.do(f"CREATE INDEX ON {table} USING gin (to_tsvector('simple', {texts})) WITH (fastupdate = off)")
    made.do(f"CREATE UNIQUE INDEX {unique} ON {table} ({key}, late) INCLUDE ({texts}) WITH (fillfactor = 50)")
    if made.chance.random() < 0.5:
        made.do(f"ALTER TABLE {table} REPLICA IDENTITY {made.pick('FULL', 'NOTHING', f'USING INDEX {unique}')}")
    if made.chance.random() < 0.5:
        made.do(f"ALTER TABLE {table} CLUSTER ON {unique}")
    made.do(f"CREATE INDEX {made.name()} ON {table} ((num + 1)) INCLUDE ({key})")


def _references(made: Schema) -> None:
    target = made.tables[0]
    kinds = ["ON DELETE CASCADE ON UPDATE SET NULL", "MATCH FULL", "DEFERRABLE INITIALLY DEFERRED", ""]
    kinds = [f"{kind} NOT VALID" for kind in kinds]  # no row refers to another
    for table in made.tables[1:4]:
        foreign = made.name()
        kind = made.chance.choice(kinds)
        made.do(f"ALTER TABLE {table} ADD CONSTRAINT {foreign} FOREIGN KEY (num) REFERENCES {target} {kind}")
        made.comment(f"CONSTRAINT {foreign} ON {table}")
    one, other = made.within(), made.within()  # each refers to the other, and to itself
    made.do(f"CREATE TABLE {one} (id int PRIMARY KEY, up int REFERENCES {one}, next int)")
    made.do(f"CREATE TABLE {other} (id int PRIMARY KEY, back int REFERENCES {one} ON DELETE SET NULL DEFERRABLE)")
    deferred = "DEFERRABLE INITIALLY DEFERRED"
    made.do(f"ALTER TABLE {one} ADD CONSTRAINT {made.name()} FOREIGN KEY (next) REFERENCES {other} {deferred}")
    made.do(f"INSERT INTO {one} VALUES (2, 1, NULL), (1, 2, NULL)")
    made.do(f"INSERT INTO {other} VALUES (1, 2)")
    made.do(f"UPDATE {one} SET next = 1")
    if made.version >= 18:
        made.do(f"ALTER TABLE {other} ADD CONSTRAINT {made.name()} FOREIGN KEY (back) REFERENCES {one} NOT ENFORCED")
        made.do(
            f"CREATE TABLE {made.within()} (a int4range, during daterange, PRIMARY KEY (a, during WITHOUT OVERLAPS))"
        )


def _trees(made: Schema) -> None:
    parted, key = made.within(), made.name()
    columns = f"{key} int, at date, v text DEFAULT 'p', PRIMARY KEY ({key}, at)"
    made.do(f"CREATE TABLE {parted} ({columns}) PARTITION BY RANGE (at)")
    first, second, rest, sub = made.within(), made.within(), made.within(), made.within()
    made.do(f"CREATE TABLE {first} PARTITION OF {parted} FOR VALUES FROM (MINVALUE) TO ('2024-01-01')")
    bounds = "FROM ('2024-01-01') TO ('2025-01-01')"
    made.do(f"CREATE TABLE {second} PARTITION OF {parted} FOR VALUES {bounds} PARTITION BY LIST ({key})")
    checked = "(v DEFAULT 'sub', CHECK (v <> 'never'))"
    made.do(f"CREATE TABLE {sub} PARTITION OF {second} {checked} FOR VALUES IN (1, 2)")
    made.do(f"CREATE TABLE {rest} (at date NOT NULL, v text, gone int, {key} int NOT NULL)")
    made.do(f"ALTER TABLE {rest} DROP COLUMN gone")
    made.do(f"ALTER TABLE {parted} ATTACH PARTITION {rest} DEFAULT")
    index, apart = made.name(), made.name()
    made.do(f"CREATE INDEX {index} ON {parted} (v, at)")
    where = parted.rpartition(".")[0] if parted.startswith("public.") else parted[: parted.index('".') + 1]
    made.comment(f"INDEX {where}.{index}")
    made.do(f"CREATE INDEX {apart} ON ONLY {parted} (at)")  # no partition has one: it stays invalid
    made.do(f"INSERT INTO {parted} VALUES (1, '-infinity', 'a'), (1, '2024-06-01', DEFAULT), (3, '2030-01-01', NULL)")
    made.do(f"CREATE TRIGGER {made.name()} AFTER UPDATE ON {parted} FOR EACH ROW EXECUTE FUNCTION public.fired()")
    made.do(f"CREATE TABLE {made.within()} (k int, at date, FOREIGN KEY (k, at) REFERENCES {parted})")
    hashed = made.within()
    made.do(f"CREATE TABLE {hashed} (k int, t text) PARTITION BY HASH (k, lower(t))")
    for remainder in range(2):
        made.do(
            f"CREATE TABLE {made.within()} PARTITION OF {hashed} FOR VALUES WITH (MODULUS 2, REMAINDER {remainder})"
        )
    made.do(f"INSERT INTO {hashed} SELECT g, 'x' || g FROM generate_series(1, 20) g")
    made.do(f"CREATE TABLE {made.within()} (k int) PARTITION BY RANGE ((public.pure(k)))")
    parent, other, child = made.within(), made.within(), made.within()
    made.do(f"CREATE TABLE {parent} (a int NOT NULL, b text DEFAULT 'b', CONSTRAINT {made.name()} CHECK (a > 0))")
    made.do(f"CREATE TABLE {other} (b text, c int CHECK (c > 0) NO INHERIT)")
    made.do(f"CREATE TABLE {child} (b text DEFAULT 'child', d int) INHERITS ({parent}, {other})")
    made.do(f"INSERT INTO {parent} VALUES (1, 'x'); INSERT INTO {child} (a, c, d) VALUES (2, 3, 4)")
    late = made.within()
    made.do(f"CREATE TABLE {late} (LIKE {parent} INCLUDING ALL, e int)")
    made.do(f"ALTER TABLE {late} INHERIT {parent}")
    typed = made.within()
    made.do(f"CREATE TABLE {typed} OF {made.types[3][0]}")
    made.tables += [parted, parent]


def _more_trees(made: Schema) -> None:
    """Partitions with columns in another order, attached with indexes of their own names; by odd values; three deep."""
    listed, attached, odd = made.within(), made.within(), made.bare()
    made.do(f"CREATE TABLE {listed} (id int NOT NULL, label text, UNIQUE (label, id)) PARTITION BY LIST (label)")
    made.do(f"CREATE TABLE {attached} (gone int, label text, id int NOT NULL)")
    made.do(f"ALTER TABLE {attached} DROP COLUMN gone, ADD CONSTRAINT {made.name()} UNIQUE (label, id)")
    made.do(f"CREATE INDEX {made.name()} ON {attached} (id)")
    made.do(f"ALTER TABLE {listed} ATTACH PARTITION {attached} FOR VALUES IN ({literal(odd)}, NULL)")
    made.do(f"CREATE INDEX {made.name()} ON {listed} (id)")
    made.do(f"INSERT INTO {listed} VALUES (1, {literal(odd)}), (2, NULL)")
    made.do(f"CREATE STATISTICS {made.within()} ON id, label FROM {attached}")
    trigger = made.name()
    made.do(f"CREATE TRIGGER {trigger} AFTER INSERT ON {listed} FOR EACH ROW EXECUTE FUNCTION public.fired()")
    made.do(f"ALTER TABLE {attached} DISABLE TRIGGER {trigger}")
    top, middle, leaf = made.within(), made.within(), made.within()
    made.do(f"CREATE TABLE {top} (a int, b text, c date) PARTITION BY RANGE (a, b)")
    made.do(f"CREATE TABLE {middle} PARTITION OF {top} FOR VALUES FROM (1, MINVALUE) TO (9, 'z') PARTITION BY HASH (c)")
    made.do(
        f"CREATE TABLE {leaf} PARTITION OF {middle} FOR VALUES WITH (MODULUS 1, REMAINDER 0) WITH (fillfactor = 50)"
    )
    made.do(f"CREATE UNIQUE INDEX {made.name()} ON {top} (a, b, c)")
    made.do(f"INSERT INTO {top} VALUES (2, 'b', NULL), (2, 'b', 'infinity')")
    made.do(f"ALTER TABLE {leaf} ENABLE ROW LEVEL SECURITY")
    if made.version >= 17:
        numbered = made.within()
        made.do(f"CREATE TABLE {numbered} (id int GENERATED ALWAYS AS IDENTITY, k int) PARTITION BY LIST (k)")
        made.do(f"CREATE TABLE {made.within()} PARTITION OF {numbered} DEFAULT")
        made.do(f"INSERT INTO {numbered} (k) VALUES (1), (2)")
    left, right, both = made.within(), made.within(), made.within()
    made.do(f"CREATE TABLE {left} (a int DEFAULT 1, b int)")
    made.do(f"CREATE TABLE {right} (a int DEFAULT 2, c int) WITH (autovacuum_enabled = off)")
    made.do(
        f"CREATE TABLE {both} (a int DEFAULT 3, d int GENERATED ALWAYS AS (a + 1) STORED) INHERITS ({right}, {left})"
    )
    made.do(f"ALTER TABLE {both} ALTER COLUMN a SET STATISTICS 3, ALTER COLUMN b SET DEFAULT 4")
    made.do(f"CREATE TABLE {made.within()} () INHERITS ({both})")
    made.do(f"ALTER TABLE ONLY {left} ADD CONSTRAINT {made.name()} CHECK (b > 0) NO INHERIT")
    if made.version >= 18:
        made.do(f"ALTER TABLE {left} ADD CONSTRAINT {made.name()} NOT NULL b")
        made.do(f"ALTER TABLE {right} ADD CONSTRAINT {made.name()} NOT NULL c NO INHERIT")


def _dependences(made: Schema) -> None:
    """What needs each other in a circle, or needs a table where one does not look for it."""
    base, view, over = made.within(), made.within(), made.within()
    made.do(f"CREATE TABLE {base} (id int PRIMARY KEY, v text)")
    made.do(f"INSERT INTO {base} VALUES (1, 'one')")
    made.do(f"CREATE VIEW {view} AS SELECT id, v FROM {base}")
    made.do(f"CREATE FUNCTION {over}() RETURNS SETOF {view} STABLE LANGUAGE sql AS 'SELECT 1, NULL::text'")
    made.do(f"CREATE OR REPLACE VIEW {view} AS SELECT id, v FROM {base} UNION ALL SELECT id, v FROM {over}()")
    atomic = made.within()
    made.do(f"CREATE FUNCTION {atomic}() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM {view}; END")
    made.do(f"CREATE TABLE {made.within()} (n bigint DEFAULT {atomic}(), row {base}, rows {base}[])")
    made.do(f"CREATE FUNCTION {made.within()}({base}) RETURNS text STABLE LANGUAGE sql AS 'SELECT $1.v'")
    made.do(f"CREATE MATERIALIZED VIEW {made.within()} AS SELECT *, {atomic}() FROM {view}")
    where = made.chance.choice(made.schemas)
    early, owned = f"{where}.{made.name()}", f"{where}.{made.name()}"
    made.do(f"CREATE SEQUENCE {early}")
    counted = f"DEFAULT nextval({literal(early)})"
    made.do(f"CREATE TABLE {owned} (id int {counted}, other int {counted})")
    made.do(f"ALTER SEQUENCE {early} OWNED BY {owned}.other")
    made.do(f"INSERT INTO {owned} DEFAULT VALUES")
    rules = made.within()
    made.do(f"CREATE TABLE {rules} (LIKE {base} INCLUDING ALL)")
    made.do(
        f"CREATE RULE {made.name()} AS ON INSERT TO {view} DO INSTEAD INSERT INTO {rules} VALUES (NEW.*) RETURNING *"
    )
    made.do(
        f"CREATE RULE {made.name()} AS ON UPDATE TO {base} DO ALSO INSERT INTO {rules} VALUES (OLD.id + 100, NEW.v)"
    )
    made.do(f"ALTER VIEW {view} SET (security_barrier)")
    made.do(f"CREATE OPERATOR {made.schemas[2]}.|-| (FUNCTION = int4mi, LEFTARG = int, RIGHTARG = int)")
    made.do(f"CREATE VIEW {made.within()} AS SELECT id OPERATOR({made.schemas[2]}.|-|) 1 AS less FROM {base}")
    made.do(f"CREATE INDEX {made.name()} ON {base} ((id OPERATOR({made.schemas[2]}.|-|) 1))")
    made.do(f"REVOKE TRUNCATE, REFERENCES, DELETE ON {base} FROM {OWNER}")


def _extras(made: Schema) -> None:
    if "icu" in made.extras and "utf-8" in made.extras:
        loose, table = made.within(), made.within()
        made.do(f"CREATE COLLATION {loose} (PROVIDER = icu, LOCALE = 'und-u-ks-level2', DETERMINISTIC = false)")
        made.do(f"CREATE TABLE {table} (t text COLLATE {loose} PRIMARY KEY)")
        made.do(f"INSERT INTO {table} VALUES ('x')")
    if made.version >= 17 and "utf-8" in made.extras:
        made.do(f"CREATE COLLATION {made.within()} (PROVIDER = builtin, LOCALE = 'C.UTF-8')")
    if "xml" in made.extras:
        table = made.within()
        made.do(f"CREATE TABLE {table} (x xml, y xml[])")
        values = """'<a b="1">&lt;</a>', ARRAY['<?xml version="1.0"?><b/>'::xml, 'text']"""
        made.do(f"INSERT INTO {table} VALUES ({values})")
    hidden = made.within()
    made.do(f"CREATE TABLE {hidden} (who text DEFAULT current_user, id int PRIMARY KEY, up int REFERENCES {hidden})")
    made.do(f"INSERT INTO {hidden} (id, up) VALUES (1, NULL), (2, 1)")
    made.do(f"CREATE POLICY {made.name()} ON {hidden} FOR SELECT TO {RO} USING (id > 1)")
    made.do(f"ALTER TABLE {hidden} ENABLE ROW LEVEL SECURITY")
    if "forced" in made.extras:
        made.do(f"ALTER TABLE {hidden} FORCE ROW LEVEL SECURITY")
    # after that, since a restore fills it anew
    made.do(f"CREATE MATERIALIZED VIEW {made.within()} AS SELECT count(*) FROM {hidden}")


def _views(made: Schema) -> None:
    table = made.tables[0]
    first, second = made.within(), made.within()
    options = ["security_barrier", "check_option = local", "check_option = cascaded"]
    options += ["security_invoker"] if made.version >= 15 else []
    made.do(f"CREATE VIEW {first} WITH ({made.chance.choice(options)}) AS SELECT * FROM {table} WHERE num < 5")
    made.do(f"CREATE VIEW {second} ({made.name()}, {made.name()}) AS SELECT num, {made.text()}::text FROM {first}")
    made.comment(f"VIEW {first}")
    made.do(f"ALTER VIEW {first} ALTER COLUMN num SET DEFAULT 3")
    made.do(
        f"CREATE VIEW {made.within()} AS WITH RECURSIVE r(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM r WHERE n < 3) "
        f"SELECT n, row_number() OVER w, (SELECT count(*) FROM {table} WHERE num = r.n) FROM r WINDOW w AS (ORDER BY n)"
    )
    made.do(f"CREATE TRIGGER {made.name()} INSTEAD OF INSERT ON {second} FOR EACH ROW EXECUTE FUNCTION public.fired()")
    made.do(f"CREATE VIEW {made.within()} AS SELECT o.*, o FROM {made.tables[-1]} o GROUP BY o.a, o.b, o")
    one, filled = made.within(), made.within()
    made.do(f"CREATE MATERIALIZED VIEW {filled} AS SELECT count(*) AS n, sum(num) AS s FROM {table}")
    made.do(
        f"CREATE MATERIALIZED VIEW {one} WITH (fillfactor = 50) AS SELECT n FROM {filled}{made.maybe(' WITH NO DATA')}"
    )
    made.do(f"CREATE UNIQUE INDEX {made.name()} ON {one} (n)")
    made.do(f"ALTER MATERIALIZED VIEW {filled} ALTER COLUMN s SET STATISTICS 5")
    made.comment(f"MATERIALIZED VIEW {one}")
    for each in (first, second, one, filled):
        made.do(f"GRANT SELECT ON {each} TO {made.pick(RO, RW, 'PUBLIC')}")
    # a view that needs a primary key for what it groups by, and a rule that makes a table of its own
    grouped = made.within()
    made.do(f"CREATE TABLE {grouped} (id int PRIMARY KEY, v text)")
    made.do(f"CREATE VIEW {made.within()} AS SELECT id, v, count(*) FROM {grouped} GROUP BY id")


def _rules(made: Schema) -> None:
    for table in made.tables[:3]:
        trigger, rule = made.name(), made.name()
        made.do(
            f"CREATE TRIGGER {trigger} {made.pick('BEFORE', 'AFTER')} INSERT OR UPDATE OF num ON {table} FOR EACH ROW "
            f"WHEN (NEW.num > 5) EXECUTE FUNCTION public.fired({made.text()}, 'x')"
        )
        made.comment(f"TRIGGER {trigger} ON {table}")
        made.do(
            f"ALTER TABLE {table} {made.pick('DISABLE', 'ENABLE REPLICA', 'ENABLE ALWAYS', 'ENABLE')} TRIGGER {trigger}"
        )
        made.do(
            f"CREATE TRIGGER {made.name()} AFTER DELETE ON {table} REFERENCING OLD TABLE AS {made.name()} "
            "FOR EACH STATEMENT EXECUTE FUNCTION public.fired()"
        )
        made.do(
            f"CREATE CONSTRAINT TRIGGER {made.name()} AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION public.fired()"
        )
        action = made.pick("INSTEAD NOTHING", "ALSO SELECT OLD.num")
        made.do(f"CREATE RULE {rule} AS ON DELETE TO {table} WHERE OLD.num > 99 DO {action}")
        made.comment(f"RULE {rule} ON {table}")
        made.do(f"ALTER TABLE {table} {made.pick('DISABLE', 'ENABLE REPLICA', 'ENABLE ALWAYS', 'ENABLE')} RULE {rule}")
        start = made.bare()
        policy, longer = quoted(start), quoted(f"{start[:15]} y")  # the one begins with the other
        kind = made.pick("PERMISSIVE", "RESTRICTIVE")
        made.do(f"CREATE POLICY {policy} ON {table} AS {kind} FOR ALL USING (num < 100) WITH CHECK (true)")
        made.comment(f"POLICY {policy} ON {table}")
        roles = made.pick(RO, RW, f"{RO}, {RW}")
        made.do(f"CREATE POLICY {longer} ON {table} FOR SELECT TO {roles} USING (public.pure(num) > 1)")
    made.do(f"ALTER TABLE {made.tables[1]} ENABLE ROW LEVEL SECURITY")


def _rights(made: Schema) -> None:
    for table in made.tables:
        made.do(f"REVOKE {made.pick('ALL', 'SELECT', 'INSERT, DELETE')} ON {table} FROM {made.pick(RO, RW)}")
        option = made.maybe(" WITH GRANT OPTION")
        right = made.pick("SELECT", "TRIGGER, REFERENCES", "TRUNCATE", "ALL")
        made.do(f"GRANT {right} ON {table} TO {made.pick(RO, RW, USER)}{option}")
    table = made.tables[0]
    made.do(f"GRANT SELECT (num, late), UPDATE (num) ON {table} TO {RO} WITH GRANT OPTION")
    made.do(f"GRANT INSERT (num) ON {table} TO PUBLIC")
    made.do(f"GRANT USAGE, CREATE ON SCHEMA {made.schemas[1]} TO {RW}{made.maybe(' WITH GRANT OPTION')}")
    own = f"{made.schemas[1]}.{made.name()}"
    made.by_user.append(f"CREATE TABLE {own} (id serial PRIMARY KEY, t text)")
    made.by_user.append(f"GRANT SELECT ON {own} TO {RO} WITH GRANT OPTION")
    made.by_user.append(f"CREATE FUNCTION {made.schemas[1]}.{made.name()}() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    made.by_user.append(f"SELECT lo_from_bytea(70003, 'mine'); GRANT SELECT ON LARGE OBJECT 70003 TO {RO}")
    made.do(f"REVOKE USAGE ON SCHEMA {made.schemas[2]} FROM {RO}")
    passed = made.within()
    made.do(f"CREATE TABLE {passed} (id int)")
    made.do(f"GRANT SELECT, UPDATE ON {passed} TO {USER} WITH GRANT OPTION")
    made.by_user.append(f"GRANT SELECT, UPDATE (id) ON {passed} TO {RO}, PUBLIC")


def _large_objects(made: Schema) -> None:
    for number in (70001, 70002):
        made.do(f"SELECT lo_from_bytea({number}, decode(repeat('ab00', {made.pick('0', '1', '5000')}), 'hex'))")
        made.do(f"COMMENT ON LARGE OBJECT {number} IS {made.text()}")
    made.do(f"GRANT SELECT ON LARGE OBJECT 70001 TO {RO}{made.maybe(' WITH GRANT OPTION')}")


def _settings(made: Schema) -> None:
    path = f"{made.schemas[1]}, public, {made.name()}"
    value = made.pick("work_mem = '7MB'", "DateStyle = SQL", "TimeZone = 'Asia/Tokyo'")
    made.settings.append(f"ALTER DATABASE DATABASE SET {value}")
    own = f"ALTER ROLE {USER} IN DATABASE DATABASE SET"  # in the words of the database's encoding, and not the admin's
    made.by_user.append(f"SET ROLE NONE; {own} search_path = {path}; {own} extra_float_digits = 3; RESET ROLE")
    made.settings.append(made.maybe(f"ALTER ROLE {USER} IN DATABASE DATABASE SET search_path = {path}"))


def _publications(made: Schema) -> None:
    """Of tables that are named, which the owner may; of all tables, an admin makes them, and they stay away."""
    for table in made.tables[:2]:
        name = made.name()
        some, rows = "", ""
        if made.version >= 15:
            some, rows = made.maybe(" (num, late)"), made.maybe(" WHERE (num > 1)")
        which = (
            made.pick("insert", "insert, truncate", "insert, update, delete, truncate") if not some + rows else "insert"
        )
        options = f"publish = '{which}'{made.maybe(', publish_via_partition_root')}"
        made.do(f"CREATE PUBLICATION {name} FOR TABLE {made.pick('', 'ONLY ')}{table}{some}{rows} WITH ({options})")
        made.comment(f"PUBLICATION {name}")
    made.do(f"CREATE PUBLICATION {made.name()}")


def _extensions(made: Schema) -> None:
    """Trusted ones, which the owner may make: members of a database that no dump has."""
    there = sorted(extra.removeprefix("extension ") for extra in made.extras if extra.startswith("extension "))
    for name in made.chance.sample(there, min(2, len(there))):
        where = made.chance.choice(made.schemas)
        if name == "tt_trusted" and re.search(r"[$'\\]|\".*\".*\"", where):  # a script takes no such name
            where = "public"
        made.do(f"CREATE EXTENSION {name} SCHEMA {where}")
        made.comment(f"EXTENSION {name}")
        if name in ("citext", "hstore", "ltree"):
            table = made.within()
            made.do(f"CREATE TABLE {table} (v {where}.{name})")
            made.do(f"INSERT INTO {table} VALUES ({literal('a=>b' if name == 'hstore' else 'a')})")


def _narrowed(made: Schema) -> None:
    """What the manifest gives to a login, taken back in part; comments on what is rarely commented on."""
    table = made.within()
    made.do(f"CREATE TABLE {table} (id int, secret text)")
    made.do(f"REVOKE ALL ON {table} FROM {RO}")
    made.do(f"GRANT SELECT (id) ON {table} TO {RO}")
    made.do(f"REVOKE UPDATE, DELETE ON {table} FROM {RW}")
    made.do(f"GRANT UPDATE (secret) ON {table} TO {RW}")
    made.by_user.append(f"INSERT INTO {table} VALUES (1, 'x')")
    collation, statistics, view = made.within(), made.within(), made.within()
    made.do(f"CREATE COLLATION {collation} (LOCALE = 'C'); CREATE STATISTICS {statistics} ON id, secret FROM {table}")
    made.do(f"CREATE VIEW {view} AS SELECT id FROM {table}")
    made.do(f"CREATE RULE {made.name()} AS ON DELETE TO {view} DO INSTEAD NOTHING")
    for what in (f"COLLATION {collation}", f"STATISTICS {statistics}", f"COLUMN {view}.id", "LARGE OBJECT 70004"):
        made.comments.append(f"COMMENT ON {what} IS {made.text()}")
    made.do("SELECT lo_from_bytea(70004, 'kept')")
    made.do(f"REVOKE UPDATE ON LARGE OBJECT 70004 FROM {OWNER}; GRANT SELECT, UPDATE ON LARGE OBJECT 70004 TO {RW}")


def _of_superusers(made: Schema) -> None:
    """One thing that takes an admin, or is the database's, in the place of which no set is put while it is there."""
    made.do("CREATE FUNCTION public.noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
    name, wrapper, user = made.name(), made.name(), f"FOR {USER} SERVER"
    server = f"CREATE FOREIGN DATA WRAPPER {wrapper}; CREATE SERVER {name} FOREIGN DATA WRAPPER {wrapper}; "
    table = f"CREATE FOREIGN TABLE {made.within()} (id int) SERVER {name}; "
    made.by_superuser = made.chance.choice(
        (
            (f"CREATE EVENT TRIGGER {name} ON sql_drop EXECUTE FUNCTION public.noted()", "event trigger"),
            (f"{server}CREATE USER MAPPING {user} {name} OPTIONS (password 'geheim')", "user mapping"),
            (f"{server}{table}", "foreign table"),
            (f"CREATE PUBLICATION {name} FOR ALL TABLES", "publication"),
            (
                "SET allow_system_table_mods = on; INSERT INTO pg_shseclabel "
                "SELECT oid, 'pg_database'::regclass, 'anon', 'x' FROM pg_database WHERE datname = current_database()",
                "security label of anon",
            ),
        )
    )


_PARTS: Final[Sequence[Callable[[Schema], None]]] = (
    _schemas,
    _types,
    _functions,
    _operators,
    _sequences,
    _tables,
    _trees,
    _references,
    _more_trees,
    _dependences,
    _extras,
    _views,
    _rules,
    _rights,
    _large_objects,
    _settings,
    _publications,
    _extensions,
    _narrowed,
    _of_superusers,
)
