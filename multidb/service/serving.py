"""The service as a process: what it may be bound to, whom it tells, and how it ends."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import uvicorn

from multidb.engine import Engine
from multidb.errors import UsageError
from multidb.notification import Notifier
from multidb.secrets import Secret
from multidb.service.application import FRESH, Pace, Service, application, executor
from multidb.service.collector import Reading
from multidb.service.connection import Connection
from multidb.service.guard import Guard, is_loopback
from multidb.service.sources import Sources

__all__ = ["Settings", "serve", "token_from", "web_server"]

_SHORTEST: Final = 16  # characters of a token
_GRACE: Final = 5  # seconds that answers under way have to end


@dataclass(frozen=True, slots=True)
class Settings:
    """How the service is run.

    Raises:
        UsageError: others can reach `host`, and there is no token.
    """

    host: str = "127.0.0.1"
    port: int = 8642
    token: Secret | None = None
    pace: Pace = field(default_factory=Pace)
    may_write: bool = True

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and self.token is None:
            raise UsageError(
                f"others can reach {self.host}, and there is no token that keeps them out",
                where="multidb serve",
                hint="give one: --token-file FILE, or MULTIDB_TOKEN in the environment; or stay on 127.0.0.1",
            )


def token_from(file: Path | None, variable: str | None) -> Secret | None:
    """The token in the file, else in the environment's variable, else none.

    Raises:
        UsageError: the file cannot be read, or there are fewer than 16 characters.
    """
    where = str(file) if file is not None else "MULTIDB_TOKEN"
    if file is not None:
        try:
            value = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UsageError(
                f"the token cannot be read: {reason}", where=where, hint="--token-file FILE, or MULTIDB_TOKEN"
            ) from None
    elif variable is not None:
        value = variable.strip()
    else:
        return None
    if len(value) < _SHORTEST:
        raise UsageError(
            f"a token must have {_SHORTEST} characters or more", where=where, hint="make one: openssl rand -hex 32"
        )
    return Secret(value)


def serve(open_engine: Callable[[], Engine], settings: Settings, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C; a check under way is waited for, since its probe has to be cleaned up.

    Args:
        open_engine: reads the manifest; see `Sources`.
        say: told, in lines for people, when it listens and when somebody could not be told of trouble.

    Raises:
        UsageError: the address cannot be bound, or a receiver of notifications is not where the manifest says.
        ManifestError: the manifest is wrong.
    """
    sources = Sources(open_engine, may_write=settings.may_write)
    engine = sources.engine()
    notifier = Notifier(engine.project, engine.state)
    with _bound(settings) as listener, executor() as looking, ThreadPoolExecutor(1) as telling:

        def heard(name: str, reading: Reading[Any]) -> None:
            telling.submit(_tell, notifier, name, reading, say)

        fresh = min(FRESH, settings.pace.health or FRESH)
        service = Service(sources, looking, pace=settings.pace, fresh=fresh, heard=heard)
        guarded = application(service, token=settings.token, loopback_only=is_loopback(settings.host))
        server = web_server(guarded)
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn ends, and then raises them again
            signal.signal(number, lambda *_: None)
        say(f"Serving {engine.project.name} on {_url(listener)} (Ctrl-C ends it)")
        server.run(sockets=[listener])
        say("Ending; waiting for checks under way.")
        telling.shutdown(wait=False, cancel_futures=True)


def web_server(app: Guard) -> uvicorn.Server:
    """What speaks HTTP for `app`; it is given its sockets when it is run."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=_GRACE,
        )
    )


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen there: {error.strerror}",
            where=f"{settings.host}:{settings.port}",
            hint="another port: --port NUMBER; another address: --host ADDRESS",
        ) from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _tell(notifier: Notifier, name: str, reading: Reading[Any], say: Callable[[str], None]) -> None:
    """Tells the receivers what a reading means; who could not be told is said here."""
    about = {
        "health": notifier.about_health,
        "usage": lambda seen: notifier.about_usage(seen.report),
        "drift": notifier.about_plan,
        "audit": notifier.about_audit,
    }
    if reading.value is None or name not in about:
        return
    for delivery in about[name](reading.value):
        if not delivery.ok:
            say(f"{delivery.receiver} could not be told: {delivery.detail}")
