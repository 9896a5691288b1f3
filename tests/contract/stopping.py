"""A way to a server that can be stopped at a certain byte, together with the server or without it."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import psutil


class Proxy:
    """Forwards connections to a port of this machine until it has seen so many bytes.

    Args:
        then: called once, when it has; without it, the proxy itself forwards nothing any more.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._left = -1
        self._then: Callable[[], None] | None = None
        self._open = threading.Event()
        self._open.set()
        self._guard = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.stopped = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop_after(self, size: int, then: Callable[[], None] | None = None) -> None:
        self.stopped.clear()
        self._left, self._then = size, then

    def go_on(self) -> None:
        self._left = -1
        self._open.set()

    def close(self) -> None:
        self.go_on()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16_384):
                self._count(len(data))
                self._open.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _count(self, size: int) -> None:
        with self._guard:
            if self._left < 0:
                return
            self._left -= size
            if self._left >= 0:
                return
        if self._then is None:
            self._open.clear()
        else:
            self._then()
        self.stopped.set()


@contextlib.contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    made = Proxy(port)
    try:
        yield made
    finally:
        made.close()


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def send(processes: list[psutil.Process], what: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(what)
