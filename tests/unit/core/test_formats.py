"""How a document of an earlier version becomes one of today's."""

from __future__ import annotations

from typing import Any

import pytest

from multidb.document import Unreadable
from multidb.formats import Format, NewerVersion


def renamed(document: dict[str, Any]) -> dict[str, Any]:
    return {"new": document["old"]}


def listed(document: dict[str, Any]) -> dict[str, Any]:
    return {"new": [document["new"]]}


THIRD = Format(3, (renamed, listed))


@pytest.mark.parametrize(
    ("document", "version", "expected"),
    [({"old": 1}, 1, {"new": [1]}), ({"new": 1}, 2, {"new": [1]}), ({"new": [1]}, 3, {"new": [1]})],
)
def test_every_earlier_version_takes_the_steps_that_are_left(
    document: dict[str, Any], version: int, expected: dict[str, Any]
) -> None:
    before = dict(document)
    assert THIRD.upgraded(document, version) == expected
    assert document == before


def test_a_newer_one_is_told_from_one_without_a_version() -> None:
    with pytest.raises(NewerVersion, match="is of version 4, which a newer multidb has written"):
        THIRD.upgraded({}, 4)
    for version in (0, -1, True, "1", None, 1.0):
        with pytest.raises(Unreadable, match="has no version"):
            THIRD.upgraded({}, version)


def test_no_version_is_without_its_step() -> None:
    with pytest.raises(ValueError, match="version 2 takes 1 steps, not 0"):
        Format(2)
