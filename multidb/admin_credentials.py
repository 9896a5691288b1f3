"""The passwords of servers' admins while one replaces the other: how far that has come, and which may be taken.

It stands in the section ``admin-rotation`` of the state. Two passwords are kept from before the server is told of the
new one until that was tried and the former is refused, so whatever it was interrupted by, one of the two is let in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from multidb.document import moment
from multidb.secrets import Secret, SecretRef
from multidb.state import ProjectState

__all__ = [
    "AdminChange",
    "AdminPhase",
    "admin_changes",
    "admin_ref",
    "alternate_password",
    "forget_admin_change",
    "former_ref",
    "next_ref",
    "other_password",
    "record_admin_change",
]

_SECTION: Final = "admin-rotation"


class AdminPhase(StrEnum):
    """How far a rotation has come."""

    CHANGING = "changing"  # the server is being told of the new password; the former may be the one that it takes
    REVERTING = "reverting"  # the same the other way: it is being told of the former one again
    CHANGED = "changed"  # the new one was tried and is multidb's; the former may be taken, too
    FINISHING = "finishing"  # the former one is being dropped
    DONE = "done"


@dataclass(frozen=True, slots=True)
class AdminChange:
    """What is recorded of the rotation of one server's admin password.

    Args:
        since: when the phase began, in UTC; of one that is done, since when there has been this password.
    """

    server: str
    store: str
    phase: AdminPhase
    since: datetime

    @property
    def under_way(self) -> bool:
        """Whether there is something left to do."""
        return self.phase is not AdminPhase.DONE


def admin_ref(server: str, store: str) -> SecretRef:
    """The name of the password of the server's admin."""
    return SecretRef(f"@{server}", store, "admin")


def next_ref(server: str, store: str) -> SecretRef:
    """The name of the one that is to follow it."""
    return replace(admin_ref(server, store), name="admin-next")


def former_ref(server: str, store: str) -> SecretRef:
    """The name of the one before it, until the server refuses that."""
    return replace(admin_ref(server, store), name="admin-former")


def admin_changes(state: ProjectState) -> dict[str, AdminChange]:
    """Every one that is recorded, by server.

    Raises:
        UsageError: the state cannot be understood.
    """

    def read(server: str, entry: Mapping[str, Any]) -> AdminChange:
        return AdminChange(server, entry["store"], AdminPhase(entry["phase"]), moment(entry["since"]))

    return state.entries(_SECTION, "rotations of admins' passwords", read)


def record_admin_change(state: ProjectState, change: AdminChange) -> None:
    """Writes it down in place of an earlier one of the same server."""
    entry: Mapping[str, str] = {
        "store": change.store,
        "phase": change.phase.value,
        "since": change.since.isoformat(timespec="seconds"),
    }
    with state.change(_SECTION) as section:
        section[change.server] = dict(entry)


def forget_admin_change(state: ProjectState, server: str) -> None:
    """Nothing is known of a rotation that was taken back, or of a server that is gone."""
    if server in state.read(_SECTION):
        with state.change(_SECTION) as section:
            section.pop(server, None)


def other_password(state: ProjectState, server: str, store: str) -> Secret | None:
    """The password beside the admin's own that the server may take instead, because one is replacing the other; None
    where none is being replaced. It is there until that is done, also where the record of it was lost."""
    change = admin_changes(state).get(server)
    if change is None or not change.under_way:
        return state.secrets.get(next_ref(server, store)) or state.secrets.get(former_ref(server, store))
    ref = next_ref if change.phase in (AdminPhase.CHANGING, AdminPhase.REVERTING) else former_ref
    return state.secrets.get(ref(server, store))


def alternate_password(state: ProjectState, server: str, store: str) -> Secret | None:
    """The password that a server is to be given at its start beside the admin's own, where it can have two."""
    change = admin_changes(state).get(server)
    both = change is not None and change.phase in (AdminPhase.CHANGING, AdminPhase.CHANGED)
    return other_password(state, server, store) if both else None
