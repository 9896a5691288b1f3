"""How real the wall around an app is on a Qdrant server."""

from __future__ import annotations

from multidb.model import App, Facts, Isolation
from multidb.provisioners.qdrant.provision.resources import QdrantFacts

__all__ = ["isolation"]


def isolation(app: App, facts: Facts) -> tuple[Isolation, str]:
    """How far `app` is kept from others, and why. Inside an app, `tenant_id` is a convention that its code keeps."""
    facts = QdrantFacts.of(facts)
    if facts.local:
        return Isolation.NAMING_ONLY, "local mode is a folder without authentication; whoever opens it sees every app"
    if facts.rbac:
        warning = "; the api key is shorter than 32 bytes and could be guessed from a token" if facts.short_key else ""
        return (
            Isolation.ENFORCED,
            f"a token for its own collections; of others it shows names only (telemetry){warning}",
        )
    if facts.api_key:
        return Isolation.NAMING_ONLY, "every app holds the server's api key (share_api_key); set service.jwt_rbac: true"
    return Isolation.NAMING_ONLY, "the server asks for no key; set service.api_key and service.jwt_rbac: true"
