"""An app, and what the functions of the store are told of its server."""

from __future__ import annotations

from typing import Any

from multidb.model import App
from multidb.provisioners.qdrant.provision.options import AppOptions
from multidb.provisioners.qdrant.provision.resources import (
    QdrantFacts,
)

RBAC = QdrantFacts("Qdrant", "1.18.3", api_key=True, rbac=True)


LOCAL = QdrantFacts("Qdrant local mode", "1.20.0", local=True)


def app(name: str = "lernmi", **options: Any) -> App:
    return App(name, name.replace("_", "-"), {"qdrant": AppOptions(**options)})
