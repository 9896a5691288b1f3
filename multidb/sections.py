"""What may stand in each section of ``state.json``. Pure.

Whoever keeps a section says here what is in it; what reads it gets plain values of exactly this shape. A section that
is not here is only known to be a mapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final

from pydantic import Field, JsonValue, TypeAdapter

from multidb.document import Unreadable
from multidb.validation import AppId, Count, Document, MomentText, PathInside, validated

__all__ = ["ANY", "SECTIONS", "StateSection"]

_Port = Annotated[int, Field(ge=1, le=65535)]
_Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Seconds = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class StateSection:
    """The shape of one section.

    Args:
        shape: what it is read as, a type; pydantic looks at it when the section is first read.
        losable: what is wrong in it is left out, since it comes back by itself; elsewhere it is an error.
    """

    shape: Any
    losable: bool = False

    def read(self, value: object) -> dict[str, Any]:
        """The section as it stands in the state, when it has this shape. `Unreadable` when it has not, and may not be
        lost."""
        if self._fits(value):
            assert isinstance(value, dict)
            return value
        if not self.losable:
            validated(value, _adapter(self.shape))  # says what is wrong
        entries = value.items() if isinstance(value, dict) else ()
        return {name: entry for name, entry in entries if self._fits({name: entry})}

    def _fits(self, value: object) -> bool:
        try:
            validated(value, _adapter(self.shape))
        except Unreadable:
            return False
        return True


class _Loose(Document, extra="allow"):
    """Something that later versions add to."""


class _Process(Document):
    name: str
    store: str
    folder: str
    pid: Annotated[int, Field(ge=1, le=2**31 - 1)]
    started: _Seconds
    ports: dict[str, _Port] = Field(default_factory=dict)
    options: str = ""


class _Edit(Document):
    file: PathInside
    before: str
    after: str
    entry: dict[str, JsonValue]


class _Removed(_Loose):
    phase: str
    since: MomentText
    until: MomentText
    backup: str
    edits: list[_Edit]


class _Closed(_Loose):
    of: AppId
    masked: bool
    restore: str = ""
    exchange: str = ""


class _Alternation(_Loose):
    current: str
    phase: str
    since: MomentText
    issued: dict[str, MomentText]
    serials: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)


class _AdminChange(_Loose):
    store: str
    phase: str
    since: MomentText


class _Rename(_Loose):
    to: AppId
    phase: str
    since: MomentText
    final_set: str


class _FormerName(_Loose):
    from_: Annotated[AppId, Field(alias="from")]
    to: AppId
    until: MomentText


class _FormerNames(_Loose):
    names: list[_FormerName] = Field(default_factory=list)


class _Move(_Loose):
    store: str
    phase: str
    from_: Annotated[dict[str, JsonValue], Field(alias="from")]
    to: dict[str, JsonValue]
    since: MomentText
    final_set: str


class _Making(_Loose):
    folder: PathInside
    to: list[str]


class _Verifying(_Loose):
    stores: list[str]


class _Restoring(_Loose):
    set: str
    of: AppId
    target: str
    stores: list[str]
    phase: str
    closing: bool = False
    lasting: list[str] = Field(default_factory=list)
    exchanged: list[str] = Field(default_factory=list)


class _Importing(_Loose):
    sources: dict[str, str]
    phase: str
    closing: bool = False
    exchanged: list[str] = Field(default_factory=list)


class _Following(_Loose):
    sources: dict[str, str]
    typed: dict[str, str]
    mark: str
    phase: str
    since: MomentText


class _Copying(_Loose):
    id: str
    from_: Annotated[str, Field(alias="from")]
    to: list[str]


class _Work(_Loose):
    making: dict[AppId, _Making] = Field(default_factory=dict)
    paused: dict[AppId, dict[str, JsonValue]] = Field(default_factory=dict)
    verifying: dict[AppId, _Verifying] = Field(default_factory=dict)
    restoring: dict[AppId, _Restoring] = Field(default_factory=dict)
    importing: dict[AppId, _Importing] = Field(default_factory=dict)
    following: dict[AppId, _Following] = Field(default_factory=dict)
    copying: dict[AppId, _Copying] = Field(default_factory=dict)


class _Failed(_Loose):
    when: MomentText
    message: str


class _Bad(_Loose):
    id: str
    message: str


class _Known(_Loose):
    newest: str | None = None
    when: MomentText | None = None
    sizes: dict[str, Count] = Field(default_factory=dict)
    failed: _Failed | None = None
    verified: MomentText | None = None
    verified_set: str | None = None
    tried: MomentText | None = None
    bad: _Bad | None = None


class _ArchivedServer(_Loose):
    stream: str
    identity: str
    last: str
    snapshot: str
    since: MomentText
    when: MomentText | None = None
    base: MomentText | None = None
    base_id: str | None = None
    failed: _Failed | None = None


class _KeptCopy(_Loose):
    app: AppId
    stream: str
    base: str
    at: MomentText
    since: MomentText


class _SentAlarm(_Loose):
    kind: str
    app: str | None
    store: str | None
    since: MomentText
    at: MomentText
    message: str
    fix: str
    ended: bool


class _Audit(_Loose):
    finished: MomentText
    ok: bool
    probes: Count
    breaches: Count
    holes: Count
    unproved: Count
    errors: Count


class _Compose(_Loose):
    volumes: list[str] = Field(default_factory=list)


class _Identity(_Loose):
    id: str
    project: str


class _Moved(_Loose):
    to: str


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


SECTIONS: Final = {
    "ports": StateSection(dict[str, _Port]),
    "numbers": StateSection(dict[str, dict[AppId, _Number]]),
    "processes": StateSection(dict[str, _Process], losable=True),  # a process of ours is found by its mark
    "skipped": StateSection(dict[str, str], losable=True),
    "products": StateSection(dict[str, str]),
    "offline": StateSection(dict[str, bool]),
    "compose": StateSection(_Compose),
    "restricted": StateSection(dict[str, list[AppId]]),
    "issued": StateSection(dict[AppId, MomentText], losable=True),  # then an age is not known
    "removed": StateSection(dict[AppId, _Removed]),
    "secrets-from": StateSection(dict[str, JsonValue]),  # where `secrets move` was taking them from when it was cut off
    "closed": StateSection(dict[AppId, _Closed]),
    "alternation": StateSection(dict[AppId, dict[str, _Alternation]]),
    "admin-rotation": StateSection(dict[str, _AdminChange]),
    "renames": StateSection(dict[AppId, _Rename]),
    "renamed": StateSection(_FormerNames),
    "moves": StateSection(dict[AppId, _Move]),
    "backup-work": StateSection(_Work),
    "backups": StateSection(dict[AppId, _Known], losable=True),  # then a backup is due, and a proof
    "continuous": StateSection(dict[str, _ArchivedServer], losable=True),  # then an archive begins anew
    "copies": StateSection(dict[str, _KeptCopy], losable=True),  # then a copy is made anew
    "told": StateSection(dict[str, list[_SentAlarm]], losable=True),  # then it is told again
    "audit": StateSection(_Audit, losable=True),
    "identity": StateSection(_Identity),
    "moved": StateSection(_Moved),
    "seen": StateSection(dict[str, str], losable=True),
}
"""By name. Sections that are not losable hold what nobody else knows."""

ANY: Final = StateSection(dict[str, JsonValue])
"""What has a name that is not known here."""
