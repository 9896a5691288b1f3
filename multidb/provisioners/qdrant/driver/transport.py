"""How a Qdrant is spoken to: plain HTTP to a server, or the client library's local mode for a folder.

Both are a `Transport` that takes the same calls, so what is built on it hardly asks which one it has. HTTP is spoken
directly because a plan shows HTTP: nothing stands between what is printed and what is sent (decision 45).
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import itertools
import json
import os
import socket
import sqlite3
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol
from urllib.parse import unquote, urlsplit

import certifi
import urllib3

from multidb.errors import AuthenticationFailed, Locked, NotAllowed, ServerDown, ServerError, ServerSlow, WrongVersion
from multidb.model import Server
from multidb.progress import ProgressTimer, ended_without
from multidb.provisioners.qdrant.driver.stored_points import Unpickled, load_carefully
from multidb.provisioners.qdrant.provision.statements import Call
from multidb.secrets import Secret, redact

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = [
    "AT_ONCE",
    "AnswerTooLarge",
    "Folder",
    "Http",
    "NO_SPACE_HINT",
    "UPLOADED",
    "Reply",
    "Transport",
    "expect",
    "hint_for",
    "ignore_known_warnings",
    "not_qdrant",
]

AT_ONCE: Final = 8  # requests in flight to one server
_FOLDER_SECONDS: Final = 2.0  # a run of multidb holds a local folder for less than that
_CHUNK: Final = 1 << 20
UPLOADED: Final = "snapshot"  # what an uploaded snapshot is called on the server
_BOUNDARY: Final = "multidb-4f1c9d6be2a24a4c8d35"  # of the form around an uploaded snapshot
_TRUST: Final = "name the file of the authority that signed it, as ca_file, and a host that the certificate has"
_NO_SPACE: Final = ("No space left on device", "os error 122")  # 122: the quota of a disk is used up
NO_SPACE_HINT: Final = "free space on the server's disk, then run the command again"
_WHICH_PORT: Final = "give the address of Qdrant's HTTP port (6333, not gRPC's 6334), and https or http as it speaks"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: an HTTP status, the ``result`` of the answer, and the server's words when it refused."""

    status: int
    result: Any
    error: str = ""

    @property
    def fine(self) -> bool:
        return self.status < 300


class AnswerTooLarge(Exception):
    """An answer has more bytes than were allowed; what was read of it is thrown away."""


class Transport(Protocol):
    @property
    def several(self) -> bool:
        """Whether calls may go side by side, from several threads."""

    def send(
        self, call: Call, *, key: Secret | None = None, seconds: float | None = None, most: int | None = None
    ) -> Reply:
        """Sends one call (with another key than the admin's, when given) and returns the answer, whatever it is.

        Args:
            seconds: that the whole answer may take; None: the server's timeout. Where they are more than the server's
                progress_timeout, it has to send something, or to answer others, in every such time.
            most: bytes that an answer over the network may have; without it, any number.

        Raises:
            AnswerTooLarge: it has more.
            ServerError: there is no answer.
        """

    def close(self) -> None: ...


class _Connection(urllib3.connection.HTTPConnection):
    """A connection that can be ended by another thread than the one that waits for its answer."""

    _waiting: ClassVar[dict[int, urllib3.connection.HTTPConnection]] = {}

    def request(self, *args: Any, **options: Any) -> None:
        self._waiting[threading.get_ident()] = self
        super().request(*args, **options)

    @classmethod
    def cut_off(cls, thread: int) -> None:
        """Ends the connection by which the thread has sent its last request."""
        connection = cls._waiting.get(thread)
        if connection is None or connection.sock is None:
            return
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.sock.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)


class _TlsConnection(_Connection, urllib3.connection.HTTPSConnection):
    """The same with TLS."""


class Http:
    """A Qdrant server. Safe for several threads."""

    several = True

    def __init__(self, server: Server, admin: Secret | None) -> None:
        endpoint = server.endpoint
        self._server = server
        self._admin = admin
        self._numbers = itertools.count()
        self._has_answered = False
        self._pool = urllib3.HTTPConnectionPool(endpoint.host, endpoint.port, maxsize=AT_ONCE, block=True)
        self._pool.ConnectionCls = _Connection
        if endpoint.tls:
            self._pool = urllib3.HTTPSConnectionPool(
                endpoint.host, endpoint.port, maxsize=AT_ONCE, block=True, ssl_context=_certificates(server)
            )
            self._pool.ConnectionCls = _TlsConnection

    def send(
        self, call: Call, *, key: Secret | None = None, seconds: float | None = None, most: int | None = None
    ) -> Reply:
        seconds = seconds or self._server.timeout
        deadline = time.monotonic() + seconds
        body = json.dumps(call.body).encode() if call.body else None
        headers = {"content-type": "application/json"} if body else {}
        key = key if key is not None else self._admin
        timer = self._timer(seconds)
        with self._answer(call.verb, call.target, body, headers, key, seconds, timer) as answer:
            content = bytearray()
            while chunk := answer.read1(_CHUNK):
                content += chunk
                timer.moved()
                if most is not None and len(content) > most:
                    raise AnswerTooLarge
                if time.monotonic() > deadline:  # each byte came in time; all of them together did not
                    raise self._slow(call.verb, call.target, seconds)
            return _reply(answer.status, bytes(content))

    @contextlib.contextmanager
    def download(self, target: str) -> Iterator[Iterator[bytes]]:
        """The bytes of what `target` is, as they come."""
        seconds = self._server.progress_timeout  # for each piece
        with self._answer("GET", target, None, {}, self._admin, seconds, self._timer(seconds)) as answer:
            if answer.status >= 300:
                expect(self._server, _reply(answer.status, answer.read()))
            yield answer.stream(_CHUNK)

    def upload(self, target: str, chunks: Iterable[bytes], seconds: float) -> Reply:
        """Sends `chunks` as the file `UPLOADED` of a form, as they come; what `chunks` raises comes out as it is."""
        headers = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
        unread: list[OSError] = []
        timer = self._timer(seconds)

        def form() -> Iterator[bytes]:
            try:
                for chunk in _form(chunks):
                    timer.moved()
                    yield chunk
                    timer.moved()
            except OSError as error:  # urllib3 would take it for one of the connection's
                unread.append(error)
                raise

        try:
            with self._answer("POST", target, form(), headers, self._admin, seconds, timer) as answer:
                return _reply(answer.status, answer.read())
        except ServerError:
            if unread:
                raise unread[0] from None
            raise

    def close(self) -> None:
        self._pool.close()

    @contextlib.contextmanager
    def _answer(
        self,
        verb: str,
        target: str,
        body: bytes | Iterable[bytes] | None,
        headers: Mapping[str, str],
        key: Secret | None,
        seconds: float,
        timer: ProgressTimer,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The beginning of an answer; the driver's errors are explained, also those met while the rest is read."""
        with self._cut_off(timer, seconds), self._explained(verb, target, seconds, timer):
            # A page of vectors takes the server 0.07 s, and 0.9 s with gzip.
            headers = {**headers, **({"api-key": key.reveal()} if key else {}), "accept-encoding": "identity"}
            answer = self._pool.urlopen(
                verb, target, body, headers, retries=False, timeout=urllib3.Timeout(seconds), preload_content=False
            )
            self._has_answered = True
            try:
                yield answer
            finally:
                answer.close()

    @contextlib.contextmanager
    def _explained(self, verb: str, target: str, seconds: float, timer: ProgressTimer) -> Iterator[None]:
        try:
            yield
        except urllib3.exceptions.NewConnectionError as error:  # refused; for urllib3 a kind of ConnectTimeoutError
            raise self._unreachable(error) from None
        except (urllib3.exceptions.ReadTimeoutError, urllib3.exceptions.ConnectTimeoutError):
            raise self._slow(verb, target, seconds) from None
        except urllib3.exceptions.HTTPError as error:
            if timer.expired():
                raise timer.error(self._server) from None
            raise self._unreachable(error) from None

    def _timer(self, seconds: float) -> ProgressTimer:
        """Of a call that may take so long."""
        return ProgressTimer(min(seconds, self._server.progress_timeout), self._sign)

    def _is_long(self, seconds: float) -> bool:
        return seconds > self._server.progress_timeout

    @contextlib.contextmanager
    def _cut_off(self, timer: ProgressTimer, seconds: float) -> Iterator[None]:
        """Ends the connection of a long call from outside when the server shows no progress."""
        if not self._is_long(seconds):
            yield
            return
        thread = threading.get_ident()
        with ended_without(timer, lambda: _Connection.cut_off(thread)):
            yield

    def _sign(self) -> object:
        """Another one each time, if the server answers at all: it is one process for everybody."""
        with contextlib.closing(Http(self._server, self._admin)) as other:
            other.send(Call("GET", "/", {}))
        return next(self._numbers)

    def _slow(self, verb: str, target: str, seconds: float) -> ServerSlow:
        return ServerSlow(
            f"did not answer {verb} {target} within {seconds:g} s",
            where=str(self._server),
            hint="see whether the server is overloaded, then run the command again",
        )

    def _unreachable(self, error: urllib3.exceptions.HTTPError) -> ServerError:
        cause = error.__cause__ or next(
            (argument for argument in error.args[::-1] if isinstance(argument, Exception)), error
        )
        if isinstance(cause, http.client.BadStatusLine) and not isinstance(cause, ConnectionError):
            return not_qdrant(self._server, "what answers there does not speak HTTP")
        words = redact(str(cause))
        if isinstance(error, urllib3.exceptions.ProtocolError):
            hint = f"look into its log; {self._server.start_hint}" if self._has_answered else _WHICH_PORT
            return ServerDown(f"hung up before it answered ({words})", where=str(self._server), hint=hint)
        if isinstance(cause, ssl.SSLCertVerificationError):
            message = f"the TLS connection fails: its certificate is not trusted ({words})"
            return ServerDown(message, where=str(self._server), hint=_TRUST)
        if isinstance(cause, ssl.SSLError):
            return ServerDown(f"the TLS connection fails ({words})", where=str(self._server), hint=_WHICH_PORT)
        return ServerDown(
            f"nothing answers ({words})",
            where=str(self._server),
            hint=self._server.start_hint,
        )


class _OpenFolder:
    """A folder that this process has open, as often as it is asked for: the library opens it once."""

    _open: ClassVar[dict[Path, _OpenFolder]] = {}
    _opening: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, folder: Path, client: QdrantClient) -> None:
        self.client = client
        self.turn = threading.RLock()  # the library's local mode is for one thread at a time
        self._folder = folder
        self._uses = 0

    @classmethod
    def of(cls, path: Path, timeout: float) -> _OpenFolder:
        """The folder. Raises what `_opened` raises."""
        folder = path.resolve()
        with cls._opening:
            opened = cls._open.get(folder)
            if opened is None:
                opened = cls._open[folder] = cls(folder, _opened(folder, timeout))
            opened._uses += 1
            return opened

    def close(self) -> None:
        """Lets it go, when nothing of this process needs it any more."""
        with self._opening:
            self._uses -= 1
            if not self._uses:
                del self._open[self._folder]
                self.client.close()


class Folder:
    """A folder of the client library's local mode: the same calls, mapped to its functions."""

    several = False

    def __init__(self, server: Server) -> None:
        path = server.endpoint.path
        self._server = server
        self._closed = False
        try:
            self._folder = _OpenFolder.of(Path(path), min(server.timeout, _FOLDER_SECONDS))
        except RuntimeError:
            raise Locked(
                "another process has the folder open, and local mode serves one process at a time",
                where=str(server),
                hint="stop that process and try again; a Qdrant server (servers.qdrant.binary) has no such limit",
            ) from None
        except PermissionError:
            raise NotAllowed(
                "the folder cannot be read and written", where=str(server), hint=f"check the owner of {path}"
            ) from None
        except Unpickled as error:
            raise ServerDown(
                f"the folder has a point that is no data: it calls {error}, which was not done",
                where=str(server),
                hint=f"find out who writes into {path}, and restore it from a set or a copy",
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, UnpicklingError) as error:
            raise ServerDown(
                f"the folder cannot be opened ({type(error).__name__})",
                where=str(server),
                hint=f"see whether {path} is a folder of Qdrant's local mode; restore it from a copy if it is damaged",
            ) from None

    def send(
        self, call: Call, *, key: Secret | None = None, seconds: float | None = None, most: int | None = None
    ) -> Reply:
        try:
            with self._folder.turn:
                return Reply(200, self._do(call))
        except RecursionError:
            return Reply(500, None, "a payload is nested too deeply to be read")
        except ValueError as error:
            missing = "not found" in str(error)
            return Reply(404 if missing else 409 if "already exists" in str(error) else 400, None, str(error))
        except (sqlite3.Error, OSError) as error:
            raise _not_written(self._server, error) from None

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._folder.close()

    @property
    def _client(self) -> QdrantClient:
        return self._folder.client

    def _do(self, call: Call) -> Any:
        path = urlsplit(call.target).path
        name, _, rest = path.removeprefix("/collections").removeprefix("/").partition("/")
        if path == "/aliases":
            return self._client.get_aliases().model_dump(mode="json")
        if path == "/collections/aliases":
            return self._alias(call.body)
        if call.verb == "GET" and not name:
            return self._client.get_collections().model_dump(mode="json")
        act = self._acts[call.verb, rest]
        return act(self._client, unquote(name), call.body)

    def _alias(self, body: Mapping[str, Any]) -> bool:
        from qdrant_client import models

        create, delete = models.CreateAliasOperation, models.DeleteAliasOperation
        actions = [create(**action) if "create_alias" in action else delete(**action) for action in body["actions"]]
        return self._client.update_collection_aliases(actions)

    _acts: Mapping[tuple[str, str], Callable[[Any, str, Mapping[str, Any]], Any]] = {
        ("GET", ""): lambda client, name, _: client.get_collection(name).model_dump(mode="json"),
        ("PUT", ""): lambda client, name, body: client.create_collection(name, **_local_creation(body)),
        ("PATCH", ""): lambda client, name, body: client.update_collection(name, metadata=dict(body["metadata"])),
        ("DELETE", ""): lambda client, name, _: client.delete_collection(name),
        ("POST", "points"): lambda client, name, body: _plain(client.retrieve(name, body["ids"])),
        ("PUT", "points"): lambda client, name, body: client.upsert(name, _points(body)),
        ("POST", "points/delete"): lambda client, name, body: client.delete(name, body["points"]),
        ("POST", "points/count"): lambda client, name, body: {
            "count": client.count(name, _filter(body["filter"]) if "filter" in body else None, exact=True).count
        },
        ("POST", "points/scroll"): lambda client, name, body: _page(client, name, body),
        ("POST", "points/payload"): lambda client, name, body: client.set_payload(
            name, body["payload"], _filter(body["filter"])
        ),
    }


def _plain(records: Iterable[Any]) -> list[dict[str, Any]]:
    return [record.model_dump(mode="json", include={"id", "vector", "payload"}) for record in records]


def _points(body: Mapping[str, Any]) -> list[Any]:
    from qdrant_client import models

    return [models.PointStruct.model_validate(point) for point in body["points"]]


def _filter(body: Mapping[str, Any]) -> Any:
    from qdrant_client import models

    return models.Filter.model_validate(body)


def _page(client: QdrantClient, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    records, following = client.scroll(
        name, limit=body["limit"], offset=body.get("offset"), with_vectors=body.get("with_vector", False)
    )
    return {"points": _plain(records), "next_page_offset": following}


def not_qdrant(server: Server, message: str) -> WrongVersion:
    return WrongVersion(message, where=str(server), hint=_WHICH_PORT)


def expect(server: Server, reply: Reply) -> Reply:
    if reply.fine:
        return reply
    if reply.status == 401 or (reply.status == 403 and "ignature" in reply.error):
        raise AuthenticationFailed(
            f"the server refuses the api key ({redact(reply.error)})",
            where=str(server),
            hint="give multidb the server's service.api_key, in the variable or file that the manifest names",
        )
    if reply.status == 403:
        raise NotAllowed(redact(reply.error), where=str(server), hint=hint_for(403))
    hint = NO_SPACE_HINT if any(words in reply.error for words in _NO_SPACE) else "look into the server's log"
    raise ServerError(f"answers {reply.status} ({redact(reply.error)})", where=str(server), hint=hint)


def _not_written(server: Server, error: sqlite3.Error | OSError) -> ServerError:
    """What the library's own database, or the file beside it, says where the folder cannot be written."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, sqlite3.Error):
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return ServerError(
        f"its folder {server.endpoint.path} cannot be written ({redact(str(error))})",
        where=str(server),
        hint=NO_SPACE_HINT if full else "correct the permissions there, or see to the disk, then run the command again",
    )


def hint_for(status: int) -> str:
    if status in (401, 403):
        return "multidb needs the server's own api key (service.api_key), not a read-only key or a token"
    return "correct what the server names and run multidb apply again"


def _reply(status: int, content: bytes) -> Reply:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return Reply(status, None, content[:300].decode(errors="replace").strip())
    if not isinstance(body, dict):
        return Reply(status, body)
    problem = body.get("status")
    return Reply(status, body.get("result", body), str(problem.get("error", "")) if isinstance(problem, dict) else "")


def _local_creation(body: Mapping[str, Any]) -> dict[str, Any]:
    from qdrant_client import models

    vectors = body.get("vectors") or {}
    single = isinstance(vectors.get("size"), int)  # else a vector of that name
    return {
        "vectors_config": models.VectorParams(**vectors)
        if single
        else {name: models.VectorParams(**params) for name, params in vectors.items()},
        "sparse_vectors_config": {
            name: models.SparseVectorParams(**params) for name, params in body.get("sparse_vectors", {}).items()
        }
        or None,
        "metadata": body["metadata"],
    }


def _form(chunks: Iterable[bytes]) -> Iterator[bytes]:
    disposition = f'form-data; name="snapshot"; filename="{UPLOADED}"'
    yield f"--{_BOUNDARY}\r\ncontent-disposition: {disposition}\r\n\r\n".encode()
    yield from chunks
    yield f"\r\n--{_BOUNDARY}--\r\n".encode()


def _certificates(server: Server) -> ssl.SSLContext:
    """What the server's certificate is checked against; loading it takes 0.2 s."""
    ca_file = server.endpoint.params.get("ca_file")
    try:
        return ssl.create_default_context(cafile=ca_file or certifi.where())
    except OSError as error:
        raise ServerDown(
            f"the certificate file {ca_file} cannot be read ({error.strerror or type(error).__name__})",
            where=str(server),
            hint="correct ca_file in the manifest",
        ) from None


def _opened(folder: Path, timeout: float) -> QdrantClient:
    """The folder, as soon as no other process has it; `RuntimeError` when that takes longer than `timeout` seconds."""
    from qdrant_client import QdrantClient

    load_carefully()
    deadline = time.monotonic() + timeout
    listing = folder / "meta.json"
    if listing.is_file() and listing.stat().st_size == 0:
        listing.unlink()  # somebody was killed while the library first made the folder; it writes later copies whole
    while True:
        try:
            return QdrantClient(path=str(folder), force_disable_check_same_thread=True)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def ignore_known_warnings() -> None:
    """Keeps two warnings of the libraries from the terminal: a short key is told in the isolation's reason, and that
    local mode is for small things in the documentation."""
    for message in ("The HMAC key is", "Local mode is not recommended"):
        warnings.filterwarnings("ignore", message=message)
