"""The labels by which the manifest tells a clone from other apps."""

from __future__ import annotations

from typing import Final

__all__ = ["CLONE_OF", "EXPIRES"]

CLONE_OF: Final = "clone_of"
"""The app that it was made of."""
EXPIRES: Final = "expires"
"""When it may go, in UTC."""
