"""Qdrant as a container: the official image, configured by its environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from multidb.container import Container, SecretVariable, one_each, shared
from multidb.provisioners.qdrant.provision.options import STORE, ServerOptions

__all__ = ["IMAGE", "containers"]

IMAGE: Final = "qdrant/qdrant:v1.18.3"


def containers(apps: Sequence[str], options: ServerOptions, per_app: bool) -> list[Container]:
    """One server, or one for each app."""
    container = Container(
        name=STORE,
        store=STORE,
        image=options.image or IMAGE,
        ports={"port": 6333, "grpc_port": 6334},
        secret=SecretVariable("QDRANT__SERVICE__API_KEY"),
        memory=options.memory or "1g",
        cpus=options.cpus,
    )
    return one_each(container, apps, options) if per_app else shared(container, options)
