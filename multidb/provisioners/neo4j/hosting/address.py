"""How the address of a Neo4j server is written: as its driver reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from multidb.model import Address, Dialect, Endpoint

__all__ = ["Neo4jAddress"]


class Neo4jAddress(Address):
    """A Neo4j server that exists already, at bolt:// or neo4j:// or, with TLS, bolt+s:// or neo4j+s://."""

    dialect: ClassVar[Dialect] = Dialect(
        {"bolt": False, "neo4j": False, "bolt+s": True, "neo4j+s": True, "bolt+ssc": True, "neo4j+ssc": True},
        7687,
        "neo4j",
        "neo4j",
    )

    def endpoint_at(self, url: str, root: Path) -> Endpoint:
        """Which servers of a cluster are asked is in the scheme, which the driver has to be told."""
        endpoint = super().endpoint_at(url, root)
        return replace(endpoint, params={**endpoint.params, "scheme": urlsplit(url).scheme})
