"""How an app's resources were when they were last as the manifest asked for them, so that a plan can say what has
changed since: the server, or what is asked for.

Every plan and apply that looks inside the apps' databases writes it down beside the state, a text for each server, as a
digest for each resource. Losing it costs the answer until the next plan or apply.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from pydantic import TypeAdapter

from multidb.document import Unreadable, parse
from multidb.errors import MultidbError
from multidb.model import Action, Cause, Change, Resource
from multidb.plan import plain
from multidb.state import ProjectState
from multidb.validation import validated

__all__ = ["Baseline"]

_LARGEST: Final = 64 * 1024**2  # bytes; of 1,000 apps on one server it has less than one million
_DIGITS: Final = 16  # of a digest: it is compared with one other
_SHAPE: Final = TypeAdapter(dict[str, dict[str, str]])

Digests = Mapping[str, Mapping[str, str]]
"""By app (empty: the server as a whole) and resource."""


class Baseline:
    """That of one server."""

    def __init__(self, state: ProjectState, server: str) -> None:
        self._file = state.file(f"baseline/{server}.json")
        self._digests: Digests = {}
        with suppress(MultidbError):  # a plan does without
            self._digests = _digests(self._file.read())

    def explained(self, change: Change) -> Change:
        """The change with why it is necessary, where that is known."""
        if change.action is Action.CONFLICT or change.resource.step:
            return change
        return replace(change, cause=self._cause(change))

    def _cause(self, change: Change) -> Cause | None:
        resource = change.resource
        if (resource.app or "") not in self._digests:
            return None
        digest = self._digests[resource.app or ""].get(_name(resource))
        if digest is None:  # it is new
            return Cause.MANIFEST if change.live is None else Cause.SERVER if change.desired is None else None
        asked = change.desired is not None and _digest(change.desired) == digest
        there = change.live is not None and _digest(change.live) == digest
        if asked == there:
            return None if asked else Cause.BOTH
        return Cause.SERVER if asked else Cause.MANIFEST

    def learn(self, resources: Iterable[Resource], changes: Collection[Change], read: Collection[str]) -> None:
        """Writes down what stands on the server as it is asked for. What is to be changed stays as it was known, and
        so does an app with a conflict: the plan does not say what else of it would be changed.

        Args:
            resources: the desired ones.
            read: the apps that were read; what is known of them and is no longer asked for is forgotten.
        """
        left = {change.resource.key for change in changes}
        in_conflict = {change.resource.app for change in changes if change.action is Action.CONFLICT}
        asked = [
            resource
            for resource in resources
            if resource.key not in left and not resource.step and resource.app not in in_conflict
        ]
        compared = {app for app in read if app not in in_conflict}
        self._change(lambda known: _learned(known, asked, changes, compared))

    def forget(self, app: str) -> None:
        """Forgets what is known of an app that is gone: another may take its name. With it goes what is known of the
        server as a whole, which its end may have changed; the next look at the server writes that down again."""
        self._change(lambda known: {name: digests for name, digests in known.items() if name not in (app, "")})

    def _change(self, after: Callable[[Digests], Digests]) -> None:
        def changed(text: str | None) -> str | None:
            known = _digests(text)
            self._digests = after(known)
            if self._digests == known:
                return None
            return json.dumps(self._digests, sort_keys=True, separators=(",", ":")) + "\n"

        with suppress(MultidbError):  # a plan does without
            self._file.change(changed)


def _digests(text: str | None) -> Digests:
    """What a text says; nothing where it makes no sense."""
    with suppress(Unreadable):
        return validated(parse(text or "{}", _LARGEST), _SHAPE)
    return {}


def _learned(known: Digests, asked: Iterable[Resource], changes: Collection[Change], read: Collection[str]) -> Digests:
    """What is known, with what stands as it is asked for."""
    settled: dict[str, dict[str, str]] = {app: {} for app in read}
    for resource in asked:
        app = resource.app or ""
        if not app or app in settled:
            settled.setdefault(app, {})[_name(resource)] = _digest(resource)
    for change in changes:
        app, name = change.resource.app or "", _name(change.resource)
        digest = known.get(app, {}).get(name)
        if digest is not None and app in settled:
            settled[app][name] = digest
    whole = {**known.get("", {}), **settled.pop("", {})}
    return {**known, **({"": whole} if whole else {}), **settled}


def _name(resource: Resource) -> str:
    return " ".join(resource.key)


def _digest(resource: Resource) -> str:
    return hashlib.sha256(_text(resource.compared()).encode()).hexdigest()[:_DIGITS]


def _text(value: object) -> str:
    """The same for equal values, in every process. A plan of 1,000 apps makes 12,000 of these."""
    if isinstance(value, str):
        return str.__repr__(value)  # a word of an enumeration is equal to the word
    if value is None or isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (frozenset, set)):
        return f"{{{','.join(sorted(map(_text, value)))}}}"
    if isinstance(value, (tuple, list)):
        return f"({','.join(map(_text, value))})"
    if isinstance(value, Mapping):
        return f"[{','.join(sorted(f'{_text(key)}:{_text(item)}' for key, item in value.items()))}]"
    return _text(plain(value))
