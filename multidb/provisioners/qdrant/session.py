"""The effects on one Qdrant: plain HTTP to a server, or the client library's local mode for a folder.

Both are a `_Transport` that sends the same calls, so the session above hardly asks which one it has. HTTP is spoken
directly because a plan shows HTTP: nothing stands between what is printed and what is sent.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self
from urllib.parse import quote, unquote

import httpx
import jwt

from multidb.errors import (
    AuthenticationFailed,
    Locked,
    NotAllowed,
    ServerDown,
    ServerError,
    ServerSlow,
    StatementFailed,
    WrongVersion,
)
from multidb.model import Inspection, Resource, Server, Statement
from multidb.provisioners.qdrant.resources import (
    ApiKey,
    Collection,
    PayloadIndex,
    QdrantFacts,
    Token,
    live_collection,
    live_index,
    live_token,
    token_ref,
)
from multidb.provisioners.qdrant.statements import Call
from multidb.secrets import Secret, SecretRef, SecretStore, redact

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["QdrantSession", "connect"]

_OLDEST: Final = (1, 16)  # collection metadata, which holds the owner's mark, came with 1.16
_AT_ONCE: Final = 8
_WORK_SECONDS: Final = 60.0  # making a collection on a busy server takes longer than a check may
_FOLDER_SECONDS: Final = 2.0  # a run of multidb holds a local folder for less than that
_ATTEMPTS: Final = 4
_SHORTEST_KEY: Final = 32  # bytes; what HS256 needs
_WHICH_PORT: Final = "give the address of Qdrant's HTTP port (6333, not gRPC's 6334), and https or http as it speaks"
_BUSY: Final = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class _Reply:
    """What came back: an HTTP status, the ``result`` of the answer, and the server's words when it refused."""

    status: int
    result: Any
    error: str = ""

    @property
    def fine(self) -> bool:
        return self.status < 300


class _Transport(Protocol):
    def send(self, call: Call, *, key: Secret | None = None, seconds: float | None = None) -> _Reply:
        """Sends one call (with another key than the admin's, when given) and returns the answer, whatever it is.
        Raises a `ServerError` when there is no answer."""

    def close(self) -> None: ...


class _Http:
    """A Qdrant server. Safe for several threads."""

    def __init__(self, server: Server, admin: Secret | None) -> None:
        endpoint = server.endpoint
        self._server = server
        self._admin = admin
        self._client = httpx.Client(
            base_url=f"{'https' if endpoint.tls else 'http'}://{_bracketed(endpoint.host)}:{endpoint.port}",
            timeout=server.timeout,
            limits=httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=_AT_ONCE),
            verify=_certificates(server),
            trust_env=False,  # a proxy of the environment is not for a database
        )

    def send(self, call: Call, *, key: Secret | None = None, seconds: float | None = None) -> _Reply:
        key = key if key is not None else self._admin
        try:
            answer = self._client.request(
                call.verb,
                call.target,
                json=call.body or None,
                headers={"api-key": key.reveal()} if key else {},
                timeout=seconds or self._server.timeout,
            )
        except httpx.TimeoutException:
            raise ServerSlow(
                f"did not answer {call.verb} {call.target} within {seconds or self._server.timeout:g} s",
                where=str(self._server),
                hint="see whether the server is overloaded, then run the command again",
            ) from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        return _reply(answer)

    def close(self) -> None:
        self._client.close()

    def _unreachable(self, error: httpx.HTTPError) -> ServerError:
        words = redact(str(error)) or type(error).__name__
        if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
            if "illegal" in words:
                return _not_qdrant(self._server, "what answers there does not speak HTTP")
            return ServerDown(f"hung up before it answered ({words})", where=str(self._server), hint=_WHICH_PORT)
        return ServerDown(
            f"nothing answers ({words})",
            where=str(self._server),
            hint="multidb up starts embedded servers; check the address and TLS setting of an external one",
        )


class _Folder:
    """A folder of the client library's local mode: the same calls, mapped to its functions. For one thread."""

    def __init__(self, server: Server) -> None:
        path = server.endpoint.path
        try:
            self._client = _opened(Path(path), min(server.timeout, _FOLDER_SECONDS))
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
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ServerDown(
                f"the folder cannot be opened ({type(error).__name__})",
                where=str(server),
                hint=f"see whether {path} is a folder of Qdrant's local mode; restore it from a copy if it is damaged",
            ) from None

    def send(self, call: Call, *, key: Secret | None = None, seconds: float | None = None) -> _Reply:
        try:
            return _Reply(200, self._do(call))
        except ValueError as error:
            missing = "not found" in str(error)
            return _Reply(404 if missing else 409 if "already exists" in str(error) else 400, None, str(error))

    def close(self) -> None:
        self._client.close()

    def _do(self, call: Call) -> Any:
        name = unquote(call.target.removeprefix("/collections").removeprefix("/"))
        if call.verb == "GET" and not name:
            return self._client.get_collections().model_dump(mode="json")
        if call.verb == "GET":
            return self._client.get_collection(name).model_dump(mode="json")
        if call.verb == "PUT":
            return self._client.create_collection(name, **_local_creation(call.body))
        assert call.verb == "PATCH"
        return self._client.update_collection(name, metadata=dict(call.body["metadata"]))


class QdrantSession:
    """A session on one Qdrant, as `multidb.model.Session` promises."""

    def __init__(self, server: Server, admin: Secret | None, transport: _Transport, facts: QdrantFacts) -> None:
        self._server = server
        self._admin = admin
        self._transport = transport
        self.facts = facts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._transport.close()

    def inspect(self, inspection: Inspection) -> Sequence[Resource]:
        """One call for all names, and one for each collection that is wanted or bears the name of one of the apps."""
        wanted = {resource.key: resource for resource in inspection.desired}
        prefixes = tuple(f"{app.id}_" for app in inspection.apps)
        names = [
            name
            for name in self._names()
            if (Collection.kind, name) in wanted or (prefixes and name.startswith(prefixes))
        ]
        details = dict(zip(names, self._details(names), strict=True))
        found: list[Resource] = []
        for name, described in details.items():
            if described is None:  # deleted between the two calls
                continue
            want = wanted.get((Collection.kind, name))
            collection = live_collection(name, described, want if isinstance(want, Collection) else None)
            if want is not None or (collection.owner and collection.owner.project == inspection.context.project):
                found.append(collection)
        for want in inspection.desired:
            if isinstance(want, PayloadIndex) and (described := details.get(want.collection)) is not None:
                found += [index] if (index := live_index(want, described)) else []
            elif isinstance(want, Token):
                found += [token] if (token := self._token(want, inspection.secrets)) else []
            elif isinstance(want, ApiKey):
                held = inspection.secrets.get(token_ref(want.name))
                found += [ApiKey(name=want.name, app=want.app, value=_same(held, self._admin))] if held else []
        return found

    def lock(self, project: str, holder: str) -> AbstractContextManager[None]:
        """No lock: Qdrant has nothing to build one from that dies with its holder (local mode locks its folder by
        itself). Two applies at once from two machines do no harm: every call may be repeated, and a collection that the
        other one made first is read again and taken for done when it bears our mark. On one machine the project's lock
        file keeps them apart anyway. The last calls of an apply that was killed may still take effect a moment later,
        which makes a plan made in that moment stale."""
        return contextlib.nullcontext()

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        """Sends the statements; neighbours of one kind (all creations, then all indexes) go side by side.

        Yields a number when all statements up to it have taken effect.
        """
        calls = [Call.parse(statement.text) for statement in statements]
        start = 0
        while start < len(calls):
            end = start + len(_independent(calls[start:]))
            yield from self._together(calls[start:end], start, secrets)
            start = end

    def _together(self, calls: Sequence[Call], start: int, secrets: SecretStore) -> Iterator[int]:
        if len(calls) == 1 or self.facts.local:
            for index, call in enumerate(calls, start):
                self._one(call, index, index, secrets)
                yield index + 1
            return
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="qdrant") as pool:
            futures = [pool.submit(self._one, call, start + n, start + n, secrets) for n, call in enumerate(calls)]
            try:
                for index, future in enumerate(futures, start):
                    future.result()
                    yield index + 1
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, call: Call, index: int, durable: int, secrets: SecretStore) -> None:
        try:
            if call.http:
                self._request(call)
            else:
                self._keep(call, secrets)
        except _Failed as failure:
            raise StatementFailed(
                f"{call.verb} {call.target}: {redact(failure.message)}",
                index=index,
                durable=durable,
                where=str(self._server),
                hint=failure.hint,
            ) from None
        except ServerError as error:
            raise StatementFailed(
                f"{call.verb} {call.target}: {error.message}",
                index=index,
                durable=durable,
                where=str(self._server),
                hint="when the server answers again, run multidb apply again: it goes on where this one stopped",
            ) from None

    def _request(self, call: Call) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            last = attempt == _ATTEMPTS
            try:
                reply = self._transport.send(call, seconds=_WORK_SECONDS)
            except ServerError:
                if last:
                    raise
            else:
                if reply.fine:
                    return
                if reply.status == 409 and call.makes_collection and self._made_already(call):
                    return
                if reply.status not in _BUSY or last:
                    raise _Failed(reply.error, _hint(reply.status))
            time.sleep(0.2 * 2**attempt)

    def _made_already(self, call: Call) -> bool:
        """Whether the collection that stands in the way bears our mark: made by another apply, or by a call whose
        answer got lost. Should its vectors be others, the next plan says so."""
        reply = self._transport.send(Call("GET", call.target, {}))
        config = reply.result["config"] if reply.fine else {}
        mark = (config.get("metadata") or {}).get("multidb")
        return bool(mark) and mark == call.body["metadata"]["multidb"]

    def _keep(self, call: Call, secrets: SecretStore) -> None:
        assert self._admin is not None
        ref = SecretRef.parse(call.target)
        if call.verb == "SHARE":
            secrets.put({ref: self._admin})
            return
        claims = _with_expiry(call.body, time.time())
        token = _sign(claims, self._admin)
        self._prove(token, {str(entry["collection"]) for entry in claims["access"]})
        secrets.put({ref: token})

    def _prove(self, token: Secret, granted: set[str]) -> None:
        """Asks the server what `token` opens before anybody gets it: exactly what it should."""
        reply = self._transport.send(Call("GET", "/collections", {}), key=token)
        if not reply.fine:
            raise _Failed(f"the server refuses the new token: {reply.error}", _hint(reply.status))
        opens = {str(entry["name"]) for entry in reply.result["collections"]}
        if opens != granted:
            odd = ", ".join(sorted(opens ^ granted))
            raise _Failed(
                f"the new token does not open exactly the app's collections (differs in {odd}); it was thrown away",
                "run multidb apply again; if it stays so, the server does not limit tokens as documented",
            )

    def _token(self, want: Token, secrets: SecretStore) -> Token | None:
        held = secrets.get(token_ref(want.name))
        if held is None or self._admin is None:
            return None
        try:
            claims = jwt.decode(held.reveal(), options={"verify_signature": False})
        except jwt.InvalidTokenError:  # not a token at all: what an earlier setup left there
            return None
        return live_token(want, claims, signed=_signed_with(held, self._admin), now=time.time())

    def _names(self) -> list[str]:
        reply = _expect(self._server, self._transport.send(Call("GET", "/collections", {})))
        return sorted(str(entry["name"]) for entry in reply.result["collections"])

    def _details(self, names: Sequence[str]) -> list[Mapping[str, Any] | None]:
        def one(name: str) -> Mapping[str, Any] | None:
            reply = self._transport.send(Call("GET", f"/collections/{quote(name, safe='')}", {}))
            return None if reply.status == 404 else dict(_expect(self._server, reply).result)

        if self.facts.local or len(names) < 2:
            return [one(name) for name in names]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="qdrant") as pool:
            return list(pool.map(one, names))


class _Failed(Exception):
    """A statement that the server refused for good."""

    def __init__(self, message: str, hint: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def connect(server: Server, admin: Secret | None, application: str) -> QdrantSession:
    """Opens a session and finds out what the server is.

    An empty key counts as none: to Qdrant it means the same.

    Raises:
        ServerDown, ServerSlow, AuthenticationFailed, NotAllowed, WrongVersion, Locked: each says what to do next.
    """
    _hush()
    if server.endpoint.path:
        version = installed_version("qdrant-client")
        _require_version(server, version, "pip install --upgrade qdrant-client")
        return QdrantSession(server, None, _Folder(server), QdrantFacts("Qdrant local mode", version, local=True))
    if admin and not admin.reveal().isascii():
        raise AuthenticationFailed(
            "the api key has a character that no HTTP header can carry",
            where=str(server),
            hint="an api key is made of ASCII characters; correct the one that external.qdrant.password leads to",
        )
    transport = _Http(server, admin or None)
    try:
        facts = _probe(server, admin or None, transport)
    except BaseException:
        transport.close()
        raise
    return QdrantSession(server, admin or None, transport, facts)


def _probe(server: Server, admin: Secret | None, transport: _Transport) -> QdrantFacts:
    version = _version(server, transport.send(Call("GET", "/", {})))
    _require_version(server, version, "upgrade the server one minor version at a time")
    listing = Call("GET", "/collections", {})
    _expect(server, transport.send(listing))
    if admin is None or transport.send(listing, key=Secret("")).fine:
        return QdrantFacts("Qdrant", version)
    short = len(admin.reveal().encode()) < _SHORTEST_KEY
    return QdrantFacts("Qdrant", version, api_key=True, rbac=_limits_tokens(server, admin, transport), short_key=short)


def _limits_tokens(server: Server, admin: Secret, transport: _Transport) -> bool:
    """Whether the server takes tokens: tried with one that may do nothing but read a collection that is not there."""
    access = [{"collection": "multidb__probe", "access": "r"}]
    token = _sign({"access": access, "exp": int(time.time()) + 60, "subject": "multidb probe"}, admin)
    reply = transport.send(Call("GET", "/collections", {}), key=token)
    if reply.fine:
        return True
    if reply.status == 403:
        raise NotAllowed(
            "the api key given to multidb cannot sign tokens; it is a read-only key or itself a token",
            where=str(server),
            hint="give multidb the server's service.api_key",
        )
    return False


def _version(server: Server, reply: _Reply) -> str:
    described = reply.result if isinstance(reply.result, Mapping) else {}
    if "qdrant" not in str(described.get("title", "")).lower() or not described.get("version"):
        raise _not_qdrant(server, "what answers there is not a Qdrant")
    return str(described["version"])


def _require_version(server: Server, version: str, how: str) -> None:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST:
        raise WrongVersion(
            f"Qdrant {version} is too old: multidb needs 1.16, the first that keeps metadata with a collection",
            where=str(server),
            hint=how,
        )


def _not_qdrant(server: Server, message: str) -> WrongVersion:
    return WrongVersion(message, where=str(server), hint=_WHICH_PORT)


def _expect(server: Server, reply: _Reply) -> _Reply:
    if reply.fine:
        return reply
    if reply.status == 401 or (reply.status == 403 and "ignature" in reply.error):
        raise AuthenticationFailed(
            f"the server refuses the api key ({redact(reply.error)})",
            where=str(server),
            hint="give multidb the server's service.api_key, in the variable or file that the manifest names",
        )
    if reply.status == 403:
        raise NotAllowed(redact(reply.error), where=str(server), hint=_hint(403))
    raise ServerError(
        f"answers {reply.status} ({redact(reply.error)})", where=str(server), hint="look into the server's log"
    )


def _hint(status: int) -> str:
    if status in (401, 403):
        return "multidb needs the server's own api key (service.api_key), not a read-only key or a token"
    return "correct what the server names and run multidb apply again"


def _reply(answer: httpx.Response) -> _Reply:
    try:
        body = answer.json()
    except ValueError:
        return _Reply(answer.status_code, None, answer.text[:300].strip())
    if not isinstance(body, dict):
        return _Reply(answer.status_code, body)
    status = body.get("status")
    error = str(status.get("error", "")) if isinstance(status, dict) else ""
    return _Reply(answer.status_code, body.get("result", body), error)


def _independent(calls: Sequence[Call]) -> Sequence[Call]:
    """The first calls that may go side by side: requests with one verb to places of one depth, none twice."""
    first = calls[0]
    seen: set[str] = set()
    for count, call in enumerate(calls):
        place = str(call.body.get("field_name", "")) + call.target
        alike = (call.verb, call.target.count("/")) == (first.verb, first.target.count("/"))
        if count and (not call.http or not alike or place in seen):
            return calls[:count]
        seen.add(place)
    return calls


def _with_expiry(claims: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The claims with the shown lifetime (``+365d``) as a moment."""
    days = int(str(claims["exp"]).removeprefix("+").removesuffix("d"))
    return {**claims, "exp": int(now) + days * 86_400}


def _sign(claims: Mapping[str, Any], key: Secret) -> Secret:
    return Secret(jwt.encode(dict(claims), key.reveal(), algorithm="HS256"))


def _signed_with(token: Secret, key: Secret) -> bool:
    try:
        jwt.decode(token.reveal(), key.reveal(), algorithms=["HS256"], options={"verify_exp": False})
    except jwt.InvalidTokenError:
        return False
    return True


def _same(held: Secret, admin: Secret | None) -> str:
    return "current" if held == admin else "other"


def _local_creation(body: Mapping[str, Any]) -> dict[str, Any]:
    from qdrant_client import models

    vectors = body.get("vectors") or {}
    single = "size" in vectors
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


def _certificates(server: Server) -> ssl.SSLContext | bool:
    """What a server's certificate is checked against. Nothing is loaded for plain HTTP: it would take 0.2 s."""
    ca_file = server.endpoint.params.get("ca_file")
    if not server.endpoint.tls:
        return False
    if not ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ServerDown(
            f"the certificate file {ca_file} cannot be read ({error.strerror or type(error).__name__})",
            where=str(server),
            hint="correct ca_file in the manifest",
        ) from None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _opened(folder: Path, patience: float) -> QdrantClient:
    """The folder, as soon as no other process has it; `RuntimeError` when that takes longer than `patience` seconds."""
    from qdrant_client import QdrantClient

    deadline = time.monotonic() + patience
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


def _hush() -> None:
    """Keeps two warnings of the libraries from the terminal: a short key is told in the isolation's reason, and that
    local mode is for small things in the documentation."""
    for message in ("The HMAC key is", "Local mode is not recommended"):
        warnings.filterwarnings("ignore", message=message)
