"""What the manifest may say about Neo4j: an app's database, and the servers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field

from multidb.model import RuntimeKind
from multidb.model.options import ContainerOptions, Memory, Section

__all__ = ["STORE", "AppOptions", "ServerOptions"]

STORE: Final = "neo4j"
# IANA's special-purpose registries for IPv4, multicast, and in IPv6 everything but global unicast, without the ranges
# that carry IPv4 addresses (6to4, Teredo; NAT64 and mapped ones are in ::/3).
_BLOCKLISTS: Final = {
    "none": "0.0.0.0/0,::/0",
    "internet": (
        "0.0.0.0/8,10.0.0.0/8,100.64.0.0/10,127.0.0.0/8,169.254.0.0/16,172.16.0.0/12,192.0.0.0/24,192.168.0.0/16,"
        "198.18.0.0/15,224.0.0.0/3,::/3,2001::/32,2002::/16,4000::/2,8000::/1"
    ),
}


class AppOptions(Section):
    """What stands under ``apps.<app>.neo4j``."""

    manage_schema: bool = Field(
        default=True,
        description="Enterprise: the app may make and drop the indexes and constraints of its own database.",
    )


class ServerOptions(ContainerOptions):
    """What stands under ``servers.neo4j``."""

    isolation: Literal["auto", "database", "instance", "label"] = Field(
        default="auto",
        description="auto: what the server can do; database: a database, roles and a user per app (Enterprise); "
        "instance: a server per app (Community); label: all apps in one database, a convention and no wall.",
    )
    port: int | None = Field(
        default=None, ge=1, le=65535, description="Bolt port of the first instance; without it a free one is chosen."
    )
    version: str = Field(default="2026.08.1", description="Version of the embedded or containerised server.")
    heap: Memory = Field(default=384 * 1024**2, description="Largest heap of each instance, such as 384m or 1g.")
    load_csv: Literal["none", "internet"] = Field(
        default="none",
        description="What LOAD CSV of an app may read on a server that multidb runs: nothing; or addresses of the "
        "internet, and none that is private or of this machine. Files never.",
    )
    backup: Literal["export", "dump"] = Field(
        default="export",
        repr=False,  # a running server knows nothing of it
        description="What a backup holds: everything as lines of JSON, read while the app works (for every edition); "
        "or what `neo4j-admin database dump` writes, quicker to restore, for which the app's logins are turned off and "
        "its server is stopped for some seconds (`runtime: embedded` with a server per app).",
    )

    close_defaults: bool = Field(
        default=True,
        repr=False,  # a running server knows nothing of it
        description="Enterprise: whether the right to LOAD CSV is taken from every user (role PUBLIC); false leaves it "
        "as it is, and the apps' isolation is partial where they have it.",
    )

    @property
    def blocklist(self) -> str:
        """The addresses that LOAD CSV is kept from, as ``internal.dbms.cypher_ip_blocklist`` takes them."""
        return _BLOCKLISTS[self.load_csv]

    def unfit(self, runtime: RuntimeKind) -> Mapping[str, str]:
        if self.backup == "dump" and (not runtime.takes_offline or self.isolation == "label"):
            return {"backup": "a dump needs a server of one app that multidb may stop: runtime: embedded"}
        return {}
