"""What an app gets on Redis or Valkey, as values: names, resources, numbers, environment. Pure."""

from __future__ import annotations

import hashlib
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

from multidb.model import Alternates, App, DerivedName, Facts, Owner, Resource, StoreContext
from multidb.provisioners.redis.isolation.inventory import SCRIPTS
from multidb.provisioners.redis.provision.options import FIRST_DB, STORE, AppOptions, ServerOptions
from multidb.provisioners.redis.provision.profiles import PROFILES, Profile, broadcasts
from multidb.provisioners.redis.provision.rules import ALL_DATABASES, CommandTable, Rule, selectors_of
from multidb.secrets import Alternate, SecretRef, SecretSpec, SecretStore

__all__ = [
    "FORGETS",
    "NOTE_USER",
    "AclUser",
    "Claim",
    "DefaultUser",
    "RedisFacts",
    "SaveNote",
    "SavedRules",
    "alternates",
    "by_prefix",
    "command_rule",
    "default_user_is_open",
    "derived_names",
    "desired",
    "hash_ref",
    "live_default_user",
    "live_user",
    "mark",
    "marks_of",
    "parse_mark",
    "password_ref",
    "profile_of",
    "secrets",
    "spelled",
    "user_name",
    "user_names",
]

NOTE_USER = "__multidb__:unsaved"
_MARK = "__multidb__"
FORGETS = "the server can't save ACL users and forgets them when it restarts (give it an aclfile)"


@dataclass(frozen=True, slots=True)
class Claim:
    """A DB number that an ACL user on the server is limited to. `owner` is None for a user without our mark."""

    user: str
    db: int
    owner: Owner | None = None
    enabled: bool = True

    def __str__(self) -> str:
        return f"app {self.owner.app} of project {self.owner.project}" if self.owner else f"ACL user {self.user}"


@dataclass(frozen=True, slots=True)
class RedisFacts(Facts):
    """What the server is and can do."""

    commands: CommandTable = field(compare=False)
    databases: int | None = None  # None: the server does not tell
    db_rules: bool = False  # ``db=3`` in ACL rules is a boundary: Valkey 9.1.1 and later
    cluster: bool = False
    persistence: Literal["aclfile", "config", "none"] = "none"  # where ACL users can be saved
    admin: str = "default"  # the user that multidb is
    default_open: bool = False  # the default user works without a password
    claims: tuple[Claim, ...] = ()
    rules_file: str = ""  # the file that they are saved in, as the server names it
    here: bool = False  # the server is a process of this machine
    external: bool = field(default=False, compare=False)  # multidb neither starts nor stops it
    new_users_hear_all: bool = False  # a user that is made begins with all channels (acl-pubsub-default)
    keys: Mapping[int, int] = field(default_factory=dict)  # number of keys by DB number, without empty ones
    marks: Mapping[str, frozenset[int]] = field(init=False, repr=False, compare=False)  # by user, of what `claims` has

    def __post_init__(self) -> None:
        marks: dict[str, frozenset[int]] = {}
        for claim in self.claims:
            if claim.owner is not None:
                marks[claim.user] = marks.get(claim.user, frozenset()) | {claim.db}
        object.__setattr__(self, "marks", marks)

    def marked(self, app: str) -> frozenset[int]:
        """The DB numbers that marks give the app; 0: it lives in DB 0 under its prefix."""
        return frozenset().union(*(self.marks.get(user, ()) for user in user_names(app)))

    @property
    def forgets(self) -> bool:
        """Whether a restart takes the apps' users away."""
        return self.persistence == "none"


@dataclass(frozen=True, kw_only=True)
class SaveNote(Resource):
    """A note on the server that rules are about to change and are not saved yet.

    It is an ACL user without any right, so it lives exactly where the rules live. Whoever finds it after an apply was
    killed knows that the rules have to be saved.
    """

    kind: ClassVar[str] = "note of unsaved rules"
    rank: ClassVar[int] = 0
    step: ClassVar[bool] = True

    written: bool = True


@dataclass(frozen=True, kw_only=True)
class AclUser(Resource):
    """An app's login and everything that it may do."""

    kind: ClassVar[str] = "acl user"
    rank: ClassVar[int] = 20
    marked: ClassVar[bool] = True

    db: int
    enabled: bool = True
    password: str = "current"
    keys: tuple[str, ...]
    channels: tuple[str, ...]
    databases: str
    commands: tuple[str, ...] = ()  # how the allowed commands differ from the app's rule: "+flushall", "-get"
    selectors: tuple[str, ...] = ()
    sanitized: bool = True
    scripts: bool = False
    read_only: bool = field(default=False, compare=False)  # the app's rule is the one without commands that grow
    alternate: Alternate = field(default=Alternate.FIRST, compare=False)

    def added_to(self, live: Self) -> None:
        """Whoever has made it has given its password to somebody."""


@dataclass(frozen=True, kw_only=True)
class DefaultUser(Resource):
    """The user that every connection has before it logs in."""

    kind: ClassVar[str] = "default user"
    rank: ClassVar[int] = 30
    closing: ClassVar[str] = (
        "turned off: whoever comes in without a password, also programs of others, is refused from the next connection "
        "on; users with a name and a password keep what they have"
    )

    access: Literal["closed", "open"] = "closed"


@dataclass(frozen=True, kw_only=True)
class SavedRules(Resource):
    """The rules as they are kept over a restart of the server."""

    kind: ClassVar[str] = "saved rules"
    rank: ClassVar[int] = 90
    step: ClassVar[bool] = True

    saved: bool = True


def user_name(app: str, alternate: Alternate = Alternate.FIRST) -> str:
    """The ACL user of an app: ``lernmi_user``, and ``lernmi_user_b`` for the second of its two credentials."""
    return f"{app}_user" if alternate is Alternate.FIRST else f"{app}_user_b"


def user_names(app: str) -> tuple[str, ...]:
    """Every ACL user that an app may have."""
    return tuple(user_name(app, alternate) for alternate in Alternate)


def derived_names(app: App) -> Sequence[DerivedName]:
    """The names that the app takes. Keys and channels start with ``<id>:``, which no other id can."""
    first, second = user_names(app.id)
    return (
        DerivedName("redis user", first, 64, f"the ACL user of {app.id}"),
        DerivedName("redis user", second, 64, f"the ACL user of {app.id} that a rotation switches to"),
    )


def password_ref(app: str, alternate: Alternate) -> SecretRef:
    """Where the password of one of the app's two users is kept."""
    return SecretRef(app, STORE, "user" if alternate is Alternate.FIRST else "user_b")


def hash_ref(app: str, alternate: Alternate = Alternate.FIRST) -> SecretRef:
    """The SHA-256 of the app's password, which is all that the server ever gets."""
    return SecretRef(app, STORE, f"{password_ref(app, alternate).name}_sha256")


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def secrets(app: App) -> Sequence[SecretSpec]:
    """The app's password, and its hash. The hash is not salted, which is safe for 256 random bits."""
    specs: list[SecretSpec] = []
    for alternate in Alternate:
        password = password_ref(app.id, alternate)
        hashed = SecretSpec(hash_ref(app.id, alternate), password, _sha256, alternate=alternate)
        specs += [SecretSpec(password, alternate=alternate), hashed]
    return tuple(specs)


def mark(owner: Owner, db: int) -> str:
    """The channel pattern that says on the server whose a user is and which DB number it has.

    As a channel it is of no use to anybody: it has no wildcard, and only this one user may publish to it.
    """
    return spelled(owner.project, owner.app, str(db))


def spelled(*parts: str) -> str:
    """A name on the server that is multidb's own; a part may hold what Redis gives a meaning."""
    return ":".join((_MARK, *(urllib.parse.quote(part, safe="") for part in parts)))  # no colon, no wildcard


def parse_mark(pattern: str) -> tuple[Owner, int] | None:
    """What `mark` wrote; None for any other channel pattern."""
    match pattern.split(":"):
        case [prefix, project, app, db] if prefix == _MARK and db.isdecimal():
            return Owner(urllib.parse.unquote(project), urllib.parse.unquote(app)), int(db)
    return None


def marks_of(rule: Rule) -> list[tuple[Owner, int]]:
    """Every mark of ours that a user carries."""
    return [marked for pattern in rule.channels if (marked := parse_mark(pattern)) is not None]


def by_prefix(app: App, facts: RedisFacts) -> bool:
    """Whether the app lives in DB 0 under its prefix. One that is not told where to live stays where its mark is: so
    does an app of which only the server knows."""
    options = AppOptions.of(app.stores[STORE])
    if options.isolation != "auto":
        return options.isolation == "prefix"
    if options.db is None and (marked := facts.marked(app.id)):
        return 0 in marked
    return facts.cluster and (facts.databases or 1) <= FIRST_DB


def desired(apps: Sequence[App], context: StoreContext) -> Sequence[Resource]:
    """The ACL users of the apps, and what the server as a whole needs for them to be worth something."""
    facts = RedisFacts.of(context.facts)
    options = ServerOptions.of(context.options)
    users: list[Resource] = [
        _desired_user(app, context, alternate) for app in apps for alternate in context.alternates_of(app.id).made
    ]
    if facts.admin != "default" and options.default_user == "close":
        users.append(DefaultUser(name="default"))
    if facts.persistence != "none":
        users += [SaveNote(name="before the first change"), SavedRules(name="after the last change")]
    return users


def _desired_user(app: App, context: StoreContext, alternate: Alternate) -> AclUser:
    facts = RedisFacts.of(context.facts)
    number = context.numbers[app.id]
    prefix, works = by_prefix(app, facts), alternate in context.alternates_of(app.id).working
    return AclUser(
        name=user_name(app.id, alternate),
        app=app.id,
        owner=Owner(context.project, app.id),
        db=number,
        keys=(f"{app.id}:*",) if prefix else ("*",),
        channels=tuple(sorted({*_own_channels(app, number, prefix), *AppOptions.of(app.stores[STORE]).channels})),
        databases=str(number) if facts.db_rules else ALL_DATABASES,
        enabled=works and app.id not in context.closed,
        password="current" if works else "none",
        alternate=alternate,
        scripts=AppOptions.of(app.stores[STORE]).scripts,
        read_only=app.id in context.read_only,
    )


def _own_channels(app: App, number: int, prefix: bool) -> set[str]:
    profile = profile_of(app)
    own = broadcasts(number, f"{app.id}:") if profile is not None and profile.broadcasts else set()
    return {f"{app.id}:*", *own, *(() if prefix else broadcasts(number))}


def profile_of(app: App) -> Profile | None:
    """What the app's entry says that it is, as far as it does."""
    name = AppOptions.of(app.stores[STORE]).profile
    return PROFILES[name] if name is not None else None


_DATA = ("-@all", "+@read", "+@write", "+@connection", "+@transaction", "+@pubsub")
_SERVER_WIDE = (
    *("-@admin", "-@dangerous", "-function", "-script", "-client", "-pubsub", "-acl", "-memory"),
    *("-move", "-copy", "-swapdb", "-flushall"),
)
_EVERYDAY = (
    *("+info", "+time", "+acl|whoami", "+memory|usage"),
    *("+client|id", "+client|info", "+client|getname", "+client|setname", "+client|setinfo"),
    *("+client|reply", "+client|no-touch", "+client|capa"),
)
_SCRIPTS = ("+script|load", "+script|exists")
_WITHIN_DB = ("+sort", "+sort_ro", "+keys", "+flushdb")
_BLIND_TO_PREFIX = ("-scan", "-clusterscan", "-randomkey", "-dbsize", "-keys", "-flushdb", "-sort", "-sort_ro")
# What an app over its quota keeps of the commands that write: those that never make its data larger.
_DELETING = (
    *("+del", "+unlink", "+delex", "+expire", "+pexpire", "+expireat", "+pexpireat", "+getdel", "+getex"),
    *("+hdel", "+hgetdel", "+hexpire", "+hpexpire", "+hexpireat", "+hpexpireat", "+srem", "+spop"),
    *("+lpop", "+rpop", "+blpop", "+brpop", "+lmpop", "+blmpop", "+lrem", "+ltrim"),
    *("+zrem", "+zremrangebyrank", "+zremrangebyscore", "+zremrangebylex"),
    *("+zpopmin", "+zpopmax", "+bzpopmin", "+bzpopmax", "+zmpop", "+bzmpop"),
    *("+xdel", "+xdelex", "+xtrim", "+xack", "+xackdel"),
)
_CLUSTER = tuple(
    f"+cluster|{name}" for name in ("slots", "shards", "nodes", "info", "keyslot", "myid", "countkeysinslot")
)


def command_rule(
    prefix: bool, number: int, facts: RedisFacts, read_only: bool = False, *, scripts: bool = False
) -> tuple[str, ...]:
    """The command tokens of an app's rule, made of what this server understands.

    Args:
        read_only: without the commands that make data grow.
        scripts: with those that run Lua scripts and functions, which nobody can end once they have written.

    Data commands come by category, so that new ones are allowed as servers learn them. What acts on, or shows, more
    than the app's own place is then taken away: COPY and MOVE reach into other DBs, PUBSUB and CLIENT show other
    apps' channels and connections, the script cache and functions are one for all. SCAN, KEYS and their like ignore
    key patterns (redis #8152, valkey #370), so an app that has only a prefix does without.
    """
    tokens = [*_DATA, "+@scripting" if scripts else "-@scripting", *_SERVER_WIDE, *_EVERYDAY]
    tokens += _SCRIPTS if scripts else ()
    tokens += _BLIND_TO_PREFIX if prefix else _WITHIN_DB
    if read_only:
        tokens += ["-@write", *_DELETING, *(() if prefix else ("+flushdb",))]
    if not facts.db_rules:
        tokens += ["-select", f"+select|{number}"]  # clients send it for a URL that ends in /<number>
    if facts.cluster:
        tokens += _CLUSTER
    return facts.commands.known(tokens)


def live_user(rule: Rule, want: AclUser | None, facts: RedisFacts, held: SecretStore) -> AclUser:
    """A live user in the terms of `AclUser`.

    Args:
        want: the desired user of that name, whose commands the live ones are compared with; None for the user of an
            app that is no longer in the manifest.
        held: the project's secrets.
    """
    marks = [(pattern, marked) for pattern in rule.channels if (marked := parse_mark(pattern)) is not None]
    pattern, (owner, db) = _best(marks, want) if marks else ("", (None, 0))
    app = want.app if want is not None else owner.app if owner is not None else None
    # Nobody asks for that of another app, whose secrets who plans for this one may not be let into.
    password = _password(rule, held, want) if want is not None else "other"
    if owner is None and want is not None and password.startswith("current"):
        owner = want.owner  # somebody wiped the mark; that our password opens it says as much
    granted = facts.commands.granted(rule.commands)
    scripts = not SCRIPTS.isdisjoint(granted.commands)
    commands: tuple[str, ...] = ()
    if want is not None:
        # Beside the scripts, which are told apart by a field of their own.
        expected = command_rule(want.keys != ("*",), want.db, facts, want.read_only, scripts=scripts)
        commands = granted.deviation(facts.commands.granted(expected))
    return AclUser(
        name=rule.user,
        app=app,
        owner=owner,
        db=db,
        enabled=rule.enabled,
        password=password,
        keys=rule.keys,
        channels=tuple(channel for channel in rule.channels if channel != pattern),
        databases=rule.databases,
        commands=commands,
        selectors=rule.selectors,
        sanitized=rule.sanitized,
        scripts=scripts,
        read_only=want is not None and want.read_only,
        alternate=want.alternate if want is not None else Alternate.FIRST,
    )


def _best(marks: Sequence[tuple[str, tuple[Owner, int]]], want: AclUser | None) -> tuple[str, tuple[Owner, int]]:
    ours = [mark for mark in marks if want is not None and mark[1] == (want.owner, want.db)]
    return (ours or list(marks))[0]


def _password(rule: Rule, held: SecretStore, want: AclUser) -> str:
    assert want.app is not None
    secret = held.get(password_ref(want.app, want.alternate))
    if rule.nopass:
        return "not needed"
    if want.password == "none":  # it is to have none, so that none can be lost
        return "other" if rule.passwords else "none"
    if secret is None:
        return "lost"
    if _sha256(secret.reveal()) in rule.passwords:
        return "current" if len(rule.passwords) == 1 else "current and others"
    return "other" if rule.passwords else "none"


def default_user_is_open(rule: Rule) -> bool:
    """Whether a connection that never logs in can do anything."""
    parts = (rule, *selectors_of(rule))
    return rule.enabled and rule.nopass and any(token.startswith("+") for part in parts for token in part.commands)


def live_default_user(rule: Rule) -> DefaultUser:
    """The live default user in the terms of `DefaultUser`."""
    return DefaultUser(name="default", access="open" if default_user_is_open(rule) else "closed")


def alternates(facts: Facts, project: str) -> dict[str, Alternates]:
    """By app of the project that has a second user, which of the two are on. Of two that are, either may be the one in
    its variables; where none is, it had the first."""
    claims = [claim for claim in RedisFacts.of(facts).claims if claim.owner and claim.owner.project == project]
    enabled = {claim.user for claim in claims if claim.enabled}
    seen = {}
    for claim in claims:
        app = claim.owner.app if claim.owner is not None else ""
        if claim.user == user_name(app, Alternate.SECOND):
            on = frozenset(alternate for alternate in Alternate if user_name(app, alternate) in enabled)
            current = Alternate.SECOND if on == {Alternate.SECOND} else Alternate.FIRST
            seen[app] = Alternates(current, on or frozenset({Alternate.FIRST}), tuple(Alternate))
    return seen
