"""Qdrant's plans as text, to be read in review. `MULTIDB_UPDATE_GOLDEN=1` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from multidb.model import App, StoreContext
from multidb.plan import diff
from multidb.provisioners.qdrant import PROVISIONER
from multidb.provisioners.qdrant.provision.options import AppOptions, ServerOptions
from multidb.provisioners.qdrant.provision.resources import QdrantFacts

RICH = {
    "knowledge": {"size": 1536, "distance": "cosine", "on_disk": True, "quantization": {"type": "scalar"}},
    "pages": {
        "vectors": {"title": {"size": 384, "distance": "dot"}, "body": {"size": 1024}},
        "sparse": {"words": {"modifier": "idf"}},
        "hnsw": {"m": 0, "payload_m": 16},
        "strict": {"max_query_limit": 100, "unindexed_filtering_retrieve": False},
        "indexes": {"lang": "keyword", "created": "datetime"},
    },
}
SERVER = QdrantFacts("Qdrant", "1.18.3", api_key=True, rbac=True)
KEY_ONLY = QdrantFacts("Qdrant", "1.18.3", api_key=True)
LOCAL = QdrantFacts("Qdrant local mode", "1.20.0", local=True)


@pytest.mark.parametrize(
    ("name", "facts"),
    [("qdrant_server", SERVER), ("qdrant_shared_key", KEY_ONLY), ("qdrant_local", LOCAL)],
)
def test_a_fresh_plan(name: str, facts: QdrantFacts) -> None:
    context = StoreContext("digi", facts, ServerOptions(share_api_key=True))
    apps = [
        App("digi_core", "digi-core", {"qdrant": AppOptions(collections=RICH)}),
        App("lernmi", "lernmi", {"qdrant": AppOptions()}),
    ]
    changes = diff(PROVISIONER.desired(apps, context), [])
    text = "\n\n".join(s.text for change in changes for s in PROVISIONER.statements(change, context)) + "\n"
    golden = Path(__file__).with_name(f"{name}.http")
    if os.environ.get("MULTIDB_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
