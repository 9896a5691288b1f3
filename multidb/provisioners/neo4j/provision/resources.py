"""What an app gets on Neo4j, as values: names, marks, databases, roles, rights, users."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Final

from multidb.errors import Refused
from multidb.model import Alternates, App, DerivedName, Facts, Owner, Resource, StoreContext
from multidb.provisioners.neo4j.provision.options import STORE, AppOptions, ServerOptions
from multidb.secrets import Alternate, SecretRef, SecretSpec

__all__ = [
    "Database",
    "Grant",
    "Mark",
    "Membership",
    "Mode",
    "Neo4jFacts",
    "PublicRights",
    "Role",
    "User",
    "alternates",
    "canonical",
    "database_name",
    "database_of",
    "derived_names",
    "desired",
    "immutable",
    "loads",
    "mark_name",
    "mode",
    "one_app_only",
    "password_ref",
    "read_mark",
    "ro_role",
    "rw_role",
    "secrets",
    "spelled",
    "user_name",
    "user_names",
]

DEFAULT_DATABASE: Final = "neo4j"
PUBLIC: Final = "PUBLIC"
_SHORTEST_DATABASE: Final = 3
_LONGEST_DATABASE: Final = 63
_LONGEST_NAME: Final = 63  # of users and roles; Neo4j itself allows more


class Mode(StrEnum):
    """How apps are kept apart on a server; `mode` says which one holds."""

    DATABASE = "database"
    INSTANCE = "instance"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class Neo4jFacts(Facts):
    """What the server can do, found by asking it to plan the commands: a product's name tells nothing of that.

    `marks` and `labelled` are the owner marks in the default database of a server without roles.
    """

    edition: str = "community"  # as the server calls itself; shown, never decided upon
    multi_database: bool = False
    roles: bool = False
    default_database: str = DEFAULT_DATABASE
    dedicated: bool = False  # multidb runs this server for one app
    marks: tuple[Owner, ...] = ()
    labelled: tuple[Owner, ...] = ()
    public_load: tuple[str, ...] = ()  # what every user may load by LOAD CSV, as the commands that gave the rights
    logins: frozenset[str] = frozenset()  # users that are called as apps', where one is called as a second one


@dataclass(frozen=True, kw_only=True)
class Mark(Resource):
    """Says on the server whose something is. Made before everything else, so that a half-made app is recognised.

    With databases it is a role that nobody has and that may do nothing; elsewhere it is an empty index in the shared
    database, which, unlike a user, opens nothing and survives the deletion of all data. On a server of one app there
    is one for the whole server, and data without a mark counts as somebody else's.
    """

    kind = "mark"
    rank = 0
    marked = True

    mode: Mode = field(default=Mode.DATABASE, compare=False)
    database: str = field(default="", compare=False)  # where the index is


@dataclass(frozen=True, kw_only=True)
class PublicRights(Resource):
    """What every user may do besides its own roles. `load`: rights to read files and URLs by LOAD CSV."""

    kind = "public rights"
    rank = 10
    closing: ClassVar[str] = (
        "no user loads files or addresses by LOAD CSV any more, also those of others, unless a role of its own lets it"
    )

    load: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Database(Resource):
    """An app's database (Enterprise). `status` is the wanted one that the server knows of."""

    kind = "database"
    rank = 20
    marked = True

    status: str = "online"
    access: str = "read-write"


@dataclass(frozen=True, kw_only=True)
class Role(Resource):
    """One of an app's roles; what it may do are `Grant` resources."""

    kind = "role"
    rank = 30
    marked = True


@dataclass(frozen=True, kw_only=True)
class Grant(Resource):
    """One right of one role. Its name is the command that gives it, as ``SHOW PRIVILEGES AS COMMANDS`` writes it."""

    kind = "grant"
    rank = 40
    edge = True


@dataclass(frozen=True, kw_only=True)
class User(Resource):
    """An app's login. `suspended` and `home` are None where the server has no such thing (Community).

    `password` is ``current`` when the server takes the one in the secret store, ``other`` when it takes another,
    ``lost`` when the secret store has none, and ``none`` when there is no such user, as of a credential that a rotation
    has turned off. With `change_required` a login works and every query is refused.
    """

    kind = "user"
    rank = 50
    marked = True

    password: str = "current"
    change_required: bool = False
    suspended: bool | None = None
    home: str | None = None
    alternate: Alternate = field(default=Alternate.FIRST, compare=False)


@dataclass(frozen=True, kw_only=True)
class Membership(Resource):
    """That a user has a role."""

    kind = "membership"
    rank = 60
    edge = True

    role: str = field(compare=False)
    user: str = field(compare=False)

    @classmethod
    def of(cls, role: str, user: str, app: str | None) -> Membership:
        """The membership of `user` in `role`."""
        return cls(name=f"{user} in {role}", role=role, user=user, app=app)


def database_name(app: str) -> str:
    """The database of an app: its id with ``-`` for ``_``, which Neo4j does not allow.

    Ids that make no valid name (two letters, ``system...``) get ``db.`` in front. No id has a dot or a hyphen, so two
    apps never share a name.
    """
    name = app.replace("_", "-")
    return f"db.{name}" if len(name) < _SHORTEST_DATABASE or name.startswith("system") else name


def user_name(app: str, alternate: Alternate = Alternate.FIRST) -> str:
    """The user of an app, by which of its two credentials it comes with."""
    return f"{app}_user" if alternate is Alternate.FIRST else f"{app}_user_b"


def user_names(app: str) -> tuple[str, ...]:
    """Every user that an app may have."""
    return tuple(user_name(app, alternate) for alternate in Alternate)


def rw_role(app: str) -> str:
    return f"{app}_rw"


def ro_role(app: str) -> str:
    return f"{app}_ro"


def password_ref(app: str, alternate: Alternate = Alternate.FIRST) -> SecretRef:
    """The password of the app's user, by which of its two credentials it comes with."""
    return SecretRef(app, STORE, "password" if alternate is Alternate.FIRST else "password_b")


def mark_name(owner: Owner, mode: Mode) -> str:
    """The name of the role or index that marks what is `owner`'s: ``multidb_digi_OWNS_lernmi``."""
    return spelled(owner, "LABELS" if mode is Mode.LABEL else "OWNS")


def spelled(owner: Owner, verb: str) -> str:
    """A mark as a name that roles can have: ASCII letters, digits and underscores.

    Ids have no capitals, so those of `verb` separate; any other character of a project's name becomes ``X`` and its
    code in hexadecimal.
    """
    project = "".join(c if re.fullmatch("[a-z0-9_]", c) else f"X{ord(c):06X}" for c in owner.project)
    return f"multidb_{project}_{verb}_{owner.app}"


def read_mark(name: str) -> tuple[Owner, Mode] | None:
    """The inverse of `mark_name`, None for any other name. `Mode.INSTANCE` stands for every mark that is no label's."""
    match = re.fullmatch(r"multidb_((?:[a-z0-9_]|X[0-9A-F]{6})*)_(OWNS|LABELS)_([a-z][a-z0-9_]*)", name)
    if match is None:
        return None
    project = re.sub(r"X([0-9A-F]{6})", lambda code: chr(int(code[1], 16)), match[1])
    return Owner(project, match[3]), Mode.LABEL if match[2] == "LABELS" else Mode.INSTANCE


def derived_names(app: App) -> Sequence[DerivedName]:
    first, second = user_names(app.id)
    return (
        DerivedName("neo4j database", database_name(app.id), _LONGEST_DATABASE, f"the Neo4j database of {app.id}"),
        DerivedName("neo4j role", rw_role(app.id), _LONGEST_NAME, f"the Neo4j read-write role of {app.id}"),
        DerivedName("neo4j role", ro_role(app.id), _LONGEST_NAME, f"the Neo4j read-only role of {app.id}"),
        DerivedName("neo4j user", first, _LONGEST_NAME, f"the Neo4j user of {app.id}"),
        DerivedName("neo4j user", second, _LONGEST_NAME, f"the Neo4j user of {app.id} that a rotation switches to"),
    )


def secrets(app: App) -> Sequence[SecretSpec]:
    return tuple(SecretSpec(password_ref(app.id, alternate), alternate=alternate) for alternate in Alternate)


def mode(context: StoreContext) -> Mode:
    """How apps are kept apart on this server.

    Raises:
        Refused: ``isolation`` asks for what the server cannot do.
    """
    facts = Neo4jFacts.of(context.facts)
    options = ServerOptions.of(context.options)
    able = facts.roles and facts.multi_database
    where = str(context.server) if context.server else None
    if options.isolation == "database" and not able:
        raise Refused(
            f"isolation: database needs databases and roles; this server ({facts.edition} edition) has "
            f"{'databases without roles' if facts.multi_database else 'neither'}",
            where=where,
            hint="use Neo4j Enterprise, or set servers.neo4j.isolation: auto",
        )
    if options.isolation in ("instance", "label") and able:
        raise Refused(
            f"isolation: {options.isolation} is for servers without roles; this one has them",
            where=where,
            hint="set servers.neo4j.isolation: auto, which gives each app a database and roles of its own",
        )
    if able:
        return Mode.DATABASE
    return Mode.LABEL if options.isolation == "label" else Mode.INSTANCE


def desired(apps: Sequence[App], context: StoreContext) -> Sequence[Resource]:
    """Everything that the apps are to have on this server.

    Raises:
        Refused: two apps on a server that has room for one; the hint spells the choices out.
    """
    chosen = mode(context)
    if chosen is Mode.DATABASE:
        options = ServerOptions.of(context.options)
        resources: list[Resource] = [PublicRights(name=PUBLIC)] if apps and options.close_defaults else []
        for app in apps:
            resources += _on_enterprise(app, context)
        return tuple(resources)
    if chosen is Mode.INSTANCE and len(apps) > 1:
        raise one_app_only([app.id for app in apps], context)
    return tuple(resource for app in apps for resource in _on_community(app, context, chosen))


def alternates(facts: Facts, project: str) -> dict[str, Alternates]:
    """By app that has a second user, which of the two there are: of two, either may be the one in its variables. Whose
    a user is, the marks say, which every plan reads."""
    logins, seen = Neo4jFacts.of(facts).logins, {}
    for app in sorted(login.removesuffix("_user_b") for login in logins if login.endswith("_user_b")):
        working = frozenset(alternate for alternate in Alternate if user_name(app, alternate) in logins)
        current = Alternate.FIRST if Alternate.FIRST in working else Alternate.SECOND
        seen[app] = Alternates(current, working, tuple(Alternate))
    return seen


def loads(commands: Sequence[str]) -> tuple[str, ...]:
    """Those of the commands that give every user a right to LOAD CSV, sorted, in `canonical` form."""
    lines = (line for command in commands for line in canonical(command))
    return tuple(sorted(line for line in lines if re.fullmatch(rf"GRANT (IMMUTABLE )?LOAD .* TO `{PUBLIC}`", line)))


def immutable(line: str) -> bool:
    """Whether a right, as `canonical` writes it, can be changed only by who runs the server."""
    return re.match(r"(GRANT|DENY) IMMUTABLE ", line) is not None


def canonical(command: str) -> tuple[str, ...]:
    """A privilege command in the form in which the server lists it, one entry for each line that it lists.

    The form is taken from the operations manual (2026): one role per line; names of databases and roles in backticks;
    ``MATCH``, ``READ``, ``TRAVERSE`` and ``DELETE`` split into a line for ``NODE`` and one for ``RELATIONSHIP``. What
    multidb sends has this form already, so this only evens out how other versions may write it. It was not tried on an
    Enterprise server; the syntax of the result is checked on a Community server, which parses it.
    """
    text = " ".join(command.strip().strip('"').split())
    head, separator, role = text.rpartition(" TO ")
    if not separator:
        return (text,)
    head = re.sub(r"(?<= ON )(DATABASE|GRAPH)S? (?![`*])([A-Za-z0-9.-]+)", r"\1 `\2`", head)
    role = role if role.startswith("`") else f"`{role}`"
    spot = re.search(r"(?: (NODES?|RELATIONSHIPS?|ELEMENTS?) (.+))?$", head) if _splits(head) else None
    if spot is None:
        return (f"{head} TO {role}",)
    kinds = {"N": ["NODE"], "R": ["RELATIONSHIP"]}.get((spot[1] or "E")[0], ["NODE", "RELATIONSHIP"])
    return tuple(f"{head[: spot.start()]} {kind} {spot[2] or '*'} TO {role}" for kind in kinds)


def _splits(head: str) -> bool:
    return re.match(r"(GRANT|DENY) (IMMUTABLE )?(MATCH|READ|TRAVERSE|DELETE)\b", head) is not None


def _on_enterprise(app: App, context: StoreContext) -> list[Resource]:
    options, owner = AppOptions.of(app.stores[STORE]), Owner(context.project, app.id)
    assert isinstance(options, AppOptions)
    may_grow, working = app.id not in context.read_only, context.alternates_of(app.id).working
    database = database_name(app.id)
    rw, ro = rw_role(app.id), ro_role(app.id)
    return [
        Mark(name=app.id, app=app.id, owner=owner),
        Database(name=database, app=app.id, owner=owner),
        Role(name=rw, app=app.id, owner=owner),
        Role(name=ro, app=app.id, owner=owner),
        *(Grant(name=right, app=app.id) for right in _rights(database, rw, _of_the_app(options, may_grow))),
        *(Grant(name=right, app=app.id) for right in _rights(database, ro, ())),
        *_users(app, context, suspended=app.id in context.closed, home=database),
        *(Membership.of(rw, user_name(app.id, alternate), app.id) for alternate in Alternate if alternate in working),
    ]


def _users(app: App, context: StoreContext, suspended: bool | None = None, home: str | None = None) -> list[User]:
    """The app's users: one, two while its credentials are rotated, and after that one that is to be gone."""
    of_app = context.alternates_of(app.id)
    return [
        User(
            name=user_name(app.id, alternate),
            app=app.id,
            owner=Owner(context.project, app.id),
            password="current" if alternate in of_app.working else "none",
            suspended=suspended,
            home=home,
            alternate=alternate,
        )
        for alternate in of_app.made
    ]


def _of_the_app(options: AppOptions, may_grow: bool) -> Sequence[str]:
    """The rights of the app's own user beyond reading, without the places that they are on."""
    if not may_grow:
        return ("DELETE",)
    # Without NAME MANAGEMENT new labels, types and property keys fail.
    schema = ("INDEX MANAGEMENT", "CONSTRAINT MANAGEMENT") if options.manage_schema else ()
    return ("NAME MANAGEMENT", *schema, "WRITE")


def _rights(database: str, role: str, more: Sequence[str]) -> list[str]:
    """The commands that give a role its rights. Only GRANT, never DENY: a DENY with a misspelt name denies nothing."""
    on_database = [
        "ACCESS",
        "SHOW INDEX",
        "SHOW CONSTRAINT",
        *(right for right in more if right.endswith("MANAGEMENT")),
    ]
    on_graph = ["MATCH {*}", *(right for right in more if not right.endswith("MANAGEMENT"))]
    commands = [f"GRANT {right} ON DATABASE `{database}` TO `{role}`" for right in on_database]
    commands += [f"GRANT {right} ON GRAPH `{database}` TO `{role}`" for right in on_graph]
    return [line for command in commands for line in canonical(command)]


def _on_community(app: App, context: StoreContext, chosen: Mode) -> list[Resource]:
    facts = Neo4jFacts.of(context.facts)
    owner = Owner(context.project, app.id)
    # A user cannot be suspended here, so an app that is closed has none.
    users = _users(app, context) if app.id not in context.closed else []
    if facts.dedicated:
        return [*users]
    name = app.id if chosen is Mode.LABEL else facts.default_database
    return [Mark(name=name, app=app.id, owner=owner, mode=chosen, database=facts.default_database), *users]


def one_app_only(apps: Sequence[str], context: StoreContext) -> Refused:
    """The error for apps that want a server which has room for one of them."""
    return Refused(
        f"this Neo4j has no roles: every user is an administrator, so one app may have it, and {len(apps)} want it "
        f"({', '.join(apps)})",
        where=str(context.server) if context.server else None,
        hint="choose: leave neo4j to one of them (`stores:` of the others); Neo4j Enterprise, for a database per app; "
        "runtime: embedded, for a small server per app; or servers.neo4j.isolation: label, which is no wall",
    )


def database_of(app: App, context: StoreContext, options: ServerOptions) -> str:
    if context.facts is None:  # not asked: what the manifest says is all there is
        return database_name(app.id) if options.isolation == "database" else DEFAULT_DATABASE
    facts = Neo4jFacts.of(context.facts)
    return database_name(app.id) if facts.roles and facts.multi_database else facts.default_database
