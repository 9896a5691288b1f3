"""ACL users and keys that are on a server already, as places that apps could have there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from multidb.document import APP_ID, printable
from multidb.model import ExistingPlace, counted
from multidb.provisioners.redis.provision.options import FIRST_DB
from multidb.provisioners.redis.provision.resources import NOTE_USER, RedisFacts, marks_of
from multidb.provisioners.redis.provision.rules import Rule

__all__ = ["ExistingUsers", "places"]

_PREFIX: Final = re.compile(rf"({APP_ID}):\*")


@dataclass(frozen=True, slots=True)
class ExistingUsers:
    """What was read: the users, what the server is, and how many keys each DB has."""

    rules: Mapping[str, Rule]
    facts: RedisFacts
    own: frozenset[str] = frozenset()  # users that multidb makes for a step


def places(read: ExistingUsers, known: Collection[str]) -> list[ExistingPlace]:
    """A place for each user that is confined to one DB or one prefix; what is confined to nothing, and keys that nobody
    is confined to, are no app's."""
    users = [
        _user(rule)
        for name, rule in sorted(read.rules.items())
        if name not in ("default", read.facts.admin, NOTE_USER) and name not in read.own
    ]
    return [*_without_doubles(users), *_keys(read, {place.options.get("db") for place in users})]


def _user(rule: Rule) -> ExistingPlace:
    numbers = rule.database_numbers
    if marks := marks_of(rule):
        owner, number = marks[0]
        return ExistingPlace("user", rule.user, owner.app, {"db": number}, owner)
    prefixes = {match[1] if (match := _PREFIX.fullmatch(key)) else "" for key in rule.keys}
    named = rule.user.removesuffix("_user")
    if not rule.enabled:
        return ExistingPlace("user", rule.user, reason="it is turned off")
    if rule.selectors:
        return ExistingPlace("user", rule.user, reason="its rule has selectors, which the manifest cannot say")
    if len(prefixes) == 1 and (prefix := prefixes.pop()):
        return ExistingPlace("user", rule.user, prefix, {"isolation": "prefix"}, accounts=_beside(rule, prefix))
    if len(numbers) != 1:
        return ExistingPlace("user", rule.user, reason="it is confined to no single DB, and to no prefix <app>:*")
    if numbers[0] < FIRST_DB:
        return ExistingPlace("user", rule.user, reason="it works in DB 0, in which connections begin")
    if not re.fullmatch(APP_ID, named):
        return ExistingPlace("user", rule.user, reason=f"{printable(named)!r} is no id of an app")
    return ExistingPlace("user", rule.user, named, {"db": numbers[0]}, accounts=_beside(rule, named))


def _beside(rule: Rule, app: str) -> tuple[str, ...]:
    return () if rule.user == f"{app}_user" else (rule.user,)


def _without_doubles(users: list[ExistingPlace]) -> Iterator[ExistingPlace]:
    """An app has one place: of several users of it that say different things, the first holds."""
    first: dict[str, ExistingPlace] = {}
    for place in users:
        other = first.setdefault(place.app, place) if place.app else place
        if other.options == place.options:
            yield place
        else:
            reason = f"{printable(other.name)} has another place of app {place.app}"
            yield ExistingPlace(place.kind, place.name, reason=reason)


def _keys(read: ExistingUsers, numbers: Collection[object]) -> Iterator[ExistingPlace]:
    for number, keys in sorted(read.facts.keys.items()):
        if number < FIRST_DB:
            reason = f"{counted(keys, 'key')}; connections begin in it, so it is no app's own"
            yield ExistingPlace("DB", str(number), reason=reason)
        elif number not in numbers:
            reason = f"{counted(keys, 'key')}, and no user is confined to it; an app's has redis: {{db: {number}}}"
            yield ExistingPlace("DB", str(number), reason=reason)
