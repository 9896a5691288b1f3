"""A change, as the SQL that an operator could paste into psql. Pure: no driver, no connection.

Everything that does not have to stand alone is `atomic`, so a session may send it in one transaction with its
neighbours. The order of the ranks does the rest: all roles, then the databases, then who may enter them, then the
inside of each, in one transaction per database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from multidb.model import Action, Change, Owner, Statement, StoreContext
from multidb.provisioners.postgres.provision.interior_statements import interior_statements, reading_statements
from multidb.provisioners.postgres.provision.marks import UNFINISHED, mark
from multidb.provisioners.postgres.provision.privileges import adjustments, joining_login, leaving_login
from multidb.provisioners.postgres.provision.quoting import assignment, identifier, literal
from multidb.provisioners.postgres.provision.resources import (
    PUBLIC,
    SEARCH_PATH,
    Access,
    Database,
    Interior,
    Membership,
    PostgresFacts,
    Reading,
    Role,
    ServerDatabase,
    Settings,
    verifier_ref,
)
from multidb.provisioners.postgres.provision.roles import ATTRIBUTES
from multidb.provisioners.postgres.provision.shared_resources import (
    Schema,
    SharedAccess,
    SharedDatabase,
    SharedInterior,
)
from multidb.provisioners.postgres.provision.shared_statements import (
    shared_access,
    shared_database,
    shared_interior,
    shared_schema,
)

__all__ = ["ending_sessions", "statements"]

_ENDING = 2000  # milliseconds that a session is given to end


def statements(change: Change, context: StoreContext) -> tuple[Statement, ...]:
    """What removes the difference `change`, in order. A conflict has none.

    Raises:
        ServerError: the server's machine lacks an extension that is to be created.
        NotAllowed: the admin login cannot create it, or cannot own the app's schema.
    """
    if change.action is Action.CONFLICT:
        return ()
    facts = PostgresFacts.of(context.facts)
    match change.resource:
        case ServerDatabase() as database:
            return _atomic(_server_database(change, database, facts))
        case Role() as role:
            return tuple(_role(change, role, facts))
        case Membership() as membership:
            return _atomic(_membership(change, membership, facts))
        case Database() as database:
            return _database(change, database)
        case Access() as access:
            return _atomic(_access(change, access, context))
        case Settings() as settings:
            return (*_atomic(_settings(change, settings)), *_anew(change, settings, facts))
        case Interior() as interior:
            return _atomic(interior_statements(change, interior, context), scope=interior.scope)
        case Reading() as reading:
            return _atomic(reading_statements(change, reading), scope=reading.database)
    return _of_shared(change, facts)


def _of_shared(change: Change, facts: PostgresFacts) -> tuple[Statement, ...]:
    match change.resource:
        case SharedDatabase() as database:
            return shared_database(change, database)
        case SharedAccess() as access:
            return _atomic(shared_access(change, access))
        case SharedInterior() as interior:
            return _atomic(shared_interior(change, interior, facts), scope=interior.name)
        case Schema() as schema:
            return _atomic(shared_schema(change, schema), scope=schema.database)
    raise TypeError(f"not a Postgres resource: {change.resource!r}")


def _atomic(lines: Iterable[str], scope: str = "") -> tuple[Statement, ...]:
    return tuple(Statement(line, scope=scope, atomic=True) for line in lines)


def _server_database(change: Change, database: ServerDatabase, facts: PostgresFacts) -> Iterator[str]:
    name = identifier(database.name)
    if change.changed("admin_connects"):
        yield f"GRANT CONNECT ON DATABASE {name} TO {identifier(facts.admin)}"
    if change.changed("public"):
        live = change.live
        if isinstance(live, ServerDatabase) and live.heirs and live.public:  # in one transaction with the next
            heirs = ", ".join(map(identifier, sorted(live.heirs)))
            yield f"GRANT {', '.join(sorted(live.public))} ON DATABASE {name} TO {heirs}"
        yield f"REVOKE CONNECT, CREATE, TEMPORARY ON DATABASE {name} FROM PUBLIC"


# ----------------------------------------------------------------------------------------------- roles, memberships


def _role(change: Change, role: Role, facts: PostgresFacts) -> Iterator[Statement]:
    name = identifier(role.name)
    assert role.owner is not None
    assert role.app is not None
    comment = f"COMMENT ON ROLE {name} IS {literal(mark(role.owner, role.purpose))}"
    turned_on, turned_off = (change.changed("login") and role.login is on for on in (True, False))
    # Who is no superuser cannot read what password a login has that was off.
    sends_password = role.password is not None and (change.changed("password") or (turned_on and not facts.superuser))
    binds = (("verifier", verifier_ref(role.app, role.secret)),) if sends_password else ()
    # Only what changes is named: naming SUPERUSER at all takes a superuser.
    if change.action is Action.CREATE:
        named = [known for known in ATTRIBUTES if known.field == "login" or getattr(role, known.field) != known.default]
        words = [] if role.connection_limit < 0 else [f"CONNECTION LIMIT {role.connection_limit}"]
    else:
        named = [known for known in ATTRIBUTES if change.changed(known.field)]
        retired = turned_off and _is_retired(change, role)
        limited = change.changed("connection_limit") or retired
        words = [f"CONNECTION LIMIT {role.connection_limit}"] if limited else []
        words += ["VALID UNTIL 'infinity'"] if change.changed("valid_until") else []
        loses_password = change.changed("password") or retired
        words += ["PASSWORD NULL"] if loses_password and not sends_password else []
    words += ["PASSWORD :'verifier'"] if sends_password else []
    words = [*(known.word(getattr(role, known.field)) for known in named), *words]
    verb = "CREATE" if change.action is Action.CREATE else "ALTER"
    making = [Statement(f"{verb} ROLE {name} {' '.join(words)}", binds, atomic=True)] if words else []
    if change.action is Action.UPDATE and turned_off and _is_retired(change, role):
        # Nobody comes in by it from the first of these on, and what says that it is off comes last: whoever finds a
        # login that is on after a run was killed ends the sessions that it still has.
        shut = Statement(f"ALTER ROLE {name} CONNECTION LIMIT 0 PASSWORD NULL", atomic=True)
        yield from ending_sessions([role.name], facts, [shut])
    yield from making
    if change.changed("owner", "home"):
        yield Statement(comment, atomic=True)


def _is_retired(change: Change, role: Role) -> bool:
    """Whether it is a login whose other one has taken its place: what it has open ends with it."""
    return isinstance(change.live, Role) and change.live.login and bool(role.secret) and role.password is None


def _membership(change: Change, membership: Membership, facts: PostgresFacts) -> Iterator[str]:
    role, member = identifier(membership.role), identifier(membership.member)
    live, desired = change.live, change.desired
    if isinstance(live, Membership) and membership.member != facts.admin:
        # Each grantor's grant stands by itself since Postgres 16; before, there is one and nobody asks whose.
        if facts.membership_options:
            for grantor in live.grantors:
                yield f"REVOKE {role} FROM {member} GRANTED BY {identifier(grantor)} CASCADE"
        else:
            yield f"REVOKE {role} FROM {member} CASCADE"
    if isinstance(desired, Membership):
        yield f"GRANT {role} TO {member}{_membership_options(desired)}"


def _membership_options(membership: Membership) -> str:
    if membership.inherit is None or membership.set_role is None:
        return ""
    return f" WITH INHERIT {str(membership.inherit).upper()}, SET {str(membership.set_role).upper()}"


# -------------------------------------------------------------------------------------------------------- databases


def _database(change: Change, database: Database) -> tuple[Statement, ...]:
    name = identifier(database.name)
    assert database.owner is not None
    if change.action is Action.CREATE:
        # template0: nobody can be connected to it, and it has no local additions. Nobody may enter before the
        # privileges are in place.
        locale = f" LOCALE {literal(database.locale)}" if database.locale else ""
        text = f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'{locale} ALLOW_CONNECTIONS false"
        return (Statement(text),)
    lines = []
    if change.changed("belongs_to"):
        lines.append(f"ALTER DATABASE {name} OWNER TO {identifier(database.belongs_to)}")
    if change.changed("template"):
        lines.append(f"ALTER DATABASE {name} IS_TEMPLATE false")
    if change.changed("connection_limit"):
        lines.append(f"ALTER DATABASE {name} CONNECTION LIMIT {database.connection_limit}")
    if change.changed("owner"):
        lines.append(f"COMMENT ON DATABASE {name} IS {literal(mark(database.owner, UNFINISHED))}")
    return _atomic(lines)


def _access(change: Change, access: Access, context: StoreContext) -> Iterator[str]:
    name = identifier(access.name)
    live = change.live
    if isinstance(live, Access):
        held = live.privileges
    else:
        assert access.app is not None
        yield f"COMMENT ON DATABASE {name} IS {literal(mark(Owner(context.project, access.app), UNFINISHED))}"
        held = frozenset({(PUBLIC, "CONNECT"), (PUBLIC, "TEMPORARY")})  # what a new database has
    yield from adjustments(f"ON DATABASE {name}", held, access.privileges)
    if change.changed("allow_connections"):
        yield f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"


def _settings(change: Change, settings: Settings) -> Iterator[str]:
    live = change.live
    held = live.values if isinstance(live, Settings) else frozenset()
    where = f"ALTER ROLE {identifier(settings.role)} IN DATABASE {identifier(settings.database)}"
    desired = dict(settings.values)
    for name, _ in sorted(held - settings.values):
        if name not in desired:
            yield f"{where} RESET {name}"
    for name, value in sorted(settings.values - held):
        yield f"{where} {assignment(name, value)}" if name == SEARCH_PATH else f"{where} SET {name} = {literal(value)}"
    if isinstance(live, Settings):
        yield from _likened(live)


def _likened(live: Settings) -> Iterator[str]:
    """What gives a login the settings that its app has made for the other one of its purpose."""
    for here, name, value in sorted(live.unlike, key=lambda entry: (entry[0], entry[1])):
        scope = f" IN DATABASE {identifier(live.database)}" if here else ""
        yield f"ALTER ROLE {identifier(live.role)}{scope} {assignment(name, value)}"


def _anew(change: Change, settings: Settings, facts: PostgresFacts) -> Iterator[Statement]:
    """A session stays what it became when it began, so a login that becomes another role has to begin anew."""
    held, desired = (
        dict(side.values).get("role") if isinstance(side, Settings) else None for side in (change.live, settings)
    )
    if held is not None and held != desired:
        yield from ending_sessions([settings.role], facts)


def ending_sessions(
    logins: Sequence[str], facts: PostgresFacts, shutting: Sequence[Statement] = ()
) -> Iterator[Statement]:
    """What ends the sessions of logins, wherever they are.

    Args:
        shutting: what keeps them from coming back. Their sessions end first, which may hold a lock on it, and once more
            after it.
    """
    # Who is no superuser ends sessions of roles that it belongs to; it administers the app's, so it may join them.
    joining = () if facts.superuser else logins
    for login in joining:
        yield Statement(joining_login(login, facts))
    named = ", ".join(map(literal, logins))
    # A session is told to end, and takes a moment; what comes after this may need it gone.
    ending = f", {_ENDING}" if facts.number >= 140000 else ""
    sessions = f"FROM pg_stat_activity WHERE usename IN ({named}) AND pid <> pg_backend_pid()"
    yield Statement(f"SELECT pg_terminate_backend(pid{ending}) {sessions}")
    if shutting:
        yield from shutting
        yield Statement(f"SELECT pg_terminate_backend(pid{ending}) {sessions}")
    for login in joining:
        yield Statement(leaving_login(login, facts))
