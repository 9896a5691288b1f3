"""What takes an app off a Qdrant: its token refused at once, and later everything of it dropped.

Local mode has no tokens and a server without RBAC one key for all, so there nothing can be refused to one app alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from urllib.parse import quote

from multidb.model import App, Owner, Statement, StoreContext
from multidb.provisioners.qdrant.backup.places import place_of
from multidb.provisioners.qdrant.provision.catalog import Catalog
from multidb.provisioners.qdrant.provision.resources import OWN_PREFIX, app_of, owner_of, registry_name
from multidb.provisioners.qdrant.provision.statements import Call, dismissal, path_of

__all__ = ["orphans", "removal", "suspension"]


def orphans(catalog: Catalog, context: StoreContext, known: Collection[str]) -> Mapping[str, Sequence[str]]:
    """Tokens that are admitted, and collections with the project's mark, of an app that is not `known`; by app."""
    registry = registry_name(context.project)
    admitted = {app_of(token) for token in catalog.admitted(registry).values()}
    things = {app: ["token"] for app in sorted(admitted.difference(known))}
    prefixes = (OWN_PREFIX, *(f"{app}_" for app in known))
    for name, details in catalog.configured().items():
        owner = None if name.startswith(prefixes) else owner_of(details)
        if owner is not None and owner.project == context.project and owner.app not in known:
            things.setdefault(owner.app, []).append(f"collection {name}")
    return things


def suspension(catalog: Catalog, app: App, context: StoreContext) -> Sequence[Statement]:
    """Dismisses the app: each of its tokens is refused from the next request on. Nothing when that is so already.

    `multidb apply` admits it again, and the token that it had is then good again.
    """
    registry = registry_name(context.project)
    admitted = catalog.admitted(registry, app.id)
    return (Statement(dismissal(registry, app.id).text),) if admitted else ()


def removal(catalog: Catalog, app: App, context: StoreContext) -> Sequence[Statement]:
    """Drops the app's marked collections and places. Snapshots go first: the server would keep them on its disk, and
    show them to whoever makes a collection of that name later. Aliases go with their collection."""
    ours = Owner(context.project, app.id)
    names = [name for name in catalog.names() if name.startswith((f"{app.id}_", OWN_PREFIX))]
    described = catalog.described(names)
    gone = [name for name, details in described.items() if ours in (owner_of(details), place_of(details))]
    snapshots = catalog.snapshots(gone)
    calls = [
        Call("DELETE", f"{path_of(name)}/snapshots/{quote(snapshot, safe='')}?wait=true", {})
        for name in gone
        for snapshot in snapshots.get(name, ())
    ]
    calls += [Call("DELETE", path_of(name), {}) for name in gone]
    return tuple(Statement(call.text) for call in calls)
