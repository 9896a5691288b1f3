"""Holes that a Neo4j's settings make, with the lines of ``neo4j.conf`` that close them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from neo4j import exceptions

from multidb.model import Hole, Searched
from multidb.provisioners.neo4j.driver.connection import Bolt
from multidb.provisioners.neo4j.isolation.audit import LOADS, barred

__all__ = ["NO_AUTHENTICATION", "SEARCHED", "holes_in_settings", "open_loads", "over_http"]

NO_AUTHENTICATION: Final = "no authentication"

AUTH: Final = "dbms.security.auth_enabled"
UNRESTRICTED: Final = "dbms.security.procedures.unrestricted"
UNASKED: Final = "dbms.security.http_auth_allowlist"
HTTP: Final = "server.http.enabled"
HTTP_ADDRESS: Final = "server.http.listen_address"

SEARCHED: Final = Searched(
    "SHOW SETTINGS",
    5,
    "logins without a password, procedures without limits, HTTP; tried: LOAD CSV, the password of every new server",
)
_QUESTION: Final = (
    f"SHOW SETTINGS '{AUTH}', '{UNRESTRICTED}', '{UNASKED}', '{HTTP}', '{HTTP_ADDRESS}' YIELD name, value"
)
_PAGES: Final = frozenset({"/", "/browser.*"})  # what a new server shows without a login: its page, no data
_LOOPBACK: Final = ("localhost:", "127.", "[::1]:")
_CLOSED: Final = {
    "internal.dbms.cypher_ip_blocklist": "internal.dbms.cypher_ip_blocklist=0.0.0.0/0,::/0",
    "dbms.security.allow_csv_import_from_file_urls": "dbms.security.allow_csv_import_from_file_urls=false",
}
_LOADED: Final = {
    "read a URL": "a query can ask every port of the server's machine and of its networks, other apps' servers too",
    "read a file": "a query can read what lies in the server's import folder",
}


def holes_in_settings(bolt: Bolt) -> Iterator[Hole]:
    """What the server's configuration opens to whoever reaches it, or to every login."""
    settings = {str(row["name"]): str(row["value"] or "") for row in bolt.ask(_QUESTION)}
    if settings.get(AUTH) == "false":
        yield _hole(NO_AUTHENTICATION, "whoever reaches the server can do everything", f"{AUTH}=true")
    if unrestricted := settings.get(UNRESTRICTED):
        message = f"they may do what no login's rights cover: {unrestricted}"
        yield _hole("procedures without limits", message, f"{UNRESTRICTED}=")
    yield from over_http(settings)


def over_http(settings: Mapping[str, str]) -> Iterator[Hole]:
    if settings.get(HTTP) != "true":
        return
    more = sorted({value.strip() for value in settings.get(UNASKED, "").split(",")} - _PAGES - {""})
    if more:
        message = f"these are answered over HTTP for everybody: {', '.join(more)}"
        yield _hole("paths without a login", message, f"{UNASKED}={','.join(sorted(_PAGES))}")
    address = settings.get(HTTP_ADDRESS, "")
    if not address.startswith(_LOOPBACK):
        message = f"passwords and data go over the network as they are, to {address or 'every address'}"
        yield _hole("HTTP without TLS", message, f"{HTTP}=false")


def open_loads(bolt: Bolt, database: str) -> Iterator[Hole]:
    """What LOAD CSV reaches for every login of a server without roles; tried, since not all of its settings are shown.

    Nothing answers at the address that is tried, and there is no such file.
    """
    for load in LOADS:
        try:
            bolt.ask(load.text, database)
        except exceptions.ClientError as error:
            if error.code != load.passed or barred(error, load):
                continue
        yield _hole(f"LOAD CSV can {load.name}", _LOADED[load.name], _CLOSED[load.barred])


def _hole(name: str, message: str, line: str) -> Hole:
    closes = f"{line}  // in neo4j.conf; then start it anew: multidb restart, where multidb runs it"
    return Hole(name, "server", message, (closes,))
