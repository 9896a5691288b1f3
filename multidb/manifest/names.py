"""App ids and the names made from them: what is allowed, what is taken, what would fit instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final

from multidb.errors import Problem, UsageError
from multidb.manifest.document import Mapping as Tree
from multidb.manifest.document import Node, Position, Scalar
from multidb.manifest.document import Sequence as Listed
from multidb.manifest.schema import APP_ID, StoreSchema
from multidb.model import App, DerivedName, listed

__all__ = [
    "app_id",
    "check_known",
    "check_names",
    "check_tenants",
    "closest",
    "id_problem",
    "is_app_id",
    "project_name",
]

_RULE: Final = "an app id is 2 to 31 characters a-z, 0-9 and _, begins with a letter and does not end in _"
_LONGEST: Final = 31
_LEAVE: Final = "Leave it out."


def app_id(text: str) -> str:
    """The app id that a person means: ``beep-boop`` is ``beep_boop``.

    Raises:
        UsageError: it is no id even so; the hint has one that would do.
    """
    candidate = text.strip().replace("-", "_")
    if re.fullmatch(APP_ID, candidate):
        return candidate
    raise UsageError(f'"{text}" is not an app id: {_RULE}', hint=f"for example: {_suggested(text)}")


def is_app_id(text: str) -> bool:
    """Whether it can be the id of an app."""
    return re.fullmatch(APP_ID, text) is not None


def project_name(text: str) -> str:
    """A valid project name as near to `text` (a folder's name, say) as can be."""
    word = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_0123456789")[:40].rstrip("_")
    return word if len(word) > 1 else "my_project"


def id_problem(key: Scalar) -> Problem | None:
    """What is wrong with an app id as it stands in the manifest."""
    if not key.worded:
        kind = "a number or a truth value" if key.text else "nothing at all"
        if re.fullmatch(APP_ID, key.text):
            return key.place.problem(f"{key.text} is {kind} to YAML, not a name", f'Quote it: "{key.text}".')
        return key.place.problem(
            f'"{key.text}" is {kind} to YAML, and {_RULE}', f'Did you mean "{_suggested(key.text)}"?'
        )
    if re.fullmatch(APP_ID, key.text):
        return None
    return key.place.problem(
        f'"{_short(key.text)}" is not an app id: {_RULE}', f'Did you mean "{_suggested(key.text)}"?'
    )


def check_tenants(apps: Iterable[App], places: Mapping[str, Position]) -> Iterator[Problem]:
    """Apps that would share a tenant id."""
    holders: dict[str, list[App]] = {}
    for app in apps:
        holders.setdefault(app.tenant_id, []).append(app)
    for tenant, sharing in holders.items():
        for app in sharing if len(sharing) > 1 else ():
            others = _with_places(other for other in sharing if other is not app)
            yield places[app.id].problem(f"app {app.id} has the tenant_id {tenant}, and so has {others}")


def check_names(
    apps: Iterable[App], stores: Mapping[str, StoreSchema], places: Mapping[str, Position]
) -> Iterator[Problem]:
    """Every name that an app would take on a server and may not: too long, reserved, or taken by another app."""
    holders: dict[tuple[str, str], list[tuple[App, DerivedName]]] = {}
    for app in apps:
        for store in app.stores:
            schema = stores[store]
            place = places[app.id]
            names = schema.derived_names(app)
            yield from _reserved(app, schema, names, place)
            for name in names:
                size = len(name.name.encode())
                if size > name.limit:
                    what = name.what or f"a {name.space}"
                    length = f"which is {size} bytes; {store} takes {name.limit}"
                    yield place.problem(
                        f"app {app.id}: {what} would be named {name.name}, {length}",
                        "Choose a shorter name.",
                    )
                holders.setdefault((name.space, name.name), []).append((app, name))
    for (space, taken), sharing in holders.items():
        if len({app.id for app, _ in sharing}) > 1:
            for app, name in sharing:
                others = _with_places(other for other, _ in sharing if other.id != app.id)
                what = name.what or f"a {space} of {app.id}"
                yield places[app.id].problem(
                    f"app {app.id}: {what} would be named {taken}, as would one of {others}", "Rename one of the apps."
                )


def check_known(section: Node | None, apps: Iterable[App], stores: Mapping[str, StoreSchema]) -> Iterator[Problem]:
    """Accounts under ``known`` (whose form is right) that nobody can know: an app's own, multidb's or the server's."""
    apps = list(apps)
    for store, entry in section.entries.items() if isinstance(section, Tree) else ():
        taken = {
            name.name: (app, name) for app in apps if store in app.stores for name in stores[store].derived_names(app)
        }
        items = entry.value.items if isinstance(entry.value, Listed) else ()
        accounts = [(item.text, item.place) for item in items if isinstance(item, Scalar)]
        for position, (account, place) in enumerate(accounts):
            if account in [name for name, _ in accounts[:position]]:
                yield place.problem(f"{account} is listed twice")
            elif account in taken:
                app, name = taken[account]
                what = name.what or f"a {name.space} of {app.id}"
                yield place.problem(f"known.{store}: {account} is {what}, and an app's own is never let off", _LEAVE)
            elif any(fnmatchcase(account, pattern) for pattern in stores[store].own):
                yield place.problem(f"known.{store}: {account} is multidb's own, or the server's", _LEAVE)


def closest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` is most likely a slip for."""
    matches = difflib.get_close_matches(word.lower().replace("-", "_"), list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def _reserved(app: App, schema: StoreSchema, names: Iterable[DerivedName], place: Position) -> Iterator[Problem]:
    for name in dict.fromkeys((app.id, *(name.name for name in names))):
        if any(fnmatchcase(name, pattern) for pattern in schema.reserved):
            subject = f"app {app.id}: " if name != app.id else ""
            other = _suggested("app_" + app.id)
            yield place.problem(
                f"{subject}{name} is a name that {schema.name} keeps for itself",
                f'Choose another id, for example "{other}", or leave {schema.name} out of its stores.',
            )
            return


def _with_places(apps: Iterable[App]) -> str:
    return listed([f"{app.id} ({app.where})" for app in apps])


def _suggested(text: str) -> str:
    """An id that is valid and as near to `text` as can be."""
    word = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if not word or not word[0].isalpha() or len(word) == 1:
        word = f"app_{word or 'one'}"
    return word[:_LONGEST].rstrip("_")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
