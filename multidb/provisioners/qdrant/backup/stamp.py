"""What a point that comes from elsewhere gets in its payload, so that it is one of the app's. Pure.

A field that is there stays as it is: a ``tenant_id`` of another name is that of one of the app's customers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from multidb.provisioners.qdrant.provision.options import TENANT_FIELD

__all__ = ["APP_FIELD", "CREATED_FIELD", "Stamp", "now"]

APP_FIELD: Final = "app_name"
CREATED_FIELD: Final = "created_at"


@dataclass(frozen=True, slots=True)
class Stamp:
    """The three fields, for one import.

    Args:
        moment: what ``created_at`` gets, in all points the same.
    """

    tenant: str
    app: str
    moment: str

    @property
    def fields(self) -> dict[str, str]:
        """By name, the value."""
        return {TENANT_FIELD: self.tenant, APP_FIELD: self.app, CREATED_FIELD: self.moment}

    def on(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The point with those fields that it lacks, or has nothing in."""
        payload = point.get("payload") or {}
        lacking = {name: value for name, value in self.fields.items() if payload.get(name) in (None, [])}
        return {"id": point["id"], "payload": {**payload, **lacking}, "vector": point.get("vector") or {}}


def now() -> str:
    """The present moment, as a client of ours writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
