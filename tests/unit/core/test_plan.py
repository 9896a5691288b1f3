"""The diff by example; its laws are in tests/properties."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

from multidb.errors import ServerDown
from multidb.model import Action, Change, FieldChange, Owner, Resource, Statement
from multidb.plan import Plan, ServerPlan, diff, plain, saved_plan

OURS = Owner("shop", "ann")


@dataclass(frozen=True, kw_only=True)
class Room(Resource):
    kind: ClassVar[str] = "room"
    rank: ClassVar[int] = 20
    marked: ClassVar[bool] = True
    size: int = 1
    doors: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Key(Resource):
    kind: ClassVar[str] = "key"
    rank: ClassVar[int] = 10
    edge: ClassVar[bool] = True


def test_what_is_missing_is_created_in_the_order_of_ranks() -> None:
    changes = diff([Room(name="b", app="ann", owner=OURS), Key(name="k", app="ann")], [])
    assert [(c.action, c.resource.kind) for c in changes] == [(Action.CREATE, "key"), (Action.CREATE, "room")]


def test_a_field_that_differs_is_an_update_that_says_old_and_new() -> None:
    (change,) = diff([Room(name="a", app="ann", owner=OURS, size=2)], [Room(name="a", app="ann", owner=OURS)])
    assert change.fields == (FieldChange("size", 1, 2),)
    assert change.changed("size")
    assert not change.changed("doors")


def test_a_surplus_edge_is_taken_away_and_a_surplus_room_is_not() -> None:
    changes = diff([], [Room(name="a", app="ann", owner=OURS), Key(name="k", app="ann")])
    assert [(c.action, c.resource.name) for c in changes] == [(Action.DELETE, "k")]


def test_a_hole_is_closed_before_anything_is_made_beside_it() -> None:
    changes = diff([Key(name="a", app="ann")], [Key(name="z", app="ann")])
    assert [c.action for c in changes] == [Action.DELETE, Action.CREATE]


def test_unmarked_under_our_name_is_a_conflict_and_stops_that_app_only() -> None:
    desired = [
        Room(name="a", app="ann", owner=OURS),
        Key(name="k", app="ann"),
        Room(name="b", app="bob", owner=Owner("shop", "bob")),
    ]
    changes = diff(desired, [Room(name="a")])
    assert [(c.action, c.resource.name) for c in changes] == [(Action.CONFLICT, "a"), (Action.CREATE, "b")]


def test_adopting_writes_the_mark() -> None:
    (change,) = diff([Room(name="a", app="ann", owner=OURS)], [Room(name="a")], frozenset({"ann"}))
    assert change.action is Action.UPDATE
    assert change.fields == (FieldChange("owner", None, OURS),)


def test_sets_are_shown_in_one_order() -> None:
    assert plain(frozenset({"b", "a", ("x", 1)})) == ["a", "b", ["x", 1]]
    assert plain({"z": OURS, "a": Action.CREATE}) == {"a": "create", "z": {"project": "shop", "app": "ann"}}


def test_the_digest_follows_the_statements() -> None:
    def plan(text: str) -> Plan:
        change = Change(Action.CREATE, Room(name="a"), None, statements=(Statement(text),))
        return Plan("shop", (ServerPlan("s", "toy", changes=(change,)),))

    assert plan("MAKE a").digest == plan("MAKE a").digest
    assert plan("MAKE a").digest != plan("MAKE b").digest


def test_a_saved_plan_tells_when_it_was_altered() -> None:
    want = Room(name="a", app="ann", owner=OURS, doors=frozenset({"front", "back"}))
    change = replace(
        *diff([want], [replace(want, size=2)]), server="hotel", store="rooms", statements=(Statement("BUILD ü"),)
    )
    plan = Plan("shop", (ServerPlan("hotel", "rooms", changes=(change,)), ServerPlan("inn", "rooms")))
    about = {"version": 1, "command": "plan", "adopt": [], "apps": None, "stores": ["rooms"], "deep": True}
    saved = json.dumps({**about, **plan.document()}, indent=1)
    assert (saved_plan(saved).covers(plan), saved_plan(saved).altered) == (True, False)
    assert not saved_plan(saved).covers(Plan("shop", plan.servers[:1]))
    assert not saved_plan(saved).covers(Plan("shop", (replace(plan.servers[0], changes=()), plan.servers[1])))
    for old, new in (("BUILD", "RAZE"), ('"scope": ""', '"scope": "b"'), ('"old": 2', '"old": 3'), ('"inn"', '"pub"')):
        altered = saved.replace(old, new)
        assert altered != saved
        assert saved_plan(altered).altered, (old, new)
    document = json.loads(saved)
    document["changes"].append({**document["changes"][0], "server": "nowhere"})
    assert saved_plan(json.dumps(document)).altered, "a change of a server that the plan does not name"


def test_a_server_that_cannot_be_read_is_not_in_sync() -> None:
    plan = Plan("shop", (ServerPlan("s", "toy", error=ServerDown("gone")),))
    assert not plan.in_sync
    assert plan.document()["servers"][0]["error"] == {
        "code": "server-down",
        "message": "gone",
        "where": None,
        "hint": None,
    }


def test_counts_name_every_action() -> None:
    assert Plan("shop", ()).counts == {"create": 0, "update": 0, "delete": 0, "conflict": 0}


def test_what_another_project_did_to_the_server_is_no_other_plan_of_an_app() -> None:
    def planned(*changes: Change) -> ServerPlan:
        return ServerPlan("s", "toy", changes=changes)

    ours = Change(Action.CREATE, Room(name="a", app="ann", owner=OURS), None)
    shared = Change(Action.CREATE, Room(name="hall"), None)
    beside = Change(Action.CREATE, Room(name="cellar"), None)
    assert planned(ours, shared).covers(planned(ours, shared))
    assert planned(ours, shared).covers(planned(ours)), "done by another project meanwhile"
    assert not planned(ours).covers(planned(ours, beside)), "nobody has agreed to that"
    assert not planned(ours, shared).covers(planned(shared))
    assert not planned(shared).covers(planned(ours, shared))
