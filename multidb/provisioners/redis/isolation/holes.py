"""Holes in the walls between apps, found in the rules of a server. Pure.

Whoever is not an app in its own place, and not multidb itself, is asked what it could do to an app's data, traffic,
credentials or availability: `reach` says how far each command gets that its rule or a selector of it allows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from multidb.model import Hole, Inspection, Remark, Search, Searched, listed
from multidb.provisioners.redis.isolation.inventory import ACROSS, HARMLESS, Reach, power, reach
from multidb.provisioners.redis.provision.channels import shared
from multidb.provisioners.redis.provision.readers import is_reader
from multidb.provisioners.redis.provision.resources import (
    FORGETS,
    NOTE_USER,
    AclUser,
    RedisFacts,
    command_rule,
    default_user_is_open,
    live_user,
    marks_of,
)
from multidb.provisioners.redis.provision.rules import (
    ALL_DATABASES,
    NO_DATABASES,
    Granted,
    Rule,
    join_line,
    selectors_of,
)
from multidb.provisioners.redis.provision.rules_file import RulesFile, differing
from multidb.provisioners.redis.provision.statements import limits, saving

__all__ = ["Catalog", "find_holes", "search"]

_LOOKED_FOR = (
    "logins without a password or with another; rights beyond an app's keys, channels and DBs; whatever others may do "
    "to the apps; sessions of logins that are off; logins of apps that are not in the manifest"
)
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Catalog:
    """What a server tells of who may do what.

    Args:
        rules: every user, by name.
        connected: the names of those that have sessions.
        password: the SHA-256 of the password that multidb itself logs in with; empty when there is none.
        unguessable: nobody can find out that password by its hash, which may be shown then.
        new_users_hear_all: a user that is made from now on begins with all channels (``acl-pubsub-default``).
        replicas: addresses of the servers that copy everything from this one.
        saved: None where rules are not kept over a restart.
    """

    rules: Mapping[str, Rule]
    connected: frozenset[str] = frozenset()
    password: str = field(default="", repr=False)
    unguessable: bool = False
    new_users_hear_all: bool = False
    replicas: tuple[str, ...] = ()
    saved: RulesFile | None = None


def search(inspection: Inspection, catalog: Catalog) -> Search:
    """The holes around the inspection's apps. What is on a Redis belongs to whoever may use its DB or prefix, so the
    rules are all that there is to look at."""
    facts = RedisFacts.of(inspection.context.facts)
    commands = "commands that get at more than the keys, channels and DBs of whoever may send them"
    catalogs = [
        Searched("ACL LIST", len(catalog.rules), _LOOKED_FOR),
        Searched("COMMAND", len(facts.commands.names), commands),
        Searched("CONFIG GET acl-pubsub-default", 1, "channels that every new user begins with"),
    ]
    if catalog.saved is not None and catalog.saved.lines is not None:
        lines = len(catalog.saved.lines)
        catalogs.append(Searched(catalog.saved.path, lines, "users that a restart would bring back, change or forget"))
    return Search(
        tuple(find_holes(inspection, catalog)), tuple(catalogs), (*shared(inspection), *_remarks(catalog, facts))
    )


def find_holes(inspection: Inspection, catalog: Catalog) -> Sequence[Hole]:
    """Everything in the rules that opens a wall around one of the inspection's apps, which have to be all apps of this
    server that the manifest has."""
    facts = RedisFacts.of(inspection.context.facts)
    users = {want.name: want for want in inspection.desired if isinstance(want, AclUser)}
    return [
        *_open_default(catalog.rules, facts),
        *_open_admin(catalog, facts),
        *_widened(inspection, catalog.rules, users, facts),
        *_abandoned(inspection, catalog, users),
        *_strangers(inspection, catalog, users, facts),
        *_unsaved(catalog, facts),
        *_new_users(catalog),
    ]


# --- multidb's own user, and everybody's -----------------------------------------------------------------------------


def _open_default(rules: Mapping[str, Rule], facts: RedisFacts) -> Iterator[Hole]:
    if "default" in rules and default_user_is_open(rules["default"]):
        message = "whoever reaches the server is let in without a password, and may do what the default user may"
        closes: tuple[str, ...] = ("ACL SETUSER default off resetpass",)
        if facts.admin == "default":
            message += "; multidb itself comes as this user, so give it another admin before you close it"
        yield Hole("login without a password", "acl user default", message, closes)


def _open_admin(catalog: Catalog, facts: RedisFacts) -> Iterator[Hole]:
    """Ways in as multidb itself. What closes them leaves it its own password."""
    rule = catalog.rules.get(facts.admin)
    if rule is None or (facts.admin == "default" and default_user_is_open(rule)):
        return
    subject = f"acl user {_shown(facts.admin)}"
    if rule.nopass:
        message = "whoever reaches the server can log in as multidb itself without a password"
        if catalog.unguessable:
            give = ("ACL", "SETUSER", facts.admin, "resetpass", f"#{catalog.password}")
            closes: tuple[str, ...] = (join_line(give), *_ending(facts.admin))
        else:
            message += f"; give it its own back: ACL SETUSER {_shown(facts.admin)} resetpass, with > and the password"
            closes = ()
        yield Hole("login without a password", subject, message, closes)
    elif others := sorted(rule.passwords - {catalog.password}) if catalog.password in rule.passwords else []:
        message = "somebody can log in as multidb itself with a password that is not multidb's"
        take = ("ACL", "SETUSER", facts.admin, *(f"!{digest}" for digest in others))
        yield Hole("another way in", subject, message, (join_line(take), *_ending(facts.admin)))


# --- apps' users -----------------------------------------------------------------------------------------------------


def _widened(
    inspection: Inspection, rules: Mapping[str, Rule], users: Mapping[str, AclUser], facts: RedisFacts
) -> Iterator[Hole]:
    """Apps' users that may do more than they should. What closes it leaves the app its password where it has one."""
    for name, want in users.items():
        live = live_user(rules[name], want, facts, inspection.secrets) if name in rules else None
        if live is None or live.owner not in (want.owner, None) or not live.enabled:
            continue
        if live.owner is None:
            if rules[name].nopass or rules[name].passwords:
                yield _nobodys(want)
            continue
        surplus = [
            *(f"keys {_shown(pattern)}" for pattern in sorted(set(live.keys) - set(want.keys)) if "*" not in want.keys),
            *(f"channels {_shown(pattern)}" for pattern in sorted(set(live.channels) - set(want.channels))),
            *_more_databases(live, want),
            *(token for token in live.commands if token.startswith("+")),
            *(["scripts"] if live.scripts and not want.scripts else []),
            *(["payloads unchecked"] if not live.sanitized else []),
            *(f"selector {_shown(selector)}" for selector in live.selectors),
        ]
        if surplus:
            message = f"app {want.app} may do more than it should: {listed(surplus, _MOST_NAMED)}"
            yield Hole("rights beyond the app", f"acl user {name}", message, (limits(want, facts),), want.app)
        if not want.enabled:
            message = f"app {want.app} can log in, though its logins are to be off"
            yield Hole("login that is to be off", f"acl user {name}", message, _shutting(name), want.app)
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


def _abandoned(inspection: Inspection, catalog: Catalog, users: Mapping[str, AclUser]) -> Iterator[Hole]:
    for name, rule in catalog.rules.items():
        owner = next((owner for owner, _ in marks_of(rule) if owner.project == inspection.context.project), None)
        if owner is not None and name not in users and (rule.enabled or name in catalog.connected):
            message = f"app {owner.app} is not in the manifest, and its login still works"
            # Nobody's: the audit leaves out what belongs to an app that it is not asked about.
            yield Hole("login of an app that is gone", f"acl user {_shown(name)}", message, _shutting(name))


# --- everybody else --------------------------------------------------------------------------------------------------


def _strangers(
    inspection: Inspection, catalog: Catalog, users: Mapping[str, AclUser], facts: RedisFacts
) -> Iterator[Hole]:
    """Users that neither multidb made nor is, and that could do something to the apps. One under an app's own name is
    never among them, unless it is another project's: turning it off would shut the app out."""
    places = _Places(users.values(), facts)
    for name, rule in catalog.rules.items():
        projects = {owner.project for owner, _ in marks_of(rule)}
        ours = name == facts.admin or inspection.context.project in projects or (name in users and not projects)
        open_default = name == "default" and default_user_is_open(rule)
        if ours or open_default or is_reader(rule, facts) or not (rule.enabled or name in catalog.connected):
            continue
        everybody, reached = places.reached(rule)
        reached.discard(name)  # another project's app of the same name: a conflict, which the plan tells
        if not everybody and not reached:
            continue
        apps = [str(want.app) for want in users.values() if want.name in reached]
        could = [f"could {what} ({listed(commands, _MOST_NAMED)})" for what, commands in everybody.items()]
        could += [f"gets at the keys or channels of {listed(apps, _MOST_NAMED)}"] if apps else []
        who = f"whoever logs in as {_shown(name)}" if rule.enabled else f"{_shown(name)} is off, and who is logged in"
        whose = apps[0] if len(apps) == 1 and not everybody else None
        kind = "foreign user with access" if rule.enabled else "session of a login that is off"
        message = f"{who} {'; '.join(could)}"
        yield Hole(kind, f"acl user {_shown(name)}", message, _shutting(name), whose, account=name)


class _Places:
    """Where the apps of a server are, and who gets there."""

    def __init__(self, users: Iterable[AclUser], facts: RedisFacts) -> None:
        self._users = list(users)
        self._facts = facts
        self._keys = _Patterns((pattern, want) for want in self._users for pattern in want.keys)
        own = [(pattern, want) for want in self._users for pattern in want.channels]
        # Where notifications are on, they tell these channels the names of an app's keys.
        own += [(f"__{kind}@{want.db}__:*", want) for want in self._users for kind in ("keyspace", "keyevent")]
        self._channels = _Patterns(own)

    def reached(self, rule: Rule) -> tuple[dict[str, list[str]], set[str]]:
        """What the user could do to everybody, with the commands for it; and the names of the apps' users whose keys or
        channels it gets at. Each selector allows what it says by itself."""
        parts = [rule, *selectors_of(rule)]
        granted = [self._facts.commands.granted(part.commands) for part in parts]
        selectable = _selectable(granted)
        everybody: dict[str, list[str]] = defaultdict(list)
        apps: set[str] = set()
        for part, grant in zip(parts, granted, strict=True):
            far = self._by_reach(grant, part)
            for command in sorted({*far[Reach.SERVER]} - self._allowance(rule)):
                if command not in everybody[power(command)]:
                    everybody[power(command)].append(command)
            apps |= self._apps(part, far, selectable)
        return {what: commands for what, commands in everybody.items() if commands}, apps

    def _by_reach(self, granted: Granted, part: Rule) -> dict[Reach, list[str]]:
        far: dict[Reach, list[str]] = defaultdict(list)
        for command in granted.commands - HARMLESS | granted.first_arguments:
            far[reach(command, self._facts.commands)].append(command)
        if not self._facts.db_rules or part.databases == ALL_DATABASES:
            far[Reach.SERVER] += far[Reach.EVERY_DATABASE]
        return far

    def _allowance(self, rule: Rule) -> frozenset[str]:
        """What the user of another project's app may send to everybody's harm: as much as one of ours."""
        if not marks_of(rule):
            return frozenset()
        [(_, number), *_] = marks_of(rule)
        may = command_rule("*" not in rule.keys, number, self._facts, scripts=True)
        return self._facts.commands.granted(may).commands

    def _apps(self, part: Rule, far: Mapping[Reach, Sequence[str]], selectable: frozenset[int] | None) -> set[str]:
        names: set[str] = set()
        if far[Reach.CHANNELS]:
            names |= {want.name for pattern in part.channels for want in self._channels.meeting(pattern)}
        if far[Reach.DATABASE] or (far[Reach.KEYS] and part.keys):
            across = not ACROSS.isdisjoint((*far[Reach.KEYS], *far[Reach.DATABASE]))
            numbers = self._numbers(part, None if across else selectable)
            inside = [want for want in self._users if numbers is None or want.db in numbers]
            if far[Reach.DATABASE]:
                names |= {want.name for want in inside}
            elif inside:
                there = {want.name for want in inside}
                meeting = {want.name for pattern in part.keys for want in self._keys.meeting(_plain(pattern))}
                names |= there & meeting
        return names

    def _numbers(self, part: Rule, selectable: frozenset[int] | None) -> frozenset[int] | None:
        """The DBs that the part of a rule is good in; None: all."""
        if not self._facts.db_rules:
            return selectable
        return None if part.databases == ALL_DATABASES else frozenset(part.database_numbers)


def _selectable(granted: Iterable[Granted]) -> frozenset[int] | None:
    """The DBs that a user can get into, where database rules do not limit it; None: all. Every connection begins in
    DB 0."""
    numbers = {0}
    for grant in granted:
        if "select" in grant.commands:
            return None
        chosen = (name.removeprefix("select|") for name in grant.first_arguments if name.startswith("select|"))
        numbers |= {int(number) for number in chosen if number.isdecimal()}
    return frozenset(numbers)


class _Patterns:
    """Apps' patterns, asked for those that another one meets, in a time that does not grow with their number."""

    def __init__(self, pairs: Iterable[tuple[str, AclUser]]) -> None:
        self._by_head: dict[str, list[tuple[str, AclUser]]] = defaultdict(list)
        self._by_beginning: dict[str, list[tuple[str, AclUser]]] = defaultdict(list)
        for pattern, want in pairs:
            head = _literal(pattern)
            self._by_head[head].append((pattern, want))
            for length in range(len(head) + 1):
                self._by_beginning[head[:length]].append((pattern, want))

    def meeting(self, pattern: str) -> Iterator[AclUser]:
        """The users of the patterns that something may match as well as `pattern`."""
        head = _literal(pattern)
        near = list(self._by_beginning.get(head, ()))
        for length in range(len(head)):
            near += self._by_head.get(head[:length], ())
        yield from (want for other, want in near if _meet(pattern, other))


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


# --- the server as a whole -------------------------------------------------------------------------------------------


def _unsaved(catalog: Catalog, facts: RedisFacts) -> Iterator[Hole]:
    if facts.persistence == "none":
        return
    closes = tuple(statement.text for statement in saving(facts))
    if NOTE_USER in catalog.rules:
        message = "a run was interrupted before it saved the rules: a restart of the server brings the old ones back"
        yield Hole("rules that are not saved", "saved rules", message, closes)
    elif catalog.saved is not None and (changed := differing(catalog.rules, catalog.saved, facts)):
        users = listed([_shown(name) for name in changed], _MOST_NAMED)
        message = f"a restart of the server, or ACL LOAD, changes who may do what: {users}"
        yield Hole("rules that are not saved", f"file {catalog.saved.path}", message, closes)


def _new_users(catalog: Catalog) -> Iterator[Hole]:
    if catalog.new_users_hear_all:
        message = "every user that is made on the server from now on hears, and may write to, the channels of all apps"
        closes = ("CONFIG SET acl-pubsub-default resetchannels",)
        yield Hole("channels for every new user", "acl-pubsub-default", message, closes)


def _remarks(catalog: Catalog, facts: RedisFacts) -> Iterator[Remark]:
    for address in catalog.replicas:
        message = "it has a copy of everything, and users and rules of its own, which this audit has not seen"
        yield Remark(f"replica {address}", message)
    if facts.persistence == "none":
        yield Remark("saved rules", f"{FORGETS}; apps cannot log in then until multidb apply has made them again")
    elif catalog.saved is not None and catalog.saved.lines is None:
        message = "multidb cannot read it from here, so it is not known whether a restart changes who may do what"
        yield Remark(f"file {catalog.saved.path}", message)


# --- words -----------------------------------------------------------------------------------------------------------


def _shown(name: str) -> str:
    """A name or pattern as it can be shown and pasted."""
    return join_line([name])


def _shutting(user: str) -> tuple[str, ...]:
    return (join_line(["ACL", "SETUSER", user, "off"]), *_ending(user))


def _locking(user: str) -> tuple[str, ...]:
    """Nobody can log in any more, and whoever is has to go."""
    return (join_line(["ACL", "SETUSER", user, "resetpass"]), *_ending(user))


def _ending(user: str) -> tuple[str, ...]:
    return (join_line(["CLIENT", "KILL", "USER", user]),)
