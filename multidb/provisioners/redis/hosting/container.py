"""Valkey (or Redis) as a container. Its users live in a file in its data volume, which a start script looks after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from multidb.model import Statement
from multidb.model.container import Container, SecretVariable, one_per_app, shared
from multidb.model.project import ServerSpec
from multidb.provisioners.redis.provision.options import ServerOptions, memory_text
from multidb.provisioners.redis.provision.resources import RedisFacts
from multidb.provisioners.redis.provision.rules import CommandTable

__all__ = ["IMAGE", "containers"]

IMAGE: Final = "valkey/valkey:9.1.2"
_OWN: Final = "/run/multidb"  # where its copy of certificate and key is
_OF_THE_LIMIT: Final = 0.75  # of the container's memory for data; the rest is for buffers and rewriting the log


def containers(spec: ServerSpec, apps: Sequence[str], per_app: bool) -> list[Container]:
    """One server, or one for each app."""
    options = ServerOptions.of(spec.options)
    memory = options.memory or 512 * 1024**2
    facts = RedisFacts("Valkey", "", CommandTable({}), options.databases, db_rules=True, persistence="aclfile")
    container = Container(
        name=spec.name,
        store="redis",
        apps=spec.apps,
        image=options.image or IMAGE,
        ports={"port": 6379},
        # The variable that redis-cli itself reads, so that the health check needs no password in its arguments.
        secret=SecretVariable("REDISCLI_AUTH"),
        memory=memory,
        cpus=options.cpus,
        admin="multidb_admin",
        facts=facts,
        files={"valkey/valkey.conf": "valkey/valkey.conf.j2", "valkey/start.sh": "valkey/start.sh.j2"},
        settings={"databases": options.databases, "maxmemory": memory_text(options.maxmemory or _share(memory))},
        users=("valkey", "redis"),
        tls_files={"key.sh": "tls/key.sh.j2"},
        admin_at_start=True,
        takes_certificate=(Statement(f"CONFIG SET tls-cert-file {_OWN}/server.crt tls-key-file {_OWN}/server.key"),),
    )
    return one_per_app(container, apps, spec) if per_app else shared(container, spec)


def _share(memory: int) -> int:
    return int(memory // 1024**2 * _OF_THE_LIMIT) * 1024**2
