"""The names that completion offers, read from a project's files as they lie there: its manifest, what it remembers, the
folders of its sets. No server is asked and nothing is checked; what cannot be read has no names.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

from multidb.backup.labels import CLONE_OF
from multidb.provisioners import INCLUDED

__all__ = ["LISTED", "Completion", "KnownNames", "Line"]

LISTED: Final = ("answers", "sets.json")  # in .multidb/: the sets that were listed last, by target

_LARGEST: Final = 8 * 1024**2  # bytes of a file; more takes longer than anybody waits
_DEEPEST: Final = 50  # levels of a manifest
_APP: Final = re.compile(r"[a-z][a-z0-9_]{0,29}[a-z0-9]")
_SERVER: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_SET: Final = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)\d\dZ-[0-9a-f]+")
_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]*")
_MOST_SETS: Final = 500


class Completion(NamedTuple):
    """What may be typed, and what it is."""

    value: str
    summary: str


class Line(NamedTuple):
    """What a command line says so far.

    Args:
        file: the manifest.
        overlay: the environment that is laid over it.
        apps: those that were named.
        current: what is typed of the word that is asked for.
    """

    file: str
    overlay: str | None
    apps: tuple[str, ...]
    current: str


class KnownNames:
    """The names of one project. Each of the public methods is a source that `multidb.cli.command_table` names."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._folder = os.path.dirname(line.file)  # noqa: PTH120
        self._read: dict[str, Any] | None = None

    # Apps

    def apps(self) -> Iterator[Completion]:
        """Those of the manifest that the line does not name yet."""
        for app, entry in self._apps().items():
            yield from self._app(app, ", ".join(_texts(entry.get("stores"))))

    def app_lists(self) -> Iterator[Completion]:
        """Those of the manifest, after those that stand there already with commas behind them."""
        listed, comma, _ = self._line.current.rpartition(",")
        named = listed.replace("-", "_").split(",")
        for app, summary in self.apps():
            if app.replace("-", "_") not in named:
                yield Completion(f"{listed}{comma}{app}", summary)

    def removed(self) -> Iterator[Completion]:
        """Those that were taken out and are kept."""
        for app, stone in self._state("removed").items():
            yield from self._app(app, f"removed; kept until {str(_mapping(stone).get('until'))[:10]}")

    def clones(self) -> Iterator[Completion]:
        """Those of the manifest that were made of another app."""
        for app, entry in self._apps().items():
            if original := _mapping(entry.get("labels")).get(CLONE_OF):
                yield from self._app(app, f"a clone of {original}")

    def backed_up(self) -> Iterator[Completion]:
        """Those that may have sets."""
        yield from self.apps()
        yield from self.removed()

    def apps_or_plans(self) -> Iterator[Completion]:
        """Those of the manifest, and the files here that are saved plans."""
        yield from self.apps()
        folder = os.path.dirname(self._line.current)  # noqa: PTH120
        for name in sorted(_listed(folder)):
            path = os.path.join(folder, name)  # noqa: PTH118
            if name.endswith(".json") and '"command": "plan"' in _text(path, 100):
                yield Completion(path, "a saved plan")

    # Stores and servers

    def stores(self) -> Iterator[Completion]:
        """Those of the app that the line names, else every store."""
        entries = [entry for app, entry in self._apps().items() if app in self._line.apps]
        of_apps = [store for entry in entries for store in _texts(entry.get("stores"))]
        if not of_apps:
            from multidb.provisioners import known_stores

            of_apps = list(known_stores())
        for store in of_apps:
            yield Completion(store, "")

    def store_lists(self) -> Iterator[Completion]:
        """The stores, after those that stand there already with commas behind them."""
        listed, comma, _ = self._line.current.rpartition(",")
        for store, summary in self.stores():
            if store not in listed.split(","):
                yield Completion(f"{listed}{comma}{store}", summary)

    def servers(self) -> Iterator[Completion]:
        """Those that are known from an earlier run, or that the manifest's stores will have."""
        names = {
            name[: -len(end)] for of, end in (("access", ".json"), ("logs", ".log")) for name in self._kept(of, end)
        }
        names |= {str(_mapping(process).get("name", "")) for process in self._state("processes").values()}
        if not names:
            names = {store for entry in self._apps().values() for store in _texts(entry.get("stores"))}
        yield from (Completion(name, "") for name in sorted(names) if _SERVER.fullmatch(name))

    # Backups

    def targets(self) -> Iterator[Completion]:
        """Those of the manifest."""
        yield from (Completion(target, "") for target in self._targets())

    def sets(self) -> Iterator[Completion]:
        """Apps, for their newest set, and sets, the newest first; with APP/ typed, that app's."""
        app, slash, _ = self._line.current.rpartition("/")
        if not slash:
            yield from self.backed_up()
        known = {(of, name) for target in self._targets() for of, name in self._sets_in(target)} | self._recorded_sets()
        newest = sorted(known, key=lambda pair: pair[1], reverse=True)
        for of, name in [pair for pair in newest if app in ("", pair[0])][:_MOST_SETS]:
            if made := _SET.fullmatch(name):
                year, month, day, hour, minute = made.groups()
                summary = f"{of}, {year}-{month}-{day} {hour}:{minute} UTC"
                yield Completion(f"{of}/{name}" if slash else name, summary)

    # The rest

    def variables(self) -> Iterator[Completion]:
        """Those of the app that the line names."""
        app = next(iter(self._line.apps), "")
        if not _APP.fullmatch(app):
            return
        kept = _json(self._path(".multidb", "answers", f"app-{app}.json"))
        names = list(_mapping(_mapping(_mapping(kept).get("answer")).get("env")))
        if not names:
            text = _text(self._path("apps", app, ".env.example"))
            names = [line.partition("=")[0] for line in text.splitlines()]
        yield from (Completion(name, "") for name in names if _VARIABLE.fullmatch(name))

    def collections(self) -> Iterator[Completion]:
        """The shapes of those that the project's apps have."""
        shapes: dict[str, str] = {}
        for app, entry in self._apps().items():
            for name, shape in (
                pair for section in _sections(entry) for pair in _mapping(section.get("collections")).items()
            ):
                parts = [name, *(str(_mapping(shape)[key]) for key in ("size", "distance") if key in _mapping(shape))]
                shapes.setdefault(":".join(parts), f"as {app} has it")
        yield from (Completion(shape, summary) for shape, summary in shapes.items())

    def extensions(self) -> Iterator[Completion]:
        """Those that the project's apps have."""
        for entry in self._apps().values():
            for section in _sections(entry):
                yield from (Completion(name, "") for name in _texts(section.get("extensions")))

    def overlays(self) -> Iterator[Completion]:
        """The environments that have a file to be laid over the manifest."""
        stem, suffix = os.path.splitext(os.path.basename(self._line.file))  # noqa: PTH119, PTH122
        for name in sorted(_listed(self._folder)):
            overlay = name[len(stem) + 1 : -len(suffix)]
            if suffix and overlay and name == f"{stem}.{overlay}{suffix}":
                yield Completion(overlay, name)

    # Files

    def _app(self, app: str, summary: str) -> Iterator[Completion]:
        """As the line writes apps, with - or with _."""
        if _APP.fullmatch(app) and app not in self._line.apps:
            yield Completion(app.replace("_", "-") if "-" in self._line.current else app, summary)

    def _path(self, *parts: str) -> str:
        return os.path.join(self._folder, *parts)  # noqa: PTH118

    def _apps(self) -> dict[str, dict[str, Any]]:
        """The entries of the manifest's apps, each with its stores."""
        if self._read is None:
            self._read = self._manifest()
        defaults = {"stores": list(INCLUDED), **_mapping(self._read.get("defaults"))}
        return {app: {**defaults, **_mapping(entry)} for app, entry in _mapping(self._read.get("apps")).items()}

    def _manifest(self) -> dict[str, Any]:
        """The manifest with what it includes and the overlay, section by section."""
        files = [self._line.file]
        if self._line.overlay:
            stem, suffix = os.path.splitext(self._line.file)  # noqa: PTH122
            files.append(f"{stem}.{self._line.overlay}{suffix}")
        merged: dict[str, Any] = {}
        apps: dict[str, Any] = {}
        for file in files:
            document = _yaml(file)
            apps |= _mapping(document.get("apps"))
            merged |= document
        for pattern in _texts(merged.get("include")):
            if not pattern.startswith("/") and ".." not in pattern:
                for file in sorted(glob.glob(self._path(pattern), recursive=True)):  # noqa: PTH207
                    apps = {**_yaml(file), **apps}
        return {**merged, "apps": apps}

    def _state(self, section: str) -> dict[str, Any]:
        return _mapping(_mapping(_json(self._path(".multidb", "state.json"))).get(section))

    def _kept(self, folder: str, end: str) -> Iterator[str]:
        yield from (name for name in _listed(self._path(".multidb", folder)) if name.endswith(end))

    def _targets(self) -> list[str]:
        entries = self._apps().values()
        assert self._read is not None
        shared = _texts(_mapping(self._read.get("backup")).get("to")) or ["backups/"]
        own = [target for entry in entries for target in _texts(_mapping(entry.get("backup")).get("to"))]
        return list(dict.fromkeys([*shared, *own]))

    def _sets_in(self, target: str) -> Iterator[tuple[str, str]]:
        """App and id of each set in a target that is a folder."""
        folder = target.removeprefix("file://")
        if "://" in folder or self._read is None:
            return
        root = self._path(folder, str(self._read.get("project")))
        for app in filter(_APP.fullmatch, _listed(root)):
            for name in filter(_SET.fullmatch, _listed(f"{root}/{app}")):
                if os.path.exists(f"{root}/{app}/{name}/manifest.json"):  # noqa: PTH110
                    yield app, name

    def _recorded_sets(self) -> set[tuple[str, str]]:
        """App and id of those that were written down here, wherever they are."""
        recorded = [(app, _mapping(known)) for app, known in self._state("backups").items()]
        sets = {(app, str(known.get(key))) for app, known in recorded for key in ("newest", "verified_set")}
        listed = _mapping(_json(self._path(".multidb", *LISTED)))
        for target in filter(listed.get, self._targets()):
            sets |= {(app, name) for app, _, name in (path.partition("/") for path in _texts(listed[target]))}
        return sets | {(app, str(_mapping(stone).get("backup"))) for app, stone in self._state("removed").items()}


def _sections(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What an app's entry says of each of its stores."""
    yield from (section for section in entry.values() if isinstance(section, dict))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> list[str]:
    values: Iterable[Any] = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")  # noqa: PTH208
    except OSError:
        return []


def _text(path: str, most: int = _LARGEST) -> str:
    """The beginning of a file; nothing of what is none, such as a pipe, which would keep a person waiting."""
    try:
        if os.path.isfile(path):  # noqa: PTH113
            with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                return file.read(most)
    except OSError:
        pass
    return ""


def _json(path: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(_text(path))
    return None


def _yaml(path: str) -> dict[str, Any]:
    """The mappings, lists and texts of a YAML file, as far as it makes sense. Read event by event: an alias is the very
    thing that it names, so nothing grows, and nothing recurses."""
    import yaml

    root: dict[str, Any] = {}
    open_ones: list[Any] = []
    keys: list[str | None] = []
    anchors: dict[str | None, Any] = {}
    with suppress(yaml.YAMLError, ValueError):
        for event in yaml.parse(_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.CollectionEndEvent):
                open_ones.pop()
                keys.pop()
                continue
            if isinstance(event, yaml.AliasEvent):
                value = anchors.get(event.anchor)
            elif isinstance(event, yaml.ScalarEvent):
                value = event.value
            elif isinstance(event, yaml.CollectionStartEvent):
                value = {} if isinstance(event, yaml.MappingStartEvent) else []
            else:
                continue
            _put(value, open_ones, keys)
            if getattr(event, "anchor", None) and not isinstance(event, yaml.AliasEvent):
                anchors[event.anchor] = value
            if isinstance(event, yaml.CollectionStartEvent):
                if not open_ones and isinstance(value, dict):
                    root = value
                open_ones.append(value)
                keys.append(None)
                if len(open_ones) > _DEEPEST:
                    break
    return root


def _put(value: Any, open_ones: list[Any], keys: list[str | None]) -> None:
    """The value into the innermost of the open mappings and lists; in a mapping a key comes first."""
    if not open_ones:
        return
    holder = open_ones[-1]
    if isinstance(holder, list):
        holder.append(value)
        return
    key = keys[-1]
    if key is None:
        keys[-1] = value if isinstance(value, str) else ""
        return
    if key == "<<" and isinstance(value, dict):
        for name in value:
            holder.setdefault(name, value[name])
    else:
        holder[key] = value
    keys[-1] = None
