"""How many examples a property is tried with."""

from __future__ import annotations

import os

ALL = "MULTIDB_TEST_ALL"  # set in a run with --all


def some_of(most: int) -> int:
    """A third of them in an everyday run, all with --all."""
    return most if os.environ.get(ALL) else max(1, most // 3)
