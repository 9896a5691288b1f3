"""All effects on one Postgres server: reading it, keeping other applies away, and sending statements."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from multidb.concurrency import side_by_side
from multidb.errors import (
    AuthenticationFailed,
    Locked,
    NotAllowed,
    ServerDown,
    ServerError,
    ServerSlow,
)
from multidb.model import (
    App,
    CredentialUse,
    Finding,
    Inspection,
    Move,
    Resource,
    Search,
    Server,
    ServerUsage,
    Statement,
    StoreContext,
    Unread,
)
from multidb.provisioners.postgres.driver.blocking import BlockerSearch
from multidb.provisioners.postgres.driver.connection import TAKES_KEYS, Connection, SessionOptions, Traffic
from multidb.provisioners.postgres.driver.refusals import FULL
from multidb.provisioners.postgres.driver.signs import Signs
from multidb.provisioners.postgres.provision import (
    admitted,
    catalog,
    existing,
    interior,
    locks,
    move_survey,
    reading,
    removal,
    scram,
    server_facts,
    shared_catalog,
    summary,
)
from multidb.provisioners.postgres.provision.admin_rights import admin_rights
from multidb.provisioners.postgres.provision.databases import Home, home
from multidb.provisioners.postgres.provision.requirements import unmet
from multidb.provisioners.postgres.provision.resources import (
    PRIMARY,
    STANDBY,
    PostgresFacts,
    Reading,
    Role,
    password_ref,
)
from multidb.provisioners.postgres.provision.sending import Sender
from multidb.secrets import Alternate, Secret, SecretStore

if TYPE_CHECKING:
    from multidb.provisioners.postgres.isolation import holes_inside

__all__ = ["LOCK_CLASS", "LOCK_TIMEOUT", "PostgresSession"]

_WORKERS = 4  # more gain nothing: the server does the work
LOCK_CLASS = zlib.crc32(b"multidb") - 2**31
LOCK_TIMEOUT = 3000
"""Milliseconds that a statement waits for a lock: an app can hold one for as long as it likes."""
_TURN_TIMEOUT = 15.0  # seconds that one other run may hold the server
_MOMENT = 1.0  # seconds
_BREATH = 0.1  # seconds until a connection may have come free

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class PostgresSession:
    """A connection as admin to the maintenance database, and others for as long as they are needed.

    `traffic` counts the connections and round trips so far.
    """

    def __init__(self, server: Server, password: Secret | None, application_name: str) -> None:
        self._server = server
        self._password = password
        self._application = application_name
        self._keys: Mapping[str, str] | None = None  # None: not asked for yet
        self.traffic = Traffic()
        self._signs = Signs(server, password, application_name)
        self._blocker_search = BlockerSearch(lambda: self._open(reading=True), server.timeout)
        self._main = self._open(reading=True)
        try:
            server_facts.require_version(self._main.version, str(server))
            query = server_facts.facts_query(self._main.version)
            self._facts = server_facts.read_facts(self._main.ask(query, (), server.timeout))
        except BaseException:
            self._main.close()
            raise

    @property
    def facts(self) -> PostgresFacts:
        return self._facts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._blocker_search.close()
        self._signs.close()
        self._main.close()

    def inspect(self, inspection: Inspection) -> Sequence[Resource]:
        """The live resources. One round trip for all shared catalogs, and for each database that is entered one, or two
        where something is to be done inside.

        Without `deep` only those databases are entered whose mark says that their inside is unfinished, unknown or of
        another revision. With it, all are, and an admin who cannot read verifiers tries each login's password.
        """
        query, parameters = catalog.overview_query(self._facts), catalog.overview_parameters(inspection)
        overview = catalog.read_overview(self._main.ask(query, parameters, self._server.timeout), inspection)
        resources = list(catalog.without_known(overview.resources, inspection.context.known))
        for there, app in overview.elsewhere:
            inspection.moves[app.id] = self._move(there, app, inspection)
        inspection.unread.update(unmet(inspection.apps, self._facts, inspection.context.server))
        if inspection.deep and not self._facts.superuser:
            resources = self._side_by_side(lambda resource: self._tried(resource, inspection), resources)
        entered: list[catalog.InteriorStatus] = []
        roles = {resource.name for resource in resources if isinstance(resource, Role)}
        asked = _readings_by_database(inspection)
        for inside in overview.insides:
            readings = asked.get(inside.desired.name, ())
            settled = inside.settled and all(one.role in roles for one in readings)
            if inside.open and (inspection.deep or not settled):
                entered.append(inside)
            elif settled:  # taken at its word; one that is not is brought about from scratch
                resources += [inside.desired, *readings]
        looks = self._side_by_side(
            lambda inside: self._enter(inside, asked.get(inside.desired.name, ()), inspection), entered
        )
        insides = [resource for look in looks for resource in look]
        for database in overview.shared:
            insides += self._enter_shared(database, asked.get(database, ()), inspection, overview.roles)
        return [*resources, *catalog.without_known(insides, inspection.context.known)]

    def existing(self) -> existing.ExistingDatabases:
        """Every database: one round trip, and for each that could be an app's a connection with one."""
        answer = self._ask(existing.DATABASES, ())
        names = existing.enterable(answer)

        def inside(name: str) -> str | ServerError:
            try:
                return self._ask_inside(name, existing.INSIDE)
            except (ServerDown, ServerSlow):
                raise
            except ServerError as error:
                return error

        insides = self._side_by_side(inside, names)
        return existing.ExistingDatabases(answer, dict(zip(names, insides, strict=True)))

    def _enter(
        self, inside: catalog.InteriorStatus, readings: Sequence[Reading], inspection: Inspection
    ) -> Sequence[Resource]:
        """Reads the inside of a database; nothing when it is not ours and does not let us in, or cannot be read."""
        desired, known = inside.desired, inspection.context.known
        query = interior.INTERIOR if inside.revision else interior.INTERIOR_TO_TAKE_OVER
        try:
            with self._within(desired.name) as ask:
                reads = list(_read(readings, ask)) if readings else []
                if inside.settled and summary.says_all_is_well(ask(summary.QUERY), desired, known):
                    return [desired, *reads]
                answer = ask(query, *interior.parameters(desired))
        except (ServerDown, ServerSlow):
            raise
        except ServerError as error:
            if isinstance(error, NotAllowed) and not inside.marked:
                return []
            assert desired.app is not None
            error.message = f"database {desired.name}: {error.message}"
            inspection.unread[desired.app] = error
            return []
        return [interior.read_interior(answer, desired, inside.revision), *reads]

    def _enter_shared(
        self, database: str, readings: Sequence[Reading], inspection: Inspection, roles: frozenset[str]
    ) -> list[Resource]:
        """Reads the inside of a database that apps share: what is nobody's, and each app's part in turn."""
        desired = shared_catalog.DesiredInside.of(database, inspection.desired)
        try:
            with self._within(database) as ask:
                return list(shared_catalog.inside(desired, readings, roles, ask))
        except (ServerDown, ServerSlow):
            raise
        except ServerError as error:
            error.message = f"database {database}: {error.message}"
            inspection.unread.update(dict.fromkeys(desired.apps, error))
            return [desired.shared]  # nobody knows, and it is no app's

    def _ask_inside(self, database: str, query: str, *parameters: str) -> str:
        """The answer to one query inside a database. Raises as `_within`."""
        with self._within(database) as ask:
            return ask(query, *parameters)

    @contextlib.contextmanager
    def _within(self, database: str) -> Iterator[Callable[..., str]]:
        """A connection into a database, as what asks a query there with its parameters.

        Raises:
            ServerDown, ServerSlow: the server as a whole is not to be had.
            NotAllowed, ServerError: it is only this database that cannot be read, or not in time.
        """
        with self._open(database, reading=True, patient=True) as connection:

            def ask(query: str, *parameters: str) -> str:
                admitted.require(query)
                try:
                    return connection.ask(query, parameters, self._server.timeout)
                except (ServerDown, ServerSlow) as error:  # nothing of an app's keeps a connection from being made
                    self._raise_if_gone(error)
                    raise ServerError(error.message, where=error.where, hint=error.hint) from None

            yield ask

    def _raise_if_gone(self, error: ServerError) -> None:
        """Raises `error` again unless the server lets us in."""
        try:
            self._open(reading=True).close()
        except (ServerDown, ServerSlow):
            raise error from None
        except ServerError:  # it answers
            return

    def _tried(self, resource: Resource, inspection: Inspection) -> Resource:
        """The role, its password tried by logging in with it where that can tell anything."""
        if not isinstance(resource, Role) or resource.password != "current" or not resource.login:
            return resource
        # One that is to be taken over has no mark that says whose it is.
        app = resource.app or next((role.app for role in inspection.desired if role.key == resource.key), None)
        if app is None:
            return resource
        password = inspection.secrets.get(password_ref(app, resource.name.removeprefix(f"{app}_")))
        database = next((home(one).database for one in inspection.apps if one.id == app), app)
        if password is None or resource.valid_until is not None:
            return resource
        try:
            with self._open(database, reading=True, user=resource.name, password=password):
                return resource
        except AuthenticationFailed as error:
            if "pg_hba.conf" in error.message:  # it may not come from here, which says nothing of its password
                return resource
            return dataclasses.replace(resource, password="other")
        except (ServerDown, ServerSlow):
            raise
        except ServerError:
            return resource  # the server refuses other things only after it has accepted the password

    def _side_by_side(self, work: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
        """The results of `work`, which opens a connection for each of `items`, in their order."""
        self._expect_connections(len(items))
        return side_by_side(work, items, at_once=_WORKERS, until_failure=True)

    def _expect_connections(self, count: int) -> None:
        """Before many connections: has what libpq would derive for each of them from the admin's password."""
        if count <= _WORKERS or self._keys is not None:
            return
        self._keys = {}
        if TAKES_KEYS and self._facts.superuser and self._password is not None:
            with contextlib.suppress(ServerError):  # whoever guards the server has another verifier, or asks for none
                self._keys = scram.keys(self._password.reveal(), self._ask(server_facts.VERIFIER, ()))

    @contextlib.contextmanager
    def lock(self, project: str, holder: str) -> Iterator[None]:
        """Holds the project's advisory lock, in the maintenance database, on the connection that also runs statements
        there: what the server still carries out for a run that was killed, it carries out under the lock.

        Raises:
            Locked: another apply of the project holds it for longer than a moment; says who and since when.
            NotAllowed: there is nothing that could be done under it, on a standby.
        """
        if self._facts.standby:
            raise NotAllowed(STANDBY, where=str(self._server), hint=PRIMARY)
        timeout = self._server.timeout
        key = (str(LOCK_CLASS), str(zlib.crc32(project.encode()) - 2**31))
        self._main.ask("SELECT set_config('application_name', $1, false)", (holder,), timeout)
        deadline = time.monotonic() + _TURN_TIMEOUT
        while self._main.ask("SELECT pg_try_advisory_lock($1::int4, $2::int4)", key, timeout) != "t":
            if time.monotonic() > deadline:
                raise self._locked(key)
            self._end_stranger(key)
            time.sleep(0.2)
        try:
            yield
        finally:
            with contextlib.suppress(ServerError):  # a connection that is lost has let go of it already
                self._main.ask("SELECT pg_advisory_unlock($1::int4, $2::int4)", key, timeout)

    def _end_stranger(self, key: tuple[str, str]) -> None:
        """Whoever may connect here can take the lock; a session that could not be another apply is ended."""
        with contextlib.suppress(ServerError):
            holder = json.loads(self._main.ask(locks.LOCK_HOLDER, key, self._server.timeout))
            if not holder["admin"]:
                self._main.send(f"SELECT pg_terminate_backend({holder['pid']})", self._server.timeout)

    def _locked(self, key: tuple[str, str]) -> Locked:
        try:
            holder = json.loads(self._main.ask(locks.LOCK_HOLDER, key, self._server.timeout))
            who = f"{holder['who'] or 'another run'} (server process {holder['pid']}), since {holder['since']}"
            if not holder["admin"]:
                return Locked(
                    f"the lock of the project is held by {holder['user']}, who is no admin",
                    where=str(self._server),
                    hint=f"let a superuser end that session: SELECT pg_terminate_backend({holder['pid']}); "
                    "then run the command again",
                )
        except ServerError:  # it has just let go, or may not be seen
            who = "another run"
        return Locked(
            f"another apply works here: {who}",
            where=str(self._server),
            hint="wait for it to end, then run the command again",
        )

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        """See `Sender.run`."""
        if statements:
            self._main.send("SET statement_timeout = 0", self._server.timeout)  # reading had one
        self._expect_connections(len({statement.scope for statement in statements if statement.scope}))
        sender = Sender(self._server, self._facts, self._main, self._open, self._blocker_search, self._answers)
        yield from sender.run(statements, secrets)

    def _answers(self, error: ServerError) -> bool:
        """Whether the server can be asked for other things after `error`, met in one of its databases."""
        try:
            if isinstance(error, (ServerDown, ServerSlow)):
                self._raise_if_gone(error)
            self._ask("SELECT 1", ())
        except ServerError:
            return False
        return True

    def admin_rights(self, context: StoreContext, apps: Sequence[App]) -> Sequence[Finding]:
        """See `Session.admin_rights`; asks nothing more."""
        return tuple(admin_rights(apps, self._facts, self._server.name))

    def usage(self, context: StoreContext, apps: Sequence[App]) -> ServerUsage:
        """Two round trips for all apps, and one for the inside of each of their databases."""
        from multidb.provisioners.postgres.observe import usage

        about = usage.parameters(apps)
        answer = self._ask(usage.QUERY, about)
        question = usage.queries_query(answer)
        queries = self._ask(question, about) if question is not None else None
        enterable = usage.enterable(answer, self._facts)
        looks = self._side_by_side(self._inside_usage, list(enterable.values()))
        insides = {app: inside for app, inside in zip(enterable, looks, strict=True) if inside is not None}
        return usage.read(answer, queries, insides, self._facts)

    def _inside_usage(self, place: Home) -> str | None:
        from multidb.provisioners.postgres.observe import usage

        try:
            return self._ask_inside(place.database, usage.INSIDE, place.schema or "")
        except (ServerDown, ServerSlow):
            raise
        except ServerError:
            return None

    def search(self, inspection: Inspection) -> Search:
        """As constant as `inspect`: two round trips, and one or two for each database that is entered: every app's, and
        any other one that the admin may enter, since what the server itself has made has its rights in each of them."""
        from multidb.provisioners.postgres.isolation import (  # not loaded by a plan
            holes,
            holes_inside,
            holes_server,
            server_query,
        )

        query, parameters = catalog.overview_query(self._facts), catalog.overview_parameters(inspection)
        overview = catalog.read_overview(self._ask(query, parameters), inspection)
        logins = [resource.name for resource in inspection.desired if isinstance(resource, Role) and resource.login]
        query = server_query.server_query(self._facts)
        answer = self._ask(query, server_query.server_parameters(logins, inspection))
        ours = [inside.desired for inside in overview.insides if inside.open and inside.marked]
        homes = [holes_inside.SearchedDatabase.of(database, inspection) for database in ours]
        shared = self._side_by_side(lambda name: self._parts(name, inspection, overview.roles), overview.shared)
        beside = map(holes_inside.SearchedDatabase, holes_server.databases_beside(answer))
        entered = [*homes, *(part for parts in shared for part in parts), *beside]
        looks = self._side_by_side(self._look_inside, entered)
        answers = [(look, database) for look, database in zip(looks, entered, strict=True) if isinstance(look, str)]
        return Search(
            (
                *holes.holes_in_resources(inspection, overview.resources),
                *holes_server.holes_of_the_server(answer, inspection),
                *(hole for answer in answers for hole in holes_inside.holes_inside(*answer)),
            ),
            (
                *holes_server.searched_on_the_server(answer, overview.resources, self._facts),
                *holes_inside.searched_inside(
                    [look for look, database in answers if database.part is not holes_inside.Part.SCHEMA],
                    len({database.name for database in entered}),
                ),
            ),
            tuple(holes_server.remarks_of_the_server(answer, inspection)),
            unread=(
                *holes_server.unread_on_the_server(self._facts),
                *(look for look in looks if isinstance(look, Unread)),
            ),
        )

    def _parts(
        self, database: str, inspection: Inspection, roles: frozenset[str]
    ) -> list[holes_inside.SearchedDatabase]:
        """A database that apps share, as what is searched of it; as a whole, where its schemas cannot be read."""
        from multidb.provisioners.postgres.isolation import holes_inside

        try:
            answer = self._ask_inside(database, shared_catalog.SHARED)
        except (ServerDown, ServerSlow):
            raise
        except ServerError:
            return [holes_inside.SearchedDatabase(database, part=holes_inside.Part.REST)]
        marked = shared_catalog.apps_of(answer, inspection.context.project)
        return list(holes_inside.SearchedDatabase.shared(database, marked, inspection, roles))

    def _look_inside(self, database: holes_inside.SearchedDatabase) -> str | Unread:
        """The answers to `inventory.INSIDE` and, where there is any need, to `inventory.LENT`. A database that does not
        let the admin in keeps no other from being seen; a server that has gone does."""
        from multidb.provisioners.postgres.isolation import holes_inside, inventory

        try:
            with self._within(database.name) as ask:
                answer = ask(inventory.INSIDE, *database.parameters)
                if not holes_inside.lends(answer):
                    return answer
                return holes_inside.with_lent(answer, ask(inventory.LENT, *database.parameters))
        except (ServerDown, ServerSlow) as error:
            self._raise_if_gone(error)
            return Unread(f"database {database.name}", error.message, database.app)
        except ServerError as error:
            return Unread(f"database {database.name}", error.message, database.app)

    def in_use(self, credentials: Mapping[str, Alternate]) -> Mapping[str, Sequence[CredentialUse]]:
        """See `Session.in_use`; one round trip."""
        from multidb.provisioners.postgres.observe import credential_use

        logins = credential_use.logins(credentials)
        return credential_use.read(self._ask(credential_use.QUERY, credential_use.parameters(credentials)), logins)

    def orphans(self, context: StoreContext, known: Collection[str]) -> Mapping[str, Sequence[str]]:
        """See `Session.orphans`; one round trip."""
        return removal.orphans(self._ask, context, known)

    def vacant(self, context: StoreContext, names: Collection[str]) -> Collection[str]:
        """See `SharingSession.vacant`; one round trip."""
        return removal.vacant(self._ask, context, names)

    def suspension(self, app: App, context: StoreContext) -> Sequence[Statement]:
        return removal.suspension(self._ask, app, context)

    def removal(self, app: App, context: StoreContext) -> Sequence[Statement]:
        return removal.removal(self._ask, self._ask_inside, app, context)

    def survey(self, there: App, app: App, context: StoreContext) -> Move:
        """See `MovingSession.survey`; a connection into the database where the app is, with a few round trips."""
        with self._within(home(there).database) as ask:
            return move_survey.survey(ask, there, app, superuser=self._facts.superuser)

    def mentions(self, inside: App, was: Mapping[str, Any], becomes: App) -> Sequence[str]:
        """See `MovingSession.mentions`; a connection into the database, if there is anything to look for."""
        schema = move_survey.left_schema(was, becomes)
        if schema is None or home(inside).schema is None:
            return []
        with self._within(home(inside).database) as ask:
            return move_survey.naming(ask, {schema}, home(inside).schema or "")

    def leaving(self, there: App, app: App, context: StoreContext) -> Sequence[Statement]:
        return removal.leaving(self._ask, self._ask_inside, (there, app), context)

    def _move(self, there: App, app: App, inspection: Inspection) -> Move:
        if not inspection.deep:
            return move_survey.unseen(there, app)
        try:
            return self.survey(there, app, inspection.context)
        except (ServerDown, ServerSlow):
            raise
        except ServerError as error:
            return move_survey.unsurveyed(there, app, error)

    def _ask(self, query: str, parameters: Sequence[str]) -> str:
        return self._main.ask(query, parameters, self._server.timeout)

    def _open(
        self,
        database: str = "",
        *,
        reading: bool,
        user: str = "",
        password: Secret | None = None,
        patient: bool = False,
        search_path: Sequence[str] = (),
    ) -> Connection:
        """A connection. One that we have just closed may not be free yet; with `patient`, others of ours have to be
        closed first."""
        deadline = time.monotonic() + (self._server.timeout if patient else _MOMENT)
        options = SessionOptions(
            statement_timeout=round(self._server.timeout * 1000) if reading else 0,
            lock_timeout=LOCK_TIMEOUT,
            guarded=True,
            search_path=search_path,
            signs=self._signs.of_process,
        )
        while True:
            keys = None if user else self._keys
            try:
                return Connection(
                    self._server,
                    password if user else self._password,
                    self._application,
                    self.traffic,
                    database=database,
                    user=user,
                    keys=keys,
                    options=options,
                )
            except AuthenticationFailed:
                if not keys:
                    raise
                self._keys = {}  # a pooler in between, or a password that has changed
                continue
            except ServerError as error:
                if not error.message.startswith(FULL) or time.monotonic() > deadline:
                    raise
            time.sleep(_BREATH)


def _readings_by_database(inspection: Inspection) -> dict[str, list[Reading]]:
    """What readers are to read by table, by the database."""
    readings: dict[str, list[Reading]] = {}
    for resource in inspection.desired:
        if isinstance(resource, Reading):
            readings.setdefault(resource.database, []).append(resource)
    return readings


def _read(readings: Sequence[Reading], ask: Callable[..., str]) -> Iterator[Reading]:
    return reading.read_readings(ask(reading.READING, *reading.parameters(readings)), readings)
