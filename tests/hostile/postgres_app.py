"""A Postgres app that means harm, with nothing but the logins that were issued to it.

It fills its database with traps (postgres_traps.sql) in every spot where a server evaluates what somebody has made,
with names that break careless quoting, and with settings that it stores for itself. `fill` says which spots the server
let it have; what a server refuses to every app is in `REFUSED`, so that no trap is missing unseen.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

TRAPS = (Path(__file__).parent / "postgres_traps.sql").read_text()

# Constants whose input calls the CHECK of a domain: a server evaluates it as soon as it reads the text of the constant.
_TYPES = """
CREATE DOMAIN trap.checked AS int CHECK (trap.number('domain', VALUE) IS NOT NULL);
CREATE TYPE trap.pair AS (a trap.checked, b text);
CREATE DOMAIN trap.pair_domain AS trap.pair CHECK (trap.pure('domain over a composite'));
CREATE TYPE trap.span AS RANGE (subtype = trap.checked, multirange_type_name = trap.spans);
CREATE TYPE trap.mood AS ENUM ('fine', 'it''s; DROP')
"""
_TYPES_BEFORE_14 = _TYPES.replace(", multirange_type_name = trap.spans", "")
CONSTANTS = {
    "composite": "('(1,x)'::trap.pair) IS NOT NULL",
    "array": "('{1,2}'::trap.checked[]) IS NOT NULL",
    "range": "('[1,2)'::trap.span) IS NOT NULL",
    "array of composites": """('{"(1,x)"}'::trap.pair[]) IS NOT NULL""",
    "nested": "('(1,x)'::trap.pair_domain) IS NOT NULL",
}

_ALL = " AND ".join(CONSTANTS.values())

SPOTS: Mapping[str, str] = {
    "check of a table": """
        CREATE TABLE trap.checks (a int CHECK (trap.number('check of a table', a) > 0),
          b int CONSTRAINT later CHECK (trap.pure('check with constants') AND {constants}));
        INSERT INTO trap.checks VALUES (1, 1), (2, 2)""",
    "check that is not valid": """
        CREATE TABLE trap.unproved (a int);
        INSERT INTO trap.unproved VALUES (1);
        ALTER TABLE trap.unproved ADD CONSTRAINT unproved CHECK (trap.number('check not valid', a) > 0) NOT VALID""",
    "columns of such types": """
        CREATE TABLE trap.typed (a trap.checked, b trap.pair, c trap.checked[], d trap.span, e trap.pair_domain,
          f trap.mood);
        INSERT INTO trap.typed VALUES (1, '(1,x)', '{{1,2}}', '[1,3)', '(2,y)', 'fine')""",
    "default": """
        CREATE TABLE trap.defaults (a int DEFAULT trap.number('default', 1), b trap.pair DEFAULT '(1,x)',
          c trap.checked[] DEFAULT '{{3}}', d trap.span DEFAULT '[1,2)', e text);
        INSERT INTO trap.defaults (e) VALUES ('x')""",
    "generated column": """
        CREATE TABLE trap.generates (a int, b int GENERATED ALWAYS AS (trap.number('generated column', a)) STORED);
        INSERT INTO trap.generates VALUES (1), (2)""",
    "virtual generated column": """
        CREATE TABLE trap.virtual (a int, b int GENERATED ALWAYS AS (a + 1) VIRTUAL);
        INSERT INTO trap.virtual VALUES (1)""",
    "index": """
        CREATE TABLE trap.indexed (a int, b text);
        INSERT INTO trap.indexed VALUES (1, 'x'), (2, 'y');
        CREATE INDEX "indexed; DROP" ON trap.indexed (trap.number('index expression', a));
        CREATE UNIQUE INDEX ON trap.indexed ((a + 0)) WHERE trap.pure('index predicate');
        CREATE INDEX ON trap.indexed (b) WHERE {constants};
        CREATE INDEX ON trap.indexed USING hash ((trap.word('hash index', b)))""",
    "exclusion constraint": """
        CREATE TABLE trap.excluded (a int, EXCLUDE USING btree ((trap.number('exclusion', a)) WITH =));
        INSERT INTO trap.excluded VALUES (1)""",
    "statistics": """
        CREATE TABLE trap.counted (a int, b int);
        INSERT INTO trap.counted SELECT n, n FROM generate_series(1, 20) n;
        CREATE STATISTICS trap.counts ON (trap.number('statistics expression', a)), b FROM trap.counted;
        ANALYZE trap.counted""",
    "partitions": """
        CREATE TABLE trap.parts (a int, b int) PARTITION BY RANGE (trap.number('partition key', a));
        CREATE TABLE trap.part_1 PARTITION OF trap.parts FOR VALUES FROM (trap.number('partition bound', 0)) TO (9);
        CREATE TABLE trap.part_d PARTITION OF trap.parts DEFAULT;
        INSERT INTO trap.parts VALUES (1, 1), (20, 2);
        CREATE TABLE trap.keyed (a int)
          PARTITION BY LIST ((a > 0 AND trap.pure('constant of a partition key') AND {constants}));
        CREATE TABLE trap.keyed_1 PARTITION OF trap.keyed FOR VALUES IN (true);
        INSERT INTO trap.keyed VALUES (1)""",
    "partitions of such types": """
        CREATE TABLE trap.lists (a trap.pair) PARTITION BY LIST (a);
        CREATE TABLE trap.list_1 PARTITION OF trap.lists FOR VALUES IN ('(1,x)');
        INSERT INTO trap.lists VALUES ('(1,x)')""",
    "policy for everybody": """
        CREATE TABLE trap.hidden (a int);
        INSERT INTO trap.hidden VALUES (1);
        ALTER TABLE trap.hidden ENABLE ROW LEVEL SECURITY;
        CREATE POLICY all_may ON trap.hidden USING (trap.pure('policy') AND {constants})
          WITH CHECK (trap.pure('policy check') AND {constants})""",
    "policy for roles by name": """
        CREATE TABLE trap.named (a int);
        INSERT INTO trap.named VALUES (1);
        ALTER TABLE trap.named ENABLE ROW LEVEL SECURITY;
        CREATE POLICY "some; may" ON trap.named TO {app}_user, {app}_readonly
          USING (trap.pure('policy by name') AND {constants}) WITH CHECK ({constants});
        CREATE POLICY "some; may not" ON trap.named AS RESTRICTIVE USING (a > 0);
        CREATE POLICY narrow ON trap.named AS RESTRICTIVE FOR SELECT TO {app}_readonly USING ({constants});
        COMMENT ON POLICY "some; may" ON trap.named IS 'x''; CREATE ROLE evil_comment; --'""",
    "forced policy": """
        CREATE TABLE trap.forced (a int);
        INSERT INTO trap.forced VALUES (1);
        ALTER TABLE trap.forced ENABLE ROW LEVEL SECURITY;
        ALTER TABLE trap.forced FORCE ROW LEVEL SECURITY;
        CREATE POLICY owner_may ON trap.forced USING (trap.pure('forced policy'))""",
    "rule": """
        CREATE TABLE trap.ruled (a int);
        INSERT INTO trap.ruled VALUES (1);
        CREATE RULE also AS ON UPDATE TO trap.ruled DO ALSO SELECT trap.sprung('rule'), {constants};
        CREATE RULE instead AS ON DELETE TO trap.ruled DO INSTEAD SELECT trap.sprung('rule instead')""",
    "view": """
        CREATE VIEW trap.seen AS SELECT trap.number('view', 1) AS a, {constants} AS b;
        CREATE VIEW trap.seen_by_owner WITH (security_barrier) AS SELECT trap.sprung('barrier view') AS a;
        CREATE VIEW public.pg_class AS SELECT trap.sprung('view called pg_class') AS oid;
        CREATE VIEW public.pg_roles AS SELECT trap.sprung('view called pg_roles') AS rolname""",
    "materialized view": """
        CREATE MATERIALIZED VIEW trap.kept AS SELECT trap.number('materialized view', 1) AS a, {constants} AS b;
        CREATE UNIQUE INDEX ON trap.kept (trap.number('index of a materialized view', a))""",
    "triggers": """
        CREATE TABLE trap.watched (a int);
        INSERT INTO trap.watched VALUES (1);
        CREATE TRIGGER by_row BEFORE INSERT OR UPDATE OR DELETE ON trap.watched
          FOR EACH ROW WHEN (trap.pure('trigger condition')) EXECUTE FUNCTION trap.on_row('row trigger');
        CREATE TRIGGER by_statement AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON trap.watched
          FOR EACH STATEMENT EXECUTE FUNCTION trap.on_row('statement trigger');
        CREATE CONSTRAINT TRIGGER at_the_end AFTER INSERT OR UPDATE ON trap.watched DEFERRABLE INITIALLY DEFERRED
          FOR EACH ROW EXECUTE FUNCTION trap.on_row('deferred trigger');
        ALTER TABLE trap.watched ENABLE ALWAYS TRIGGER by_row""",
    "function defaults": """
        CREATE FUNCTION trap.zz_default(a trap.pair DEFAULT '(1,x)', b trap.checked[] DEFAULT '{{1}}') RETURNS int
          LANGUAGE sql AS 'SELECT 1'""",
    "function with a parsed body": """
        CREATE FUNCTION trap.zz_atomic() RETURNS boolean LANGUAGE sql IMMUTABLE
          BEGIN ATOMIC SELECT trap.pure('parsed body') AND {constants}; END;
        CREATE TABLE trap.atomic (a int CHECK (trap.zz_atomic()));
        INSERT INTO trap.atomic VALUES (1)""",
    "definer": """
        CREATE FUNCTION trap.zz_definer() RETURNS boolean LANGUAGE sql SECURITY DEFINER AS
          'SELECT trap.sprung(''definer'')';
        CREATE PROCEDURE trap.zz_procedure() LANGUAGE plpgsql AS 'BEGIN PERFORM trap.sprung(''procedure''); END'""",
    "cast": """
        CREATE CAST (trap.pair AS text) WITH FUNCTION trap.pair_text(trap.pair) AS ASSIGNMENT;
        CREATE CAST (trap.mood AS text) WITH FUNCTION trap.mood_text(trap.mood) AS IMPLICIT;
        CREATE CAST (trap.pair AS int) WITH FUNCTION trap.pair_number(trap.pair) AS IMPLICIT;
        CREATE TABLE trap.cast (a trap.pair, b trap.mood);
        INSERT INTO trap.cast VALUES ('(1,x)', 'fine')""",
    "operator": """
        CREATE OPERATOR trap.= (LEFTARG = trap.pair, RIGHTARG = trap.pair, FUNCTION = trap.pair_equal, COMMUTATOR = =);
        CREATE OPERATOR trap.~~~ (LEFTARG = int, RIGHTARG = int, FUNCTION = trap.int_equal);
        CREATE OPERATOR public.= (LEFTARG = trap.mood, RIGHTARG = trap.mood, FUNCTION = trap.mood_equal);
        CREATE TABLE trap.operated (a int CHECK (a OPERATOR(trap.~~~) a));
        INSERT INTO trap.operated VALUES (1)""",
    "aggregate": """
        CREATE AGGREGATE trap.gather (int) (SFUNC = trap.int_sum, STYPE = int, INITCOND = '0');
        CREATE AGGREGATE public.sum (trap.mood) (SFUNC = trap.mood_sum, STYPE = int, INITCOND = '0');
        CREATE VIEW trap.gathered AS SELECT trap.gather(a) FROM trap.counted""",
    "collation": """
        CREATE COLLATION trap."C; DROP" (LOCALE = 'C');
        CREATE TABLE trap.collated (a text COLLATE trap."C; DROP" PRIMARY KEY);
        INSERT INTO trap.collated VALUES ('x')""",
    "range with a function of its own": """
        CREATE TYPE trap.measured AS RANGE (subtype = float8, subtype_diff = trap.distance);
        CREATE TABLE trap.measures (a trap.measured);
        INSERT INTO trap.measures VALUES ('[1,2]');
        CREATE INDEX ON trap.measures USING gist (a)""",
    "text search": """
        CREATE TEXT SEARCH DICTIONARY trap.words (TEMPLATE = pg_catalog.simple);
        CREATE TEXT SEARCH CONFIGURATION trap.speech (COPY = pg_catalog.simple);
        CREATE TABLE trap.spoken (a text);
        INSERT INTO trap.spoken VALUES ('x');
        CREATE INDEX ON trap.spoken USING gin (to_tsvector('trap.speech', a))""",
    "conversion": "CREATE DEFAULT CONVERSION public.mine FOR 'UTF8' TO 'LATIN1' FROM pg_catalog.utf8_to_iso8859_1",
    "foreign key with a function of its own": """
        CREATE TABLE trap.master (a trap.checked PRIMARY KEY);
        INSERT INTO trap.master VALUES (1);
        CREATE TABLE trap.detail (a trap.checked REFERENCES trap.master ON DELETE CASCADE);
        INSERT INTO trap.detail VALUES (1)""",
    "identity and sequences": """
        CREATE TABLE trap.numbered (a int GENERATED ALWAYS AS IDENTITY, b serial);
        INSERT INTO trap.numbered DEFAULT VALUES;
        CREATE SEQUENCE trap."seq'; SELECT trap.sprung('sequence'); --" START 5""",
    "publication": "CREATE PUBLICATION \"news; DROP\" FOR TABLE trap.counted",
    "publication filter": "CREATE PUBLICATION filtered FOR TABLE trap.indexed WHERE (a > 0)",
    "large objects": """
        SELECT lo_from_bytea(70001, 'kept'::bytea);
        COMMENT ON LARGE OBJECT 70001 IS 'x''; CREATE ROLE evil_lo; --'""",
    "trusted extension": """
        CREATE EXTENSION cube SCHEMA public;
        CREATE FUNCTION trap.zz_member() RETURNS boolean LANGUAGE sql SECURITY DEFINER AS
          'SELECT trap.sprung(''member of an extension'')';
        ALTER EXTENSION cube ADD FUNCTION trap.zz_member();
        CREATE TABLE trap.cubes (a cube);
        INSERT INTO trap.cubes VALUES ('(1,2)');
        ALTER EXTENSION cube ADD TABLE trap.cubes""",
    "trusted extension in its own schema": """
        CREATE SCHEMA "ext'; DROP";
        CREATE EXTENSION citext SCHEMA "ext'; DROP";
        CREATE TABLE trap.case (a "ext'; DROP".citext PRIMARY KEY);
        INSERT INTO trap.case VALUES ('x')""",
    "functions called like the server's": """
        CREATE FUNCTION public.starts_with(text, varchar) RETURNS boolean LANGUAGE sql AS
          'SELECT trap.sprung(''called starts_with'')';
        CREATE FUNCTION public.format(text, name) RETURNS text LANGUAGE sql AS
          'SELECT trap.sprung(''called format'')::text';
        CREATE FUNCTION public.pg_get_userbyid(bigint) RETURNS name LANGUAGE sql AS
          'SELECT trap.sprung(''called pg_get_userbyid'')::text::name';
        CREATE FUNCTION public.count(anyelement) RETURNS bigint LANGUAGE sql AS
          'SELECT trap.sprung(''called count'')::int::bigint';
        CREATE FUNCTION public.concat(anyelement) RETURNS text LANGUAGE sql AS
          'SELECT trap.word(''called concat'', ''x'')';
        CREATE FUNCTION public.set_config(text, varchar, boolean) RETURNS text LANGUAGE sql AS
          'SELECT trap.word(''called set_config'', ''x'')'""",
    "functions in a schema called like a role": """
        CREATE SCHEMA postgres;
        CREATE FUNCTION postgres.version() RETURNS text LANGUAGE sql AS
          'SELECT trap.sprung(''in the schema postgres'')::text';
        CREATE SCHEMA {app}_user;
        CREATE FUNCTION {app}_user.quote_ident(varchar) RETURNS text LANGUAGE sql AS
          'SELECT trap.word(''in the schema of the login'', $1)';
        CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE sql AS
          'SELECT trap.word(''called quote_ident'', $1::text)';
        CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = varchar, FUNCTION = trap.name_equal);
        CREATE OPERATOR public.|| (LEFTARG = name, RIGHTARG = varchar, FUNCTION = trap.name_joined)""",
    "default privileges": """
        ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
        ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
        ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC;
        ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM {app}_owner""",
    "open doors": """
        GRANT USAGE, CREATE ON SCHEMA trap, public TO PUBLIC;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trap, public TO PUBLIC""",
    # What a server refuses to every app.
    "event trigger": "CREATE EVENT TRIGGER evil ON ddl_command_end EXECUTE FUNCTION trap.on_event()",
    "operator class": """CREATE OPERATOR CLASS trap.pairs DEFAULT FOR TYPE trap.pair USING hash AS
        OPERATOR 1 trap.=, FUNCTION 1 trap.pair_hash(trap.pair)""",
    "base type": """CREATE TYPE trap.base; CREATE FUNCTION trap.base_in(cstring) RETURNS trap.base LANGUAGE internal
        IMMUTABLE STRICT AS 'textin'""",
    "foreign server": "CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw",
    "foreign data wrapper": "CREATE FOREIGN DATA WRAPPER evil",
    "subscription": "CREATE SUBSCRIPTION evil CONNECTION 'host=127.0.0.1' PUBLICATION x WITH (connect = false)",
    "function filter of a publication":
        "CREATE PUBLICATION trapped FOR TABLE trap.indexed WHERE (trap.pure('publication filter'))",
    "function in a virtual column":
        "CREATE TABLE trap.virtual_2 (a int, b int GENERATED ALWAYS AS (trap.number('virtual', a)) VIRTUAL)",
    "settings of its database": "ALTER DATABASE {app} SET search_path = public",
    "preloaded library": "ALTER ROLE {app}_user SET session_preload_libraries = 'evil'",
    "cast between types of others": "CREATE CAST (name AS int) WITHOUT FUNCTION",
    "language": "CREATE LANGUAGE evil HANDLER plpgsql_call_handler",
    "member of a trusted extension replaced":
        "CREATE OR REPLACE FUNCTION public.cube_dim(cube) RETURNS int LANGUAGE sql AS 'SELECT 1'",
}  # fmt: skip

# What a server refuses to every app; by the version from which on it is to be had, what there is not before.
REFUSED = frozenset(list(SPOTS)[list(SPOTS).index("event trigger") :])
SINCE = {"virtual generated column": 18, "publication filter": 15, "function with a parsed body": 14, "statistics": 14}

# Functions that operators, casts and aggregates are made of.
_FUNCTIONS = """
CREATE FUNCTION trap.pair_text(trap.pair) RETURNS text LANGUAGE sql IMMUTABLE AS
  'SELECT trap.word(''cast to text'', ''x'')';
CREATE FUNCTION trap.mood_text(trap.mood) RETURNS text LANGUAGE sql IMMUTABLE AS
  'SELECT trap.word(''cast of an enum'', ''x'')';
CREATE FUNCTION trap.pair_number(trap.pair) RETURNS int LANGUAGE sql IMMUTABLE AS
  'SELECT trap.number(''cast to int'', 1)';
CREATE FUNCTION trap.pair_equal(trap.pair, trap.pair) RETURNS boolean LANGUAGE sql IMMUTABLE AS
  'SELECT trap.pure(''operator ='')';
CREATE FUNCTION trap.mood_equal(trap.mood, trap.mood) RETURNS boolean LANGUAGE sql IMMUTABLE AS
  'SELECT trap.pure(''operator = of an enum'')';
CREATE FUNCTION trap.int_equal(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS
  'SELECT trap.pure(''operator ~~~'')';
CREATE FUNCTION trap.name_equal(name, varchar) RETURNS boolean LANGUAGE sql IMMUTABLE AS
  'SELECT trap.pure(''operator = of names'')';
CREATE FUNCTION trap.name_joined(name, varchar) RETURNS text LANGUAGE sql IMMUTABLE AS
  'SELECT trap.word(''operator || of names'', ''x'')';
CREATE FUNCTION trap.int_sum(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS
  'SELECT trap.number(''aggregate'', 1)';
CREATE FUNCTION trap.mood_sum(int, trap.mood) RETURNS int LANGUAGE sql IMMUTABLE AS
  'SELECT trap.number(''aggregate called sum'', 1)';
CREATE FUNCTION trap.pair_hash(trap.pair) RETURNS int LANGUAGE sql IMMUTABLE AS
  'SELECT trap.number(''hash support'', 1)';
CREATE FUNCTION trap.distance(float8, float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS
  'BEGIN PERFORM trap.sprung(''subtype difference''); RETURN $1 - $2; END'
"""

# Names, comments and values that break careless quoting in SQL, in psql, in a shell, on a terminal, in a format.
NAMES = (
    'a"b',
    "x'; CREATE ROLE evil_name SUPERUSER; --",
    'y"; CREATE ROLE evil_name SUPERUSER; --',
    "line one\nCREATE ROLE evil_line SUPERUSER;\n\\! touch evil_shell\n",
    "$$; CREATE ROLE evil_dollar SUPERUSER; $$",
    "back\\slash \\' ; CREATE ROLE evil_slash SUPERUSER; --",
    "ünïcödé" * 5,  # 60 bytes
    "%s %(a)s {0} :'verifier' {table}",
    "\x1b[2J\x1b[31m<script>alert(1)</script>",
    "$(touch evil_shell)`touch evil_shell`",
    "/* comment */ -- and */",
    "public.pg_class; ../../evil",
)


def _hostile_names() -> Iterator[sql.Composed]:
    for number, name in enumerate(NAMES):
        table, comment = sql.Identifier(name, name), sql.Literal(name)
        identifier = sql.Identifier(name)
        yield sql.SQL("CREATE SCHEMA {}").format(identifier)
        yield sql.SQL(
            "CREATE TABLE {table} ({name} int CONSTRAINT {name} CHECK ({name} > 0), other text DEFAULT {comment})"
        ).format(table=table, name=identifier, comment=comment)
        yield sql.SQL("INSERT INTO {} VALUES ({})").format(table, number + 1)
        yield sql.SQL("CREATE INDEX {} ON {} ({})").format(sql.Identifier(f"i{name}"[:50]), table, identifier)
        yield sql.SQL("COMMENT ON TABLE {} IS {}").format(table, comment)
        yield sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(table, identifier, comment)
        yield sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(identifier, table, comment)
        yield sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(table)
        yield sql.SQL("CREATE POLICY {} ON {} TO CURRENT_USER USING ({} <> 'x')").format(identifier, table, comment)
        yield sql.SQL("CREATE TYPE {} AS ENUM ({})").format(sql.Identifier(name, f"t{name}"[:50]), comment)
        yield sql.SQL("CREATE FUNCTION {}() RETURNS text LANGUAGE sql AS {}").format(
            table, sql.Literal(f"SELECT {comment.as_string(None)}::text")
        )
        yield sql.SQL("CREATE SEQUENCE {}").format(sql.Identifier(name, f"s{name}"[:50]))


# What a login stores for itself, and what a careless admin sends again. Each is tried by every login of the app.
_SETTINGS = (
    "SELECT set_config('search_path', 'x;CREATE/**/ROLE/**/evil_' || session_user || '/**/SUPERUSER', false)",
    "ALTER ROLE CURRENT_USER IN DATABASE {app} SET search_path FROM CURRENT",
    "RESET search_path",
    "ALTER ROLE CURRENT_USER SET search_path = public, '$user', pg_temp",
    "ALTER ROLE CURRENT_USER IN DATABASE {app} SET temp_tablespaces = ''",
    "SELECT set_config('trap.note', 'x''; CREATE ROLE evil_setting; --', false)",
    "ALTER ROLE CURRENT_USER IN DATABASE {app} SET trap.note FROM CURRENT",
    "ALTER ROLE CURRENT_USER IN DATABASE {app} SET \"DateStyle\" = 'German'",
    "ALTER ROLE CURRENT_USER IN DATABASE {app} SET application_name = 'x''; CREATE ROLE evil_setting; --'",
    "ALTER ROLE CURRENT_USER IN DATABASE {other} SET search_path FROM CURRENT",
    "ALTER ROLE CURRENT_USER IN DATABASE postgres SET statement_timeout = 1",
)


class HostileApp:
    """The app, by the variables that `multidb env --reveal` gives for it."""

    def __init__(self, app: str, env: Mapping[str, str], victim: str) -> None:
        self.app = app
        self.victim = victim
        prefix = app.upper()
        self.user = env["DATABASE_URL"]
        self.readonly = env[f"{prefix}_DB_READONLY_URL"]
        self.owner = env.get(f"{prefix}_DB_MIGRATE_URL", self.user)
        self.refusals: dict[str, str] = {}

    def fill(self, without: Collection[str] = ()) -> None:
        """Makes what the server lets it make; what it does not is in `refusals`."""
        with psycopg.connect(self.owner, autocommit=True) as connection:
            types = _TYPES if connection.info.server_version >= 140000 else _TYPES_BEFORE_14
            connection.execute("SELECT 1")
            for text in (TRAPS, types, _FUNCTIONS):
                connection.execute(text.encode())
            for spot, text in SPOTS.items():
                if spot in without:
                    continue
                filled = text.format(app=self.app, constants=_ALL).encode()
                with self._refusable(spot):
                    connection.execute(filled)
            for statement in _hostile_names():
                with self._refusable(statement.as_string(None)):
                    connection.execute(statement)
        for login in {self.user, self.owner, self.readonly}:
            self._settings(login)

    def _settings(self, login: str) -> None:
        with psycopg.connect(login, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute("SET ROLE NONE")
            for text in _SETTINGS:
                statement = text.format(app=self.app, other=self.victim)
                with self._refusable(statement):
                    connection.execute(statement.encode())

    @contextlib.contextmanager
    def _refusable(self, what: str) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            self.refusals[what] = f"{error.sqlstate} {error}"

    def call(self) -> None:
        """Calls whatever runs with the rights of who owns it: what a command left may be a way in."""
        with psycopg.connect(self.user, autocommit=True) as connection:
            found = connection.execute(
                "SELECT p.oid::regproc::text FROM pg_proc p WHERE p.prosecdef AND p.oid >= 16384 AND p.pronargs = 0"
                " AND has_function_privilege(p.oid, 'EXECUTE')"
            ).fetchall()
            for (name,) in found:
                with contextlib.suppress(psycopg.Error):
                    connection.execute(f"SELECT {name}()".encode())


class Swapper:
    """A session of the app that drops a table and makes a view of its name in one transaction, and commits as soon as
    somebody waits for the lock; then makes the table again. Goes on until stopped."""

    def __init__(self, app: HostileApp) -> None:
        self._app = app
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.swaps = 0

    def __enter__(self) -> Swapper:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._app.owner) as connection:
                    while not self._stop.is_set():
                        self._swap(connection)
            except psycopg.Error:
                self._stop.wait(0.2)  # its login is off, its session was ended, or its database is another one now

    def _swap(self, connection: psycopg.Connection[Any]) -> None:
        with connection.transaction():
            connection.execute("DROP VIEW IF EXISTS trap.zz_bait")
            connection.execute("CREATE TABLE IF NOT EXISTS trap.zz_bait (a int)")
            connection.execute("INSERT INTO trap.zz_bait VALUES (1)")
        self._stop.wait(0.3)
        with connection.transaction():
            connection.execute("DROP TABLE IF EXISTS trap.zz_bait")
            connection.execute("CREATE VIEW trap.zz_bait AS SELECT trap.number('swapped view', 1) AS a")
            for _ in range(40):
                waiting = connection.execute(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                ).fetchone()
                if self._stop.wait(0.05) or waiting != (0,):
                    break
            self.swaps += waiting != (0,)
