"""What is on one Qdrant: names, descriptions, aliases, snapshots, admitted tokens. Only reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from multidb.model import Server
from multidb.provisioners.qdrant.driver.transport import AT_ONCE, Reply, Transport, expect
from multidb.provisioners.qdrant.provision.live import UNLOADED
from multidb.provisioners.qdrant.provision.resources import OWN_PREFIX, admission_id, app_of
from multidb.provisioners.qdrant.provision.statements import Call, of_app, path_of
from multidb.secrets import redact

__all__ = ["Catalog"]

Answer = TypeVar("Answer")

REGISTRIES = f"{OWN_PREFIX}tokens__"  # what every project's registry is called, before the project's name
_PAGE = 1_000  # points in one answer


class Catalog:
    """Reads one Qdrant. Questions about several collections are asked side by side, except of local mode."""

    def __init__(self, server: Server, transport: Transport) -> None:
        self._server = server
        self._transport = transport

    def names(self) -> list[str]:
        """Every collection, sorted."""
        return sorted(str(entry["name"]) for entry in self._get("/collections")["collections"])

    def described(self, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """What the server says of each collection (``GET /collections/<name>``), without those that are gone. Of one
        whose points it could not load, as when it was killed while it took a snapshot in, only `config`, as in
        `configured`, and why (`UNLOADED`)."""
        answers = self._of_all(self._details, names)
        return {name: details for name, details in zip(names, answers, strict=True) if details is not None}

    def configured(self) -> dict[str, Mapping[str, Any]]:
        """Every collection with its configuration and metadata (`config`, as in `described`): one call, and one more
        for each that the server does not tell of in that."""
        names = self.names()
        if not self._transport.several:
            return self.described(names)
        entries = self._configurations()
        missing = self.described([name for name in names if name not in entries])
        return {name: entries.get(name) or missing[name] for name in names if name in entries or name in missing}

    def _configurations(self) -> dict[str, Mapping[str, Any]]:
        collections = self._get("/telemetry?details_level=2")["collections"].get("collections") or []
        return {str(entry["id"]): entry for entry in collections if isinstance(entry.get("config"), Mapping)}

    def _details(self, name: str) -> Mapping[str, Any] | None:
        reply = self._transport.send(Call("GET", path_of(name), {}))
        if reply.status == 404:
            return None
        if reply.status == 500 and (entry := self._configurations().get(name)) is not None:
            return {"config": entry["config"], UNLOADED: redact(reply.error)}
        details: Mapping[str, Any] = expect(self._server, reply).result
        return details

    def aliases(self) -> dict[str, str]:
        """Alias -> collection."""
        return {str(entry["alias_name"]): str(entry["collection_name"]) for entry in self._get("/aliases")["aliases"]}

    def snapshots(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The names of the snapshots that the server keeps of each collection; none in local mode."""
        if not self._transport.several:
            return {}
        snapshots = self._of_all(lambda name: self._get_if_there(f"{path_of(name)}/snapshots"), names)
        return {
            name: tuple(sorted(str(entry["name"]) for entry in entries))
            for name, entries in zip(names, snapshots, strict=True)
            if entries
        }

    def whole_snapshots(self) -> tuple[str, ...]:
        """The names of the snapshots of everything that the server keeps; none in local mode."""
        if not self._transport.several:
            return ()
        return tuple(sorted(str(entry["name"]) for entry in self._get("/snapshots")))

    def present(self, collection: str, ids: Iterable[str]) -> set[str]:
        """Which of these points are in the collection; none where there is no such collection."""
        points = list(ids)
        body = {"ids": points, "with_payload": False, "with_vector": False}
        reply = self._transport.send(Call("POST", f"{path_of(collection)}/points", body))
        if reply.status == 404 or not points:
            return set()
        return {str(entry["id"]) for entry in expect(self._server, reply).result}

    def admitted(self, registry: str, app_id: str | None = None) -> dict[str, str]:
        """The points of a registry, by which tokens are let in, and what the token of each is called; none where there
        is no such collection.

        Args:
            app_id: only those of this app.
        """
        return self._entries(registry, of_app(app_id) if app_id is not None else None)

    def rotated(self) -> tuple[tuple[str, str], ...]:
        """Of the apps that have a token of a rotation, in any project, the tokens that are let in: the registry, and
        what the token is called there."""
        rotated: list[tuple[str, str]] = []
        for registry in (name for name in self.names() if name.startswith(REGISTRIES)):
            entries = self._entries(registry, {"must_not": [{"is_empty": {"key": "of"}}]})
            tokens = {token for token in entries.values() if app_of(token) != token}
            firsts = {admission_id(registry, app): app for app in map(app_of, tokens)}
            tokens |= {firsts[point] for point in self.present(registry, firsts)} if firsts else set()
            rotated += [(registry, token) for token in sorted(tokens)]
        return tuple(rotated)

    def _entries(self, registry: str, chosen: Mapping[str, Any] | None) -> dict[str, str]:
        admitted: dict[str, str] = {}
        offset = None
        while True:
            body = {"with_payload": ["app", "token"], "with_vector": False, "limit": _PAGE, "offset": offset}
            body |= {"filter": chosen} if chosen is not None else {}
            reply = self._transport.send(Call("POST", f"{path_of(registry)}/points/scroll", body))
            if reply.status == 404:
                return admitted
            page = expect(self._server, reply).result
            payloads = {str(entry["id"]): entry.get("payload") or {} for entry in page["points"]}
            tokens = {point: payload.get("app") or payload.get("token") for point, payload in payloads.items()}
            admitted |= {point: token for point, token in tokens.items() if isinstance(token, str) and token}
            offset = page.get("next_page_offset")
            if offset is None:
                return admitted

    def operations(self) -> dict[str, int]:
        """How many operations each collection has taken; without those whose server does not count them. Two equal
        numbers mean that nothing was written in between. Nothing in local mode, whose folder only one can have."""
        if not self._transport.several:
            return {}
        operations: dict[str, int] = {}
        for entry in self._get("/telemetry?details_level=6")["collections"]["collections"]:
            queues = [(shard.get("local") or {}).get("update_queue") or {} for shard in entry["shards"]]
            if queues and all("op_num" in queue for queue in queues):
                operations[str(entry["id"])] = sum(int(queue["op_num"]) for queue in queues)
        return operations

    def _get(self, target: str) -> Any:
        return expect(self._server, self._transport.send(Call("GET", target, {}))).result

    def _get_if_there(self, target: str) -> Any:
        reply: Reply = self._transport.send(Call("GET", target, {}))
        return None if reply.status == 404 else expect(self._server, reply).result

    def _of_all(self, ask: Callable[[str], Answer], names: Sequence[str]) -> list[Answer]:
        if not self._transport.several or len(names) < 2:
            return [ask(name) for name in names]
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="qdrant") as pool:
            return list(pool.map(ask, names))
