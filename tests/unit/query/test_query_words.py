"""What is a question for which store, before any server is asked."""

from __future__ import annotations

import pytest

from multidb.errors import UsageError
from multidb.provisioners import INCLUDED, provisioner
from multidb.query.languages import languages


def check(store: str, *words: str) -> None:
    querying = provisioner(store).querying
    assert querying is not None
    querying.check(words)


def test_every_language_is_one_of_a_store_that_can_be_asked() -> None:
    assert languages() == {"sql": "postgres", "cypher": "neo4j", "qdrant": "qdrant", "redis": "redis"}
    assert {*languages().values()} == {*INCLUDED}


def test_a_language_in_whose_place_something_else_stands_has_no_flag() -> None:
    assert {*languages({"cypher", "limit"})} == {"sql", "qdrant", "redis"}


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("postgres", ("SELECT 1",)),
        ("neo4j", ("MATCH (n) RETURN n",)),
        ("redis", ("DBSIZE",)),
        ("redis", ("GET 'a b'",)),
        ("redis", ("LRANGE", "a", "0", "-1")),
        ("qdrant", ("count", "notes")),
        ("qdrant", ("count notes",)),
        ("qdrant", ("count", "notes", '{"must": [{"key": "a", "match": {"value": 1}}]}')),
    ],
)
def test_what_can_be_asked(store: str, words: tuple[str, ...]) -> None:
    check(store, *words)


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("postgres", ("SELECT", "1")),
        ("postgres", (" ",)),
        ("postgres", ("SELECT '\0'",)),
        ("neo4j", ("MATCH (n)", "RETURN n")),
        ("neo4j", ("",)),
        ("redis", ("",)),
        ("redis", ("GET 'a",)),
        ("qdrant", ("count",)),
        ("qdrant", ("count", "")),
        ("qdrant", ("scroll", "notes")),
        ("qdrant", ("count", "notes", "{}", "more")),
        ("qdrant", ("count", "notes", "{")),
        ("qdrant", ("count", "notes", "[" * 100_000)),
        ("qdrant", ("count", "notes", "[]")),
        ("qdrant", ("count", "notes", '{"musst": []}')),
        ("qdrant", ("count 'notes",)),
    ],
)
def test_what_is_no_question_is_refused_with_one_that_is(store: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as raised:
        check(store, *words)
    assert raised.value.hint
