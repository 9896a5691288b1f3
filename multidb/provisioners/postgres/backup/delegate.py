"""The login by which an archive acts inside an app's database: a member of the app's own roles, and of nothing else.

What an app has made may be called by whoever reads, dumps or loads its database, and a function may leave the role that
was set: it then is the login that connected. So that login may do nothing that the app could not do by itself. It is
made for one step, with a password that nobody else knows, and dropped at the end; what it owns then, by no intention of
multidb's, becomes the app's and never the admin's.

Where the app has no owner role (a set is tried on a server that never had the app), a role without a login stands in
for it, until the place is dropped.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from multidb.errors import AuthenticationFailed, Conflict, NotAllowed, ServerError
from multidb.model import App, Owner, Server, listed
from multidb.provisioners.postgres.backup import contents
from multidb.provisioners.postgres.backup.places import DELEGATE, place_mark
from multidb.provisioners.postgres.driver.connection import Connection, SessionOptions, Traffic
from multidb.provisioners.postgres.provision import scram
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.resources import derived_names
from multidb.provisioners.postgres.provision.roles import AppNames
from multidb.provisioners.postgres.provision.script import printable
from multidb.secrets import Secret, generate

__all__ = ["Delegate", "Delegates", "zone_of"]

# $1: names of roles (JSON array), $2: the app. Those that multidb has made for it.
_OWN = """
SELECT coalesce(json_agg(r.rolname ORDER BY r.rolname), '[]'::json) FROM pg_roles r
JOIN pg_shdescription c ON c.objoid = r.oid AND c.classoid = 'pg_authid'::regclass
WHERE r.rolname IN (SELECT json_array_elements_text($1::json)) AND starts_with(c.description, 'multidb:')
  AND right(split_part(c.description, ' ', 1), length($2) + 1) = '/' || $2"""

# Every role that multidb has made for an app.
_ALL = """
SELECT coalesce(json_agg(r.rolname ORDER BY r.rolname), '[]'::json) FROM pg_roles r
JOIN pg_shdescription c ON c.objoid = r.oid AND c.classoid = 'pg_authid'::regclass
WHERE starts_with(c.description, 'multidb:')"""

# $1: a role. Whether it is there, its mark, and the databases in which it owns something or holds a right.
_ROLE = """
SELECT json_build_object(
  'there', EXISTS (SELECT FROM pg_roles WHERE rolname = $1),
  'mark', (SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1),
  'within', (SELECT coalesce(json_agg(DISTINCT d.datname), '[]'::json) FROM pg_shdepend s
             JOIN pg_database d ON d.oid = s.dbid WHERE s.refclassid = 'pg_authid'::regclass
               AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1)))"""

# $1: a role, $2: databases (JSON array). Those that it may not enter.
_SHUT = """
SELECT coalesce(json_agg(datname), '[]'::json) FROM pg_database
WHERE datname IN (SELECT json_array_elements_text($2::json)) AND NOT has_database_privilege($1, oid, 'CONNECT')"""


@dataclass(frozen=True, slots=True)
class Delegate:
    """The login, while it is there.

    Args:
        server: the server, with the login as the one that connects.
        role: the owner role, which it may become.
    """

    server: Server
    password: Secret
    role: str
    application: str
    signs: Callable[[int], object] | None = None

    @property
    def name(self) -> str:
        return self.server.endpoint.user

    def open(self, database: str, search_path: Sequence[str] = (), *, own_zone: bool = False) -> Connection:
        """A connection of it.

        Args:
            search_path, own_zone: as in `SessionOptions`.

        Raises:
            AuthenticationFailed: the server lets named logins in only, and not this one.
        """
        try:
            return Connection(
                self.server,
                self.password,
                self.application,
                Traffic(),
                database=database,
                user=self.name,
                options=SessionOptions(guarded=True, search_path=search_path, own_zone=own_zone, signs=self.signs),
            )
        except AuthenticationFailed as error:
            raise AuthenticationFailed(
                error.message,
                where=error.where,
                hint=f"inside an app's database multidb is {self.name}: let it in by pg_hba.conf, as the app's logins",
            ) from None


def zone_of(connection: Connection, login: str, delegate: Delegate, database: str) -> str:
    """The time zone in which the login works in the database of the connection: what is set for it or for that, else
    the server's."""
    if stored := connection.ask(contents.ZONE, (login,)):
        return stored
    with delegate.open(database, own_zone=True) as own:
        return own.ask("SELECT current_setting('TimeZone')")


class Delegates:
    """Makes the login of an app and takes it away, with the admin's connection.

    Args:
        main: the admin's, in the maintenance database.
        signs: what is seen of a session, by its process (`Connection`).
    """

    def __init__(
        self, main: Connection, server: Server, application: str, signs: Callable[[int], object] | None = None
    ) -> None:
        self._signs = signs
        self._main = main
        self._server = server
        self._application = application
        self._superuser = self._ask("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == "t"

    def owner(self, app: App) -> str | None:
        """The app's owner role; None when it has none here."""
        role = AppNames.of(app.id).owner
        return role if role in self.roles(app) else None

    def roles(self, app: App) -> list[str]:
        """Every role and login of the app on the server: together they reach whatever is the app's."""
        names = [name.name for name in derived_names(app) if name.space == "postgres role"]
        roles: list[str] = json.loads(self._ask(_OWN, json.dumps(names), app.id))
        return roles + ([_stand_in(app)] if self._is_ours(_stand_in(app), app) else [])

    def neighbours(self, app: App) -> list[str]:
        """The app's roles, and where it shares a database those of every other app: what these make there meanwhile is
        their own."""
        return self.roles(app) + (json.loads(self._ask(_ALL)) if home(app).schema is not None else [])

    def owner_or_stand_in(self, app: App) -> str:
        """The owner role; where there is none, a role made in its stead, which `forget` takes away.

        Raises:
            Conflict: the stand-in's name is taken.
        """
        if (role := self.owner(app)) is not None:
            return role
        role = _stand_in(app)
        if not self._is_ours(role, app):
            self._make(role, app, "NOLOGIN")
        return role

    @contextlib.contextmanager
    def acting(self, app: App, role: str, databases: Sequence[str], *, reads: bool) -> Iterator[Delegate]:
        """The login for one step, let into `databases`.

        Args:
            role: the owner role, or what stands in for it.
            reads: it reads whatever any of the app's logins has made; without, it is a member of `role` only.

        Raises:
            Conflict: there is a login of its name that is not ours.
        """
        name, password = _name(app), generate()
        self._end(app, role)
        self._make(name, app, f"LOGIN PASSWORD {literal(scram.verifier(password.reveal()))}")
        self._main.transact(
            f"GRANT {', '.join(map(identifier, self.roles(app) if reads else [role]))} TO {identifier(name)}"
        )
        self._let_in(name, databases)
        server = replace(self._server, endpoint=replace(self._server.endpoint, user=name))
        try:
            yield Delegate(server, password, role, self._application, self._signs)
        except BaseException:
            with contextlib.suppress(ServerError):  # what went wrong first is what is told
                self._end(app, role)
            raise
        self._end(app, role)

    def see_all(self, delegate: Delegate, hidden: Sequence[str]) -> None:
        """Lets it read whole the tables whose owner hides rows from itself: the app's, since it may read no others.

        Args:
            hidden: those tables.

        Raises:
            NotAllowed: the admin cannot give that.
        """
        answer = self._main.send(f"ALTER ROLE {identifier(delegate.name)} BYPASSRLS")
        if answer.refusal is not None:
            raise NotAllowed(
                f"row security hides rows of {listed(hidden)} from the owner, and the admin cannot let it read them",
                where=str(self._server),
                hint="use a superuser as the admin login (from Postgres 16 on, one with BYPASSRLS), "
                f"or, as the app: ALTER TABLE {printable(hidden[0])} NO FORCE ROW LEVEL SECURITY",
            )

    def forget(self, app: App) -> None:
        """Takes away what an earlier run has left, and what stands in for the owner role. Nothing there is fine."""
        self._end(app, self.owner(app) or _stand_in(app))
        if self._is_ours(_stand_in(app), app):
            self._drop(_stand_in(app))

    # ---------------------------------------------------------------------------------------------------------------

    def _end(self, app: App, role: str) -> None:
        """Drops the login. What it owns inside a database becomes `role`'s: the login itself gives it."""
        name = _name(app)
        if not self._is_ours(name, app):
            return
        self._end_sessions(name)
        within = json.loads(self._ask(_ROLE, name))["within"]
        if within:
            self._give_up(app, role, within)
        self._drop(name)

    def _give_up(self, app: App, role: str, databases: Sequence[str]) -> None:
        # A function that the load has called may have changed the password and the settings, which are the login's own.
        name, password = _name(app), generate()
        quoted = identifier(name)
        self._main.transact(
            f"ALTER ROLE {quoted} LOGIN PASSWORD {literal(scram.verifier(password.reveal()))}",
            f"ALTER ROLE {quoted} RESET ALL",
            *(f"ALTER ROLE {quoted} IN DATABASE {identifier(database)} RESET ALL" for database in databases),
            f"GRANT {identifier(role)} TO {quoted}",
        )
        self._let_in(name, databases)
        server = replace(self._server, endpoint=replace(self._server.endpoint, user=name))
        for database in databases:
            with Delegate(server, password, role, self._application, self._signs).open(database) as connection:
                connection.execute(f"REASSIGN OWNED BY {quoted} TO {identifier(role)}", f"DROP OWNED BY {quoted}")
        self._end_sessions(name)

    def _let_in(self, name: str, databases: Sequence[str]) -> None:
        """Into an app's own database it comes as the owner role does."""
        shut: list[str] = json.loads(self._ask(_SHUT, name, json.dumps(databases)))
        if shut:
            self._main.transact(
                *(f"GRANT CONNECT ON DATABASE {identifier(database)} TO {identifier(name)}" for database in shut)
            )

    def _end_sessions(self, name: str) -> None:
        waits = ", 5000" if self._main.version >= 140000 else ""
        self._ask(f"SELECT count(pg_terminate_backend(pid{waits})) FROM pg_stat_activity WHERE usename = $1", name)  # noqa: S608

    def _drop(self, name: str) -> None:
        self._main.execute(f"DROP OWNED BY {identifier(name)}", f"DROP ROLE {identifier(name)}")

    def _make(self, name: str, app: App, words: str) -> None:
        texts = [f"CREATE ROLE {identifier(name)} {words}"]
        texts.append(f"COMMENT ON ROLE {identifier(name)} IS {literal(place_mark(Owner('', app.id)))}")
        texts += [] if self._superuser else [f"GRANT {identifier(name)} TO CURRENT_USER"]
        self._main.transact(*texts)

    def _is_ours(self, name: str, app: App) -> bool:
        role = json.loads(self._ask(_ROLE, name))
        if role["there"] and role["mark"] != place_mark(Owner("", app.id)):
            raise Conflict(
                f"the role {name} exists and multidb did not make it",
                where=str(self._server),
                hint="rename it, or drop it if nobody needs it",
            )
        return bool(role["there"])

    def _ask(self, query: str, *parameters: str) -> str:
        return self._main.ask(query, parameters)


def _name(app: App) -> str:
    return app.id + DELEGATE


def _stand_in(app: App) -> str:
    return AppNames.of(app.id).stand_in
