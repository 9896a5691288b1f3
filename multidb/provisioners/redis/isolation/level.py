"""How real the wall around an app is on a Redis or Valkey server."""

from __future__ import annotations

from multidb.model import App, Facts, Isolation
from multidb.provisioners.redis.provision.options import STORE, AppOptions
from multidb.provisioners.redis.provision.resources import FORGETS, RedisFacts, by_prefix

__all__ = ["isolation"]


def isolation(app: App, facts: Facts) -> tuple[Isolation, str]:
    """How real the app's wall is on this server, and why. Numbers in INFO are visible to every app in any case."""
    facts = RedisFacts.of(facts)
    level, why = _wall(app, facts)
    if AppOptions.of(app.stores[STORE]).scripts:
        why += "; a script of the app that writes and does not end stops the server for all apps until it is killed"
    if facts.forgets:
        why += f"; {FORGETS}"
    return level, why


def _way_to_close(facts: RedisFacts) -> str:
    """What closes an open default user."""
    if facts.admin == "default":
        return "multidb itself comes as that user: give it an admin of its own, then multidb apply turns that user off"
    return "multidb apply turns it off, unless servers.redis.default_user is keep"


def _wall(app: App, facts: RedisFacts) -> tuple[Isolation, str]:
    extra = AppOptions.of(app.stores[STORE]).channels
    if facts.default_open:
        return Isolation.NAMING_ONLY, f"the server's default user needs no password; {_way_to_close(facts)}"
    if not by_prefix(app, facts) and not facts.db_rules:
        return Isolation.PARTIAL, (
            "SELECT reaches the app's DB only, but every connection starts in DB 0, where all apps can read and write"
        )
    if extra:
        return Isolation.PARTIAL, f"any app may be given the channels {', '.join(extra)} as well"
    if by_prefix(app, facts):
        return Isolation.ENFORCED, f"the ACL allows only keys and channels that start with {app.id}:"
    return Isolation.ENFORCED, "the ACL allows only the app's DB and channels"
