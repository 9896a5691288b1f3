"""What turns an app's login off, and what removes the app with its data. Pure: made of the rules as they stand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from multidb.errors import Refused
from multidb.model import App, Owner, Statement, StoreContext
from multidb.provisioners.redis.backup.places import place_of, place_prefix
from multidb.provisioners.redis.provision.resources import (
    NOTE_USER,
    RedisFacts,
    marks_of,
    user_names,
)
from multidb.provisioners.redis.provision.rules import CommandTable, Rule, join_line
from multidb.provisioners.redis.provision.statements import note, saving

__all__ = ["emptying", "orphans", "removal", "suspension"]


def orphans(context: StoreContext, rules: Mapping[str, Rule], known: Collection[str]) -> Mapping[str, Sequence[str]]:
    """The users with the project's mark of an app that is not `known`, by app."""
    things: dict[str, list[str]] = {}
    for name, rule in rules.items():
        for owner in {owner for owner, _ in marks_of(rule)}:
            if owner.project == context.project and owner.app not in known:
                things.setdefault(owner.app, []).append(f"acl user {name}")
    return things


def suspension(
    app: App, context: StoreContext, rules: Mapping[str, Rule], connected: Iterable[str]
) -> Sequence[Statement]:
    """The app's users off, their sessions ended, and that saved. A user without our mark is left alone.

    Args:
        rules: every user of the server.
        connected: the names of the users that have sessions.
    """
    owner, facts, there = Owner(context.project, app.id), RedisFacts.of(context.facts), set(connected)
    users = [user for user in user_names(app.id) if _owned(rules.get(user), owner)]
    if not users:
        return ()
    open_users = [user for user in users if rules[user].enabled or user in there]
    if not open_users:
        return saving(facts) if NOTE_USER in rules else ()
    return _noted([statement for user in open_users for statement in _shutting(user)], facts)


def removal(app: App, context: StoreContext, rules: Mapping[str, Rule]) -> Sequence[Statement]:
    """The app's keys, its users and its places that a backup or restore has left.

    The users go last: they say on the server which data is the app's, so that a removal that was interrupted begins
    again where data may be left.

    Raises:
        Refused: the data is in a DB number that somebody else has as well.
    """
    owner, facts = Owner(context.project, app.id), RedisFacts.of(context.facts)
    users = [name for name, rule in rules.items() if _owned(rule, owner)]
    if not users:
        return saving(facts) if NOTE_USER in rules else ()
    shutting = [statement for user in users for statement in _shutting(user)]
    emptied = dict.fromkeys(
        statement for user in users for statement in _emptying(rules[user], owner, rules, facts.commands)
    )
    return _noted([*shutting, *emptied, _line("ACL", "DELUSER", *users)], facts)


def emptying(number: int, prefix: str, commands: CommandTable) -> Statement:
    """What removes everything in a DB number or, where the number is 0, the keys of a prefix.

    Args:
        commands: those of the server, which may have no FLUSHDB (``rename-command``, as in some charts).
    """
    if number and "flushdb" in commands:
        return Statement("FLUSHDB ASYNC", scope=str(number))
    matching = () if number else ("MATCH", f"{prefix}*")
    return Statement(join_line(["SCAN", "0", *matching, "COUNT", "1000", "|", "UNLINK"]), scope=str(number))


def _emptying(rule: Rule, owner: Owner, rules: Mapping[str, Rule], commands: CommandTable) -> Iterable[Statement]:
    for number in sorted({db for marked, db in marks_of(rule) if marked == owner}):
        if number:
            _refuse_shared(number, owner, rules)
        kind = place_of(rule.user, owner)
        yield emptying(number, place_prefix(kind, owner) if kind is not None else f"{owner.app}:", commands)


def _refuse_shared(number: int, owner: Owner, rules: Mapping[str, Rule]) -> None:
    for rule in rules.values():
        if not _owned(rule, owner) and number in {*rule.database_numbers, *(db for _, db in marks_of(rule))}:
            raise Refused(
                f"DB {number} of app {owner.app} is also that of ACL user {rule.user}, so its data is not removed",
                hint=f"take DB {number} from that user (ACL SETUSER), or remove it if nobody needs it (ACL DELUSER)",
            )


def _owned(rule: Rule | None, owner: Owner) -> bool:
    return rule is not None and any(marked == owner for marked, _ in marks_of(rule))


def _shutting(user: str) -> Iterable[Statement]:
    """A login that is off keeps the sessions that it has."""
    return (_line("ACL", "SETUSER", user, "off"), _line("CLIENT", "KILL", "USER", user))


def _noted(statements: Sequence[Statement], facts: RedisFacts) -> Sequence[Statement]:
    if facts.persistence == "none":
        return statements
    return (note(), *statements, *saving(facts))


def _line(*words: str) -> Statement:
    return Statement(join_line(words))
