"""Comparing what is wanted with what is there, and the plan that comes of it: pure functions over values.

One `diff` serves every store. A `Plan` is a value: printed, saved, compared by its digest; no secret is in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from pydantic import JsonValue, TypeAdapter

from multidb.document import parse
from multidb.errors import Conflict, MultidbError
from multidb.formats import PLAN
from multidb.model import Action, Change, FieldChange, Finding, Isolation, Move, Resource
from multidb.validation import Document, Sha256, validated

__all__ = [
    "LOST",
    "added",
    "Plan",
    "SavedPlan",
    "ServerPlan",
    "conflict_error",
    "diff",
    "in_order",
    "plain",
    "refuse_conflicts",
    "saved_plan",
    "without_half_apps",
]

_ADOPT: Final = "multidb apply --adopt {app}"
_RENAME: Final = "give {app} another name in the manifest"
_LARGEST: Final = 256 * 1024**2  # bytes of a saved plan

LOST = "lost"
"""Live value of a credential field when the server has one and the secret store does not."""


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """The changes that one server needs, in the order in which they are made.

    `error` is set instead of changes when the server could not be read, `skipped` when this machine cannot have it.
    `unread` says of single apps why their place could not be read; none of their changes is known.
    `notes` are what is to be known of the server before anything is changed on it.
    """

    server: str
    store: str
    version: str = ""
    isolation: Mapping[str, tuple[Isolation, str]] = dataclasses.field(default_factory=dict)  # by app: level, why
    changes: tuple[Change, ...] = ()
    error: MultidbError | None = None
    skipped: str = ""
    unread: Mapping[str, MultidbError] = dataclasses.field(default_factory=dict)
    orphans: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    """By app that stands nowhere, or whose entry does not name the store: what the server has under the project's mark.
    No change is about it."""
    notes: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    """Those that it serves, of the ones in scope."""
    left: tuple[Change, ...] = ()
    """What would be changed of apps that are to be observed, or added to alone, and is not."""
    moves: Mapping[str, Move] = dataclasses.field(default_factory=dict)
    """By app that has another place there than the manifest gives it; none of its changes is known."""

    @property
    def digest(self) -> str:
        """SHA-256 over every change and statement; equal digests mean that the same would be done."""
        return _server_digest(self.server, [change_document(change) for change in self.changes])

    def covers(self, fresh: ServerPlan) -> bool:
        """Whether who agreed to this plan agreed to `fresh`: it has the same changes of every app, and none of the
        server as a whole beyond this one's. Such a change may be done by now, by another project on the server.
        """
        return _covered(map(change_document, self.changes), map(change_document, fresh.changes))


@dataclass(frozen=True, slots=True)
class Plan:
    """What would change on every server of a project.

    `warnings` are what no apply sets right, each with the commands that do; one of `Level.OK` may stay as it is.
    """

    project: str
    servers: tuple[ServerPlan, ...]
    warnings: tuple[Finding, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes, server by server; conflicts among them."""
        return tuple(change for server in self.servers for change in server.changes)

    @property
    def conflicts(self) -> tuple[Change, ...]:
        """The changes that cannot be made because something else stands in the way."""
        return tuple(change for change in self.changes if change.action is Action.CONFLICT)

    @property
    def errors(self) -> tuple[tuple[ServerPlan, MultidbError], ...]:
        """The servers that could not be read, and why; also where it is only an app of theirs."""
        whole = [(server, server.error) for server in self.servers if server.error is not None]
        return (*whole, *((server, error) for server in self.servers for error in server.unread.values()))

    @property
    def asked(self) -> bool:
        """Whether there is a server that was asked, or should have been."""
        return any(not server.skipped for server in self.servers)

    @property
    def in_sync(self) -> bool:
        """Whether every server could be read and is as the manifest says."""
        return not self.changes and not self.errors and not self.moves

    @property
    def moves(self) -> tuple[tuple[ServerPlan, Move], ...]:
        """The apps that have another place on a server than the manifest gives them."""
        return tuple((server, move) for server in self.servers for move in server.moves.values())

    @property
    def digest(self) -> str:
        """SHA-256 over all servers' digests."""
        return _digest(server.digest for server in self.servers)

    @property
    def left(self) -> tuple[Change, ...]:
        """What differs and is left as it is, by the mode of its app."""
        return tuple(change for server in self.servers for change in server.left)

    @property
    def counts(self) -> dict[str, int]:
        """How many changes of each action there are; every action is a key."""
        counted = Counter(change.action for change in self.changes)
        return {action.value: counted[action] for action in Action}

    def document(self) -> dict[str, Any]:
        """The plan as plain JSON values, as `multidb plan --json` prints and ``--out`` saves it."""
        return {
            "project": self.project,
            "digest": self.digest,
            "counts": self.counts,
            "servers": [_server_document(server) for server in self.servers],
            "changes": [
                {**change_document(change), "cause": change.cause.value if change.cause else None}
                for change in self.changes
            ],
            "left": [{**change_document(change), "cause": None} for change in self.left],
            "moves": [_move_document(server, move) for server, move in self.moves],
            "warnings": [
                {"subject": warning.subject, "message": warning.message, "hint": warning.fix or None}
                for warning in self.warnings
            ],
        }


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """What `multidb plan --out` has written, as it is read back.

    Args:
        apps, stores, adopt, deep: what the plan was about.
        servers: the names of those that it is about.
        changes: their documents.
        altered: what it says would be done has another digest.
    """

    apps: list[str] | None
    stores: list[str] | None
    adopt: list[str]
    deep: bool
    servers: list[str]
    changes: list[dict[str, Any]]
    altered: bool

    def covers(self, fresh: Plan) -> bool:
        """As for `ServerPlan`, of all servers."""
        known = set(self.servers) == {server.server for server in fresh.servers}
        return known and _covered(self.changes, map(change_document, fresh.changes))


def saved_plan(text: str) -> SavedPlan:
    """The plan in a saved document. `Unreadable` when it is none."""
    document = parse(text, _LARGEST)
    if isinstance(document, dict) and document.get("command") == "plan":
        document = PLAN.upgraded(document, document.get("version"))
    saved = validated(document, _SAVED)
    servers, changes = [server.server for server in saved.servers], [_done(change) for change in document["changes"]]
    altered = _document_digest(servers, changes) != saved.digest
    return SavedPlan(saved.apps, saved.stores, saved.adopt, saved.deep, servers, changes, altered)


def _done(change: dict[str, Any]) -> dict[str, Any]:
    """What a saved change does, without why it is necessary."""
    return {name: value for name, value in change.items() if name != "cause"}


def _document_digest(names: Iterable[str], changes: Iterable[dict[str, Any]]) -> str:
    by_server: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for change in changes:
        by_server.setdefault(change["server"], []).append(change)
    return _digest(_server_digest(name, entries) for name, entries in by_server.items())


def diff(
    desired: Iterable[Resource], live: Iterable[Resource], adopt: frozenset[str] = frozenset()
) -> tuple[Change, ...]:
    """The changes that turn `live` into `desired`, in the order in which they have to be made.

    Laws (tests/properties): ``diff(x, x)`` is empty; applying ``diff(d, l)`` to ``l`` gives ``d`` plus what is not
    ours; the order of the input does not matter.

    Args:
        adopt: apps whose unmarked resources are taken over (an update that writes the mark) instead of refused.

    An app with a conflict gets its conflicts and nothing else: half of its changes would be of no use to anybody.
    What exists and is no longer desired is left alone, except edges (a membership, a grant), whose surplus is a hole.
    """
    desired_by_key = {resource.key: resource for resource in desired}
    there = {resource.key: resource for resource in live}
    changes = [
        change for key, want in desired_by_key.items() if (change := _compare(want, there.get(key), adopt)) is not None
    ]
    changes += [
        Change(Action.DELETE, None, have) for key, have in there.items() if have.edge and key not in desired_by_key
    ]
    return in_order(without_half_apps(changes))


def added(desired: Iterable[Resource], live: Iterable[Resource], apps: frozenset[str]) -> tuple[Resource, ...]:
    """`desired` as far as nothing is taken from what `live` has and multidb has not made: of the apps named, what is
    there without a mark is left, what they have too much stays, and what is not multidb's is given nothing.
    """
    there, listed = {resource.key: resource for resource in live}, list(desired)
    keys = {resource.key for resource in listed}
    unmarked = {key for key, resource in there.items() if resource.marked and resource.owner is None}
    merged: list[Resource] = []
    for want in listed:
        have = there.get(want.key)
        if want.app not in apps or (want.marked and have is not None and have.owner is not None):
            merged.append(want)
        elif have is not None:
            beside = want.added_to(have)
            merged += [] if beside is None else [beside]
        elif want.holder not in unmarked:
            merged.append(want)
    surplus = [have for have in there.values() if have.edge and have.key not in keys and have.app in apps]
    return (*merged, *surplus)


def without_half_apps(changes: Iterable[Change]) -> list[Change]:
    """`changes` without those of an app that also has a conflict; the conflicts stay."""
    kept = list(changes)
    refused = {change.resource.app for change in kept if change.action is Action.CONFLICT}
    return [change for change in kept if change.action is Action.CONFLICT or change.resource.app not in refused]


def in_order(changes: Iterable[Change]) -> tuple[Change, ...]:
    """The order in which changes are made: by rank; within it, a hole is closed before anything is built beside it."""
    return tuple(sorted(changes, key=_order))


def plain(value: object) -> Any:
    """A field's value as JSON can hold it: sets sorted, dataclasses as mappings, enumerations by value."""
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in sorted(value.items())}
    if isinstance(value, frozenset | set):
        return sorted((plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def change_document(change: Change) -> dict[str, Any]:
    """A change as plain JSON values; statements as they are sent, with secrets as parameters."""
    return {
        "action": change.action.value,
        "store": change.store,
        "server": change.server,
        "kind": change.resource.kind,
        "name": change.resource.name,
        "app": change.resource.app,
        "fields": [{"field": f.field, "old": plain(f.old), "new": plain(f.new)} for f in change.fields],
        "statements": [{"text": s.text, "scope": s.scope} for s in change.statements],
        **({"reason": change.reason} if change.reason else {}),
    }


def _covered(planned: Iterable[Mapping[str, Any]], fresh: Iterable[Mapping[str, Any]]) -> bool:
    """See `ServerPlan.covers`; of documents."""
    (ours, shared), (theirs, left) = _by_subject(planned), _by_subject(fresh)
    return ours == theirs and all(change in shared for change in left)


def _by_subject(changes: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """What is about an app, and what is about the server as a whole."""
    ordered = list(changes)
    return [change for change in ordered if change["app"] is not None], [
        change for change in ordered if change["app"] is None
    ]


def _server_digest(server: str, changes: list[dict[str, Any]]) -> str:
    text = json.dumps(changes, sort_keys=True)
    return hashlib.sha256(f"{server}\n{text}".encode()).hexdigest()


def _digest(of_servers: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(of_servers).encode()).hexdigest()


def _move_document(server: ServerPlan, move: Move) -> dict[str, Any]:
    return {
        "app": move.app.id,
        "store": server.store,
        "server": server.server,
        "from": move.source_title,
        "to": move.destination_title,
        "size": move.size,
        "obstacles": list(move.obstacles),
        "mentions": list(move.mentions),
        "command": move.command,
    }


def _server_document(server: ServerPlan) -> dict[str, Any]:
    return {
        "server": server.server,
        "store": server.store,
        "version": server.version,
        "digest": server.digest,
        "isolation": {app: {"level": level.value, "why": why} for app, (level, why) in server.isolation.items()},
        "error": server.error.document() if server.error else None,
        "skipped": server.skipped or None,
        "unread": {app: error.document() for app, error in server.unread.items()},
        "notes": list(server.notes),
    }


def _compare(want: Resource, have: Resource | None, adopt: frozenset[str]) -> Change | None:
    if have is None:
        return Change(Action.CREATE, want, None)
    if reason := _foreign(want, have, adopt):
        return Change(Action.CONFLICT, want, have, reason=reason)
    fields = tuple(_differences(want, have))
    if fixed := [field for field in fields if field.field in want.immutable]:
        return Change(Action.CONFLICT, want, have, tuple(fixed), reason=_unchangeable(want, fixed))
    return Change(Action.UPDATE, want, have, fields) if fields else None


def _foreign(want: Resource, have: Resource, adopt: frozenset[str]) -> str:
    if not want.marked or have.owner == want.owner:
        return ""
    if have.owner is not None:
        return f"{have.kind} {have.name} belongs to {have.owner}, which another manifest manages"
    if want.app in adopt:
        return ""
    return f"{have.kind} {have.name} exists already and multidb did not make it"


def _unchangeable(want: Resource, fields: Iterable[FieldChange]) -> str:
    what = "; ".join(f"{f.field} is {_words(f.old)}, the manifest wants {_words(f.new)}" for f in fields)
    ways = f". {want.ways_out}" if want.ways_out else ""
    return f"{want.kind} {want.name} cannot be changed in place: {what}{ways}"


def _words(value: object) -> str:
    """A field's value as a person reads it in a sentence."""
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


def _differences(want: Resource, have: Resource) -> Iterator[FieldChange]:
    if want != have:
        old = have.compared()
        for name, value in want.compared().items():
            if old[name] != value:
                yield FieldChange(name, old[name], value)


def _order(change: Change) -> tuple[int, int, str, str]:
    resource = change.resource
    return (resource.rank, 0 if change.action is Action.DELETE else 1, resource.app or "", resource.name)


class _SavedPart(Document, extra="allow"):
    """A server or a change: only where it is matters here, the rest is compared by its digest."""

    server: str
    store: str


class _SavedDocument(Document, extra="allow"):
    """What else stands in it is for whoever reads it."""

    version: Literal[1]
    command: Literal["plan"]
    adopt: list[str]
    apps: list[str] | None
    stores: list[str] | None
    deep: bool
    project: str
    digest: Sha256
    counts: dict[str, JsonValue]
    servers: list[_SavedPart]
    changes: list[_SavedPart]


_SAVED: Final = TypeAdapter(_SavedDocument)


def refuse_conflicts(plan: Plan, *, adopt: str = _ADOPT, rename: str = _RENAME) -> None:
    """`Conflict` when something in the plan is in the way that is not ours, with what to do about it.

    Args:
        adopt: how `app` takes over what exists.
        rename: how it gets another name.
    """
    if plan.conflicts:
        raise conflict_error(plan.conflicts, adopt, rename)


def conflict_error(
    conflicts: Sequence[Change],
    adopt: str = _ADOPT,
    rename: str = _RENAME,
    *,
    hint: str = "",
) -> Conflict:
    """What is in the way of these changes, with what to do about it: `hint`, or else as for `refuse_conflicts`."""
    return Conflict(
        "; ".join(dict.fromkeys(change.reason for change in conflicts)),
        where=", ".join(dict.fromkeys(f"server {change.server}" for change in conflicts)),
        hint=hint or "; ".join(dict.fromkeys(_way_out(change, adopt, rename) for change in conflicts)),
    )


def _way_out(conflict: Change, adopt: str, rename: str) -> str:
    """What to do about a conflict: each kind has its own way, and none that the next command would refuse."""
    app, want, have = conflict.resource.app, conflict.desired, conflict.live
    if any(field.old == LOST for field in conflict.fields):
        return f"restore the file, or make new credentials: multidb apply --regenerate {app}"
    if want is None or have is None or have.owner == want.owner:
        return f"the server is as it was; change {app} in the manifest to fit it"
    if have.owner is not None:
        return f"{rename.format(app=app)}, or have {have.owner.project} let go of it first"
    return f"take it over: {adopt.format(app=app)}; or {rename.format(app=app)}"
