"""How much each app has on one Qdrant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from multidb.model import App, AppUsage, Owner, Server, ServerUsage, StoreContext
from multidb.provisioners.qdrant.driver.transport import Transport, expect
from multidb.provisioners.qdrant.provision.catalog import Catalog
from multidb.provisioners.qdrant.provision.resources import owner_of
from multidb.provisioners.qdrant.provision.statements import Call

__all__ = ["usage"]

_LARGEST: Final = 10
_FLOAT: Final = 4  # bytes
_PAYLOAD: Final = 256  # bytes of payload and bookkeeping that a point is reckoned with where nobody measures
_COUNTED: Final = "bytes of vectors and payloads as the server counts them; indexes, logs and snapshots are not in it"
_RECKONED: Final = f"local mode measures nothing: {_FLOAT} bytes a component, {_PAYLOAD} bytes a point"


@dataclass(frozen=True, slots=True)
class _Size:
    points: int
    vectors: int
    indexed: int
    segments: int
    size: int


def usage(server: Server, transport: Transport, context: StoreContext, apps: Sequence[App]) -> ServerUsage:
    """What each of `apps` has, by the marks of its collections: on a server one call for all of them (telemetry)."""
    local = not transport.several
    measured = _reckoned(server, transport) if local else _measured(server, transport)
    sizes: dict[Owner | None, dict[str, _Size]] = {}
    for name, owner, size in measured:
        sizes.setdefault(owner, {})[name] = size
    note = _RECKONED if local else _COUNTED
    return ServerUsage(
        size=sum(size.size for named in sizes.values() for size in named.values()),
        apps={app.id: _app(sizes.get(Owner(context.project, app.id), {}), note, local) for app in apps},
        notes=(note,),
    )


def _app(sizes: Mapping[str, _Size], note: str, local: bool) -> AppUsage:
    largest = sorted(((name, size.size) for name, size in sizes.items()), key=lambda pair: (-pair[1], pair[0]))
    counts = {
        "points": sum(size.points for size in sizes.values()),
        "vectors": sum(size.vectors for size in sizes.values()),
        "indexed_vectors": sum(size.indexed for size in sizes.values()),
        "segments": sum(size.segments for size in sizes.values()),
        "collections": len(sizes),
    }
    return AppUsage(
        size=sum(size.size for size in sizes.values()),
        estimated=local,
        counts=counts,
        largest=tuple(largest[:_LARGEST]),
        notes=(note,),
    )


def _measured(server: Server, transport: Transport) -> Iterable[tuple[str, Owner | None, _Size]]:
    reply = expect(server, transport.send(Call("GET", "/telemetry?details_level=6", {})))
    for entry in reply.result["collections"]["collections"]:
        local = [shard.get("local") or {} for shard in entry["shards"]]
        shards = [shard for shard in local if "segments" in shard]  # of one that could not be loaded nothing is known
        segments = [segment["info"] for shard in shards for segment in shard["segments"]]
        size = _Size(
            points=sum(shard["num_points"] for shard in shards),
            vectors=sum(shard["num_vectors"] for shard in shards),
            indexed=sum(segment["num_indexed_vectors"] for segment in segments),
            segments=len(segments),
            size=sum(shard["vectors_size_bytes"] + shard["payloads_size_bytes"] for shard in shards),
        )
        yield str(entry["id"]), owner_of(entry), size


def _reckoned(server: Server, transport: Transport) -> Iterable[tuple[str, Owner | None, _Size]]:
    catalog = Catalog(server, transport)
    for name, details in catalog.described(catalog.names()).items():
        points = int(details["points_count"] or 0)
        dense = _dense(details["config"]["params"].get("vectors") or {})
        components = sum(int(vector["size"]) for vector in dense)
        size = points * (components * _FLOAT + _PAYLOAD)
        yield name, owner_of(details), _Size(points, points * len(dense), 0, int(details["segments_count"]), size)


def _dense(vectors: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [vectors] if isinstance(vectors.get("size"), int) else list(vectors.values())
