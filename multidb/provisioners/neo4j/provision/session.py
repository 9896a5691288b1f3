"""The effects of an admin on one Neo4j server."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final, Self, TypeVar

from neo4j import exceptions

from multidb.errors import (
    Refused,
    StatementFailed,
    WrongVersion,
)
from multidb.model import (
    App,
    CredentialUse,
    Finding,
    Inspection,
    Owner,
    Resource,
    Search,
    Server,
    ServerUsage,
    Statement,
    StoreContext,
)
from multidb.provisioners.neo4j.driver.connection import DRIVER_ERRORS, Bolt, explain, words_of
from multidb.provisioners.neo4j.provision.admin_rights import OWN_RIGHTS, admin_rights
from multidb.provisioners.neo4j.provision.catalog import Listing, Row, owners_of
from multidb.provisioners.neo4j.provision.existing import ExistingGraphs
from multidb.provisioners.neo4j.provision.removal import orphans, removal, suspension
from multidb.provisioners.neo4j.provision.resources import (
    DEFAULT_DATABASE,
    Mark,
    Mode,
    Neo4jFacts,
    User,
    loads,
    mode,
    one_app_only,
    password_ref,
    read_mark,
    user_name,
)
from multidb.provisioners.neo4j.provision.statements import CONNECTED, SYSTEM
from multidb.secrets import Alternate, Secret, SecretStore, redact

__all__ = ["Neo4jSession", "connect"]

_OLDEST: Final = 5
_WORK_SECONDS: Final = 180.0  # making a database waits up to 120 s on the server itself
_DELETING_SECONDS: Final = 6 * 3600.0
_ATTEMPTS: Final = 4
_UNSUPPORTED: Final = "Neo.ClientError.Statement.UnsupportedAdministrationCommand"
_PUBLIC_RIGHTS: Final = "SHOW ROLE PUBLIC PRIVILEGES AS COMMANDS YIELD command"
_PROBE: Final = "EXPLAIN CREATE DATABASE `multidb-probe`"  # planned, never run

_T = TypeVar("_T")

logging.getLogger("neo4j").addHandler(logging.NullHandler())  # what matters comes back as an error


def connect(server: Server, admin: Secret | None, application: str) -> Neo4jSession:
    """Opens a session and finds out what the server is.

    Raises:
        ServerError: one of `ServerDown`, `ServerSlow`, `AuthenticationFailed`, `NotAllowed`, `WrongVersion`.
    """
    session = Neo4jSession(server, admin, application)
    try:
        session.open()
    except BaseException:
        session.close()
        raise
    return session


class Neo4jSession:
    """A `Session` on one Neo4j; see `multidb.model.Session`."""

    facts: Neo4jFacts

    def __init__(self, server: Server, admin: Secret | None, application: str) -> None:
        self._server = server
        self.bolt = Bolt(server, server.endpoint.user or "neo4j", admin, application)

    def open(self) -> None:
        """Reads `facts`; called by `connect`."""
        self.facts = self._probe()

    def close(self) -> None:
        """Ends the connection; a server that does not answer any more is not waited for."""
        self.bolt.close()

    @property
    def sent(self) -> int:
        """The round trips made so far."""
        return self.bolt.sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def lock(self, project: str, holder: str) -> AbstractContextManager[None]:
        """Does nothing: Neo4j has no advisory lock. The project's file lock keeps applies of one machine apart."""
        return contextlib.nullcontext()

    # Reading

    def existing(self) -> ExistingGraphs:
        """Every database, by three questions."""
        with self.bolt.explained():
            rows = self.bolt.ask("SHOW DATABASES YIELD name, type")
            names = {str(row["name"]) for row in rows if row["type"] != "system"}
            members = self.bolt.ask("SHOW ROLES WITH USERS YIELD role, member") if self.facts.roles else []
            marks = {mark[0] for row in members if (mark := read_mark(row["role"]))}
            marks |= {*self.facts.marks, *self.facts.labelled}
            default = self.facts.default_database
            nodes = self.bolt.ask("MATCH (n) RETURN count(n) AS nodes", default)[0]["nodes"]
        return ExistingGraphs(tuple(sorted(names)), default, nodes, tuple(sorted(marks)))

    def inspect(self, inspection: Inspection) -> Sequence[Resource]:
        with self.bolt.explained():
            if mode(inspection.context) is Mode.DATABASE:
                return self._inspect_databases(inspection)
            return self._inspect_single(inspection)

    def _probe(self) -> Neo4jFacts:
        with self.bolt.explained():
            product, version, edition = self._product()
            roles = self._supports("SHOW ROLES YIELD role RETURN role LIMIT 1")
            multi_database = self._supports(_PROBE)
            defaults = self.bolt.ask("SHOW DEFAULT DATABASE YIELD name")
            default = next((row["name"] for row in defaults), DEFAULT_DATABASE)
            dedicated = self._server.app is not None
            owns, labels = ((), ()) if roles or dedicated else self._index_marks(default)
            public = loads([row["command"] for row in self.bolt.ask(_PUBLIC_RIGHTS)]) if roles else ()
            logins = self._logins()
        return Neo4jFacts(
            product, version, edition, multi_database, roles, default, dedicated, owns, labels, public, logins
        )

    def _logins(self) -> frozenset[str]:
        """The users that are called as apps', where one is called as a second one, which is rare."""
        try:
            users = [str(row["user"]) for row in self.bolt.ask("SHOW USERS YIELD user")]
        except exceptions.Forbidden:  # what else that right is needed for is told where it is needed
            return frozenset()
        seconds = {user.removesuffix("_b") for user in users if user.endswith("_user_b")}
        return frozenset(user for user in users if user.removesuffix("_b") in seconds)

    def _product(self) -> tuple[str, str, str]:
        try:
            rows = self.bolt.ask("CALL dbms.components() YIELD name, versions, edition")
        except exceptions.ClientError as error:
            if error.code is not None and error.code.startswith("Neo.ClientError.Security."):
                raise
            raise self._wrong_version("speaks Bolt and is not Neo4j") from None
        kernel = next((row for row in rows if row["name"] == "Neo4j Kernel"), None)
        if kernel is None:
            raise self._wrong_version("speaks Bolt and is not Neo4j")
        version = str(kernel["versions"][0])
        major = re.match(r"\d+", version)
        if major is None or int(major[0]) < _OLDEST:
            raise self._wrong_version(f"runs Neo4j {version}; multidb needs {_OLDEST} or newer")
        return "Neo4j", version, str(kernel["edition"])

    def _supports(self, command: str) -> bool:
        """Whether the server knows the administration command at all; a refusal for want of a right is an error."""
        try:
            self.bolt.ask(command)
        except exceptions.ClientError as error:
            if error.code == _UNSUPPORTED:
                return False
            raise
        return True

    def _index_marks(self, database: str) -> tuple[tuple[Owner, ...], tuple[Owner, ...]]:
        """The owners by whom a server without roles is marked: for itself alone, for a label each."""
        rows = self.bolt.ask("SHOW INDEXES YIELD name", database)
        marks = [mark for row in rows if (mark := read_mark(row["name"]))]
        owns = tuple(sorted(owner for owner, kind in marks if kind is not Mode.LABEL))
        return owns, tuple(sorted(owner for owner, kind in marks if kind is Mode.LABEL))

    def _inspect_databases(self, inspection: Inspection) -> Sequence[Resource]:
        listed = Listing(
            databases=self.bolt.ask("SHOW DATABASES YIELD name, requestedStatus, access"),
            users=self.bolt.ask("SHOW USERS YIELD user, suspended, passwordChangeRequired, home"),
            members=self.bolt.ask("SHOW ROLES WITH USERS YIELD role, member"),
            commands=[row["command"] for row in self.bolt.ask("SHOW ALL PRIVILEGES AS COMMANDS YIELD command")],
        )
        owners = listed.owners(inspection)
        return [*listed.resources(inspection), *self._users(listed.users, inspection, owners)]

    def _inspect_single(self, inspection: Inspection) -> Sequence[Resource]:
        users = self.bolt.ask("SHOW USERS YIELD user, suspended, passwordChangeRequired, home")
        if self.facts.dedicated:
            return self._users(
                users, inspection, {app.id: Owner(inspection.context.project, app.id) for app in inspection.apps}
            )
        owns, labels = self._index_marks(self.facts.default_database)
        owners = owners_of([*owns, *labels], inspection)
        inspection.unread.update(self._without_room(inspection, owns))
        marks = [
            live
            for want in inspection.desired
            if isinstance(want, Mark) and (live := self._single_mark(want, owns, labels)) is not None
        ]
        return [*marks, *self._users(users, inspection, owners)]

    def _without_room(self, inspection: Inspection, owns: Sequence[Owner]) -> Iterator[tuple[str, Refused]]:
        """By app, why it cannot have a place on a server that another app of its project has to itself."""
        holders = [owner.app for owner in owns if owner.project == inspection.context.project]
        alone = (want for want in inspection.desired if isinstance(want, Mark) and want.mode is not Mode.LABEL)
        for want in alone if holders else ():
            if want.app is not None and want.app not in holders:
                yield want.app, one_app_only([*holders, want.app], inspection.context)

    def _single_mark(self, want: Mark, owns: Sequence[Owner], labels: Sequence[Owner]) -> Mark | None:
        """Who holds what `want` would mark: on a server of one app anybody's mark, or data that nobody marked."""

        def held_by(owner: Owner | None) -> Mark:
            return Mark(name=want.name, app=want.app, owner=owner, mode=want.mode, database=want.database)

        if want.mode is Mode.LABEL:
            of_others = [owner for owner in owns if owner != want.owner]
            own = [owner for owner in labels if owner.app == want.app]
        else:
            of_others = [owner for owner in (*owns, *labels) if owner != want.owner]
            own = list(owns)
        if of_others or own:
            return held_by((of_others or own)[0])
        if want.mode is Mode.LABEL:
            return None
        counted = self.bolt.ask("MATCH (n) RETURN count(n) AS nodes", self.facts.default_database)
        return held_by(None) if counted[0]["nodes"] else None

    def _users(
        self, rows: Sequence[Row], inspection: Inspection, owners: Mapping[str, Owner | None]
    ) -> Sequence[Resource]:
        there = {row["user"]: row for row in rows}
        retired = {want.name for want in inspection.desired if isinstance(want, User) and want.password == "none"}
        connected = {row["username"] for row in self.bolt.ask(CONNECTED)} if retired else set()
        users: list[Resource] = []
        for want in inspection.desired:
            if not isinstance(want, User) or want.app is None:
                continue
            if (row := there.get(want.name)) is None:
                # One that is gone keeps the sessions that it had, until they are ended.
                state = "other" if want.name in connected else "none"
                users += [replace(want, password=state)] if want.name in retired else []
                continue
            users.append(
                User(
                    name=want.name,
                    app=want.app,
                    owner=owners.get(want.app),
                    password=self._password_state(want, row, inspection),
                    change_required=row["passwordChangeRequired"],
                    suspended=row["suspended"],
                    home=row["home"],
                )
            )
        return users

    def _password_state(self, user: User, row: Row, inspection: Inspection) -> str:
        assert user.app is not None
        if user.password == "none":
            return "other"
        known = inspection.secrets.get(password_ref(user.app, user.alternate))
        if known is None:
            return "lost"
        if not inspection.deep or row["suspended"]:  # a suspended user cannot log in, whatever its password
            return "current"
        return "current" if self.bolt.logs_in(user.name, known) else "other"

    # Writing

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        for index, statement in enumerate(statements):
            self._run_one(statement, secrets, index)
            yield index + 1

    def _run_one(self, statement: Statement, secrets: SecretStore, index: int) -> None:
        def failed(message: str, hint: str | None = None, refused: bool = True) -> StatementFailed:
            return StatementFailed(
                f"{statement.text}: {redact(message)}",
                index=index,
                durable=index,
                where=str(self._server),
                hint=hint,
                refused=refused,
            )

        values = {}
        for parameter, ref in statement.binds:
            secret = secrets.get(ref)
            if secret is None:
                raise failed(f"the secret {ref} is not there")
            values[parameter] = secret.reveal()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                rows = self.bolt.ask(statement.text, statement.scope or SYSTEM, values, _seconds(statement))
            except exceptions.TransientError as error:  # rolled back by the server: nothing has happened
                if attempt == _ATTEMPTS:
                    raise failed(words_of(error)) from None
                time.sleep(0.1 * 3**attempt)
            except DRIVER_ERRORS as error:
                known = explain(error, self._server)
                raise failed(known.message, known.hint, isinstance(error, exceptions.Neo4jError)) from None
            else:
                break
        if refused := [row for row in rows if row.get("success") is False]:
            raise failed(str(refused[0].get("message", "the server did not finish in time")))

    # Watching and removing

    def admin_rights(self, context: StoreContext, apps: Sequence[App]) -> Sequence[Finding]:
        """See `Session.admin_rights`."""
        with self.bolt.explained():
            commands = [row["command"] for row in self.bolt.ask(OWN_RIGHTS)] if self.facts.roles else []
        return tuple(admin_rights(context, commands, self._server.name))

    def usage(self, context: StoreContext, apps: Sequence[App]) -> ServerUsage:
        from multidb.provisioners.neo4j.observe.usage import usage  # as below: not loaded by a plan

        with self.bolt.explained():
            return usage(self.bolt, context, apps)

    def search(self, inspection: Inspection) -> Search:
        from multidb.provisioners.neo4j.isolation.holes import search

        with self.bolt.explained():
            return search(self.bolt, inspection)

    def in_use(self, credentials: Mapping[str, Alternate]) -> Mapping[str, Sequence[CredentialUse]]:
        from multidb.provisioners.neo4j.observe.credential_use import credential_use

        with self.bolt.explained():
            return credential_use({user_name(app, which): app for app, which in credentials.items()}, self.bolt)

    def orphans(self, context: StoreContext, known: Collection[str]) -> Mapping[str, Sequence[str]]:
        """By the marks: roles of Enterprise, indexes of Community. One query, or none."""
        with self.bolt.explained():
            return orphans(self.bolt, context, known)

    def suspension(self, app: App, context: StoreContext) -> Sequence[Statement]:
        with self.bolt.explained():
            return suspension(self.bolt, app, context)

    def removal(self, app: App, context: StoreContext) -> Sequence[Statement]:
        with self.bolt.explained():
            return removal(self.bolt, app, context)

    def _wrong_version(self, what: str) -> WrongVersion:
        return WrongVersion(what, where=str(self._server), hint="point the manifest at a Neo4j 5, 2025 or 2026 server")


def _seconds(statement: Statement) -> float:
    """How long it may take. What deletes an app's data in many transactions lasts as long as there is data."""
    return _DELETING_SECONDS if "IN TRANSACTIONS" in statement.text else _WORK_SECONDS
