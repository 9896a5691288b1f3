"""One login on one Neo4j server, over Bolt, and what the driver's errors mean.

The driver's own timeouts end with the login. What is asked after it is given up by closing the connection from another
thread, which wakes the one that waits. (The asynchronous driver can be told to stop waiting, and takes six times the
processor time for the same login.)
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Self

import neo4j
from neo4j import exceptions

from multidb.errors import AuthenticationFailed, NotAllowed, ServerDown, ServerError, ServerSlow, WrongVersion
from multidb.model import Endpoint, Server, Tenant
from multidb.progress import ProgressTimer, ended_without
from multidb.provisioners.neo4j.provision.statements import SYSTEM
from multidb.secrets import Secret, redact, revealed

__all__ = ["DRIVER_ERRORS", "Bolt", "address", "as_the_app", "explain", "words_of"]

RATE_LIMIT: Final = "Neo.ClientError.Security.AuthenticationRateLimit"
EXPIRED: Final = "Neo.ClientError.Security.CredentialsExpired"
_LOCKED_SECONDS: Final = 5.2  # dbms.security.auth_lock_time, 5 s by default, and a little

DRIVER_ERRORS: Final = (exceptions.Neo4jError, exceptions.DriverError, OSError, TimeoutError)

ADMIN: Final = "the admin"
# What to do when a login is refused, and when it lacks a right.
_HINTS_TO_THE_ADMIN: Final = ("correct the server's user or password", "give it the role admin (GRANT ROLE admin)")
_HINTS_ABOUT_AN_APP: Final = ("make it work again: multidb apply", "give it back its rights: multidb apply")

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
        self._application = application
        self._uri = uri
        self._password = password
        self._numbers = itertools.count()
        self._auth = (user, password.reveal()) if password is not None else None
        self._driver = self._made()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection without waiting for an answer."""
        with contextlib.suppress(Exception):
            self._driver.close()

    def ask(
        self, text: str, database: str = SYSTEM, values: Mapping[str, Any] | None = None, seconds: float | None = None
    ) -> list[dict[str, Any]]:
        """The rows of one statement in a transaction of its own. Raises the driver's errors."""
        self.sent += 1
        # The text comes from this folder, with names quoted there; values are parameters.
        with self.within(seconds), self.session(database) as session:
            return session.run(text, dict(values or {})).data()

    def logs_in(self, name: str, password: Secret) -> bool:
        """Whether the server takes the password. After three refused ones Neo4j locks a user for five seconds, which
        are waited out.

        Raises:
            ServerSlow: somebody keeps trying wrong ones.
        """
        auth = neo4j.basic_auth(name, password.reveal())
        for last in (False, True):
            try:
                with self.within():
                    return self._driver.verify_authentication(auth)
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
            with self.within():
                return self._driver.verify_authentication(neo4j.basic_auth(name, password.reveal()))
        except exceptions.Neo4jError as error:
            return error.code == EXPIRED

    def session(self, database: str, **options: Any) -> neo4j.Session:
        """A session of the driver, for work that takes several round trips, each of them `within` a time."""
        return self._driver.session(database=database, **options)

    @contextlib.contextmanager
    def within(self, seconds: float | None = None) -> Iterator[None]:
        """Gives up what is done inside after `seconds`, by default the server's timeout, with `TimeoutError`.

        The connection is closed then, with its sessions; what is asked next makes a new one.

        Raises:
            ServerSlow: instead, where that is the server's progress_timeout or more: it may take more than that only as
                long as the server answers others.
        """
        driver, too_late = self._driver, threading.Event()
        limit = seconds or self.server.timeout
        progress_timeout = self.server.progress_timeout
        timer = ProgressTimer(min(limit, progress_timeout), self._sign if limit > progress_timeout else None)

        def give_up() -> None:
            too_late.set()
            driver.close()

        watch = threading.Timer(limit, give_up)
        watch.daemon = True
        watch.start()
        try:
            with ended_without(timer, give_up) if limit >= progress_timeout else contextlib.nullcontext():
                yield
        except Exception:
            if limit >= progress_timeout and too_late.is_set() and timer.expired():
                raise timer.error(self.server) from None
            if too_late.is_set():
                raise TimeoutError from None
            raise
        finally:
            watch.cancel()
            if too_late.is_set():
                self._driver = self._made()

    def _sign(self) -> object:
        """Another one each time, if the server answers at all: it is one process for everybody."""
        other = Bolt(self.server, self.user, self._password, self._application, who=self._who, uri=self._uri)
        with other, other.explained():
            other.ask("RETURN 1", SYSTEM)
        return next(self._numbers)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turns the driver's errors into `ServerError`."""
        try:
            yield
        except DRIVER_ERRORS as error:
            raise explain(error, self.server, self._who) from None

    def _made(self) -> neo4j.Driver:
        """A driver, which connects when it is first asked something."""
        timeout = self.server.timeout
        own, options = address(self.server.endpoint)
        uri = self._uri or own
        return neo4j.GraphDatabase.driver(
            _without_trust(uri) if "trusted_certificates" in options else uri,
            auth=self._auth,
            user_agent=self._application,
            connection_timeout=timeout,
            connection_acquisition_timeout=timeout,
            connection_write_timeout=timeout,
            max_transaction_retry_time=0,
            notifications_min_severity=neo4j.NotificationMinimumSeverity.OFF,
            telemetry_disabled=True,
            **options,
        )


def as_the_app(tenant: Tenant, uri: str | None = None, application: str = "multidb check") -> Bolt:
    """The app's own login, on its own server or at another address."""
    env = {name: revealed(value) for name, value in tenant.env.items()}
    return Bolt(
        tenant.server,
        env["NEO4J_USER"],
        Secret(env["NEO4J_PASSWORD"]),
        application,
        who=f"app {tenant.app.id}",
        uri=uri or env["NEO4J_URI"],
    )


def address(endpoint: Endpoint) -> tuple[str, dict[str, Any]]:
    """The driver's URI and its TLS options. The driver takes either ``+s`` in the scheme or files, never both."""
    scheme = endpoint.params.get("scheme") or ("bolt+s" if endpoint.tls else "bolt")
    options: dict[str, Any] = {}
    if ca_file := endpoint.params.get("ca_file"):
        scheme = _without_trust(scheme)
        options |= {"encrypted": True, "trusted_certificates": neo4j.TrustCustomCAs(ca_file)}
    if cert_file := endpoint.params.get("cert_file"):
        certificate = neo4j.auth_management.ClientCertificate(cert_file, endpoint.params.get("key_file"))
        options["client_certificate"] = neo4j.auth_management.ClientCertificateProviders.static(certificate)
    return f"{scheme}://{endpoint.host}:{endpoint.port}", options


def _without_trust(uri: str) -> str:
    """A URI, or a scheme, that leaves it to the driver's options whom to trust: ``bolt`` for ``bolt+s``."""
    scheme, colon, rest = uri.partition(":")
    return f"{scheme.partition('+')[0]}{colon}{rest}"


def explain(error: BaseException, server: Server, who: str = ADMIN) -> ServerError:
    """What a driver's error means for the person who runs multidb."""
    where = str(server)
    if isinstance(error, exceptions.Neo4jError):
        return _explain_answer(error, server, who)
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
    return ServerDown("cannot be reached", where=where, hint=server.start_hint)


def _explain_answer(error: exceptions.Neo4jError, server: Server, who: str) -> ServerError:
    where, hints = str(server), _HINTS_TO_THE_ADMIN if who == ADMIN else _HINTS_ABOUT_AN_APP
    if error.code == RATE_LIMIT:
        return AuthenticationFailed(
            f"refuses {who} for a few seconds after too many wrong passwords",
            where=where,
            hint="correct the password, wait five seconds, then run the command again",
        )
    if who == ADMIN and server.app is not None and (error.code == EXPIRED or isinstance(error, exceptions.AuthError)):
        return _locked_out(server)
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
            f"{who} may not do this: {words_of(error)}",
            where=where,
            hint=hints[1],
        )
    if isinstance(error, exceptions.TransientError):
        return ServerSlow(words_of(error), where=where, hint="run the command again")
    return ServerError(words_of(error), where=where)


def _locked_out(server: Server) -> AuthenticationFailed:
    """Of a server that serves one app and is multidb's own to run."""
    return AuthenticationFailed(
        "refuses the admin's password: somebody has changed it, as every login of a Neo4j without roles can",
        where=str(server),
        hint=f"get back in: multidb recover {server.name}",
    )


def words_of(error: exceptions.Neo4jError) -> str:
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
