"""Libraries around vectors, in an environment of their own, with an app's token on a real Qdrant server."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Folder, program_output, project_folder

pytestmark = [pytest.mark.server, pytest.mark.rare, pytest.mark.timeout(600)]

PACKAGES = ("langchain-qdrant", "llama-index-vector-stores-qdrant", "langchain-core")
MANIFEST = """\
version: 1
project: vectors
runtime: embedded
servers: {{qdrant: {{binary: {binary}}}}}
apps:
  ann: {{stores: [qdrant], qdrant: {{collections: {{docs: {{size: 4, distance: cosine}}}}}}}}
  bob: {{stores: [qdrant], qdrant: {{collections: {{docs: {{size: 4, distance: cosine}}}}}}}}
"""

LANGCHAIN = """\
import os
from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

class Letters(Embeddings):
    def embed_query(self, text):
        return [float(text.count(letter) + 1) for letter in "abcd"]
    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]

client = QdrantClient(os.environ["QDRANT_URL"], api_key=os.environ["QDRANT_API_KEY"])
tenant = os.environ["APP_TENANT_ID"]
store = QdrantVectorStore(client, os.environ["QDRANT_COLLECTION_PREFIX"] + "docs", Letters())
store.add_texts(["aaaa", "dddd"], [{"tenant_id": tenant}, {"tenant_id": tenant}])
store.add_texts(["aaab"], [{"tenant_id": "another"}])
own = models.Filter(must=[models.FieldCondition(key="metadata.tenant_id", match=models.MatchValue(value=tenant))])
print([document.page_content for document in store.similarity_search("aaa", k=2, filter=own)])
store.delete([point.id for point in client.scroll(store.collection_name)[0]])
print(client.count(store.collection_name).count)
"""
LLAMA_INDEX = """\
import os
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

client = QdrantClient(os.environ["QDRANT_URL"], api_key=os.environ["QDRANT_API_KEY"])
store = QdrantVectorStore(os.environ["QDRANT_COLLECTION_PREFIX"] + "docs", client=client, dense_vector_name="")
tenant = os.environ["APP_TENANT_ID"]
texts = {"aaaa": [4.0, 1.0, 1.0, 1.0], "dddd": [1.0, 1.0, 1.0, 4.0]}
store.add([TextNode(text=text, embedding=vector, metadata={"tenant_id": tenant}) for text, vector in texts.items()])
own = MetadataFilters(filters=[MetadataFilter(key="tenant_id", value=tenant)])
found = store.query(VectorStoreQuery(query_embedding=[3.0, 1.0, 1.0, 1.0], similarity_top_k=1, filters=own))
print([node.get_content() for node in found.nodes])
"""
FORBIDDEN = """\
import os, sys
from qdrant_client import QdrantClient
client = QdrantClient(os.environ["QDRANT_URL"], api_key=os.environ["QDRANT_API_KEY"])
try:
    print(client.count(sys.argv[1]).count)
except Exception as error:
    print(getattr(error, "status_code", error))
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    binary = os.environ.get("MULTIDB_TEST_QDRANT", "") or shutil.which("qdrant") or ""
    if not Path(binary).is_file():
        pytest.skip("no Qdrant server: MULTIDB_TEST_QDRANT names no binary")
    with project_folder("vectors-", MANIFEST.format(binary=binary)) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the libraries and without multidb."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    there = tmp_path_factory.mktemp("libraries") / "venv"
    program_output([uv, "venv", "--quiet", there], there.parent)
    program_output([uv, "pip", "install", "--quiet", "--python", there, *PACKAGES], there.parent)
    return there / "bin" / "python"


def ran(folder: Folder, python: Path, program: str, *arguments: str, app: str = "ann") -> list[str]:
    return program_output([python, "-c", program, *arguments], folder.path, folder.variables(app)).splitlines()


def test_langchain_adds_searches_and_deletes(folder: Folder, python: Path) -> None:
    assert ran(folder, python, LANGCHAIN) == ["['aaaa', 'dddd']", "0"]


def test_llama_index_adds_and_searches(folder: Folder, python: Path) -> None:
    assert ran(folder, python, LLAMA_INDEX, app="bob") == ["['aaaa']"]


def test_another_apps_collection_is_refused(folder: Folder, python: Path) -> None:
    assert ran(folder, python, FORBIDDEN, "bob_docs") == ["403"]
    assert ran(folder, python, FORBIDDEN, "bob_docs", app="bob") != ["403"]
