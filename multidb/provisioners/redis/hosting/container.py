"""Valkey (or Redis) as a container. Its users live in a file in its data volume, which a start script looks after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from multidb.container import Container, SecretVariable, one_each, shared
from multidb.provisioners.redis.provision.resources import RedisFacts, ServerOptions
from multidb.provisioners.redis.provision.rules import CommandTable

__all__ = ["IMAGE", "containers"]

IMAGE: Final = "valkey/valkey:9.1.2"
_OF_THE_LIMIT: Final = 0.75  # of the container's memory for data; the rest is for buffers and rewriting the log


def containers(apps: Sequence[str], options: ServerOptions, per_app: bool) -> list[Container]:
    """One server, or one for each app."""
    memory = options.memory or "512m"
    facts = RedisFacts("Valkey", "", CommandTable({}), options.databases, db_rules=True, persistence="aclfile")
    container = Container(
        name="redis",
        store="redis",
        image=options.image or IMAGE,
        ports={"port": 6379},
        # The variable that redis-cli itself reads, so that the health check needs no password in its arguments.
        secret=SecretVariable("REDISCLI_AUTH"),
        memory=memory,
        cpus=options.cpus,
        admin="multidb_admin",
        facts=facts,
        files={"valkey/valkey.conf": "valkey/valkey.conf.j2", "valkey/start.sh": "valkey/start.sh.j2"},
        settings={"databases": options.databases, "maxmemory": options.maxmemory or _share(memory)},
        users=("valkey", "redis"),
        tls_files={"key.sh": "tls/key.sh.j2"},
    )
    return one_each(container, apps, options) if per_app else shared(container, options)


def _share(memory: str) -> str:
    megabytes = int(memory[:-1]) * (1024 if memory.endswith("g") else 1)
    return f"{int(megabytes * _OF_THE_LIMIT)}mb"
