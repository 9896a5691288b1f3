"""Reading what a server tells of who may do what, and the file in which it keeps that over a restart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import redis
from redis.exceptions import NoPermissionError

from multidb.model import Server
from multidb.provisioners.redis.driver.connection import ask, ask_lines, clients, explained, fields
from multidb.provisioners.redis.provision.resources import RedisFacts
from multidb.provisioners.redis.provision.rules import BYTES, Rule, parse_rule
from multidb.provisioners.redis.provision.rules_file import RulesFile
from multidb.secrets import Secret

if TYPE_CHECKING:
    from multidb.provisioners.redis.isolation.holes import Catalog

__all__ = ["is_here", "read_catalog", "read_rules", "read_saved"]

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_UNGUESSABLE: Final = 32  # characters: the SHA-256 of so long a password tells nobody what it is
_LONGEST: Final = 256 << 20  # bytes of a file; a rule is about a thousand of them


def read_rules(server: Server, client: redis.Redis) -> dict[str, Rule]:
    """Every user of the server, by name."""
    with explained(server):
        rules = [parse_rule(line) for line in ask_lines(client, "ACL", "LIST")]
    return {rule.user: rule for rule in rules}


def read_catalog(server: Server, client: redis.Redis, facts: RedisFacts, password: Secret | None) -> Catalog:
    """Everything that holes are looked for in.

    Args:
        password: the one that `client` has logged in with.
    """
    from multidb.provisioners.redis.isolation.holes import Catalog  # not loaded by a plan

    rules = read_rules(server, client)
    with explained(server):
        try:
            listed = clients(ask(client, "CLIENT", "LIST"))
        except NoPermissionError:  # an admin that may not see who is there
            listed = []
        info = fields(ask(client, "INFO", "replication"))
    word = password.reveal() if password is not None else ""
    return Catalog(
        rules=rules,
        connected=frozenset(connection.get("user", "") for connection in listed),
        password=hashlib.sha256(word.encode()).hexdigest() if word else "",
        unguessable=len(word) >= _UNGUESSABLE,
        new_users_hear_all=facts.new_users_hear_all,
        replicas=tuple(_replicas(info)),
        saved=read_saved(facts),
    )


def read_saved(facts: RedisFacts) -> RulesFile | None:
    """The lines about users in the file that the server keeps its rules in; None when it keeps none."""
    if facts.persistence == "none":
        return None
    if not facts.here:
        return RulesFile(facts.rules_file)
    try:
        with Path(facts.rules_file).open("rb") as file:
            text = file.read(_LONGEST).decode(errors=BYTES)
    except OSError:
        return RulesFile(facts.rules_file)
    lines = (line.strip(" \t\r") for line in text.split("\n"))
    return RulesFile(facts.rules_file, tuple(line for line in lines if line.lower().startswith("user ")))


def is_here(server: Server, info: Mapping[str, str]) -> bool:
    """Whether the server is a process of this machine, so that the files that it names are to be found here.

    An address of this machine alone says nothing: what listens there may be a tunnel, or a container's port.

    Args:
        info: the fields of INFO.
    """
    if server.endpoint.host not in _LOOPBACK or server.container is not None:
        return False
    try:
        program = Path(f"/proc/{int(info['process_id'])}/exe").readlink()
    except (KeyError, ValueError, OSError):
        return False
    return str(Path(info.get("executable", "")).resolve()) == str(program).removesuffix(" (deleted)")


def _replicas(info: Mapping[str, str]) -> list[str]:
    """From ``slave0:ip=127.0.0.1,port=6380,state=online,...``."""
    addresses = []
    for name, value in info.items():
        if name.removeprefix("slave").isdecimal() and value.startswith("ip="):
            attributes = dict(part.partition("=")[::2] for part in value.split(","))
            addresses.append(f"{attributes.get('ip', '')}:{attributes.get('port', '')}")
    return addresses
