"""A set of an app's database, loaded into a place: by a login that may do no more than the app, so that everything in
it belongs to the app's owner role from the start."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from multidb.errors import ArchiveError, NotAllowed, Refused, WrongVersion
from multidb.model import App, ArchiveReader, Part, Place, PlaceKind, Progress, listed
from multidb.provisioners.postgres.backup import (
    bound,
    configuration,
    contents,
    conversions,
    extensions,
    grants,
    loading,
    programs,
    storage,
)
from multidb.provisioners.postgres.backup.bound import Beyond
from multidb.provisioners.postgres.backup.databases import Databases, same_from_elsewhere
from multidb.provisioners.postgres.backup.delegate import Delegate
from multidb.provisioners.postgres.backup.dump import FILE
from multidb.provisioners.postgres.backup.place_databases import make_like_set
from multidb.provisioners.postgres.backup.programs import Program
from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.isolation import rights
from multidb.provisioners.postgres.provision import catalog_text
from multidb.provisioners.postgres.provision.admin_inside import AdminInside
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.marks import UNFINISHED, mark, parse_mark
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.resources import MANAGED_SETTINGS, derived_names
from multidb.provisioners.postgres.provision.script import printable
from multidb.provisioners.postgres.provision.setting_values import members

__all__ = ["Load", "kept_rights", "require_none_of_others", "require_same_kind", "restore", "zone_of_set"]

_MAGIC = b"PGDMP"
_CHUNK = 1 << 20
_NO_PROVIDER = "22023"

# $1: a setting. Whether everybody may set it. One that the server does not know may become an extension's: not that.
_EVERYBODYS = """
SELECT CASE WHEN EXISTS (SELECT FROM pg_settings WHERE lower(name) = lower($1))
  THEN EXISTS (SELECT FROM pg_settings WHERE lower(name) = lower($1) AND context = 'user')
  ELSE strpos($1, '.') > 0
    AND NOT EXISTS (SELECT FROM pg_settings WHERE starts_with(lower(name), lower(split_part($1, '.', 1)) || '.'))
    AND NOT EXISTS (SELECT FROM pg_available_extensions WHERE lower(name) = lower(split_part($1, '.', 1))) END"""


def restore(
    databases: Databases,
    place: Place,
    part: Part,
    reader: ArchiveReader,
    progress: Progress,
    lying: BinaryIO | Path | None = None,
) -> None:
    """Loads the dump; everything will belong to the owner role of `place.app`, where the server has that.

    The dump is put into a nameless temporary file first: only a file can be read by several connections at once.

    Args:
        lying: the dump, where it is a file or a folder of this machine already; `reader` is not asked then.

    Raises:
        WrongVersion: the server is older than the one that the dump is of.
        ArchiveError: the file is no dump, or is not whole; an extension is missing; pg_restore failed.
        Refused: the set has what no load can make, and other things may need.
    """
    source, dumped_by = int(str(part.details["postgres"])), int(str(part.details["dump"]))
    if databases.major < source:
        raise WrongVersion(
            f"is Postgres {databases.major}, and the backup is of Postgres {source}",
            where=databases.where,
            hint="upgrade the server",
        )
    program, beyond = databases.program("pg_restore", dumped_by), _loadable(part, databases.where)
    other_kind = conversions.of_another_kind(part, place.app)
    if other_kind and home(place.app).schema is None:
        part = replace(part, details={**part.details, "extensions": conversions.kept_extensions(part, place.app)})
    make_like_set(databases, place, part)
    role = databases.owner_of(place)
    with _lying(lying, reader, place.app, progress) as dump:
        load = Load(databases, place, part, role, _roles(databases, place, part, role), progress, program, dump)
        listing = loading.contents_of(program, dump, databases.where, databases.encoding_of(place.name))
        if place.kind is not PlaceKind.LIVE:
            databases.main.execute(f"GRANT CREATE ON DATABASE {identifier(place.name)} TO {identifier(role)}")
        roles = databases.delegates.roles(place.app)
        with databases.open(place.name) as connection:
            admin = AdminInside(connection)
            if place.kind is not PlaceKind.LIVE:
                admin.give_schema(role)
            given, kept = load.read_rights()
            with databases.delegates.acting(place.app, role, [place.name], reads=False) as delegate:
                load.require_providers(delegate, beyond)
                schemas = load.make_extensions(admin, delegate)
                listing = load.configure(admin, delegate, listing)
                owners = [default.while_loading for default in given if default.role == role]
                load.run(delegate, list(rights.defaults(owners, everywhere=True)))
                before = admin.of_others([*roles, delegate.name])
                load.load_dump(delegate, listing, schemas, beyond)
            with databases.delegates.acting(place.app, role, [place.name], reads=True) as delegate:
                everywhere = rights.defaults(given, everywhere=True)
                load.run(delegate, [*everywhere, *rights.defaults(given, everywhere=False)])
                load.give_rights(delegate, kept)
                load.give_on_members(admin, delegate)
                if place.kind is PlaceKind.NEW and not other_kind:
                    load.make_settings(delegate)
            require_none_of_others(admin.of_others(roles) - before, databases.where)
    if place.kind is PlaceKind.NEW and other_kind:
        conversions.bring_extensions(databases, place)
        conversions.note(databases, place)
    if place.kind is PlaceKind.LIVE:  # the next apply looks after everything inside
        owner, _ = parse_mark(databases.find(place.name)[place.name]["mark"])
        if owner is not None:
            comment = literal(mark(owner, UNFINISHED))
            databases.main.execute(f"COMMENT ON DATABASE {identifier(place.name)} IS {comment}")


def require_same_kind(part: Part, app: App, where: str) -> None:
    """`Refused` where the set is of a whole database and the app has a schema in a shared one, or the other way."""
    schema = part.details.get("schema")
    if conversions.of_another_kind(part, app):
        made, has = ("a database of its own", "a schema") if schema is None else ("a schema", "a database of its own")
        raise Refused(
            f"the set is of an app with {made}, and app {app.id} has {has} here",
            where=where,
            hint="nothing was changed; restore all of it (without --table), or restore it as an app whose entry says "
            "the same of database and schema as the app's did when the set was made",
        )


def require_none_of_others(held: frozenset[tuple[str, ...]], where: str) -> None:
    """`ArchiveError` for what a load has made (as `AdminInside.of_others` says it) that does not belong to the app."""
    if held:
        kind, name, owner = min(held)[:3]
        raise ArchiveError(
            f"what was loaded made {kind} {name}, which belongs to {owner} and not to the app",
            where=where,
            hint="the set makes things in another name than the app's own: do not use it",
        )


def zone_of_set(databases: Databases, part: Part) -> str | None:
    """The time zone in which the app worked, where the set says one that the server has: what was checked by it passes
    again."""
    zone = part.details.get("zone")
    sound = isinstance(zone, str) and zone != "" and zone.isprintable()
    return str(zone) if sound and databases.knows_zone(str(zone)) else None


@contextlib.contextmanager
def _lying(
    lying: BinaryIO | Path | None, reader: ArchiveReader, app: App, progress: Progress
) -> Iterator[BinaryIO | Path]:
    if lying is not None:
        yield lying
        return
    with tempfile.TemporaryFile() as dump:
        _spool(reader, dump, app, progress)
        yield dump


def _spool(reader: ArchiveReader, dump: BinaryIO, app: App, progress: Progress) -> None:
    with reader.file(FILE) as file:
        start = file.read(_CHUNK)
        if not start.startswith(_MAGIC):
            raise ArchiveError(f"{FILE} is no dump of pg_dump")
        dump.write(start)
        while chunk := file.read(_CHUNK):
            dump.write(chunk)
            progress(app.id, "reading", float(dump.tell()))
    dump.flush()
    dump.seek(0)


@contextlib.contextmanager
def _understood(what: str, where: str) -> Iterator[None]:
    """`ArchiveError` where the set's manifest makes no sense: it is data, whoever wrote it."""
    try:
        yield
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ArchiveError(
            f"the set does not say {what} as multidb does: {error}", where=where, hint="take another set"
        ) from None


def _loadable(part: Part, where: str) -> Beyond:
    """What is left out of a load.

    Raises:
        Refused: that would not be enough.
        ArchiveError: the set does not say it as multidb does.
    """
    beyond_of_set = part.details.get("beyond")
    if beyond_of_set is None:  # made by an earlier version
        return Beyond()
    with _understood("what no load can make", where):
        assert isinstance(beyond_of_set, Mapping)
        beyond = bound.beyond(beyond_of_set)
    if beyond.needed:
        raise Refused(
            f"the set has what only an admin can make, and other things in it may need: {listed(beyond.needed, 10)}",
            where=where,
            hint="nothing was changed; take a set of before it was there, or load this one by hand "
            "(docs/restore-by-hand.md), once an admin has made that in the new database",
        )
    return beyond


def _roles(databases: Databases, place: Place, part: Part, role: str) -> Mapping[str, str | None]:
    source, here = str(part.details["app"]), set(databases.delegates.roles(place.app))
    theirs = [derived.name for derived in derived_names(App(source, source, {})) if derived.space == "postgres role"]
    # Of readers, which a manifest names, those that the app has here.
    theirs += [source + name.removeprefix(place.app.id) for name in here]
    ours = {name: place.app.id + name.removeprefix(source) for name in theirs}
    return {**{name: other if other in here else None for name, other in ours.items()}, f"{source}_owner": role}


def kept_rights(databases: Databases, place: Place, part: Part, role: str) -> Sequence[rights.Right]:
    """Who may do what with single things of the set, for the roles of `place.app`."""
    return _rights(part, _roles(databases, place, part, role), databases.where)[1]


def _rights(
    part: Part, roles: Mapping[str, str | None], where: str
) -> tuple[Sequence[rights.Default], Sequence[rights.Right]]:
    rights_of_set = part.details.get("rights")
    if rights_of_set is None:  # made by an earlier version: apply gives them
        return (), ()
    with _understood("who may do what in it", where):
        assert isinstance(rights_of_set, Mapping)
        return rights.read(rights_of_set, roles.get)


@dataclass(frozen=True, slots=True)
class Load:
    """One set on its way into a place.

    Args:
        role: the owner role of what is in the place.
        roles: what a role of the app that the backup is of is called here; None where it is not there.
        file: the dump, on this machine.
    """

    databases: Databases
    place: Place
    part: Part
    role: str
    roles: Mapping[str, str | None]
    progress: Progress
    program: Program
    file: BinaryIO | Path

    def entries(self, name: str) -> Sequence[Any]:
        entries = self.part.details[name]
        assert isinstance(entries, list | tuple)
        return entries

    def target(
        self, delegate: Delegate, role: str | None, *, tablespaces: bool = True, path: Sequence[str] = ()
    ) -> loading.Target:
        surroundings = programs.Surroundings(zone_of_set(self.databases, self.part), path)
        address = self.databases.address(self.program, delegate, self.place.name, surroundings)
        return loading.Target(self.program, address, role, delegate.password, self.databases.server, tablespaces)

    def _path(self) -> Sequence[str]:
        """The schemas in which the app looks names up, where the set has functions that are called by a load."""
        path = self.part.details.get("path")
        try:
            return members(path) if isinstance(path, str) and "\0" not in path else ()
        except ValueError:
            return ()

    def require_providers(self, delegate: Delegate, beyond: Beyond) -> None:
        """`Refused` where the server lacks who looks after the set's security labels: they may be what masks data."""
        if not beyond.labels:
            return
        with delegate.open(self.place.name) as connection:
            connection.execute(f"SET ROLE {identifier(self.role)}")
            for provider in beyond.labels:
                answer = connection.send(f"SECURITY LABEL FOR {identifier(provider)} ON SCHEMA public IS NULL")
                if answer.refusal is not None and answer.refusal.sqlstate == _NO_PROVIDER:
                    raise Refused(
                        f"the set has security labels of {provider}, which the server does not have loaded",
                        where=self.databases.where,
                        hint="nothing was changed; let the server load it (shared_preload_libraries), or take one that "
                        "does",
                    )

    # --------------------------------------------------------------------------------------------------- extensions

    def make_extensions(self, admin: AdminInside, delegate: Delegate) -> frozenset[str]:
        """The set's extensions, made; the schemas that are there then."""
        if not self.entries("extensions"):
            return frozenset()
        destination = extensions.Destination(self.databases, self.place, delegate, self.roles.get)
        try:
            extensions.lay(destination, self.part, self.progress)
        except (ArchiveError, NotAllowed) as error:
            raise type(error)(error.message, where=error.where or self.databases.where, hint=error.hint) from None
        return extensions.settle(destination, admin)

    def configure(self, admin: AdminInside, delegate: Delegate, listing: str) -> str:
        """Loads what the set's extensions keep of what is configured, before anything that may look there: by the
        delegate, which is let write these tables meanwhile. The table of contents without what is done with.

        Raises:
            ArchiveError: they do not take it.
            NotAllowed: there are rows, and the admin may not let anybody write them.
        """
        with delegate.open(self.place.name) as connection:
            there = configuration.read(connection.ask(configuration.RELATIONS, (self.role,)))
        filling = configuration.entries(listing, there)
        fingerprints = self.part.measures.fingerprints
        empty = {
            relation.name
            for relation in filling.values()
            if configuration.is_empty(fingerprints.get(configuration.label(relation.name)))
        }
        filled = {
            relation.extension
            for relation in filling.values()
            if relation.kind == "TABLE" and relation.name not in empty
        }
        chosen: list[str] = []
        let: list[configuration.Relation] = []
        try:
            for line, relation in filling.items():
                if not relation.fillable:
                    if relation.name in empty or not _let_fill(
                        admin, relation, delegate.name, needed=relation.extension in filled
                    ):
                        continue
                    let.append(relation)
                chosen.append(line)
            if chosen:
                step, timer = loading.Step(chosen, in_order=True), self.databases.timer(delegate)
                loading.load(self.target(delegate, None), self.file, step, timer=timer)
        except (ArchiveError, NotAllowed) as error:
            names = listed(sorted({relation.extension for relation in filling.values()}))
            raise type(error)(
                f"what app {self.place.app.id} has configured of extensions ({names}) cannot be loaded: "
                f"{error.message}",
                where=self.databases.where,
                hint=error.hint or "take another set, or a server with the same versions of them",
            ) from None
        finally:
            for relation in let:
                admin.keep_from(relation, delegate.name)
        for relation in filling.values():
            if not relation.readable:
                admin.let_read(relation, self.role)
        return "\n".join(line for line in listing.split("\n") if line not in filling)

    # --------------------------------------------------------------------------------------------------------- dump

    def load_dump(self, delegate: Delegate, listing: str, schemas: frozenset[str], beyond: Beyond) -> None:
        """Loads the rest of the dump."""
        policies = self.entries("policies")
        # Things are in the tablespaces that they were in; the database's own has to do where not all can be used.
        usable = self.databases.has_room(beyond.tablespaces, self.role)
        if not usable:
            where = f"tablespace {listed(beyond.tablespaces)} cannot be used by the app here"
            self.progress(self.place.app.id, f"{where}: all tables and indexes go into the database's own")
        target, timer = self.target(delegate, self.role, tablespaces=usable), self.databases.timer(delegate)
        self.progress(self.place.app.id, "loading")
        first, last, filling = loading.steps(listing, schemas, policies, beyond)
        with _understood("how columns are stored", self.databases.where):
            columns = list(storage.read(self.part.details.get("storage", ())))
        if columns:
            tables, first = loading.schema_apart(first)
            loading.load(target, self.file, tables, timer=timer)
            self.run(delegate, [f"SET ROLE {identifier(self.role)}", *(column.loading for column in columns)])
        path = self._path()
        if path:
            first, filling = loading.calls_apart(first), replace(filling, calls=True)

        def load(step: loading.Step) -> None:
            there = (programs.behind_the_servers(path) if step.names else path) if step.calls else ()
            target = self.target(delegate, self.role, tablespaces=usable, path=there)
            loading.load(target, self.file, step, timer=timer)

        for step in first:
            load(step)
        self.make_policies(delegate, policies)
        for step in last:
            load(step)
        for name, cause in loading.fill(filling, load).items():
            self.progress(self.place.app.id, f"materialized view {name} is there without rows: {cause}")
        if columns:
            self.run(delegate, [f"SET ROLE {identifier(self.role)}", *(column.declared for column in columns)])

    def make_policies(self, delegate: Delegate, entries: Sequence[Any]) -> None:
        """Row policies for roles by name, of the app's roles for those of the app that the backup is of. Making one may
        call what the app has made."""
        if not entries:
            return
        there = set(json.loads(self.databases.main.ask("SELECT json_agg(rolname) FROM pg_roles"))) | {"public"}
        with delegate.open(self.place.name) as connection:
            connection.execute(f"SET ROLE {identifier(self.role)}")
            for entry in entries:
                roles = [self.roles.get(name, name if name in there else None) for name in map(str, entry["roles"])]
                known = [role for role in roles if role is not None]
                try:  # a policy for nobody would be a policy for everybody
                    text = catalog_text.policy(entry, known or [self.role])
                except ValueError as error:
                    raise ArchiveError(str(error), where=self.databases.where, hint="take another set") from None
                connection.execute(text)

    # --------------------------------------------------------------------------------------------- rights, settings

    def read_rights(self) -> tuple[Sequence[rights.Default], Sequence[rights.Right]]:
        """Those of the set, for the roles of `place.app`; roles that are no app's own get nothing."""
        return _rights(self.part, self.roles, self.databases.where)

    def give_rights(self, delegate: Delegate, kept: Sequence[rights.Right]) -> None:
        with _understood("who may do what in it", self.databases.where):
            document = self.part.details.get("rights")
            groups = rights.objects(document, self.roles.get) if isinstance(document, Mapping) else []
        if not kept and not groups:
            return
        with delegate.open(self.place.name) as connection:
            grants.give(connection, kept)
            grants.give_on_objects(connection, groups)

    def give_on_members(self, admin: AdminInside, delegate: Delegate) -> None:
        """What was given and taken on members of extensions: by the app where they are its own. On others the admin
        takes what was taken, and gives what everybody has there anyway, or the app has in its live database: a set by
        itself gives nothing. What is left is said, with the statements.
        """
        document = self.part.details.get("rights")
        if document is None or self.place.kind is PlaceKind.SCRATCH:
            return
        with _understood("who may do what in it", self.databases.where):
            assert isinstance(document, Mapping)
            members = rights.members(document.get("members", ()), self.roles.get)
        if not members:
            return
        roles = self.databases.delegates.roles(self.place.app)
        with self.databases.inside_live(self.place.app) as there:
            live = (
                {member.address: member.given for member in there.rights_on_members(roles)} if there is not None else {}
            )
        left: list[str] = []
        with delegate.open(self.place.name) as connection:
            for member in members:
                left += grants.give_on_member(admin, connection, member, live.get(member.address, frozenset()), roles)
        if left:
            giving = printable("; ".join(left))
            message = f"rights on what extensions have that do not come back; an admin gives them: {giving}"
            self.progress(self.place.app.id, message)

    def run(self, delegate: Delegate, texts: Sequence[str]) -> None:
        if texts:
            with delegate.open(self.place.name) as connection:
                grants.send(connection, texts)

    def make_settings(self, delegate: Delegate) -> None:
        """The settings of the set's database and of the app's logins in it. Each login makes its own, so that it gets
        what it could give itself; for the database, the admin makes what everybody may set. What apply makes is left to
        it, and what cannot be made is said.
        """
        left: list[str] = []
        with delegate.open(self.place.name) as connection:
            for login, entries in self._settings():
                role = self.roles.get(login) if login is not None else None
                for entry in entries:
                    name = entry.partition("=")[0]
                    if role is not None and name in MANAGED_SETTINGS:
                        continue
                    if (login is None) is (role is None) and self._set(connection, role, entry):
                        continue
                    left.append(name if login is None else f"{name} of {login}")
        if left:
            self.progress(self.place.app.id, f"settings of the set that do not come back: {listed(left)}")

    def _settings(self) -> Iterator[tuple[str | None, Sequence[str]]]:
        """Those of the set, by login (None: the database's); of what a login had in whichever database it was, what it
        has not here and has no other value for in this one."""
        within = catalog_text.settings(self.part.details.get("settings", []))
        yield from within
        roles = json.dumps(sorted({role for role in self.roles.values() if role is not None}))
        there = dict(json.loads(self.databases.main.ask(contents.STORED_EVERYWHERE, (roles,))))
        for login, entries in catalog_text.settings(self.part.details.get("settings_everywhere", [])):
            known = there.get(self.roles.get(login or ""), ())
            names = {entry.partition("=")[0] for one, mine in within if one == login for entry in mine}
            yield login, [entry for entry in entries if entry not in known and entry.partition("=")[0] not in names]

    def _set(self, connection: Connection, role: str | None, entry: str) -> bool:
        try:
            text = catalog_text.setting(self.place.name, role, entry)
        except ValueError:
            return False
        if role is not None:
            made = connection.send(f"SET ROLE {identifier(role)}; {text}").refusal is None
            connection.execute("RESET ROLE")
            return made
        database = self.databases.find(self.place.name)[self.place.name]
        if not same_from_elsewhere(entry, database):
            return False
        main = self.databases.main
        return main.ask(_EVERYBODYS, (entry.partition("=")[0],)) == "t" and main.send(text).refusal is None


def _let_fill(admin: AdminInside, relation: configuration.Relation, login: str, *, needed: bool) -> bool:
    """Whether the login may write it now; the position of a sequence is not needed where no rows are."""
    try:
        admin.let_fill(relation, login)
    except NotAllowed:
        if needed:
            raise
        return False
    return True
