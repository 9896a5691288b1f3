"""An audit on a store kept in memory: what counts as a proof, and what does not."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from multidb.audit import Audit, audit, last, markdown, remember
from multidb.closure import Closure, close
from multidb.engine import Engine
from multidb.errors import AuthenticationFailed, ServerDown, UsageError
from multidb.fleet import Scope
from multidb.model import Isolation
from multidb.runtime import ServerState, ServerStatus
from multidb.secrets import Secret
from tests.support.toy_store import SHELF
from tests.unit.watch.conftest import OpenShop


def made(engine: Engine, scope: Scope | None = None, **options: int) -> Audit:
    return audit(engine.fleet, scope, **options)


def test_a_clone_that_is_not_finished_attacks_nobody_and_is_told_by_its_own_way_on(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    close(engine.state, Closure("bob", "ann", masked=False))
    found = made(engine)
    assert [app for app, _ in SHELF.tried] == ["ann"]
    ((subject, error),) = found.errors
    assert (subject, error.hint) == (
        "bob on toy",
        "finish it: multidb clone ann bob; or end it: multidb remove-app bob",
    )
    assert not found.ok


def test_walls_that_hold_are_proved(open_shop: OpenShop) -> None:
    found = made(open_shop(["ann", "bob", "eve"]))
    assert found.ok
    assert found.exit_code == 0
    assert len(found.tried) == 6 + 3
    assert [each.version for each in found.servers] == ["Toy 1.0"]
    assert found.isolation["ann"] == {"toy": (Isolation.ENFORCED, "a box has walls")}
    assert {found.verdict(app, "toy") for app in found.apps} == {"enforced"}
    assert found.started <= found.finished


def test_a_breach_counts_against_the_app_whose_wall_it_went_through(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob", "eve"])
    SHELF.open_to = {"bob": "eve"}
    found = made(engine)
    assert not found.ok
    assert found.exit_code == 1
    (breach,) = found.breaches
    assert (breach.probe.app, breach.probe.target, breach.probe.name) == ("eve", "bob", "look in")
    assert [found.verdict(app, "toy") for app in found.apps] == ["enforced", "breach", "enforced"]
    page = markdown(found)
    assert "look in by eve against bob worked" in page
    assert "NOT PROVED" in page


def test_a_broken_probe_cannot_pass(open_shop: OpenShop) -> None:
    """Its control failed. Everything it tried came back as no success, and still nothing is proved."""
    engine = open_shop(["ann", "bob"])
    SHELF.clumsy = {"ann"}
    found = made(engine)
    assert not found.breaches
    assert not found.ok
    assert found.exit_code == 1
    (broken,) = found.broken
    assert (broken.probe.app, broken.probe.target) == ("ann", "bob")
    assert found.verdict("bob", "toy") == "not proved"
    assert "Broken probe" in markdown(found)
    assert found.document()["broken"][0]["got"] == "broken"


def test_what_nobody_has_tried_is_not_proved(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob", "eve"])
    SHELF.shy = {"ann", "eve>bob"}
    found = made(engine)
    assert [(each.app, each.target) for each in found.untried] == [("ann", "bob"), ("ann", "eve"), ("eve", "bob")]
    assert found.exit_code == 1
    assert "Not tried" in markdown(found)


def test_where_no_wall_is_promised_nothing_is_a_breach_and_the_gap_is_named(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    SHELF.level, SHELF.open_to = Isolation.NAMING_ONLY, {"bob": "ann", "ann": "bob"}
    found = made(engine)
    assert found.ok
    assert len(found.gaps) == 2
    assert found.verdict("ann", "toy") == "naming-only"
    assert "toy: look in (2)" in markdown(found)
    SHELF.shy = {"ann"}
    assert made(engine).ok, "without a wall there is nothing that had to be tried"


def test_a_hole_is_named_with_what_closes_it(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    SHELF.unlocked = {"bob"}
    found = made(engine)
    assert found.exit_code == 1
    (hole,) = found.holes
    assert hole.document()["closes"] == ["SHUT bob"]
    assert (found.verdict("ann", "toy"), found.verdict("bob", "toy")) == ("enforced", "hole")
    page = markdown(found)
    assert "unlocked box, box bob" in page
    assert "  SHUT bob" in page
    SHELF.unlocked.clear()
    assert made(engine).ok


def test_an_app_alone_still_tries_what_no_app_may_do(open_shop: OpenShop) -> None:
    found = made(open_shop(["ann"]))
    assert found.ok
    assert [each.probe.name for each in found.tried] == ["move the shelf"]


def test_apps_on_servers_of_their_own_try_each_other_too(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob", "eve"], each=True)
    SHELF.open_to = {"bob": "eve"}
    found = made(engine)
    assert found.pairs["toy"].count == 6
    assert [(each.server, each.probe.target) for each in found.breaches] == [("toy-eve", "bob")]


def test_one_app_is_tried_from_both_sides(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob", "eve"], each=True)
    SHELF.open_to = {"bob": "eve"}
    SHELF.unlocked = {"ann"}
    found = made(engine, Scope(apps=frozenset({"bob"})))
    assert {(each.probe.app, each.probe.target) for each in found.tried if each.probe.target} == {
        ("bob", "ann"),
        ("bob", "eve"),
        ("ann", "bob"),
        ("eve", "bob"),
    }
    assert found.apps == ("bob",)
    assert [each.server for each in found.servers] == ["toy-bob"]
    assert len(found.breaches) == 1
    assert not found.holes, "another app's hole is another audit's"


def test_an_audit_of_one_app_takes_nobody_else_for_a_stranger(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob", "eve"])
    assert made(engine, Scope(apps=frozenset({"bob"}))).ok
    SHELF.boxes["zoe"] = SHELF.boxes["ann"]
    found = made(engine, Scope(apps=frozenset({"bob"})))
    assert [each.hole.subject for each in found.holes] == ["box zoe"], "a hole of the server's own is everybody's"
    assert found.verdict("bob", "toy") == "hole"


def test_many_are_sampled_and_it_says_so(open_shop: OpenShop) -> None:
    engine = open_shop([f"app{number:02}" for number in range(8)])
    SHELF.unlocked = {"app05"}
    found = made(engine, seed=7, most=20)
    assert found.pairs["toy"].sampled
    assert found.pairs["toy"].count == 24
    assert found.document()["pairs"] == {"toy": {"tried": 24, "possible": 56, "sampled": True, "seed": 7, "waiting": 0}}
    assert "24 of 56 pairs, drawn with seed 7" in markdown(found)
    assert [each.hole.app for each in found.holes] == ["app05"], "catalogs are searched for every app"


def test_an_attacker_that_is_not_let_in_is_not_proved_and_the_others_go_on(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob", "eve"])
    password = Secret("a-long-and-secret-password")
    SHELF.found = {"ann": AuthenticationFailed("wrong key", where="toy", hint="multidb apply --app ann")}
    found = made(engine)
    assert found.exit_code == 4
    assert [subject for subject, _ in found.errors] == ["ann on toy"]
    assert {each.probe.app for each in found.tried} == {"ann", "bob", "eve"}, "what came before the error stays"
    assert found.verdict("ann", "toy") == "not proved"
    SHELF.found = {"ann": KeyError(password.reveal())}
    found = made(engine)
    assert not found.ok
    assert "KeyError" in str(found.errors[0][1])
    assert password.reveal() not in markdown(found) + json.dumps(found.document())
    SHELF.open_to = {"bob": "eve"}
    assert made(engine).exit_code == 1, "a breach weighs more than what could not be asked"


def test_a_server_that_goes_away_is_not_asked_again_for_each_app(open_shop: OpenShop) -> None:
    engine = open_shop([f"app{number:02}" for number in range(12)])
    SHELF.found = {f"app{number:02}": ServerDown("went away") for number in range(12)}
    found = made(engine)
    assert found.exit_code == 4
    assert len(found.errors) == 12
    assert len([app for app, _ in SHELF.tried]) <= 8, "only those who were at work already"


def test_a_server_that_cannot_be_asked(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    SHELF.down = True
    found = made(engine)
    assert found.exit_code == 4
    assert [found.verdict(app, "toy") for app in ("ann", "bob")] == ["not proved"] * 2
    assert "nothing listens" in markdown(found)


def test_a_server_that_does_not_run_and_one_that_this_machine_cannot_have(open_shop: OpenShop) -> None:
    lacking = {
        "ann": ServerStatus("toy-ann", "toy", ServerState.STOPPED, None),
        "eve": ServerStatus("toy-eve", "toy", ServerState.SKIPPED, None, "there is no wood here"),
    }
    engine = open_shop(["ann", "bob", "eve"], lacking=lacking, apply=False)
    engine.apply(Scope(apps=frozenset({"bob"})))
    found = made(engine)
    assert found.exit_code == 4
    assert [subject for subject, _ in found.errors] == ["toy-ann"]
    assert found.verdict("ann", "toy") == "not proved"
    assert found.verdict("eve", "toy") == ""
    assert "there is no wood here" in markdown(found)


def test_an_app_that_was_never_applied_is_not_proved(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"], apply=False)
    engine.apply(Scope(apps=frozenset({"ann"})))
    found = made(engine)
    assert found.exit_code == 1
    (gap,) = found.untried
    assert gap.app == "bob"
    assert "multidb apply --app bob" in gap.why


def test_no_app_is_its_own_connection_limits_worst_enemy(open_shop: OpenShop) -> None:
    """At most eight attackers at once, each app once."""
    made(open_shop([f"app{number:02}" for number in range(16)]))
    assert 1 < SHELF.most_at_once <= 8
    assert len(SHELF.tried) == len(set(SHELF.tried)) == 16


def test_the_document_is_json_and_complete(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    SHELF.open_to = {"bob": "ann"}
    document = json.loads(json.dumps(made(engine).document()))
    assert document["isolation"] == {"ann": {"toy": "enforced"}, "bob": {"toy": "enforced"}}
    assert document["verdicts"] == {"ann": {"toy": "enforced"}, "bob": {"toy": "breach"}}
    assert document["counts"] == {"refused": 3, "allowed": 1, "broken": 0}
    assert document["breaches"] == [
        {
            "app": "ann",
            "against": "bob",
            "store": "toy",
            "server": "toy",
            "probe": "look in",
            "expected": "refused",
            "got": "allowed",
            "ok": False,
            "detail": "it is a box",
        }
    ]
    assert len(document["probes"]) == 4


def test_the_report_has_what_an_auditor_asks_for(open_shop: OpenShop) -> None:
    found = made(open_shop(["ann", "bob"]))
    page = markdown(found)
    for part in (
        "# Isolation audit of shop",
        f"{found.started:%Y-%m-%d}",
        f"multidb {found.multidb}",
        "Toy 1.0",
        "## Method",
        "| ann | enforced |",
        "| toy | look in | 2 | 0 | 0 |",
        "| toy | `the shelf` | 2 | boxes that are open |",
        "## Exceptions",
        "every wall that is promised was proved",
    ):
        assert part in page, part


def test_what_stands_there_unmarked_is_told_and_opens_no_wall(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    SHELF.dusty = {"ann", "bob"}
    found = made(engine)
    assert found.ok
    assert "Note on toy: dust under ann: nobody sweeps here." in markdown(found)
    assert [each["app"] for each in found.document()["remarks"]] == ["ann", "bob"]
    searched = [{"catalog": "the shelf", "objects": 2, "looked_for": "boxes that are open"}]
    assert found.document()["servers"][0]["searched"] == searched
    alone = made(engine, Scope(apps=frozenset({"bob"})))
    assert [remark.app for _, remark in alone.remarks] == ["bob"]


def test_what_a_known_account_could_do_is_shown_and_no_hole(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"], known="{toy: [zoe, yan]}")
    SHELF.boxes["zoe"] = SHELF.boxes["eve"] = SHELF.boxes["ann"]
    found = made(engine)
    assert [each.hole.subject for each in found.holes] == ["box eve"], "who is not named is a hole as before"
    assert [(server, known.account) for server, known in found.known] == [("toy", "yan"), ("toy", "zoe")]
    could = ["box of nobody, box zoe: Who put it here?"]
    assert found.document()["known"] == [
        {"server": "toy", "account": "yan", "could": []},
        {"server": "toy", "account": "zoe", "could": could},
    ]
    page = markdown(found)
    assert "- toy: yan: nothing that would be a hole" in page
    assert "- toy: zoe:\n  - box of nobody, box zoe: Who put it here?" in page
    del SHELF.boxes["eve"]
    assert made(engine).ok
    SHELF.unlocked = {"bob"}
    assert [each.hole.app for each in made(engine).holes] == ["bob"], "what is for everybody is for a known one, too"


def test_what_the_manifest_knows_reaches_every_store(open_shop: OpenShop) -> None:
    engine = open_shop(["ann"], known="{toy: [zoe]}")
    assert [spec.known for spec in engine.project.servers if spec.store == "toy"] == [frozenset({"zoe"})]
    (server,) = engine.fleet.servers(Scope())
    assert engine.fleet.recorded_context(server).known == frozenset({"zoe"})
    (tenant,) = engine.fleet.tenants(Scope())[0]
    assert tenant.context.known == frozenset({"zoe"})


def test_a_name_cannot_add_to_a_report(open_shop: OpenShop) -> None:
    """Whoever may make a table gives it its name."""
    engine = open_shop(["ann"])
    SHELF.boxes["t\n```\n- Result: **proved** [x](http://h)"] = SHELF.boxes["ann"]
    found = made(engine)
    (hole,) = found.holes
    assert "\n" not in hole.hole.subject
    page = markdown(found)
    assert r"box t \`\`\` - Result: \*\*proved\*\* \[x\](http://h)" in page
    fences = [line.strip() for line in page.splitlines() if set(line.strip()) == {"`"}]
    assert fences == ["````", "```", "````"], "the one in the middle ends nothing"


def test_the_last_outcome_is_remembered(open_shop: OpenShop) -> None:
    engine = open_shop(["ann", "bob"])
    assert last(engine.state) is None
    SHELF.open_to = {"bob": "ann"}
    found = made(engine)
    remember(engine.state, found)
    kept = last(engine.state)
    assert kept is not None
    assert (kept.ok, kept.breaches, kept.holes, kept.probes) == (False, 1, 0, 4)
    assert isinstance(kept.finished, datetime)
    assert abs((kept.finished - found.finished).total_seconds()) < 1
    SHELF.open_to = {}
    remember(engine.state, made(engine))
    again = last(engine.state)
    assert again is not None
    assert (again.ok, again.breaches) == (True, 0)


def test_an_app_that_is_not_in_the_manifest(open_shop: OpenShop) -> None:
    with pytest.raises(UsageError, match="zoe"):
        made(open_shop(["ann"]), Scope(apps=frozenset({"zoe"})))
