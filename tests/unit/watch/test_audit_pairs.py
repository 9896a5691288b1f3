"""Who tries whom."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb.audit import ALL_PAIRS, choose

MANY = tuple(f"app{number:03}" for number in range(40))


def test_few_are_all_tried() -> None:
    pairs = choose(("a", "b", "c"), seed=1)
    assert set(pairs) == set(permutations("abc", 2))
    assert (pairs.count, pairs.possible, pairs.sampled, pairs.seed) == (6, 6, False, None)
    assert str(pairs) == "all 6 pairs"


def test_the_last_number_that_is_tried_whole() -> None:
    assert not choose(MANY[:16], seed=1).sampled
    assert choose(MANY[:16], seed=1).count == ALL_PAIRS == 240
    assert choose(MANY[:17], seed=1).sampled


@given(st.integers(), st.integers(min_value=17, max_value=40))
def test_of_many_everybody_is_on_both_sides(seed: int, count: int) -> None:
    apps = MANY[:count]
    pairs = choose(apps, seed)
    assert pairs.sampled
    assert set(pairs.victims) == set(apps)
    assert {victim for _, victim in pairs} == set(apps)
    assert pairs.count == 3 * count
    assert all(attacker != victim for attacker, victim in pairs)
    assert pairs.possible == count * (count - 1)
    assert str(seed) in str(pairs)


@given(st.integers(min_value=0, max_value=10**6), st.integers(min_value=41, max_value=400))
def test_of_very_many_everybody_has_a_turn_before_anybody_has_a_second_one(seed: int, count: int) -> None:
    apps = tuple(f"app{number}" for number in range(count))
    turns = [choose(apps, seed + day) for day in range(-(-count // 40))]
    assert {attacker for turn in turns for attacker in turn.victims} == set(apps)
    assert {len(turn.victims) for turn in turns} == {40}
    assert {turn.count for turn in turns} == {120}
    assert {turn.waiting for turn in turns} == {count - 40}
    twice = sum(len(turn.victims) for turn in turns[:-1])
    assert len({attacker for turn in turns[:-1] for attacker in turn.victims}) == twice


def test_apps_that_are_named_need_no_turn() -> None:
    apps = tuple(f"app{number}" for number in range(400))
    pairs = choose(apps, seed=1, only=frozenset(apps[:100]))
    assert set(apps[:100]) <= set(pairs.victims)
    assert pairs.waiting == 0


def test_the_same_seed_draws_the_same_and_another_another() -> None:
    assert choose(MANY, seed=1) == choose(MANY, seed=1)
    assert set(choose(MANY, seed=1)) != set(choose(MANY, seed=2))


def test_one_app_against_everybody_both_ways() -> None:
    pairs = choose(("a", "b", "c"), seed=1, only=frozenset({"b"}))
    assert set(pairs) == {("b", "a"), ("b", "c"), ("a", "b"), ("c", "b")}


def test_one_of_very_many_still_tries_and_is_tried() -> None:
    pairs = choose(MANY, seed=5, only=frozenset({MANY[7]}), most=10)
    assert pairs.sampled
    assert len(pairs.victims[MANY[7]]) == 3
    assert sum(MANY[7] == victim for _, victim in pairs) == 3
    assert all(MANY[7] in pair for pair in pairs)


@pytest.mark.parametrize("apps", [(), ("a",)])
def test_nobody_else(apps: tuple[str, ...]) -> None:
    pairs = choose(apps, seed=1)
    assert list(pairs) == []
    assert set(pairs.victims) == set(apps), "an app alone still tries what no app may do"
    assert str(pairs) == "no two apps to try on each other"
