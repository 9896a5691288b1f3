"""The extensions of a set, made in the place that it is loaded into: those that the app had made by the app's own
login, the others by the admin, each in its version and its schema. Decision 27 has the reasons.

What the set says of them is data. What an extension is, and which of its tables are for configuration, is read from the
server that the set is restored on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from multidb.errors import ArchiveError, MultidbError, NotAllowed, ServerDown, ServerError, ServerSlow
from multidb.model import Part, Place, PlaceKind, Progress, listed
from multidb.provisioners.postgres.backup import contents
from multidb.provisioners.postgres.backup.databases import Databases
from multidb.provisioners.postgres.backup.delegate import Delegate
from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.provision.admin_inside import AdminInside, creation
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.provisioners.postgres.provision.quoting import identifier, literal

__all__ = ["SetExtension", "Destination", "lay", "prospect", "read", "settle"]

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
class SetExtension:
    """One that the set wants, as its manifest says: data, whoever wrote it.

    Args:
        owner: the role that had made it; None in a set of an earlier version.
    """

    name: str
    version: str
    schema: str
    owner: str | None


@dataclass(frozen=True, slots=True)
class Destination:
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
    def as_the_app(self, path: Sequence[str] = ()) -> Iterator[Connection]:
        """A session of the app's owner role, with this search path."""
        with self.delegate.open(self.place.name, path) as connection:
            connection.execute(f"SET ROLE {identifier(self.role)}")
            yield connection

    def live(self) -> Sequence[str]:
        """The extensions of the app's live database."""
        with self.databases.inside_live(self.place.app) as admin:
            return admin.extensions() if admin is not None else ()


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


def read(entries: object) -> list[SetExtension]:
    """Those that the manifest of a set names.

    Raises:
        ArchiveError: it makes no sense.
    """
    return [_read(entry) for entry in entries] if isinstance(entries, list | tuple) else []


def _read(entry: object) -> SetExtension:
    known = isinstance(entry, list | tuple) and len(entry) in (3, 4) and all(isinstance(item, str) for item in entry)
    if not known:
        raise ArchiveError(f"the set's manifest names no extension by {str(entry)[:80]!r}")
    assert isinstance(entry, list | tuple)
    name, version, schema = entry[:3]
    for text, limit in ((name, _NAME_LIMIT), (schema, _NAME_LIMIT), (version, _VERSION_LIMIT)):
        if not 0 < len(text.encode()) <= limit or "\0" in text:
            raise ArchiveError(f"the set's manifest has no name of an extension or a schema in {text[:80]!r}")
    if schema != "pg_catalog" and (schema.startswith("pg_") or schema == "information_schema"):
        raise ArchiveError(f"the set's manifest wants extension {name} in {schema}, which is the server's own")
    return SetExtension(name, version, schema, entry[3] if len(entry) == 4 else None)


def _comments(value: object) -> dict[str, str]:
    """Comments by extension, as the set's manifest says them: data, whoever wrote it."""
    if not isinstance(value, Mapping) or not all(isinstance(text, str) and "\0" not in text for text in value.values()):
        raise ArchiveError("the set's manifest has no comments on extensions where they should be")
    return {str(name): text for name, text in value.items()}


def prospect(
    ask: Callable[[str, Sequence[str]], str], extensions: Sequence[SetExtension], given: Collection[str], app: str
) -> tuple[list[str], list[str]]:
    """What will be another than it was, and what stands against it, where `lay` is asked for these: sentences.

    Args:
        ask: answers a query, with its parameters, in any database of the server.
        given: the extensions that the manifest or the app's database has.
    """
    known = _Known.read(ask(_KNOWN, (json.dumps([extension.name for extension in extensions]),)))
    losses, obstacles = [], []
    for extension in extensions:
        name, default = extension.name, known.default.get(extension.name)
        version = extension.version
        if (name, version) not in known.versions:
            if default is None or ask(_UPDATES, (name, version, default)) != "t":
                has = f" (it has {default})" if default is not None else ""
                obstacles.append(
                    f"the server lacks extension {name} {version}{has}: install it on the server's machine, or take an "
                    "image that has it"
                )
                continue
            losses.append(f"extension {name} {version} becomes {default}")
            version = default
        if not known.versions[name, version].apps_own and name not in given:
            obstacles.append(
                f"extension {name} takes an admin: name it in the manifest (extensions of {app}), then multidb apply"
            )
    return losses, obstacles


def lay(destination: Destination, part: Part, progress: Progress) -> None:
    """Makes the extensions of the set, and the schemas that they live in; those that are there stay as they are.

    An extension keeps its version. Where the server has that no longer, and the extension itself says how it becomes
    the one that the server has, that one is made, and said.

    Raises:
        ArchiveError: the server lacks an extension or its version, or cannot make it there; the manifest of the set
            makes no sense. Nothing was loaded.
        NotAllowed: an extension takes an admin, and nobody has given it to this app.
    """
    extensions = read(part.details["extensions"])
    comments = _comments(part.details.get("extension_comments", {}))
    with destination.as_the_app() as delegated:
        names = json.dumps([extension.name for extension in extensions])
        known = _Known.read(delegated.ask(_KNOWN, (names,)))
        made = _chosen(
            delegated,
            [extension for extension in extensions if extension.name not in known.there],
            known,
            destination,
            progress,
        )
        admins = {extension.name for extension in made if not _is_made_by_the_app(extension, known, destination)}
    others = sorted({extension.schema for extension in extensions} - {"public", "pg_catalog"})
    for extension in made:
        fixed = known.versions[extension.name, extension.version].schema
        # Where a session would find what one needs of another, as scripts do that put the session's path behind theirs.
        path = list(dict.fromkeys([fixed or extension.schema, "public", *others]))
        made_there = replace(extension, schema=fixed or extension.schema)
        _make(made_there, destination, path, comments.get(extension.name), by_admin=extension.name in admins)


def settle(destination: Destination, admin: AdminInside) -> frozenset[str]:
    """The schemas that are there when the extensions are: those that a script has made for an app are given to it."""
    with destination.delegate.open(destination.place.name) as connection:
        schemas = json.loads(connection.ask(contents.SCHEMAS, (destination.role,)))
    if destination.place.kind is not PlaceKind.LIVE:
        for name, is_the_apps, is_an_extensions in schemas:
            if not (is_the_apps or is_an_extensions):
                admin.give_schema(destination.role, name)
        # What a script sets for its database is in the set, or the app has taken it back.
        destination.databases.main.execute(f"ALTER DATABASE {identifier(destination.place.name)} RESET ALL")
    return frozenset(name for name, *_ in schemas)


def _make(
    extension: SetExtension, destination: Destination, path: Sequence[str], comment: str | None, *, by_admin: bool
) -> None:
    owned = f"CREATE SCHEMA IF NOT EXISTS {identifier(extension.schema)} AUTHORIZATION {identifier(destination.role)}"
    try:
        with destination.as_the_app(path) as delegated:
            if extension.schema not in ("public", "pg_catalog"):
                delegated.execute(owned)
            if not by_admin:
                delegated.execute(creation(extension.name, extension.schema, extension.version))
                if comment is not None:
                    delegated.execute(f"COMMENT ON EXTENSION {identifier(extension.name)} IS {literal(comment)}")
        if by_admin:
            with destination.databases.open(destination.place.name, path) as connection:
                admin = AdminInside(connection)
                admin.make_extension(extension.name, extension.schema, extension.version)
                if comment is not None:
                    admin.comment_on_extension(extension.name, comment)
    except (ServerDown, ServerSlow):
        raise
    except ServerError as error:
        raise _not_made(extension, destination, error) from None


def _chosen(
    connection: Connection,
    extensions: Sequence[SetExtension],
    known: _Known,
    destination: Destination,
    progress: Progress,
) -> list[SetExtension]:
    """Those to make, in versions that the server has, what others need before them."""
    lacking, chosen = [], []
    for extension in extensions:
        default = known.default.get(extension.name)
        if (extension.name, extension.version) in known.versions:
            chosen.append(extension)
        elif default is None:
            lacking.append(f"{extension.name} {extension.version}")
        elif connection.ask(_UPDATES, (extension.name, extension.version, default)) == "t":
            progress(
                destination.place.app.id,
                f"extension {extension.name} becomes {default}: "
                f"the server has {extension.version} of the set no longer",
            )
            chosen.append(replace(extension, version=default))
        else:
            lacking.append(f"{extension.name} {extension.version} (it has {default})")
    if lacking:
        raise ArchiveError(
            f"the server lacks extensions that the backup of app {destination.place.app.id} needs: {listed(lacking)}",
            hint="install them on the server's machine (SELECT name, version FROM pg_available_extension_versions "
            "lists what is there), or take an image that has them; then run the command again",
        )
    return list(_in_order(chosen, known))


def _in_order(chosen: Sequence[SetExtension], known: _Known) -> Iterator[SetExtension]:
    left = list(chosen)
    while left:
        waiting = {extension.name for extension in left}
        ready = [
            extension for extension in left if not known.versions[extension.name, extension.version].requires & waiting
        ]
        yield from ready or left  # what needs itself is for the server to refuse
        left = [extension for extension in left if extension not in ready] if ready else []


def _is_made_by_the_app(extension: SetExtension, known: _Known, destination: Destination) -> bool:
    """Whether it is the app that makes it: what the app had made, and what it may make and nobody else was asked to.

    Raises:
        NotAllowed: only a set asks for one that takes an admin, or objects of the app may be there already.
    """
    options = destination.place.app.stores.get(STORE)
    may = known.versions[extension.name, extension.version].apps_own and extension.schema != "pg_catalog"
    if may and (extension.owner is None or destination.renamed(extension.owner) is not None):
        return True
    in_manifest = isinstance(options, AppOptions) and extension.name in options.extensions
    given = destination.place.kind is not PlaceKind.LIVE and (in_manifest or extension.name in destination.live())
    if may or given:
        return not given
    app = destination.place.app.id
    raise NotAllowed(
        f"the set wants extension {extension.name}, which takes an admin, and nothing gives it to app {app}",
        hint=f"name it in the manifest (extensions of {app}), multidb apply, then run the command again",
    )


def _not_made(extension: SetExtension, destination: Destination, error: ServerError) -> MultidbError:
    app = destination.place.app.id
    what = f"extension {extension.name} {extension.version} of app {app}"
    message = f"{what} cannot be made in {destination.place.name}: {error.message}"
    if isinstance(error, NotAllowed):
        return NotAllowed(message, hint="use a superuser as the admin login, then run the command again")
    return ArchiveError(
        message,
        hint="see to it that the server makes it in any database, then run the command again; or do without it: in "
        f"database {app}, DROP EXTENSION {identifier(extension.name)}, then multidb backup {app}",
    )
