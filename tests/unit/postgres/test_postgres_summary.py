"""What the short look inside a database says is well, and what it leaves to the long one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from multidb.model import App, StoreContext
from multidb.provisioners.postgres.provision import summary
from multidb.provisioners.postgres.provision.desired import desired
from multidb.provisioners.postgres.provision.options import AppOptions
from multidb.provisioners.postgres.provision.resources import Interior, PostgresFacts

FACTS = PostgresFacts(
    product="PostgreSQL",
    version="18.0",
    number=180000,
    admin="postgres",
    superuser=True,
    createrole=True,
    createdb=True,
)
APP = App("a", "a", {"postgres": AppOptions(extensions=("vector",))})
[WANTED] = [each for each in desired([APP], StoreContext("p", FACTS)) if isinstance(each, Interior)]

WELL: dict[str, Any] = {
    "owner": "a_owner",
    "privileges": ["a_owner=UC/a_owner", "a_ro=U/a_owner", "a_rw=U/a_owner"],
    "defaults": [
        ["a_owner", "f", ["a_owner=X/a_owner", "a_ro=X/a_owner", "a_rw=X/a_owner"]],
        ["a_owner", "n", ["a_owner=UC/a_owner", "a_ro=U/a_owner", "a_rw=U/a_owner"]],
        ["a_owner", "S", ["a_owner=rwU/a_owner", "a_ro=r/a_owner", "a_rw=rwU/a_owner"]],
        ["a_owner", "r", ["a_owner=arwdDxtm/a_owner", "a_ro=r/a_owner", "a_rw=arwdm/a_owner"]],
        ["somebody", "r", ["=r/somebody"]],
    ],
    "large_objects": [
        ["postgres", name, ["postgres=X/postgres", "a_owner=X/postgres", "a_rw=X/postgres"]]
        for name in ("lo_creat", "lo_create", "lo_from_bytea")
    ],
    "extensions": ["plpgsql", "vector", "hstore"],
    "brought": [["1255", "16400"], ["1259", "16600"], ["2615", "16500"]],
    "over_quota": ["16400"],  # a table of the app's
    "1259": [],
    "1255": ["16400"],
    "1247": [],
    "2615": ["16500"],
}


def says(known: frozenset[str] = frozenset(), **other: Any) -> bool:
    return summary.says_all_is_well(json.dumps(WELL | other), WANTED, known)


def test_what_is_as_it_is_wanted_is_well() -> None:
    assert says()


@pytest.mark.parametrize(
    "other",
    [
        {"owner": "postgres"},
        {"privileges": None},
        {"privileges": [*WELL["privileges"], "=C/a_owner"]},
        {"privileges": ["a_ro=U*/a_owner", "a_rw=U/a_owner"]},
        {"privileges": [*WELL["privileges"], '"odd, a"=U/a_owner']},
        {"privileges": [*WELL["privileges"], "a_ro=?/a_owner"]},
        {"defaults": []},
        {"defaults": WELL["defaults"][1:]},
        {"large_objects": [["postgres", "lo_creat", None], *WELL["large_objects"][1:]]},
        {"large_objects": WELL["large_objects"][1:]},
        {"extensions": ["plpgsql", "hstore"]},
        {"1259": ["16400"]},  # the number of a function that an extension has brought, but of a table
        {"over_quota": ["16600"]},
        {"1255": ["16400", "16401"]},
        {"1247": ["16402"]},
        {"2615": ["16403"]},
    ],
    ids=str,
)
def test_whatever_else_is_left_to_the_long_look(other: dict[str, Any]) -> None:
    assert not says(**other)


def test_a_database_without_the_schema_says_nothing() -> None:
    assert not summary.says_all_is_well("{}", WANTED, frozenset())


def test_what_a_known_account_holds_is_well() -> None:
    given = [*WELL["privileges"], "reader=U/a_owner"]
    assert not says(privileges=given)
    assert says(frozenset({"reader"}), privileges=given)
