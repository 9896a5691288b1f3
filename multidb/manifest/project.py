"""Manifest files -> one checked `Project`, or every problem that they have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from multidb.errors import ManifestError, Problem
from multidb.manifest.app_files import check_files
from multidb.manifest.document import (
    Entry,
    Mapping,
    Node,
    Position,
    Scalar,
    Sequence,
    from_plain,
    over,
    plain,
)
from multidb.manifest.files import ManifestFiles, mapping_or_empty
from multidb.manifest.names import check_known, check_names, check_tenants, id_problem, project_name
from multidb.manifest.problems import explain
from multidb.manifest.schema import VERSION, Shape, StoreSchema, shape_of
from multidb.model import App, Enforce, Project, Quota, RuntimeKind, ServerSpec
from multidb.model.options import Section
from multidb.model.secret_options import INCLUDED_SECRETS
from multidb.model.state_options import INCLUDED_STATES, StateAddress, is_folder, scheme_of

__all__ = ["Removed", "load"]


@dataclass(frozen=True, slots=True)
class Removed:
    """An app that was taken out of the manifest.

    Args:
        entries: what stood in the manifest about it, the base first, then what was laid over it.
        when: the day it went, for messages.
        settled: False while it is on its way out or back, when the manifest may still, or again, have it.
    """

    entries: tuple[MappingType[str, Any], ...]
    when: str
    settled: bool = True


StateAddresses: TypeAlias = Callable[[str], StateAddress | None]


def load(
    path: Path,
    stores: MappingType[str, StoreSchema],
    overlay: str | None = None,
    removed: MappingType[str, Removed] | None = None,
    texts: MappingType[Path, str] | None = None,
    secrets: MappingType[str, type[Section]] = INCLUDED_SECRETS,
    states: StateAddresses = INCLUDED_STATES.get,
) -> Project:
    """Reads the manifest at `path`, the files that it includes and, for an environment, the file laid over it.

    Mappings of an overlay, and of ``defaults`` under an app's options, are merged key by key; numbers, texts and lists
    replace; an empty value changes nothing. ``$`` is an ordinary character: nothing is taken from the environment.

    Args:
        overlay: ``prod`` lays ``multidb.prod.yaml`` over ``multidb.yaml``.
        removed: apps that were taken out of the manifest; no other app may take a name of theirs.
        texts: what is read in the place of these files, which are not written yet.
        secrets: the kinds of secret stores that there are, with the options of each.
        states: by scheme, how the addresses of places for the state look; None: there is no such place.

    Raises:
        ManifestError: with every problem of every file.
        UsageError: the manifest or the overlay does not exist or cannot be read.
    """
    problems: list[Problem] = []
    files = ManifestFiles(path, problems, texts or {})
    try:
        top = files.tree(overlay)
    except ManifestError as error:
        raise ManifestError(error.problems, str(path)) from None
    project = _Reading(top, path, shape_of(stores, secrets), problems, removed or {}, states).project()
    if project is None or problems:
        raise ManifestError(problems, str(path))
    return replace(project, sources=files.digests)


class _Reading:
    """One tree against one set of stores."""

    def __init__(
        self,
        top: Mapping,
        path: Path,
        shape: Shape,
        problems: list[Problem],
        removed: MappingType[str, Removed],
        states: StateAddresses,
    ) -> None:
        self._top = top
        self._states = states
        self._tombstones = removed
        self._path = path
        self._shape = shape
        self._stores = shape.stores
        self._problems = problems
        self._returned: dict[str, str] = {}

    def project(self) -> Project | None:
        """The project; None when its head is wrong. Everything that can be checked is, whatever else is wrong."""
        if not self._understood():
            return None
        head = self._head()
        apps, removed = self._apps()
        returned = {app: place for app, place in self._returned.items() if app in removed}
        if head is None:
            return None
        servers = tuple(self._spec(store, head) for store in self._stores)
        runtime = RuntimeKind(head.runtime)
        self._check_runtime(apps, runtime)
        if runtime is RuntimeKind.EXTERNAL:
            self._check_addresses(apps, servers)
        self._check_servers(head)
        self._check_state(head.state, runtime)
        self._problems += check_known(self._top.get("known"), [*apps.values(), *removed.values()], self._stores)
        self._problems += check_files([*apps.values(), *removed.values()], head.backup.to, self._path.absolute().parent)
        return Project(
            name=head.project,
            runtime=runtime,
            apps=apps,
            servers=servers,
            root=str(self._path.parent),
            file=self._path.name,
            deploy=head.deploy,
            backup=head.backup,
            backup_declared="backup" in head.model_fields_set,
            rotate=head.rotate,
            notify=head.notify,
            secrets=head.secrets.spec,
            state=head.state,
            removed=removed,
            returned=returned,
            progress_timeout=head.progress_timeout.total_seconds(),
            include=head.include,
        )

    def _understood(self) -> bool:
        """Whether the manifest's format is ours; if it is not, nothing else that could be said about it is true."""
        entry = self._top.entries.get("version")
        if entry is None:
            self._problems.append(self._top.place.problem("version is missing", f'Add "version: {VERSION}".'))
            return True
        version = entry.value.value if isinstance(entry.value, Scalar) else None
        if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
            self._problems.append(
                entry.value.place.problem(
                    f"version {version} is newer than what this multidb reads ({VERSION})", "Upgrade multidb."
                )
            )
            return False
        if version != VERSION or isinstance(version, bool):
            self._problems.append(entry.value.place.problem(f"version must be the number {VERSION}"))
        return True

    def _head(self) -> Any:
        tree = self._top.without("apps").with_value("version", Scalar(VERSION, str(VERSION), self._top.place))
        if "project" not in tree.entries:
            name = project_name(self._path.resolve().parent.name)
            self._problems.append(self._top.place.problem("project is missing", f'Add "project: {name}".'))
            tree = tree.with_value("project", Scalar("unnamed", "unnamed", self._top.place))
        return self._validated(self._shape.head, tree, self._top.place, ())

    def _apps(self) -> tuple[dict[str, App], dict[str, App]]:
        """The apps of the manifest, and those that were removed from it and still hold their names."""
        defaults = self._defaults()
        apps: dict[str, App] = {}
        places: dict[str, Position] = {}
        section = self._top.get("apps")
        for app_id, entry in section.entries.items() if isinstance(section, Mapping) else ():
            gone = self._tombstones.get(app_id)
            if gone is not None and gone.settled:  # an old manifest: the one app's affair, and no other's
                self._returned[app_id] = str(entry.key.place)
                continue
            problem = id_problem(entry.key)
            if problem is not None:
                self._problems.append(problem)
            app = self._app(app_id, entry, defaults)
            if app is not None and problem is None:
                apps[app_id], places[app_id] = app, entry.key.place
        removed = self._removed(apps, places, defaults)
        everybody = [*apps.values(), *removed.values()]
        self._problems += check_tenants(everybody, places)
        self._problems += check_names(everybody, self._stores, places)
        for store in self._stores.values():
            using = [app for app in everybody if store.name in app.stores]
            for app, message in store.check(using) if store.check else ():
                place = places[app.id] if app.id in removed else self._place_of_options(app.id, store.name)
                self._problems.append(place.problem(message))
        return apps, removed

    def _removed(
        self, apps: MappingType[str, App], places: dict[str, Position], defaults: MappingType[str, Node]
    ) -> dict[str, App]:
        removed = {}
        for app_id, gone in self._tombstones.items():
            if app_id in apps:
                continue
            place = places[app_id] = Position(str(self._path), 1, 1)
            node: Node | None = None
            for entry in gone.entries:
                node = over(node, from_plain(dict(entry), place))
            key = Scalar(app_id, app_id, place)
            if (app := self._app(app_id, Entry(key, node or Mapping({}, place)), defaults)) is not None:
                removed[app_id] = replace(app, where=f"removed on {gone.when}")
        return removed

    def _app(self, app_id: str, entry: Entry, defaults: MappingType[str, Node]) -> App | None:
        place = entry.key.place
        tree = mapping_or_empty(entry)
        if tree is None:
            self._problems.append(
                entry.value.place.problem(
                    f"the entry of app {app_id} must be a mapping", f"For example {app_id}: {{}}."
                )
            )
            return None
        stores = self._stores_of(tree)
        profiles = self._profiles_of(app_id, tree, stores)
        for store in self._stores:
            block = tree.entries.get(store)
            if store in stores:
                options = over(defaults.get(store), profiles.get(store, Mapping({}, place)))
                options = over(options, block.value if block else Mapping({}, place))
                tree = tree.with_value(store, options)
            elif block is not None:
                self._problems.append(
                    block.key.place.problem(
                        f'app {app_id} has options for {store}, which is not one of its "stores"',
                        f"Add {store} to stores, or remove the options.",
                    )
                )
        read: Any = self._validated(self._shape.entry, tree, place, ("apps", app_id))
        if read is None:
            return None
        return App(
            id=app_id,
            tenant_id=read.tenant_id or app_id,
            stores={store: getattr(read, store) for store in self._stores if store in read.stores},
            labels=read.labels,
            quota={store: Quota(quota.size, Enforce(quota.enforce)) for store, quota in read.quota.items()},
            backup=read.backup,
            deploy=read.deploy,
            rotate=read.rotate,
            files=read.files,
            modes={store: mode for store, mode in read.mode.items() if store in read.stores},
            where=str(place),
        )

    def _profiles_of(self, app_id: str, tree: Mapping, stores: frozenset[str]) -> dict[str, Node]:
        """The options that the app's ``profile`` stands for, by store."""
        named = tree.get("profile")
        if not isinstance(named, Scalar) or named.value is None:
            return {}
        known = {store: schema.profiles for store, schema in self._stores.items() if store in stores}
        if not any(named.text in names for names in known.values()):
            usual = ", ".join(sorted({name for names in known.values() for name in names})) or "none"
            message = f"app {app_id}: no store of it has a profile {named.text}"
            self._problems.append(named.place.problem(message, f"They have: {usual}."))
        options = from_plain({"profile": named.text}, named.place)
        return {store: options for store, names in known.items() if named.text in names}

    def _stores_of(self, tree: Mapping) -> frozenset[str]:
        """The stores of an app, as far as they can be told before it is validated."""
        listed = tree.get("stores")
        if not isinstance(listed, Sequence):
            return frozenset(self._stores)
        names = [item.text for item in listed.items if isinstance(item, Scalar)]
        for position, item in enumerate(listed.items):
            if isinstance(item, Scalar) and item.text in names[:position]:
                self._problems.append(item.place.problem(f"{item.text} is listed twice"))
        return frozenset(names)

    def _defaults(self) -> dict[str, Node]:
        """The options under ``defaults``; each checked alone, since no app may be there to show a mistake in them."""
        section = self._top.get("defaults")
        defaults: dict[str, Node] = {}
        for name, entry in section.entries.items() if isinstance(section, Mapping) else ():
            tree = mapping_or_empty(entry)
            if tree is None or name not in self._stores:
                continue  # the head's model says so
            defaults[name] = tree
            try:
                self._stores[name].app_options.model_validate(plain(tree))
            except ValidationError as error:
                # An app may add what is missing, and may change what does not go together.
                certain = [one for one in error.errors(include_url=False) if one["loc"] and one["type"] != "missing"]
                self._problems += explain(certain, tree, entry.key.place, ("defaults", name), self._shape.document)
        return defaults

    def _check_runtime(self, apps: MappingType[str, App], runtime: RuntimeKind) -> None:
        for store, schema in self._stores.items():
            users = [app.id for app in apps.values() if store in app.stores]
            if users and runtime not in schema.runtimes:
                others = " or ".join(f"runtime: {name}" for name in RuntimeKind if name in schema.runtimes)
                self._problems.append(
                    self._place_of_options(users[0], store).problem(
                        f"app {users[0]} uses {store}, and runtime {runtime} has no servers of it",
                        f"Leave {store} out of the app's stores" + (f", or choose {others}." if others else "."),
                    )
                )

    def _spec(self, store: str, head: Any) -> ServerSpec:
        """The one server, or kind of server, that the manifest has of a store."""
        return ServerSpec(
            store,
            store,
            getattr(head.servers, store),
            getattr(head.external, store, None),
            frozenset(getattr(head.known, store)),
            where=str(self._place_of_server(store, RuntimeKind(head.runtime))),
        )

    def _place_of_server(self, store: str, runtime: RuntimeKind) -> Position:
        section = self._top.get("external" if runtime is RuntimeKind.EXTERNAL else "servers")
        entry = section.entries.get(store) if isinstance(section, Mapping) else None
        entry = entry or self._top.entries.get("runtime")
        return entry.key.place if entry is not None else self._top.place

    def _check_addresses(self, apps: MappingType[str, App], servers: Iterable[ServerSpec]) -> None:
        entry = self._top.entries["runtime"]
        for store in (spec.store for spec in servers if spec.address is None):
            users = [app.id for app in apps.values() if store in app.stores]
            if users and self._stores[store].address is not None:
                self._problems.append(
                    entry.value.place.problem(
                        f"runtime is external, and external does not say where {store} is, which app {users[0]} uses",
                        f"Add external: {{{store}: {{url: ...}}}}, or leave {store} out of the stores of the apps.",
                    )
                )

    def _check_servers(self, head: Any) -> None:
        for store in self._stores:
            for option, why in getattr(head.servers, store).unfit(RuntimeKind(head.runtime)).items():
                servers: Any = self._top.get("servers")
                place = servers.get(store).entries[option].key.place
                self._problems.append(place.problem(f"servers.{store}.{option}: {why}"))

    def _check_state(self, address: str, runtime: RuntimeKind) -> None:
        """A state that is kept at an address: of a kind that there is. One that is kept on a server: of a store that
        can, and that does not go with this machine."""
        entry = self._top.entries.get("state")
        if entry is None or is_folder(address):
            return
        keepers = [name for name, schema in self._stores.items() if schema.keeps_state]
        scheme = scheme_of(address)
        form = self._states(scheme) if scheme else None
        if form is not None:
            if not form.fits(address):
                self._problems.append(entry.value.place.problem(f"state must be {form.form}"))
        elif address not in keepers:
            known = ", ".join([".multidb/", *(form.form for form in INCLUDED_STATES.values()), *keepers])
            self._problems.append(
                entry.value.place.problem(f'no state can be kept in "{address[:80]}"', f"Name one of: {known}.")
            )
        elif runtime is RuntimeKind.EMBEDDED:
            self._problems.append(
                entry.value.place.problem(
                    f"state: {address} would be in a server of this machine's only, which runtime: embedded starts",
                    "Leave it out, or keep it in S3: s3://BUCKET/PREFIX.",
                )
            )

    def _place_of_options(self, app_id: str, store: str) -> Position:
        apps = self._top.get("apps")
        assert isinstance(apps, Mapping)
        entry = apps.entries[app_id]
        block = entry.value.entries.get(store) if isinstance(entry.value, Mapping) else None
        return (block or entry).key.place

    def _validated(self, model: type[BaseModel], tree: Mapping, place: Position, prefix: tuple[str, ...]) -> Any:
        try:
            return model.model_validate(plain(tree))
        except ValidationError as error:
            errors = error.errors(include_url=False)
            self._problems += explain(errors, tree, place, prefix, self._shape.document)
            return None
