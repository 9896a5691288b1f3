"""Holes in the walls between apps, found in the rules of a server. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from multidb.model import Hole, Inspection, Search, Searched, listed
from multidb.provisioners.redis.channels import shared
from multidb.provisioners.redis.resources import (
    NOTE_USER,
    AclUser,
    RedisFacts,
    default_user_is_open,
    found_user,
    marks_of,
)
from multidb.provisioners.redis.rules import ALL_DATABASES, NO_DATABASES, Rule, join_line, parse_rule
from multidb.provisioners.redis.statements import limits, saving

__all__ = ["find_holes", "search"]

_EVERYWHERE = frozenset({"flushall", "acl|setuser", "acl|load", "config|set", "debug", "module|load", "replicaof"})
_ACROSS = frozenset({"copy", "move", "swapdb"})  # reach other DBs than the selected one


_LOOKED_FOR = (
    "logins without a password or with another; rights beyond an app's keys, channels and DBs; others that get at "
    "them; logins of apps that are not in the manifest; rules that are not saved"
)


def search(inspection: Inspection, rules: Mapping[str, Rule]) -> Search:
    """The holes in `rules`, every user of the server. There is no other catalog: what is on a Redis belongs to whoever
    may use its DB or prefix."""
    return Search(
        tuple(find_holes(inspection, rules)),
        (Searched("ACL LIST", len(rules), _LOOKED_FOR),),
        tuple(shared(inspection)),
    )


def find_holes(inspection: Inspection, rules: Mapping[str, Rule]) -> Sequence[Hole]:
    """Everything in `rules` (every user of the server) that opens a wall around one of the inspection's apps, which
    have to be all apps of this server that the manifest has."""
    facts: RedisFacts = inspection.context.facts
    wanted = {want.name: want for want in inspection.desired if isinstance(want, AclUser)}
    return [
        *_open_default(rules, facts),
        *_widened(inspection, rules, wanted, facts),
        *_abandoned(inspection, rules, wanted),
        *_strangers(inspection, rules, wanted, facts),
        *_unsaved(rules, facts),
    ]


def _open_default(rules: Mapping[str, Rule], facts: RedisFacts) -> Iterator[Hole]:
    if "default" in rules and default_user_is_open(rules["default"]):
        message = "whoever reaches the server is let in without a password, and may do what the default user may"
        closes: tuple[str, ...] = ("ACL SETUSER default off resetpass",)
        if facts.admin == "default":
            message += "; multidb itself comes as this user, so give it another admin before you close it"
        yield Hole("login without a password", "acl user default", message, closes)


def _widened(
    inspection: Inspection, rules: Mapping[str, Rule], wanted: Mapping[str, AclUser], facts: RedisFacts
) -> Iterator[Hole]:
    """Apps' users that may do more than they should. What closes it leaves the app its password where it has one."""
    for name, want in wanted.items():
        live = found_user(rules[name], want, facts, inspection.secrets) if name in rules else None
        if live is None or live.owner not in (want.owner, None) or not live.enabled:
            continue
        if live.owner is None:
            if rules[name].nopass or rules[name].passwords:
                yield _nobodys(want)
            continue
        surplus = [
            *(f"keys {pattern}" for pattern in sorted(set(live.keys) - set(want.keys)) if "*" not in want.keys),
            *(f"channels {pattern}" for pattern in sorted(set(live.channels) - set(want.channels))),
            *_more_databases(live, want),
            *(token for token in live.commands if token.startswith("+")),
            *(f"selector {selector}" for selector in live.selectors),
        ]
        if surplus:
            message = f"app {want.app} may do more than it should: {listed(surplus, 5)}"
            yield Hole("rights beyond the app", f"acl user {name}", message, (limits(want, facts),), want.app)
        if live.password in ("not needed", "current and others", "other"):
            how = "without a password" if live.password == "not needed" else "with a password that multidb did not give"
            message = f"somebody can log in as app {want.app} {how}; multidb apply gives the app its own back"
            yield Hole("another way in", f"acl user {name}", message, _locking(name), want.app)


def _nobodys(want: AclUser) -> Hole:
    """A user under an app's name that has neither its mark nor its password: the app's own, altered, or a stranger's.
    Its passwords go, which `multidb apply --adopt` can undo; nothing claims it as ours."""
    message = (
        f"somebody can log in under the name of app {want.app}, and neither a mark nor a password says that it is the "
        f"app; multidb apply --adopt {want.app} gives the app its own login back"
    )
    return Hole("another way in", f"acl user {want.name}", message, _locking(want.name), want.app)


def _more_databases(live: AclUser, want: AclUser) -> list[str]:
    if want.databases == ALL_DATABASES or live.databases == NO_DATABASES:
        return []
    if live.databases == ALL_DATABASES:
        return ["all DBs"]
    return [f"DB {number}" for number in sorted({*live.databases.split(",")} - {*want.databases.split(",")}, key=int)]


def _abandoned(inspection: Inspection, rules: Mapping[str, Rule], wanted: Mapping[str, AclUser]) -> Iterator[Hole]:
    for name, rule in rules.items():
        owner = next((owner for owner, _ in marks_of(rule) if owner.project == inspection.context.project), None)
        if owner is not None and name not in wanted and rule.enabled:
            message = f"app {owner.app} is not in the manifest, and its login still works"
            closes = (join_line(["ACL", "SETUSER", name, "off"]), *_ending(name))
            # Nobody's: the audit leaves out what belongs to an app that it is not asked about.
            yield Hole("login of an app that is gone", f"acl user {name}", message, closes)


def _strangers(
    inspection: Inspection, rules: Mapping[str, Rule], wanted: Mapping[str, AclUser], facts: RedisFacts
) -> Iterator[Hole]:
    """Users that neither multidb made nor is, and that get at apps' data or channels. One under an app's own name is
    never among them: turning it off would shut the app out."""
    for name, rule in rules.items():
        ours = name == facts.admin or name in wanted
        gone = any(owner.project == inspection.context.project for owner, _ in marks_of(rule))
        open_default = name == "default" and default_user_is_open(rule)
        if not rule.enabled or ours or gone or open_default:
            continue
        reached = [want for want in wanted.values() if want.name != name and _reaches(rule, want, facts)]
        if reached:
            apps = [str(want.app) for want in reached]
            message = f"whoever logs in as {name} gets at the keys or channels of {listed(apps, 5)}"
            closes = (join_line(["ACL", "SETUSER", name, "off"]), *_ending(name))
            whose = apps[0] if len(apps) == 1 else None
            yield Hole("foreign user with access", f"acl user {name}", message, closes, whose)


def _reaches(rule: Rule, want: AclUser, facts: RedisFacts) -> bool:
    """Whether the user's rule, or one of its selectors, allows something on the app's keys or channels."""
    selectors = [parse_rule(f"user {rule.user} {selector.strip('()')}") for selector in rule.selectors]
    return any(_part_reaches(part, want, facts) for part in (rule, *selectors))


def _part_reaches(rule: Rule, want: AclUser, facts: RedisFacts) -> bool:
    granted = facts.commands.granted(rule.commands)
    if granted.commands & _EVERYWHERE and rule.databases != NO_DATABASES:
        return True
    listens = granted.commands & facts.commands.of_category("pubsub")
    if listens and any(_meet(pattern, channel) for pattern in rule.channels for channel in want.channels):
        return True
    data = granted.commands & (facts.commands.of_category("read") | facts.commands.of_category("write"))
    if not data or not any(_meet(_plain(pattern), key) for pattern in rule.keys for key in want.keys):
        return False
    if facts.db_rules:
        return rule.databases == ALL_DATABASES or str(want.db) in rule.databases.split(",")
    selectable = want.db == 0 or "select" in granted.commands or f"select|{want.db}" in granted.first_arguments
    return selectable or bool(granted.commands & _ACROSS)


def _plain(pattern: str) -> str:
    """A key pattern without what it is for (``%R~jobs:*``)."""
    return re.sub(r"^%[RW]+~", "", pattern)


def _meet(one: str, other: str) -> bool:
    """Whether something may match both patterns, by what stands before their first wildcards: rather yes than no."""
    head, other_head = _literal(one), _literal(other)
    if head == one:
        return head.startswith(other_head)
    if other_head == other:
        return other_head.startswith(head)
    return head.startswith(other_head) or other_head.startswith(head)


def _literal(pattern: str) -> str:
    return re.split(r"[*?\[\\]", pattern, maxsplit=1)[0]


def _unsaved(rules: Mapping[str, Rule], facts: RedisFacts) -> Iterator[Hole]:
    if NOTE_USER in rules and facts.persistence != "none":
        message = "a run was interrupted before it saved the rules: a restart of the server brings the old ones back"
        yield Hole("rules that are not saved", "saved rules", message, tuple(each.text for each in saving(facts)))


def _locking(user: str) -> tuple[str, ...]:
    """Nobody can log in any more, and whoever is has to go."""
    return (join_line(["ACL", "SETUSER", user, "resetpass"]), *_ending(user))


def _ending(user: str) -> tuple[str, ...]:
    return (join_line(["CLIENT", "KILL", "USER", user]),)
