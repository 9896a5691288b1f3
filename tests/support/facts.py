"""What a server of each store says of itself."""

from __future__ import annotations

from collections.abc import Mapping

from multidb.model import Facts
from multidb.provisioners.neo4j.provision.resources import Neo4jFacts
from multidb.provisioners.postgres.provision.resources import PostgresFacts
from multidb.provisioners.qdrant.provision.resources import QdrantFacts
from tests.support.redis_tables import VALKEY_9

FACTS: Mapping[str, Facts] = {
    "postgres": PostgresFacts(
        product="PostgreSQL", version="18", number=180000, admin="root", superuser=True, createrole=True, createdb=True
    ),
    "neo4j": Neo4jFacts("Neo4j", "2026.08.1", "enterprise", multi_database=True, roles=True),
    "qdrant": QdrantFacts("Qdrant", "1.18.3", api_key=True, rbac=True),
    "redis": VALKEY_9,
}
