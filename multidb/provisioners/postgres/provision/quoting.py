"""Names and texts as SQL reads them back, whatever characters they have. Pure."""

from __future__ import annotations

from multidb.provisioners.postgres.provision.setting_values import stored_values

__all__ = ["assignment", "identifier", "literal", "variable"]


def identifier(name: str) -> str:
    """`name` as SQL reads it back unchanged, whatever characters it has."""
    if "\0" in name:
        raise ValueError("a name in Postgres cannot contain the NUL character")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as a string constant, whatever ``standard_conforming_strings`` says."""
    if "\0" in text:
        raise ValueError("a text in Postgres cannot contain the NUL character")
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def variable(name: str) -> str:
    """The name of a setting as SQL reads it back; ``my.own`` has two parts.

    Raises:
        ValueError: a part is empty: no statement can name it.
    """
    parts = name.split(".")
    if not all(parts):
        raise ValueError(f"{name!r} is no name of a setting")
    return ".".join(map(identifier, parts))


def assignment(name: str, value: str | None) -> str:
    """What comes after ``ALTER ROLE ...`` to give a setting a stored value again; None: to give it none.

    Raises:
        ValueError: no statement can.
    """
    values = [] if value is None else stored_values(name, value)
    return f"SET {variable(name)} = {', '.join(map(literal, values))}" if values else f"RESET {variable(name)}"
