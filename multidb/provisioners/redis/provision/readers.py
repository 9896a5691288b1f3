"""Short-lived ACL users that can only read in one app's place, made for a question and deleted after it. Pure.

An app has one login, which writes. What may not write has to be somebody whom the server refuses it, so multidb's admin
makes a user with a part of the app's rights, for as long as the question lasts. Its name says how long that may be: a
user of that kind that is past its time was left by a killed run, counts as anybody's, and goes with the next question.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final

from multidb.provisioners.redis.provision.resources import RedisFacts, spelled
from multidb.provisioners.redis.provision.rules import ALL_DATABASES, CommandTable, Rule

__all__ = ["LONGEST", "commands_of", "expired", "is_reader", "is_reader_name", "reader_name", "rule_of"]

LONGEST: Final = 3600  # seconds that a question may take
_BEGINNING: Final = (*spelled("query").split(":"),)
_PARTS: Final = 6
_READING: Final = (
    *("-@all", "+@read", "-@write", "-@admin", "-@dangerous", "-@scripting", "-@blocking", "-@pubsub"),
    *("-@connection", "+memory|usage"),
)
_WITHIN_DB: Final = ("+keys", "+sort_ro")
_BLIND_TO_PREFIX: Final = ("-scan", "-clusterscan", "-randomkey", "-dbsize", "-keys", "-sort_ro")


def reader_name(project: str, app: str, until: int, random: str) -> str:
    """The user for one question.

    Args:
        until: when it is past its time, in seconds since 1970.
    """
    return spelled("query", project, app, str(until), random)


def is_reader_name(name: str) -> bool:
    """Whether a user is called as `reader_name` calls them."""
    return _until(name) is not None


def is_reader(rule: Rule, facts: RedisFacts) -> bool:
    """Whether a user is one of a question that may be under way, and can do no more than such a one: whoever calls
    another user so gets nothing by it."""
    until = _until(rule.user)
    now = time.time()
    limited = rule.databases != ALL_DATABASES or not facts.db_rules
    return (
        until is not None
        and now <= until <= now + 2 * LONGEST
        and not (rule.nopass or rule.selectors or rule.channels)
        and limited
        and facts.commands.granted(rule.commands).commands
        <= facts.commands.granted(commands_of(False, facts.commands)).commands | {"select"}
    )


def expired(names: Iterable[str]) -> list[str]:
    """Those of the users that a killed run has left."""
    now = time.time()
    return [name for name in names if (until := _until(name)) is not None and until < now]


def commands_of(prefix: bool, table: CommandTable) -> tuple[str, ...]:
    """What a reader may send, as tokens that this server understands: what reads by keys, and within the app's own DB
    also what reads without."""
    return table.known([*_READING, *(_BLIND_TO_PREFIX if prefix else _WITHIN_DB)])


def rule_of(keys: Sequence[str], number: int, prefix: bool, facts: RedisFacts) -> list[str]:
    """The words of ACL SETUSER for a reader, but for its password."""
    words = ["reset", "on", "resetchannels", *(f"~{pattern}" for pattern in keys)]
    if facts.db_rules:
        return [*words, f"db={number}", *commands_of(prefix, facts.commands), "+select"]
    return [*words, *commands_of(prefix, facts.commands), f"+select|{number}"]


def _until(name: str) -> int | None:
    parts = name.split(":")
    if len(parts) != _PARTS or tuple(parts[:2]) != _BEGINNING or not parts[4].isdecimal():
        return None
    return int(parts[4])
