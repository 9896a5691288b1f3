"""How well an app's place on Qdrant is, tried with the app's own token."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from multidb.errors import AuthenticationFailed, Locked, MultidbError, ServerError, ServerSlow
from multidb.model import Health, Status, Tenant
from multidb.provisioners.qdrant.driver.transport import Folder, Http, Reply, Transport, expect, ignore_known_warnings
from multidb.provisioners.qdrant.provision.options import STORE, TENANT_FIELD, AppOptions
from multidb.provisioners.qdrant.provision.resources import collection_name
from multidb.provisioners.qdrant.provision.statements import Call, path_of
from multidb.provisioners.qdrant.provision.tokens import claims_of
from multidb.secrets import Secret, redact

__all__ = ["check_health"]

_PROBE_TENANT: Final = "__multidb__"  # no customer's: what is written for a moment is seen by no tenant
_SOON_DAYS: Final = 14
_DAY: Final = 86_400
_FULL: Final = "see whether the server's disk is full (its log says so), and that it may write to its storage folder"
_NOT_MEANT: Final = "ccess to collection"  # the server's words when a token does not reach a collection, there or not
_OVER_QUOTA: Final = "upsert limit"  # the server's words when a read-only collection is to grow


def check_health(tenant: Tenant, may_write: bool) -> Health:
    """Whether the app reaches its collections, finds all of them well, and can write and read.

    What is written is a point without a vector, upserted and deleted by one request, so that nothing stays behind even
    when this process dies.

    Raises:
        ServerError: nothing answers in ``tenant.server.timeout`` seconds, or the token is refused.
    """
    ignore_known_warnings()
    try:
        with _Check(tenant) as check:
            return check.made(may_write)
    except Locked:
        message = "another process, perhaps the app itself, has the folder open; local mode serves one at a time"
        fix = "stop that process to check; a Qdrant server (servers.qdrant.binary) has no such limit"
        return Health(Status.DEGRADED, message, fix=fix)
    except ServerError:
        raise
    except MultidbError as error:
        raise ServerError(error.message, where=error.where, hint=error.hint) from None


class _Check:
    """One check. All its requests together have the server's timeout."""

    def __init__(self, tenant: Tenant) -> None:
        key = tenant.env.get("QDRANT_API_KEY")
        self._tenant = tenant
        self._key = Secret(key) if isinstance(key, str) else key
        self._repair = f"multidb apply --app {tenant.app.id}"
        self._local = "QDRANT_PATH" in tenant.env
        self._start = time.monotonic()
        self._latency = 0.0
        self._transport: Transport = Folder(tenant.server) if self._local else Http(tenant.server, self._key)

    def __enter__(self) -> _Check:
        return self

    def __exit__(self, *exc: object) -> None:
        self._transport.close()

    def made(self, may_write: bool) -> Health:
        """What the check finds: the worst of it; of several degraded things the first."""
        left = self._token_days()
        if left is not None and left <= 0:
            message = f"its token ended on {self._end(left)}; the server refuses it"
            raise AuthenticationFailed(message, where=str(self._tenant.server), hint=self._repair)
        options = AppOptions.of(self._tenant.app.stores[STORE])
        names = [collection_name(self._tenant.app.id, kind) for kind in options.collections]
        if not names:
            self._allowed(self._send("GET", "/collections"))
        described = {name: description for name in names if (description := self._described(name)) is not None}
        troubles = list(self._missing([name for name in names if name not in described]))
        troubles += [trouble for name, description in described.items() for trouble in self._unwell(name, description)]
        message = "all collections are there"
        if described:
            first = next(iter(described))
            troubles += self._written(first) if may_write else ()
            self._read(first)
            message = f"wrote and read {first}" if may_write else f"read {first}"
        if left is not None and left < _SOON_DAYS:
            troubles.append(self._degraded(f"its token ends on {self._end(left)}", self._repair))
        worst = sorted(troubles, key=lambda health: health.status is not Status.UNHEALTHY)
        return worst[0] if worst else Health(Status.HEALTHY, message, self._latency)

    def _described(self, name: str) -> Mapping[str, Any] | None:
        """What the server says of a collection; None where it is not there, for the app at least."""
        reply = self._send("GET", path_of(name))
        if reply.status == 404 or (reply.status == 403 and _NOT_MEANT in reply.error):
            return None
        if reply.status == 500:
            raise ServerError(
                f"collection {name} answers 500 ({redact(reply.error)})",
                where=str(self._tenant.server),
                hint="look into the server's log; where it stays so, bring the app's data back: multidb restore "
                f"{self._tenant.app.id} --replace --no-safety-set",
            )
        return self._allowed(reply)

    def _allowed(self, reply: Reply) -> Mapping[str, Any]:
        if reply.status in (401, 403):
            raise self._refused(reply)
        described: Mapping[str, Any] = expect(self._tenant.server, reply).result
        return described

    def _refused(self, reply: Reply) -> ServerError:
        where = str(self._tenant.server)
        if "stateful" in reply.error:
            message = "its token is not let in: the app is suspended, or has another token since a rotation"
            return AuthenticationFailed(message, where=where, hint=f"let it in again: {self._repair}")
        message = f"the server refuses the app's token ({redact(reply.error)})"
        return AuthenticationFailed(message, where=where, hint=f"sign a new one: {self._repair}")

    def _missing(self, missing: Sequence[str]) -> Iterator[Health]:
        if missing:
            yield self._degraded(f"without collection {', '.join(missing)}", self._repair)

    def _unwell(self, name: str, details: Mapping[str, Any]) -> Iterator[Health]:
        status, optimizer = details["status"], details.get("optimizer_status") or "ok"
        if status == "red":
            message = f"{name} is red: the server failed at an operation on it ({_words(optimizer)})"
            yield Health(Status.UNHEALTHY, message, self._latency, "look into the server's log; restore it if it stays")
        elif status != "green":
            state = {"yellow": "is being optimized", "grey": "waits for its optimizer since the server's start"}
            message = f"{name} is {status}: it {state.get(status, 'is not ready')}"
            yield self._degraded(message, "wait; if it stays, look into the server's log and load")
        elif optimizer != "ok":
            yield self._degraded(f"the optimizer of {name} failed ({_words(optimizer)})", "look into the server's log")
        if not self._local and TENANT_FIELD not in details.get("payload_schema", {}):
            yield self._degraded(f"{name} has no index on {TENANT_FIELD}: searches get slow", self._repair)

    def _written(self, name: str) -> Iterator[Health]:
        """Writes a point and takes it away again; what is wrong with that."""
        point = str(uuid.uuid4())
        written = {"points": [{"id": point, "vector": {}, "payload": {TENANT_FIELD: _PROBE_TENANT}}]}
        path = f"{path_of(name)}/points"
        if self._local:
            reply = self._send("PUT", path, written)
            self._send("POST", f"{path}/delete", {"points": [point]})
        else:
            operations = [{"upsert": written}, {"delete": {"points": [point]}}]
            reply = self._send("POST", f"{path}/batch?wait=true", {"operations": operations})
        if reply.fine:
            return
        if _OVER_QUOTA in reply.error:
            message = f"{name} may not grow: the app is over its quota; reading and deleting still work"
            yield self._degraded(message, f"delete points, or raise the quota: multidb usage {self._tenant.app.id}")
        else:
            yield Health(Status.UNHEALTHY, f"{name} cannot be written: {redact(reply.error)}", self._latency, _FULL)

    def _read(self, name: str) -> None:
        body = {"limit": 1, "with_payload": False, "with_vector": False}
        self._result("POST", f"{path_of(name)}/points/scroll", body)

    def _result(self, verb: str, target: str, body: Mapping[str, Any] | None = None) -> Any:
        return expect(self._tenant.server, self._send(verb, target, body)).result

    def _send(self, verb: str, target: str, body: Mapping[str, Any] | None = None) -> Reply:
        timeout = self._tenant.server.timeout
        left = timeout - (time.monotonic() - self._start)
        if left <= 0:
            raise ServerSlow(
                f"did not answer within {timeout:g} s",
                where=str(self._tenant.server),
                hint="see whether the server is overloaded, then run the command again",
            )
        begun = time.monotonic()
        try:
            return self._transport.send(Call(verb, target, body or {}), seconds=left)
        finally:
            self._latency += time.monotonic() - begun

    def _degraded(self, message: str, fix: str) -> Health:
        return Health(Status.DEGRADED, message, self._latency, fix)

    def _token_days(self) -> float | None:
        """Days until the app's token ends; None when it has no end, or is no token."""
        end = (claims_of(self._key) or {}).get("exp") if self._key else None
        return (end - time.time()) / _DAY if isinstance(end, int | float) else None

    @staticmethod
    def _end(left: float) -> str:
        return datetime.fromtimestamp(time.time() + left * _DAY, UTC).date().isoformat()


def _words(optimizer: object) -> str:
    return redact(str(optimizer.get("error", optimizer) if isinstance(optimizer, Mapping) else optimizer))[:200]
