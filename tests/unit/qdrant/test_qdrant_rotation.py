"""Rotations of an app's token: who is let in at each step, by a server that lets in whom the documentation says."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import jwt
import pytest

from multidb import removal
from multidb.alternation import alternations
from multidb.audit import audit
from multidb.errors import Refused
from multidb.fleet import Scope
from multidb.model import (
    Alternates,
    App,
    Inspection,
)
from multidb.orphans import orphans
from multidb.provisioners.qdrant import PROVISIONER
from multidb.provisioners.qdrant.provision.options import AppOptions
from multidb.provisioners.qdrant.provision.resources import (
    QdrantFacts,
    admission_claim,
    alternates,
    token_name,
    token_ref,
)
from multidb.provisioners.qdrant.provision.statements import Call
from multidb.provisioners.qdrant.provision.tokens import claims_of
from multidb.rotation_state import UnknownUse
from multidb.secrets import Alternate, Secret
from tests.unit.qdrant.rotated_apps import KEY, REGISTRY, SERVER, World
from tests.unit.qdrant.token_server import ended


def test_both_tokens_work_until_the_old_one_is_turned_off(world: World) -> None:
    old, other = world.token(), world.token("devao")
    assert world.lets_in(old)
    assert not world.lets_in(old, "devao")
    world.rotation().prepare()
    new = world.token()
    assert new != old
    assert world.lets_in(old)
    assert world.lets_in(new)
    assert world.engine.plan().in_sync
    world.rotation().prepare()
    assert world.token() == new, "prepared once"
    with pytest.raises(Refused, match="nobody can tell who uses them"):
        world.rotation().finish(force=False)
    with pytest.raises(Refused, match="nobody can tell"):
        world.rotation().finish(force=False, after=timedelta(hours=1))
    (use,) = world.rotation().finish(force=False, after=timedelta(0)).values()
    assert isinstance(use, UnknownUse)
    assert not world.lets_in(old)
    assert world.lets_in(new)
    assert world.engine.plan().in_sync
    assert world.token("devao") == other
    assert world.lets_in(other, "devao")


def test_no_token_that_was_turned_off_is_ever_let_in_again(world: World) -> None:
    """The first slot gets another token in the second rotation; what an old copy of an env file has opens nothing."""
    issued = [world.token()]
    for _ in range(4):
        world.rotation().prepare()
        world.rotation().finish(force=True)
        issued.append(world.token())
        assert [world.lets_in(token) for token in issued] == [*[False] * (len(issued) - 1), True]
    assert len(set(issued)) == len(issued)
    assert len({entry for entry in world.entries() if entry.startswith("lernmi")}) == 1


def test_a_rotation_goes_back(world: World) -> None:
    old = world.token()
    world.rotation().prepare()
    new = world.token()
    assert world.rotation().revert()
    assert world.token() == old
    assert world.lets_in(new)
    world.rotation().finish(force=True)
    assert world.lets_in(old)
    assert not world.lets_in(new)
    assert world.entries() == {"lernmi", "devao"}


def test_a_state_that_was_lost_is_read_from_the_registry(world: World) -> None:
    world.rotation().prepare()
    world.rotation().finish(force=True)
    token = world.token()
    (known,) = alternations(world.state).values()
    with world.state.change("alternation") as section:
        section.clear()
    assert world.engine.plan().in_sync
    assert world.token() == token
    (read,) = alternations(world.state).values()
    assert (read.current, read.phase, read.serials) == (known.current, known.phase, known.serials)
    world.rotation().prepare()
    with world.state.change("alternation") as section:
        section.clear()
    assert world.engine.plan().in_sync
    (read,) = alternations(world.state).values()
    assert (read.current, read.under_way) == (Alternate.FIRST, True)


def test_an_app_that_is_removed_and_comes_back_in_the_middle_has_both_again(world: World) -> None:
    old = world.token()
    world.rotation().prepare()
    new = world.token()
    with world.engine.fleet.locked(SERVER) as session:
        context = world.engine.fleet.context(SERVER, session)
        app = world.project.apps["lernmi"]
        off = session.suspension(app, context)
        list(session.run(off, world.state.secrets))
        assert session.suspension(app, context) == ()
    assert not world.lets_in(old)
    assert not world.lets_in(new)
    assert world.lets_in(world.token("devao"), "devao")
    world.apply()
    assert world.lets_in(old)
    assert world.lets_in(new)
    world.rotation().finish(force=True)
    assert not world.lets_in(old)


def test_an_app_that_is_purged_leaves_nothing_of_either_token(world: World) -> None:
    world.rotation().prepare()
    tokens = [world.token(), world.state.secrets.get(token_ref("lernmi"))]
    del world.project.apps["lernmi"]
    things = orphans(world.engine.fleet)
    assert {app: dict(stores) for app, stores in things.items()} == {
        "lernmi": {"qdrant": ["token", "collection lernmi_knowledge"]}
    }
    removal._forget_everything(world.engine.fleet, "lernmi")
    assert alternations(world.state) == {}
    assert all(tokens)
    assert world.state.secrets.refs("lernmi") == frozenset()


def test_an_audit_tries_the_token_that_was_replaced(world: World) -> None:
    old = world.token()
    assert tried(world) is None, "there is none yet"
    world.rotation().prepare()
    assert tried(world) is None, "both are to work"
    world.rotation().finish(force=True)
    assert tried(world) == ("refused", "refused")
    body = {"points": [{"id": 7, "vector": {}, "payload": {"app": "lernmi"}}]}
    world.server.answer(Call("PUT", f"/collections/{REGISTRY}/points?wait=true", body), KEY)
    assert world.lets_in(old), "somebody lets it in again"
    assert tried(world) == ("refused", "allowed")
    with world.engine.fleet.open(SERVER) as session:
        app, context = world.project.apps["lernmi"], world.engine.fleet.context(SERVER, session)
        desired = PROVISIONER.desired([app], context)
        search = session.search(Inspection(context, [app], desired, world.state.secrets))
    assert "second admission" in {hole.name for hole in search.holes}


def tried(world: World) -> tuple[str, str] | None:
    """What was promised, and what came, of the credential before."""
    fleet = world.engine.fleet
    found = audit(fleet, Scope(apps=frozenset({"lernmi"})))
    probes = [act.probe for act in found.tried if "before the last rotation" in act.probe.name]
    return (probes[0].expected.value, probes[0].got.value) if probes else None


def test_a_token_that_has_ended_is_refused_without_a_breach(world: World) -> None:
    claims = claims_of(Secret(world.token())) or {}
    assert not world.lets_in(jwt.encode({**claims, "exp": ended(1)}, KEY, algorithm="HS256"))


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (QdrantFacts("Qdrant", "1.18.3", api_key=True, rbac=True), ""),
        (QdrantFacts("Qdrant", "1.18.3", api_key=True), "the server's own api key"),
        (QdrantFacts("Qdrant", "1.18.3"), "asks for no key"),
        (QdrantFacts("Qdrant local mode", "1.20", local=True), "local mode"),
    ],
)
def test_where_there_is_nothing_to_rotate_that_is_said(facts: QdrantFacts, why: str) -> None:
    said = PROVISIONER.rotates(App("lernmi", "lernmi", {"qdrant": AppOptions()}), facts)
    assert why in said
    assert bool(said) is bool(why)


def test_the_first_token_asks_for_the_app_and_others_for_themselves() -> None:
    both = Alternates(Alternate.SECOND, frozenset(Alternate), tuple(Alternate), {Alternate.SECOND: 12})
    assert [token_name("lernmi", both, alternate) for alternate in Alternate] == ["lernmi", "lernmi.second.12"]
    later = replace(both, serials={Alternate.FIRST: 13, Alternate.SECOND: 12})
    assert token_name("lernmi", later, Alternate.FIRST) == "lernmi.first.13"
    assert admission_claim("r", "lernmi") == {"collection": "r", "matches": [{"key": "app", "value": "lernmi"}]}
    assert admission_claim("r", "a.second.1")["matches"] == [{"key": "token", "value": "a.second.1"}]


@pytest.mark.parametrize(
    ("tokens", "current", "working"),
    [
        (["a", "a.second.5"], Alternate.FIRST, set(Alternate)),
        (["a.second.5"], Alternate.SECOND, {Alternate.SECOND}),
        (["a.first.9", "a.first.7"], Alternate.FIRST, {Alternate.FIRST}),
        (["a.second"], Alternate.SECOND, {Alternate.SECOND}),
        (["a.second.x"], Alternate.SECOND, {Alternate.SECOND}),
    ],
)
def test_the_registry_says_which_tokens_are_let_in(
    tokens: list[str], current: Alternate, working: set[Alternate]
) -> None:
    others = [("multidb__tokens__else", "a.second.1"), ("multidb__tokens__digi", "b.second.1")]
    facts = QdrantFacts("Qdrant", "1.18.3", rotated=(*others, *((REGISTRY, token) for token in tokens)))
    read = alternates(facts, "digi")
    assert set(read) == {"a", "b"}
    assert (read["a"].current, set(read["a"].working)) == (current, working)
    assert read["a"].serials == (
        {Alternate.FIRST: 9} if "a.first.9" in tokens else {Alternate.SECOND: 5} if "a.second.5" in tokens else {}
    )
