"""Apps that share a database: what the manifest may say of them, and what follows from it. Pure."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from pydantic import ValidationError

from multidb.errors import Refused
from multidb.model import Action, App, AppMode, Change, Endpoint, Isolation, Owner, StoreContext
from multidb.plan import diff
from multidb.provisioners.postgres import PROVISIONER
from multidb.provisioners.postgres.isolation.level import isolation
from multidb.provisioners.postgres.observe.advice import advise
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.desired import desired
from multidb.provisioners.postgres.provision.options import AppOptions
from multidb.provisioners.postgres.provision.resources import (
    AppSchema,
    Database,
    Interior,
    Membership,
    PeerRole,
    PostgresFacts,
    Reading,
    Role,
    ServerDatabaseFacts,
    Settings,
)
from multidb.provisioners.postgres.provision.shared_catalog import elsewhere, marked
from multidb.provisioners.postgres.provision.shared_resources import (
    SharedAccess,
    SharedDatabase,
    SharedInterior,
    is_shared,
    unfinished_name,
)
from multidb.provisioners.postgres.provision.sharing import check, own_options
from multidb.provisioners.postgres.provision.statements import statements
from multidb.secrets import Secret
from tests.unit.postgres.apps import app, context, facts


def sharing(name: str = "brain", **options: object) -> App:
    return app(name, **{"database": "contextunity", "schema": name, **options})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"database": "contextunity"}, "database and schema together"),
        ({"schema": "brain"}, "database and schema together"),
        ({"reads": ["commerce"]}, "must have a schema in a shared database"),
        ({"database": "contextunity", "schema": "public"}, "none of pg_"),
        ({"database": "contextunity", "schema": "extensions"}, "none of pg_"),
        ({"database": "contextunity", "schema": "pg_brain"}, "none of pg_"),
        ({"database": "contextunity", "schema": 'a"; DROP'}, "must be a name of letters"),
        ({"database": "contextunity", "schema": "a__old"}, "must be a name of letters"),
        ({"database": "contextunity", "schema": "a" * 58}, "must be a name of letters"),
        ({"database": "Context Unity", "schema": "brain"}, "must be a name of 2 to 31"),
        ({"database": "multidb_x", "schema": "brain"}, "none of pg_"),
        ({"database": "contextunity", "schema": "brain", "test_database": True}, "must be without test_database"),
        ({"database": "contextunity", "schema": "brain", "locale": "C"}, "must be without locale"),
        (
            {"database": "contextunity", "schema": "brain", "readers": {"bi": {"tables": ["public.t"]}}},
            "must have readers of tables in schema brain",
        ),
        ({"pool": {"min": 5, "max": 4}}, "min \\(5\\) is no more than its max"),
        ({"pool": {"max": 21}}, "at most connection_limit \\(20\\)"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        AppOptions(**options)  # type: ignore[arg-type]


def problems(*apps: App) -> list[str]:
    return [problem for _, problem in check(apps)]


def test_only_apps_of_the_same_database_read_each_other() -> None:
    brain, commerce = sharing(), sharing("commerce", reads=["brain"])
    assert problems(brain, commerce, app("lernmi")) == []
    assert "reads brain, which is no app" in problems(commerce)[0]
    assert "reads itself" in problems(sharing(reads=["brain"]))[0]
    assert "no schema in database contextunity" in problems(app("brain"), commerce)[0]
    elsewhere = sharing(database="other", schema="brain")
    assert "no schema in database contextunity" in problems(elsewhere, commerce)[0]


def test_a_shared_database_is_called_as_no_app_and_decided_by_nobody_else() -> None:
    assert "is called as app contextunity" in problems(sharing(), app("contextunity"))[0]
    assert "is called as app lernmi" in problems(sharing(database="lernmi_test"), app("lernmi", test_database=True))[0]
    observed = replace(sharing(), modes={"postgres": AppMode.OBSERVE})
    assert "mode observe is for a database of its own" in problems(observed)[0]


@pytest.mark.parametrize("name", ["postgres", "template0", "template1"])
def test_a_shared_database_is_none_of_the_servers_own(name: str) -> None:
    assert f"database {name} is the server's own" in problems(sharing(database=name))[0]


def test_nothing_is_shared_where_the_admin_begins() -> None:
    begins = facts(server_databases=(ServerDatabaseFacts("contextunity", "postgres", open=True, closable=True),))
    resources = desired([sharing(), sharing("other", database="another")], context(begins))
    assert [one.name for one in resources if isinstance(one, (SharedDatabase, SharedInterior))] == ["another"] * 2


@pytest.mark.parametrize("name", ["lernmi__scratch", "lernmi__new", "lernmi__old", "brain__new"])
def test_a_shared_database_is_none_that_a_restore_makes(name: str) -> None:
    of = name.partition("__")[0]
    assert f"a backup or a restore of {of} makes" in problems(sharing(database=name), app("lernmi"))[0]
    assert problems(sharing(database=f"{name}er"), app("lernmi")) == []


def test_two_apps_of_a_database_have_no_schema_of_one_name() -> None:
    spaces = [
        {(name.space, name.name) for name in PROVISIONER.derived_names(one)}
        for one in (
            sharing(),
            sharing("commerce", schema="brain"),
            sharing("other", database="another", schema="brain"),
        )
    ]
    assert spaces[0] & spaces[1] == {("postgres schema in contextunity", "brain")}
    assert not spaces[0] & spaces[2]
    assert not any(space == "postgres database" for space, _ in spaces[0])


def test_an_app_has_no_place_to_make_anything_but_its_schema() -> None:
    for roles in ("simple", "split"):
        resources = desired([sharing(roles=roles, schema="mind")], context())
        assert not [one for one in resources if isinstance(one, Database)]
        (access,) = (one for one in resources if isinstance(one, SharedAccess))
        assert "CREATE" not in {right for _, right in access.privileges}
        (inside,) = (one for one in resources if isinstance(one, Interior))
        assert {pair for pair in inside.schema_privileges if pair[1] == "CREATE"} == {("brain_owner", "CREATE")}
        assert inside.schema_owner == "postgres"
        paths = {dict(one.values)["search_path"] for one in resources if isinstance(one, Settings)}
        assert paths == {"mind, extensions"}


def test_who_reads_another_gets_select_and_nothing_else() -> None:
    brain, commerce = sharing(schema="mind"), sharing("commerce", reads=["brain"])
    resources = desired([brain, commerce], context())
    (reading,) = (one for one in resources if isinstance(one, Reading))
    assert (reading.role, reading.tables, reading.tables_owner) == (
        "commerce_peer_brain",
        frozenset({("mind", "*")}),
        "brain_owner",
    )
    joined = {one.member for one in resources if isinstance(one, Membership) and one.role == "commerce_peer_brain"}
    assert joined == {"commerce_owner", "commerce_rw", "commerce_ro"}
    change = Change(Action.CREATE, reading, None)
    assert [statement.text for statement in statements(change, context())] == [
        'GRANT USAGE ON SCHEMA "mind" TO "commerce_peer_brain"',
        'ALTER DEFAULT PRIVILEGES FOR ROLE "brain_owner" IN SCHEMA "mind" GRANT SELECT ON TABLES '
        'TO "commerce_peer_brain"',
    ]


def test_a_plan_of_one_app_knows_where_the_other_is_and_what_it_reads_no_more() -> None:
    commerce = sharing("commerce", reads=["brain"])
    there = facts(schemas=(AppSchema(Owner("digi", "brain"), "mind", "contextunity"),))
    (reading,) = (one for one in desired([commerce], context(there)) if isinstance(one, Reading))
    assert reading.tables == frozenset({("mind", "*")})
    assert not [one for one in desired([commerce], context()) if isinstance(one, Reading)], "it is not there yet"
    former = replace(there, peer_roles=(PeerRole(Owner("digi", "commerce"), "commerce_peer_brain"),))
    (reading,) = (one for one in desired([sharing("commerce")], context(former)) if isinstance(one, Reading))
    assert reading.tables == frozenset()
    members = [one.role for one in desired([sharing("commerce")], context(former)) if isinstance(one, Membership)]
    assert reading.role not in members
    both = desired([app("brain"), sharing("commerce")], context(former))
    (reading,) = (one for one in both if isinstance(one, Reading))
    assert reading.schemas == frozenset({"mind"}), "where it is, though it is to go elsewhere"


def test_a_new_database_gets_its_name_when_it_is_closed_and_marked() -> None:
    (database,) = (one for one in desired([sharing()], context()) if isinstance(one, SharedDatabase))
    assert database.app is None
    texts = [one.text for one in statements(Change(Action.CREATE, database, None), context())]
    first = f'"{unfinished_name("contextunity")}"'
    assert texts[0].startswith(f"CREATE DATABASE {first} ")
    assert texts[0].endswith("ALLOW_CONNECTIONS false")
    assert texts.index(f'ALTER DATABASE {first} RENAME TO "contextunity"') > texts.index(
        f"COMMENT ON DATABASE {first} IS 'multidb:digi/contextunity shared'"
    )
    assert texts[-1] == 'ALTER DATABASE "contextunity" ALLOW_CONNECTIONS true'
    half_made = replace(database, finished=False)
    (change,) = diff([database], [half_made])
    assert [one.text for one in statements(change, context())] == texts[1:]


def test_one_that_multidb_did_not_make_is_a_conflict() -> None:
    (database,) = (one for one in desired([sharing()], context()) if isinstance(one, SharedDatabase))
    (change,) = diff([database], [replace(database, owner=None)])
    assert change.action is Action.CONFLICT
    assert is_shared("multidb:digi/contextunity shared")
    assert is_shared("multidb:digi/contextunity vacant")
    assert not is_shared("multidb:digi/contextunity 0123abcd")
    assert not is_shared(None)


def row(name: str, mark: str, *grantees: str) -> dict[str, object]:
    return {"name": name, "mark": mark, "privileges": [[grantee, "CONNECT", False] for grantee in grantees]}


def test_an_app_that_is_elsewhere_is_found_there_until_it_is_on_its_way() -> None:
    owners = {"brain_owner": Owner("digi", "brain")}
    in_schema = facts(schemas=(AppSchema(Owner("digi", "brain"), "mind", "contextunity"),))
    rows = [row("contextunity", "multidb:digi/contextunity shared", "brain_owner")]
    ((there, wanted),) = elsewhere(rows, _Inspection(app("brain"), known=in_schema), owners)  # type: ignore[arg-type]
    assert (str(home(there)), str(home(wanted))) == ("schema mind of contextunity", "brain")
    rows = [row("brain", "multidb:digi/brain 0123abcd", "brain_owner")]
    found = list(elsewhere(rows, _Inspection(sharing()), owners))  # type: ignore[arg-type]
    assert [(str(home(there)), str(home(wanted))) for there, wanted in found] == [
        ("brain", "schema brain of contextunity")
    ]
    assert list(elsewhere(rows, _Inspection(app("brain")), owners)) == []  # type: ignore[arg-type]
    on_its_way = _Inspection(sharing(), moving=frozenset({"brain"}))
    assert list(elsewhere(rows, on_its_way, owners)) == []  # type: ignore[arg-type]


def test_each_app_of_a_server_costs_what_any_other_costs() -> None:
    def calls(count: int) -> int:
        names = [f"app{number}_{count}" for number in range(count)]  # names are made once
        owners = {f"{name}_owner": Owner("digi", name) for name in names}
        rows = [row(name, f"multidb:digi/{name} 0123abcd", f"{name}_owner") for name in names]
        seen = 0

        def count_call(*_: object) -> None:
            nonlocal seen
            seen += 1

        inspection = _Inspection(*map(app, names))
        before = sys.getprofile()
        sys.setprofile(count_call)
        try:
            found = list(elsewhere(rows, inspection, owners))  # type: ignore[arg-type]
        finally:
            sys.setprofile(before)
        assert found == []
        return seen

    assert calls(200) < 5 * calls(50)


class _Inspection:
    def __init__(self, *apps: App, known: PostgresFacts | None = None, moving: frozenset[str] = frozenset()) -> None:
        self.apps = apps
        self.context = StoreContext("digi", known or facts(), moving=moving)


def test_a_schema_that_another_app_reads_is_not_dropped() -> None:
    rights = [["brain_owner", "USAGE", False], ["commerce_peer_brain", "USAGE", False]]
    answer = f'{{"schemas": {{"mind": {{"mark": "multidb:digi/brain x", "rights": {rights}}}}}}}'
    answer = answer.replace("'", '"').replace("False", "false")
    with pytest.raises(Refused, match="commerce may read schema mind of contextunity"):
        marked(answer, Owner("digi", "brain"), "contextunity")
    assert marked(answer.replace("commerce_peer_brain", "x"), Owner("digi", "brain"), "contextunity") == ["mind"]
    assert marked(answer, Owner("digi", "other"), "contextunity") == []


def test_the_level_says_what_leaks_and_who_is_trusted() -> None:
    level, why = isolation(sharing(reads=["commerce"]), facts())
    assert level is Isolation.PARTIAL
    for word in (
        "schema brain of contextunity",
        "names",
        "NOTIFY",
        "advisory locks",
        "reads commerce, whose functions",
    ):
        assert word in why


def test_pools_are_added_up() -> None:
    apps = [app(name, pool={"min": 1, "max": 20}) for name in ("a1", "b1", "c1")]
    known = context(facts(max_connections=50, reserved_connections=3))
    (finding,) = (one for one in advise(apps, known) if one.subject == "connection pools")
    assert "60 connections" in finding.message
    assert finding.level.value == "warning"
    assert not [one for one in advise([app("a1")], known) if one.subject == "connection pools"]


def test_a_clone_has_a_schema_of_its_own_name() -> None:
    assert own_options({"schema": "brain", "database": "contextunity"}, "copy") == {"schema": "copy"}
    assert own_options({"connection_limit": 5}, "copy") == {}
    assert home(sharing(schema="mind")) != home(sharing())


def test_its_variables_say_where_it_is() -> None:
    one = sharing(schema="mind", pool={"min": 2, "max": 4})
    env = PROVISIONER.env(one, context(), Endpoint("db", 5432), lambda ref: Secret("s"))
    assert (env["POSTGRES_DB"], env["POSTGRES_SCHEMA"]) == ("contextunity", "mind")
    assert (env["POSTGRES_POOL_MIN"], env["POSTGRES_POOL_MAX"]) == ("2", "4")
    assert env["DATABASE_URL"].reveal().endswith("/contextunity")  # type: ignore[union-attr]
    assert {one.name for one in desired([one], context()) if isinstance(one, Role)} >= {"brain_owner", "brain_user"}
