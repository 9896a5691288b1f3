"""YAML text -> a tree in which every key and value knows its file, line and column.

Only what YAML 1.1 and 1.2 read alike is read as a number or a truth value: ``yes``, ``010``, ``1_000`` and ``22:22``
stay text here, so a port pair or a country code means the same to every reader. Anchors, aliases and merge keys
(``<<``) work; tags (``!x``) do not. Size, depth and expansion are bounded, so no file can exhaust the machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import yaml

from multidb.errors import ManifestError, Problem, UsageError

__all__ = [
    "Entry",
    "Mapping",
    "Node",
    "Position",
    "Scalar",
    "Sequence",
    "compose",
    "decode",
    "from_plain",
    "over",
    "plain",
    "read",
    "tree",
]

_LARGEST: Final = 8 * 1024 * 1024  # bytes
_DEEPEST: Final = 50
_TOO_DEEP: Final = f"nests more than {_DEEPEST} levels deep"
_MOST_NODES: Final = 200_000  # ten thousand apps with options, and far below what an alias bomb wants

# libyaml is about ten times as fast; a wheel may come without it.
_FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FORBIDDEN = re.compile("[^\t\n\r -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_LINE_BREAK = re.compile("\r\n|\n|\r")
_TAG = "tag:yaml.org,2002:"
_READABLE_TAGS = frozenset(
    _TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
)
_COLLECTION_TAGS = frozenset((_TAG + "map", _TAG + "seq"))
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{1,18}")


class _Loader(_FastLoader):  # type: ignore[misc]
    """A loader that stops at deep nesting, where libyaml's own recursion would end the process.

    The two methods are called around every node; what PyYAML uses them for, path resolvers, is not in use here.
    """

    _depth = 0

    def descend_resolver(self, current_node: yaml.Node | None, current_index: object) -> None:
        self._depth += 1
        if self._depth > _DEEPEST and current_node is not None:
            raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=current_node.start_mark)

    def ascend_resolver(self) -> None:
        self._depth -= 1


class Position(NamedTuple):
    """A position in a file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def problem(self, message: str, suggestion: str | None = None) -> Problem:
        """A mistake found here."""
        return Problem(self.file, self.line, self.column, message, suggestion)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value; `text` is how it was written, without quotes. `worded`: it is text to every YAML reader."""

    value: str | int | float | bool | None
    text: str
    place: Position
    worded: bool = True


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]
    place: Position


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its value. Keys are always text, whatever YAML would make of them."""

    key: Scalar
    value: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    entries: MappingType[str, Entry]
    place: Position

    def get(self, key: str) -> Node | None:
        """The value under `key`; None when there is no such key."""
        entry = self.entries.get(key)
        return entry.value if entry else None

    def without(self, *keys: str) -> Mapping:
        return Mapping({key: entry for key, entry in self.entries.items() if key not in keys}, self.place)

    def with_value(self, key: str, value: Node) -> Mapping:
        """The mapping with `key` set to `value`; the key keeps its place, a new one takes the place of the value."""
        old = self.entries.get(key)
        return Mapping(
            {**self.entries, key: Entry(old.key if old else Scalar(key, key, value.place), value)}, self.place
        )


Node: TypeAlias = Scalar | Sequence | Mapping


def read(path: Path, name: str) -> bytes:
    """What is in a file. `name` is how errors call it.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or type(error).__name__}", where=name) from None


def decode(raw: bytes, name: str) -> str:
    """The text of a file; `ManifestError` when it is not UTF-8 text of a sane size. A byte order mark is left out."""
    if len(raw) > _LARGEST:
        raise ManifestError([Position(name, 1, 1).problem(f"is larger than {_LARGEST // 1024**2} MB")])
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        place = _place_of(raw[: error.start].decode("utf-8", "replace"), name)
        raise ManifestError([place.problem("is not UTF-8 text", "Save the file with the encoding UTF-8.")]) from None
    return text


def compose(text: str, name: str) -> yaml.Node | None:
    """The YAML node of the only document in `text`, None when there is none.

    Raises:
        ManifestError: with the one place at which the YAML stops making sense.
    """
    if match := _FORBIDDEN.search(text):
        place = _place_of(text[: match.start()], name)
        raise ManifestError([place.problem(f"the invisible character U+{ord(match.group()):04X} has no place here")])
    try:
        return _composed(text)
    except yaml.MarkedYAMLError as error:
        raise ManifestError([_syntax_problem(error, text, name)]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ManifestError([Position(name, 1, 1).problem(f"not valid YAML: {error}")]) from None


@lru_cache(maxsize=2)  # an edit is read before and after, for what it says and for where it stands
def _composed(text: str) -> yaml.Node | None:
    """The nodes of a text. Nobody may change them."""
    node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    return node


def tree(root: yaml.Node | None, text: str, name: str) -> tuple[Node | None, list[Problem]]:
    """The tree under `root`, the node of `text`, with the problems that YAML itself lets pass: repeated keys, tags,
    keys that are lists."""
    if root is None:
        return None, []
    reader = _TreeReader(name, _place_of(text, name))
    try:
        return reader.node(root, 0), reader.problems
    except _TooLarge as error:
        return None, [*reader.problems, error.place.problem(error.message)]


def plain(node: Node) -> object:
    """The tree as ordinary Python values."""
    if isinstance(node, Mapping):
        return {key: plain(entry.value) for key, entry in node.entries.items()}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return node.value


def from_plain(value: object, place: Position) -> Node:
    """The tree of ordinary Python values, all of it at one place: `plain(from_plain(value, place)) == value`."""
    if isinstance(value, dict):
        entries = {
            str(key): Entry(Scalar(str(key), str(key), place), from_plain(item, place)) for key, item in value.items()
        }
        return Mapping(entries, place)
    if isinstance(value, list):
        return Sequence(tuple(from_plain(item, place) for item in value), place)
    if value is None or isinstance(value, str | int | float | bool):
        return Scalar(value, "" if value is None else str(value), place, isinstance(value, str))
    raise TypeError(f"{type(value).__name__} is nothing that a manifest holds")


def over(base: Node | None, top: Node) -> Node:
    """`top` laid over `base`: mappings merge key by key, anything else replaces, an empty value changes nothing."""
    if base is None:
        return top
    if isinstance(top, Scalar) and top.value is None:
        return base
    if not (isinstance(base, Mapping) and isinstance(top, Mapping)):
        return top
    merged = dict(base.entries)
    for key, entry in top.entries.items():
        old = merged.get(key)
        if old is None:
            merged[key] = entry
        else:
            value = over(old.value, entry.value)
            merged[key] = Entry(entry.key if value is entry.value else old.key, value)
    return Mapping(merged, base.place)


class _TooLarge(Exception):
    def __init__(self, message: str, place: Position) -> None:
        self.message, self.place = message, place


class _TreeReader:
    """One walk over YAML nodes; counts what it makes, since aliases let a short file describe a very large tree."""

    def __init__(self, name: str, end: Position) -> None:
        self.problems: list[Problem] = []
        self._name = name
        self._end = end
        self._made = 0

    def node(self, node: yaml.Node, depth: int) -> Node:
        place = self._place(node)
        self._made += 1
        if depth > _DEEPEST:
            raise _TooLarge(_TOO_DEEP, place)
        if self._made > _MOST_NODES:
            raise _TooLarge(f"holds more than {_MOST_NODES:,} values, counted with every use of an alias", place)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        if node.tag not in _COLLECTION_TAGS:
            self._refuse_tag(node, place)
        if isinstance(node, yaml.SequenceNode):
            return Sequence(tuple(self.node(item, depth + 1) for item in node.value), place)
        return self._mapping(node, place, depth)

    def _mapping(self, node: yaml.Node, place: Position, depth: int) -> Mapping:
        entries: dict[str, Entry] = {}
        merged: list[Mapping] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(self._place(key_node).problem("a key must be a word, not a list or a mapping"))
                continue
            value = self.node(value_node, depth + 1)
            if key_node.tag == _TAG + "merge":
                merged += self._merged(value)
                continue
            key = self._scalar(key_node, self._place(key_node))
            if (first := entries.get(key.text)) is not None:
                self.problems.append(
                    key.place.problem(f'"{key.text}" stands here for the second time; first at {first.key.place}')
                )
                continue
            entries[key.text] = Entry(key, value)
        for base in merged:
            for name, entry in base.entries.items():
                entries.setdefault(name, entry)
        return Mapping(entries, place)

    def _merged(self, value: Node) -> list[Mapping]:
        parts = value.items if isinstance(value, Sequence) else (value,)
        mappings = [part for part in parts if isinstance(part, Mapping)]
        if len(mappings) != len(parts):
            self.problems.append(value.place.problem("<< must name a mapping, or a list of mappings"))
        return mappings

    def _scalar(self, node: yaml.ScalarNode, place: Position) -> Scalar:
        if node.tag not in _READABLE_TAGS:
            self._refuse_tag(node, place)
        return Scalar(_value(node), node.value, place, node.tag == _TAG + "str")

    def _refuse_tag(self, node: yaml.Node, place: Position) -> None:
        tag = node.tag.replace(_TAG, "!!")
        self.problems.append(place.problem(f"the tag {tag} is not supported", "Write the value without it."))

    def _place(self, node: yaml.Node) -> Position:
        # libyaml ends a last line that is not ended, and puts an empty value on the line after it.
        return min(Position(self._name, node.start_mark.line + 1, node.start_mark.column + 1), self._end)


def _value(node: yaml.ScalarNode) -> str | int | float | bool | None:
    text: str = node.value
    kind = node.tag.removeprefix(_TAG)
    if kind == "int" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "float" and _FLOAT.fullmatch(text):
        return float(text)
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return None if kind == "null" else text


_SYNTAX: Final = (
    ("but found another document", "there must be one YAML document in a file", "Remove the second ---."),
    ("undefined alias", "the alias has no anchor before it", None),
    ("mapping values are not allowed", "a mapping cannot begin here", "Check the indentation, or quote the text."),
    ("could not find expected ':'", "a key without a colon", 'Write "key: value".'),
    ("did not find expected key|<block end>|expected <document start>", "the indentation does not fit", None),
    ("node content", "a value is missing, or a bracket is not closed", None),
    ("end of stream|expected ',' or", "a bracket, brace or quote is not closed", None),
    ("exceeded max depth|maximum depth", _TOO_DEEP, None),
)


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, name: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    place = Position(name, mark.line + 1, mark.column + 1) if mark else Position(name, 1, 1)
    end = _place_of(text, name)
    place = min(place, end)
    problem = error.problem or error.context or "a mistake"
    lines = _LINE_BREAK.split(text)
    if lines[place.line - 1][place.column - 1 : place.column] == "\t":
        return place.problem("not valid YAML: a tab cannot indent", "Use spaces")
    for pattern, message, suggestion in _SYNTAX:
        if re.search(pattern, problem):
            return place.problem(f"not valid YAML: {message}", suggestion)
    return place.problem(f"not valid YAML: {problem}")


def _place_of(before: str, name: str) -> Position:
    """The place right after `before`."""
    lines = _LINE_BREAK.split(before)
    return Position(name, len(lines), len(lines[-1]) + 1)
