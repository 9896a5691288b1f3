"""Neo4j's apps where the manifest wants another isolation than their data has: on real servers, by commands."""

from __future__ import annotations

from collections.abc import Iterator

import neo4j
import pytest

from tests.support.command import Folder, project_folder

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: places
runtime: embedded
backup: {{to: [sets/]}}
servers: {{neo4j: {{isolation: {isolation}}}}}
apps:
  ann: {{stores: [neo4j]}}
"""
LABEL, INSTANCE = MANIFEST.format(isolation="label"), MANIFEST.format(isolation="instance")


@pytest.fixture
def folder() -> Iterator[Folder]:
    with project_folder("neo4j-places-", INSTANCE) as made:
        yield made


def asked(folder: Folder, cypher: str) -> list[object]:
    variables = folder.variables("ann")
    login = variables["NEO4J_USER"], variables["NEO4J_PASSWORD"]
    with neo4j.GraphDatabase.driver(variables["NEO4J_URI"], auth=login) as driver:
        return [record[0] for record in driver.execute_query(cypher).records]


def test_an_app_is_not_sent_to_an_empty_server_and_takes_its_data_along_as_said(folder: Folder) -> None:
    """It had an empty place without a word, beside the server that had its data."""
    folder.ok("up")
    folder.ok("apply", "--yes")
    asked(folder, "CREATE (:Note {text: 'of ann'})")

    folder.manifest(LABEL)
    for command in (("up",), ("plan",)):
        refused = folder.run(*command)
        said = " ".join((refused.out + refused.err).split())
        assert (refused.code != 0, "data is on neo4j-ann" in said) == (True, True), refused
    folder.manifest(INSTANCE)
    folder.ok("up")
    assert asked(folder, "MATCH (n:Note) RETURN n.text") == ["of ann"]

    # as the hint says
    folder.ok("backup", "ann")
    folder.ok("down")
    folder.manifest(LABEL)
    folder.ok("up", "--switch", "neo4j")
    folder.ok("apply", "--yes")
    (made, *_) = folder.ok("backups", "list", "ann", "--json").json()["sets"]
    folder.ok("restore", made["set"])
    assert asked(folder, "MATCH (n:Note) RETURN n.text") == ["of ann"]
    folder.ok("plan", "--check")

    # back again, where the data was before: a new app is no reason to ask
    folder.ok("down")
    folder.manifest(INSTANCE + "  bob: {stores: [neo4j]}\n")
    folder.ok("up")
    folder.ok("apply", "--yes")
    folder.ok("plan", "--check")
