"""Holes in the walls between apps on one Qdrant, and what was left behind: found with the admin's key."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from multidb.model import Hole, Inspection, Owner, Remark, Search, Searched
from multidb.provisioners.qdrant.backup.places import PlaceMark
from multidb.provisioners.qdrant.provision.catalog import Catalog
from multidb.provisioners.qdrant.provision.live import live_index, live_token
from multidb.provisioners.qdrant.provision.resources import (
    OWN_PREFIX,
    REGISTRY_MARK,
    Collection,
    PayloadIndex,
    QdrantFacts,
    Registry,
    Token,
    admission_id,
    admitted_names,
    app_of,
    owner_of,
    registry_name,
    token_ref,
)
from multidb.provisioners.qdrant.provision.statements import Call, create_index, dismissal, path_of
from multidb.provisioners.qdrant.provision.tokens import claims_of, signed_with
from multidb.secrets import Secret, SecretStore

__all__ = ["search"]

_OTHER_KEYS: Final = frozenset({"alt_api_key", "read_only_api_key"})


def search(catalog: Catalog, inspection: Inspection, admin: Secret | None) -> Search:
    """What opens a wall, or was left behind, on one server. `inspection.apps` has to be all apps of the project for
    what belongs to none of them to be told."""
    facts = QdrantFacts.of(inspection.context.facts)
    names = catalog.names()
    described, aliases = catalog.described(names), catalog.aliases()
    near = [name for name in names if _near(inspection, described, name)]
    admitted = catalog.admitted(registry_name(inspection.context.project)) if facts.rbac else {}
    whole = catalog.whole_snapshots()
    tokens = [want for want in inspection.desired if isinstance(want, Token)]
    holes = (
        *_server_holes(facts),
        *_copies(inspection, described),
        *_aliases(inspection, aliases),
        *_indexes(inspection, described),
        *_tokens(tokens, inspection.secrets, admin),
        *_gone(inspection, admitted),
        *_planted(inspection, admitted),
        *_snapshots(inspection, catalog.snapshots(near)),
        *_whole_snapshots(whole),
    )
    searched = (
        Searched("GET /collections/<name>", len(described), "copies that were left, tenant indexes that are missing"),
        Searched("GET /aliases", len(aliases), "aliases in the names that tokens list, and in multidb's own"),
        Searched("GET /collections/<name>/snapshots", 0 if facts.local else len(near), "snapshots that were kept"),
        Searched("GET /snapshots", len(whole), "snapshots of everything that were kept"),
        Searched("tokens that multidb keeps", len(tokens), "tokens that open too much or cannot be revoked"),
        Searched("the registry of tokens", len(admitted), "tokens of apps that are gone, or that are let in twice"),
    )
    return Search(holes, searched, (*_other_keys(inspection), *_unclaimed(inspection, described)))


def _server_holes(facts: QdrantFacts) -> Iterator[Hole]:
    if facts.local:
        return
    if not facts.api_key:
        message = "whoever reaches the server reads and changes every app's collections"
        yield Hole("no api key", "server", message, ("service.api_key: <32 random bytes or more>",))
    elif not facts.rbac:
        message = "tokens cannot be limited: the one api key that opens everything is all that an app can be given"
        yield Hole("no JWT RBAC", "server", message, ("service.jwt_rbac: true",))
    elif facts.short_key:
        message = "the api key signs all tokens and has fewer than 32 bytes; it could be guessed from any one of them"
        yield Hole("short api key", "server", message, ("service.api_key: <32 random bytes or more>",))


def _copies(inspection: Inspection, described: Mapping[str, Mapping[str, Any]]) -> Iterator[Hole]:
    """Forgotten places."""
    apps = {app.id for app in inspection.apps}
    for name, details in described.items():
        place = PlaceMark.read(details)
        if place is not None and place.owner.project == inspection.context.project:
            message = f"a copy of {place.owner.app}'s data, made to restore or to prove a backup, was left behind"
            whose = place.owner.app if place.owner.app in apps else None
            yield Hole("copy left behind", f"collection {name}", message, (f"DELETE {path_of(name)}",), whose)


def _unclaimed(inspection: Inspection, described: Mapping[str, Mapping[str, Any]]) -> Iterator[Remark]:
    """Collections that no token opens: marked for an app that is not there, or without a mark in the name of an app's
    or of a place."""
    project = inspection.context.project
    apps = {app.id for app in inspection.apps}
    names = {resource.name for resource in inspection.desired if isinstance(resource, Collection | Registry)}
    for name, details in described.items():
        owner, subject = owner_of(details), f"collection {name}"
        if name in names or PlaceMark.read(details) is not None:
            continue
        if owner is not None:
            if owner.project == project and owner.app not in apps and owner != _all_of(project):
                yield Remark(subject, f"it is marked as {owner.app}'s, and the manifest has no such app")
        elif like := _by_prefix(name, apps):
            message = f"it has the name of a collection of {like}, and no mark; the token of {like} does not open it"
            yield Remark(subject, message, like)
        elif name.startswith(OWN_PREFIX):
            yield Remark(subject, "it has the name of one of multidb's own, and no mark")


def _other_keys(inspection: Inspection) -> Iterator[Remark]:
    """Keys beside ours that the server may have. Its configuration is not to be read through it, and a key that we do
    not know is not to be tried: this is said, and not proved."""
    facts = QdrantFacts.of(inspection.context.facts)
    unknown = sorted(_OTHER_KEYS - inspection.context.known)
    if facts.api_key and unknown and not inspection.context.configured:
        keys = " or ".join(f"service.{key}" for key in unknown)
        message = (
            f"no request tells whether it has {keys}, which opens every collection. Look into its configuration; "
            f"name what is meant: known: {{qdrant: [{', '.join(unknown)}]}}"
        )
        yield Remark("server", message)


def _planted(inspection: Inspection, admitted: Mapping[str, str]) -> Iterator[Hole]:
    """Admissions that are not multidb's, or of a token that a rotation has replaced."""
    registry = registry_name(inspection.context.project)
    names = {app.id: admitted_names(app.id, inspection.context) for app in inspection.apps}
    for point, token in sorted(admitted.items()):
        app = app_of(token)
        if app in names and (token not in names[app] or point != admission_id(registry, token)):
            message = f"tokens of {app} are let in by it, also where the app is suspended or removed"
            chosen = {"points": [int(point) if point.isdigit() else point]}
            closes = Call("POST", f"{path_of(registry)}/points/delete?wait=true", chosen).text
            yield Hole("second admission", f"point {point} of {registry}", message, (closes,), app)


def _whole_snapshots(names: Iterable[str]) -> Iterator[Hole]:
    for name in names:
        message = "a copy of every app's collections lies on the server's disk"
        yield Hole(
            "snapshot of everything kept", f"snapshot {name}", message, (f"DELETE /snapshots/{quote(name, safe='')}",)
        )


def _gone(inspection: Inspection, admitted: Mapping[str, str]) -> Iterator[Hole]:
    registry = registry_name(inspection.context.project)
    for app in sorted(set(map(app_of, admitted.values())) - {app.id for app in inspection.apps}):
        message = f"app {app} is not in the manifest, and its token still works"
        closes = dismissal(registry, app).text
        yield Hole("token of an app that is gone", f"token {app}", message, (closes,), account=app)


def _all_of(project: str) -> Owner:
    return Owner(project, REGISTRY_MARK)


def _by_prefix(name: str, apps: Iterable[str]) -> str | None:
    """The app with the longest id whose collections' names begin as this one does."""
    return max((app for app in apps if name.startswith(f"{app}_")), key=len, default=None)


def _aliases(inspection: Inspection, aliases: Mapping[str, str]) -> Iterator[Hole]:
    """An alias that bears a name which a token lists opens, to that token, the collection it leads to."""
    collections = {resource.name: resource for resource in inspection.desired if isinstance(resource, Collection)}
    for alias, collection in sorted(aliases.items()):
        closes = Call("POST", "/collections/aliases", {"actions": [{"delete_alias": {"alias_name": alias}}]}).text
        if alias.startswith(OWN_PREFIX):
            message = f"what is asked of multidb's own collection of that name would be asked of {collection}"
            yield Hole("alias in multidb's own names", f"alias {alias}", message, (closes,))
        if alias not in collections:
            continue
        app = collections[alias].app
        message = f"it has the name that {app}'s token lists, and so opens {collection} to {app}"
        yield Hole("alias in a collection's name", f"alias {alias}", message, (closes,), app)


def _indexes(inspection: Inspection, described: Mapping[str, Mapping[str, Any]]) -> Iterator[Hole]:
    for want in inspection.desired:
        if not isinstance(want, PayloadIndex) or not want.is_tenant or want.collection not in described:
            continue
        live = live_index(want, described[want.collection])
        if live is None or not live.is_tenant:
            message = "searches by tenant_id read other tenants' points on their way, and strict mode cannot ask for it"
            closes = (create_index(want).text,)
            yield Hole("no tenant index", f"collection {want.collection}", message, closes, want.app)


def _tokens(tokens: Iterable[Token], secrets: SecretStore, admin: Secret | None) -> Iterator[Hole]:
    """Tokens in our own secret store that open more than they should; what was handed out elsewhere nobody can tell."""
    for want in tokens:
        assert want.app is not None
        held = secrets.get(token_ref(want.app, want.alternate))
        if held is None or admin is None:
            continue
        message = _too_broad(want, held, admin)
        if message:
            closes = f"multidb apply --app {want.app}"  # no request of the server's: tokens are signed here
            yield Hole("token opens too much", f"token {want.name}", message, (closes,), want.app)


def _too_broad(want: Token, held: Secret, admin: Secret) -> str:
    if held == admin:
        return "the app holds the server's own api key"
    claims = claims_of(held)
    if claims is None or not signed_with(held, admin):
        return ""  # opens nothing
    live = live_token(want, claims, signed=True, now=time.time())
    if live.access == "everything":
        return "it has no access claim: it is an administrator's"
    more = sorted(set(live.collections) - set(want.collections))
    if more:
        return f"it also opens {', '.join(more)}"
    if live.access != want.access:
        return f"it may do {live.access} where {want.access} is meant"
    return "" if live.registry else "it cannot be revoked alone, before its own end"


def _snapshots(inspection: Inspection, snapshots: Mapping[str, Sequence[str]]) -> Iterator[Hole]:
    owners = {resource.name: resource.app for resource in inspection.desired if isinstance(resource, Collection)}
    apps = {app.id for app in inspection.apps}
    for name, files in snapshots.items():
        message = "copies of the data lie on the server's disk, and outlive the collection"
        closes = tuple(f"DELETE {path_of(name)}/snapshots/{quote(file, safe='')}" for file in files)
        yield Hole("snapshots kept", f"collection {name}", message, closes, owners.get(name) or _by_prefix(name, apps))


def _near(inspection: Inspection, described: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    """Whether a collection is this project's by its mark, or is called as one of its own: a mark can be overwritten."""
    owner = owner_of(described[name]) if name in described else None
    ours = owner is not None and owner.project == inspection.context.project
    called = name.startswith(OWN_PREFIX) or _by_prefix(name, {app.id for app in inspection.apps}) is not None
    return ours or (called and owner is None)
