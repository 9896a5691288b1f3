"""The holes in the answers to `inventory.INSIDE` and `inventory.LENT`, each with the statement that closes it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

from multidb.model import Hole, Inspection, Searched, counted
from multidb.provisioners.postgres.isolation.inventory import CATALOGS
from multidb.provisioners.postgres.provision.options import EXTENSION_SCHEMA
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.resources import PUBLIC, Interior, derived_names
from multidb.provisioners.postgres.provision.roles import PEER
from multidb.provisioners.postgres.provision.script import lines

__all__ = ["SearchedDatabase", "holes_inside", "lends", "searched_inside", "with_lent"]

_GRANTED: Final = {
    "view": "TABLE",
    "materialized view": "TABLE",
    "foreign table": "TABLE",
    "function": "ROUTINE",
    "procedure": "ROUTINE",
    "aggregate": "ROUTINE",
    "domain": "TYPE",
    "server": "FOREIGN SERVER",
    "foreign-data wrapper": "FOREIGN DATA WRAPPER",
}
"""How GRANT calls what ``pg_identify_object`` calls otherwise than it."""

_ALTERED: Final = {
    "function": "ROUTINE",
    "procedure": "ROUTINE",
    "aggregate": "ROUTINE",
    "composite type": "TYPE",
    "statistics object": "STATISTICS",
    "foreign-data wrapper": "FOREIGN DATA WRAPPER",
}
"""The same for ALTER ... OWNER TO."""

_LOOKED_FOR: Final = {
    "pg_class": "rights of others; owners; views and rules with more power than the app; foreign tables",
    "pg_attribute": "rights on single columns",
    "pg_proc": "rights beyond what the server was made with; SECURITY DEFINER with more power; untrusted languages",
    "pg_language": "languages that run as the server and are open to the app",
    "pg_foreign_server": "rights, owners, user mappings of the app or of everybody",
    "pg_default_acl": "rights of others on what is made from now on",
    "pg_event_trigger": "triggers of others that run in the app's sessions",
}


class Part(Enum):
    """What of a database is looked at."""

    ALL = "all"
    SCHEMA = "one app's schema"
    REST = "what is in no app's schema"


@dataclass(frozen=True, slots=True)
class SearchedDatabase:
    """A database that is looked into.

    Args:
        app: whose it is; None: no app's of the manifest, so that only what the server itself has made is looked at.
        roles: who is at home there; the first owns everything.
        part: of a database that apps share, one app's schema, or what is in none of their schemas.
        schemas: the schema that is looked at, or those that are not.
    """

    name: str
    app: str | None = None
    roles: tuple[str, ...] = ()
    part: Part = Part.ALL
    schemas: frozenset[str] = frozenset()

    @classmethod
    def of(cls, interior: Interior, inspection: Inspection) -> SearchedDatabase:
        """The database of one of the apps."""
        app = next(app for app in inspection.apps if app.id == interior.app)
        roles = [name.name for name in derived_names(app) if name.space == "postgres role"]
        return cls(interior.name, app.id, (interior.role, *(role for role in roles if role != interior.role)))

    @classmethod
    def shared(
        cls, database: str, marked: Mapping[str, str], inspection: Inspection, roles: Collection[str]
    ) -> Iterator[Self]:
        """A database that apps share: the schema of each, and the rest.

        Args:
            marked: the schemas that apps of the project have there, and whose each is.
            roles: the roles with the project's mark.
        """
        yield cls(database, part=Part.REST, schemas=frozenset(marked))
        for app in inspection.apps:
            schemas = frozenset(schema for schema, owner in marked.items() if owner == app.id)
            if schemas:
                own = [name.name for name in derived_names(app) if name.space == "postgres role"]
                peers = sorted(role for role in roles if role.endswith(f"_{PEER}{app.id}"))  # `Reading` has them
                yield cls(database, app.id, (*own, *peers), Part.SCHEMA, schemas)

    @property
    def parameters(self) -> tuple[str, str]:
        """What `inventory.INSIDE` is asked with."""
        return json.dumps(self.roles), "false" if self.app is None and self.part is Part.ALL else "true"

    def looks_at(self, row: Sequence[Any]) -> bool:
        """Whether a row of an answer, which begins with a schema, a kind and a name, is about it. What the server
        itself has made is looked at with what is in no app's schema."""
        schema, kind, name = row[:3]
        if self.part is Part.ALL:
            return True
        system = kind != "default acl" and len(row) in (5, 8) and bool(row[-1])
        inside = schema in self.schemas or (kind == "schema" and name in self.schemas)
        if self.part is Part.SCHEMA:
            of_its_roles = kind == "default acl" and any(name.startswith(f"for role {role}") for role in self.roles)
            return (inside and not system) or of_its_roles
        return not inside and kind != "default acl"

    def is_usual(self, row: Sequence[Any]) -> bool:
        """Whether a right in a shared database is one that multidb gives: everybody may look up extensions."""
        kind, name, _, grantee, _, rights, _ = row
        return self.part is Part.REST and (kind, name, grantee, rights) == ("schema", EXTENSION_SCHEMA, PUBLIC, "USAGE")

    def taken(self, kind: str, name: str, system: bool) -> str:
        """The statement that takes a thing from its owner. What is in no app's schema is nobody's to have."""
        if not self.roles and not system:
            return f"DROP {_ALTERED.get(kind, kind.upper())} {name}"
        return _given(kind, name, None if system else self.roles[0])

    def hole(
        self, name: str, subject: str, message: str, closes: Iterable[str], account: str | None, *, system: bool = False
    ) -> Hole:
        """A hole in this database. What the server itself has made is everybody's wall."""
        return Hole(
            name,
            f"{subject} in database {self.name}",
            message,
            lines(*closes, database=self.name),
            None if system else self.app,
            None if account == PUBLIC else account,
        )


def lends(answer: str) -> bool:
    """Whether `inventory.LENT` has to be asked, too, by the answer to `inventory.INSIDE`."""
    return bool(json.loads(answer)["lends"])


def with_lent(answer: str, lent: str) -> str:
    """The answers to `inventory.INSIDE` and `inventory.LENT` as one."""
    return json.dumps(json.loads(answer) | json.loads(lent))


def holes_inside(answer: str, database: SearchedDatabase) -> Iterator[Hole]:
    """The holes in the answer to `inventory.INSIDE`, asked in `database`, and to `inventory.LENT` where `lends`."""
    document: dict[str, Sequence[Sequence[Any]] | None] = json.loads(answer)
    rights = [row for row in _in_part(document["rights"], database) if not database.is_usual(row)]
    yield from _rights(rights, database)
    for kind, name, owner, system in _in_part(document["owned"], database):
        message = f"{owner} owns it, and whoever owns a thing may change what it does to who uses it"
        yield database.hole(
            "owned by another", f"{kind} {name}", message, [database.taken(kind, name, system)], owner, system=system
        )
    granted = {name for kind, name, *_ in rights}
    for routine in _in_part(document.get("routines"), database):
        if routine[1] not in granted:  # what an extension keeps to its administrators is named as a grant
            yield _routine(routine, database)
    for relation in _in_part(document.get("relations"), database):
        yield _relation(relation, database)
    if database.part is Part.SCHEMA:
        return  # the rest is of the database as a whole
    for server, user in document.get("mappings") or ():
        who = "everybody" if user == PUBLIC else user
        message = f"{who} comes into another server by it, with a login that the app was not given"
        text = f"DROP USER MAPPING FOR {_grantee(user)} SERVER {server}"
        yield database.hole("user mapping", f"server {server}", message, [text], PUBLIC)
    for name, event, owner in document["events"] or ():
        message = f"it runs at every {event} there, in sessions of the app and of administrators, and {owner} owns it"
        text = f"ALTER EVENT TRIGGER {name} DISABLE"
        yield database.hole("event trigger", f"event trigger {name}", message, [text], PUBLIC)
    for language in document["languages"] or ():
        message = (
            "who may make functions may make some in it, and nobody knows that they can do no more than their caller"
        )
        text = f"UPDATE pg_catalog.pg_language SET lanpltrusted = false WHERE lanname = {literal(str(language))}"  # noqa: S608
        yield database.hole(
            "trusted language", f"language {language}", message, [text], PUBLIC, system=database.app is None
        )


def _in_part(rows: Sequence[Sequence[Any]] | None, database: SearchedDatabase) -> list[Sequence[Any]]:
    """The rows about what is looked at, without the schema that they begin with."""
    return [row[1:] for row in rows or () if database.looks_at(row)]


def searched_inside(answers: Sequence[str], asked: int) -> Iterator[Searched]:
    """What was looked at inside the databases that gave `answers` to `INSIDE`, of `asked` that there are."""
    counts: Counter[str] = Counter()
    for answer in answers:
        counts.update(json.loads(answer)["searched"])
    for catalog in CATALOGS:
        looked_for = _LOOKED_FOR.get(catalog.name, "rights and owners of others" if catalog.acl else "owners of others")
        yield Searched(
            f"{catalog.name} inside {len(answers)} of {counted(asked, 'database')}", counts[catalog.name], looked_for
        )


def _grantee(name: str) -> str:
    return "PUBLIC" if name == PUBLIC else identifier(name)


def _rights(rows: Sequence[Sequence[Any]], database: SearchedDatabase) -> Iterator[Hole]:
    """One hole for each thing and grantee, whatever the columns."""
    grants: dict[tuple[str, str, str, bool], list[Sequence[Any]]] = {}
    for row in rows:
        kind, name, _, grantee, _, _, system = row
        grants.setdefault((kind, name, grantee, system), []).append(row)
    for (kind, name, grantee, system), held in sorted(grants.items()):
        rights = sorted({right for _, _, column, _, _, rights, _ in held for right in _named(rights, column)})
        everybody = "everybody who may connect" if system else "every login of the app, also the read-only one,"
        who = everybody if grantee == PUBLIC else grantee
        closes = [line for row in held for line in _revoked(row)]
        if kind == "default acl":
            whose, _, objects = name.rpartition(" on ")
            message = f"{who} gets {', '.join(rights)} on {objects} made from now on"
            yield database.hole("default privilege", f"default privileges {whose}", message, closes, grantee)
        else:
            message = f"{who} holds {', '.join(rights)} on it"
            yield database.hole(f"grant on {kind}", f"{kind} {name}", message, closes, grantee, system=system)


def _named(rights: str, column: str | None) -> Iterator[str]:
    for right in rights.split(", "):
        yield right if column is None else f"{right} ({identifier(column)})"


def _revoked(row: Sequence[Any]) -> Iterator[str]:
    kind, name, column, grantee, grantor, rights, _ = row
    to = f"{_grantee(grantee)}{' CASCADE' if grantee != PUBLIC else ''}"
    if kind == "default acl":
        whose, _, objects = name.rpartition(" on ")
        yield f"ALTER DEFAULT PRIVILEGES {whose} REVOKE ALL ON {objects} FROM {_grantee(grantee)}"
        return
    if grantor is not None:  # the server takes a right away only for who has given it
        yield f"SET ROLE {identifier(grantor)}"
    yield f"REVOKE {', '.join(_named(rights, column))} ON {_GRANTED.get(kind, kind.upper())} {name} FROM {to}"
    if grantor is not None:
        yield "RESET ROLE"


def _given(kind: str, name: str, to: str | None) -> str:
    """The statement that gives a thing to the role, or to the server's first superuser."""
    if kind == "extension":  # no statement does it
        whose = "10" if to is None else f"{literal(identifier(to))}::regrole"
        return f"UPDATE pg_catalog.pg_extension SET extowner = {whose} WHERE quote_ident(extname) = {literal(name)}"  # noqa: S608
    owner = "CURRENT_USER" if to is None else identifier(to)
    return f"ALTER {_ALTERED.get(kind, kind.upper())} {name} OWNER TO {owner}"


def _routine(row: Sequence[Any], database: SearchedDatabase) -> Hole:
    called, name, owner, why, grantees = row
    if why == "definer":
        message = f"whoever calls it does what it does as {owner}, who may do more than the app"
        closes = [f"ALTER ROUTINE {name} SECURITY INVOKER"]
        if grantees is not None:  # an extension's: it stays as it is, for who administers it
            closes = [f"REVOKE EXECUTE ON ROUTINE {name} FROM {_grantee(grantee)}" for grantee in grantees]
        return database.hole("SECURITY DEFINER", f"function {called}", message, closes, PUBLIC)
    message = f"it is written in {why}, which the server runs without any limit, and the app may call it"
    return database.hole("untrusted language", f"function {called}", message, [f"DROP ROUTINE {name}"], PUBLIC)


def _relation(row: Sequence[Any], database: SearchedDatabase) -> Hole:
    kind, name, owner, why, grantees, owned = row
    closes = [f"REVOKE ALL ON TABLE {name} FROM {_grantee(grantee)}" for grantee in grantees or ()]
    if owned:  # what it holds is elsewhere, and nothing that was an app's becomes an administrator's
        closes = [f"DROP FOREIGN TABLE {name}"]
    if why == "foreign":
        message = "the app reaches by it what is on another server, or in a file, with a login that it was not given"
        return database.hole("foreign table", f"{kind} {name}", message, closes, PUBLIC)
    message = f"it reaches as {owner} what the app may not reach itself, and the app may use it"
    return database.hole("view with another's rights", f"{kind} {name}", message, closes, PUBLIC)
