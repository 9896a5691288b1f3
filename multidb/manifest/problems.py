"""What pydantic found, told to a person: where it stands in the file, what it must be, what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as MappingType
from collections.abc import Sequence as SequenceType
from typing import Any, Final, NamedTuple

from pydantic_core import ErrorDetails

from multidb.errors import Problem
from multidb.manifest.document import Mapping, Node, Position, Scalar, Sequence
from multidb.manifest.names import closest

__all__ = ["explain"]

_SENTENCES: Final = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "frozen_set_type": "must be a list",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "none_required": "must be empty",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must have the form {pattern}",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have no more than {max_length} entries",
    "finite_number": "must be a number",
    "time_delta_type": "must be a duration such as 30s or 2min",
    "time_delta_parsing": "must be a duration such as 30s or 2min",
    "url_parsing": "must be a URL",
    "url_type": "must be a URL",
    "url_scheme": "must be a URL that begins with {expected_schemes}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}
_SHOWN: Final = 40  # characters of a wrong value that a message repeats
_SILENT: Final = ("external", "notify")  # sections whose values may be secrets written into the wrong place


class _ModelError(NamedTuple):
    """One error of pydantic's, with its way through the tree."""

    error: ErrorDetails
    path: tuple[str | int, ...]
    branch: tuple[int, str] | None  # how deep the first alternative of a union was entered, and which
    place: Position
    node: Node


def explain(
    errors: Iterable[ErrorDetails],
    tree: Node,
    place: Position,
    prefix: tuple[str | int, ...],
    schema: MappingType[str, Any],
) -> Iterator[Problem]:
    """The problems behind pydantic's errors.

    Args:
        tree: what was validated.
        place: where it stands (its key), for what is missing in it.
        prefix: its path from the top of the manifest.
        schema: the JSON Schema of the manifest: which keys there could have been.
    """
    for problem in _likeliest([_locate(error, tree, place) for error in errors]):
        if problem.error["type"] == "too_short" and isinstance(problem.node, Sequence) and problem.node.items:
            continue  # entries that are wrong were not counted; they are told themselves
        path = (*prefix, *problem.path)
        yield problem.place.problem(*_sentence(problem, path, schema))


def _locate(error: ErrorDetails, tree: Node, place: Position) -> _ModelError:
    node, path, branch = tree, [], None
    for position, part in enumerate(error["loc"]):
        if isinstance(node, Mapping) and (entry := node.entries.get(str(part))) is not None:
            node = entry.value
            place = node.place if isinstance(node, Scalar) and error["type"] != "extra_forbidden" else entry.key.place
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            place = node.place
        elif error["type"] == "missing" and position == len(error["loc"]) - 1:
            pass  # what is missing has no place of its own: its parent's
        else:
            branch = branch or (position, str(part))
            continue
        path.append(part)
    return _ModelError(error, tuple(path), branch, place, node)


def _likeliest(problems: list[_ModelError]) -> list[_ModelError]:
    """Of a union's alternatives only the one with the fewest mistakes, a word for a mapping being the worst: the others
    were not meant."""
    kept = [one for one in problems if one.branch is None]
    unions: dict[tuple[object, ...], dict[str, list[_ModelError]]] = {}
    for one in problems:
        if one.branch is not None:
            depth, name = one.branch
            unions.setdefault(one.error["loc"][:depth], {}).setdefault(name, []).append(one)
    for branches in unions.values():
        likeliest: list[_ModelError] = min(branches.values(), key=lambda branch: (_wants_words(branch), len(branch)))
        kept += likeliest
    return kept


def _wants_words(branch: list[_ModelError]) -> bool:
    """Whether a word was wanted where a mapping stands."""
    words = ("literal_error", "string_type")
    return any(one.error["type"] in words and isinstance(one.node, Mapping) for one in branch)


def _sentence(
    problem: _ModelError, path: tuple[str | int, ...], schema: MappingType[str, Any]
) -> tuple[str, str | None]:
    error, subject = problem.error, _subject(path)
    if error["type"] == "extra_forbidden":
        return _unknown_key(path, schema)
    if error["type"] == "missing":
        parent = _subject(path[:-1])
        return f"{path[-1]} is missing" + (f" from {parent}" if parent else ""), _described(schema, path)
    context: dict[str, Any] = error.get("ctx", {})
    forms = [str(part["pattern"]) for part in _parts(schema, path) if "pattern" in part]
    custom = next((str(part["errorMessage"]) for part in _parts(schema, path) if "errorMessage" in part), None)
    if custom and error["type"] in ("string_pattern_mismatch", "string_type", "literal_error"):
        sentence = custom
    elif error["type"] in ("value_error", "assertion_error"):
        sentence = str(context.get("error") or error["msg"].partition(", ")[2] or "is not right")
    elif (pattern := _SENTENCES.get(error["type"])) is not None:
        sentence = pattern.format_map(_Context(context))
    else:
        sentence = re.sub(r"^(Input|Value|String|List) should (be|have|match)", r"must \2", error["msg"])
    text = f"{subject} {sentence}" if re.match(r"(must|is|has|cannot)\b", sentence) else _prefixed(subject, sentence)
    shown = _shown(problem.node, path)
    suggestion = None
    if error["type"] in ("literal_error", "enum"):
        choices = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        near = closest(str(problem.node.value), choices) if isinstance(problem.node, Scalar) else None
        suggestion = f'Did you mean "{near}"?' if near else None
    elif error["type"] == "string_type" and shown and all(re.search(form, shown) for form in forms):
        suggestion = f'Put it in quotes: "{shown}".'
    if shown and not re.search(rf"\b{re.escape(shown)}\b", text):
        text += f", not {shown}"
    return text, suggestion


class _Context(dict[str, Any]):
    """What a sentence is filled with; what pydantic did not say is left out."""

    def __missing__(self, key: str) -> str:
        return "something else"


def _prefixed(subject: str, sentence: str) -> str:
    return sentence if sentence.startswith(subject) else f"{subject}: {sentence}"


def _subject(path: SequenceType[str | int]) -> str:
    """What a message calls the thing at `path`: its key, and for an item of a list the list's key."""
    names = [part for part in path if isinstance(part, str)]
    if not names:
        return ""
    return names[-1] if isinstance(path[-1], str) else f"an entry of {names[-1]}"


def _shown(node: Node, path: SequenceType[str | int]) -> str:
    if not isinstance(node, Scalar) or (path and path[0] in _SILENT):
        return ""
    return node.text if 0 < len(node.text) <= _SHOWN else ""


def _unknown_key(path: tuple[str | int, ...], schema: MappingType[str, Any]) -> tuple[str, str | None]:
    key, parent = str(path[-1]), _subject(path[:-1])
    known = sorted({name for part in _parts(schema, path[:-1]) for name in part.get("properties", {})})
    near = closest(key, known)
    listed = f"Known here: {', '.join(known)}." if known else None
    suggestion = f'Did you mean "{near}"?' if near else listed
    return f'unknown key "{key[:60]}"' + (f" in {parent}" if parent else ""), suggestion


def _described(schema: MappingType[str, Any], path: tuple[str | int, ...]) -> str | None:
    text = next((str(part["description"]) for part in _parts(schema, path) if "description" in part), None)
    return f"({text.rstrip('.')})" if text else None


def _parts(schema: MappingType[str, Any], path: SequenceType[str | int]) -> list[MappingType[str, Any]]:
    """The parts of a JSON Schema that may describe the value at `path`."""
    parts = _alternatives(schema, schema)
    for step in path:
        following: list[MappingType[str, Any]] = []
        for part in parts:
            if isinstance(step, int):
                below = part.get("items")
            else:
                below = part.get("properties", {}).get(step) or part.get("additionalProperties")
            if isinstance(below, dict):
                following += _alternatives(schema, below)
        parts = following
    return parts


def _alternatives(schema: MappingType[str, Any], part: MappingType[str, Any]) -> list[MappingType[str, Any]]:
    branches = [part]
    for below in (*part.get("anyOf", ()), *part.get("oneOf", ()), *part.get("allOf", ())):
        branches += _alternatives(schema, below)
    if "$ref" in part:
        branches += _alternatives(schema, schema["$defs"][str(part["$ref"]).removeprefix("#/$defs/")])
    return branches
