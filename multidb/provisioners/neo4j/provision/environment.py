"""The variables by which an app finds its database."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from multidb.model import App, Endpoint, StoreContext
from multidb.provisioners.neo4j.provision.options import ServerOptions
from multidb.provisioners.neo4j.provision.resources import database_of, password_ref, user_name
from multidb.secrets import Secret, SecretRef

__all__ = ["env", "env_asks"]


def env(
    app: App, context: StoreContext, endpoint: Endpoint, secret: Callable[[SecretRef], Secret]
) -> Mapping[str, str | Secret]:
    """The app's variables. With `isolation: label` also ``NEO4J_LABEL``, the label that its nodes should carry."""
    options = ServerOptions.of(context.options)
    scheme = endpoint.params.get("scheme") or ("bolt+s" if endpoint.tls else "bolt")
    database, current = database_of(app, context, options), context.alternates_of(app.id).current
    variables: dict[str, str | Secret] = {
        "NEO4J_URI": f"{scheme}://{endpoint.host}:{endpoint.port}",
        "NEO4J_USER": user_name(app.id, current),
        "NEO4J_PASSWORD": secret(password_ref(app.id, current)),
        "NEO4J_DATABASE": database,
        f"NEO4J_DATABASE_{app.id.upper()}": database,
    }
    if options.isolation == "label":
        variables["NEO4J_LABEL"] = app.id
    if "ca_file" in endpoint.params:
        variables["NEO4J_CA_FILE"] = endpoint.params["ca_file"]
    return variables


def env_asks(app: App, context: StoreContext) -> bool:
    """Whether only the server can tell the database's name: one that several apps may share, unless the manifest says
    that each has its own. (A server of one app is multidb's, with the default database's usual name.)"""
    options = ServerOptions.of(context.options)
    return options.isolation != "database" and context.server is not None and context.server.app is None
