"""What has to be in a database before a set is loaded into it, and all that the admin's login ever sends to one that an
app owns: the methods of `AdminInside`. Decision 19 says of each why it cannot call what an app has made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from multidb.errors import ArchiveError, NotAllowed
from multidb.model import Part, Place, PlaceKind
from multidb.provisioners.postgres import bound, contents
from multidb.provisioners.postgres.bound import Beyond, beyond
from multidb.provisioners.postgres.resources import STORE, AppOptions
from multidb.provisioners.postgres.statements import identifier, literal
from multidb.provisioners.postgres.wire import Wire

__all__ = ["AdminInside", "lay"]

_NAME_LIMIT = 63

_THERE = "SELECT coalesce(json_agg(extname), '[]'::json) FROM pg_extension"
_EXTENSIONS = f"""
SELECT json_build_object(
  'there', ({_THERE}),
  'available', (SELECT json_object_agg(a.name, coalesce(v.trusted, false)) FROM pg_available_extensions a
                LEFT JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version))"""  # noqa: S608


class AdminInside:
    """The admin's connection to a database that an app owns. It can send nothing but this."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def give_schema(self, role: str) -> None:
        """Schema public of a place that nothing was loaded into yet."""
        self._do(f"ALTER SCHEMA public OWNER TO {identifier(role)}")

    def make_extension(self, name: str, schema: str | None) -> None:
        """In a place that nothing was loaded into yet; the script is the server's own and meets no object of an app."""
        self._do(_create(name, schema))

    def roll_back(self, transaction: str) -> None:
        """Ends a prepared transaction."""
        self._do(f"ROLLBACK PREPARED {literal(transaction)}")

    def of_others(self, roles: Sequence[str]) -> frozenset[tuple[str, ...]]:
        """What belongs to none of the roles, as `contents.owned_by_others` says it: catalogs only."""
        found = json.loads(self._wire.ask(contents.owned_by_others(roles), ()))
        return frozenset(map(tuple, found))

    def beyond(self, version: int, roles: Sequence[str]) -> Beyond:
        """What of the database no load can make, as `bound.inside` finds it: catalogs only."""
        return beyond(json.loads(self._wire.ask(bound.inside(version, roles), ())))

    def comment_on_extension(self, name: str, text: str) -> None:
        """Changes one row of a catalog. The extension is one that `make_extension` has made."""
        self._do(f"COMMENT ON EXTENSION {identifier(name)} IS {literal(text)}")

    def has_rights(self) -> bool:
        """Whether a role gives anything on what it will make, as the app's owner role does once it has its rights: a
        catalog only."""
        return self._wire.ask("SELECT EXISTS (SELECT FROM pg_default_acl)", ()) == "t"

    def extensions(self) -> Sequence[str]:
        """Those of the database: a catalog only."""
        found: list[str] = json.loads(self._wire.ask(_THERE, ()))
        return found

    def _do(self, text: str) -> None:
        answer = self._wire.send(text)
        if answer.refusal is not None:
            raise self._wire.error(answer.refusal)


@dataclass(frozen=True, slots=True)
class _Extension:
    """One that the set wants, as its manifest says: data, whoever wrote it."""

    name: str
    schema: str

    @classmethod
    def read(cls, entry: object) -> _Extension:
        if not (isinstance(entry, list | tuple) and len(entry) == 3 and all(isinstance(each, str) for each in entry)):
            raise ArchiveError(f"the set's manifest names no extension by {str(entry)[:80]!r}")
        name, _, schema = entry
        for text in (name, schema):
            if not 0 < len(text.encode()) <= _NAME_LIMIT or "\0" in text:
                raise ArchiveError(f"the set's manifest has no name of an extension or a schema in {text[:80]!r}")
        if schema != "pg_catalog" and (schema.startswith("pg_") or schema == "information_schema"):
            raise ArchiveError(f"the set's manifest wants extension {name} in {schema}, which is the server's own")
        return cls(name, schema)


def lay(
    admin: AdminInside, delegated: Wire, place: Place, part: Part, role: str, live: Callable[[], Sequence[str]]
) -> frozenset[str]:
    """Makes the set's extensions, and the schemas that they live in. Those that an app may make itself are made by the
    app's own login, and are its own then; the others by the admin, where the app was given them before.

    Args:
        delegated: of the login that may do no more than the app, as `role`.
        live: asks which extensions the app's live database has.

    Returns:
        The schemas.

    Raises:
        ArchiveError: the server lacks an extension, or the manifest of the set makes no sense.
        NotAllowed: an extension takes an admin, and nobody has given it to this app.
    """
    entries = part.details["extensions"]
    wanted = [_Extension.read(entry) for entry in entries] if isinstance(entries, list | tuple) else []
    comments = _comments(part.details.get("extension_comments", {}))
    found = json.loads(delegated.ask(_EXTENSIONS, ()))
    there, available = set(found["there"]), found["available"] or {}
    if missing := sorted({each.name for each in wanted} - set(available)):
        raise ArchiveError(
            f"the server lacks extensions that the backup needs: {', '.join(missing)}",
            hint="install them on the server's machine, or take an image that has them",
        )
    schemas = frozenset(each.schema for each in wanted) - {"public", "pg_catalog"}
    for schema in sorted(schemas):
        _as_the_app(delegated, f"CREATE SCHEMA IF NOT EXISTS {identifier(schema)} AUTHORIZATION {identifier(role)}")
    for each in wanted:
        schema_of_it = None if each.schema == "pg_catalog" else each.schema
        if each.name in there:
            continue
        comment = comments.get(each.name)
        if available[each.name]:
            _as_the_app(delegated, _create(each.name, schema_of_it))
            if comment is not None:
                _as_the_app(delegated, f"COMMENT ON EXTENSION {identifier(each.name)} IS {literal(comment)}")
        else:
            _may_have(each.name, place, live)
            admin.make_extension(each.name, schema_of_it)
            if comment is not None:
                admin.comment_on_extension(each.name, comment)
    return schemas


def _comments(said: object) -> dict[str, str]:
    """Comments by extension, as the set's manifest says them: data, whoever wrote it."""
    if not isinstance(said, Mapping) or not all(isinstance(text, str) and "\0" not in text for text in said.values()):
        raise ArchiveError("the set's manifest has no comments on extensions where they should be")
    return {str(name): text for name, text in said.items()}


def _may_have(name: str, place: Place, live: Callable[[], Sequence[str]]) -> None:
    """Refuses what only a set asks for, and anything where objects of the app may be already."""
    options = place.app.stores.get(STORE)
    given = isinstance(options, AppOptions) and name in options.extensions
    if place.kind is PlaceKind.LIVE or not (given or name in live()):
        raise NotAllowed(
            f"the set wants extension {name}, which takes an admin, and nothing gives it to app {place.app.id}",
            hint=f"name it in the manifest (extensions of {place.app.id}), multidb apply, then run the command again",
        )


def _create(name: str, schema: str | None) -> str:
    where = f" SCHEMA {identifier(schema)}" if schema is not None else ""
    return f"CREATE EXTENSION IF NOT EXISTS {identifier(name)}{where}"


def _as_the_app(wire: Wire, text: str) -> None:
    answer = wire.send(text)
    if answer.refusal is not None:
        raise wire.error(answer.refusal)
