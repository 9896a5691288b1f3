"""The ids of sets. They say when a set was made, so that what is due or late is known without what makes sets."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from typing import Final

from multidb.document import moment

__all__ = ["is_set_id", "made_at", "new_id"]

_ID: Final = re.compile(r"([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{6}")
_PARTS: Final = 16**3  # of a second, and as many random values


def new_id(now: datetime) -> str:
    """A new set's id: its moment in UTC, so that ids sort by age also within one second, and three random digits.

    Args:
        now: to the microsecond. Its second is what `made_at` gives back.
    """
    moment = now.astimezone(UTC)
    part = moment.microsecond * _PARTS // 1_000_000
    return f"{moment:%Y%m%dT%H%M%SZ}-{part:03x}{secrets.randbelow(_PARTS):03x}"


def made_at(set_id: str) -> datetime:
    """The moment in a set's id. `ValueError` when it is none."""
    match = _ID.fullmatch(set_id)
    if match is None:
        raise ValueError(f"{set_id!r} is not the id of a backup set")
    return moment(match[1])


def is_set_id(text: str) -> bool:
    """Whether it is the id of a set."""
    try:
        made_at(text)
    except ValueError:
        return False
    return True
