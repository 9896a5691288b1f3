"""The databases of one server, as an archive finds, makes, enters and drops them with the admin's login."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from multidb.errors import ArchiveError, ServerError
from multidb.model import App, Place, PlaceKind, Server
from multidb.progress import ProgressTimer
from multidb.provisioners.postgres.backup import programs
from multidb.provisioners.postgres.backup.delegate import Delegate, Delegates
from multidb.provisioners.postgres.backup.programs import Program, Surroundings
from multidb.provisioners.postgres.driver.connection import Connection, SessionOptions, Traffic
from multidb.provisioners.postgres.driver.signs import Signs
from multidb.provisioners.postgres.provision.admin_inside import AdminInside
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.secrets import Secret

__all__ = ["Databases"]

_ATTEMPTS = 20
_DENIED = "42501"

# $1: names (JSON array). What has to be known of these databases to make one like it, or to put one in its place.
_DATABASES = """
SELECT coalesce(json_object_agg(d.datname, json_build_object(
  'mark', c.description, 'open', d.datallowconn, 'limit', d.datconnlimit, 'template', d.datistemplate,
  'encoding', pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
  'tablespace', (SELECT spcname FROM pg_tablespace s WHERE s.oid = d.dattablespace),
  'provider', {provider}, 'locale', {locale}, 'rules', {rules}, 'version', {version},
  'privileges', (SELECT json_agg(json_build_array(
       CASE x.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(x.grantee) END, x.privilege_type))
     FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x WHERE x.grantee <> d.datdba),
  'settings', (SELECT json_agg(json_build_array(r.rolname, s.setconfig))
     FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE s.setdatabase = d.oid),
  'prepared', (SELECT json_agg(p.gid) FROM pg_prepared_xacts p WHERE p.database = d.datname))), '{{}}'::json)
FROM pg_database d LEFT JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
WHERE d.datname IN (SELECT json_array_elements_text($1::json))"""
# $1: a database.
_SUBSCRIPTIONS = """
SELECT coalesce(json_agg(s.subname), '[]'::json) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
WHERE d.datname = $1"""
# $1: names (JSON array), $2: a role. How many of these tablespaces are there and may be used by the role.
_TABLESPACES = """
SELECT count(*) FROM pg_tablespace
WHERE spcname IN (SELECT json_array_elements_text($1::json)) AND has_tablespace_privilege($2, oid, 'CREATE')"""


def same_from_elsewhere(entry: str, database: Mapping[str, Any]) -> bool:
    """Whether a setting of the database (as `_DATABASES` says it) is the same text in the maintenance database: the
    server stores bytes, and takes them for text in the encoding of whichever database it is asked in."""
    return entry.isascii() or (database["encoding"] in ("UTF8", "SQL_ASCII") and "\ufffd" not in entry)


class Databases:
    """The databases of a server, and what works in them: the logins of steps, the programs of Postgres.

    Args:
        password: the admin's.
    """

    def __init__(self, server: Server, password: Secret | None, application_name: str) -> None:
        self.server = server
        self.where = str(server)
        self._password = password
        self._application = application_name
        self._signs = Signs(server, password, application_name)
        self.main = self.open()
        self.major = self.main.version // 10000
        self.delegates = Delegates(self.main, server, application_name, self._signs.of_process)

    def close(self) -> None:
        self._signs.close()
        self.main.close()

    def open(self, database: str = "", search_path: Sequence[str] = ()) -> Connection:
        """The admin's; with a search path for the scripts of extensions, in a place that is nobody's yet."""
        return Connection(
            self.server,
            self._password,
            self._application,
            Traffic(),
            database=database,
            options=SessionOptions(search_path=search_path, fresh=bool(search_path), signs=self._signs.of_process),
        )

    @contextlib.contextmanager
    def inside_live(self, app: App) -> Iterator[AdminInside | None]:
        """The admin in the app's live database; None where there is none, or it is shut."""
        name = home(app).database
        database = self.find(name).get(name)
        if database is None or not database["open"]:
            yield None
        else:
            with self.open(name) as connection:
                yield AdminInside(connection)

    def find(self, *names: str) -> dict[str, Mapping[str, Any]]:
        """What there is of these, by name: as `_DATABASES` says it."""
        known = {
            "provider": "d.datlocprovider" if self.major >= 15 else "'c'",
            "locale": "d.datlocale" if self.major >= 17 else "d.daticulocale" if self.major >= 15 else "NULL",
            "rules": "d.daticurules" if self.major >= 16 else "NULL",
            "version": "d.datcollversion" if self.major >= 15 else "NULL",
        }
        query = _DATABASES.format(**known)
        databases: dict[str, Mapping[str, Any]] = json.loads(self.main.ask(query, (json.dumps(names),)))
        return databases

    def encoding_of(self, name: str) -> str:
        """That of a database which is there, as the server calls it."""
        return str(self.find(name)[name]["encoding"])

    def make(self, name: str, words: str, comment: str) -> None:
        """A new database that nobody but the admin may connect to."""
        quoted = identifier(name)
        # Shut until nobody else may enter it; without a mark and shut, the next run takes it for what it is.
        self.main.execute(f"CREATE DATABASE {quoted} TEMPLATE template0 {words} ALLOW_CONNECTIONS false")
        self.main.transact(
            f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC",
            f"COMMENT ON DATABASE {quoted} IS {literal(comment)}",
            f"ALTER DATABASE {quoted} ALLOW_CONNECTIONS true",
        )

    def drop(self, name: str, database: Mapping[str, Any]) -> None:
        """Drops it, whoever is connected. Prepared transactions and subscriptions keep a database, and only inside it
        can they be ended; that it is a template keeps it, too.

        Args:
            database: as `find` has it.
        """
        if database["prepared"]:
            self.main.execute(f"ALTER DATABASE {identifier(name)} ALLOW_CONNECTIONS true")
            with self.open(name) as connection:
                for transaction in database["prepared"]:
                    AdminInside(connection).roll_back(str(transaction))
        self.end_subscriptions(name)
        if database["template"]:
            self.main.execute(f"ALTER DATABASE {identifier(name)} IS_TEMPLATE false")
        self._send_again(f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)")

    def end_subscriptions(self, name: str) -> None:
        """Ends those of a place, by which it follows another server; that server is not asked."""
        for subscription in json.loads(self.main.ask(_SUBSCRIPTIONS, (name,))):
            self.main.execute(f"ALTER DATABASE {identifier(name)} ALLOW_CONNECTIONS true")
            with self.open(name) as connection:
                AdminInside(connection).end_subscription(str(subscription))

    def end_sessions(self, names: Sequence[str]) -> None:
        within = ", ".join(map(literal, names))
        self._send_again(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ({within})")  # noqa: S608

    def end_sessions_of(self, roles: Sequence[str]) -> None:
        """Ends what logins of an app have open in any database."""
        logins = ", ".join(map(literal, roles))
        self._send_again(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ({logins})")  # noqa: S608

    def _send_again(self, text: str) -> None:
        """Sends what ends sessions until it is done: one that is not the admin's to end, such as that of an autovacuum
        or of somebody with more power who leaves at this moment, is mostly gone a moment later."""
        for left in reversed(range(_ATTEMPTS)):
            answer = self.main.send(text)
            if answer.refusal is None:
                return
            if answer.refusal.sqlstate != _DENIED or not left:
                raise self.main.error(answer.refusal)
            time.sleep(0.1)

    def owner_of(self, place: Place) -> str:
        """The owner role of what is in the place.

        Raises:
            ServerError: the app's database is not there.
            ArchiveError: the app has no owner role here.
        """
        if place.kind is not PlaceKind.LIVE:
            return self.delegates.owner_or_stand_in(place.app)
        if place.name not in self.find(place.name):
            raise ServerError(f"database {place.name} does not exist", where=self.where, hint="multidb apply makes it")
        role = self.delegates.owner(place.app)
        if role is None:
            raise ArchiveError(f"app {place.app.id} has no owner role here", where=self.where, hint="multidb apply")
        return role

    def has_room(self, tablespaces: Sequence[str], role: str) -> bool:
        """Whether the role may put things into all of these."""
        usable = self.main.ask(_TABLESPACES, (json.dumps(tablespaces), role))
        return int(usable) == len(tablespaces)

    def program(self, name: str, dump: int = 0) -> Program:
        """`pg_dump` or `pg_restore` as it fits the server (`programs.find`)."""
        server = self.server
        tls = programs.needs_tls(server.endpoint)
        return programs.find(name, self.major, self.where, server.container, dump=dump, tls=tls)

    def address(
        self, program: Program, delegate: Delegate, database: str, surroundings: Surroundings = programs.USUAL
    ) -> str:
        """Where the program finds the database, as libpq reads it."""
        return programs.address(program, delegate.server, database, self.main.version, surroundings)

    def knows_zone(self, zone: str) -> bool:
        """Whether the server has this time zone."""
        return self.main.send(f"SELECT set_config('TimeZone', {literal(zone)}, true)").refusal is None

    def timer(self, delegate: Delegate) -> ProgressTimer:
        """The timer of a program that works by this login."""
        return ProgressTimer(self.server.progress_timeout, lambda: self._signs.of_login(delegate.name))
