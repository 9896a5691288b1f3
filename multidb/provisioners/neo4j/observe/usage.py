"""How much each app uses on a Neo4j server, from its own counters and, on the same machine, its folder."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from multidb.model import App, AppUsage, ServerUsage, StoreContext
from multidb.provisioners.neo4j.driver.connection import Bolt
from multidb.provisioners.neo4j.provision.resources import Mode, Neo4jFacts, database_name, mode, user_names

__all__ = ["usage"]

_LISTED: Final = 10  # labels, at the most
_SETTINGS: Final = "SHOW SETTINGS 'server.directories.data', 'server.bolt.thread_pool_max_size' YIELD name, value"
_COUNTS: Final = "CALL db.stats.retrieve('GRAPH COUNTS') YIELD data RETURN data"
_KEYS: Final = "CALL db.propertyKeys() YIELD propertyKey RETURN count(*) AS keys"
_NO_SIZE: Final = "Neo4j tells no sizes over Bolt; they are read from its folder where that is on this machine"
_SHARED: Final = "the size is the whole database's, which the apps share"


@dataclass(frozen=True, slots=True)
class _Graph:
    """What the count store has of one database; the server keeps it up to date, and it costs nothing to read."""

    nodes: int
    relationships: int
    labels: Mapping[str, int]
    types: frozenset[str]
    property_keys: int

    def counts(self) -> Mapping[str, float]:
        most = sorted(self.labels, key=lambda label: (-self.labels[label], label))[:_LISTED]
        return {
            "nodes": self.nodes,
            "relationships": self.relationships,
            "labels": len(self.labels),
            "relationship_types": len(self.types),
            "property_keys": self.property_keys,
            **{f"label {label}": self.labels[label] for label in most},
        }


def usage(bolt: Bolt, context: StoreContext, apps: Sequence[App]) -> ServerUsage:
    """What is used now: three questions for the server, two more for each database."""
    settings = {row["name"]: row["value"] for row in bolt.ask(_SETTINGS)}
    listed = bolt.ask("SHOW DATABASES YIELD name, currentStatus, serverID")
    users = Counter(row["username"] for row in bolt.ask("CALL dbms.listConnections() YIELD username"))
    data = _data_folder(settings, {row["serverID"] for row in listed})
    places = {app.id: _database(app, context) for app in apps}
    online = {row["name"] for row in listed if row["currentStatus"] == "online"}
    graphs = {name: _read(bolt, name) for name in sorted(online.intersection(places.values()))}
    sizes = {name: _bytes(data, name) for name in graphs}
    shared = mode(context) is Mode.LABEL
    limit = settings.get("server.bolt.thread_pool_max_size", "")
    known = [size for size in sizes.values() if size is not None]

    def of(app: App) -> AppUsage:
        connections, place = sum(users[user] for user in user_names(app.id)), places[app.id]
        if place not in graphs:
            return AppUsage(connections=connections, notes=(f"database {place} is not online",))
        if shared:
            return AppUsage(connections=connections, counts={"nodes": graphs[place].labels.get(app.id, 0)})
        return AppUsage(size=sizes[place], connections=connections, counts=graphs[place].counts())

    return ServerUsage(
        size=sum(known) if known else None,
        connections=users.total(),
        connection_limit=int(limit) if limit.isdigit() else None,
        apps={app.id: of(app) for app in apps},
        notes=(*((_SHARED,) if shared else ()), *(() if data else (_NO_SIZE,))),
    )


def _database(app: App, context: StoreContext) -> str:
    facts = Neo4jFacts.of(context.facts)
    return database_name(app.id) if mode(context) is Mode.DATABASE else facts.default_database


def _read(bolt: Bolt, database: str) -> _Graph:
    data: dict[str, Any] = bolt.ask(_COUNTS, database)[0]["data"]
    nodes, relationships = data["nodes"], data["relationships"]
    return _Graph(
        next(row["count"] for row in nodes if "label" not in row),
        next(row["count"] for row in relationships if "relationshipType" not in row),
        {row["label"]: row["count"] for row in nodes if "label" in row and row["count"]},
        frozenset(row["relationshipType"] for row in relationships if "relationshipType" in row and row["count"]),
        bolt.ask(_KEYS, database)[0]["keys"],
    )


def _data_folder(settings: Mapping[str, str], servers: set[str]) -> Path | None:
    """The server's data folder, if it is on this machine: the file ``server_id`` in it has to name this very server,
    since a path of another machine, or of a container, may exist here too."""
    folder = Path(settings.get("server.directories.data") or "/nowhere")
    try:
        content = (folder / "server_id").read_bytes()
    except OSError:
        return None
    own = len(content) == 17 and str(uuid.UUID(bytes=content[1:])) in servers  # one byte for the version, then the id
    return folder if own else None


def _bytes(data: Path | None, database: str) -> int | None:
    """What a database takes on the disk, its transaction logs included; None where the folder cannot be read."""
    if data is None:
        return None
    folders = [data / "databases" / database, data / "transactions" / database]
    try:
        return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    except OSError:
        return None
