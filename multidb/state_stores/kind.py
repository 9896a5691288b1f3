"""What a kind of place for a project's state is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multidb.model.state_options import StateAddress
from multidb.state_store import StateStore

__all__ = ["StateStoreKind"]


@dataclass(frozen=True, slots=True)
class StateStoreKind:
    """One kind of place: what ``STATE_STORE`` of its module is.

    Args:
        scheme: what its addresses begin with, before ``://``: lower-case letters and digits.
        address: how they look. No credential is in one: the manifest is committed.
        open: the place at an address, for the project of a name whose manifest is in a folder. Touches nothing yet.
            What it raises then is said at `StateStore`; here, `UsageError` where this machine lacks something for it.
    """

    scheme: str
    address: StateAddress
    open: Callable[[str, str, Path], StateStore]
