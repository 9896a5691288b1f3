"""Plan, apply and plan again on Enterprise as the manual describes it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from multidb.model import Action, Inspection, Owner, StoreContext
from multidb.plan import diff
from multidb.provisioners.neo4j.provision.options import ServerOptions
from multidb.provisioners.neo4j.provision.resources import (
    Mark,
    PublicRights,
    desired,
    mark_name,
    mode,
)
from multidb.provisioners.neo4j.provision.statements import statements
from multidb.secrets import MemorySecretStore
from tests.unit.neo4j.enterprise import Enterprise
from tests.unit.neo4j.plans import APPS, CONTEXT, FACTS, apply, changes, live


@pytest.fixture
def server() -> Enterprise:
    made = Enterprise()
    assert apply(made) > 0
    return made


def test_a_second_plan_is_empty(server: Enterprise) -> None:
    assert changes(server) == ()


def test_nobody_may_load_files_and_the_other_public_rights_stay(server: Enterprise) -> None:
    public = {right for right in server.rights if right.endswith("`PUBLIC`")}
    assert len(public) == 3
    assert not any("LOAD" in right for right in public)


def test_what_everybody_may_load_is_left_where_the_manifest_says_so() -> None:
    server = Enterprise()
    left = replace(CONTEXT, options=ServerOptions(close_defaults=False))
    assert not any(isinstance(change.resource, PublicRights) for change in changes(server, context=left))
    assert any(isinstance(change.resource, PublicRights) for change in changes(server))


def test_an_app_has_rights_on_its_own_database_alone(server: Enterprise) -> None:
    for right in server.rights:
        if "`beep_boop_" in right:
            assert " `beep-boop` " in right
            assert right.startswith("GRANT ")


@pytest.mark.parametrize("seed", range(40))
def test_interrupted_anywhere_the_next_apply_finishes(seed: int) -> None:
    server, randomly = Enterprise(), random.Random(seed)
    for _ in range(3):
        sent = [statement for change in changes(server) for statement in statements(change, CONTEXT)]
        for statement in sent[: randomly.randrange(len(sent) + 1)]:
            server.run(statement)
        assert not [change for change in changes(server) if change.action is Action.CONFLICT]
    apply(server)
    assert changes(server) == ()


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("REVOKE GRANT WRITE ON GRAPH `lernmi` FROM `lernmi_rw`", "grant"),
        ("REVOKE GRANT MATCH {*} ON GRAPH `lernmi` RELATIONSHIP * FROM `lernmi_ro`", "grant"),
        ("GRANT MATCH {*} ON GRAPH * TO `lernmi_ro`", "grant"),
        ("GRANT ACCESS ON DATABASE `beep-boop` TO `lernmi_rw`", "grant"),
        ("DENY WRITE ON GRAPH `lernmi` TO `lernmi_rw`", "grant"),
        ("GRANT LOAD ON ALL DATA TO `PUBLIC`", "public rights"),
        ('GRANT LOAD ON CIDR "10.0.0.0/8" TO `PUBLIC`', "public rights"),
        ("REVOKE ROLE `lernmi_rw` FROM `lernmi_user`", "membership"),
        ("GRANT ROLE `admin` TO `lernmi_user`", "membership"),
        ("GRANT ROLE `lernmi_rw` TO `neo4j`", "membership"),
        ("ALTER DATABASE `lernmi` SET ACCESS READ ONLY", "database"),
    ],
)
def test_each_drift_is_seen_and_repaired(server: Enterprise, damage: str, kind: str) -> None:
    server.run(damage)
    assert {change.resource.kind for change in changes(server)} == {kind}
    apply(server)
    assert changes(server) == ()


def test_a_user_who_is_suspended_or_at_home_elsewhere_is_put_right(server: Enterprise) -> None:
    server.users["lernmi_user"].update(suspended=True, home="beep-boop")
    (change,) = changes(server)
    assert [field.field for field in change.fields] == ["suspended", "home"]
    (statement,) = statements(change, CONTEXT)
    assert statement.text == "ALTER USER `lernmi_user` SET STATUS ACTIVE SET HOME DATABASE `lernmi`"
    assert statement.binds == ()


def test_an_immutable_right_is_left_alone(server: Enterprise) -> None:
    server.rights.add("GRANT IMMUTABLE ACCESS ON DATABASE `neo4j` TO `lernmi_rw`")
    assert changes(server) == ()


def test_an_unmarked_database_is_a_conflict_and_nothing_of_the_app_is_made() -> None:
    server = Enterprise()
    server.run("CREATE DATABASE `lernmi` WAIT")
    of_lernmi = [change for change in changes(server) if change.resource.app == "lernmi"]
    assert [change.action for change in of_lernmi] == [Action.CONFLICT]


def test_adopting_marks_and_touches_no_data() -> None:
    server = Enterprise()
    server.run("CREATE DATABASE `lernmi` WAIT")
    planned = diff(desired(APPS[:1], CONTEXT), live(server, APPS[:1]), frozenset({"lernmi"}))
    sent = [statement.text for change in planned for statement in statements(change, CONTEXT)]
    assert sent[0] == "CREATE ROLE `multidb_digi_OWNS_lernmi` IF NOT EXISTS"
    assert not any("DATABASE" in text.split("`")[0] and text.startswith(("CREATE", "DROP")) for text in sent)


def test_another_project_is_refused_and_cannot_adopt(server: Enterprise) -> None:
    rival = StoreContext("rival", FACTS)
    found = diff(desired(APPS, rival), live(server, APPS, rival), frozenset({"lernmi"}))
    conflicts = [change for change in found if change.resource.app == "lernmi"]
    assert {change.action for change in conflicts} == {Action.CONFLICT}
    assert "digi/lernmi" in conflicts[0].reason


def test_marks_of_two_projects_refuse_both() -> None:
    server = Enterprise()
    for project in ("digi", "rival"):
        server.roles.add(mark_name(Owner(project, "lernmi"), mode(CONTEXT)))
    for project in ("digi", "rival"):
        context = StoreContext(project, FACTS)
        marks = [resource for resource in live(server, APPS[:1], context) if isinstance(resource, Mark)]
        assert [mark.owner.project for mark in marks if mark.owner] == [({"digi", "rival"} - {project}).pop()]


def test_a_cluster_lists_a_database_once_per_server(server: Enterprise) -> None:
    listing = server.listing()
    twice = type(listing)([*listing.databases, *listing.databases], listing.users, listing.members, listing.commands)
    inspection = Inspection(CONTEXT, APPS, desired(APPS, CONTEXT), MemorySecretStore())
    assert twice.resources(inspection) == listing.resources(inspection)
