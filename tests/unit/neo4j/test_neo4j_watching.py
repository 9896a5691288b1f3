"""Holes, suspension, removal and quotas on Enterprise as the manual describes it; what an error means for an app."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
from neo4j import exceptions

from multidb.errors import Conflict, NotAllowed
from multidb.model import Endpoint, Hole, Inspection, Owner, Place, PlaceKind, Server, Statement, Status, Tenant
from multidb.provisioners.neo4j.backup.places import dropping, making, place_mark, place_name, places
from multidb.provisioners.neo4j.driver.connection import Bolt
from multidb.provisioners.neo4j.isolation.holes import administrators, holes_in_rights, left_over, search
from multidb.provisioners.neo4j.observe.health import fullest, trouble
from multidb.provisioners.neo4j.provision.options import ServerOptions
from multidb.provisioners.neo4j.provision.removal import removal, suspension
from multidb.provisioners.neo4j.provision.resources import Grant, desired, read_mark
from multidb.provisioners.neo4j.provision.settings import over_http
from multidb.secrets import MemorySecretStore
from tests.unit.neo4j.enterprise import Enterprise
from tests.unit.neo4j.plans import APPS, CONTEXT, apply, changes

LERNMI = APPS[0]
OWNER = Owner(CONTEXT.project, LERNMI.id)
INSPECTION = Inspection(CONTEXT, APPS, (), MemorySecretStore())
KINDS = (PlaceKind.SCRATCH, PlaceKind.NEW)


@pytest.fixture
def server() -> Enterprise:
    made = Enterprise()
    apply(made)
    return made


def holes(server: Enterprise) -> Sequence[Hole]:
    return list(search(cast("Bolt", server), INSPECTION).holes)


def test_what_apply_makes_has_no_hole(server: Enterprise) -> None:
    assert holes(server) == []


@pytest.mark.parametrize(
    ("opened", "name", "app"),
    [
        ("GRANT ACCESS ON DATABASE * TO `lernmi_ro`", "a right on every database", "lernmi"),
        ("GRANT MATCH {*} ON GRAPH * TO `PUBLIC`", "a right on every database", None),
        ("GRANT MATCH {*} ON GRAPH `lernmi` TO `beep_boop_rw`", "a right on an app's database", "lernmi"),
        ("GRANT ACCESS ON DATABASE `beep-boop` TO `PUBLIC`", "a right on an app's database", "beep_boop"),
        ("GRANT LOAD ON ALL DATA TO `PUBLIC`", "a right on the whole server", None),
        ("GRANT ALL DBMS PRIVILEGES ON DBMS TO `lernmi_rw`", "a right on the whole server", "lernmi"),
        ("GRANT IMPERSONATE (`beep_boop_user`) ON DBMS TO `lernmi_rw`", "a right on the whole server", "lernmi"),
        ("GRANT ROLE `reader` TO `lernmi_user`", "a role of somebody else", "lernmi"),
        ("GRANT ROLE `lernmi_rw` TO `beep_boop_user`", "a role of somebody else", "lernmi"),
        ("GRANT ROLE `lernmi_ro` TO `neo4j`", "a role of somebody else", "lernmi"),
    ],
)
def test_a_hole_is_found_and_its_own_statements_close_it(
    server: Enterprise, opened: str, name: str, app: str | None
) -> None:
    server.run(opened)
    found = holes(server)
    assert {(hole.name, hole.app) for hole in found} == {(name, app)}
    for statement in (each for hole in found for each in hole.closes):
        server.run(statement)
    assert holes(server) == []


def test_the_login_of_an_app_that_is_gone_is_a_hole_until_it_is_off(server: Enterprise) -> None:
    left = replace(INSPECTION, apps=[app for app in APPS if app.id != "beep_boop"])
    (found,) = [hole for hole in search(cast("Bolt", server), left).holes if "gone" in hole.name]
    assert (found.subject, found.app) == ("user beep_boop_user", None), "nobody's, or the audit would leave it out"
    server.run(found.closes[0])
    assert not [hole for hole in search(cast("Bolt", server), left).holes if "gone" in hole.name]
    rival = replace(INSPECTION, context=replace(CONTEXT, project="rival"), apps=APPS[:1])
    assert not [hole for hole in search(cast("Bolt", server), rival).holes if "gone" in hole.name], "another project's"


def test_an_audit_says_what_it_searched_and_what_stands_there_unmarked(server: Enterprise) -> None:
    server.databases["new.lernmi"] = {}
    found = search(cast("Bolt", server), INSPECTION)
    assert found.holes == ()
    assert [(remark.subject, remark.app) for remark in found.remarks] == [("database new.lernmi", "lernmi")]
    counts = {each.catalog: each.objects for each in found.catalogs}
    assert counts["SHOW USERS"] == len(server.users)
    assert counts["SHOW PRIVILEGES"] == len(server.listing().commands)
    ours = made()
    assert not search(cast("Bolt", ours), INSPECTION).remarks, "what is marked is told as a hole"


def test_rights_that_reach_no_app_are_no_holes(server: Enterprise) -> None:
    for text in ("CREATE ROLE `unused`", "CREATE ROLE `staff`", "CREATE USER `bob`", "GRANT ROLE `staff` TO `bob`"):
        server.run(text)
    server.run("GRANT MATCH {*} ON GRAPH * TO `unused`")
    server.run("GRANT MATCH {*} ON GRAPH `reports` TO `staff`")
    server.run("GRANT ALL ON DATABASE * TO `admin`")
    assert holes(server) == []


def test_a_suspended_app_comes_back_by_apply(server: Enterprise) -> None:
    bolt = cast("Bolt", server)
    off, end = suspension(bolt, LERNMI, CONTEXT)
    assert off == Statement("ALTER USER `lernmi_user` SET STATUS SUSPENDED", scope="system")
    assert "dbms.killConnections" in end.text
    server.run(off)
    assert suspension(bolt, LERNMI, CONTEXT) == []
    assert [change.fields[0].field for change in changes(server)] == ["suspended"]
    apply(server)
    assert not changes(server)


def test_a_removal_interrupted_anywhere_is_finished_by_the_next() -> None:
    full = drops(made())
    assert full[0] == "DROP USER `lernmi_user` IF EXISTS", "nobody comes back in while the rest goes"
    assert full[-1] == "DROP ROLE `multidb_digi_OWNS_lernmi` IF EXISTS", "until the end it is known whose it is"
    for done in range(len(full) + 1):
        server = made()
        for text in full[:done]:
            server.run(text)
        for text in drops(server):
            server.run(text)
        assert not {*server.databases, *server.users, *server.roles} & {
            *("lernmi", "lernmi_user", "lernmi_rw", "lernmi_ro", "multidb_digi_OWNS_lernmi"),
            *(place_name(kind, "lernmi") for kind in KINDS),
            *(place_mark(kind, OWNER) for kind in KINDS),
        }
        assert removal(cast("Bolt", server), LERNMI, CONTEXT) == ()
        assert "beep-boop" in server.databases


def made() -> Enterprise:
    server = Enterprise()
    apply(server)
    for kind in KINDS:
        for statement in making(cast("Bolt", server), kind, OWNER, "here"):
            server.run(statement)
    return server


def drops(server: Enterprise) -> list[str]:
    """The statements of a removal that the simulator knows."""
    found = [statement.text for statement in removal(cast("Bolt", server), LERNMI, CONTEXT)]
    return [text for text in found if not text.startswith(("CALL", "DROP ALIAS"))]


def test_aliases_of_an_apps_database_go_before_it(server: Enterprise) -> None:
    found = [statement.text for statement in removal(cast("Bolt", server), LERNMI, CONTEXT)]
    alias = found.index("DROP ALIAS `also` IF EXISTS FOR DATABASE")
    assert alias < found.index("DROP DATABASE `lernmi` IF EXISTS DESTROY DATA WAIT 120 SECONDS")


def test_what_another_project_has_marked_is_left_alone(server: Enterprise) -> None:
    rival = replace(CONTEXT, project="rival")
    assert removal(cast("Bolt", server), LERNMI, rival) == ()
    assert suspension(cast("Bolt", server), LERNMI, rival) == ()


def test_an_app_over_its_quota_may_read_and_delete_and_not_grow() -> None:
    over = replace(CONTEXT, read_only=frozenset({"lernmi"}))
    rights = [
        want.name for want in desired(APPS, over) if isinstance(want, Grant) and want.name.endswith("`lernmi_rw`")
    ]
    assert any("MATCH {*} ON GRAPH `lernmi` NODE" in right for right in rights)
    assert {right for right in rights if " DELETE " in right} == {
        "GRANT DELETE ON GRAPH `lernmi` NODE * TO `lernmi_rw`",
        "GRANT DELETE ON GRAPH `lernmi` RELATIONSHIP * TO `lernmi_rw`",
    }
    assert not [right for right in rights if "WRITE" in right or "MANAGEMENT" in right]
    others = [want for want in desired(APPS, over) if want.app == "beep_boop"]
    assert others == [want for want in desired(APPS, CONTEXT) if want.app == "beep_boop"]


def test_the_places_of_backups_are_never_an_apps_own() -> None:
    names = {place_name(kind, app) for kind in KINDS for app in ("lernmi", "x" * 58)}
    assert len(names) == 4
    assert all("." in name and len(name) <= 63 for name in names)
    assert not [kind for kind in KINDS if read_mark(place_mark(kind, OWNER))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_whose_making_or_dropping_was_interrupted_is_known(server: Enterprise, kind: PlaceKind) -> None:
    bolt, place = cast("Bolt", server), Place(kind, LERNMI, place_name(kind, "lernmi"))
    mark, database = making(bolt, kind, OWNER, "here")
    server.run(mark)
    assert places(server.roles, LERNMI, "digi") == [place]
    server.run(database)
    assert [each.text for each in making(bolt, kind, OWNER, "here")] == [mark.text, database.text]
    gone, forgotten = dropping(server.roles, place)
    server.run(gone)
    assert place.name not in server.databases
    assert places(server.roles, LERNMI, "digi") == [place]
    server.run(forgotten)
    assert places(server.roles, LERNMI, "digi") == []
    assert dropping(server.roles, place) == ()


def test_a_place_that_was_left_is_a_hole_and_closed_whole() -> None:
    server = made()
    found = left_over(server.roles, INSPECTION)
    closes = [statement for hole in found for statement in hole.closes]
    assert {statement.split("`")[1] for statement in closes if statement.startswith("DROP DATABASE")} == {
        place_name(kind, "lernmi") for kind in KINDS
    }
    for statement in closes:
        server.run(statement)
    assert not list(left_over(server.roles, INSPECTION))


def test_a_database_that_multidb_did_not_make_is_never_a_place(server: Enterprise) -> None:
    bolt, place = cast("Bolt", server), Place(PlaceKind.SCRATCH, LERNMI, "try.lernmi")
    server.databases["try.lernmi"] = {}
    server.run(making(bolt, PlaceKind.NEW, OWNER, "here")[0])  # the mark of another kind of place says nothing of it
    with pytest.raises(Conflict, match=r"try\.lernmi exists and multidb did not make it"):
        making(bolt, PlaceKind.SCRATCH, OWNER, "here")
    assert dropping(server.roles, place) == ()
    assert "database try.lernmi" not in {hole.subject for hole in left_over(server.roles, INSPECTION)}
    assert place not in places(server.roles, LERNMI, "digi")
    assert not [text for text in drops(server) if "try.lernmi" in text]


# Health


def tenant(read_only: bool) -> Tenant:
    context = replace(CONTEXT, read_only=frozenset({"lernmi"} if read_only else ()))
    return Tenant(LERNMI, Server("neo4j", "neo4j", Endpoint("h", 1)), context, {"NEO4J_DATABASE": "lernmi"})


def error(code: str) -> exceptions.Neo4jError:
    return exceptions.Neo4jError._hydrate_neo4j(code=code, message="words of the server")


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [
        ("Neo.ClientError.General.WriteOnReadOnlyAccessDatabase", Status.DEGRADED, "not written"),
        ("Neo.TransientError.Database.DatabaseUnavailable", Status.UNHEALTHY, "offline"),
        ("Neo.ClientError.Database.DatabaseNotFound", Status.UNHEALTHY, "not there"),
        ("Neo.TransientError.General.MemoryPoolOutOfMemoryError", Status.DEGRADED, "words of the server"),
    ],
)
def test_an_error_is_told_for_what_it_means(code: str, status: Status, word: str) -> None:
    health = trouble(error(code), tenant(read_only=False), 0.1)
    assert health.status is status
    assert word in health.message
    assert health.fix


def test_a_refused_write_is_expected_of_an_app_over_its_quota_only() -> None:
    refused = error("Neo.ClientError.Security.Forbidden")
    assert trouble(refused, tenant(read_only=True), 0.1).status is Status.DEGRADED
    with pytest.raises(NotAllowed, match="app lernmi"):
        trouble(refused, tenant(read_only=False), 0.1)


def test_the_fullest_part_of_the_heap_counts_where_it_has_an_end() -> None:
    assert fullest([]) == 0
    assert fullest([None, {"used": 95, "max": -1}]) == 0
    assert fullest([{"used": 50, "max": 100}, {"used": 95, "max": 100}]) == 0.95


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("127.0.0.1:7474", []),
        ("localhost:7474", []),
        ("[::1]:7474", []),
        ("0.0.0.0:7474", ["HTTP without TLS"]),
        ("10.0.0.5:7474", ["HTTP without TLS"]),
    ],
)
def test_http_without_tls_is_a_hole_where_others_can_listen(address: str, names: list[str]) -> None:
    settings = {"server.http.enabled": "true", "server.http.listen_address": address}
    assert [hole.name for hole in over_http({**settings, "dbms.security.http_auth_allowlist": "/,/browser.*"})] == names
    assert list(over_http({**settings, "server.http.enabled": "false"})) == []


def test_members_of_admin_are_holes_but_for_our_own_login() -> None:
    members = [{"role": "admin", "member": each} for each in ("neo4j", "old`one", None)]
    (hole,) = administrators([*members, {"role": "reader", "member": "someone"}], "neo4j")
    assert (hole.account, hole.closes) == ("old`one", ("REVOKE ROLE admin FROM `old``one`",))


def test_what_a_role_or_a_login_opens_is_told_of_it_where_it_is_nobodys() -> None:
    """So that the manifest can name it under `known`; an app's own can never be known."""
    members = [{"role": "auditors", "member": "eve"}, {"role": "lernmi_ro", "member": "eve"}]
    rights = ["GRANT MATCH {*} ON GRAPH * TO `auditors`", "GRANT MATCH {*} ON GRAPH * TO `lernmi_rw`"]
    found = {(hole.name, hole.account) for hole in holes_in_rights(rights, members, INSPECTION)}
    assert found == {
        ("a right on every database", "auditors"),
        ("a right on every database", None),
        ("a role of somebody else", "eve"),
    }


@pytest.mark.parametrize(("close_defaults", "found"), [(True, {"PUBLIC", "lernmi_rw"}), (False, {"lernmi_rw"})])
def test_that_everybody_may_load_is_no_hole_where_the_manifest_leaves_it(close_defaults: bool, found: set[str]) -> None:
    context = replace(CONTEXT, options=ServerOptions(close_defaults=close_defaults))
    rights = ["GRANT LOAD ON ALL DATA TO `PUBLIC`", "GRANT LOAD ON ALL DATA TO `lernmi_rw`"]
    inspection = Inspection(context, APPS, (), MemorySecretStore())
    assert {hole.subject.split()[1] for hole in holes_in_rights(rights, [], inspection)} == found
