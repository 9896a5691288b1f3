"""The extensions of a set, made in the place that it is loaded into: those that the app had made by the app's own
login, the others by the admin, each in its version and its schema. Decision 27 has the reasons.

What the set says of them is data. What an extension is, and which of its tables are for configuration, is read from the
server that the set is restored on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from multidb.errors import ArchiveError, MultidbError, NotAllowed, ServerDown, ServerError, ServerSlow
from multidb.model import Part, Place, PlaceKind, Progress, listed
from multidb.provisioners.postgres.backup import contents
from multidb.provisioners.postgres.backup.databases import Databases
from multidb.provisioners.postgres.backup.delegate import Delegate
from multidb.provisioners.postgres.driver.connection import Wire
from multidb.provisioners.postgres.provision.groundwork import AdminInside, creation
from multidb.provisioners.postgres.provision.resources import STORE, AppOptions
from multidb.provisioners.postgres.provision.statements import identifier, literal

__all__ = ["Extension", "Ground", "lay", "read", "settle"]

_NAME_LIMIT, _VERSION_LIMIT = 63, 255  # bytes, as the server has it

# $1: names (JSON array). What the database has, and what the server could make: name, version, whether an app may make
# it by itself, the only schema that it takes, what it needs.
_KNOWN = """
SELECT json_build_object(
  'there', (SELECT coalesce(json_agg(extname), '[]'::json) FROM pg_extension),
  'default', (SELECT json_object_agg(name, default_version) FROM pg_available_extensions
              WHERE name::text IN (SELECT json_array_elements_text($1::json))),
  'versions', (SELECT coalesce(json_agg(json_build_array(name, version, trusted OR NOT superuser, schema, requires)),
                               '[]'::json)
               FROM pg_available_extension_versions
               WHERE name::text IN (SELECT json_array_elements_text($1::json))))"""
# $1: name, $2, $3: versions. Whether the extension itself says how the first becomes the second.
_UPDATES = """
SELECT EXISTS (SELECT FROM pg_extension_update_paths($1::name)
               WHERE source = $2 AND target = $3 AND path IS NOT NULL)"""


@dataclass(frozen=True, slots=True)
class Extension:
    """One that the set wants, as its manifest says: data, whoever wrote it.

    Args:
        owner: the role that had made it; None in a set of an earlier version.
    """

    name: str
    version: str
    schema: str
    owner: str | None


@dataclass(frozen=True, slots=True)
class Ground:
    """The place, and who works in it.

    Args:
        delegate: the login that may do no more than the app.
        renamed: the app's role here by the name of one in the set; None for what is no app's own.
    """

    databases: Databases
    place: Place
    delegate: Delegate
    renamed: Callable[[str], str | None]

    @property
    def role(self) -> str:
        """The owner role of what is in the place."""
        return self.delegate.role

    @contextlib.contextmanager
    def as_the_app(self, path: Sequence[str] = ()) -> Iterator[Wire]:
        """A session of the app's owner role, with this search path."""
        with self.delegate.open(self.place.name, path) as wire:
            wire.execute(f"SET ROLE {identifier(self.role)}")
            yield wire

    def live(self) -> Sequence[str]:
        """The extensions of the app's live database."""
        database = self.databases.find(self.place.app.id).get(self.place.app.id)
        if database is None or not database["open"]:
            return ()
        with self.databases.open(self.place.app.id) as wire:
            return AdminInside(wire).extensions()


@dataclass(frozen=True, slots=True)
class _Version:
    apps_own: bool  # whether an app may make it by itself
    schema: str | None
    requires: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database has and the server could make."""

    there: frozenset[str]
    default: Mapping[str, str]
    versions: Mapping[tuple[str, str], _Version] = field(default_factory=dict)

    @classmethod
    def read(cls, answer: str) -> _Known:
        document = json.loads(answer)
        versions = {
            (name, version): _Version(apps_own, schema, frozenset(requires or ()))
            for name, version, apps_own, schema, requires in document["versions"]
        }
        return cls(frozenset(document["there"]), document["default"] or {}, versions)


def read(entries: object) -> list[Extension]:
    """Those that the manifest of a set names.

    Raises:
        ArchiveError: it makes no sense.
    """
    return [_read(entry) for entry in entries] if isinstance(entries, list | tuple) else []


def _read(entry: object) -> Extension:
    known = isinstance(entry, list | tuple) and len(entry) in (3, 4) and all(isinstance(each, str) for each in entry)
    if not known:
        raise ArchiveError(f"the set's manifest names no extension by {str(entry)[:80]!r}")
    assert isinstance(entry, list | tuple)
    name, version, schema = entry[:3]
    for text, limit in ((name, _NAME_LIMIT), (schema, _NAME_LIMIT), (version, _VERSION_LIMIT)):
        if not 0 < len(text.encode()) <= limit or "\0" in text:
            raise ArchiveError(f"the set's manifest has no name of an extension or a schema in {text[:80]!r}")
    if schema != "pg_catalog" and (schema.startswith("pg_") or schema == "information_schema"):
        raise ArchiveError(f"the set's manifest wants extension {name} in {schema}, which is the server's own")
    return Extension(name, version, schema, entry[3] if len(entry) == 4 else None)


def _comments(said: object) -> dict[str, str]:
    """Comments by extension, as the set's manifest says them: data, whoever wrote it."""
    if not isinstance(said, Mapping) or not all(isinstance(text, str) and "\0" not in text for text in said.values()):
        raise ArchiveError("the set's manifest has no comments on extensions where they should be")
    return {str(name): text for name, text in said.items()}


def lay(ground: Ground, part: Part, progress: Progress) -> None:
    """Makes the extensions of the set, and the schemas that they live in; those that are there stay as they are.

    An extension keeps its version. Where the server has that no longer, and the extension itself says how it becomes
    the one that the server has, that one is made, and said.

    Raises:
        ArchiveError: the server lacks an extension or its version, or cannot make it there; the manifest of the set
            makes no sense. Nothing was loaded.
        NotAllowed: an extension takes an admin, and nobody has given it to this app.
    """
    wanted = read(part.details["extensions"])
    comments = _comments(part.details.get("extension_comments", {}))
    with ground.as_the_app() as delegated:
        names = json.dumps([each.name for each in wanted])
        known = _Known.read(delegated.ask(_KNOWN, (names,)))
        made = _chosen(delegated, [each for each in wanted if each.name not in known.there], known, ground, progress)
        admins = {each.name for each in made if not _is_made_by_the_app(each, known, ground)}
    others = sorted({each.schema for each in wanted} - {"public", "pg_catalog"})
    for each in made:
        fixed = known.versions[each.name, each.version].schema
        # Where a session would find what one needs of another, as scripts do that put the session's path behind theirs.
        path = list(dict.fromkeys([fixed or each.schema, "public", *others]))
        made_there = replace(each, schema=fixed or each.schema)
        _make(made_there, ground, path, comments.get(each.name), by_admin=each.name in admins)


def settle(ground: Ground, admin: AdminInside) -> frozenset[str]:
    """The schemas that are there when the extensions are: those that a script has made for an app are given to it."""
    with ground.delegate.open(ground.place.name) as wire:
        schemas = json.loads(wire.ask(contents.SCHEMAS, (ground.role,)))
    if ground.place.kind is not PlaceKind.LIVE:
        for name, is_the_apps, is_an_extensions in schemas:
            if not (is_the_apps or is_an_extensions):
                admin.give_schema(ground.role, name)
        # What a script sets for its database is in the set, or the app has taken it back.
        ground.databases.main.execute(f"ALTER DATABASE {identifier(ground.place.name)} RESET ALL")
    return frozenset(name for name, *_ in schemas)


def _make(each: Extension, ground: Ground, path: Sequence[str], comment: str | None, *, by_admin: bool) -> None:
    owned = f"CREATE SCHEMA IF NOT EXISTS {identifier(each.schema)} AUTHORIZATION {identifier(ground.role)}"
    try:
        with ground.as_the_app(path) as delegated:
            if each.schema not in ("public", "pg_catalog"):
                delegated.execute(owned)
            if not by_admin:
                delegated.execute(creation(each.name, each.schema, each.version))
                if comment is not None:
                    delegated.execute(f"COMMENT ON EXTENSION {identifier(each.name)} IS {literal(comment)}")
        if by_admin:
            with ground.databases.open(ground.place.name, path) as wire:
                admin = AdminInside(wire)
                admin.make_extension(each.name, each.schema, each.version)
                if comment is not None:
                    admin.comment_on_extension(each.name, comment)
    except (ServerDown, ServerSlow):
        raise
    except ServerError as error:
        raise _not_made(each, ground, error) from None


def _chosen(
    wire: Wire, wanted: Sequence[Extension], known: _Known, ground: Ground, progress: Progress
) -> list[Extension]:
    """Those to make, in versions that the server has, what others need before them."""
    lacking, chosen = [], []
    for each in wanted:
        default = known.default.get(each.name)
        if (each.name, each.version) in known.versions:
            chosen.append(each)
        elif default is None:
            lacking.append(f"{each.name} {each.version}")
        elif wire.ask(_UPDATES, (each.name, each.version, default)) == "t":
            progress(
                ground.place.app.id,
                f"extension {each.name} becomes {default}: the server has {each.version} of the set no longer",
            )
            chosen.append(replace(each, version=default))
        else:
            lacking.append(f"{each.name} {each.version} (it has {default})")
    if lacking:
        raise ArchiveError(
            f"the server lacks extensions that the backup of app {ground.place.app.id} needs: {listed(lacking)}",
            hint="install them on the server's machine (SELECT name, version FROM pg_available_extension_versions "
            "lists what is there), or take an image that has them; then run the command again",
        )
    return list(_in_order(chosen, known))


def _in_order(chosen: Sequence[Extension], known: _Known) -> Iterator[Extension]:
    left = list(chosen)
    while left:
        waiting = {each.name for each in left}
        ready = [each for each in left if not known.versions[each.name, each.version].requires & waiting]
        yield from ready or left  # what needs itself is for the server to refuse
        left = [each for each in left if each not in ready] if ready else []


def _is_made_by_the_app(each: Extension, known: _Known, ground: Ground) -> bool:
    """Whether it is the app that makes it: what the app had made, and what it may make and nobody else was asked to.

    Raises:
        NotAllowed: only a set asks for one that takes an admin, or objects of the app may be there already.
    """
    options = ground.place.app.stores.get(STORE)
    may = known.versions[each.name, each.version].apps_own and each.schema != "pg_catalog"
    if may and (each.owner is None or ground.renamed(each.owner) is not None):
        return True
    in_manifest = isinstance(options, AppOptions) and each.name in options.extensions
    given = ground.place.kind is not PlaceKind.LIVE and (in_manifest or each.name in ground.live())
    if may or given:
        return not given
    app = ground.place.app.id
    raise NotAllowed(
        f"the set wants extension {each.name}, which takes an admin, and nothing gives it to app {app}",
        hint=f"name it in the manifest (extensions of {app}), multidb apply, then run the command again",
    )


def _not_made(each: Extension, ground: Ground, error: ServerError) -> MultidbError:
    app = ground.place.app.id
    message = (
        f"extension {each.name} {each.version} of app {app} cannot be made in {ground.place.name}: {error.message}"
    )
    if isinstance(error, NotAllowed):
        return NotAllowed(message, hint="use a superuser as the admin login, then run the command again")
    return ArchiveError(
        message,
        hint="see to it that the server makes it in any database, then run the command again; or do without it: in "
        f"database {app}, DROP EXTENSION {identifier(each.name)}, then multidb backup {app}",
    )
