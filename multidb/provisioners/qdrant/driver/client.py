"""A person's way to an app's collections: a prompt, since Qdrant has no program of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from multidb.errors import NotAllowed, UsageError
from multidb.model import AppAccess, AppClient, PromptAnswer, Tenant
from multidb.provisioners.qdrant.driver.transport import Http
from multidb.provisioners.qdrant.provision.statements import Call
from multidb.secrets import Secret

__all__ = ["client"]

_VERBS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_LARGEST: Final = 4 << 20  # bytes of an answer that is shown


def client(tenant: Tenant, access: AppAccess) -> AppClient:
    """Requests of Qdrant's HTTP interface with the app's token, as ``GET /collections/NAME`` or ``POST PATH JSON``.

    Raises:
        UsageError: a login that only reads, or one for migrations, was asked for;
            or the store is a folder without a server.
    """
    where = f"app {tenant.app.id}"
    if access is not AppAccess.WORK:
        raise access.refusal("token on Qdrant", tenant.app.id)
    if "QDRANT_PATH" in tenant.env:
        raise UsageError(
            "Qdrant is a folder in local mode, with no server to connect to",
            where=where,
            hint="open it with QdrantClient(path=...) of qdrant-client; a Qdrant server: servers.qdrant.binary",
        )
    key = tenant.env.get("QDRANT_API_KEY")

    @contextmanager
    def prompt() -> Iterator[Callable[[str], PromptAnswer]]:
        transport = Http(tenant.server, Secret(key) if isinstance(key, str) else key)
        try:
            yield lambda statement: _answer(transport, where, statement)
        finally:
            transport.close()

    return AppClient(prompt)


def _answer(transport: Http, where: str, statement: str) -> PromptAnswer:
    verb, _, rest = statement.strip().partition(" ")
    path, _, body = rest.strip().partition(" ")
    if verb.upper() not in _VERBS or not path.startswith("/"):
        raise UsageError(
            f"{statement.strip()!r} is no request", where=where, hint="for example: GET /collections, or POST PATH JSON"
        )
    reply = transport.send(Call(verb.upper(), path, _parsed(body, where)), most=_LARGEST)
    if not reply.fine:
        raise NotAllowed(f"HTTP {reply.status}: {reply.error}", where=where)
    return PromptAnswer(rows=[[line] for line in json.dumps(reply.result, indent=1, ensure_ascii=False).splitlines()])


def _parsed(body: str, where: str) -> Mapping[str, Any]:
    try:
        parsed = json.loads(body) if body.strip() else {}
    except ValueError as error:
        raise UsageError(f"what follows the path is not JSON: {error}", where=where) from None
    if not isinstance(parsed, dict):
        raise UsageError("what follows the path is no JSON object", where=where)
    return parsed
