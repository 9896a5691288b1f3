"""The service as a process: what it may be bound to, whom it tells, and how it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final, Literal

import uvicorn
from starlette.types import ASGIApp

from multidb.deployment import TOKEN_REF
from multidb.engine import Engine
from multidb.errors import SecretsChanged, UsageError
from multidb.notification import Notifier
from multidb.secrets import Secret, generate
from multidb.service.access_log import AccessLog, LoggedRequest, LogWriter, common_line, json_line
from multidb.service.application import FRESH, Intervals, Service, application, executor
from multidb.service.clients import Clients
from multidb.service.collector import Reading
from multidb.service.connection import Connection
from multidb.service.guard import Guard, is_loopback
from multidb.service.rate import ClientRate
from multidb.service.sources import Sources
from multidb.state import ProjectState

__all__ = ["LOOKS_TIMEOUT", "GRACE", "ServeOptions", "place", "project_token", "serve", "token_from", "web_server"]

_SHORTEST: Final = 16  # characters of a token
GRACE: Final = 15  # seconds that answers under way have to end; a server that hangs takes a check 10
LOOKS_TIMEOUT: Final = 10.0  # seconds that looks under way have to end after that
_RATE: Final = 600  # requests a minute


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How the service is run.

    Args:
        socket: a Unix socket to be bound instead of `host` and `port`; who may open its file needs no token.
        token: what callers have to know; None: the project's own (`project_token`).
        trusted: the addresses of proxies whose word is taken for whom they ask.
        rate: requests that each client may make in a minute; 0: as many as it likes.
        access_log: in which form each request is written to stdout.
        degraded: the HTTP status of an answer that says degraded.
    """

    host: str = "127.0.0.1"
    port: int = 8642
    socket: Path | None = None
    token: Secret | None = None
    intervals: Intervals = field(default_factory=Intervals)
    may_write: bool = True
    trusted: tuple[IPv4Network | IPv6Network, ...] = ()
    rate: int = _RATE
    access_log: Literal["text", "json", "none"] = "text"
    degraded: int = 200


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


def project_token(state: ProjectState) -> Secret:
    """The project's own token, made when it is wanted for the first time.

    Raises:
        UsageError: the secrets cannot be read or written.
    """
    token = state.secrets.get(TOKEN_REF)
    if token is None:
        with contextlib.suppress(SecretsChanged):  # another process has made it meanwhile
            state.secrets.put({TOKEN_REF: generate()})
        token = state.secrets.get(TOKEN_REF)
        assert token is not None
    return token


def serve(open_engine: Callable[[], Engine], settings: ServeOptions, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C. Answers under way are finished then, and checks, whose probes have to be cleaned
    up, waited for: both for some seconds, or until the second signal. If a check goes on all the same, the process ends
    here, with exit code 0.

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
    looking, telling = executor(), ThreadPoolExecutor(1)

    def heard(name: str, reading: Reading[Any]) -> None:
        telling.submit(_tell, notifier, name, reading, say)

    fresh = min(FRESH, settings.intervals.health or FRESH)
    service = Service(
        sources,
        looking,
        intervals=settings.intervals,
        fresh=fresh,
        heard=heard,
        degraded=settings.degraded,
    )
    clients = Clients(settings.trusted, trust_socket=settings.socket is not None)
    with _bound(settings) as listener, _logged(settings, say) as put:
        app = _guarded(service, settings, engine.state, clients)
        server = web_server(AccessLog(app, clients, put) if put is not None else app)
        _end_by_signal(server)
        listener.listen()  # who reads the next line may connect
        say(f"Serving {engine.project.name} on {_url(listener)} (Ctrl-C ends it)")
        if settings.socket is None and settings.token is None:
            say("It wants the project's token, in a browser as the password: multidb serve --show-token")
        _tell_manager("READY=1")
        server.run(sockets=[listener])
        _tell_manager("STOPPING=1")
        say("Ending; waiting for checks under way.")
        ended = _ended(looking, telling)
    if not ended:
        say(f"A check has not ended within {LOOKS_TIMEOUT:.0f} s, or was not to be waited for; it is left as it is.")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # Python itself would wait for the check's thread


def place(engine: Engine, settings: ServeOptions) -> tuple[str, str]:
    """The project that `serve` would serve, and the address on which it would; nothing is served.

    Raises:
        UsageError: as for `serve`.
    """
    Notifier(engine.project, engine.state)
    with _bound(settings) as listener:
        return engine.project.name, str(settings.socket or _url(listener))


def web_server(app: ASGIApp) -> uvicorn.Server:
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
            timeout_graceful_shutdown=GRACE,
        )
    )


def _guarded(service: Service, settings: ServeOptions, state: ProjectState, clients: Clients) -> Guard:
    rate = ClientRate(settings.rate) if settings.rate else None
    if settings.socket is not None:
        return application(service, token=settings.token, loopback_only=False, rate=rate, clients=clients)
    token, loopback_only = settings.token or project_token(state), is_loopback(settings.host)
    return application(service, token=token, loopback_only=loopback_only, rate=rate, clients=clients)


@contextlib.contextmanager
def _logged(settings: ServeOptions, say: Callable[[str], None]) -> Iterator[Callable[[LoggedRequest], None] | None]:
    """What takes the entries of the access log; None where there is none."""
    if settings.access_log == "none":
        yield None
        return
    writer = LogWriter(sys.stdout, json_line if settings.access_log == "json" else common_line, say)
    try:
        yield writer.put
    finally:
        writer.close()


def _end_by_signal(server: uvicorn.Server) -> None:
    """Has SIGTERM and Ctrl-C end the server: before uvicorn looks after them, and when it raises them again."""

    def end(*_: object) -> None:
        server.should_exit = True
        # What uvicorn says of answers that it has to cut off is of no use to anybody.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _ended(*executors: ThreadPoolExecutor) -> bool:
    """Whether everything under way has ended, in time and before another signal."""
    hurry = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: hurry.set())
    ending = [threading.Thread(target=_shut_down, args=(executor,), daemon=True) for executor in executors]
    for thread in ending:
        thread.start()
    deadline = time.monotonic() + LOOKS_TIMEOUT
    while any(thread.is_alive() for thread in ending):
        if hurry.wait(0.05) or time.monotonic() > deadline:
            return False
    return True


def _shut_down(executor: ThreadPoolExecutor) -> None:
    executor.shutdown(cancel_futures=True)


def _tell_manager(state: str) -> None:
    """Tells systemd, where it has started this and wants to know (``Type=notify``; sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            manager.send(state.encode())


@contextlib.contextmanager
def _bound(settings: ServeOptions) -> Iterator[socket.socket]:
    if settings.socket is None:
        with _bound_port(settings) as listener:
            yield listener
        return
    path = settings.socket
    _remove_stale(path)
    before = os.umask(0o177)  # from its first moment on it is nobody else's
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen there: {error.strerror or error}", where=str(path), hint="another path: --socket PATH"
        ) from None
    finally:
        os.umask(before)
    try:
        with listener:
            yield listener
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _remove_stale(path: Path) -> None:
    """Takes away the socket of a service that died; what else is there is not ours."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError("is there already, and is no socket", where=str(path), hint="another path: --socket PATH")
    except OSError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return  # binding says what is wrong
        else:
            raise UsageError("somebody listens there", where=str(path), hint="another path: --socket PATH")


def _bound_port(settings: ServeOptions) -> socket.socket:
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
    if listener.family == socket.AF_UNIX:
        return f"the socket {listener.getsockname()}"
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
