"""What to ask of a server's shared catalogs, and how to read the answer as resources. Pure: text in, values out.

Each question is one statement that answers with one JSON document, so that a server of a thousand apps costs one round
trip. Every session of the admin has ``search_path = pg_catalog, pg_temp``: an app may own functions in its database,
and none of them must be called by an administrator's query.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from multidb.errors import NotAllowed, ServerError
from multidb.model import App, Inspection, Owner, Resource
from multidb.provisioners.postgres.backup.places import DELEGATES
from multidb.provisioners.postgres.provision import scram
from multidb.provisioners.postgres.provision.databases import Home, home
from multidb.provisioners.postgres.provision.marks import parse_mark, schema_in_mark
from multidb.provisioners.postgres.provision.options import STORE, AppOptions, duration_of, duration_text
from multidb.provisioners.postgres.provision.privileges import privileges_of
from multidb.provisioners.postgres.provision.resources import (
    MANAGED_SETTINGS,
    PURPOSES,
    SEARCH_PATH,
    Access,
    Database,
    Interior,
    Membership,
    PostgresFacts,
    Role,
    ServerDatabase,
    Settings,
    derived_names,
    password_ref,
    purposes,
    verifier_ref,
)
from multidb.provisioners.postgres.provision.roles import ATTRIBUTES, AppNames, slot_of
from multidb.provisioners.postgres.provision.setting_values import stored_values
from multidb.provisioners.postgres.provision.shared_catalog import elsewhere, shared_access, shared_database
from multidb.provisioners.postgres.provision.shared_resources import (
    SharedAccess,
    SharedDatabase,
    SharedInterior,
    is_shared,
    unfinished_name,
)

__all__ = [
    "InteriorStatus",
    "Overview",
    "overview_parameters",
    "overview_query",
    "read_overview",
    "without_known",
]

_BECOMING = frozenset({"role", "session_authorization"})  # whom a session becomes is never copied


def overview_query(facts: PostgresFacts) -> str:
    """Asks for all roles, memberships, databases and settings that concern us: ``$1`` roles and ``$2`` databases by
    name (JSON arrays), ``$3`` the beginning of this project's marks, ``$4`` known accounts (JSON array)."""
    table, password = ("pg_authid", "a.rolpassword") if facts.superuser else ("pg_roles", "NULL::text")
    attributes = ", ".join(f"'{known.field}', {known.column}" for known in ATTRIBUTES)
    options = "am.inherit_option, am.set_option" if facts.membership_options else "NULL::bool, NULL::bool"
    return f"""
WITH named_role AS MATERIALIZED (SELECT value FROM json_array_elements_text($1::json)),
named_database AS MATERIALIZED (SELECT value FROM json_array_elements_text($2::json)),
role AS MATERIALIZED (
  SELECT a.*, {password} AS held, c.description AS mark, a.rolname IN (SELECT value FROM named_role) AS named
  FROM {table} a LEFT JOIN pg_shdescription c ON c.objoid = a.oid AND c.classoid = 'pg_authid'::regclass
  WHERE a.rolname IN (SELECT value FROM named_role) OR starts_with(c.description, $3)),
database AS MATERIALIZED (
  SELECT d.*, c.description AS mark
  FROM pg_database d LEFT JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
  WHERE d.datname IN (SELECT value FROM named_database) OR starts_with(c.description, $3))
SELECT json_build_object(
  'known', (SELECT json_agg(rolname) FROM pg_roles WHERE rolname IN (SELECT json_array_elements_text($4::json))),
  'roles', (SELECT json_agg(json_build_object(
      'name', rolname, 'mark', mark, {attributes}, 'connection_limit', rolconnlimit,
      'valid_until', nullif(rolvaliduntil, 'infinity'), 'held', held)) FROM role),
  'memberships', (SELECT json_agg(json_build_array(
      pg_get_userbyid(am.roleid), pg_get_userbyid(am.member), pg_get_userbyid(am.grantor), am.admin_option, {options}))
    FROM pg_auth_members am
    WHERE (am.roleid IN (SELECT oid FROM role WHERE named) OR am.member IN (SELECT oid FROM role WHERE named))
      AND am.member NOT IN ({DELEGATES})),
  'databases', (SELECT json_agg(json_build_object(
      'name', d.datname, 'mark', d.mark, 'owner', pg_get_userbyid(d.datdba), 'open', d.datallowconn,
      'template', d.datistemplate, 'connection_limit', d.datconnlimit,
      'privileges', (SELECT json_agg(json_build_array(
                       CASE x.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(x.grantee) END,
                       x.privilege_type, x.is_grantable))
                     FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x WHERE x.grantee <> d.datdba),
      'settings', (SELECT json_agg(json_build_array(pg_get_userbyid(s.setrole), s.setconfig))
                   FROM pg_db_role_setting s WHERE s.setdatabase = d.oid AND s.setrole <> 0)))
    FROM database d),
  'everywhere', (SELECT json_object_agg(r.rolname, s.setconfig)
                 FROM pg_db_role_setting s JOIN role r ON r.oid = s.setrole WHERE s.setdatabase = 0))"""  # noqa: S608


def overview_parameters(inspection: Inspection) -> tuple[str, str, str, str]:
    """What `overview_query` is asked with: every name that the apps may have taken, used now or not."""
    names = [name for app in inspection.apps for name in derived_names(app)]
    roles = [name.name for name in names if name.space == "postgres role"]
    databases = [name.name for name in names if name.space == "postgres database"]
    databases += [resource.name for resource in inspection.desired if isinstance(resource, ServerDatabase)]
    shared = [resource.name for resource in inspection.desired if isinstance(resource, SharedDatabase)]
    databases += [*shared, *map(unfinished_name, shared)]
    known = json.dumps(sorted(inspection.context.known))
    return json.dumps(roles), json.dumps(databases), f"multidb:{inspection.context.project}/", known


@dataclass(frozen=True, slots=True)
class InteriorStatus:
    """A database whose inside is wanted, and what can be told of it from outside.

    Args:
        settled: it is as we left it, by its mark; otherwise only a look inside tells.
        open: one can connect to it at all.
        marked: it is ours for certain.
    """

    desired: Interior
    revision: str
    settled: bool
    open: bool
    marked: bool


@dataclass(frozen=True)
class Overview:
    """What the shared catalogs say: everything but the databases' insides, and which of those there are."""

    resources: tuple[Resource, ...]
    insides: tuple[InteriorStatus, ...]
    shared: tuple[str, ...] = ()  # databases that apps share and that can be entered
    roles: frozenset[str] = frozenset()  # those with the project's mark
    elsewhere: tuple[tuple[App, App], ...] = ()  # apps as they are, where the manifest has them elsewhere, and as there


def read_overview(answer: str, inspection: Inspection) -> Overview:
    """The resources in the answer to `overview_query`, as `inspection` wants them."""
    document = json.loads(answer)
    facts = inspection.context.facts
    assert isinstance(facts, PostgresFacts)
    desired = {resource.key: resource for resource in inspection.desired}
    roles = [_role(row, desired, inspection, facts) for row in document["roles"] or []]
    owners = {role.name: role.owner for role in roles}
    shared = {key[1]: resource for key, resource in desired.items() if isinstance(resource, SharedDatabase)}
    shared |= {unfinished_name(name): resource for name, resource in shared.items()}
    entered: list[str] = []
    resources: list[Resource] = [*roles]
    apps = {name.name: app.id for app in inspection.apps for name in derived_names(app)}
    resources += _memberships(document["memberships"] or [], desired, owners, apps, facts)
    insides: list[InteriorStatus] = []
    beside, everywhere = _standing_beside(inspection), document["everywhere"] or {}
    for row in document["databases"] or []:
        if (ServerDatabase.kind, row["name"]) in desired:
            resources.append(_server_database(row, facts, document["known"] or []))
            continue
        if row["name"] in shared or is_shared(row["mark"]):
            if (sought := shared.get(row["name"])) is not None:
                made = list(_in_shared(row, sought, owners, beside.get(row["name"], {}), everywhere))
                resources += made
                databases = [one for one in made if isinstance(one, SharedDatabase) and one.owner == sought.owner]
                entered += [one.name for one in databases if one.finished and row["open"]]
            continue
        owner, revision = parse_mark(row["mark"])
        half_made = _half_made(row, desired, owners)
        resources.append(_database(row, owner or half_made))
        if half_made is not None:
            continue  # nothing has been done to it yet, so everything else is still to be created
        resources += [_access(row, owner), *_settings(row, owner, beside.get(row["name"], {}), everywhere)]
        database = desired.get((Database.kind, row["name"]))
        interior = desired.get((Interior.kind, row["name"]))
        if isinstance(interior, Interior) and database is not None and owner in (None, database.owner):
            settled = revision == interior.revision
            # A limit keeps out everybody but superusers, and has to be lifted first.
            open_ = row["open"] and (facts.superuser or row["connection_limit"] < 0)
            insides.append(InteriorStatus(interior, revision, settled, open_, marked=owner is not None))
    moving = tuple(elsewhere(document["databases"] or (), inspection, owners))
    inspection.unread.update((app.id, _not_moved(there, app)) for there, app in moving)
    project = inspection.context.project
    ours = frozenset(name for name, owner in owners.items() if owner is not None and owner.project == project)
    return Overview(tuple(resources), tuple(insides), tuple(entered), ours, moving)


def _not_moved(there: App, app: App) -> ServerError:
    return NotAllowed(
        f"app {app.id} has {home(there)}, and the manifest gives it {home(app)}",
        where=f"app {app.id}",
        hint=f"move it: multidb move {app.id}; or let the manifest say what is there",
    )


def _home(comment: str | None) -> str | None:
    there = schema_in_mark(comment)
    return str(Home(there[1], there[0])) if there is not None else None


def _in_shared(
    row: Mapping[str, Any],
    desired: SharedDatabase,
    owners: Mapping[str, Owner | None],
    beside: Mapping[str, str],
    everywhere: Mapping[str, list[str]],
) -> Iterator[Resource]:
    """A database that apps share, and what each of them has on it as a whole."""
    database = shared_database(row, desired, owners)
    if database is None:
        return
    yield database
    if database.finished and desired.owner is not None:
        yield from shared_access(row, desired.owner.project, owners)
        managed = MANAGED_SETTINGS | {SEARCH_PATH}
        for settings in _settings(row, None, beside, everywhere, managed):
            owner = owners.get(settings.role)
            yield replace(settings, app=owner.app if owner is not None else None)


def without_known(resources: Iterable[Resource], known: frozenset[str]) -> Iterator[Resource]:
    """The resources as they would be without what the `known` accounts hold: that is no drift."""
    for resource in resources:
        match resource:
            case Membership() if resource.member in known:
                continue
            case SharedDatabase():
                yield replace(
                    resource, strangers=frozenset(pair for pair in resource.strangers if pair[0] not in known)
                )
            case SharedInterior():
                public, extensions = (
                    frozenset(pair for pair in held if pair[0] not in known)
                    for held in (resource.public, resource.extensions)
                )
                yield replace(resource, public=public, extensions=extensions)
            case Access():
                held = frozenset(pair for pair in resource.privileges if pair[0] not in known)
                yield replace(resource, privileges=held)
            case Interior():
                schema = frozenset(pair for pair in resource.schema_privileges if pair[0] not in known)
                defaults = frozenset(entry for entry in resource.default_privileges if entry[2] not in known)
                yield replace(resource, schema_privileges=schema, default_privileges=defaults)
            case _:
                yield resource


def _half_made(
    row: Mapping[str, Any], desired: Mapping[tuple[str, str], Resource], owners: Mapping[str, Owner | None]
) -> Owner | None:
    """Whose a database is that was created and not marked yet: nobody may enter it, and its roles are ours."""
    database = desired.get((Database.kind, row["name"]))
    interior = desired.get((Interior.kind, row["name"]))
    if row["mark"] or row["open"] or database is None or not isinstance(interior, Interior):
        return None
    return database.owner if owners.get(interior.role) == database.owner else None


def _role(
    row: Mapping[str, Any], by_key: Mapping[tuple[str, str], Resource], inspection: Inspection, facts: PostgresFacts
) -> Role:
    desired = by_key.get((Role.kind, row["name"]))
    owner, _ = parse_mark(row["mark"])
    password = None
    if isinstance(desired, Role):
        password = _password(row["held"], desired, inspection, facts)
    return Role(
        name=row["name"],
        app=owner.app if owner else None,
        owner=owner,
        home=_home(row["mark"]),
        **{known.field: row[known.field] for known in ATTRIBUTES},
        connection_limit=row["connection_limit"],
        valid_until=row["valid_until"],
        password=password,
    )


def _password(held: str | None, desired: Role, inspection: Inspection, facts: PostgresFacts) -> str | None:
    """The state of a login's password. An admin who is no superuser cannot read it: it then counts as current here,
    and a deep inspection tries it instead."""
    if desired.password is None:
        return "other" if held else None
    assert desired.app is not None
    ours = inspection.secrets.get(password_ref(desired.app, desired.secret))
    if ours is None:  # a login that never had a password has none to lose
        return "none" if facts.superuser and held is None else "lost"
    if not facts.superuser:
        return "current"
    if held is None:
        return "none"
    sent = inspection.secrets.get(verifier_ref(desired.app, desired.secret))
    if sent is not None and sent.reveal() == held:
        return "current"
    # Another verifier of the same password is as good: a restore from elsewhere, a change by hand to the same.
    return "current" if scram.matches(ours.reveal(), held) else "other"


def _memberships(
    rows: Iterable[Sequence[Any]],
    desired: Mapping[tuple[str, str], Resource],
    owners: Mapping[str, Owner | None],
    apps: Mapping[str, str],
    facts: PostgresFacts,
) -> Iterator[Membership]:
    """The live memberships, also of roles that carry no mark and are called as an app's (`apps`)."""
    grants: dict[tuple[str, str], list[Sequence[Any]]] = {}
    for row in rows:
        grants.setdefault((row[0], row[1]), []).append(row)
    for (role, member), given in grants.items():
        name = f"{member} in {role}"
        is_admin = member == facts.admin
        owner = owners.get(role) or owners.get(member)
        membership = Membership(
            name=name,
            app=owner.app if owner else apps.get(role) or apps.get(member),
            role=role,
            member=member,
            # The server makes the creator of a role its administrator; an admin may give itself the rest anyway.
            admin=not is_admin and any(row[3] for row in given),
            inherit=any(row[4] for row in given) if facts.membership_options else None,
            set_role=any(row[5] for row in given) if facts.membership_options else None,
            grantors=tuple(sorted({row[2] for row in given})),
        )
        useless = is_admin and facts.membership_options and not membership.inherit and not membership.set_role
        if not is_admin or ((Membership.kind, name) in desired and not useless):
            yield membership


def _server_database(row: Mapping[str, Any], facts: PostgresFacts, known: Sequence[str]) -> ServerDatabase:
    privileges = privileges_of(row["privileges"])
    connects = facts.superuser or row["owner"] == facts.admin or (facts.admin, "CONNECT") in privileges
    public = frozenset(privilege for grantee, privilege in privileges if grantee == "public")
    heirs = frozenset(known)
    return ServerDatabase(name=row["name"], public=public, admin_connects=connects, heirs=heirs)


def _database(row: Mapping[str, Any], owner: Owner | None) -> Database:
    return Database(
        name=row["name"],
        app=owner.app if owner else None,
        owner=owner,
        belongs_to=row["owner"],
        connection_limit=row["connection_limit"],
        template=row["template"],
    )


def _access(row: Mapping[str, Any], owner: Owner | None) -> Access:
    return Access(
        name=row["name"],
        app=owner.app if owner else None,
        allow_connections=row["open"],
        privileges=privileges_of(row["privileges"]),
    )


def _standing_beside(inspection: Inspection) -> dict[str, dict[str, str]]:
    """By database, each login that works beside the one of the same purpose in the app's variables, and that one."""
    by_app = {app.id: purposes(AppOptions.of(app.stores[STORE])) for app in inspection.apps}
    beside: dict[str, dict[str, str]] = {}
    for app, alternates in inspection.context.alternates.items():
        names = AppNames.of(app)
        databases = [one.name for one in inspection.desired if isinstance(one, Database) and one.app == app]
        databases += [one.database for one in inspection.desired if isinstance(one, SharedAccess) and one.app == app]
        for other in alternates.working - {alternates.current}:
            logins = {
                names.login(slot_of(purpose, other)): names.login(slot_of(purpose, alternates.current))
                for purpose in by_app.get(app, PURPOSES)
            }
            for database in databases:
                beside[database] = beside.get(database, {}) | logins
    return beside


def _settings(
    row: Mapping[str, Any],
    owner: Owner | None,
    beside: Mapping[str, str],
    everywhere: Mapping[str, list[str]],
    managed: frozenset[str] = MANAGED_SETTINGS,
) -> Iterator[Settings]:
    here = {role: _pairs(config) for role, config in row["settings"] or ()}
    for role in sorted({*here, *beside}):
        held = here.get(role, {}).items()
        values = frozenset((name, _setting(name, value)) for name, value in held if name in managed)
        unlike: frozenset[tuple[bool, str, str | None]] = frozenset()
        if other := beside.get(role):
            in_database = _unlike(here.get(role, {}), here.get(other, {}), managed)
            anywhere = _unlike(_pairs(everywhere.get(role, ())), _pairs(everywhere.get(other, ())), _BECOMING)
            unlike = frozenset({*((True, *pair) for pair in in_database), *((False, *pair) for pair in anywhere)})
        if values or unlike:
            yield Settings(
                name=f"{role} in {row['name']}",
                app=owner.app if owner else None,
                role=role,
                database=row["name"],
                values=values,
                unlike=unlike,
            )


def _pairs(config: Iterable[str]) -> dict[str, str]:
    return {name: value for name, _, value in (entry.partition("=") for entry in config)}


def _unlike(
    held: Mapping[str, str], others: Mapping[str, str], left_out: frozenset[str]
) -> Iterator[tuple[str, str | None]]:
    """What makes settings those of the other login: a name and its value, or no value. What no statement can set again
    is left out."""
    for name in sorted({*held, *others} - left_out):
        if all(name.split(".")) and _meaning(name, held.get(name)) != _meaning(name, others.get(name)):
            yield name, others.get(name)


def _meaning(name: str, value: str | None) -> list[str]:
    """The same for values that mean the same, however they were given; nothing for what cannot be set."""
    try:
        return [] if value is None else stored_values(name, value)
    except ValueError:
        return []


def _setting(name: str, value: str) -> str:
    if name.endswith("_timeout"):
        try:
            return duration_text(duration_of(value))
        except ValueError:
            return value
    if name == "default_transaction_read_only":
        return "on" if value.lower() in {"on", "true", "yes", "1", "t", "y"} else "off"
    return value
