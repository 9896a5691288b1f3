"""What the options of `multidb add-app` ask for, as an app's entry in the manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multidb.errors import UsageError
from multidb.model import App, Project
from multidb.provisioners import INCLUDED, known_stores, provisioner

__all__ = ["AddAppOptions", "collections_of", "new_entry", "stores_of"]

_COLLECTION = re.compile(r"(?P<kind>[^:\n]+):(?P<size>[0-9]{1,9})(:(?P<distance>[^:\n]+))?")


@dataclass(frozen=True, slots=True)
class AddAppOptions:
    """What is asked for.

    Args:
        stores: none: what the project has servers of.
        collections: by name, the options that are said.
        tenant: its tenant id; None: not said.
    """

    app: str
    stores: tuple[str, ...]
    extensions: tuple[str, ...]
    collections: Mapping[str, Mapping[str, Any]]
    tenant: str | None

    def over(self, project: Project, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What has to be laid over the `entry` of an app that is there, so that it has all that is asked for."""
        self.refuse_unused(project)
        app = project.apps[self.app]
        changes: dict[str, Any] = {}
        if self.tenant is not None and self.tenant != app.tenant_id:
            changes["tenant_id"] = self.tenant
        if more := [store for store in self.stores if store not in app.stores]:
            changes["stores"] = [*entry.get("stores", app.stores), *more]
        having, store = _options_of(app, "extensions"), _store_with("extensions")
        if more := [name for name in self.extensions if name not in having]:
            changes[store] = {"extensions": [*(entry.get(store) or {}).get("extensions", having), *more]}
        there = _options_of(app, "collections") or {}
        collections: dict[str, Any] = {
            kind: options
            for kind, options in self.collections.items()
            if kind not in there or any(getattr(there[kind], key) != value for key, value in options.items())
        }
        if collections:  # with those that it has because it names none
            defaults = provisioner(_store_with("collections")).app_options().collections  # type: ignore[attr-defined]
            usual: dict[str, Any] = {kind: {} for kind, options in there.items() if options == defaults.get(kind)}
            changes[_store_with("collections")] = {"collections": usual | collections}
        return changes

    def refuse_unused(self, project: Project) -> None:
        """Refuses options of a store that the app would not use.

        Raises:
            UsageError: which, and what ``--stores`` has to name.
        """
        there = project.apps.get(self.app)
        named = self.stores if there is not None or self.stores else _served(project)
        for option, asked in (("extension", self.extensions), ("collection", self.collections)):
            store = _store_with(f"{option}s")
            if not asked or store in named or (there is not None and store in there.stores):
                continue
            first = ""
            if not project.runtime.starts_servers and store not in _served(project):
                first = f"say where it is, under external: {{{store}: {{url: ...}}}}; then "
            raise UsageError(
                f"--{option} is about {store}, which {self.app} does not use",
                hint=f"{first}the same again with --stores {','.join([*named, store])}",
            )


def new_entry(asked: AddAppOptions, project: Project) -> dict[str, Any]:
    """The entry of an app that is new."""
    asked.refuse_unused(project)
    entry: dict[str, Any] = {}
    if asked.tenant is not None:
        entry["tenant_id"] = asked.tenant
    stores = asked.stores or _served(project)
    if asked.stores or {*stores} != {*INCLUDED}:
        entry["stores"] = list(stores)
    if asked.extensions:
        entry[_store_with("extensions")] = {"extensions": list(asked.extensions)}
    if asked.collections:
        entry[_store_with("collections")] = {"collections": dict(asked.collections)}
    return entry


def _served(project: Project) -> tuple[str, ...]:
    """The stores that an app gets which names none: those that the project has servers of.

    Raises:
        UsageError: it has none.
    """
    if project.runtime.starts_servers:
        return tuple(INCLUDED)
    served = tuple(spec.store for spec in project.servers if spec.store in INCLUDED and spec.address is not None)
    if not served:
        example = next(iter(INCLUDED))
        raise UsageError(
            "runtime is external, and the manifest names no server yet",
            where=project.file,
            hint=f"say where they are, under external: {{{example}: {{url: ...}}}}; then the same again",
        )
    return served


def stores_of(given: Sequence[str] | None) -> tuple[str, ...]:
    """The stores that ``--stores`` names. `UsageError` where one of them is none."""
    names = [store.strip() for text in given or () for store in text.split(",") if store.strip()]
    unknown = [store for store in names if store not in known_stores()]
    if unknown or (given and not names):
        problem = f"there is no store {', '.join(unknown)!r}" if unknown else "--stores names no store"
        raise UsageError(problem, hint=f"stores: {', '.join(known_stores())}")
    return tuple(dict.fromkeys(names))


def _store_with(option: str) -> str:
    """The store whose apps have this option."""
    return next(store for store in known_stores() if option in provisioner(store).app_options.model_fields)


def _options_of(app: App, option: str) -> Any:
    """What the app has of it, defaults too; empty where it does not use the store."""
    options = app.stores.get(_store_with(option))
    return () if options is None else getattr(options, option)


def collections_of(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By name what ``--collection`` asks for (``type:size:distance``). `UsageError` where a text is no collection."""
    asked: dict[str, dict[str, Any]] = {}
    for text in texts:
        kind, options = _collection(text)
        if asked.setdefault(kind, options) != options:
            raise UsageError(f"collection {kind} is asked for twice, and differently", hint="leave one of them out")
    return asked


def _collection(text: str) -> tuple[str, dict[str, Any]]:
    parts = _COLLECTION.fullmatch(text)
    if parts is None:
        raise UsageError(f"{text!r} is not type:size:distance", hint="for example --collection knowledge:1536:cosine")
    return parts["kind"], {"size": int(parts["size"]), **({"distance": parts["distance"]} if parts["distance"] else {})}
