"""The toy server as a container."""

from __future__ import annotations

from collections.abc import Sequence

from multidb.container import Container, SecretVariable, one_each, shared
from multidb.model import Facts
from multidb_toy.hosting.address import PORT
from multidb_toy.resources import STORE, ServerOptions

__all__ = ["containers"]


def containers(apps: Sequence[str], options: ServerOptions, per_app: bool) -> list[Container]:
    """One server, or one for each app."""
    container = Container(
        name=STORE,
        store=STORE,
        image=options.image or "multidb-toy:1.0",
        ports={"port": PORT},
        secret=SecretVariable("TOY_ADMIN"),
        memory=options.memory or "64m",
        cpus=options.cpus,
        admin="admin",
        facts=Facts("Toy", "1.0"),
    )
    return one_each(container, apps, options) if per_app else shared(container, options)
