"""One login on one Neo4j server, over Bolt, and what the driver's errors mean.

The asynchronous driver is used for one reason: only its calls can be given up when a server accepts a connection and
says nothing. Nothing here runs at the same time as anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final, Self, TypeVar

import neo4j
from neo4j import exceptions

from multidb.errors import AuthenticationFailed, NotAllowed, ServerDown, ServerError, ServerSlow, WrongVersion
from multidb.model import Endpoint, Server
from multidb.provisioners.neo4j.statements import SYSTEM
from multidb.secrets import Secret, redact

__all__ = ["DRIVER_ERRORS", "Bolt", "address", "explain", "said"]

RATE_LIMIT: Final = "Neo.ClientError.Security.AuthenticationRateLimit"
EXPIRED: Final = "Neo.ClientError.Security.CredentialsExpired"
_LOCKED_SECONDS: Final = 5.2  # dbms.security.auth_lock_time, 5 s by default, and a little
_CLOSING_SECONDS: Final = 2.0

DRIVER_ERRORS: Final = (exceptions.Neo4jError, exceptions.DriverError, OSError, TimeoutError)

ADMIN: Final = "the admin"
# What to do when a login is refused, and when it lacks a right.
_HINTS_TO_THE_ADMIN: Final = ("correct the server's user or password", "give it the role admin (GRANT ROLE admin)")
_HINTS_ABOUT_AN_APP: Final = ("make it work again: multidb apply", "give it back its rights: multidb apply")

_T = TypeVar("_T")

logging.getLogger("neo4j").addHandler(logging.NullHandler())  # what matters comes back as an error


class Bolt:
    """A login, made on the first call. `sent` counts the round trips so far.

    Args:
        who: who logs in, for messages (``the admin``).
        uri: where, if it is not the server's endpoint.
    """

    def __init__(
        self,
        server: Server,
        user: str,
        password: Secret | None,
        application: str,
        *,
        who: str = ADMIN,
        uri: str | None = None,
    ) -> None:
        self.server = server
        self.user = user
        self.sent = 0
        self._who = who
        self._runner = asyncio.Runner()
        own, options = address(server.endpoint)
        self._driver = neo4j.AsyncGraphDatabase.driver(
            uri or own,
            auth=(user, password.reveal()) if password is not None else None,
            user_agent=application,
            connection_timeout=server.timeout,
            connection_acquisition_timeout=server.timeout,
            max_transaction_retry_time=0,
            notifications_min_severity=neo4j.NotificationMinimumSeverity.OFF,
            telemetry_disabled=True,
            **options,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; a server that does not answer any more is not waited for."""
        with contextlib.suppress(Exception):
            self._runner.run(asyncio.wait_for(self._driver.close(), _CLOSING_SECONDS))
        self._runner.close()

    def ask(
        self, text: str, database: str = SYSTEM, values: Mapping[str, Any] | None = None, seconds: float | None = None
    ) -> list[dict[str, Any]]:
        """The rows of one statement in a transaction of its own. Raises the driver's errors."""
        self.sent += 1
        return self.wait(self._send(text, database, values or {}), seconds)

    def logs_in(self, name: str, password: Secret) -> bool:
        """Whether the server takes the password. After three refused ones Neo4j locks a user for five seconds, which
        are waited out.

        Raises:
            ServerSlow: somebody keeps trying wrong ones.
        """
        auth = neo4j.basic_auth(name, password.reveal())
        for last in (False, True):
            try:
                return self.wait(self._driver.verify_authentication(auth))
            except exceptions.Neo4jError as error:
                if error.code != RATE_LIMIT:
                    raise
            if not last:
                time.sleep(_LOCKED_SECONDS)
        raise ServerSlow(
            f"somebody keeps trying wrong passwords for user {name}, so Neo4j refuses to check any",
            where=str(self.server),
            hint="stop the client with the wrong password, then run the command again",
        )

    def takes_first_password(self, name: str, password: Secret) -> bool:
        """Whether somebody could log in so, one attempt, even where the server would then ask for a new password."""
        try:
            return self.wait(self._driver.verify_authentication(neo4j.basic_auth(name, password.reveal())))
        except exceptions.Neo4jError as error:
            return error.code == EXPIRED

    def session(self, database: str, **options: Any) -> neo4j.AsyncSession:
        """A session of the driver, for work that takes several round trips; run each of them with `wait`."""
        return self._driver.session(database=database, **options)

    def wait(self, work: Coroutine[Any, Any, _T], seconds: float | None = None) -> _T:
        """The outcome of `work`. `TimeoutError` after `seconds`, the server's own timeout by default."""
        return self._runner.run(_within(work, seconds or self.server.timeout))

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turns the driver's errors into `ServerError`."""
        try:
            yield
        except DRIVER_ERRORS as error:
            raise explain(error, self.server, self._who) from None

    async def _send(self, text: str, database: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        # The text comes from this folder, with names quoted there; values are parameters.
        async with self.session(database) as session:
            result = await session.run(text, dict(values))
            return await result.data()


async def _within(work: Coroutine[Any, Any, _T], seconds: float) -> _T:
    return await asyncio.wait_for(work, seconds)


def address(endpoint: Endpoint) -> tuple[str, dict[str, Any]]:
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


def explain(error: BaseException, server: Server, who: str = ADMIN) -> ServerError:
    """What a driver's error means for the person who runs multidb."""
    where = str(server)
    if isinstance(error, exceptions.Neo4jError):
        return _explain_answer(error, where, who)
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


def _explain_answer(error: exceptions.Neo4jError, where: str, who: str) -> ServerError:
    hints = _HINTS_TO_THE_ADMIN if who == ADMIN else _HINTS_ABOUT_AN_APP
    if error.code == RATE_LIMIT:
        return AuthenticationFailed(
            f"refuses {who} for a few seconds after too many wrong passwords",
            where=where,
            hint="correct the password, wait five seconds, then run the command again",
        )
    if error.code == EXPIRED:
        return AuthenticationFailed(
            f"wants {who}'s password changed before anything else",
            where=where,
            hint="ALTER CURRENT USER SET PASSWORD FROM '...' TO '...' in cypher-shell, then give multidb the new one",
        )
    if isinstance(error, exceptions.AuthError):
        return AuthenticationFailed(f"refuses {who}'s name or password", where=where, hint=hints[0])
    if isinstance(error, exceptions.Forbidden):
        return NotAllowed(
            f"{who} may not do this: {said(error)}",
            where=where,
            hint=hints[1],
        )
    if isinstance(error, exceptions.TransientError):
        return ServerSlow(said(error), where=where, hint="run the command again")
    return ServerError(said(error), where=where)


def said(error: exceptions.Neo4jError) -> str:
    """The server's own words, one line, known secrets struck out."""
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
