"""What a place has to be in which a project's state is kept, and what all of them have in common. Pure.

The places are a folder of this machine (`multidb.state_folder`), S3 (`multidb.state_stores`), and with the store whose
servers can be one (`Provisioner.state_store`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from secrets import token_hex
from typing import Any, Final, Protocol, TypeAlias

from multidb.document import Unreadable, parse, printable
from multidb.errors import Locked, NewerFormat, Refused, UsageError
from multidb.formats import STATE, NewerVersion

__all__ = [
    "TURN",
    "FILES",
    "RESTORE",
    "HeldLock",
    "Holder",
    "Kept",
    "KeptFile",
    "StateStore",
    "damaged",
    "identified",
    "is_kept_file",
    "lock_of",
    "locked",
    "refuse_moved",
    "refuse_other_project",
    "state_of",
    "state_text",
]

Holder: TypeAlias = Mapping[str, object]
"""Who holds a lock: ``command``, ``user`` (with the host), ``pid``, ``since``, as `multidb.state.holder` tells it."""

TURN: Final = 60.0  # seconds in which one process has done what takes some: it stands still
_LARGEST: Final = 256 * 1024**2  # bytes; a removed app's tombstone holds whole manifests
FILES: Final = ("health.json", "usage.jsonl", "baseline/*.json", "history/*.json", "history/*.jsonl")
"""The texts that multidb keeps beside the state, by pattern."""

RESTORE: Final = (
    "restore it from a copy; without one, move it away, then: multidb plan reads back from the servers what they know"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """The state as it was read.

    Args:
        document: its sections, and ``version``; empty where there is none yet. Not to be changed.
        version: another one whenever the state has been written; None where there is none.
    """

    document: Mapping[str, Any]
    version: object = None


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A text that is kept beside the state, as it was read.

    Args:
        text: None where there is none.
        version: another one whenever it has been written; None where there is none.
    """

    text: str | None = None
    version: object = None


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock that somebody holds.

    Args:
        id: by which a person takes it from its holder (`StateStore.unlock`).
        command, user, pid, since: its holder; empty and 0 where that is not known.
        until: the end of its lease, ISO text in UTC by the place's own clock; empty where it lasts as long as its
            holder's process or connection.
    """

    id: str
    name: str
    command: str = ""
    user: str = ""
    pid: int = 0
    since: str = ""
    until: str = ""

    @property
    def who(self) -> str:
        """The holder, for people."""
        if not self.command:
            return "it has just started"
        return printable(f"{self.command} by {self.user}, process {self.pid}, since {self.since}", 200)

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class StateStore(Protocol):
    """One project's state in one place. Any thread may call it, also at once.

    A place that does not answer, or does not let multidb in, is `StateUnavailable` for every method; it is never an
    empty state. What is there and cannot be understood is `UsageError`, `NewerFormat` where a newer multidb wrote it,
    `Refused` where it is another project's.
    """

    @property
    def title(self) -> str:
        """What a person calls the place; no secret in it."""

    def damaged(self, reason: str) -> UsageError:
        """That what is there makes no sense, with the way on."""

    def read(self) -> Kept:
        """The newest state. Whoever has written before sees it."""

    def change(self, holder: Holder) -> AbstractContextManager[dict[str, Any]]:
        """The state, to be changed in the block and written when that ends well: whole, in the place of exactly what
        was read, and by one run at a time. What else is raised in the block changes nothing.

        Raises:
            Locked: one other run has been changing it for a minute; or a lock that this one held was taken from it.
        """

    def lock(
        self, name: str, holder: Holder, timeout: float = 0.0, waiting: Callable[[str], None] | None = None
    ) -> AbstractContextManager[None]:
        """Keeps every other holder of the lock `name` out while the block runs, wherever it works. A holder that dies
        loses it.

        Args:
            timeout: seconds to wait for one and the same holder.
            waiting: told who has it, each time when that is another.

        Raises:
            Locked: another run holds it; says who, since when and how it is ended.
        """

    def locks(self) -> Sequence[HeldLock]:
        """The locks that are held now, by name."""

    def unlock(self, lock_id: str) -> HeldLock:
        """Takes a lock from its holder, who can write nothing from then on.

        Raises:
            UsageError: none of this id is held.
            Refused: its holder is a process of this machine, which is ended instead.
        """

    def read_file(self, name: str) -> KeptFile:
        """A text that is kept beside the state: what grows, or is written more often than the state.

        Args:
            name: of ours, such as ``usage.jsonl`` or ``baseline/postgres.json``.
        """

    def write_file(self, name: str, text: str, version: object) -> bool:
        """Puts a text beside the state, whole, in the place of the version that was read (None: of nothing).

        Returns:
            False where another run has written it since; nothing was written then.
        """

    def file_names(self) -> Sequence[str]:
        """The texts beside the state that are there and go with it."""


def is_kept_file(name: str) -> bool:
    """Whether a text of this name is one that goes with the state."""
    return any(fnmatch(name, pattern) for pattern in FILES)


def lock_of(lock_id: str, name: str, holder: object, until: str = "") -> HeldLock:
    """A lock with what its holder has written of itself."""
    match holder:
        case {"command": str(command), "user": str(user), "pid": int(pid), "since": str(since)}:
            return HeldLock(lock_id, name, command, user, pid, since, until)
    return HeldLock(lock_id, name, until=until)


def locked(held: HeldLock, where: str) -> Locked:
    """That another run holds the lock, for a place that is not of one machine."""
    by_itself = f" (a dead one loses its lock at {held.until[11:19]} UTC)" if held.until else ""
    hint = (
        f"wait for it to end{by_itself}, then run the command again; when it is dead for certain: "
        f"multidb state unlock {held.id}"
    )
    return Locked(f"another run works here: {held.who}", where=where, hint=hint)


def state_text(document: Mapping[str, Any]) -> str:
    """The state as it is written down, in the format of this multidb. `state_of` reads it."""
    return json.dumps({**document, "version": STATE.version}, indent=1, sort_keys=True) + "\n"


def state_of(
    text: str | bytes,
    where: str,
    lost: str = RESTORE,
) -> dict[str, Any]:
    """The state that a text of `state_text` holds.

    Args:
        where: where the text stands.
        lost: what to do about one that is damaged.

    Raises:
        NewerFormat: a newer multidb has written it.
        UsageError: it is damaged.
    """
    try:
        document = parse(text, _LARGEST)
        if not isinstance(document, dict):
            raise Unreadable("is not what multidb writes")
        document = STATE.upgraded(document, document.get("version", 1))
        if not all(isinstance(section, dict) for name, section in document.items() if name != "version"):
            raise Unreadable("has a section that is none")
    except NewerVersion as wrong:
        raise NewerFormat(str(wrong), where=where, hint="use the multidb that wrote it, or a newer one") from None
    except Unreadable as wrong:
        raise damaged(str(wrong), where, lost) from None
    return document


def damaged(reason: str, where: str, hint: str) -> UsageError:
    """That what stands there makes no sense."""
    return UsageError(f"is damaged: it {reason}", where=where, hint=hint)


def identified(document: dict[str, Any], project: str) -> None:
    """Has a state that is written for the first time say whose it is."""
    document.setdefault("identity", {"id": token_hex(8), "project": project})


def refuse_other_project(document: Mapping[str, Any], project: str, where: str) -> None:
    """`Refused` where the state is another project's."""
    owner = document.get("identity", {}).get("project", project)
    if owner != project:
        raise Refused(
            printable(f"is the state of the project {owner}, and this is {project}", 200),
            where=where,
            hint="have the manifest name another place after state:",
        )


def refuse_moved(document: Mapping[str, Any], where: str) -> None:
    """`Refused` where the state has been moved away; says where to. What does not say where to is damaged."""
    if "moved" in document:
        to = document["moved"].get("to")
        if not isinstance(to, str) or not to:
            raise damaged("does not say where it was moved to", where, RESTORE)
        place = printable(to, 200)
        raise Refused(
            f"the state of this project was moved to {place}",
            where=where,
            hint=f"have the manifest say so, or let this do it: multidb state move --to {place}",
        )
