"""Opening a Qdrant, and finding out what it really is."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from typing import Final

from multidb.distribution import add_command
from multidb.errors import AuthenticationFailed, NotAllowed, WrongVersion
from multidb.model import Server
from multidb.provisioners.qdrant.driver.transport import (
    Folder,
    Http,
    Reply,
    Transport,
    expect,
    ignore_known_warnings,
    not_qdrant,
)
from multidb.provisioners.qdrant.provision.resources import QdrantFacts
from multidb.provisioners.qdrant.provision.statements import Call
from multidb.provisioners.qdrant.provision.tokens import SHORTEST_KEY, sign
from multidb.secrets import Secret

__all__ = ["open_transport"]

_OLDEST: Final = (1, 16)  # collection metadata, which holds the owner's mark, came with 1.16


def open_transport(server: Server, admin: Secret | None) -> tuple[Transport, QdrantFacts]:
    """A way to speak to a Qdrant with the admin's key, and what it is.

    An empty key counts as none: to Qdrant it means the same.

    Raises:
        ServerDown, ServerSlow, AuthenticationFailed, NotAllowed, WrongVersion, Locked: each says what to do next.
    """
    ignore_known_warnings()
    if server.endpoint.path:
        version = installed_version("qdrant-client")
        _require_version(server, version, add_command(f"qdrant-client>={_OLDEST[0]}.{_OLDEST[1]}"))
        return Folder(server), QdrantFacts("Qdrant local mode", version, local=True)
    if admin and not admin.reveal().isascii():
        raise AuthenticationFailed(
            "the api key has a character that no HTTP header can carry",
            where=str(server),
            hint="an api key is made of ASCII characters; correct the one that external.qdrant.password leads to",
        )
    transport = Http(server, admin or None)
    try:
        facts = _probe(server, admin or None, transport)
    except BaseException:
        transport.close()
        raise
    return transport, facts


def _probe(server: Server, admin: Secret | None, transport: Transport) -> QdrantFacts:
    version = _version(server, transport.send(Call("GET", "/", {})))
    _require_version(server, version, "upgrade the server one minor version at a time")
    listing = Call("GET", "/collections", {})
    expect(server, transport.send(listing))
    if admin is None or transport.send(listing, key=Secret("")).fine:
        return QdrantFacts("Qdrant", version)
    short = len(admin.reveal().encode()) < SHORTEST_KEY
    return QdrantFacts("Qdrant", version, api_key=True, rbac=_limits_tokens(server, admin, transport), short_key=short)


def _limits_tokens(server: Server, admin: Secret, transport: Transport) -> bool:
    """Whether the server takes tokens: tried with one that may do nothing but read a collection that is not there."""
    access = [{"collection": "multidb__probe", "access": "r"}]
    token = sign({"access": access, "exp": int(time.time()) + 60, "subject": "multidb probe"}, admin)
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


def _version(server: Server, reply: Reply) -> str:
    described = reply.result if isinstance(reply.result, Mapping) else {}
    if "qdrant" not in str(described.get("title", "")).lower() or not described.get("version"):
        raise not_qdrant(server, "what answers there is not a Qdrant")
    return str(described["version"])


def _require_version(server: Server, version: str, how: str) -> None:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST:
        raise WrongVersion(
            f"Qdrant {version} is too old: multidb needs 1.16, the first that keeps metadata with a collection",
            where=str(server),
            hint=how,
        )
