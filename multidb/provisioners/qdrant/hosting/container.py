"""Qdrant as a container: the official image, configured by its environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from multidb.model.container import Container, SecretVariable, one_per_app, shared
from multidb.model.project import ServerSpec
from multidb.provisioners.qdrant.provision.options import STORE, VERSION, ServerOptions

__all__ = ["IMAGE", "containers"]

_REPOSITORY: Final = "qdrant/qdrant"
IMAGE: Final = f"{_REPOSITORY}:v{VERSION}"


def containers(spec: ServerSpec, apps: Sequence[str], per_app: bool) -> list[Container]:
    """One server, or one for each app."""
    options = ServerOptions.of(spec.options)
    container = Container(
        name=spec.name,
        store=STORE,
        apps=spec.apps,
        image=options.image or f"{_REPOSITORY}:v{options.version}",
        ports={"port": 6333, "grpc_port": 6334},
        secret=SecretVariable("QDRANT__SERVICE__API_KEY"),
        memory=options.memory or 1024**3,
        cpus=options.cpus,
        alternate=SecretVariable("QDRANT__SERVICE__ALT_API_KEY"),
    )
    return one_per_app(container, apps, spec) if per_app else shared(container, spec)
