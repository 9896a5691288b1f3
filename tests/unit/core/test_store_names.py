"""A store is a folder: outside of it, no line of code knows one by name."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import multidb
from multidb.provisioners import INCLUDED, provisioner

CODE = Path(multidb.__file__).parent
RECORDS = [provisioner(store) for store in INCLUDED]
POOLERS = {pooler.name for record in RECORDS for pooler in record.poolers}
NAMES = {*INCLUDED, *POOLERS, *(record.title.lower() for record in RECORDS), "valkey"}
TABLE = CODE / "provisioners" / "__init__.py"  # which stores come with multidb
TEXT = {tokenize.NAME, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def outside() -> list[Path]:
    """All code but the stores' folders, and what apps import to use one of them."""
    files = (file for file in CODE.rglob("*.py") if file != TABLE)
    own = [*(CODE / "provisioners" / store for store in INCLUDED), CODE / "client"]
    return [file for file in files if not any(file.is_relative_to(folder) for folder in own)]


def named(text: str) -> Iterator[str]:
    """The names and strings that have a store's name in them. A string of several words is a message for people."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        message = token.type != tokenize.NAME and len(token.string.split()) > 1
        if token.type in TEXT and not message and any(name in token.string.lower() for name in NAMES):
            yield f"{token.start[0]}: {token.string}"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('if store == "neo4j": pass', ['1: "neo4j"']),
        ("from multidb.provisioners.redis.hosting import process", ["1: redis"]),
        ("class QdrantKind: pass", ["1: QdrantKind"]),
        ('name = "VALKEY_DB"', ['1: "VALKEY_DB"']),
        ('# postgres\n"""As in Postgres."""\nerror("is Postgres there")', []),
    ],
)
def test_a_name_in_code_is_found_and_one_in_a_sentence_is_not(code: str, found: list[str]) -> None:
    assert list(named(code)) == found


def test_no_code_outside_a_stores_folder_knows_its_name() -> None:
    files = outside()
    assert len(files) > 100
    assert {
        str(file.relative_to(CODE)): found for file in files if (found := list(named(file.read_text(encoding="utf-8"))))
    } == {}


ROOMS = {"provision", "driver", "hosting", "observe", "isolation", "backup"}


@pytest.mark.parametrize("store", INCLUDED)
def test_every_store_has_the_same_rooms_and_one_face(store: str) -> None:
    folder = CODE / "provisioners" / store
    assert {file.stem for file in folder.glob("*.py")} == {"__init__"}
    assert {file.parent.name for file in folder.glob("*/__init__.py")} == ROOMS
