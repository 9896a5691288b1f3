"""Qdrant's access by tokens as its documentation describes it, in front of the client library's local mode.

No substitute for the real server, which the contract suite asks where there is one: it lets in whom the documentation
says that it lets in, and answers with the words and codes that were read from 1.18 (an app's token opens its own
collections, and nothing once its entry in the registry is gone). What it can show is that what is sent to a server
turns the right tokens on and off.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jwt
from qdrant_client import models

from multidb.model import Endpoint, Server
from multidb.provisioners.qdrant.driver.transport import Folder, Reply
from multidb.provisioners.qdrant.provision.statements import Call
from multidb.secrets import Secret

LEEWAY = 30  # seconds for which a token that has ended is still taken


class TokenServer:
    """The server itself; `Connection` speaks to it."""

    def __init__(self, folder: Path, key: str) -> None:
        self.key = key
        self._folder = Folder(Server("local", "qdrant", Endpoint(path=str(folder))))
        self._indexes: dict[str, dict[str, Any]] = {}
        self._made: dict[str, Mapping[str, Any]] = {}
        self._turn = threading.Lock()

    def close(self) -> None:
        self._folder.close()

    def answer(self, call: Call, key: str) -> Reply:
        with self._turn:
            if call.target == "/":
                return Reply(200, {"title": "qdrant - vector search engine", "version": "1.18.3"})
            if not key:
                return Reply(401, None, "Must provide an API key or an Authorization bearer token")
            if key == self.key:
                return self._done(call)
            return self._as_token(call, key)

    def _as_token(self, call: Call, token: str) -> Reply:
        try:
            claims = jwt.decode(token, self.key, algorithms=["HS256"], leeway=LEEWAY)
        except jwt.ExpiredSignatureError:
            return Reply(403, None, "ExpiredSignature")
        except jwt.InvalidTokenError:
            return Reply(401, None, "Invalid API key or JWT")
        if (asked := claims.get("value_exists")) is not None and not self._exists(asked):
            return Reply(401, None, "Invalid JWT, stateful validation failed")
        opens = {entry["collection"] for entry in claims["access"]}
        path = urlsplit(call.target).path
        if path == "/collections":
            names = self._done(call).result["collections"]
            return Reply(200, {"collections": [entry for entry in names if entry["name"] in opens]})
        name, _, rest = path.removeprefix("/collections/").partition("/")
        if unquote(name) not in opens:
            return Reply(403, None, f"Access to collection {name} is required")
        if rest.startswith("points") or (call.verb == "GET" and not rest):
            return self._done(call)
        return Reply(403, None, "Global access is required")

    def _exists(self, asked: Mapping[str, Any]) -> bool:
        must = [{"key": match["key"], "match": {"value": match["value"]}} for match in asked["matches"]]
        return bool(self._chosen(asked["collection"], {"must": must}))

    def _chosen(self, name: str, conditions: Mapping[str, Any]) -> list[Any]:
        """The points of a collection that a filter chooses, as the library chooses them."""
        client = self._folder._client
        if not client.collection_exists(name):
            return []
        return client.scroll(name, models.Filter.model_validate(conditions), limit=1_000)[0]

    def _done(self, call: Call) -> Reply:
        """What the administrator gets. Local mode keeps no indexes: they are kept here."""
        name, _, rest = urlsplit(call.target).path.removeprefix("/collections/").partition("/")
        if rest == "index" and call.verb == "PUT":
            schema = call.body["field_schema"]
            kind = schema["type"] if isinstance(schema, dict) else schema
            params = {"is_tenant": True} if isinstance(schema, dict) else {}
            entry = {"data_type": kind, "params": params, "points": 0}
            self._indexes.setdefault(name, {})[call.body["field_name"]] = entry
            return Reply(200, {})
        if call.target.startswith("/telemetry"):
            names = [entry["name"] for entry in self._asked("/collections")["collections"]]
            entries = [{"id": name, "config": self._asked(f"/collections/{name}")["config"]} for name in names]
            return Reply(200, {"collections": {"collections": entries}})
        if (conditions := call.body.get("filter")) is not None:
            chosen = self._chosen(name, conditions)
            if rest == "points/delete":
                self._folder._client.delete(name, [point.id for point in chosen])
                return Reply(200, {})
            points = [point.model_dump(mode="json", include={"id", "payload"}) for point in chosen]
            return Reply(200, {"points": points, "next_page_offset": None})
        if call.target == "/snapshots" or rest == "snapshots":
            return Reply(200, [])
        reply = self._folder.send(call)
        if call.verb == "PUT" and not rest:
            self._made[name] = call.body
        if call.verb == "GET" and not rest and reply.fine and call.target != "/collections":
            return Reply(200, self._described(name, reply.result))
        return reply

    def _asked(self, target: str) -> Any:
        return self._folder.send(Call("GET", target, {})).result

    def _described(self, name: str, details: Mapping[str, Any]) -> Mapping[str, Any]:
        """With what local mode forgets of how a collection was made."""
        made = self._made.get(name, {})
        config = dict(details["config"])
        params = {key: made[key] for key in ("on_disk_payload", "replication_factor", "shard_number") if key in made}
        config["params"] = {**config["params"], **params}
        config["optimizer_config"] = {**config["optimizer_config"], **made.get("optimizers_config", {})}
        return {**details, "config": config, "payload_schema": self._indexes.get(name, {})}


class Connection:
    """In the place of the HTTP client of one login."""

    several = True

    def __init__(self, server: TokenServer, key: Secret | None) -> None:
        self._server, self._key = server, key

    def send(
        self, call: Call, *, key: Secret | None = None, seconds: float | None = None, most: int | None = None
    ) -> Reply:
        chosen = self._key if key is None else key
        return self._server.answer(call, chosen.reveal() if chosen is not None else "")

    def close(self) -> None: ...


def ended(days: float) -> int:
    """A moment so many days ago, in seconds since 1970."""
    return int(time.time() - days * 86_400)
