"""Postgres: which statements are sent as one, and which of those at the same time. No server."""

from __future__ import annotations

import pytest

from multidb.model import Statement
from multidb.provisioners.postgres.provision.transactions import batches, side_by_side_batches


def groups(*of: tuple[str, str]) -> list[list[list[str]]]:
    """What is sent of statements, given as their scope and app, each named by its number."""
    statements = [Statement(str(n), scope=scope, app=app, atomic=True) for n, (scope, app) in enumerate(of)]
    made = [list(group) for group in side_by_side_batches(batches(statements))]
    positions = [start for group in made for start, _ in group]
    assert [statements[start].text for start in positions] == [batch[0].text for group in made for _, batch in group]
    return [[[statement.text for statement in batch] for _, batch in group] for group in made]


def test_the_insides_of_different_databases_go_together() -> None:
    assert groups(("a", "a"), ("a", "a"), ("b", "b"), ("c", "c")) == [[["0", "1"], ["2"], ["3"]]]


def test_what_is_outside_waits_for_the_insides_before_it_and_they_for_it() -> None:
    assert groups(("", ""), ("a", "a"), ("b", "b"), ("", ""), ("c", "c")) == [[["0"]], [["1"], ["2"]], [["3"]], [["4"]]]


def test_two_pieces_of_one_database_keep_their_order() -> None:
    assert groups(("a", "a"), ("a", "b"), ("b", "b"), ("a", "a")) == [[["0"]], [["1"], ["2"]], [["3"]]]


@pytest.mark.parametrize("count", [16, 17, 40])
def test_a_thousand_insides_are_not_one_step(count: int) -> None:
    sizes = [len(group) for group in groups(*((f"d{n}", f"d{n}") for n in range(count)))]
    assert sum(sizes) == count
    assert max(sizes) == 16


def test_nothing_is_nothing() -> None:
    assert groups() == []
