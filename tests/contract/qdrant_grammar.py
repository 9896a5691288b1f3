"""Collections as people make them, by a seed: every kind of vector, index, limit and payload that the API has."""

from __future__ import annotations

import uuid
from random import Random
from typing import Any

_DISTANCES = ("Cosine", "Dot", "Euclid", "Manhattan")
_WORDS = ("", "word", "two words", "Größe", "日本語", "🙂", 'q"uo\\te', "line\nbreak", "\u2028", "a" * 300)
_KEYS = ("k", "n", "deep", "with space", "Ü", "a.b", "", "list", "tenant_id")
_NUMBERS = (0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.1, -0.0, 1e300, 5e-324, 10**30)
_INDEXES: tuple[dict[str, Any], ...] = (
    {"type": "keyword"},
    {"type": "keyword", "is_tenant": True},
    {"type": "keyword", "on_disk": True},
    {"type": "integer"},
    {"type": "integer", "lookup": True, "range": False},
    {"type": "integer", "lookup": False, "range": True, "on_disk": True},
    {"type": "integer", "is_principal": True},
    {"type": "float", "is_principal": True, "on_disk": True},
    {"type": "bool", "on_disk": True},
    {"type": "geo"},
    {"type": "geo", "on_disk": True},
    {"type": "datetime", "is_principal": True},
    {"type": "uuid", "is_tenant": True},
    {"type": "text"},
    {"type": "text", "tokenizer": "whitespace", "lowercase": False, "min_token_len": 1, "max_token_len": 20},
    {"type": "text", "tokenizer": "prefix", "on_disk": True},
    {"type": "text", "tokenizer": "multilingual", "phrase_matching": True, "ascii_folding": True},
    {"type": "text", "tokenizer": "word", "stopwords": "english"},
    {"type": "text", "stopwords": {"languages": ["german"], "custom": ["Größe", "x"]}},
    {"type": "text", "stemmer": {"type": "snowball", "language": "german"}},
)
_QUANTIZATIONS: tuple[dict[str, Any], ...] = (
    {"scalar": {"type": "int8"}},
    {"scalar": {"type": "int8", "quantile": 0.95, "always_ram": True}},
    {"product": {"compression": "x16", "always_ram": False}},
    {"binary": {"always_ram": True}},
    {"binary": {"encoding": "two_bits", "query_encoding": "scalar8bits"}},
)


def collection(random: Random, mark: dict[str, Any]) -> dict[str, Any]:
    """The body of a PUT that makes a collection."""
    named = random.random() < 0.8
    vectors = {name: _vector(random) for name in random.sample(("size", "a", "b ü", "c.d-e"), random.randint(0, 3))}
    body: dict[str, Any] = {"vectors": vectors if named else _vector(random)}
    if sparse := random.sample(("s", "words", "ß"), random.randint(0, 2)):
        body["sparse_vectors"] = {name: _sparse(random) for name in sparse}
    body["shard_number"] = random.choice((1, 1, 2))
    body["on_disk_payload"] = random.random() < 0.5
    body["wal_config"] = {"wal_capacity_mb": 1, "wal_segments_ahead": random.randint(0, 1), "wal_retain_closed": 2}
    body["optimizers_config"] = _some(
        random,
        deleted_threshold=0.3,
        vacuum_min_vector_number=500,
        default_segment_number=1,
        max_segment_size=5_000,
        memmap_threshold=1_000,
        indexing_threshold=7_000,
        flush_interval_sec=1,
        max_optimization_threads=1,
    )
    body["hnsw_config"] = _some(
        random, m=0, payload_m=16, ef_construct=50, full_scan_threshold=1_000, max_indexing_threads=1, on_disk=True
    )
    if random.random() < 0.5:
        body["quantization_config"] = random.choice(_QUANTIZATIONS)
    if random.random() < 0.7:
        body["strict_mode_config"] = {"enabled": random.random() < 0.7} | _some(
            random,
            max_query_limit=9,
            max_timeout=30,
            unindexed_filtering_retrieve=False,
            unindexed_filtering_update=False,
            search_allow_exact=False,
            upsert_max_batchsize=20,
            search_max_batchsize=3,
            max_points_count=60,
            filter_max_conditions=5,
            condition_max_size=50,
            max_payload_index_count=20,
            write_rate_limit=100_000,
            max_collection_payload_size_bytes=10**9,
        )
    body["metadata"] = mark | _some(random, note=_value(random, 2), empty={}, multi={"db": [1, 2.5, "x"]})
    return body


def indexes(random: Random) -> list[dict[str, Any]]:
    """The bodies that make a collection's payload indexes, with fields that points have and that none has."""
    fields = random.sample(
        ("k", "n", "deep.k", "list[].n", '"with space"', "Ü", "a.b", "nowhere"), random.randint(0, 6)
    )
    return [{"field_name": field, "field_schema": random.choice(_INDEXES)} for field in fields]


def points(random: Random, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Points for a collection that was made by `body`, few enough for its limits."""
    dense = body["vectors"]
    named = {"": dense} if isinstance(dense.get("size"), int) else dense
    found = []
    for number in {random.getrandbits(64) for _ in range(random.choice((0, 3, 19)))}:
        vectors: dict[str, Any] = {name: _components(random, each) for name, each in named.items()}
        for name in body.get("sparse_vectors", {}):
            at = random.sample(range(2**32), 4)
            vectors[name] = {"indices": at, "values": [random.uniform(-2, 2) for _ in at]}
        if "" in vectors:
            vectors[""], some = vectors[""], dict(vectors)
        else:
            some = {name: each for name, each in vectors.items() if random.random() < 0.8}
        identity = number if random.random() < 0.5 else str(uuid.UUID(int=number))
        payload = {key: _value(random, 3) for key in random.sample(_KEYS, random.randint(0, 5))}
        if random.random() < 0.3:
            payload["tenant_id"] = random.choice(("lernmi", "a customer"))
        found.append({"id": identity, "vector": some.get("") if set(some) == {""} else some, "payload": payload})
    return found


def _vector(random: Random) -> dict[str, Any]:
    found: dict[str, Any] = {"size": random.choice((1, 4, 16)), "distance": random.choice(_DISTANCES)}
    found |= _some(
        random,
        on_disk=True,
        hnsw_config={"m": 8, "ef_construct": 40},
        quantization_config=random.choice(_QUANTIZATIONS),
        datatype=random.choice(("float32", "float16", "uint8")),
        multivector_config={"comparator": "max_sim"},
        share=0.3,
    )
    return found


def _sparse(random: Random) -> dict[str, Any]:
    index = _some(random, on_disk=True, full_scan_threshold=77, datatype="float16")
    return _some(random, modifier="idf") | ({"index": index} if index else {})


def _components(random: Random, params: dict[str, Any]) -> Any:
    def one() -> list[float]:
        if params.get("datatype") == "uint8":
            # Two rows of whole numbers are a sparse vector to Qdrant 1.18: it takes a list for that structure's fields.
            return [float(random.randrange(256)) for _ in range(params["size"])]
        return [random.uniform(-1, 1) for _ in range(params["size"])]

    return [one() for _ in range(random.randint(1, 3))] if "multivector_config" in params else one()


def _value(random: Random, depth: int) -> Any:
    kind = random.randrange(8 if depth else 5)
    if kind == 0:
        return random.choice(_NUMBERS)
    if kind in (1, 2):
        return random.choice(_WORDS)
    if kind == 3:
        return random.choice((None, True, False, "2026-11-28T12:00:00Z", str(uuid.UUID(int=random.getrandbits(128)))))
    if kind == 4:
        return {"lon": 13.4, "lat": 52.5}
    if kind == 5:
        return [_value(random, depth - 1) for _ in range(random.randint(0, 3))]
    return {key: _value(random, depth - 1) for key in random.sample(_KEYS, random.randint(0, 3))}


def _some(random: Random, share: float = 0.5, **values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if random.random() < share}
