"""How an app finds its place: logged in as the app, a key written, read and removed, all within one timeout."""

from __future__ import annotations

import secrets as random
import time
from collections.abc import Mapping
from typing import Final

from redis.exceptions import ResponseError

from multidb.model import Health, Status, Tenant
from multidb.provisioners.redis.driver.batch_connection import BatchConnection, as_app
from multidb.provisioners.redis.driver.connection import PRIMARY, UNABLE, explained, fields
from multidb.provisioners.redis.provision.resources import FORGETS, RedisFacts
from multidb.secrets import redact

__all__ = ["check_health"]

_PROBE_MILLISECONDS = 10_000  # a probe that is interrupted goes away by itself
_NEARLY: Final = 0.9
_SECTIONS = ("clients", "memory", "replication")

_OUT_OF_MEMORY = "the server is out of memory and refuses writes; reading and deleting still work"
_MORE_MEMORY = "delete keys or give them an expiry, or raise servers.redis.maxmemory (multidb usage shows who has what)"
_REFUSED_WRITES: Mapping[str, tuple[str, str]] = {
    "OOM": (_OUT_OF_MEMORY, _MORE_MEMORY),
    **UNABLE,
    "READONLY": ("the server is a replica and refuses writes", PRIMARY),
    "LOADING": ("the server is still loading its data", "wait; how long depends on how much there is"),
}


def check_health(tenant: Tenant, may_write: bool) -> Health:
    """Tries the app's place as the app would. Its probe key has an unguessable name and an expiry.

    Raises:
        ServerDown, ServerSlow, AuthenticationFailed: the app cannot connect at all.
    """
    began = time.monotonic()
    with explained(tenant.server), as_app(tenant, within=tenant.server.timeout) as connection:
        wrong, info = _probe(tenant, connection, may_write)
    return _judged(tenant, wrong, info, may_write, time.monotonic() - began)


def _probe(tenant: Tenant, connection: BatchConnection, may_write: bool) -> tuple[list[object], dict[str, str]]:
    """The answers to SET, GET, DEL (or to a GET only) that are not as they should be, and what INFO says."""
    value = random.token_hex(8)
    key = f"{tenant.env.get('REDIS_KEY_PREFIX', '')}__multidb_probe:{value}"
    acts: list[tuple[object, ...]] = [("GET", key)]
    if may_write:
        acts = [("SET", key, value, "PX", _PROBE_MILLISECONDS), *acts, ("DEL", key)]
    answers = connection.tell([*acts, *(("INFO", section) for section in _SECTIONS)])
    info = [answer.decode() for answer in answers[len(acts) :] if isinstance(answer, bytes)]
    expected = [b"OK", value.encode(), 1] if may_write else [None]
    wrong = [answer for answer, want in zip(answers, expected, strict=False) if answer != want]
    return wrong, fields("\n".join(info))


def _judged(tenant: Tenant, wrong: list[object], info: Mapping[str, str], may_write: bool, latency: float) -> Health:
    if wrong:
        return _failed(tenant, wrong[0], latency)
    for message, fix in (
        _over_quota(tenant),
        _few_connections(info),
        _little_memory(info),
        _replica(info),
        _forgotten(tenant),
    ):
        if message:
            return Health(Status.DEGRADED, message, latency, fix)
    return Health(Status.HEALTHY, "wrote, read and deleted a key" if may_write else "read", latency)


def _failed(tenant: Tenant, answer: object, latency: float) -> Health:
    if not isinstance(answer, ResponseError):
        return Health(Status.UNHEALTHY, "a key that was written is not there", latency, _MORE_MEMORY)
    text = redact(str(answer))
    word = text.partition(" ")[0]
    if word == "NOPERM" and tenant.app.id in tenant.context.read_only:
        message, fix = _over_quota(tenant)
        return Health(Status.DEGRADED, message, latency, fix)
    if word == "NOPERM":
        fix = f"multidb plan shows what differs; multidb apply --app {tenant.app.id} mends it"
        return Health(Status.UNHEALTHY, f"the server refuses the app a plain command: {text}", latency, fix)
    message, fix = _REFUSED_WRITES.get(word, (f"the server refuses: {text}", "look at the server's log"))
    return Health(Status.UNHEALTHY, message, latency, fix)


_NOTHING = ("", "")


def _over_quota(tenant: Tenant) -> tuple[str, str]:
    if tenant.app.id not in tenant.context.read_only:
        return _NOTHING
    return "the app is over its quota: it may read and delete, and not write", "delete data, or raise the app's quota"


def _few_connections(info: Mapping[str, str]) -> tuple[str, str]:
    used, limit = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    if not limit or used < _NEARLY * limit:
        return _NOTHING
    return (
        f"{used} of the server's {limit} connections are taken",
        "multidb usage shows who has them; close some, or raise maxclients",
    )


def _little_memory(info: Mapping[str, str]) -> tuple[str, str]:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit or used < _NEARLY * limit or info.get("maxmemory_policy") != "noeviction":
        return _NOTHING
    return f"{used / limit:.0%} of the server's memory is taken, and then it refuses writes", _MORE_MEMORY


def _replica(info: Mapping[str, str]) -> tuple[str, str]:
    if info.get("role") != "slave":
        return _NOTHING
    return "the server is a replica, so the app can only read", PRIMARY


def _forgotten(tenant: Tenant) -> tuple[str, str]:
    facts = tenant.context.facts
    if not isinstance(facts, RedisFacts) or facts.persistence != "none":
        return _NOTHING
    return f"it works until the next restart: {FORGETS}", "give the server an aclfile, then run multidb apply"
