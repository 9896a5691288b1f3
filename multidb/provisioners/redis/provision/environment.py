"""The variables by which an app finds its place."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Mapping

from multidb.model import App, Endpoint, StoreContext
from multidb.provisioners.redis.provision.resources import password_ref, profile_of, user_name
from multidb.secrets import Secret, SecretRef, revealed

__all__ = ["env"]


def env(
    app: App, context: StoreContext, endpoint: Endpoint, lookup: Callable[[SecretRef], Secret]
) -> Mapping[str, str | Secret]:
    """The app's variables; `endpoint` is the server as the app sees it."""
    number, current = context.numbers[app.id], context.alternates_of(app.id).current
    user, password = user_name(app.id, current), lookup(password_ref(app.id, current))
    scheme = "rediss" if endpoint.tls else "redis"
    login = f"{user}:{urllib.parse.quote(password.reveal(), safe='')}"
    variables: dict[str, str | Secret] = {
        "REDIS_URL": Secret(f"{scheme}://{login}@{endpoint.host}:{endpoint.port}/{number}"),
        "REDIS_HOST": endpoint.host,
        "REDIS_PORT": str(endpoint.port),
        "REDIS_USER": user,
        "REDIS_PASSWORD": password,
        "REDIS_DB": str(number),
        f"REDIS_DB_{app.id.upper()}": str(number),
    }
    if number == 0:  # only apps that live under their prefix have it
        variables["REDIS_KEY_PREFIX"] = f"{app.id}:"
    if (profile := profile_of(app)) is not None:
        values = {
            "app": app.id,
            "host": endpoint.host,
            "port": endpoint.port,
            "user": user,
            "number": number,
            "url": revealed(variables["REDIS_URL"]),
            "password": password.reveal(),
        }
        for name, value in profile.variables.items():
            text = value.format_map(values)
            variables[name] = Secret(text) if "{url}" in value or "{password}" in value else text
    if "ca_file" in endpoint.params:
        variables["REDIS_CA_FILE"] = endpoint.params["ca_file"]
    return variables
