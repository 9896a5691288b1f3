"""Statements as the lines of a script that psql takes: each on one line, whatever its names have in them. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from multidb.provisioners.postgres.provision.quoting import identifier

__all__ = ["lines", "printable"]

_TOKEN: Final = re.compile(r"""U&"(?:[^"]|"")*"|E?'(?:[^'\\]|''|\\.)*'|"(?:[^"]|"")*\"""", re.DOTALL)
_BREAKING: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})  # controls, and what prints as nothing or ends a line


def lines(*statements: str, database: str = "") -> tuple[str, ...]:
    """The lines; a statement inside a database does nothing, or harm, in another, so that it is entered first."""
    enter = (rf"\connect {identifier(database)}",) if database else ()
    return (*enter, *(f"{printable(text)};" for text in statements))


def printable(text: str) -> str:
    """The same statement without a character that would break its line, or hide in it: names and texts that have one
    are written with escapes."""
    return _TOKEN.sub(lambda match: _escaped(match.group()), text)


def _escaped(token: str) -> str:
    if not any(unicodedata.category(letter) in _BREAKING for letter in token):
        return token
    quote = token[-1]
    if token.startswith("E"):  # a constant that has its escapes already
        return _with_escapes(token, r"\u{:04x}", r"\U{:08x}")
    inside = token if token.startswith("U&") else "U&" + quote + token[1:-1].replace("\\", "\\\\") + quote
    return _with_escapes(inside, r"\{:04X}", r"\+{:06X}")


def _with_escapes(token: str, short: str, long: str) -> str:
    def escaped(letter: str) -> str:
        if unicodedata.category(letter) not in _BREAKING:
            return letter
        return (short if ord(letter) < 0x10000 else long).format(ord(letter))

    return "".join(map(escaped, token))
