"""The pages of one app and of the audit: what they say, in words, to whoever reads them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multidb.alternation import Alternation, RotationPhase
from multidb.audit import Tried
from multidb.credentials import CredentialAge
from multidb.model import Action, Change, FieldChange, Isolation, Outcome, Probe, ServerUsage, Statement
from multidb.plan import Plan, ServerPlan
from multidb.secrets import Alternate
from multidb.service.collector import Reading
from multidb.service.overview import Overview, Records, RunsSeen, overview
from multidb.service.page import app_page, audit_page, history_page, missing_page
from multidb.usage import ServerSeen
from tests.support import reports
from tests.support.html import Document


def known() -> Overview:
    seen = reports.usage()
    return overview(
        reports.project(),
        health=reports.health(),
        plan=reports.plan(),
        audit=reports.audited(),
        usage=seen.report,
        looks=seen.looks,
        backups=reports.backups(),
        records=replace(reports.records(), sets=reports.sets(), history=reports.history()),
    )


def shown(app: str, shows: Overview | None = None) -> Document:
    shows = shows or known()
    row = shows.row(app)
    assert row is not None
    return Document(app_page(shows, row, {"health": Reading(1, reports.AT, 0.25)}))


@pytest.fixture(scope="module")
def document() -> Document:
    return shown("lernmi")


def commands(document: Document) -> list[str]:
    return document.texts("pre")


def test_it_says_how_the_app_is_and_since_when(document: Document) -> None:
    assert document.texts("title") == ["lernmi: unhealthy, breached (digi, multidb)"]
    assert document.texts("h1") == ["lernmi"]
    facts = document.texts("dd")
    assert facts[:5] == [
        "✓healthy since 2026-11-21 09:00 UTC wrote and read",
        "3.2 ms",
        "wall open: breach a wall",
        "9.0 MB 112% of 8.0 MB read-only",
        "17 of 20",
    ]
    assert "✕unhealthy since 2026-11-21 09:00 UTC refuses <script>alert(1)</script>" in facts


def test_its_day_and_its_charts_are_told_in_words_too(document: Document) -> None:
    labels = [found["aria-label"] for name, found, _ in document.elements if name == "svg"]
    assert labels == [
        "Postgres. Of 144 times ten minutes of the last day: healthy in 142, degraded in 1, not looked at in 1",
        "Latency: 3.0 ms at first, 6.0 ms last, 20 ms at most",
        "Size: 7.0 MB at first, 9.0 MB last, 9.0 MB at most",
        "Redis. Of 144 times ten minutes of the last day: healthy in 30, unhealthy in 18, not looked at in 96",
        "Latency: 3.0 ms at first, 4.0 ms last, 9.0 ms at most",
    ]
    axes = document.texts("text")
    assert axes[:6] == ["0 ms", "10 ms", "20 ms", "24 h ago", "12 h ago", "now"]
    assert "8 d ago" in axes
    assert "SELECT * FROM carts WHERE owner = $1" in document.texts("code")
    assert {"1,200", "12 ms", "14 s", "7.0 MB"} <= set(document.texts("td"))
    assert "12,345" in document.texts("dd")


def test_what_gets_in_stands_with_who_did_it_and_with_what_closes_it(document: Document) -> None:
    notes = document.texts("li", **{"class": "bad"})
    assert any("connect by beep_boop against lernmi worked" in note for note in notes)
    assert any("hole postgres: database lernmi connect for everybody: anybody connects" in note for note in notes)
    assert {"REVOKE CONNECT", "multidb audit lernmi"} <= set(commands(document))
    assert "Postgres: beep_boop on lernmi: 1 worked, a breach" in document.texts("summary")
    other = shown("beep_boop")
    assert not any("worked" in note for note in other.texts("li")), "it is the other one's wall"
    assert "Postgres: beep_boop on lernmi: 1 worked, a breach" in other.texts("summary"), "and it has tried"


def test_attempts_are_told_by_who_tried_whom_the_worst_first() -> None:
    audited = reports.audited()

    def tried(app: str, target: str | None, expected: Outcome, got: Outcome, detail: str = "") -> Tried:
        return Tried("postgres", "postgres", Probe(app, target, "SELECT", expected, got, detail))

    no, yes, broken = Outcome.REFUSED, Outcome.ALLOWED, Outcome.BROKEN
    more = (
        tried("lernmi", "beep_boop", no, no, f"permission denied {reports.HOSTILE}"),
        tried("lernmi", "beep_boop", no, no),
        tried("lernmi", None, no, no),
        tried("lernmi", None, yes, yes),
        tried("beep_boop", None, no, broken),
    )
    document = shown("lernmi", replace(known(), audit=replace(audited, tried=(*more, *audited.tried))))
    tries = [text for text in document.texts("summary") if " on " in text]
    assert tries == [
        "Postgres: beep_boop on lernmi: 1 worked, a breach",
        "Postgres: lernmi on the server itself: 1 worked, no wall is promised; 1 refused",
        "Postgres: lernmi on beep_boop: 2 refused",
    ]
    opened = [found for name, found, _ in document.elements if name == "details" and "open" in found]
    assert len(opened) == 1, "what is bad is not behind a click"
    assert f"permission denied {reports.HOSTILE}" in document.texts("td")
    outcomes = [text for text in document.texts("td") if text in ("refused", "worked, no wall is promised")]
    assert outcomes == ["worked, no wall is promised", "refused", "refused", "refused"]


def test_each_set_says_what_proves_it(document: Document) -> None:
    rows = [text for text in document.texts("tr") if "sets/" in text]
    assert [row.split(" ")[0] for row in rows] == [copy.id for copy in reports.sets().copies]
    assert "not tried" in rows[0]
    assert "is not what was backed up: postgres: counts <script>" in rows[1]
    assert rows[2].endswith("restored and compared 2026-11-21 12:00 UTC")
    assert rows[3].endswith("cannot be read: is not JSON")
    assert "multidb backups verify lernmi/20261121T120000Z-0a1b2c" in commands(document)
    assert "s3://away/ cannot be read: no answer" in document.texts("p", **{"class": "bad"})
    assert "No set of it was found on the targets." in shown("beep_boop").texts("p")
    unread = shown("lernmi", overview(reports.project(), health=reports.health()))
    assert "multidb backups list lernmi" in commands(unread)


def test_it_says_how_old_the_credentials_are_and_what_is_being_done(document: Document) -> None:
    rows = [text for text in document.texts("tr") if text.startswith(("Postgres 2", "Redis 2"))]
    assert rows == [
        "Postgres 2026-10-12 12:00 UTC no rotation under way",
        "Redis 2026-11-21 12:00 UTC The app's variables have the new one; the former one works, too "
        "since 2026-11-21 12:00 UTC",
    ]
    assert commands(document).count("multidb rotate lernmi --finish") == 1
    other = shown("beep_boop")
    assert "Postgres when they were made was not recorded no rotation under way" in other.texts("tr")
    assert not any("rotate" in command for command in commands(other))
    (progress,) = [found for name, found, _ in document.elements if name == "progress"]
    assert (progress["value"], progress["max"]) == ("42", "100")
    assert "backup lernmi, since 2026-11-21 11:58 UTC" in document.texts("p")
    assert "progress" not in [name for name, _, _ in shown("beep_boop").elements], "it is another app's"


def test_drift_is_told_line_by_line_with_what_would_be_done() -> None:
    role = reports.Role(name="lernmi_user", app="lernmi")
    limit = FieldChange("connection_limit", 10, {"most": 20})
    statement = Statement("ALTER ROLE lernmi_user\nCONNECTION LIMIT 20 -- \u202egnp.exe\x1b[2J")
    change = Change(Action.UPDATE, role, role, (limit,), statements=(statement,), store="postgres", server="postgres")
    isolation = dict.fromkeys(("lernmi", "beep_boop"), (Isolation.ENFORCED, ""))
    plan = Plan("digi", (ServerPlan("postgres", "postgres", isolation=isolation, changes=(change,)),))
    document = shown("lernmi", overview(reports.project(), plan=plan))
    (line,) = [text for text in document.texts("li", **{"class": "warn"}) if "connection_limit" in text]
    assert line.startswith('Postgres update role lernmi_user connection_limit: 10 → {"most": 20}')
    (pasted,) = [
        found for name, _, texts in document.elements if name == "pre" for found in ["".join(texts)] if "ALTER" in found
    ]
    mark = "\N{REPLACEMENT CHARACTER}"
    assert pasted == f"ALTER ROLE lernmi_user\nCONNECTION LIMIT 20 -- {mark}gnp.exe{mark}[2J", "nothing that is unseen"
    assert "multidb apply --app lernmi" in commands(document)
    none = shown("beep_boop")
    assert "None: it is as the manifest says." in none.texts("p")


def test_only_its_own_troubles_need_a_look_and_looks_that_failed() -> None:
    shows = known()
    row = shows.row("beep_boop")
    assert row is not None
    failed = {"drift": Reading(None, reports.AT, 1.0, "server-down", "no engine", "start it")}
    notes = Document(app_page(shows, row, failed)).texts("li")
    assert [note.split(" ")[0] for note in notes if "/" in note or "failed" in note] == ["look", "degraded"]


@pytest.mark.parametrize("app", ["lernmi", "beep_boop"])
def test_of_nothing_known_there_is_a_page_that_says_so(app: str) -> None:
    document = shown(app, overview(reports.project()))
    assert document.texts("title") == [f"{app}: unknown (digi, multidb)"]
    assert {
        "Nothing is kept of earlier checks yet.",
        "Nothing is known of its walls: the service has not audited yet.",
    } <= set(document.texts("p"))
    assert {f"multidb audit {app}", f"multidb plan --app {app}"} <= set(commands(document))


def test_what_servers_say_is_never_markup(document: Document) -> None:
    for page in (document, Document(audit_page(known(), {})), Document(history_page(known(), {}))):
        assert [found for name, found, _ in page.elements if name == "script"] == [{"src": "/page.js", "defer": None}]
        for _, attributes, _ in page.elements:
            assert not {name for name in attributes if name.startswith("on") or name == "style"}
        named = [found["id"] for _, found, _ in page.elements if "id" in found]
        assert len(named) == len(set(named)), "an id stands once"
        labels = [found["aria-labelledby"] for _, found, _ in page.elements if "aria-labelledby" in found]
        assert set(labels) <= set(named)


def test_the_audit_is_a_matrix_of_apps_and_stores() -> None:
    document = Document(audit_page(known(), {}))
    assert document.texts("h1") == ["Audit of digi"]
    rows = document.texts("tr")
    assert {"lernmi breach", "beep_boop enforced"} <= set(rows)
    assert "Postgres nobody was tried 0 1 0" in rows
    notes = document.texts("li", **{"class": "bad"})
    assert notes[0] == "breach Postgres connect by beep_boop against lernmi worked"
    assert notes[1].endswith("anybody connects REVOKE CONNECT")
    assert "Not every wall that is promised was proved." in " ".join(document.texts("p"))
    unread = Document(audit_page(overview(reports.project()), {}))
    assert unread.texts("h2") == ["Nothing is known yet"]
    assert commands(unread) == ["multidb audit"]


def test_an_app_that_there_is_not_has_a_page_with_a_way_on() -> None:
    document = Document(missing_page(known(), {}))
    assert document.texts("h2") == ["There is no such app"]
    assert "All apps" in document.texts("a", href="/")


def test_what_a_server_does_not_tell_is_said_with_what_changes_that() -> None:
    shows = known()
    assert shows.usage is not None
    silent = ServerUsage(notes=("no statistics of queries: load pg_stat_statements",))
    servers = (
        ServerSeen("postgres", "postgres", silent),
        ServerSeen("postgres-eu", "postgres", ServerUsage(notes=("of another server",))),
    )
    told = shown("lernmi", replace(shows, usage=replace(shows.usage, servers=servers))).texts("p")
    assert "No statistics of queries: load pg_stat_statements." in told
    assert "Of another server." not in told


@pytest.mark.parametrize(
    ("phase", "words", "option"),
    [
        (RotationPhase.PREPARING, "A second one is being made", ""),
        (RotationPhase.REVERTED, "have the former one again", " --finish"),
        (RotationPhase.FINISHING, "is being turned off", " --finish"),
        (RotationPhase.DONE, "no rotation under way", None),
    ],
)
def test_a_rotation_is_told_by_how_far_it_has_come(phase: RotationPhase, words: str, option: str | None) -> None:
    entry = Alternation("lernmi", "postgres", Alternate.FIRST, phase, reports.AT, {})
    records = replace(reports.records(), credentials={("lernmi", "postgres"): CredentialAge(None, entry)})
    document = shown("lernmi", overview(reports.project(), records=records))
    (row,) = [text for text in document.texts("tr") if text.startswith("Postgres when")]
    assert words in row
    rotations = [command for command in commands(document) if "rotate" in command]
    assert rotations == ([] if option is None else [f"multidb rotate lernmi{option}"])


def test_an_app_has_its_own_history(document: Document) -> None:
    rows = [text for text in document.texts("tr") if "ann@host" in text]
    assert [row.split("Command line")[0].strip() for row in rows] == [
        "2026-11-21 11:59 UTC backup ann@host running lernmi",
        "2026-11-21 11:58 UTC took 5 s apply ann@host done lernmi: create 120 (role), 30 more",
    ]
    assert "multidb apply lernmi --yes" in rows[1]
    assert rows[1].count("create role") == 100
    assert rows[1].endswith("and 50 more")
    assert "multidb history lernmi --limit 1000" in commands(document)
    (failed,) = [text for text in shown("beep_boop").texts("tr") if "ann@host" in text]
    assert "failed beep_boop; no answer <script>" in failed
    never = shown("lernmi", overview(reports.project(), records=Records(history=RunsSeen())))
    assert "No run that changed it is recorded." in never.texts("p")
    assert "multidb history lernmi" in commands(shown("lernmi", overview(reports.project())))


def test_of_an_app_the_newest_runs_are_shown() -> None:
    runs = tuple(reports.run(number, "apply", "lernmi") for number in range(30))
    document = shown("lernmi", overview(reports.project(), records=Records(history=RunsSeen(runs))))
    assert len([text for text in document.texts("tr") if "ann@host" in text]) == 20


def test_the_history_of_all_is_a_page_that_says_what_was_altered() -> None:
    document = Document(history_page(known(), {}))
    assert document.texts("h1") == ["History of digi"]
    assert [text.split("UTC")[1].split()[:1] for text in document.texts("tr") if "ann@host" in text] == [
        ["backup"],
        ["took"],
        ["took"],
    ]
    assert "altered line 2 was altered" in document.texts("li", **{"class": "bad"})
    assert "Put the folder back from a copy" in document.texts("p")
    assert not any("All lines are as they were written" in text for text in document.texts("p"))
    sound = Document(history_page(overview(reports.project(), records=Records(history=RunsSeen())), {}))
    assert "No run is recorded." in sound.texts("p")
    unread = Document(history_page(overview(reports.project()), {}))
    assert unread.texts("h2") == ["Nothing is known yet"]
    failed = {"history": Reading(None, reports.AT, 1.0, "usage", "no right to read it", "")}
    assert "The history cannot be read. To see it now:" in Document(
        history_page(overview(reports.project()), failed)
    ).texts("p")
