"""The patterns by which a server tells keys apart (SCAN MATCH, KEYS). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["matcher"]


def matcher(pattern: bytes) -> Callable[[bytes], bool]:
    """Tells of a name whether the server would say that it matches."""
    compiled = re.compile(_expression(pattern), re.DOTALL)
    return lambda name: compiled.fullmatch(name) is not None


def _expression(pattern: bytes) -> bytes:
    """The same as a regular expression. As servers do it, a class without an end goes to the pattern's, and a backslash
    at the very end stands for itself."""
    parts: list[bytes] = []
    at = 0
    while at < len(pattern):
        character = pattern[at : at + 1]
        at += 1
        if character == b"*":
            if parts[-1:] != [b".*"]:
                parts.append(b".*")
        elif character == b"?":
            parts.append(b".")
        elif character == b"[":
            part, at = _class(pattern, at)
            parts.append(part)
        else:
            if character == b"\\" and at < len(pattern):
                character = pattern[at : at + 1]
                at += 1
            parts.append(re.escape(character))
    return b"".join(parts)


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """One of the characters behind a ``[``, and where the pattern goes on."""
    inverted = pattern[at : at + 1] == b"^"
    at += inverted
    members: set[int] = set()
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            members.add(pattern[at + 1])
            at += 2
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            first, last = sorted((pattern[at], pattern[at + 2]))
            members.update(range(first, last + 1))
            at += 3
        else:
            members.add(pattern[at])
            at += 1
    if inverted:
        members = set(range(256)) - members
    if not members:
        return b"(?!)", at + 1
    return b"[" + b"".join(b"\\x%02x" % member for member in sorted(members)) + b"]", at + 1
