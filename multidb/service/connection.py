"""Connections that do not wait for ever, nor remember without end, while a caller is at the head of a request."""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HEAD_TIMEOUT", "Connection"]

HEAD_TIMEOUT: Final = 10.0  # for the head of a request, from the first byte, or from when the caller connected
_BYTES: Final = 65_536  # of a head


class Connection(HttpToolsProtocol):
    """One caller's. The server itself has a limit for neither the time nor the size of a request's head, and both can
    be used up before the token is asked for."""

    _hurry: asyncio.TimerHandle | None = None
    _read = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._hurry is not None:
            self._read += len(data)
            if self._read > _BYTES:
                self.transport.abort()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._end()
        super().on_headers_complete()

    def _begin(self) -> None:
        self._end()
        self._read = 0
        self._hurry = self.loop.call_later(HEAD_TIMEOUT, self.transport.abort)

    def _end(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None
