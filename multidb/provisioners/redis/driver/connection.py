"""Connections to a server, and its refusals in words for people."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.retry import Retry

from multidb.errors import (
    AuthenticationFailed,
    NotAllowed,
    ServerDown,
    ServerError,
    ServerSlow,
    UsageError,
    WrongVersion,
)
from multidb.model import Server
from multidb.provisioners.redis.provision.rules import BYTES
from multidb.secrets import Secret, redact

__all__ = [
    "ADMIN_NEEDS",
    "PRIMARY",
    "UNABLE",
    "ConnectionCut",
    "NoConnectionLeft",
    "ask",
    "ask_lines",
    "clients",
    "pipelined",
    "fields",
    "open_client",
    "patiently",
    "scanned",
    "tls_options",
    "explained",
]

_BETWEEN_TRIES: Final = 0.05  # seconds
PRIMARY: Final = "name the primary server in the manifest"
ADMIN_NEEDS: Final = (
    "use an admin that may run ACL, CONFIG, INFO, COMMAND, EVAL, SET and GET, and for backups SCAN, DUMP, RESTORE, "
    "UNLINK, FLUSHDB, RENAME, SWAPDB and MULTI; a managed service without ACL SETUSER can't give apps users of their "
    "own"
)

_DISK: Final = (
    "free space on the server's disk, or correct the permissions there (its log says which), then run the command again"
)

UNABLE: Final[Mapping[str, tuple[str, str]]] = {
    "MISCONF": (
        "the server could not save its data to disk and refuses writes",
        "look at the server's disk and log, then run BGSAVE on it",
    ),
    "NOREPLICAS": ("the server has too few replicas and refuses writes", "bring its replicas back"),
    "MASTERDOWN": ("the server is a replica without its primary, and answers nothing", PRIMARY),
}
"""By the first word of a refusal that is no fault of what was asked: what it means, and the way on."""

_TLS_REASON: Final = re.compile(r"\[SSL[^\]]*\] (?:certificate verify failed: )?(.+?)\.?(?: \(_ssl\.c:\d+\))?\.?$")
_T = TypeVar("_T")
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")


class NoConnectionLeft(ServerDown):
    """As many clients are connected as the server takes (``maxclients``)."""


class ConnectionCut(redis.ConnectionError):
    """The server has ended a connection that it had let in."""


def open_client(
    server: Server, password: Secret | None, application: str, *, db: int = 0, raw: bool = False
) -> redis.Redis:
    """A client of one connection with the admin's login, which it makes when it is first used.

    Args:
        db: the DB number that it works in.
        raw: answers are bytes, as keys and values are; otherwise text.
    """
    client = redis.Redis(
        host=server.endpoint.host,
        port=server.endpoint.port,
        username=server.endpoint.user or None,
        password=password.reveal() if password is not None else None,
        db=db,
        protocol=2,
        decode_responses=not raw,
        encoding_errors="backslashreplace",
        socket_timeout=server.timeout,
        socket_connect_timeout=server.timeout,
        retry=Retry(NoBackoff(), 0),  # a lost answer is no proof that nothing happened; callers decide what to repeat
        single_connection_client=False,
        max_connections=1,
        client_name=re.sub(r"\s+", "-", application) or None,
        **tls_options(server),
    )
    client.response_callbacks.clear()  # answers as the server gives them, whatever the driver's version makes of them
    return client


def tls_options(server: Server) -> dict[str, Any]:
    """The driver's options for TLS, empty without. `UsageError` for an option that it does not have."""
    params = dict(server.endpoint.params)
    if not server.endpoint.tls:
        return {}
    options: dict[str, Any] = {"ssl": True}
    if "ca_file" in params:
        options["ssl_ca_certs"] = params.pop("ca_file")
    for name, value in params.items():
        if name not in _TLS_OPTIONS:
            raise UsageError(
                f"unknown connection option {name!r}", where=str(server), hint=f"one of: {', '.join(_TLS_OPTIONS)}"
            )
        options[name] = value.lower() in ("true", "1", "yes") if name == "ssl_check_hostname" else value
    return options


@contextlib.contextmanager
def explained(server: Server) -> Iterator[None]:
    """In the block the driver's errors become `ServerError`."""
    try:
        yield
    except RedisError as error:
        raise _translated(server, error) from None


def _translated(server: Server, error: RedisError) -> ServerError:
    """The driver's error as one of ours, without secrets and with the next thing to do."""
    where, text = str(server), redact(str(error))
    word = text.partition(" ")[0]  # which the driver takes off where it has a class for it, and a batch does not
    if isinstance(error, BusyLoadingError) or word == "LOADING":
        return ServerSlow("the server is still loading its data", where=where, hint="wait, then run the command again")
    if isinstance(error, redis.TimeoutError):
        return ServerSlow(
            f"no answer within {server.timeout:g} seconds",
            where=where,
            hint="look at the server's load (redis-cli --latency), then run the command again",
        )
    if isinstance(error, AuthenticationError) or text.startswith(("WRONGPASS", "NOAUTH", "invalid username")):
        user = server.endpoint.user or "default"
        return AuthenticationFailed(
            f"the server refuses the user {user!r} or its password",
            where=where,
            hint="correct the admin's name or password for this server",
        )
    if isinstance(error, NoPermissionError) or word == "NOPERM":
        return NotAllowed(text.removeprefix("NOPERM "), where=where, hint=ADMIN_NEEDS)
    if isinstance(error, ReadOnlyError) or word == "READONLY":
        return NotAllowed("the server is a replica", where=where, hint=PRIMARY)
    if isinstance(error, OutOfMemoryError) or text.startswith("OOM"):
        return ServerError("the server has no memory left", where=where, hint="raise its maxmemory, or delete keys")
    if isinstance(error, InvalidResponse):
        return WrongVersion(
            "what answers there does not speak the Redis protocol", where=where, hint="correct the port or the scheme"
        )
    if "max number of clients" in text:
        return NoConnectionLeft(
            "the server has no connection left for anybody",
            where=where,
            hint=f"stop whoever has them, or {server.restart_hint}; then run the command at once",
        )
    if text.startswith("BUSY "):
        return ServerSlow(
            "a script keeps the server from serving anybody",
            where=where,
            hint="end it with redis-cli: SCRIPT KILL, or where that is UNKILLABLE, SHUTDOWN NOSAVE; then leave scripts "
            "out of that app's entry",
        )
    if (unable := UNABLE.get(word)) is not None:
        return ServerError(unable[0], where=where, hint=unable[1])
    if isinstance(error, redis.ConnectionError):
        return _unreachable(server, error, text)
    return ServerError(text, where=where, hint=_DISK if "trying to save the ACLs" in text else "multidb doctor")


def _unreachable(server: Server, error: redis.ConnectionError, text: str) -> ServerDown:
    where = str(server)
    if isinstance(error, ConnectionCut):
        return ServerDown(
            "the server ended the connection before it had answered",
            where=where,
            hint=f"see its log: {server.start_hint}; or, where it keeps too little for the answers to a client, raise "
            "client-output-buffer-limit or maxmemory-clients",
        )
    if (refused := _TLS_REASON.search(text)) is not None:
        return ServerDown(f"the TLS connection fails: {refused[1]}", where=where, hint=server.tls_hint(refused[1]))
    return ServerDown(f"cannot be reached: {text}", where=where, hint=server.start_hint)


def patiently(server: Server, act: Callable[[], _T], make_room: Callable[[], None] = lambda: None) -> _T:
    """What `act` gives. Where the server has no connection left it is tried again, for as long as the server's timeout:
    who has them all may let one go.

    Args:
        make_room: called before each further try.

    Raises:
        NoConnectionLeft: nobody let one go.
    """
    deadline = time.monotonic() + server.timeout
    while True:
        try:
            with explained(server):
                return act()
        except NoConnectionLeft:
            if time.monotonic() > deadline:
                raise
        make_room()
        time.sleep(_BETWEEN_TRIES)


def ask(client: redis.Redis, *words: str | bytes | int) -> Any:
    """The server's answer to one command, as it gave it. A word may hold bytes that are no text (`BYTES`)."""
    execute: Any = client.execute_command
    return execute(*(word.encode(errors=BYTES) if isinstance(word, str) else word for word in words))


def ask_lines(client: redis.Redis, *words: str) -> list[str]:
    """The server's answer to a command that lists what others may have named: bytes that are no text stay what they
    are (`BYTES`)."""
    execute: Any = client.execute_command
    return [line.decode(errors=BYTES) for line in execute(*words, NEVER_DECODE=True)]


def pipelined(client: redis.Redis, commands: Iterable[Sequence[Any]]) -> list[Any]:
    """The answers to many commands, sent in one go. The first refusal is raised once all are answered."""
    pipeline: Any = client.pipeline(transaction=False)
    pipeline.response_callbacks.clear()
    for words in commands:
        pipeline.execute_command(*words)
    answers: list[Any] = pipeline.execute()
    return answers


def scanned(client: redis.Redis, options: Sequence[str] = ()) -> Iterator[list[Any]]:
    """The keys of the client's DB in the batches of SCAN, which may name a key more than once."""
    cursor = "0"
    while True:
        position, keys = ask(client, "SCAN", cursor, *options)
        if keys:
            yield keys
        cursor = position.decode() if isinstance(position, bytes) else position
        if cursor == "0":
            return


def clients(listed: str) -> list[dict[str, str]]:
    """The connections in an answer to CLIENT LIST, as fields (``id``, ``user``, ``db``)."""
    return [dict(field.partition("=")[::2] for field in line.split(" ")) for line in listed.split("\n") if line]


def fields(info: str) -> dict[str, str]:
    """What INFO says, by name."""
    return dict(line.split(":", 1) for line in info.split("\r\n") if ":" in line)
