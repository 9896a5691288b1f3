"""A database elsewhere that is imported: read by the login that its address names, in read-only transactions, by
`pg_dump` and the queries with which a set is measured.

Nothing is made there, and nothing is called but what the server and its types have. What it says is data: names are
quoted, and the dump is loaded as a set's is, by a login that may do no more than the app.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Self, cast
from urllib.parse import unquote, urlsplit

from multidb.errors import ArchiveError, MultidbError, Refused, ServerError, ServerSlow, UsageError, WrongVersion
from multidb.model import App, Measures, Part, Progress, Server, SourceLocation, StoreContext, Survey, at_source, listed
from multidb.progress import ProgressTimer
from multidb.provisioners.postgres.backup import bound, configuration, contents, programs, storage
from multidb.provisioners.postgres.backup.bound import Beyond
from multidb.provisioners.postgres.backup.dump import FILE
from multidb.provisioners.postgres.backup.locales import Locale
from multidb.provisioners.postgres.backup.programs import Program
from multidb.provisioners.postgres.driver.connection import Connection, SessionOptions, Traffic
from multidb.provisioners.postgres.driver.signs import Signs
from multidb.provisioners.postgres.hosting.address import PostgresAddress
from multidb.provisioners.postgres.provision.options import STORE
from multidb.provisioners.postgres.provision.quoting import identifier, literal

__all__ = ["PostgresSource"]

_APPLICATION: Final = "multidb import"
_OLDEST: Final = 130000
_MOST: Final = 10
_LOCKED: Final = "55P03"

# What a server calls of the expressions of indexes, statistics and partition keys when it only plans to read their
# table, where it is neither the server's own nor a superuser's.
_CALLED: Final = """
WITH made (class, oid, owner) AS (
  SELECT 'pg_proc'::regclass, oid, proowner FROM pg_proc UNION ALL
  SELECT 'pg_operator'::regclass, oid, oprowner FROM pg_operator UNION ALL
  SELECT 'pg_type'::regclass, oid, typowner FROM pg_type WHERE typtype = 'd'),
planned (class, oid, name) AS (
  SELECT 'pg_class'::regclass, indexrelid, format('index %s', indexrelid::regclass) FROM pg_index
  WHERE indpred IS NOT NULL OR indexprs IS NOT NULL
  UNION ALL
  SELECT 'pg_statistic_ext'::regclass, s.oid, format('statistics %I.%I', n.nspname, s.stxname)
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
  UNION ALL
  SELECT 'pg_class'::regclass, partrelid, format('partition key of %s', partrelid::regclass) FROM pg_partitioned_table
  WHERE partexprs IS NOT NULL)
SELECT coalesce(json_agg(DISTINCT p.name), '[]'::json)
FROM planned p JOIN pg_depend d ON (d.classid, d.objid, d.objsubid) = (p.class, p.oid, 0)
JOIN made m ON (m.class, m.oid) = (d.refclassid, d.refobjid) JOIN pg_roles r ON r.oid = m.owner
WHERE NOT r.rolsuper AND EXISTS (
  SELECT FROM pg_roles WHERE rolsuper AND rolname IN (session_user, current_user))"""

# Beside what is measured: who has a share in it, what is set, what is replicated.
_OVERVIEW: Final = """
SELECT json_build_object(
  'size', pg_database_size(current_database()),
  'encoding', pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
  'provider', {provider}, 'locale', {locale}, 'rules', {rules}, 'version', {version},
  'owners', (SELECT coalesce(json_agg(DISTINCT pg_get_userbyid(o)), '[]'::json) FROM (
      SELECT relowner FROM pg_class WHERE oid >= 16384 UNION SELECT proowner FROM pg_proc WHERE oid >= 16384
      UNION SELECT nspowner FROM pg_namespace WHERE oid >= 16384
      UNION SELECT typowner FROM pg_type WHERE oid >= 16384) owner (o)),
  'grantees', (SELECT coalesce(json_agg(DISTINCT CASE x.grantee WHEN 0 THEN 'everybody'
                                                 ELSE pg_get_userbyid(x.grantee) END), '[]'::json)
    FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid >= 16384 AND x.grantee <> c.relowner),
  'configured', (SELECT coalesce(json_agg(pg_get_userbyid(setrole)), '[]'::json) FROM pg_db_role_setting s
    WHERE s.setdatabase = d.oid AND s.setrole <> 0),
  'subscriptions', (SELECT coalesce(json_agg(subname), '[]'::json) FROM pg_subscription WHERE subdbid = d.oid))
FROM pg_database d WHERE d.datname = current_database()"""
# Tables by the name that the measures have, with an estimate; -1: nobody has ever counted.
_ESTIMATES: Final = """
SELECT coalesce(json_object_agg(format('%I.%I', n.nspname, c.relname), c.reltuples::int8), '{}'::json)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.oid >= 16384 AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
  AND n.nspname <> 'information_schema' AND NOT EXISTS (
    SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')"""
_OTHERS: Final = """
SELECT json_build_object(
  'sequences', (SELECT count(*) FROM pg_class WHERE relkind = 'S' AND oid >= 16384),
  'views', (SELECT count(*) FROM pg_class WHERE relkind = 'v' AND oid >= 16384),
  'functions', (SELECT count(*) FROM pg_proc WHERE oid >= 16384),
  'large objects', (SELECT count(*) FROM pg_largeobject_metadata))"""
_MOMENT: Final = "SELECT pg_current_snapshot()::text"
# The role that the login becomes in this database by its own settings: it may have its rights through that alone.
_ROLE: Final = """
SELECT coalesce((SELECT substr(line, 6) FROM pg_db_role_setting s, unnest(s.setconfig) line, pg_roles r, pg_database d
  WHERE line LIKE 'role=_%' AND line <> 'role=none' AND r.rolname = session_user AND s.setrole = r.oid
    AND d.datname = current_database() AND s.setdatabase IN (0, d.oid)
  ORDER BY s.setdatabase DESC LIMIT 1), '')"""


class PostgresSource:
    """A database by its address; a `multidb.model.ImportSource`."""

    def __init__(self, location: SourceLocation) -> None:
        assert location.url is not None
        self._location = location
        self.where = location.text
        self._password = location.password
        endpoint = PostgresAddress(url=location.url).endpoint(Path())
        self._database = unquote(urlsplit(location.url).path.strip("/"))
        self.server = Server("the source", STORE, endpoint)
        self._signs = Signs(self.server, self._password, _APPLICATION)
        self._copied: tuple[str, Measures] | None = None  # of which moment, and what there was

    def __enter__(self) -> Self:
        if not self._database:
            raise UsageError("the address names no database", where=self.where, hint=f"{self.where.rstrip('/')}/NAME")
        with at_source(self._location, STORE):
            self._connection = self._connected()
        if self._connection.version < _OLDEST:
            version = self._connection.version // 10000
            self._connection.close()
            raise WrongVersion(
                f"is Postgres {version}, which is too old to be read while it works",
                where=self.where,
                hint="dump it with the pg_dump of a newer release (pg_dump --format=custom), and import the file",
            )
        self._connection.execute(*contents.READING, contents.STATEMENT_LIMIT)
        self._role = self._connection.ask(_ROLE)
        if self._role:
            self._connection.execute(f"SET ROLE {identifier(self._role)}")
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()
        self._signs.close()

    @property
    def major(self) -> int:
        return self._connection.version // 10000

    def _connected(self, *, own_zone: bool = False) -> Connection:
        options = SessionOptions(guarded=True, own_zone=own_zone, signs=self._signs.of_process)
        server, user = self.server, self.server.endpoint.user
        return Connection(
            server, self._password, _APPLICATION, Traffic(), database=self._database, user=user, options=options
        )

    # ------------------------------------------------------------------------------------------------------- survey

    def survey(self, app: App, context: StoreContext) -> Survey:
        ask = self._connection.ask
        overview, beyond = self.overview(), self._beyond(ask)
        estimates: Mapping[str, int] = json.loads(ask(_ESTIMATES))
        counts = {f"table {name}": max(count, 0) for name, count in estimates.items() if count >= 0}
        counts |= {name: count for name, count in json.loads(ask(_OTHERS)).items() if count}
        counts["tables"] = len(estimates)
        return Survey(
            product=f"PostgreSQL {self._version()}",
            counts=counts,
            estimated=bool(estimates),
            size=overview["size"],
            losses=tuple(self._losses(overview, beyond)),
            obstacles=tuple(self._obstacles(beyond)),
            warnings=tuple(self._warnings()),
        )

    def overview(self) -> Mapping[str, Any]:
        """What the database is, beside what is in it."""
        major = self.major
        known = {
            "provider": "d.datlocprovider" if major >= 15 else "'c'",
            "locale": "d.datlocale" if major >= 17 else "d.daticulocale" if major >= 15 else "NULL",
            "rules": "d.daticurules" if major >= 16 else "NULL",
            "version": "d.datcollversion" if major >= 15 else "NULL",
        }
        overview: Mapping[str, Any] = json.loads(self._connection.ask(_OVERVIEW.format(**known)))
        return overview

    def extensions(self) -> list[list[str]]:
        """Name, version and schema of those in the database, as a set has them of which nobody knows who made them."""
        rows = json.loads(self._connection.ask(contents.EXTENSIONS))
        return [[name, version, schema] for name, version, schema, _ in rows]

    def _version(self) -> str:
        return self._connection.ask("SELECT current_setting('server_version')").split(" ")[0]

    def _beyond(self, ask: Any) -> Beyond:
        return bound.beyond(self._beyond_document(ask))

    def _beyond_document(self, ask: Any) -> Mapping[str, Any]:
        makers = json.loads(
            ask("SELECT coalesce(json_agg(DISTINCT pg_get_userbyid(typowner)), '[]') FROM pg_type WHERE oid >= 16384")
        )
        document: Mapping[str, Any] = json.loads(ask(bound.inside(self._connection.version, (), makers)))
        return document

    def _losses(self, overview: Mapping[str, Any], beyond: Beyond) -> Iterator[str]:
        if overview["owners"]:
            yield f"roles stay there: what {listed(overview['owners'], _MOST)} has will be the app's"
        if overview["grantees"]:
            yield f"privileges of {listed(overview['grantees'], _MOST)} are not given; the manifest's are"
        if overview["configured"]:
            yield f"settings of logins are not made ({listed(sorted(overview['configured']), _MOST)})"
        if overview["subscriptions"]:
            yield f"subscriptions are not made: {listed(overview['subscriptions'], _MOST)}"
        if beyond.left:
            yield f"{listed(beyond.left, _MOST)}: an admin makes that, afterwards"
        if beyond.given:
            yield f"what extensions were given is in no dump: {listed(beyond.given, _MOST)}"
        if beyond.tablespaces:
            yield f"what is in tablespace {listed(beyond.tablespaces)} goes into one that the app may use"
        if left := json.loads(self._connection.ask(contents.INVALID)):
            yield f"indexes that are not valid: {listed(left, _MOST)}"
        policies = json.loads(self._connection.ask(contents.POLICIES))
        roles = sorted({str(role) for policy in policies for role in policy["roles"]})
        if roles:
            yield f"row policies for {listed(roles, _MOST)} become ones for the app's owner, where no such role is"

    def _warnings(self) -> Iterator[str]:
        if self._connection.ask("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == "t":
            yield (
                f"{self.server.endpoint.user} is a superuser there, and what others have made in that database could "
                "run as it while it is read: name a login that may only read (GRANT pg_read_all_data)"
            )

    def _obstacles(self, beyond: Beyond) -> Iterator[str]:
        if beyond.needed:
            yield (
                f"only an admin can make {listed(beyond.needed, _MOST)}, and other things may need it: take it away at "
                "the source, or load a dump by hand (docs/restore-by-hand.md)"
            )
        yield from self._against_reading()

    def _against_reading(self) -> Iterator[str]:
        """Why the rows cannot be read by this login, or must not be."""
        if called := json.loads(self._connection.ask(_CALLED)):
            yield (
                f"{listed(called, _MOST)} would call what others have made there as a superuser "
                f"({self.server.endpoint.user}): name a login that may only read (GRANT pg_read_all_data)"
            )
        yield from self._unreadable()

    def _unreadable(self) -> Iterator[str]:
        user = self.server.endpoint.user
        if others := json.loads(self._connection.ask(contents.UNREADABLE)):
            names = [f"{kind} {name}" for kind, name, *_ in others]
            yield f"{user} may not read {listed(names, _MOST)}: give it that at the source, or name another login"
        if hidden := json.loads(self._connection.ask(contents.HIDDEN)):
            yield (
                f"row security hides rows of {listed(hidden, _MOST)} from {user}: name a login that sees them "
                "(ALTER ROLE .. BYPASSRLS, at the source)"
            )

    # --------------------------------------------------------------------------------------------------------- copy

    def program(self, target: int) -> Program:
        """The pg_dump whose file can be loaded into a server of major version `target`: of the source's own version,
        which knows what its server writes into catalogs; else the nearest newer one that will do.

        Raises:
            ArchiveError: this machine has none.
        """
        tls = programs.needs_tls(self.server.endpoint)
        with contextlib.suppress(ArchiveError):
            return programs.find("pg_dump", self.major, self.where, tls=tls)
        return programs.find("pg_dump", target, self.where, tls=tls)

    @contextlib.contextmanager
    def dump(
        self, app: App, target: int, locale: Locale, progress: Progress, moment: str = ""
    ) -> Iterator[tuple[Part, SourceReader]]:
        """All of the database as of one moment, as a part of a set that is read while it is made; it is measured
        meanwhile.

        Args:
            target: the major version that it will be loaded into.
            locale: that of the database that it will be loaded into.
            moment: a snapshot that somebody else holds meanwhile; empty: now.

        Raises:
            Refused: the login may not read everything, or something cannot be loaded.
            ArchiveError: no pg_dump here fits, or it failed.
        """
        program, connection = self.program(target), self._connection
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            ask = connection.ask
            if moment:
                connection.execute(f"SET TRANSACTION SNAPSHOT {literal(moment)}")
            snapshot, seen = moment or ask("SELECT pg_export_snapshot()"), ask(_MOMENT)
            if against := list(self._against_reading()):
                raise Refused(against[0], where=self.where, hint="nothing was changed; then run the command again")
            part = self._part(app, program, locale)
            left_out = [pattern for pattern, *_ in json.loads(ask(configuration.KEPT_BACK))]
            tables = self._held(connection)
            encoding = str(self.overview()["encoding"])
            address = self._address(program)
            arguments = programs.dump_arguments(address, snapshot, encoding, left_out, role=self._role)
            with ThreadPoolExecutor(1) as beside:
                measuring = beside.submit(contents.measures, ask, tables)
                try:
                    yield part, SourceReader(self, program, arguments, progress)
                    self._copied = seen, measuring.result()
                except BaseException:
                    self._cancel(measuring)
                    raise
        finally:
            with contextlib.suppress(ServerError):
                connection.send("ROLLBACK")

    def copied(self) -> Measures | None:
        return self._copied[1] if self._copied is not None else None

    def measure(self, app: App, context: StoreContext) -> Measures:
        """Without looking at the rows again where no transaction has written anything on the whole server since."""
        connection = self._connection
        if self._copied is not None and connection.ask(_MOMENT) == self._copied[0]:
            return self._copied[1]
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            return contents.measures(connection.ask, self._held(connection))
        finally:
            with contextlib.suppress(ServerError):
                connection.send("ROLLBACK")

    def _part(self, app: App, program: Program, locale: Locale) -> Part:
        ask = self._connection.ask
        settings = [entry for entry in json.loads(ask(contents.STORED_SETTINGS)) if entry[0] is None]
        return Part(
            format="pg_dump custom 1",
            server=f"PostgreSQL {self._version()}",
            client=f"pg_dump {program.version}",
            consistent=True,
            measures=Measures(fingerprints=self._configured()),
            details={
                "app": app.id,
                "postgres": self.major,
                "dump": program.major,
                "extensions": self.extensions(),
                "extension_comments": json.loads(ask(contents.EXTENSION_COMMENTS)),
                "policies": json.loads(ask(contents.POLICIES)),
                "locale": locale.document(),
                "settings": settings,
                "zone": self.zone(),
                "path": ask(contents.PATH, ("",)) if ask(contents.CALLS) == "t" else None,
                "beyond": self._beyond_document(ask),
                "storage": storage.find(ask, self._connection.version),
            },
        )

    def _configured(self) -> dict[str, str]:
        """What extensions' tables for configuration have, which is loaded before anything else."""
        ask, fingerprints = self._connection.ask, {}
        for name, _, columns, condition in json.loads(ask(configuration.TABLES)):
            count, digest = contents.rows(ask, name, columns, condition or "")
            fingerprints[configuration.label(name)] = configuration.fingerprint(count, digest)
        return fingerprints

    def zone(self) -> str:
        """The time zone in which who works there does; empty where the login has one of its own instead."""
        stored, own = (self._connection.ask(contents.ZONE, (login,)) for login in ("", self.server.endpoint.user))
        if stored or own:
            return stored
        with self._connected(own_zone=True) as connection:
            return connection.ask("SELECT current_setting('TimeZone')")

    def _held(self, connection: Connection) -> contents.Contents:
        """What there is to measure, its tables locked against everything but reading and writing."""
        inventory = contents.read(connection.ask)
        for text in contents.locks(inventory.tables):
            answer = connection.send(text)
            if answer.refusal is None:
                continue
            if answer.refusal.sqlstate == _LOCKED:
                raise ServerSlow(
                    f"a table was held for {contents.LOCK_TIMEOUT} s by somebody at the source",
                    where=self.where,
                    hint="wait until that is over, then run the command again",
                )
            raise connection.error(answer.refusal)
        contents.look_again(connection.ask, inventory.tables)
        return inventory

    def _address(self, program: Program) -> str:
        return programs.address(program, self.server, self._database, self._connection.version)

    @contextlib.contextmanager
    def running(self, program: Program, arguments: Sequence[str]) -> Iterator[tuple[IO[bytes], ProgressTimer]]:
        timer = ProgressTimer(self.server.progress_timeout, lambda: self._signs.of_login(self.server.endpoint.user))
        with programs.running(program, arguments, self._password, self.where, timer=timer) as output:
            yield output, timer

    def _cancel(self, measuring: Future[Measures]) -> None:
        """Ends what the connection measures, so that nobody waits for it."""
        if not measuring.done():
            with contextlib.suppress(MultidbError), self._connected() as other:
                other.send(f"SELECT pg_cancel_backend({self._connection.process})", timeout=self.server.timeout)


class SourceReader:
    """The dump while it is made; an `ArchiveReader` of one file."""

    def __init__(self, source: PostgresSource, program: Program, arguments: Sequence[str], progress: Progress) -> None:
        self._source = source
        self._program = program
        self._arguments = arguments
        self._progress = progress

    def names(self) -> Sequence[str]:
        return [FILE]

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        if name != FILE:
            raise ArchiveError(f"there is no {name}", where=self._source.where)
        with self._source.running(self._program, self._arguments) as (output, timer):
            yield cast("BinaryIO", _Watched(output, timer))


class _Watched:
    """Output of a program, each piece of which is progress."""

    def __init__(self, output: IO[bytes], timer: ProgressTimer) -> None:
        self._output = output
        self._timer = timer

    def read(self, size: int) -> bytes:
        chunk = self._output.read(size)
        self._timer.moved()
        return chunk
