"""Postgres plans as text, to be read in review. `MULTIDB_UPDATE_GOLDEN=1` writes them anew.

Versions that no test can run (13, 14) are here too: what is sent differs by version and by the admin's rights.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from multidb.model import App, StoreContext
from multidb.plan import diff
from multidb.provisioners.postgres import PROVISIONER
from multidb.provisioners.postgres.provision.options import AppOptions
from multidb.provisioners.postgres.provision.quoting import identifier
from multidb.provisioners.postgres.provision.resources import Extension, PostgresFacts, ServerDatabaseFacts

EXTENSIONS = {"ltree": Extension("1.3", True, None), "vector": Extension("0.8", False, None)}


def facts(number: int, superuser: bool) -> PostgresFacts:
    admin = "postgres" if superuser else "plat"
    return PostgresFacts(
        product="PostgreSQL",
        version=str(number // 10000),
        number=number,
        admin=admin,
        superuser=superuser,
        createrole=True,
        createdb=True,
        server_databases=(ServerDatabaseFacts("postgres", admin, open=True, closable=True),),
        extensions=EXTENSIONS,
    )


@pytest.mark.parametrize(
    ("name", "number", "superuser", "options"),
    [
        ("postgres_13", 130000, True, {}),
        ("postgres_14_split", 140000, True, {"roles": "split", "statement_timeout": "5s"}),
        ("postgres_15_createrole", 150018, False, {"extensions": ("ltree",)}),
        ("postgres_16_createrole_split", 160014, False, {"roles": "split"}),
        ("postgres_18", 180006, True, {"extensions": ("ltree", "vector"), "locale": "C.UTF-8"}),
    ],
)
def test_a_fresh_plan(name: str, number: int, superuser: bool, options: dict[str, object]) -> None:
    context = StoreContext("digi", facts(number, superuser), PROVISIONER.server_options())
    apps = [App("lernmi", "lernmi", {"postgres": AppOptions(**options)}), App("two", "two", {"postgres": AppOptions()})]
    lines: list[str] = []
    scope = ""
    for change in diff(PROVISIONER.desired(apps, context), []):
        for statement in PROVISIONER.statements(change, context):
            if statement.scope != scope:
                scope = statement.scope
                lines.append(f"\n\\connect {identifier(scope)}")
            lines.append(f"{statement.text};")
    text = "\n".join(lines) + "\n"
    golden = Path(__file__).with_name(f"{name}.sql")
    if os.environ.get("MULTIDB_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
