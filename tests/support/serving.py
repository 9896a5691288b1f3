"""The service with looks that find trouble of every kind, on a real port, in this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from multidb.secrets import Secret
from multidb.service.application import Intervals, Service, application
from multidb.service.serving import web_server
from tests.support import reports

_ONCE = Intervals(health=3600, usage=3600, backups=3600, drift=3600, audit=3600, sets=3600, history=3600)


@contextmanager
def served(token: Secret | None = None, **looks: Any) -> Iterator[str]:
    """The address of the service, for the block. It looks at everything once: each look changes the pages, which say
    when it was."""
    with ThreadPoolExecutor(5) as executor:
        service = Service(reports.sources(**looks), executor, intervals=_ONCE)
        app = application(service, token=token, loopback_only=True)
        server, listener = web_server(app), socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.02)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
