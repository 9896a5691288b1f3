"""Databases that are on a server already, as places that apps could have there. Pure: text in, values out."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

from multidb.document import APP_ID, printable
from multidb.model import ExistingPlace, counted, listed
from multidb.provisioners.postgres.backup.places import parse_place_mark
from multidb.provisioners.postgres.provision.marks import parse_mark
from multidb.provisioners.postgres.provision.resources import RESERVED
from multidb.provisioners.postgres.provision.roles import AppNames
from multidb.provisioners.postgres.provision.shared_resources import is_shared

__all__ = ["DATABASES", "INSIDE", "ExistingDatabases", "enterable", "places"]

DATABASES: Final = """
SELECT json_build_object(
  'databases', (SELECT json_agg(json_build_object(
      'name', d.datname, 'owner', pg_get_userbyid(d.datdba), 'mark', shobj_description(d.oid, 'pg_database'),
      'open', d.datallowconn, 'template', d.datistemplate, 'limit', d.datconnlimit,
      'encoding', pg_encoding_to_char(d.encoding),
      'settings', (SELECT count(*) FROM pg_db_role_setting s WHERE s.setdatabase = d.oid),
      'public', EXISTS (SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
                        WHERE x.grantee = 0 AND x.privilege_type = 'CONNECT'),
      'accounts', (SELECT json_agg(DISTINCT pg_get_userbyid(x.grantee))
                   FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
                   WHERE x.grantee <> 0 AND x.privilege_type = 'CONNECT')) ORDER BY d.datname) FROM pg_database d),
  'roles', (SELECT json_object_agg(r.rolname, json_build_object(
      'login', r.rolcanlogin, 'superuser', r.rolsuper, 'mark', shobj_description(r.oid, 'pg_authid'),
      'members', (SELECT json_agg(pg_get_userbyid(m.member)) FROM pg_auth_members m WHERE m.roleid = r.oid)))
    FROM pg_roles r WHERE r.rolname !~ '^pg_'))"""
"""Every database of the server, and every role that is not the server's own."""

INSIDE: Final = """
SELECT json_build_object(
  'extensions', (SELECT json_agg(extname ORDER BY extname) FROM pg_extension WHERE extname <> 'plpgsql'),
  'schemas', (SELECT json_agg(nspname ORDER BY nspname) FROM pg_namespace
              WHERE oid >= 16384 AND nspname !~ '^pg_'),
  'owners', (SELECT json_agg(DISTINCT pg_get_userbyid(relowner)) FROM pg_class
             WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')),
  'tables', (SELECT count(*) FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p')))"""
"""What only the inside of a database tells."""


@dataclass(frozen=True, slots=True)
class ExistingDatabases:
    """What was read.

    Args:
        answer: that to `DATABASES`.
        insides: by database, the answer to `INSIDE`, or why there is none.
    """

    answer: str
    insides: Mapping[str, str | Exception] = field(default_factory=dict)


def enterable(answer: str) -> list[str]:
    """The databases of an answer to `DATABASES` that are entered: those that could be an app's."""
    databases = json.loads(answer)["databases"] or []
    return [row["name"] for row in databases if row["open"] and not _is_servers(row) and not row["mark"]]


def places(read: ExistingDatabases, known: Collection[str]) -> list[ExistingPlace]:
    """A place for each database, but for the server's own and multidb's."""
    document = json.loads(read.answer)
    roles, rows = document["roles"] or {}, document["databases"] or []
    taken = {*roles, *known}
    return [_place(row, roles, taken, read.insides.get(row["name"])) for row in rows if not _is_servers(row)]


def _is_servers(row: Mapping[str, Any]) -> bool:
    """Whether it is the server's own, holds an app's data for a step of multidb's, or is shared by apps of its."""
    reserved = any(fnmatchcase(row["name"], pattern) for pattern in RESERVED)
    ours = row["name"].startswith("multidb_state_") or parse_place_mark(row["mark"]) is not None
    return (
        bool(row["template"]) or reserved or ours or is_shared(row["mark"])
    )  # each app of such a one is in a manifest


def _place(
    row: Mapping[str, Any], roles: Mapping[str, Any], taken: Collection[str], inside: str | Exception | None
) -> ExistingPlace:
    name, (owner, _) = row["name"], parse_mark(row["mark"])
    accounts = tuple(sorted(_accounts(row, roles)))
    if owner is not None:
        return ExistingPlace("database", name, owner.app, owner=owner, accounts=accounts)
    if not re.fullmatch(APP_ID, name):
        reason = (
            f"{printable(name)!r} is no id of an app (2 to 31 characters a-z, 0-9 and _): give the database another "
            "name, ALTER DATABASE .. RENAME TO"
        )
        return ExistingPlace("database", name, reason=reason, accounts=accounts)
    if not row["open"]:
        return ExistingPlace("database", name, reason="it lets nobody connect", accounts=accounts)
    if isinstance(inside, Exception):
        return ExistingPlace("database", name, reason=f"it cannot be looked into: {inside}", accounts=accounts)
    document = json.loads(inside) if inside is not None else {}
    extensions = [extension for extension in document.get("extensions") or () if _is_name(extension)]
    options = {"extensions": extensions} if extensions else {}
    return ExistingPlace("database", name, name, options, None, "", accounts, tuple(_notes(row, roles, document)))


def _is_name(extension: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", extension) is not None


def _accounts(row: Mapping[str, Any], roles: Mapping[str, Any]) -> Iterator[str]:
    """The logins that were let in by name, or belong to a role that was, and that the app itself would not have."""
    own = AppNames.of(row["name"]).logins if re.fullmatch(APP_ID, row["name"]) else frozenset()
    todo, seen = [row["owner"], *(row["accounts"] or ())], set()
    while todo:
        role = todo.pop()
        if role not in seen and role in roles:
            seen.add(role)
            todo += roles[role]["members"] or ()
            if roles[role]["login"] and not roles[role]["superuser"] and role not in own:
                yield role


def _notes(row: Mapping[str, Any], roles: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    names = AppNames.of(row["name"])
    if clashing := sorted({names.owner, names.rw, names.ro, *names.logins} & roles.keys()):
        yield f"there is a role {listed([printable(role) for role in clashing])}, which the app would have"
    if row["encoding"] != "UTF8":
        yield f"its encoding is {row['encoding']}"
    if row["limit"] >= 0:
        yield f"it takes {counted(row['limit'], 'connection')} at most"
    if row["settings"]:
        yield f"{counted(row['settings'], 'role has', 'roles have')} settings of their own in it"
    if row["public"]:
        yield "every login of the server may connect to it"
    if len(owners := document.get("owners") or ()) > 1:
        yield f"what is in it belongs to {listed([printable(owner) for owner in sorted(owners)], 6)}"
    if schemas := document.get("schemas"):
        yield f"beside public it has the schemas {listed([printable(schema) for schema in schemas], 6)}"
