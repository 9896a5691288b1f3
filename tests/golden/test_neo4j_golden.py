"""Neo4j's plans as text, to be read in review. `MULTIDB_UPDATE_GOLDEN=1` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from multidb.model import App, StoreContext
from multidb.plan import diff
from multidb.provisioners.neo4j import PROVISIONER
from multidb.provisioners.neo4j.provision.options import AppOptions, ServerOptions
from multidb.provisioners.neo4j.provision.resources import Neo4jFacts, PublicRights

ENTERPRISE = Neo4jFacts("Neo4j", "2026.08.1", "enterprise", multi_database=True, roles=True)
COMMUNITY = Neo4jFacts("Neo4j", "2026.08.1")
OWN = Neo4jFacts("Neo4j", "2026.08.1", dedicated=True)


@pytest.mark.parametrize(
    ("name", "facts", "isolation", "apps"),
    [
        ("neo4j_enterprise", ENTERPRISE, "auto", ["lernmi", "beep_boop"]),
        ("neo4j_community", COMMUNITY, "auto", ["lernmi"]),
        ("neo4j_community_own", OWN, "auto", ["lernmi"]),
        ("neo4j_community_label", COMMUNITY, "label", ["lernmi", "beep_boop"]),
    ],
)
def test_a_fresh_plan(name: str, facts: Neo4jFacts, isolation: str, apps: list[str]) -> None:
    wanted = [App(app, app, {"neo4j": AppOptions()}) for app in apps]
    context = StoreContext("digi", facts, ServerOptions.model_validate({"isolation": isolation}))
    fresh = [PublicRights(name="PUBLIC", load=("GRANT LOAD ON ALL DATA TO `PUBLIC`",))] if facts.roles else []
    changes = diff(PROVISIONER.desired(wanted, context), fresh)
    sent = [statement for change in changes for statement in PROVISIONER.statements(change, context)]
    text = "".join(f"{statement.text};  // {statement.scope}\n" for statement in sent)
    golden = Path(__file__).with_name(f"{name}.cypher")
    if os.environ.get("MULTIDB_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
