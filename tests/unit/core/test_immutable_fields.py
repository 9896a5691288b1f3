"""A field that cannot change in place is a conflict that names what differs and the ways out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from multidb.model import Action, Resource
from multidb.plan import diff


@dataclass(frozen=True, kw_only=True)
class Cask(Resource):
    kind: ClassVar[str] = "cask"
    rank: ClassVar[int] = 1
    immutable: ClassVar[frozenset[str]] = frozenset({"litres", "staves"})
    ways_out: ClassVar[str] = "Buy another cask"

    litres: int = 10
    staves: tuple[str, ...] = ("oak",)
    label: str = ""


WANT = Cask(name="c", app="a")


def test_a_changeable_field_is_an_update() -> None:
    (change,) = diff([WANT], [replace(WANT, label="old")])
    assert change.action is Action.UPDATE


def test_an_unchangeable_field_is_a_conflict_with_old_new_and_the_way_out() -> None:
    (change,) = diff([WANT], [replace(WANT, litres=20, staves=(), label="old")])
    assert change.action is Action.CONFLICT
    assert [field.field for field in change.fields] == ["litres", "staves"]
    assert "litres is 20, the manifest wants 10" in change.reason
    assert "staves is none, the manifest wants oak" in change.reason
    assert change.reason.endswith("Buy another cask")


def test_adopting_does_not_change_the_unchangeable() -> None:
    (change,) = diff([WANT], [replace(WANT, litres=20)], adopt=frozenset({"a"}))
    assert change.action is Action.CONFLICT


def test_a_missing_one_is_simply_made() -> None:
    (change,) = diff([WANT], [])
    assert change.action is Action.CREATE
