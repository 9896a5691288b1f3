"""The files of a manifest, brought together in one tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from collections.abc import Mapping as MappingType
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from multidb.document import digest
from multidb.errors import ManifestError, Problem, UsageError
from multidb.manifest.document import (
    Entry,
    Mapping,
    Node,
    Position,
    Scalar,
    Sequence,
    compose,
    decode,
    over,
    read,
    tree,
)
from multidb.manifest.schema import VERSION

__all__ = ["ManifestFiles", "mapping_or_empty"]

_MOST_FILES: Final = 20_000  # that one include pattern may bring in


class ManifestFiles:
    """The files of a manifest, brought together in one tree."""

    def __init__(self, path: Path, problems: list[Problem], texts: MappingType[Path, str]) -> None:
        self._path = path
        self._problems = problems
        self._texts = {file.resolve(): text for file, text in texts.items()}
        self.digests: dict[str, str] = {}  # of what was read, by the file's name

    def _read(self, path: Path, name: str) -> tuple[Node | None, list[Problem]]:
        """The tree of a file, and what is wrong with it. `UsageError` and `ManifestError` where there is none."""
        drafted = self._texts.get(path.resolve()) if self._texts else None
        raw = read(path, name) if drafted is None else drafted.encode()
        self.digests[name] = digest(raw)
        text = decode(raw, name)
        return tree(compose(text, name), text, name)

    def tree(self, overlay: str | None) -> Mapping:
        """All of the manifest, with the overlay of that name laid over it. Raises as `load` does."""
        base = self._top(self._path, "multidb init writes one")
        top = (
            base if overlay is None else self._top(self._overlay(overlay), "environments are files beside the manifest")
        )
        merged = over(base, top)
        assert isinstance(merged, Mapping)
        if (entry := top.entries.get("secrets")) is not None and not _same_keys(base.get("secrets"), entry.value):
            merged = merged.with_value("secrets", entry.value)  # another kind: not both
        # An overlay changes included apps too, so they come in below it.
        apps = self._with_included(_section(base, "apps", self._problems), merged)
        return merged.with_value("apps", apps if overlay is None else over(apps, _section(top, "apps", self._problems)))

    def _overlay(self, name: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise UsageError(f'"{name}" is not the name of an environment', hint="letters, digits, _ and -: prod")
        return self._path.with_name(f"{self._path.stem}.{name}{self._path.suffix}")

    def _top(self, path: Path, hint: str) -> Mapping:
        if not path.exists() and path.resolve() not in self._texts:
            raise UsageError("there is no such manifest", where=str(path), hint=_above(path) or hint)
        node, problems = self._read(path, str(path))
        start = Position(str(path), 1, 1)
        if node is None:
            raise ManifestError(
                problems or [start.problem("the manifest is empty", f'Begin with "version: {VERSION}".')]
            )
        self._problems += problems
        if not isinstance(node, Mapping):
            kind = "a list" if isinstance(node, Sequence) else "one value"
            raise ManifestError(
                [*problems, node.place.problem(f"the manifest is {kind}", f'Begin with "version: {VERSION}".')]
            )
        return Mapping(node.entries, start)

    def _with_included(self, apps: Mapping, top: Mapping) -> Mapping:
        entries = dict(apps.entries)
        for file, name in self._included(top):
            for app_id, entry in self._entries_of(file, name).items():
                if (first := entries.get(app_id)) is None:
                    entries[app_id] = entry
                    continue
                for one, other in ((first, entry), (entry, first)):
                    self._problems.append(
                        one.key.place.problem(f"app {app_id} stands in two files; the other is {other.key.place}")
                    )
        return Mapping(entries, apps.place)

    def _entries_of(self, file: Path, name: str) -> MappingType[str, Entry]:
        try:
            node, problems = self._read(file, name)
        except ManifestError as error:
            self._problems += error.problems
            return {}
        except UsageError as error:
            self._problems.append(Position(name, 1, 1).problem(error.message))
            return {}
        self._problems += problems
        if node is None:
            return {}
        if not isinstance(node, Mapping):
            self._problems.append(node.place.problem("an included file maps app ids to their entries: lernmi: {}"))
            return {}
        for section in ("version", "apps"):
            if (entry := node.entries.get(section)) is not None:
                self._problems.append(
                    entry.key.place.problem(
                        f'"{section}" has no place in an included file', "Write the app's id at the top: lernmi: {}."
                    )
                )
                return {}
        return node.entries

    def _included(self, top: Mapping) -> Iterator[tuple[Path, str]]:
        """The included files with the names that problems give them, each once, in the order of patterns and names."""
        listed = top.get("include")
        seen: set[Path] = {self._path.resolve()}
        for pattern in listed.items if isinstance(listed, Sequence) else ():
            if not (isinstance(pattern, Scalar) and isinstance(pattern.value, str)):
                continue  # the schema says so
            for file in self._matching(pattern.value, pattern.place):
                if (real := file.resolve()) not in seen:
                    seen.add(real)
                    yield file, str(file)

    def _matching(self, pattern: str, place: Position) -> list[Path]:
        root = self._path.parent
        parts = PurePosixPath(pattern).parts
        if not parts or pattern.startswith("/") or ".." in parts:
            self._problems.append(
                place.problem(
                    f'"{pattern[:80]}" leaves the folder of the manifest', "Name files inside it: apps/*/app.yaml."
                )
            )
            return []
        try:
            files = sorted(islice((file for file in root.glob(pattern) if file.is_file()), _MOST_FILES + 1))
        except (ValueError, OSError, IndexError, NotImplementedError, re.error):
            self._problems.append(
                place.problem(f'"{pattern[:80]}" is not a file pattern', "For example: apps/*/app.yaml.")
            )
            return []
        if len(files) > _MOST_FILES:
            self._problems.append(place.problem(f'"{pattern[:80]}" matches more than {_MOST_FILES:,} files'))
            return []
        if not files and not re.search(r"[*?\[]", pattern):
            self._problems.append(place.problem(f'there is no file "{pattern[:80]}"'))
        inside = root.resolve()
        outside = [file for file in files if not file.resolve().is_relative_to(inside)]
        for file in outside:
            self._problems.append(place.problem(f"{file} is a link that leaves the folder of the manifest"))
        return [file for file in files if file not in outside]


def _section(top: Mapping, name: str, problems: list[Problem]) -> Mapping:
    """A section that has to be a mapping; one that is not is a problem and counts as empty."""
    entry = top.entries.get(name)
    if entry is None:
        return Mapping({}, top.place)
    tree = mapping_or_empty(entry)
    if tree is None:
        problems.append(entry.value.place.problem(f"{name} must be a mapping", "For example: apps: {lernmi: {}}."))
    return tree or Mapping({}, entry.key.place)


def _same_keys(one: Node | None, other: Node) -> bool:
    return isinstance(one, Mapping) and isinstance(other, Mapping) and one.entries.keys() == other.entries.keys()


def mapping_or_empty(entry: Entry) -> Mapping | None:
    """The mapping under a key, an empty one where nothing stands; None for anything else."""
    if isinstance(entry.value, Scalar) and entry.value.value is None:
        return Mapping({}, entry.key.place)
    return entry.value if isinstance(entry.value, Mapping) else None


def _above(path: Path) -> str | None:
    """The hint for a command that was run in a subfolder of its project."""
    if path.name != str(path):  # the user said which one
        return None
    folders = Path.cwd().parents
    above = next(((depth, folder) for depth, folder in enumerate(folders, 1) if (folder / path).is_file()), None)
    return above and f"there is one in {above[1]}; run the command there, or with -f {'../' * above[0]}{path}"
