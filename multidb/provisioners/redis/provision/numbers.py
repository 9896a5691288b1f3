"""Which app has which DB number. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from multidb.errors import UsageError
from multidb.model import App, Facts, counted
from multidb.provisioners.redis.provision.options import FIRST_DB, STORE, AppOptions
from multidb.provisioners.redis.provision.resources import Claim, RedisFacts, by_prefix, user_names

__all__ = ["allocate", "check", "lock_number", "more_databases"]


def more_databases(facts: RedisFacts) -> str:
    """How the server gets more DB numbers."""
    if facts.external:
        return "raise databases in the server's configuration file and restart it where it runs"
    return "raise servers.redis.databases and restart the server: multidb restart redis"


def lock_number(facts: RedisFacts) -> int:
    """The DB that holds the lock of an apply: one that no app can get into, and so can neither take nor break the lock.

    Without database rules every app reaches DB 0; there it is the last one, which is given to nobody unless asked for.
    """
    if facts.db_rules or facts.databases is None or facts.databases <= FIRST_DB + 1:
        return 0
    last = facts.databases - 1
    return last if all(claim.db != last for claim in facts.claims) else 0


def allocate(apps: Sequence[App], facts: Facts, recorded: Mapping[str, int]) -> Mapping[str, int]:
    """The DB number of each app; 0 for an app that lives in DB 0 under its prefix.

    An explicit ``db`` wins over what the app's mark on the server says, that over `recorded` (which may be of an old
    copy of the state: whatever it says of a number that an app's mark is on counts for nothing), that over the lowest
    free number. A number is free when no app has it or ever had it (`recorded` keeps removed apps), no ACL user on the
    server is limited to it, and its DB is empty.

    Raises:
        UsageError: two apps with one number, also where one is of another project, a number that the server does not
            have, or none left; or an app that is to be elsewhere than its keys are.
    """
    facts = RedisFacts.of(facts)
    prefixed = [app for app in apps if by_prefix(app, facts)]
    numbered = [app for app in apps if not by_prefix(app, facts)]
    _check_modes(prefixed, numbered, facts)
    claims = _by_user(facts)
    marked = _marked(apps, claims)
    recorded = {app: number for app, number in recorded.items() if marked.get(number, app) == app}
    foreign = _foreign_numbers(apps, facts, recorded, marked)
    for app in apps:
        held = _only(facts.marked(app.id) - {0}, app, recorded)
        _check_place(app, held if held not in foreign else None, facts)
    taken = dict(foreign)
    numbers = {app.id: 0 for app in prefixed}

    def give(app: App, number: int) -> None:
        if number in taken:
            raise _refusal(app, f"DB {number} belongs to {taken[number]}", "give one of them another db: number")
        _check_range(app, number, facts)
        numbers[app.id], taken[number] = number, f"app {app.id}"

    for app in numbered:
        if (wish := AppOptions.of(app.stores[STORE]).db) is not None:
            give(app, wish)
    for app in numbered:
        held = _held(app, claims, recorded)
        if app.id not in numbers and held is not None and held in foreign and marked.get(held) == app.id:
            raise _claimed_twice(app, held, foreign[held])
        if app.id not in numbers and held is not None and held not in foreign:
            give(app, held)
    never = {*recorded.values(), *facts.keys, *(claim.db for claim in facts.claims), lock_number(facts)}
    free = (number for number in itertools.count(FIRST_DB) if number not in never and number not in taken)
    for app in numbered:
        if app.id not in numbers:
            give(app, next(free))
    return numbers


def check(apps: Sequence[App]) -> Iterator[tuple[App, str]]:
    """Apps that ask for the same DB number."""
    holders: dict[int, list[App]] = {}
    for app in apps:
        if (wish := AppOptions.of(app.stores[STORE]).db) is not None:
            holders.setdefault(wish, []).append(app)
    for number, sharing in holders.items():
        for app in sharing if len(sharing) > 1 else ():
            others = ", ".join(f"{other.id} ({other.where})" for other in sharing if other is not app)
            yield app, f"app {app.id} asks for redis db {number}, and so does {others}"


def _foreign_numbers(
    apps: Sequence[App], facts: RedisFacts, recorded: Mapping[str, int], marked: Mapping[int, str]
) -> dict[int, str]:
    """The numbers that none of `apps` may have, and whose they are."""
    ids = {app.id for app in apps}
    users = {name for app in ids for name in user_names(app)}
    others = {number: f"app {app}, which had it before" for app, number in recorded.items() if app not in ids}
    claims = [claim for claim in facts.claims if claim.user not in users]
    return others | {claim.db: str(claim) for claim in claims if claim.owner is not None or claim.db not in marked}


def _by_user(facts: RedisFacts) -> dict[str, list[Claim]]:
    claims: dict[str, list[Claim]] = {}
    for claim in facts.claims:
        claims.setdefault(claim.user, []).append(claim)
    return claims


def _marked(apps: Sequence[App], claims: Mapping[str, Sequence[Claim]]) -> dict[int, str]:
    """By number, the app of the manifest whose mark is on it alone."""
    marked: dict[int, str] = {}
    for app in apps:
        own = _of(app, claims)
        numbers = {claim.db for claim in own if claim.owner is not None and claim.owner.app == app.id} - {0}
        if len(numbers) == 1:
            marked.setdefault(numbers.pop(), app.id)
    return marked


def _of(app: App, claims: Mapping[str, Sequence[Claim]]) -> list[Claim]:
    """What the app's users claim."""
    return [claim for name in user_names(app.id) for claim in claims.get(name, ())]


def _held(app: App, claims: Mapping[str, Sequence[Claim]], recorded: Mapping[str, int]) -> int | None:
    """The number that the app has already: by its mark on the server, else by what is recorded."""
    return _only({claim.db for claim in _of(app, claims)} - {0}, app, recorded)


def _only(numbers: Collection[int], app: App, recorded: Mapping[str, int]) -> int | None:
    """The number of these, where it is one; else the recorded one."""
    return next(iter(numbers)) if len(numbers) == 1 else recorded.get(app.id) or None


def _check_place(app: App, held: int | None, facts: RedisFacts) -> None:
    """An app is not sent away from its keys: nothing takes them along, and a number that it leaves is free for others,
    with all that is in it.

    Args:
        held: the app's number so far, which is nobody else's too.
    """
    prefixed, wish = by_prefix(app, facts), AppOptions.of(app.stores[STORE]).db
    if 0 in facts.marked(app.id) and not prefixed:  # what it has there is not counted by itself
        has, there = "what it has is", "DB 0, under its prefix"
        keep = "isolation: prefix"
    elif held and facts.keys.get(held) and (prefixed or wish not in (None, held)):
        has, there = f"{counted(facts.keys[held], 'key')} of it are", f"DB {held}"
        keep = f"db: {held}"
    else:
        return
    raise _refusal(
        app,
        f"app {app.id} is to be elsewhere, and {has} in {there}, where that would stay",
        f"let the manifest say {keep} again (apps.{app.id}.redis); from there, to take it along: "
        f"multidb remove-app {app.id}, which makes a set, multidb purge {app.id}, then the new entry, multidb apply, "
        "and multidb restore SET",
    )


def _check_range(app: App, number: int, facts: RedisFacts) -> None:
    if facts.databases is None or number < facts.databases:
        return
    hint = more_databases(facts)
    if facts.cluster:
        hint = "a cluster has only these; set isolation: prefix"
    raise _refusal(app, f"DB {number} is beyond the server's last one, {facts.databases - 1}", hint)


def _check_modes(prefixed: Sequence[App], numbered: Sequence[App], facts: RedisFacts) -> None:
    """Without database rules an app with a DB of its own reaches DB 0 too, where the apps with a prefix live."""
    if facts.db_rules:
        return
    users = {name for app in (*prefixed, *numbered) for name in user_names(app.id)}
    others = [claim for claim in facts.claims if claim.owner is not None and claim.user not in users]
    in_zero = [f"app {app.id}" for app in prefixed] + [str(claim) for claim in others if claim.db == 0]
    if prefixed and (outside := [claim for claim in others if claim.db != 0]):
        raise _mixed(prefixed[0], "prefix", str(outside[0]), facts)
    if numbered and in_zero:
        raise _mixed(numbered[0], "database", in_zero[0], facts)


def _mixed(app: App, mode: str, other: str, facts: RedisFacts) -> UsageError:
    return _refusal(
        app,
        f"isolation: {mode} does not go with that of {other}: {facts.product} {facts.version} has no database rules, "
        "so an app with a DB of its own reaches DB 0, where apps with a prefix live",
        "give all apps of this server the same isolation, or use Valkey 9.1.1 or later",
    )


def _claimed_twice(app: App, number: int, other: str) -> UsageError:
    """Its data is there, so it cannot have another number unless somebody says so."""
    return _refusal(
        app,
        f"DB {number} is marked as that of app {app.id} and of {other}: both see what is in it",
        f"see whose keys they are, then give one of them another number (apps.{app.id}.redis.db) or remove it there",
    )


def _refusal(app: App, message: str, hint: str) -> UsageError:
    return UsageError(f"redis: {message}", where=app.where or f"app {app.id}", hint=hint)
