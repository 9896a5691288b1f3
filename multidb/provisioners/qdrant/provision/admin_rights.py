"""What the admin's key may do on a server."""

from __future__ import annotations

from collections.abc import Iterator

from multidb.model import Finding, Level
from multidb.provisioners.qdrant.provision.resources import QdrantFacts
from multidb.provisioners.qdrant.provision.tokens import SHORTEST_KEY

__all__ = ["admin_rights"]

_WALLS = "set service.api_key and service.jwt_rbac: true on the server and restart it"


def admin_rights(facts: QdrantFacts, subject: str, *, manages: bool) -> Iterator[Finding]:
    """What the server is, and whether the key manages it. See `multidb.model.Session.admin_rights`.

    Args:
        manages: the key may change collections, and not only read them.
    """
    if facts.local:
        message = "local mode: a folder for one process at a time, without keys; whoever opens it sees every app"
        yield Finding(Level.WARNING, subject, message, "for walls between apps, use a Qdrant server")
        return
    if not manages:
        message = "the key may read and not change: no collection can be made with it"
        yield Finding(Level.ERROR, subject, message, "give multidb the server's service.api_key")
    elif facts.rbac:
        yield Finding(Level.OK, subject, "the key makes collections and signs a token for each app (jwt_rbac)")
    elif facts.api_key:
        message = "the key makes collections, and opens all of them to every app: jwt_rbac is off"
        yield Finding(Level.WARNING, subject, message, _WALLS)
    else:
        message = "the server asks for no key: whoever reaches it, every app too, may do everything"
        yield Finding(Level.WARNING, subject, message, _WALLS)
    if facts.short_key:
        message = f"the key, which signs the apps' tokens, has fewer than {SHORTEST_KEY} bytes and could be guessed"
        yield Finding(Level.WARNING, subject, message, "give the server a longer service.api_key")
