"""The toy server as a container."""

from __future__ import annotations

from collections.abc import Sequence

from multidb.model import Facts, ServerSpec
from multidb.model.container import Container, SecretVariable, one_per_app, shared
from multidb_toy.hosting.address import PORT
from multidb_toy.resources import STORE

__all__ = ["containers"]


def containers(spec: ServerSpec, apps: Sequence[str], per_app: bool) -> list[Container]:
    """One server, or one for each app."""
    container = Container(
        name=spec.name,
        store=STORE,
        apps=spec.apps,
        image=spec.options.image or "multidb-toy:1.0",
        ports={"port": PORT},
        secret=SecretVariable("TOY_ADMIN"),
        memory=spec.options.memory or 64 * 1024**2,
        cpus=spec.options.cpus,
        admin="admin",
        facts=Facts("Toy", "1.0"),
    )
    return one_per_app(container, apps, spec) if per_app else shared(container, spec)
