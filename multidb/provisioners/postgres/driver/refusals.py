"""What a Postgres server refuses, as it says it and as people are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import pq

from multidb.errors import AuthenticationFailed, NotAllowed, ServerDown, ServerError, ServerSlow, WrongVersion
from multidb.model import Server
from multidb.secrets import redact

__all__ = ["DISK_FULL", "FULL", "NO_SPACE", "Refusal", "connection_error", "refusal_error", "refusal_of", "way_on"]

DISK_FULL = "53100"
NO_SPACE = "free space on the server's disk, then run the command again"
_LOCKS: Final = "max_locks_per_transaction"  # as the server names it, in whatever language it speaks
_MORE_LOCKS: Final = (
    f"it has more tables than the server has room for locks: as an admin, ALTER SYSTEM SET {_LOCKS} to four times what "
    "SHOW says, and {restart}; then run the command again"
)
_CROWDED: Final = ("too many clients", "remaining connection slots", "too many connections")
_MAKE_ROOM: Final = "close some, or raise max_connections"
FULL = "has no free connection"  # how the message begins when the server, or a login, has none left


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error of the server, as it says it."""

    sqlstate: str
    message: str
    position: int | None = None  # in characters from 1, of what was sent
    advice: str = ""  # the server's own hint


def refusal_of(result: pq.abc.PGresult) -> Refusal:
    """What an answer of the server's says is wrong, or is to be noted."""

    def part(code: pq.DiagnosticField) -> str:
        raw = result.error_field(code)
        return raw.decode(errors="replace") if raw else ""

    position = part(pq.DiagnosticField.STATEMENT_POSITION)
    message = part(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message.decode(errors="replace").strip()
    detail = part(pq.DiagnosticField.MESSAGE_DETAIL)
    return Refusal(
        part(pq.DiagnosticField.SQLSTATE),
        f"{message} ({detail})" if detail else message,
        int(position) if position else None,
        part(pq.DiagnosticField.MESSAGE_HINT),
    )


def way_on(refusal: str, restart: str = "restart the server") -> str | None:
    """What to do about a refusal that is no fault of what was asked; None where that is not known.

    Args:
        refusal: what the server says with it, its own hint and all.
        restart: how the server is started anew.
    """
    if _LOCKS in refusal:
        return _MORE_LOCKS.format(restart=restart)
    lowered = refusal.lower()
    # Not what keeps out this login alone: while a load runs, an app may have seen to that.
    crowded = "fatal:" in lowered and "for role" not in lowered and any(sign in lowered for sign in _CROWDED)
    return f"{_MAKE_ROOM}; then run the command again" if crowded else None


def refusal_error(refusal: Refusal, server: Server, slow: str = "") -> ServerError:
    """The refusal as an error for people.

    Args:
        slow: what is said of a statement that took too long; empty: what the server says.
    """
    where, message = str(server), redact(refusal.message)
    match refusal.sqlstate:
        case "57014":
            return ServerSlow(slow or message, where=where, hint="look at its load, then run the command again")
        case "42501":
            return NotAllowed(message, where=where, hint="give the admin login that right, or use another one")
        case "25006":
            hint = "where it is a standby, name the primary server in the manifest; else let it be written to"
            return NotAllowed(message, where=where, hint=hint)
        case _ if refusal.sqlstate == DISK_FULL:
            return ServerError(message, where=where, hint=NO_SPACE)
        case "57P01" | "57P02" | "57P03":
            return ServerDown(message, where=where, hint="wait until it is up again, then run the command again")
    return ServerError(message, where=where, hint=way_on(refusal.advice, server.restart_hint))


# What libpq says when a connection cannot be made: it has no codes for it. Texts of the server may be translated, and
# then fall through to the general error, which quotes them.
_CONNECTION_ERRORS: tuple[tuple[tuple[str, ...], type[ServerError], str, str], ...] = (
    (
        ("password authentication failed", "no password supplied", "no pg_hba.conf entry", "authentication failed"),
        AuthenticationFailed,
        "refuses the login",
        "correct the admin's name or password, or pg_hba.conf on the server",
    ),
    (
        ("permission denied for database", "is not permitted to log in"),
        NotAllowed,
        "does not let the login in",
        "let a superuser grant it CONNECT there",
    ),
    (
        ("too many connections for role",),
        ServerError,
        FULL,
        "close some of the login's, or raise its connection_limit",
    ),
    (
        _CROWDED,
        ServerError,
        FULL,
        _MAKE_ROOM,
    ),
    (("no space left on device",), ServerError, "cannot be connected to", NO_SPACE),
    (
        ("could not access file", "could not load library"),
        ServerError,
        "cannot load a library that is set for the login or the database, and lets nobody in",
        "install it, or reset that, as an admin: ALTER DATABASE (or ROLE) .. RESET session_preload_libraries (or "
        "local_preload_libraries)",
    ),
    (
        ("expected authentication request", "received invalid response to SSL", "received invalid response to GSS"),
        WrongVersion,
        "is not a Postgres server",
        "correct the address",
    ),
    (("timeout expired", "timed out"), ServerSlow, "does not answer", "look whether it is stopped or overloaded"),
    (
        (
            "connection refused",
            "failed to resolve",
            "could not translate host",
            "no route to host",
            "network is unreachable",
            "no such file or directory",
            "the database system is",
            "server closed the connection",
            "connection reset",
        ),
        ServerDown,
        "cannot be reached",
        "",  # the server knows
    ),
)


_TLS: Final = ("certificate", "ssl error", "does not support ssl")


def connection_error(error: psycopg.Error, server: Server) -> ServerError:
    """What a failed attempt to connect means, and what to do next."""
    text = redact(str(error)).strip()
    reason = text.rsplit("failed: ", 1)[-1].splitlines()[0] if text else type(error).__name__
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return ServerSlow(
            f"did not let us in within {server.timeout:g} s",
            where=str(server),
            hint="look whether it is stopped or overloaded, then run the command again",
        )
    lowered = text.lower()
    if "fatal:" not in lowered and any(sign in lowered for sign in _TLS):
        return ServerDown(f"the TLS connection fails: {reason}", where=str(server), hint=server.tls_hint(reason))
    answered = "fatal:" in lowered and "the database system is" not in lowered
    for signs, kind, message, hint in _CONNECTION_ERRORS:
        if answered and kind in (ServerDown, ServerSlow):
            continue  # a server that says why is there, whatever words of the app's it quotes
        if any(sign.lower() in lowered for sign in signs):
            return kind(f"{message}: {reason}", where=str(server), hint=hint or server.start_hint)
    return ServerError(f"cannot be connected to: {reason}", where=str(server), hint="look into the server's log")
