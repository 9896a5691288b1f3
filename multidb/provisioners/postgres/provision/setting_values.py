"""Values of settings as the server stores them, read back into what a ``SET`` has to be given. Pure.

Most values are one text. Some are lists of names, stored with those quoted that need it, and the whole text would be
taken for one name.
"""

from __future__ import annotations

__all__ = ["members", "stored_values"]

# Each member is kept with its quotes (GUC_LIST_QUOTE of the server). As in dumputils.c of pg_dump.
_LISTS = frozenset(
    {
        "local_preload_libraries",
        "oauth_validator_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    }
)
_SPACE = " \t\n\r\f\v"


def stored_values(name: str, value: str) -> list[str]:
    """What ``SET name = ...`` has to be given, each of them quoted as a text, so that `value` means the same again.
    Nothing: it can only be reset.

    Args:
        value: as ``pg_db_role_setting.setconfig`` has it.

    Raises:
        ValueError: it is to be a list, and the server would not read it as one either.
    """
    if name.lower() not in _LISTS:
        return [value]
    names = members(value) or [""]
    # The server stores an empty list of a SET as one empty name; no library has it, so that no session would begin.
    return names if any(names) or not name.lower().endswith("_libraries") else []


def members(text: str) -> list[str]:
    """The names in a list as the server reads it (``SplitIdentifierString`` of its varlena.c), unquoted.

    Raises:
        ValueError: the server would not read it as a list either.
    """
    parts: list[str] = []
    at = _past_space(text, 0)
    if at == len(text):
        return parts
    while True:
        name, at = _quoted(text, at) if text[at : at + 1] == '"' else _bare(text, at)
        parts.append(name)
        at = _past_space(text, at)
        if at == len(text):
            return parts
        if text[at] != ",":
            raise ValueError(f"{text!r} is no list of names")
        at = _past_space(text, at + 1)


def _past_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _quoted(text: str, at: int) -> tuple[str, int]:
    name, at = "", at + 1
    while True:
        end = text.find('"', at)
        if end == -1:
            raise ValueError(f"{text!r} has a quote that does not end")
        name += text[at:end]
        if text[end + 1 : end + 2] != '"':
            return name, end + 1
        name, at = name + '"', end + 2


def _bare(text: str, at: int) -> tuple[str, int]:
    start = at
    while at < len(text) and text[at] != "," and text[at] not in _SPACE:
        at += 1
    if at == start:
        raise ValueError(f"{text!r} has a member without a name")
    # As downcase_identifier does in a multibyte encoding: only the letters of ASCII.
    return "".join(
        chr(ord(character) + 32) if "A" <= character <= "Z" else character for character in text[start:at]
    ), at
