"""What the client that waits and the one that awaits have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - redis-py's own
    TimeoutError,  # noqa: A004
)
from redis.maint_notifications import MaintNotificationsConfig

from multidb.client.redis.keys import REPLIES_WITH_KEY, WRITES, Placement, SharedChannel, name_of
from multidb.client.source import Source

__all__ = [
    "PASSING",
    "Credentials",
    "PlacedCommands",
    "SharedNames",
    "call_back",
    "is_sent_twice",
    "options",
    "own_message",
    "placement",
    "renewed",
    "unsent",
]

PASSING = (ConnectionError, TimeoutError, BusyLoadingError)
"""What a server that restarts explains."""


class Credentials(CredentialProvider):
    """The app's login as it is now, asked for at each new connection."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """User and password."""
        self._source.refresh()  # a stat for each new connection
        return self._source["REDIS_USER"], self._source["REDIS_PASSWORD"]


class PlacedCommands:
    """Puts a command into the app's place before it is sent or queued."""

    place: Placement
    connection_pool: Any
    _encode: Any = None  # redis-py makes an encoder each time that it is asked for one

    def _placed(self, words: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._encode is None:
            self._encode = self.connection_pool.get_encoder().encode
        return self.place.placed(words, self._encode)


class SharedNames:
    """What a subscriber knows of the names that it listens to: which are channels that the manifest shares."""

    place: Placement
    connection_pool: Any
    _shared: frozenset[Any] = frozenset()

    def note_shared(self, names: Any) -> None:
        """Remembers those that are shared, since their type is lost in redis-py's tables."""
        encode = self.connection_pool.get_encoder().encode
        self._shared |= {encode(name) for name in names if isinstance(name, SharedChannel)}

    def placed(self, words: tuple[Any, ...]) -> tuple[Any, ...]:
        """A command that subscribes, with the app's prefix before its channels."""
        self.note_shared(words[1:])
        encode = self.connection_pool.get_encoder().encode
        names = [SharedChannel(_text(word)) if encode(word) in self._shared else word for word in words[1:]]
        return self.place.placed((words[0], *names), encode)


def _text(word: Any) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


def placement(source: Source, *, read_only: bool) -> Placement:
    """The app's place, as its variables tell."""
    return Placement(source.get("REDIS_KEY_PREFIX"), f"{source.app}:", read_only=read_only)


def options(source: Source, retry: type[Any]) -> dict[str, Any]:
    """What redis-py is told of the server. That a command is sent again is decided here, not there: redis-py would send
    an INCR twice.

    Args:
        retry: `redis.retry.Retry`, or the one to await.
    """
    arguments: dict[str, Any] = {
        "host": source["REDIS_HOST"],
        "port": int(source["REDIS_PORT"]),
        "db": int(source.get("REDIS_DB") or 0),
        "credential_provider": Credentials(source),
        "retry": retry(NoBackoff(), 0),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if source.get("REDIS_URL").startswith("rediss://"):
        arguments["ssl"] = True
        if authority := source.get("REDIS_CA_FILE"):
            arguments["ssl_ca_certs"] = authority
    return arguments


def unsent(error: Exception) -> Exception:
    """Marks an error as one before which nothing was sent."""
    error.multidb_unsent = True  # type: ignore[attr-defined]
    return error


def is_sent_twice(error: Exception, words: tuple[Any, ...]) -> bool:
    """Whether a command may be sent again after `error`: nothing was sent, or it only reads."""
    if isinstance(error, AuthenticationError):
        return False
    if not isinstance(error, PASSING):
        return False
    if getattr(error, "multidb_unsent", False) or isinstance(error, BusyLoadingError):
        return True
    name = name_of(str(words[0]), str(words[1]) if len(words) > 1 else "")
    return name not in WRITES and name not in ("exec", "multi")


def call_back(callbacks: MutableMapping[Any, Any], place: Placement) -> None:
    """Has the answers of commands that name a key name it as the app does."""
    if not place.keys:
        return
    for name in REPLIES_WITH_KEY:
        callbacks[name] = _renamed(callbacks.get(name), place)


def _renamed(before: Callable[..., Any] | None, place: Placement) -> Callable[..., Any]:
    def answer(response: Any, **options: Any) -> Any:
        response = response if before is None else before(response, **options)
        if isinstance(response, dict):
            return {place.own_key(key): value for key, value in response.items()}
        if isinstance(response, list | tuple) and response:
            if isinstance(response[0], list | tuple):  # XREAD: a pair for each stream
                return [[place.own_key(key), *rest] for key, *rest in response]
            return type(response)((place.own_key(response[0]), *response[1:]))
        return response

    return answer


def own_message(response: Any, place: Placement) -> Any:
    """A message of pub/sub with channel and pattern as the app calls them."""
    if not isinstance(response, list | tuple) or len(response) < 3:
        return response
    kind = response[0].decode() if isinstance(response[0], bytes) else response[0]
    until = 3 if kind == "pmessage" else 2
    return [response[0], *(place.own_channel(name) for name in response[1:until]), *response[until:]]


def renewed(pool: Any) -> Iterator[Any]:
    """Marks the connections in use, which are opened anew when they come back; gives those that are idle."""
    for connection in list(pool._in_use_connections):
        connection.mark_for_reconnect()
    yield from list(pool._available_connections)
