"""What a kind of secret store is to the project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multidb.model.options import Section
from multidb.secrets import SecretStore

__all__ = ["SecretStoreKind"]


@dataclass(frozen=True, slots=True)
class SecretStoreKind:
    """One kind of secret store: what ``SECRET_STORE`` of its module is.

    Args:
        name: as the manifest calls it under ``secrets``.
        options: frozen model of ``secrets.<name>``; unknown keys forbidden; no credential in it.
        open: the store of these options, for the project in this folder. Touches nothing yet. What it raises then is
            said at `SecretStore`; here, `UsageError` for options that make no sense on this machine.
        rekey: encrypts what the store of these options holds anew, for those who may read it from now on; None: it has
            no recipients of its own.
    """

    name: str
    options: type[Section]
    open: Callable[[Any, Path], SecretStore]
    rekey: Callable[[Any, Path], None] | None = None
