"""The variables by which an app finds its collections."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from multidb.model import App, Endpoint, StoreContext
from multidb.provisioners.qdrant.provision.options import STORE, AppOptions, ServerOptions
from multidb.provisioners.qdrant.provision.resources import QdrantFacts, collection_name, token_ref
from multidb.secrets import Secret, SecretRef

__all__ = ["env"]


def env(
    app: App, context: StoreContext, endpoint: Endpoint, secret: Callable[[SecretRef], Secret]
) -> Mapping[str, str | Secret]:
    """The app's variables. `QDRANT_COLLECTION_PREFIX` and a type make a collection's name."""
    first = next(iter(AppOptions.of(app.stores[STORE]).collections))
    variables: dict[str, str | Secret] = {}
    if endpoint.path:
        variables["QDRANT_PATH"] = endpoint.path
    else:
        options = ServerOptions.of(context.options)
        scheme = "https" if endpoint.tls else "http"
        variables["QDRANT_URL"] = f"{scheme}://{endpoint.host}:{endpoint.port}"
        variables["QDRANT_HOST"] = endpoint.host
        variables["QDRANT_PORT"] = str(endpoint.port)
        variables["QDRANT_GRPC_PORT"] = endpoint.params.get("grpc_port") or str(options.grpc_port or 6334)
        if context.facts is None or QdrantFacts.of(context.facts).api_key:
            variables["QDRANT_API_KEY"] = secret(token_ref(app.id, context.alternates_of(app.id).current))
        if "ca_file" in endpoint.params:
            variables["QDRANT_CA_FILE"] = endpoint.params["ca_file"]
    variables[f"QDRANT_COLLECTION_{app.id.upper()}"] = collection_name(app.id, first)
    variables["QDRANT_COLLECTION_PREFIX"] = f"{app.id}_"  # the last word, also for an app called prefix
    return variables
