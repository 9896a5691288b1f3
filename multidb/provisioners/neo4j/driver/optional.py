"""What the driver loads if it is installed, and multidb has no use for: numpy, pandas and pyarrow, half of its time."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Final

__all__ = ["leave_out_arrays"]

_MODULE: Final = "neo4j._optional_deps"  # of the driver from 6.0 on: the one place where it imports them


class _Absent(ModuleType):
    """As the driver's module is where none of them is installed: each is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def leave_out_arrays() -> None:
    """Has the driver, once it is imported, take no arrays and data frames for parameters. For processes of our own
    only. A driver that has no such module any more loads them all the same."""
    if "neo4j" not in sys.modules:
        sys.modules[_MODULE] = _Absent(_MODULE)
