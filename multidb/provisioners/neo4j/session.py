"""The effects on one Neo4j server, over Bolt.

The asynchronous driver is used for one reason: only its calls can be given up when a server accepts a connection and
says nothing. Nothing here runs at the same time as anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Self, TypeVar

import neo4j
from neo4j import exceptions

from multidb.errors import (
    AuthenticationFailed,
    NotAllowed,
    ServerDown,
    ServerError,
    ServerSlow,
    StatementFailed,
    WrongVersion,
)
from multidb.model import Endpoint, Inspection, Owner, Resource, Server, Statement
from multidb.provisioners.neo4j.catalog import Listing, Row, owners_of
from multidb.provisioners.neo4j.resources import (
    DEFAULT_DATABASE,
    Mark,
    Mode,
    Neo4jFacts,
    User,
    mode,
    password_ref,
    read_mark,
)
from multidb.provisioners.neo4j.statements import SYSTEM
from multidb.secrets import Secret, SecretStore, redact

__all__ = ["Neo4jSession", "connect"]

_OLDEST: Final = 5
_WORK_SECONDS: Final = 180.0  # making a database waits up to 120 s on the server itself
_ATTEMPTS: Final = 4
_LOCKED_SECONDS: Final = 5.2  # dbms.security.auth_lock_time, 5 s by default, and a little
_UNSUPPORTED: Final = "Neo.ClientError.Statement.UnsupportedAdministrationCommand"
_RATE_LIMIT: Final = "Neo.ClientError.Security.AuthenticationRateLimit"
_EXPIRED: Final = "Neo.ClientError.Security.CredentialsExpired"
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
    """A `Session` on one Neo4j; see `multidb.model.Session`. `sent` counts the round trips made so far."""

    facts: Neo4jFacts

    def __init__(self, server: Server, admin: Secret | None, application: str) -> None:
        self._server = server
        self._runner = asyncio.Runner()
        self._driver = _driver(server, admin, application)
        self.sent = 0

    def open(self) -> None:
        """Reads `facts`; called by `connect`."""
        self.facts = self._probe()

    def close(self) -> None:
        """Ends the connection; a server that does not answer any more is not waited for."""
        with contextlib.suppress(Exception):
            self._runner.run(asyncio.wait_for(self._driver.close(), 2))
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def lock(self, project: str, holder: str) -> AbstractContextManager[None]:
        """Does nothing: Neo4j has no advisory lock. The project's file lock keeps applies of one machine apart."""
        return contextlib.nullcontext()

    # Reading

    def inspect(self, inspection: Inspection) -> Sequence[Resource]:
        with self._explained():
            if mode(inspection.context) is Mode.DATABASE:
                return self._inspect_databases(inspection)
            return self._inspect_single(inspection)

    def _probe(self) -> Neo4jFacts:
        with self._explained():
            product, version, edition = self._product()
            roles = self._supports("SHOW ROLES YIELD role RETURN role LIMIT 1")
            multi_database = self._supports(_PROBE)
            default = next((row["name"] for row in self._ask("SHOW DEFAULT DATABASE YIELD name")), DEFAULT_DATABASE)
            dedicated = self._server.app is not None
            owns, labels = ((), ()) if roles or dedicated else self._index_marks(default)
        return Neo4jFacts(product, version, edition, multi_database, roles, default, dedicated, owns, labels)

    def _product(self) -> tuple[str, str, str]:
        try:
            rows = self._ask("CALL dbms.components() YIELD name, versions, edition")
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
            self._ask(command)
        except exceptions.ClientError as error:
            if error.code == _UNSUPPORTED:
                return False
            raise
        return True

    def _index_marks(self, database: str) -> tuple[tuple[Owner, ...], tuple[Owner, ...]]:
        """The owners by whom a server without roles is marked: for itself alone, for a label each."""
        found = [mark for row in self._ask("SHOW INDEXES YIELD name", database) if (mark := read_mark(row["name"]))]
        owns = tuple(sorted(owner for owner, kind in found if kind is not Mode.LABEL))
        return owns, tuple(sorted(owner for owner, kind in found if kind is Mode.LABEL))

    def _inspect_databases(self, inspection: Inspection) -> Sequence[Resource]:
        listed = Listing(
            databases=self._ask("SHOW DATABASES YIELD name, requestedStatus, access"),
            users=self._ask("SHOW USERS YIELD user, suspended, passwordChangeRequired, home"),
            members=self._ask("SHOW ROLES WITH USERS YIELD role, member"),
            commands=[row["command"] for row in self._ask("SHOW ALL PRIVILEGES AS COMMANDS YIELD command")],
        )
        owners = listed.owners(inspection)
        return [*listed.resources(inspection), *self._users(listed.users, inspection, owners)]

    def _inspect_single(self, inspection: Inspection) -> Sequence[Resource]:
        users = self._ask("SHOW USERS YIELD user, suspended, passwordChangeRequired, home")
        if self.facts.dedicated:
            return self._users(
                users, inspection, {app.id: Owner(inspection.context.project, app.id) for app in inspection.apps}
            )
        owns, labels = self._index_marks(self.facts.default_database)
        owners = owners_of([*owns, *labels], inspection)
        marks = [
            live
            for want in inspection.desired
            if isinstance(want, Mark) and (live := self._single_mark(want, owns, labels)) is not None
        ]
        return [*marks, *self._users(users, inspection, owners)]

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
        counted = self._ask("MATCH (n) RETURN count(n) AS nodes", self.facts.default_database)
        return held_by(None) if counted[0]["nodes"] else None

    def _users(
        self, rows: Sequence[Row], inspection: Inspection, owners: Mapping[str, Owner | None]
    ) -> Sequence[Resource]:
        there = {row["user"]: row for row in rows}
        found: list[Resource] = []
        for want in inspection.desired:
            if not isinstance(want, User) or want.app is None or (row := there.get(want.name)) is None:
                continue
            found.append(
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
        return found

    def _password_state(self, user: User, row: Row, inspection: Inspection) -> str:
        assert user.app is not None
        known = inspection.secrets.get(password_ref(user.app))
        if known is None:
            return "lost"
        if not inspection.deep or row["suspended"]:  # a suspended user cannot log in, whatever its password
            return "current"
        return "current" if self._logs_in(user.name, known) else "other"

    def _logs_in(self, name: str, password: Secret) -> bool:
        """One attempt. After three refused ones a user is locked for five seconds, which are waited out."""
        auth = neo4j.basic_auth(name, password.reveal())
        try:
            return self._wait(self._driver.verify_authentication(auth))
        except exceptions.Neo4jError as error:
            if error.code != _RATE_LIMIT:
                raise
        time.sleep(_LOCKED_SECONDS)
        try:
            return self._wait(self._driver.verify_authentication(auth))
        except exceptions.Neo4jError as error:
            if error.code != _RATE_LIMIT:
                raise
            raise ServerSlow(
                f"somebody keeps trying wrong passwords for user {name}, so Neo4j refuses to check any",
                where=str(self._server),
                hint="stop the client with the wrong password, then run the command again",
            ) from None

    # Writing

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        for index, statement in enumerate(statements):
            self._run_one(statement, secrets, index)
            yield index + 1

    def _run_one(self, statement: Statement, secrets: SecretStore, index: int) -> None:
        def failed(message: str, hint: str | None = None) -> StatementFailed:
            return StatementFailed(
                f"{statement.text}: {redact(message)}", index=index, durable=index, where=str(self._server), hint=hint
            )

        values = {}
        for parameter, ref in statement.binds:
            secret = secrets.get(ref)
            if secret is None:
                raise failed(f"the secret {ref} is not there")
            values[parameter] = secret.reveal()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                rows = self._ask(statement.text, statement.scope or SYSTEM, values, seconds=_WORK_SECONDS)
            except exceptions.TransientError as error:  # rolled back by the server: nothing has happened
                if attempt == _ATTEMPTS:
                    raise failed(_message(error)) from None
                time.sleep(0.1 * 3**attempt)
            except (exceptions.Neo4jError, exceptions.DriverError, OSError, TimeoutError) as error:
                known = _explain(error, self._server)
                raise failed(known.message, known.hint) from None
            else:
                break
        if refused := [row for row in rows if row.get("success") is False]:
            raise failed(str(refused[0].get("message", "the server did not finish in time")))

    # Talking to the server

    def _ask(
        self, text: str, database: str = SYSTEM, values: Mapping[str, Any] | None = None, seconds: float | None = None
    ) -> list[dict[str, Any]]:
        self.sent += 1
        return self._wait(self._send(text, database, values or {}), seconds)

    async def _send(self, text: str, database: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        # The text comes from `statements` and from this module, with names quoted there; values are parameters.
        async with self._driver.session(database=database) as session:
            result = await session.run(text, dict(values))
            return await result.data()

    def _wait(self, work: Coroutine[Any, Any, _T], seconds: float | None = None) -> _T:
        return self._runner.run(_within(work, seconds or self._server.timeout))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (exceptions.Neo4jError, exceptions.DriverError, OSError, TimeoutError) as error:
            raise _explain(error, self._server) from None

    def _wrong_version(self, what: str) -> WrongVersion:
        return WrongVersion(what, where=str(self._server), hint="point the manifest at a Neo4j 5, 2025 or 2026 server")


async def _within(work: Coroutine[Any, Any, _T], seconds: float) -> _T:
    return await asyncio.wait_for(work, seconds)


def _driver(server: Server, admin: Secret | None, application: str) -> neo4j.AsyncDriver:
    endpoint = server.endpoint
    uri, options = _address(endpoint)
    return neo4j.AsyncGraphDatabase.driver(
        uri,
        auth=(endpoint.user or "neo4j", admin.reveal()) if admin is not None else None,
        user_agent=application,
        connection_timeout=server.timeout,
        connection_acquisition_timeout=server.timeout,
        max_transaction_retry_time=0,
        notifications_min_severity=neo4j.NotificationMinimumSeverity.OFF,
        telemetry_disabled=True,
        **options,
    )


def _address(endpoint: Endpoint) -> tuple[str, dict[str, Any]]:
    """The driver's URI and its TLS options. The driver takes either ``+s`` in the scheme or files, never both."""
    scheme = endpoint.params.get("scheme") or ("bolt+s" if endpoint.tls else "bolt")
    options: dict[str, Any] = {}
    if ca_file := endpoint.params.get("ca_file"):
        scheme = scheme.partition("+")[0]
        options |= {"encrypted": True, "trusted_certificates": neo4j.TrustCustomCAs(ca_file)}
    if cert_file := endpoint.params.get("cert_file"):
        certificate = neo4j.auth_management.ClientCertificate(cert_file, endpoint.params.get("key_file"))
        options["client_certificate"] = neo4j.auth_management.AsyncClientCertificateProviders.static(certificate)
    return f"{scheme}://{endpoint.host}:{endpoint.port}", options


def _explain(error: BaseException, server: Server) -> ServerError:
    """What a driver's error means for the person who runs multidb."""
    where = str(server)
    if isinstance(error, exceptions.Neo4jError):
        return _explain_answer(error, where)
    causes = list(_causes(error))
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return ServerError(
            f"{error.filename or 'a certificate file'} cannot be read: {error.strerror}",
            where=where,
            hint="correct ca_file, cert_file or key_file",
        )
    if _is_not_bolt(error):
        return WrongVersion(
            "something answers there that does not speak Bolt, or not a version that multidb's driver knows",
            where=where,
            hint="check the address: Bolt is usually on port 7687, and bolt+s:// needs TLS on the server",
        )
    if _is_tls(causes):
        return ServerDown(
            "the TLS connection fails",
            where=where,
            hint="name the server's CA with ca_file, or correct the scheme (bolt:// or bolt+s://)",
        )
    refused = any(isinstance(cause, ConnectionRefusedError) for cause in causes)
    if not refused and any(isinstance(cause, TimeoutError) or "timed out" in str(cause).lower() for cause in causes):
        return ServerSlow(
            f"does not answer within {server.timeout:g} s",
            where=where,
            hint="see whether it is starting or overloaded, then run the command again",
        )
    return ServerDown(
        "cannot be reached", where=where, hint="start it (multidb up, where multidb runs it), or correct its address"
    )


def _explain_answer(error: exceptions.Neo4jError, where: str) -> ServerError:
    if error.code == _RATE_LIMIT:
        return AuthenticationFailed(
            "refuses the admin for a few seconds after too many wrong passwords",
            where=where,
            hint="correct the password, wait five seconds, then run the command again",
        )
    if error.code == _EXPIRED:
        return AuthenticationFailed(
            "wants the admin's password changed before anything else",
            where=where,
            hint="ALTER CURRENT USER SET PASSWORD FROM '...' TO '...' in cypher-shell, then give multidb the new one",
        )
    if isinstance(error, exceptions.AuthError):
        return AuthenticationFailed(
            "refuses the admin's name or password", where=where, hint="correct the server's user or password"
        )
    if isinstance(error, exceptions.Forbidden):
        return NotAllowed(
            f"the admin may not do this: {_message(error)}",
            where=where,
            hint="give it the role admin (GRANT ROLE admin)",
        )
    if isinstance(error, exceptions.TransientError):
        return ServerSlow(_message(error), where=where, hint="run the command again")
    return ServerError(_message(error), where=where)


def _message(error: exceptions.Neo4jError) -> str:
    return redact((error.message or error.code or type(error).__name__).splitlines()[0])


def _is_not_bolt(error: BaseException) -> bool:
    return isinstance(error, exceptions.UnsupportedServerProduct) or "looks like HTTP" in str(error)


def _is_tls(causes: Sequence[BaseException]) -> bool:
    # The driver's words for a handshake that broke; a server without TLS just closes the connection.
    return any(isinstance(cause, ssl.SSLError) or "enabled encryption" in str(cause) for cause in causes)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
