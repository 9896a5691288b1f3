"""Names, marks, modes, the environment and the printed isolation."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from multidb.errors import ManifestError, Refused
from multidb.model import App, Endpoint, Isolation, Owner, Server, StoreContext
from multidb.project import load_project
from multidb.provisioners.neo4j.isolation.level import isolation
from multidb.provisioners.neo4j.provision.environment import env, env_asks
from multidb.provisioners.neo4j.provision.options import AppOptions, ServerOptions
from multidb.provisioners.neo4j.provision.resources import (
    Mark,
    Mode,
    Neo4jFacts,
    User,
    canonical,
    database_name,
    desired,
    loads,
    mark_name,
    mode,
    read_mark,
)
from multidb.secrets import Secret

COMMUNITY = Neo4jFacts("Neo4j", "2026.08.1")
ENTERPRISE = Neo4jFacts("Neo4j", "2026.08.1", "enterprise", multi_database=True, roles=True)
DOZER = Neo4jFacts("Neo4j", "5.17.0", "enterprise", multi_database=True)
OWN = Neo4jFacts("Neo4j", "2026.08.1", dedicated=True)

ids = st.from_regex(r"[a-z][a-z0-9_]{0,29}[a-z0-9]", fullmatch=True)


def app(name: str) -> App:
    return App(name, name, {"neo4j": AppOptions()})


def context(facts: Neo4jFacts, isolation: str = "auto") -> StoreContext:
    return StoreContext("digi", facts, ServerOptions.model_validate({"isolation": isolation}))


@pytest.mark.parametrize(
    ("name", "database"),
    [("lernmi", "lernmi"), ("beep_boop", "beep-boop"), ("ab", "db.ab"), ("system_x", "db.system-x")],
)
def test_database_names(name: str, database: str) -> None:
    assert database_name(name) == database


@given(st.lists(ids, min_size=2, unique=True))
def test_two_apps_never_share_a_database(names: list[str]) -> None:
    assert len({database_name(name) for name in names}) == len(names)


@given(ids)
def test_every_database_name_is_one_that_neo4j_takes(name: str) -> None:
    database = database_name(name)
    assert 3 <= len(database) <= 63
    assert not database.startswith(("system", "_"))
    assert "_" not in database
    assert database[-1] not in ".-"


@given(st.text(min_size=1, max_size=40), ids, st.sampled_from([Mode.INSTANCE, Mode.LABEL]))
def test_a_mark_can_be_read_back(project: str, name: str, kind: Mode) -> None:
    text = mark_name(Owner(project, name), kind)
    assert read_mark(text) == (Owner(project, name), kind)
    assert text.isascii()
    assert text.replace("_", "").isalnum()


@pytest.mark.parametrize("name", ["admin", "multidb", "multidb_digi_lernmi", "multidb_digi_OWNS_", "lernmi_rw"])
def test_other_names_are_no_marks(name: str) -> None:
    assert read_mark(name) is None


@pytest.mark.parametrize(
    ("facts", "option", "found"),
    [
        (ENTERPRISE, "auto", Mode.DATABASE),
        (ENTERPRISE, "database", Mode.DATABASE),
        (COMMUNITY, "auto", Mode.INSTANCE),
        (DOZER, "auto", Mode.INSTANCE),  # it calls itself enterprise, and every user reaches every database
        (COMMUNITY, "label", Mode.LABEL),
    ],
)
def test_what_a_server_can_do_decides(facts: Neo4jFacts, option: str, found: Mode) -> None:
    assert mode(context(facts, option)) is found


@pytest.mark.parametrize(
    ("facts", "option", "says"),
    [
        (COMMUNITY, "database", "neither"),
        (DOZER, "database", "databases without roles"),
        (ENTERPRISE, "instance", "this one has them"),
        (ENTERPRISE, "label", "this one has them"),
    ],
)
def test_what_a_server_cannot_do_is_refused(facts: Neo4jFacts, option: str, says: str) -> None:
    with pytest.raises(Refused, match=says) as caught:
        mode(context(facts, option))
    assert caught.value.hint


def test_a_second_app_on_community_is_refused_with_the_choices() -> None:
    with pytest.raises(Refused, match="lernmi, devao") as caught:
        desired([app("lernmi"), app("devao")], context(COMMUNITY))
    for choice in ("stores:", "Enterprise", "embedded", "label"):
        assert choice in (caught.value.hint or "")


def test_one_app_on_community_gets_a_mark_and_a_user() -> None:
    mark, user = desired([app("lernmi")], context(COMMUNITY))
    assert isinstance(mark, Mark)
    assert mark.name == "neo4j"
    assert isinstance(user, User)
    assert (user.home, user.suspended) == (None, None)


def test_a_server_of_its_own_needs_no_mark() -> None:
    assert [resource.kind for resource in desired([app("lernmi")], context(OWN))] == ["user"]


def test_labels_have_room_for_all_apps() -> None:
    found = desired([app("lernmi"), app("devao")], context(COMMUNITY, "label"))
    assert [resource.name for resource in found] == ["lernmi", "lernmi_user", "devao", "devao_user"]


def test_the_schema_is_the_apps_own_unless_said_otherwise() -> None:
    fixed = App("lernmi", "lernmi", {"neo4j": AppOptions(manage_schema=False)})
    more = {resource.name for resource in desired([app("lernmi")], context(ENTERPRISE))}
    less = {resource.name for resource in desired([fixed], context(ENTERPRISE))}
    assert more - less == {
        "GRANT INDEX MANAGEMENT ON DATABASE `lernmi` TO `lernmi_rw`",
        "GRANT CONSTRAINT MANAGEMENT ON DATABASE `lernmi` TO `lernmi_rw`",
    }


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        (ENTERPRISE, Isolation.ENFORCED),
        (replace(ENTERPRISE, public_load=("GRANT LOAD ON ALL DATA TO `PUBLIC`",)), Isolation.PARTIAL),
        (OWN, Isolation.ENFORCED),
        (COMMUNITY, Isolation.NAMING_ONLY),
        (DOZER, Isolation.NAMING_ONLY),
        (Neo4jFacts("Neo4j", "5", marks=(Owner("digi", "lernmi"),)), Isolation.PARTIAL),
        (Neo4jFacts("Neo4j", "5", marks=(Owner("digi", "devao"),)), Isolation.NAMING_ONLY),
        (Neo4jFacts("Neo4j", "5", labelled=(Owner("digi", "lernmi"),)), Isolation.NAMING_ONLY),
        (
            Neo4jFacts("Neo4j", "5", marks=(Owner("digi", "lernmi"),), labelled=(Owner("digi", "devao"),)),
            Isolation.NAMING_ONLY,
        ),
    ],
)
def test_the_printed_isolation(facts: Neo4jFacts, level: Isolation) -> None:
    found, why = isolation(app("lernmi"), facts)
    assert found is level
    assert why


@pytest.mark.parametrize(
    ("commands", "found", "way_on"),
    [
        (["GRANT LOAD ON ALL DATA TO `PUBLIC`"], ["GRANT LOAD ON ALL DATA TO `PUBLIC`"], "multidb apply closes that"),
        (
            ["GRANT IMMUTABLE LOAD ON ALL DATA TO `PUBLIC`"],
            ["GRANT IMMUTABLE LOAD ON ALL DATA TO `PUBLIC`"],
            "only who runs the server can take it away",
        ),
        (["GRANT LOAD ON ALL DATA TO `auditors`", "DENY LOAD ON ALL DATA TO `PUBLIC`"], [], ""),
        (["GRANT EXECUTE PROCEDURE * ON DBMS TO `PUBLIC`"], [], ""),
    ],
)
def test_what_every_user_may_load(commands: list[str], found: list[str], way_on: str) -> None:
    rights = loads(commands)
    assert list(rights) == found
    level, why = isolation(app("lernmi"), replace(ENTERPRISE, public_load=rights))
    assert level is (Isolation.PARTIAL if found else Isolation.ENFORCED)
    assert way_on in why


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (
            "GRANT MATCH {*} ON GRAPH x TO r",
            ["GRANT MATCH {*} ON GRAPH `x` NODE * TO `r`", "GRANT MATCH {*} ON GRAPH `x` RELATIONSHIP * TO `r`"],
        ),
        ("GRANT MATCH {*} ON GRAPH * NODES * TO `reader`", ["GRANT MATCH {*} ON GRAPH * NODE * TO `reader`"]),
        (
            "GRANT READ {name} ON GRAPH `a-b` ELEMENTS Person TO r",
            [
                "GRANT READ {name} ON GRAPH `a-b` NODE Person TO `r`",
                "GRANT READ {name} ON GRAPH `a-b` RELATIONSHIP Person TO `r`",
            ],
        ),
        ("DENY TRAVERSE ON GRAPH `x` RELATIONSHIP * TO `r`", ["DENY TRAVERSE ON GRAPH `x` RELATIONSHIP * TO `r`"]),
        ("GRANT WRITE ON GRAPH a-b TO r", ["GRANT WRITE ON GRAPH `a-b` TO `r`"]),
        ('"GRANT ACCESS ON DATABASE * TO `admin`"', ["GRANT ACCESS ON DATABASE * TO `admin`"]),
        ("GRANT ACCESS ON HOME DATABASE TO PUBLIC", ["GRANT ACCESS ON HOME DATABASE TO `PUBLIC`"]),
        ("GRANT EXECUTE PROCEDURE * ON DBMS TO `PUBLIC`", ["GRANT EXECUTE PROCEDURE * ON DBMS TO `PUBLIC`"]),
        ("GRANT NAME MANAGEMENT ON DATABASES db.ab TO r", ["GRANT NAME MANAGEMENT ON DATABASE `db.ab` TO `r`"]),
    ],
)
def test_the_form_in_which_a_right_is_listed(command: str, lines: list[str]) -> None:
    assert list(canonical(command)) == lines
    assert [again for line in lines for again in canonical(line)] == lines


def variables(facts: Neo4jFacts | None, option: str = "auto", **endpoint: object) -> dict[str, object]:
    where = Endpoint("h", 7687, **endpoint)  # type: ignore[arg-type]
    given = StoreContext("digi", facts, ServerOptions.model_validate({"isolation": option}))
    return dict(env(app("beep_boop"), given, where, lambda ref: Secret(f"secret of {ref}")))


def test_the_environment_on_enterprise() -> None:
    found = variables(ENTERPRISE, tls=True)
    password = found.pop("NEO4J_PASSWORD")
    assert isinstance(password, Secret)
    assert password.reveal() == "secret of beep_boop/neo4j/password"
    assert found == {
        "NEO4J_URI": "bolt+s://h:7687",
        "NEO4J_USER": "beep_boop_user",
        "NEO4J_DATABASE": "beep-boop",
        "NEO4J_DATABASE_BEEP_BOOP": "beep-boop",
    }


def test_the_environment_elsewhere() -> None:
    assert variables(COMMUNITY)["NEO4J_DATABASE"] == "neo4j"
    assert variables(None)["NEO4J_DATABASE"] == "neo4j"
    assert variables(None, "database")["NEO4J_DATABASE"] == "beep-boop"
    assert variables(COMMUNITY, "label")["NEO4J_LABEL"] == "beep_boop"
    assert "NEO4J_LABEL" not in variables(COMMUNITY)
    assert variables(COMMUNITY, params={"scheme": "neo4j+s"})["NEO4J_URI"] == "neo4j+s://h:7687"


@pytest.mark.parametrize("wrong", [{"isolation": "strict"}, {"heap": "lots"}, {"port": 0}, {"ports": 1}])
def test_options_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ServerOptions.model_validate(wrong)


def test_a_server_is_named_in_a_refusal() -> None:
    server = Server("neo4j", "neo4j", Endpoint("h", 7687))
    with pytest.raises(Refused) as caught:
        desired([app("a1"), app("b1")], StoreContext("digi", COMMUNITY, None, server=server))
    assert caught.value.where == "neo4j (h:7687)"


def test_importing_the_store_imports_no_driver() -> None:
    code = "import sys, multidb.provisioners.neo4j; sys.exit('neo4j' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("head", "place"),
    [
        ("runtime: compose\nservers: {neo4j: {backup: dump}}", "3:19"),
        ("runtime: embedded\nservers:\n  neo4j:\n    isolation: label\n    backup: dump", "6:5"),
    ],
)
def test_a_dump_needs_a_server_that_may_be_stopped(tmp_path: Path, head: str, place: str) -> None:
    path = tmp_path / "multidb.yaml"
    path.write_text(f"version: 1\n{head}\nproject: digi\napps: {{}}\n")
    with pytest.raises(ManifestError) as raised:
        load_project(path)
    (problem,) = raised.value.problems
    assert f"{problem.line}:{problem.column}" == place
    assert "servers.neo4j.backup: a dump needs a server of one app" in problem.message

    path.write_text(path.read_text().replace("compose", "embedded").replace("isolation: label", "isolation: instance"))
    assert {"dump"} == {s.options.backup for s in load_project(path).servers if s.store == "neo4j"}


@pytest.mark.parametrize(
    ("option", "alone", "asks"),
    [("auto", False, True), ("auto", True, False), ("database", False, False), ("label", False, True)],
)
def test_only_a_shared_server_is_asked_for_an_apps_variables(option: str, alone: bool, asks: bool) -> None:
    server = Server("neo4j", "neo4j", Endpoint("h", 7687), app="lernmi" if alone else None)
    options = ServerOptions.model_validate({"isolation": option})
    assert env_asks(app("lernmi"), StoreContext("digi", None, options, server=server)) is asks
