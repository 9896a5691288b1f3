"""A server elsewhere whose keys are followed after they were copied: it tells what is changed as long as a connection
of ours lasts, and nothing is made there. Decision 91 has the reasons.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, Self

from redis.exceptions import ResponseError

from multidb.errors import NotAllowed, ServerError, ServerSlow
from multidb.model import App, Server, StoreContext, Survey
from multidb.provisioners.redis.backup.changes import ChangedKeys, Changes
from multidb.provisioners.redis.backup.globs import matcher
from multidb.provisioners.redis.backup.pause import Pause
from multidb.provisioners.redis.backup.source import RedisSource
from multidb.provisioners.redis.driver.batch_connection import OWN_NAME
from multidb.provisioners.redis.provision.rules import join_line

__all__ = ["FollowedRedis"]

_CLOSING: Final = "min-replicas-to-write"
_CLOSED: Final = "1000000000"  # no server has as many; by this number what we have set is known again
_OPEN: Final = "0"
_STOPS: Final = ("+client|pause", "+client|unpause")
_TELLS: Final = ("+client|tracking",)


class FollowedRedis(RedisSource):
    """A `multidb.model.FollowedSource`; a file is one that cannot be followed."""

    def __enter__(self) -> Self:
        super().__enter__()
        self._following = ExitStack()
        self._changes: Changes | None = None
        self._pause: Pause | None = None
        self._is_closed = False
        return self

    def __exit__(self, *exc: object) -> None:
        with ExitStack() as stack:
            stack.callback(super().__exit__, *exc)
            stack.callback(self._following.close)
            if self._pause is not None:
                with contextlib.suppress(ServerError), self.explained():  # a pause ends by itself
                    if not self._is_closed:
                        self._end_sessions()
                    self._pause.end()

    def survey(self, app: App, context: StoreContext) -> Survey:
        with self.explained():
            against = next(self._against(), "")
        return replace(super().survey(app, context), following=against)

    def _against(self) -> Iterator[str]:
        """Why it cannot be followed, with the way on."""
        if self._file:
            yield "a file does not change: leave out --live"
            return
        user = self._server.endpoint.user or "default"
        with self._opened() as lane:
            # Without a number the pause is refused whoever asks, but first whoever may not ask.
            commands = [("HELLO", 3), ("CLIENT", "TRACKING", "OFF"), ("CLIENT", "PAUSE", "none", "WRITE")]
            greeting, tracking, pausing = lane.tell(commands)
        if _is_denied(tracking):
            yield f"its login may not be told of changes: {join_line(['ACL', 'SETUSER', user, *_TELLS])}, at the source"
        elif isinstance(greeting, ResponseError) or isinstance(tracking, ResponseError):
            yield f"{self.name} tells nobody what is changed, which takes Redis 6.2 or Valkey: leave out --live"
        elif greeting.get(b"role") != b"master":
            yield "it is a replica: name its primary"
        elif _is_denied(pausing):
            yield f"its login may not stop writers: {join_line(['ACL', 'SETUSER', user, *_STOPS])}, at the source"
        elif "timeout" not in str(pausing):
            yield f"{self.name} has no way to stop writers, which takes Redis 6.2 or Valkey: leave out --live"

    # ------------------------------------------------------------------------------------------- what changes there

    def begin_telling(self) -> bool:
        """From now on, what changes is kept for `changed`. Whether that had begun before, in this block."""
        if self._changes is not None:
            return True
        with self.explained():
            connection = self._following.enter_context(self._opened())
            self._changes = Changes(connection, self._prefix, self._chosen_by())
        return False

    def collect(self) -> None:
        """Takes in what the server has told so far. Often enough, the server has little to keep."""
        with self.explained():
            self._telling.collect()

    def changed(self) -> ChangedKeys:
        """What was changed until now, and not told before."""
        with self.explained():
            return self._telling.take()

    @property
    def tells_all(self) -> bool:
        """Whether nothing can have changed that is not told, but for streams."""
        return self._telling.tells_all

    @property
    def _telling(self) -> Changes:
        assert self._changes is not None
        return self._changes

    def _chosen_by(self) -> Callable[[bytes], bool]:
        if not self._options.pattern:
            return lambda key: key.startswith(self._prefix)
        matches = matcher(self._match)
        return lambda key: key.startswith(self._prefix) and matches(key)

    def is_at(self, server: Server, run: str) -> bool:
        """Whether its server is this one, which says that it is this run."""
        if self.facts.run:
            return run == self.facts.run
        return (self._server.endpoint.host, self._server.endpoint.port) == (server.endpoint.host, server.endpoint.port)

    @property
    def prefix(self) -> bytes:
        """What is taken off the beginning of names."""
        return self._prefix

    def own_name(self, key: bytes) -> bytes:
        """The name that a key has in the app's place, without the place's own prefix."""
        return key[len(self._prefix) :]

    # ------------------------------------------------------------------------------------------------ who writes there

    def stopping(self) -> str:
        with self.explained():
            closing = self._may_close()
        if closing:
            return f"all writes wait, and are refused afterwards, until somebody says CONFIG SET {_CLOSING} {_OPEN}"
        ended = f", and sessions in DB {self._number} are ended at the end" if self._is_whole else ""
        return (
            f"all writes, in every DB of the server, wait{ended}; it can be written again afterwards, so keep the "
            "application from it (ACL SETUSER NAME off)"
        )

    def stop_writing(self) -> None:
        """Has all writes to the server wait; where it is this app's alone, they are refused afterwards."""
        if self._pause is not None:
            return
        self.begin_telling()
        try:
            with self.explained():
                self._pause = Pause(self._opened)
                self._is_closed = self._may_close()
                if self._is_closed:
                    self._lane.ask("CONFIG", "SET", _CLOSING, _CLOSED)
        except NotAllowed as error:
            user = self._server.endpoint.user or "default"
            raise NotAllowed(
                f"the login may not stop writers: {error.message}",
                where=error.where,
                hint=f"{join_line(['ACL', 'SETUSER', user, *_STOPS])}, at the source; then run the command again",
            ) from None

    def require_stopped(self) -> None:
        with self.explained():
            unbroken = self._pause is not None and self._pause.is_unbroken()
        if not unbroken or self.changed():
            raise ServerSlow(
                "its writers were not stopped all the time",
                where=f"source {self._location.text}",
                hint="see whether it is overloaded, then run the command again",
            )

    def allow_writing(self) -> None:
        pause, self._pause, self._is_closed = self._pause, None, False
        with self.explained():
            try:
                if not self._file and self._replicas_needed() == _CLOSED:
                    self._lane.ask("CONFIG", "SET", _CLOSING, _OPEN)
            finally:
                if pause is not None:
                    pause.end()

    def unfollow(self, mark: str) -> None:
        """Nothing is made at the source."""

    def left_behind(self, mark: str, *, stopped: bool) -> str:
        return f"the source may refuse what is written there, until CONFIG SET {_CLOSING} {_OPEN}" if stopped else ""

    def _replicas_needed(self) -> str:
        """How many replicas a write takes there; empty where it does not say."""
        [answer] = self._lane.tell([("CONFIG", "GET", _CLOSING)])
        return answer[1].decode() if isinstance(answer, list) and len(answer) == 2 else ""

    def _may_close(self) -> bool:
        """Whether the server is this app's alone, and can be closed by a setting that nobody uses there."""
        if self._is_shared or self._replicas_needed() not in (_OPEN, _CLOSED):
            return False
        [refusal] = self._lane.tell([("CONFIG", "SET", _CLOSING, "none")])  # no number, so nothing is set
        return not _is_denied(refusal)

    @property
    def _is_shared(self) -> bool:
        """Whether others than the app may have keys on the server, as far as one sees."""
        return not self._is_whole or set(self.facts.keys) != {self._number}

    @property
    def _is_whole(self) -> bool:
        """Whether a whole DB is imported."""
        return not (self._options.prefix or self._options.pattern)

    def _end_sessions(self) -> None:
        """What waits is not done after all, where the whole DB was taken; as far as the login may do that."""
        [answer] = self._lane.tell([("CLIENT", "LIST")])
        if not self._is_whole or isinstance(answer, ResponseError):
            return
        sessions = [
            dict(word.split("=", 1) for word in line.split(" ") if "=" in word)
            for line in answer.decode(errors="replace").splitlines()
        ]
        if any(session.get("name") == OWN_NAME for session in sessions):  # or ours are not known from others'
            others = [one for one in sessions if one.get("name") != OWN_NAME and one.get("db") == str(self._number)]
            self._lane.tell([("CLIENT", "KILL", "ID", one["id"]) for one in others])


def _is_denied(answer: object) -> bool:
    return isinstance(answer, ResponseError) and str(answer).startswith("NOPERM")
