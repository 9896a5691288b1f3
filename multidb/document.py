"""Documents that are read back: what multidb has written, and what anybody may have written in its place since.

A set's manifest lies on storage that others can write, a state comes from an old copy, a plan was edited by hand. So
every one of them goes through `parse` (text to plain values, within limits) and a schema (`multidb.validation`), and
every path in one through `inside`. Whatever is wrong is an `Unreadable` with words for people; who reads the document
says where it is and what to do.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

__all__ = [
    "APP_ID",
    "Unreadable",
    "digest",
    "in_future",
    "inside",
    "moment",
    "parse",
    "printable",
]

APP_ID: Final = r"[a-z][a-z0-9_]{0,29}[a-z0-9]"
_DEEPEST: Final = 64  # levels; what multidb writes has a dozen
_DIGITS: Final = 19  # of a whole number: 64 bits, as every reader of JSON has them
_SKEW: Final = timedelta(minutes=5)  # between the clocks of two machines
_FIRST_YEAR, _LAST_YEAR = 1970, 2500  # room for every duration to be added or taken away
_LONGEST_PATH, _LONGEST_NAME = 1024, 255  # characters; what S3 and what file systems take
_LONGEST_SHOWN: Final = 80
_SEPARATORS: Final = re.compile(r"[\x00-\x1f\x7f\\]")


class Unreadable(ValueError):
    """What is wrong with a document or a path, in words that go after its name: ``is not JSON``."""


def parse(text: bytes | str, largest: int) -> Any:
    """The plain values of a JSON text.

    Stricter than JSON where readers differ: a key stands once, a number is finite and fits 64 bits, text can be written
    as UTF-8, and nesting ends at 64 levels.

    Args:
        largest: bytes of the longest text that is looked at.

    Raises:
        Unreadable: it is none, or breaks one of these rules.
    """
    if len(text) > largest:
        raise Unreadable(f"is larger than {largest // 1024**2} MB")
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable("is not UTF-8 text") from None
    try:
        value = json.loads(
            decoded,
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_no_number,
        )
    except RecursionError:
        raise Unreadable(f"nests more than {_DEEPEST} levels deep") from None
    except Unreadable:
        raise
    except ValueError:
        raise Unreadable("is not JSON") from None
    _check(value)
    return value


def digest(text: bytes) -> str:
    """By which a text is known again: its SHA-256, in hexadecimal digits."""
    return hashlib.sha256(text).hexdigest()


def printable(text: str, longest: int = _LONGEST_SHOWN) -> str:
    """Text of a document as an error shows it: one line, short, and nothing in it that steers a terminal."""
    shown = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text[: longest + 1]
    )
    return shown if len(shown) <= longest else f"{shown[:longest]}..."


def inside(path: str) -> str:
    """`path`, when it names something inside whatever folder it is relative to, on every system alike.

    Lexical: a folder's own links are for whoever opens the file (`multidb.files.within`, the targets).

    Raises:
        Unreadable: it is absolute, empty, too long, has ``..``, ``.`` or an empty part, a backslash or a control
            character in it, or is no text that a file can be named by.
    """
    parts = path.split("/")
    too_long = len(path) > _LONGEST_PATH or any(len(part.encode("utf-8", "replace")) > _LONGEST_NAME for part in parts)
    if not path or too_long:
        raise Unreadable("a path in it is empty or too long")
    if any(part in ("", ".", "..") for part in parts) or _SEPARATORS.search(path) or not _is_text(path):
        raise Unreadable(f"a path in it may lead elsewhere: {printable(path)!r}")
    return path


def moment(text: object) -> datetime:
    """The time of an ISO text with its zone, in UTC. `Unreadable` for anything else, and where no durations could be
    added to it."""
    try:
        parsed = datetime.fromisoformat(text) if isinstance(text, str) else None
        if parsed is not None and parsed.tzinfo is not None and _FIRST_YEAR <= parsed.year <= _LAST_YEAR:
            return parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Unreadable("is no time such as 2026-11-30T12:00:00+00:00")


def in_future(written: datetime, now: datetime) -> bool:
    """Whether a time that was written down is one that has not come: a clock went wrong, then or now. A machine whose
    clock is five minutes ahead is no reason to mistrust what it wrote."""
    return written - now > _SKEW


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for name, value in pairs:
        if name in unique:
            raise Unreadable(f"says {printable(name)!r} twice")
        unique[name] = value
    return unique


def _whole(text: str) -> int:
    if len(text.removeprefix("-")) > _DIGITS or not -(2**63) <= (number := int(text)) < 2**63:
        raise Unreadable("has a number that is too large")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Unreadable("has a number that is too large")
    return number


def _no_number(text: str) -> float:
    raise Unreadable(f"has {text} for a number")


def _check(value: Any) -> None:
    """Depth and text of everything in it, without recursion."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise Unreadable(f"nests more than {_DEEPEST} levels deep")
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if not _is_text(item):
                    raise Unreadable("has text in it that is no Unicode")
            elif isinstance(item, list):
                below += item
            elif isinstance(item, dict):
                below += item.keys()
                below += item.values()
        level = below


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8; half of a pair of surrogates can not."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
