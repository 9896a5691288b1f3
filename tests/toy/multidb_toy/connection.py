"""The driver's part: one connection, and its errors in multidb's words."""

from __future__ import annotations

import json
import socket
from typing import Any, Self

from multidb.errors import AuthenticationFailed, NotAllowed, ServerDown, ServerError, ServerSlow
from multidb.secrets import Secret

__all__ = ["Connection"]


class Connection:
    """Logged in, until the ``with`` block ends.

    Raises:
        ServerDown, ServerSlow: it cannot be reached; it does not answer within `timeout` seconds.
        AuthenticationFailed: it does not let the login in.
    """

    def __init__(
        self, host: str, port: int, user: str, key: Secret, *, where: str, timeout: float, start: str = ""
    ) -> None:
        self._where = where
        try:
            self._socket = socket.create_connection((host, port), timeout)
        except TimeoutError:
            raise ServerSlow(f"does not answer within {timeout:g} s", where=where, hint="multidb status") from None
        except OSError as error:
            raise ServerDown(f"{error.strerror or error}", where=where, hint=start or None) from None
        self._answers = self._socket.makefile("rb")
        try:
            self.version: str = self.ask("LOGIN $user $key", user=user, key=key.reveal())
        except NotAllowed as error:
            self.close()
            raise AuthenticationFailed(error.message, where=where, hint="multidb apply") from None
        except ServerError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def ask(self, text: str, **binds: str) -> Any:
        """What the server answers. `NotAllowed` when this login may not do it, `ServerError` when nobody can."""
        try:
            self._socket.sendall(json.dumps({"do": text, "bind": binds}).encode() + b"\n")
            line = self._answers.readline()
        except TimeoutError:
            raise ServerSlow("does not answer in time", where=self._where, hint="multidb status") from None
        except OSError:
            line = b""
        if not line:
            raise ServerDown("closed the connection", where=self._where, hint="multidb status")
        answer = json.loads(line)
        if "error" in answer:
            raise (NotAllowed if answer.get("denied") else ServerError)(answer["error"], where=self._where)
        return answer["ok"]
