"""Names and statements that come from a database, as Cypher text. Real servers judge them in the contract suite."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb.provisioners.neo4j.provision.cypher import CYPHER_25, makes_schema, quoted, requoted

ENDS = "x\\u0060) DETACH DELETE n //"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Person", "`Person`"),
        ("päß 漢字 🙂", "`päß 漢字 🙂`"),
        ("a`b", "`a``b`"),
        (ENDS, "`x\\u005cu0060) DETACH DELETE n //`"),
        ("a\nb\u2028\u202ec\t", "`a\\u000ab\\u2028\\u202ec\\u0009`"),
        ("\\", "`\\u005c`"),
    ],
)
def test_a_name_is_one_name_on_one_line(name: str, text: str) -> None:
    assert quoted(name) == text


@given(st.text(min_size=1))
def test_no_name_ends_before_its_end(name: str) -> None:
    text = quoted(name)
    inside = text[1:-1].replace("``", "")
    assert "`" not in inside
    assert not any(line != text for line in text.splitlines())
    assert makes_schema(f"CREATE INDEX {text} FOR (n:{text}) ON (n.{text})")


@given(st.lists(st.text(min_size=1), min_size=3, max_size=3))
def test_the_servers_text_is_quoted_anew(names: list[str]) -> None:
    name, label, key = (f"`{each.replace('`', '``')}`" for each in names)  # as the server writes them
    index = f"CREATE RANGE INDEX {name} FOR (n:{label}) ON (n.{key})"
    ours = [quoted(each) for each in names]
    assert requoted(index) == f"CREATE RANGE INDEX {ours[0]} FOR (n:{ours[1]}) ON (n.{ours[2]})"


def test_what_stands_in_a_string_is_no_name() -> None:
    options = "OPTIONS {indexConfig: {`fulltext.analyzer`: 'a`\\\\u0060',`b`: false}}"
    assert requoted(options) == options


@pytest.mark.parametrize(
    "text",
    [
        "CREATE CONSTRAINT `c` FOR (n:`P`) REQUIRE (n.`a`, n.`b`) IS UNIQUE",
        "CREATE CONSTRAINT `c` FOR ()-[r:`R`]-() REQUIRE (r.`a`) IS NOT NULL",
        "CREATE CONSTRAINT `c` FOR (n:`P`) REQUIRE (n.`a`) IS :: LIST<FLOAT NOT NULL> | ZONED DATETIME",
        "CREATE CONSTRAINT `c` FOR (n:`P`) REQUIRE (n.`a`) IS RELATIONSHIP KEY",
        "CREATE POINT INDEX `i` FOR ()-[r:`R`]-() ON (r.`p`) OPTIONS {indexConfig: {`wgs-84.min`: [-180.0, 1e5]}}",
        "CREATE FULLTEXT INDEX `i` FOR (n:`A`|`B`) ON EACH [n.`a`] OPTIONS {indexConfig: {`a`: 'b',`c`: false}}",
        "CREATE VECTOR INDEX `i` FOR (n:`A`) ON (n.`a`) OPTIONS {indexConfig: {`vector.dimensions`: 3}}",
        "CREATE INDEX `a\\u005cu0060 //` FOR (n:`A`) ON (n.`a`)",
    ],
)
def test_what_makes_a_constraint_or_an_index(text: str) -> None:
    assert makes_schema(text)


@pytest.mark.parametrize(
    "text",
    [
        "CREATE (n)",
        "MATCH (n) DETACH DELETE n",
        "CREATE INDEX `i` FOR (n:`A`) ON (n.`a`); MATCH (n) DETACH DELETE n",
        f"CREATE INDEX `{ENDS}` FOR (n:`A`) ON (n.`a`)",
        "CREATE INDEX `i` FOR (n:`A`) ON (n.`a`) // `",
        "CREATE INDEX `i` FOR (n:`A`) ON (n.`a`) /* */",
        "CREATE INDEX i FOR (n:`A`) ON (n.`a`)",
        "CREATE INDEX `i` FOR (n:`A`) ON (n.`a`) OPTIONS {indexProvider: $password}",
        "CREATE INDEX `i` FOR (n:`A`) ON (n.`a`) OPTIONS {indexProvider: '\\u0027'}",
        "CREATE INDEX `i` FOR (n:`A`) ON (n.`a`) CREATE (n)",
        "CREATE INDEX `i` FOR (n:`A",
        "CREATE INDEX `` FOR (n:`A`) ON (n.`a`)",
        "create index `i` for (n:`A`) on (n.`a`)",
    ],
)
def test_what_does_something_else(text: str) -> None:
    assert not makes_schema(text)


def test_a_text_of_cypher_25_is_one_that_makes_a_schema_and_no_other_prefix_is() -> None:
    text = (
        "CREATE VECTOR INDEX `v` FOR (n:`A`|`B`) ON (n.`e`) WITH [n.`a`] OPTIONS {indexConfig: {`vector.hnsw.m`: 16}}"
    )
    assert makes_schema(f"{CYPHER_25}{text}")
    assert makes_schema(requoted(f"{CYPHER_25}{text}"))
    for prefix in (CYPHER_25 * 2, "CYPHER 5 ", "CYPHER 25 runtime=slotted ", "PROFILE ", "CYPHER 25 EXPLAIN "):
        assert not makes_schema(f"{prefix}{text}")
    assert not makes_schema(f"{CYPHER_25}MATCH (n) DETACH DELETE n")
