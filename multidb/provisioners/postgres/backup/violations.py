"""Rows that break what their own table demands: pg_dump writes them, and no server loads them. Pure.

They came past a constraint: while its triggers were disabled, before a function that a check calls was changed, or by
a check of other rows than its own.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["HINT", "violation"]

HINT: Final = (
    "mend them where they were written, or let a foreign key or a check be NOT VALID there, which loads: ALTER TABLE "
    ".. DROP CONSTRAINT .., ADD CONSTRAINT .. NOT VALID; then make another set, or import again; how this one is "
    "loaded: docs/restore-by-hand.md"
)
# As a server says it in English; what is said in another language is quoted as it is.
_NAMED: Final = r'(?:constraint|index) "[^"\n]+"'
_BROKEN: Final = tuple(
    re.compile(text)
    for text in (
        rf"violates ((?:foreign key|check|exclusion) {_NAMED}|(?:not-null|partition) constraint)",
        rf"(check {_NAMED}) of relation .+ is violated by some row",
        rf"could not create ((?:unique|exclusion) {_NAMED})",
    )
)
_NAME: Final = r'(?:"(?:[^"\n]|"")+"|[^\s".]+)'
_TABLE: Final = tuple(
    re.compile(text)
    for text in (
        rf"Command was: (?:ALTER TABLE (?:ONLY )?|CREATE UNIQUE INDEX {_NAME} ON (?:ONLY )?)({_NAME}(?:\.{_NAME})?)",
        r'COPY failed for table "([^"\n]+)"',
    )
)


def violation(complaint: str) -> str | None:
    """The sentence for a load that failed for rows that break a constraint, with the table and the constraint; None
    where it failed for something else. It quotes no rows.

    Args:
        complaint: what pg_restore said.
    """
    broken = next((match[1] for pattern in _BROKEN if (match := pattern.search(complaint))), None)
    table = next((match[1] for pattern in _TABLE if (match := pattern.search(complaint))), None)
    if broken is None or table is None:
        return None
    return f"rows of table {table} break {broken}, and no server loads them"
