"""The page as a document: what it says, in words, to whoever reads it in whichever way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from itertools import product

import pytest

from multidb.audit import Audit
from multidb.audit.findings import Untried
from multidb.backup.schedule import LastSets
from multidb.health_history import PlaceHistory
from multidb.model import Search, Status
from multidb.service.collector import Reading
from multidb.service.overview import Overview, Records, RunsSeen, overview
from multidb.service.page import page
from tests.support import reports
from tests.support.html import Document

READING = Reading(1, reports.AT, 0.25)


def known(audited: Audit | None = None) -> Overview:
    seen = reports.usage()
    return overview(
        reports.project(),
        health=reports.health(),
        plan=reports.plan(),
        audit=audited or reports.audited(),
        usage=seen.report,
        looks=seen.looks,
        backups=reports.backups(),
    )


@pytest.fixture(scope="module")
def document() -> Document:
    return Document(page(known(), {"health": READING, "usage": None}))


def test_the_table_says_everything_in_words(document: Document) -> None:
    assert document.texts("title") == ["digi: unhealthy, breached (multidb)"]
    assert document.texts("th", scope="col") == ["App", "Postgres", "Redis", "Verified backup", "Open drift"]
    assert document.texts("th", scope="row") == ["lernmi ✕unhealthy, breached", "beep_boop !degraded"]
    cells = document.texts("td")
    assert cells[0] == "Postgres ✓healthy 3.2 ms wall open: breach 9.0 MB 112% of quota"
    assert cells[1] == "Redis ✕unhealthy naming-only size unknown"
    assert cells[2:4] == ["Verified backup 2026-11-17 12:00 UTC", "Open drift 2 changes"]
    assert cells[4] == "Postgres !degraded 100 ms partial 4.0 MB"
    assert cells[5:] == ["Redisnot used", "Verified backup no backup", "Open drift none"]


def test_a_set_that_was_proved_counts_also_where_none_is_scheduled() -> None:
    sets = {"lernmi": LastSets(reports.AT, reports.AT, None)}
    rows = (replace(row, backup=sets.get(row.app), backup_health=None) for row in known().rows)
    shown = replace(known(), rows=tuple(rows))
    document = Document(page(shown, {}))
    cells = [text for text in document.texts("td", role="cell") if text.startswith("Verified backup")]
    assert cells == [f"Verified backup {reports.AT:%Y-%m-%d %H:%M} UTC not scheduled", "Verified backup not scheduled"]
    assert "1 of 2 have a verified backup, 2 not scheduled" in document.texts("dd")


def test_an_app_that_others_get_into_is_not_called_healthy() -> None:
    rows = tuple(replace(row, status=Status.HEALTHY) for row in known().rows)
    document = Document(page(replace(known(), rows=rows, health=reports.health(Status.HEALTHY)), {}))
    assert document.texts("title") == ["digi: breached (multidb)"]
    assert document.texts("span", **{"class": "state bad"})[0] == "✕breached"
    assert document.texts("th", scope="row") == ["lernmi ✕breached", "beep_boop ✓healthy"]
    assert document.texts("dd")[0] == "2 of 2 apps are healthy, 1 with an open wall"


def test_a_place_says_since_when_it_is_as_it_is() -> None:
    history = {("lernmi", "redis"): PlaceHistory(Status.UNHEALTHY, reports.AT, (None,))}
    shown = overview(reports.project(), health=reports.health(), records=Records(history))
    cells = Document(page(shown, {})).texts("td")
    assert cells[1].startswith("Redis ✕unhealthy since 2026-11-21 12:00 UTC")
    assert "since" not in cells[0]


def test_what_is_wrong_comes_worst_first_with_the_command(document: Document) -> None:
    notes = [*document.texts("li", **{"class": "bad"}), *document.texts("li", **{"class": "warn"})]
    assert [note.split()[0] for note in notes] == [
        "breach",
        "unhealthy",
        "backup",
        "quota",
        "drift",
        "drift",
        "degraded",
    ]
    assert "anybody connects and 1 more REVOKE CONNECT" in notes[0]


def test_a_history_that_was_altered_needs_a_look() -> None:
    seen = overview(reports.project(), records=Records(history=reports.history()))
    (note,) = Document(page(seen, {})).texts("li", **{"class": "bad"})
    assert note.startswith("altered history line 2 was altered multidb history")
    sound = overview(reports.project(), records=Records(history=RunsSeen()))
    assert Document(page(sound, {})).texts("li", **{"class": "bad"}) == []


def test_what_servers_say_is_never_markup(document: Document) -> None:
    assert any(reports.HOSTILE in note for note in document.texts("li")), "it is shown as it is"
    assert [found for name, found, _ in document.elements if name == "script"] == [{"src": "/page.js", "defer": None}]
    for _, attributes, _ in document.elements:
        assert not {name for name in attributes if name.startswith("on") or name == "style"}, "refused by the policy"


def test_people_who_do_not_see_it_are_told_the_same(document: Document) -> None:
    tags = [name for name, _, _ in document.elements]
    assert tags.count("h1") == 1
    assert {"header", "main", "footer", "caption"} <= set(tags)
    assert [found["lang"] for name, found, _ in document.elements if name == "html"] == ["en"]
    named = {found["id"] for _, found, _ in document.elements if "id" in found}
    for _, found, _ in document.elements:
        for attribute in ("aria-labelledby", "aria-describedby"):
            assert found.get(attribute) is None or found[attribute] in named
    images = [found for name, found, _ in document.elements if name == "svg"]
    assert [image["aria-label"] for image in images] == ["Size from 7.0 MB to 9.0 MB"]
    roles = [found["role"] for _, found, _ in document.elements if "role" in found]
    assert roles.count("row") == 3  # also where the phone's layout takes a table's meaning away
    assert roles.count("cell") == 8


def test_of_an_empty_project_and_of_nothing_known_there_is_a_page() -> None:
    unread = Document(page(overview(reports.project()), {}))
    assert unread.texts("title") == ["digi: unknown (multidb)"]
    assert unread.texts("dd") == ["unknown not looked at yet"] * 4
    assert "Verified backup unknown" in unread.texts("td", role="cell"), "what nobody has read is not unscheduled"
    failing = {"health": Reading(None, reports.AT, 1.0, "server-down", "no engine", "start it")}
    failed = Document(page(overview(reports.project()), failing))
    assert "look failed health no engine start it" in failed.texts("li")
    assert failed.texts("dd")[0] == "unknown the last look failed"


def test_a_wall_that_could_not_be_proved_is_named() -> None:
    (server,) = reports.audited().servers
    gap = Untried("postgres", "lernmi", None, "no connection")
    audited = replace(reports.audited(), tried=(), untried=(gap,), servers=(replace(server, search=Search()),))
    shown = Document(page(known(audited), {}))
    assert any("not proved lernmi / Postgres" in text for text in shown.texts("li", **{"class": "warn"}))
    assert any("1 gap, audited" in text for text in shown.texts("dd"))


# Contrast, by the formula of WCAG 2


def _colours() -> Iterator[tuple[str, dict[str, str]]]:
    css = files("multidb.service").joinpath("static", "style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    for theme, block in (("light", light), ("dark", dark)):
        yield theme, dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", block))


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(each * 2 for each in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read(theme: str) -> None:
    assert _contrast("#000", "#fff") == pytest.approx(21)  # the control
    colours = dict(_colours())[theme]
    texts = ("text", "faint", "accent", "good", "warn", "bad")
    pairs = [*product(texts, ("ground", "card")), *((tone, f"{tone}-ground") for tone in ("good", "warn", "bad"))]
    pairs += [("faint", "none-ground"), ("text", "none-ground")]
    low = {pair: round(_contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    assert _contrast(colours["trend"], colours["card"]) >= 3  # a line, not a text
