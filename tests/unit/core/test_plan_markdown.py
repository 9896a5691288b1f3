"""A plan as a comment: never longer than it may be, and nothing in it but what it says, whatever things are called."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from multidb.cli.plan_markdown import MARK, plan_markdown
from multidb.cli.plan_view import plan_sentence
from multidb.errors import ServerDown
from multidb.model import Action, Change, Finding, Level, Resource, Statement
from multidb.plan import Plan, ServerPlan
from multidb.secrets import Secret

HOSTILE = "x```\n</details><img src=y onerror=z>\n```\n# heading @everybody [a](javascript:b) \x1b[2J"


@dataclass(frozen=True, kw_only=True)
class Thing(Resource):
    kind: ClassVar[str] = "thing"
    rank: ClassVar[int] = 1


def change(name: str, *texts: str) -> Change:
    statements = tuple(Statement(text) for text in texts)
    return Change(
        Action.CREATE, Thing(name=name, app="ann"), None, store="postgres", server="one", statements=statements
    )


def server(name: str, *names: str) -> ServerPlan:
    return ServerPlan(name, "postgres", "PostgreSQL 18", changes=tuple(map(change, names)))


def fences(text: str) -> list[str]:
    """What is shown as it stands."""
    return [found[2] for found in re.finditer(r"^(`{3,})diff\n(.*?)\n\1$", text, re.MULTILINE | re.DOTALL)]


def test_a_section_for_each_server_that_has_something_to_say() -> None:
    quiet, down = ServerPlan("quiet", "redis"), ServerPlan("down", "redis", error=ServerDown("is away", hint="up"))
    away = ServerPlan("away", "qdrant", skipped="no such thing here")
    warned = (Finding(Level.WARNING, "app bob", "owns more than it may", "REVOKE it"),)
    text = plan_markdown(Plan("shop", (server("one", "a", "b"), quiet, down, away), warned), ["one: others lose it"])
    assert text.splitlines()[:2] == [MARK, "### multidb plan of shop"]
    assert "**Plan: 2 to create, 0 to update, 0 to remove.**" in text
    assert "<summary><b>one</b> (PostgreSQL 18): 2 changes</summary>" in text
    assert "<summary><b>down</b>: cannot be read</summary>" in text
    assert "<p><b>away</b>: skipped, no such thing here</p>" in text
    assert "quiet" not in text
    assert fences(text) == [
        "+ thing a  (ann)\n+ thing b  (ann)",
        "! is away; up",
        "! app bob: owns more than it may\n      REVOKE it",
        "one: others lose it",
    ]
    assert "do not fit" not in text


def test_a_plan_without_changes_is_one_sentence() -> None:
    text = plan_markdown(Plan("shop", (ServerPlan("one", "redis"),)))
    assert text.endswith("**No changes. The servers are as the manifest says.**\n\n")
    assert "<details>" not in text


@pytest.mark.parametrize("servers", [(), (ServerPlan("away", "neo4j", skipped="no such thing here"),)])
def test_a_plan_that_asked_nobody_does_not_say_that_all_is_well(servers: tuple[ServerPlan, ...]) -> None:
    sentence = plan_sentence(Plan("shop", servers))
    assert "No server was asked" in sentence
    assert "as the manifest says" not in sentence


def test_what_is_called_badly_says_nothing_of_its_own() -> None:
    bad = replace(server("one", HOSTILE), version=HOSTILE, notes=(HOSTILE,))
    text = plan_markdown(Plan("shop", (bad,)), [HOSTILE, "```", "end"], verbose=True)
    assert len(fences(text)) == 2
    assert fences(text)[1].endswith("\n```\nend")
    outside = text
    for shown in fences(text):
        outside = outside.replace(shown, "")
    assert "<img" not in outside
    assert html.escape("<img src=y onerror=z>", quote=False) in outside
    assert outside.count("<details>") == outside.count("</details>") == 2
    assert "\x1b" not in text
    assert not re.search(r"^#+ heading", text, re.MULTILINE)


def test_statements_are_there_when_they_are_asked_for_and_secrets_never() -> None:
    Secret("swordfish-swordfish")
    plan = Plan("shop", (ServerPlan("one", "postgres", changes=(change("a", "CREATE a 'swordfish-swordfish'"),)),))
    assert "CREATE" not in plan_markdown(plan)
    text = plan_markdown(plan, verbose=True)
    assert "CREATE a '***'" in text
    assert "swordfish" not in text


@pytest.mark.parametrize(
    ("servers", "things", "length"), [(1, 5000, 30), (40, 400, 20), (3000, 1, 5), (2, 3, 100_000), (1, 1500, 39)]
)
def test_a_comment_is_as_long_as_it_may_be_and_says_what_is_missing(servers: int, things: int, length: int) -> None:
    names = [f"{n:0{length}}" for n in range(things)]
    text = plan_markdown(Plan("shop", tuple(server(f"server-{n}", *names) for n in range(servers))))
    assert len(text) < 60_000
    assert text.count("<details>") == text.count("</details>") == len(fences(text))
    shown = sum(len(shown.splitlines()) for shown in fences(text))
    missing = re.search(r"\*(\d+) more lines do not fit here: `multidb plan` has them all", text)
    hidden = servers - text.count("<b>server-")
    assert shown + (int(missing[1]) if missing else 0) == servers * things + hidden
    if missing:
        assert len(text) > 55_000
