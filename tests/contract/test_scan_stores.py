"""Graphs and collections that nobody wrote down, and the manifest that `multidb import --scan` makes of them. On real
servers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract import case_neo4j
from tests.contract.qdrant_sources import create, some_place
from tests.support.case import RealServer
from tests.support.command import Folder, project_folder

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

COLLECTIONS: dict[str, dict[str, Any]] = {
    "shop_docs": {"vectors": {"size": 4, "distance": "Dot"}},
    "shop_pages": {
        "vectors": {"title": {"size": 3, "distance": "Cosine"}, "body": {"size": 2, "distance": "Manhattan"}},
        "sparse_vectors": {"words": {"modifier": "idf"}},
    },
    "crm_words": {"vectors": {}, "sparse_vectors": {"words": {}}},
    "crm_rows": {"vectors": {"size": 8, "distance": "Euclid", "multivector_config": {"comparator": "max_sim"}}},
    "crm_half": {"vectors": {"size": 8, "distance": "Euclid", "datatype": "float16"}},
    "plain": {"vectors": {"size": 4, "distance": "Dot"}},
    "Odd-Name_\x1b[31m": {"vectors": {"size": 4, "distance": "Dot"}},
}


ENTRIES = {
    "crm": {
        "stores": ["qdrant"],
        "mode": "observe",
        "qdrant": {
            "collections": {
                "half": {"size": 8, "distance": "euclid", "datatype": "float16"},
                "words": {"sparse": {"words": {}}},
            }
        },
    },
    "shop": {
        "stores": ["qdrant"],
        "mode": "observe",
        "qdrant": {
            "collections": {
                "docs": {"size": 4, "distance": "dot"},
                "pages": {
                    "vectors": {
                        "title": {"size": 3, "distance": "cosine"},
                        "body": {"size": 2, "distance": "manhattan"},
                    },
                    "sparse": {"words": {"modifier": "idf"}},
                },
            }
        },
    },
}


@contextlib.contextmanager
def taking(external: str, apps: str = "") -> Iterator[Folder]:
    """A project that knows where a server is, and of no app."""
    manifest = f"version: 1\nproject: taking\nruntime: external\nexternal:\n  {external}\napps:\n{apps}"
    with project_folder("taking-", manifest) as folder:
        yield folder


def reasons(document: dict[str, Any]) -> dict[str, str]:
    return {
        place["name"]: place["reason"]
        for server in document["servers"]
        for place in server["places"]
        if place["reason"]
    }


@pytest.mark.parametrize("kind", ["local", "server"])
def test_collections_become_apps_whose_plan_changes_nothing(kind: str, tmp_path: Path) -> None:
    with some_place(kind, tmp_path / "there") as real:
        for name, body in COLLECTIONS.items():
            create(real, name, body)
        with taking(f"qdrant: {address(real)}") as folder:
            with_password(folder, real)
            document = folder.ok("import", "--scan", "--json").json()
            assert real.admin is None or real.admin.reveal() not in str(document)
            assert document["entries"] == ENTRIES
            assert list(reasons(document)) == ["Odd-Name_\x1b[31m", "crm_rows", "plain"]
            assert "is not called <app>_<type>" in reasons(document)["plain"]
            assert "\x1b" not in folder.ok("import", "--scan").out
            folder.ok("import", "--scan", "--write", "multidb.yaml")
            planned = folder.ok("plan", "--check", "--json").json()
            assert planned["changes"] == []
            folder.ok("apply", "--yes")
            again = folder.ok("import", "--scan", "--json").json()
            assert (again["entries"], again["managed"]) == ({}, ["crm", "shop"])
            # What the entries say is what is there: taken over, no collection is in the way.
            manifest = folder.path / "multidb.yaml"
            manifest.write_text(manifest.read_text().replace(", mode: observe", "").replace("mode: observe", ""))
            adopted = folder.ok("apply", "--adopt", "shop", "--adopt", "crm", "--yes", "--json").json()
            assert adopted["plan"]["counts"]["conflict"] == 0
            assert len([one for one in adopted["plan"]["changes"] if one["kind"] == "collection"]) == 4
            folder.ok("plan", "--check")


def address(real: RealServer) -> str:
    endpoint = real.server.endpoint
    if endpoint.path:
        return f"{{path: {endpoint.path}}}"
    return f'{{url: "http://{endpoint.host}:{endpoint.port}", password: {{file: password}}}}'


def neo4j_address(real: RealServer) -> str:
    endpoint = real.server.endpoint
    return f'{{url: "bolt://neo4j@{endpoint.host}:{endpoint.port}", password: {{file: password}}}}'


def with_password(folder: Folder, real: RealServer) -> None:
    if real.admin is not None:
        (folder.path / "password").write_text(real.admin.reveal())
        (folder.path / "password").chmod(0o600)


def test_the_graph_of_a_community_server_is_said_and_is_no_app(
    neo4j_servers: tuple[RealServer, RealServer],
) -> None:
    real, _ = neo4j_servers
    case_neo4j.emptied(real)
    assert real.admin is not None
    with taking(f"neo4j: {neo4j_address(real)}") as folder:
        with_password(folder, real)
        empty = folder.ok("import", "--scan", "--json").json()
        assert (empty["entries"], reasons(empty), empty["servers"][0]["error"]) == ({}, {}, None)
        assert empty["servers"][0]["product"].startswith("Neo4j ")
        case_neo4j.as_admin(real, "CREATE (:A), (:B)-[:TO]->(:C)", database="neo4j")
        document = folder.ok("import", "--scan", "--json").json()
        assert document["entries"] == {}
        assert reasons(document)["neo4j"].startswith("3 nodes; every session begins in it, so it is no app's own")
        assert real.admin.reveal() not in str(document)
        assert "Nothing there could be an app" in folder.ok("import", "--scan").out
        assert case_neo4j.as_admin(real, "MATCH (n) RETURN count(n) AS n", database="neo4j") == [{"n": 3}]


def test_a_graph_of_an_app_of_another_manifest_is_its_own(neo4j_servers: tuple[RealServer, RealServer]) -> None:
    real, _ = neo4j_servers
    case_neo4j.emptied(real)
    assert real.admin is not None
    with taking(f"neo4j: {neo4j_address(real)}", "  own: {stores: [neo4j]}\n") as theirs:
        with_password(theirs, real)
        theirs.ok("apply", "--yes")
        managed = theirs.ok("import", "--scan", "--json").json()
        assert (managed["entries"], managed["managed"]) == ({}, ["own"])
        manifest = theirs.path / "multidb.yaml"
        manifest.write_text(manifest.read_text().replace("project: taking", "project: other").replace("own:", "new:"))
        document = theirs.ok("import", "--scan", "--json").json()
        assert (document["entries"], document["managed"]) == ({}, [])
        assert reasons(document) == {"neo4j": "it belongs to taking/own, which another manifest manages"}
