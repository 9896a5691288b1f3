"""The names that an app had before, as they stand beside its sets on a target: another machine has no other memory of
them. Pure.

``<project>/<app>/renamed_from.json`` says which sets under other names are the app's. It is a text that anybody who
writes to the target may have changed: it says whose a set is, and gives no more power than a set under another name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from multidb.document import Unreadable, moment, parse
from multidb.renames import FormerName
from multidb.validation import AppId, Document, MomentText, validated

__all__ = ["NAMES", "names_in", "names_text"]

NAMES: Final = "renamed_from.json"
_LARGEST: Final = 1024**2  # bytes
_FORMAT: Final = "multidb names 1"


class _NameDocument(Document):
    from_: Annotated[AppId, Field(alias="from")]
    until: MomentText


class _NamesDocument(Document):
    format: Literal["multidb names 1"]
    names: Annotated[list[_NameDocument], Field(max_length=1000)]


_NAMES: Final = TypeAdapter(_NamesDocument)


def names_text(new: str, names: Iterable[FormerName]) -> str:
    """The file of the app called `new`, of those of the names that became it."""
    entries = [
        {"from": name.old, "until": name.when.isoformat(timespec="seconds")}
        for name in sorted(set(names))
        if name.new == new
    ]
    return json.dumps({"format": _FORMAT, "names": entries}, indent=1) + "\n"


def names_in(text: bytes, new: str) -> tuple[FormerName, ...]:
    """What the file of the app called `new` says; nothing where it is not one of ours, which costs no set."""
    try:
        document = validated(parse(text, _LARGEST), _NAMES)
    except Unreadable:
        return ()
    return tuple(FormerName(moment(name.until), name.from_, new) for name in document.names if name.from_ != new)
