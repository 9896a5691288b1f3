"""What the options of `multidb rotate` say, of apps' credentials and of admins' passwords alike."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

__all__ = ["RotationOptions", "Step"]


class Step(StrEnum):
    """What is done of a rotation."""

    PREPARE = "prepare"
    FINISH = "finish"
    ABORT = "abort"
    NOW = "now"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class RotationOptions:
    """What the options say.

    Args:
        after: how long both credentials work at least, where the step is decided by time.
        older_than: only credentials of at least this age; None: as the manifest says.
    """

    step: Step
    stores: frozenset[str] | None
    force: bool
    after: timedelta
    older_than: timedelta | None
