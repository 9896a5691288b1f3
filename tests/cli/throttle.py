"""A proxy before a real server that makes it slow, or lets it hang."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress


@contextmanager
def throttled(port: int, delay: float) -> Iterator[int]:
    """A port whose every answer from ``127.0.0.1:port`` comes `delay` seconds late."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening, port, delay), daemon=True).start()
        yield listening.getsockname()[1]


def _accept(listening: socket.socket, port: int, delay: float) -> None:
    with suppress(OSError):
        while True:
            client, _ = listening.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for source, sink, wait in ((client, server, 0.0), (server, client, delay)):
                threading.Thread(target=_pump, args=(source, sink, wait), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, delay: float) -> None:
    with suppress(OSError), closing(source), closing(sink):
        while data := source.recv(65536):
            time.sleep(delay)
            sink.sendall(data)
