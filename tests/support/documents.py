"""Holds what `--json` has printed against the schema that is published for it in docs/json/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "json"

_FORMATS = jsonschema.FormatChecker(formats=())


@_FORMATS.checks("date-time", raises=ValueError)
def _with_its_zone(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def assert_documented(text: str) -> None:
    """Asserts that the text is a document, or one on each line, and that each is as its command's schema says."""
    printed = list(documents(text))
    assert printed, "no document was printed"
    for document in printed:
        wrong = jsonschema.exceptions.best_match(schema(document["command"]).iter_errors(document))
        assert wrong is None, f"{document['command']}: {wrong.json_path}: {wrong.message[:2000]}"


def documents(text: str) -> Iterator[Any]:
    """The documents of a run, which prints one, or one a line where it goes on."""
    if text.startswith("{\n"):
        yield json.loads(text)
    else:
        yield from map(json.loads, text.splitlines())


@cache
def schema(command: str) -> jsonschema.Draft202012Validator:
    """The validator of a command's documents; of what is no command, of failures alone."""
    path = SCHEMAS / f"{command.replace(' ', '-')}.schema.json"
    found = path if path.exists() else SCHEMAS / "failure.schema.json"
    return jsonschema.Draft202012Validator(json.loads(found.read_text()), format_checker=_FORMATS)
