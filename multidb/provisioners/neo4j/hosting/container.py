"""Neo4j as a container: one with a database per app (Enterprise), or a small one per app (Community)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from multidb.model import memory_text
from multidb.model.container import Container, SecretVariable, one_per_app, shared
from multidb.model.project import ServerSpec
from multidb.provisioners.neo4j.provision.options import STORE, ServerOptions
from multidb.provisioners.neo4j.provision.resources import Neo4jFacts

__all__ = ["containers"]

_BESIDE_THE_HEAP: Final = 640 * 1024**2  # bytes for the page cache and for Java itself


def containers(spec: ServerSpec, apps: Sequence[str], per_app: bool) -> list[Container]:
    """One server for all where the image is Enterprise or labels are all that is wanted, else one for each app."""
    options = ServerOptions.of(spec.options)
    enterprise = options.isolation == "database" or (options.isolation == "auto" and "enterprise" in str(options.image))
    dedicated = per_app or not (enterprise or options.isolation == "label")
    edition = "enterprise" if enterprise else "community"
    container = Container(
        name=spec.name,
        store=STORE,
        apps=spec.apps,
        image=options.image or f"neo4j:{options.version}-{edition}",
        ports={"port": 7687},
        secret=SecretVariable("NEO4J_AUTH", "neo4j/{}"),
        memory=options.memory or options.heap + _BESIDE_THE_HEAP,
        cpus=options.cpus,
        admin="neo4j",
        facts=Neo4jFacts("Neo4j", options.version, edition, enterprise, enterprise, dedicated=dedicated),
        settings={"heap": memory_text(options.heap), "enterprise": enterprise, "blocklist": options.blocklist},
        start_timeout=300.0,
        users=("neo4j",),
        tls_files={"key.sh": "tls/key.sh.j2"},
    )
    if not dedicated:
        return shared(container, spec)
    return one_per_app(container, apps, spec)
