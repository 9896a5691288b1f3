"""What a session of the admin is set to, whatever a database or a role has stored for it. Pure.

What is said when a connection is opened outranks every ``ALTER DATABASE .. SET`` and ``ALTER ROLE .. SET``, and holds
before the first statement. A server refuses a connection that names a parameter it does not know, and one that names a
superuser's parameter without being one; those can be stored by superusers only, so nobody else has to be kept from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["OLDEST", "SEARCH_PATH", "Powers", "assignments", "options", "settings"]

OLDEST: Final = 130000  # every server that is supported knows what this one knows

SEARCH_PATH: Final = "pg_catalog,pg_temp"
# search_path: neither a function nor an operator that an app has made is found by an administrator's statement, nor a
# conversion of the encoding. pg_temp stands last, or it would be searched first for tables.
_EVERYBODYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "search_path": SEARCH_PATH,
        "role": "none",
        "local_preload_libraries": "",
        # what would end the session, or a statement, at a time of somebody else's choice
        "idle_in_transaction_session_timeout": "0",
        "exit_on_error": "off",
        "tcp_user_timeout": "0",
        # what transactions are like
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off",
        "default_transaction_deferrable": "off",
        "row_security": "off",  # an error rather than an app's policy
        # how text is read and written
        "standard_conforming_strings": "on",
        "backslash_quote": "safe_encoding",
        "transform_null_equals": "off",
        "array_nulls": "on",
        "quote_all_identifiers": "off",
        "DateStyle": "ISO,YMD",
        "IntervalStyle": "postgres",
        "TimeZone": "UTC",
        "bytea_output": "hex",
        "xmlbinary": "base64",
        "xmloption": "content",
        "extra_float_digits": "3",
        "lc_monetary": "C",
        "lc_numeric": "C",
        "lc_time": "C",
        # a grant that granted nothing is told by a warning; what is below it is noise
        "client_min_messages": "warning",
        # how what is made is made
        "password_encryption": "scram-sha-256",
        "check_function_bodies": "off",
        "default_tablespace": "",
        "temp_tablespaces": "",
        "default_table_access_method": "heap",
        # compiling costs more than any question here
        "jit": "off",
    }
)
_SINCE: Final = (
    (140000, {"idle_session_timeout": "0"}),
    (160000, {"createrole_self_grant": ""}),
    (170000, {"transaction_timeout": "0"}),
)
_SUPERUSERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "session_preload_libraries": "",
        "session_replication_role": "origin",
        "allow_system_table_mods": "off",
        "lc_messages": "C",
    }
)
_SUPERUSERS_SINCE: Final = ((170000, {"event_triggers": "off"}),)
# The minor versions that first let a session refuse to look into views and foreign tables.
_RESTRICTS: Final = (130016, 140013, 150008, 160004, 170000)


@dataclass(frozen=True, slots=True)
class Powers:
    """What decides which settings a server accepts from a login.

    Args:
        version: ``server_version_num`` of the server.
        superuser: whether the login is one.
    """

    version: int = OLDEST
    superuser: bool = False

    @property
    def quiets_event_triggers(self) -> bool:
        """Whether `settings` keeps event triggers from firing."""
        return self.superuser and self.version >= _SUPERUSERS_SINCE[0][0]


def settings(powers: Powers, *, statement_timeout: int, lock_timeout: int, foreign: bool) -> dict[str, str]:
    """What a session of the admin is set to.

    Args:
        statement_timeout: milliseconds; 0 for no limit.
        lock_timeout: milliseconds; 0 for no limit.
        foreign: the database is an app's; then views and foreign tables that are not the server's own are refused.
    """
    values = {**_EVERYBODYS, "statement_timeout": str(statement_timeout), "lock_timeout": str(lock_timeout)}
    values |= _known(_SINCE, powers.version)
    if powers.superuser:
        values |= {**_SUPERUSERS, **_known(_SUPERUSERS_SINCE, powers.version)}
    if foreign and _restricts(powers.version):
        values["restrict_nonsystem_relation_kind"] = "view,foreign-table"
    return values


def options(chosen: Mapping[str, str]) -> str:
    """The settings as libpq's parameter ``options`` carries them."""
    return " ".join(f"-c {name}={_escaped(value)}" for name, value in chosen.items())


def assignments(chosen: Mapping[str, str]) -> str:
    """The settings as one query, for a session that is open already."""
    return "SELECT " + ", ".join(f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in chosen.items())


def _known(since: Iterable[tuple[int, Mapping[str, str]]], version: int) -> dict[str, str]:
    return {name: value for first, group in since if version >= first for name, value in group.items()}


def _restricts(version: int) -> bool:
    same = [first for first in _RESTRICTS if first // 10000 == version // 10000]
    return version >= (same[0] if same else _RESTRICTS[-1])


def _escaped(value: str) -> str:
    # the server parts them at any white space (pg_split_opts): a schema may have a line break and a "-c" in its name
    return re.sub(r"([\s\\])", r"\\\1", value)
