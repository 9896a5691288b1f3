"""Qdrant watched: health as an app finds it, walls tried, holes found, usage counted, apps suspended and removed."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from multidb.errors import AuthenticationFailed, ServerDown, ServerError, ServerSlow
from multidb.model import Endpoint, Health, Outcome, Probe, Statement, Status, Tenant
from multidb.provisioners.qdrant import PROVISIONER
from multidb.provisioners.qdrant.provision.resources import admission_claim, registry_name, token_ref
from multidb.secrets import Secret
from tests.contract.case_qdrant import VECTOR, ask, local_folder, opened, real_server
from tests.contract.qdrant_driver import Driver, app
from tests.support.case import RealServer

pytestmark = pytest.mark.server

DAY = 86_400
C = "/collections/lernmi_knowledge"
REGISTRY = f"/collections/{registry_name('contract')}"
PLANTED = {"id": "5c56c793-69f3-4fbf-87e6-c4bf54c28c26", "vector": {}, "payload": {"app": "lernmi"}}
ALIAS = {"create_alias": {"collection_name": "lernmi_knowledge", "alias_name": "multidb__tokens__later"}}
KINDS: dict[str, Any] = {
    "knowledge": {"size": 4},
    "pages": {"vectors": {"title": {"size": 3}, "body": {"size": 2}}, "sparse": {"words": {}}},
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with real_server(tmp_path_factory.mktemp("qdrant"), own=True) as real:
        yield real


@pytest.fixture
def real(shared: RealServer) -> Iterator[RealServer]:
    yield shared
    for entry in ask(shared, "GET", "/collections").json()["result"]["collections"]:
        ask(shared, "DELETE", f"/collections/{entry['name']}")


def health(tenant: Tenant, may_write: bool = True) -> Health:
    assert PROVISIONER.check_health
    return PROVISIONER.check_health(tenant, may_write)


def probes(attacker: Tenant, *victims: Tenant) -> list[Probe]:
    assert PROVISIONER.probe
    return list(PROVISIONER.probe(attacker, victims))


def fill(real: RealServer, name: str = "lernmi_knowledge", count: int = 3) -> None:
    points = [{"id": n, "vector": VECTOR, "payload": {"tenant_id": "lernmi"}} for n in range(1, count + 1)]
    ask(real, "PUT", f"/collections/{name}/points?wait=true", {"points": points}).raise_for_status()


def counted(real: RealServer, name: str) -> int:
    return int(ask(real, "POST", f"/collections/{name}/points/count", {"exact": True}).json()["result"]["count"])


# --- health ---


def test_a_healthy_app_is_tried_and_nothing_stays(real: RealServer) -> None:
    for kinds in (KINDS, dict(reversed(KINDS.items()))):
        driver = Driver(real, app("lernmi", **kinds))
        driver.apply()
        found = health(driver.tenant(driver.apps[0]))
        assert (found.status, found.fix) == (Status.HEALTHY, "")
        assert found.message == f"wrote and read lernmi_{next(iter(kinds))}"
        assert found.latency is not None
        assert 0 < found.latency < 5
    assert health(driver.tenant(driver.apps[0]), may_write=False).message == "read lernmi_pages"
    assert (counted(real, "lernmi_knowledge"), counted(real, "lernmi_pages")) == (0, 0)


def test_a_read_only_check_writes_nothing(real: RealServer) -> None:
    driver = Driver(real, app())
    driver.apply()
    driver.read_only = frozenset({"lernmi"})
    driver.apply()
    assert health(driver.tenant(driver.apps[0]), may_write=False).status is Status.HEALTHY
    assert "over its quota" in health(driver.tenant(driver.apps[0])).message


def _token(days: float = 100, reaches: str = "lernmi_knowledge") -> Callable[[Driver], None]:
    def sign(driver: Driver) -> None:
        assert driver.real.admin
        claims = {
            "access": [{"collection": reaches, "access": "prw"}],
            "value_exists": admission_claim(registry_name("contract"), "lernmi"),
            "exp": int(time.time() + days * DAY),
        }
        token = jwt.encode(claims, driver.real.admin.reveal(), algorithm="HS256")
        driver.secrets.put({token_ref("lernmi"): Secret(token)})

    return sign


def _admin(method: str, path: str, body: Any = None) -> Callable[[Driver], None]:
    return lambda driver: ask(driver.real, method, path, body).raise_for_status()


@pytest.mark.parametrize(
    ("damage", "status", "message"),
    [
        (_admin("DELETE", C), Status.DEGRADED, "without collection lernmi_knowledge"),
        (_admin("DELETE", f"{C}/index/tenant_id?wait=true"), Status.DEGRADED, "no index on tenant_id"),
        (_token(10), Status.DEGRADED, "its token ends on"),
        (_token(reaches="lernmi_others"), Status.DEGRADED, "without collection lernmi_knowledge"),
    ],
)
def test_what_needs_a_person_is_told_with_the_command(
    real: RealServer, damage: Callable[[Driver], None], status: Status, message: str
) -> None:
    driver = Driver(real, app())
    driver.apply()
    damage(driver)
    found = health(driver.tenant(driver.apps[0]))
    assert (found.status, found.fix) == (status, "multidb apply --app lernmi")
    assert message in found.message
    driver.apply()
    assert health(driver.tenant(driver.apps[0])).status is Status.HEALTHY


def test_a_server_that_is_silent_or_gone_costs_one_timeout(tmp_path: Path) -> None:
    with real_server(tmp_path, own=True) as real:
        driver = Driver(real, app())
        driver.apply()
        tenant = driver.tenant(driver.apps[0], replace(real.server, timeout=1.0))
        assert real.pid
        assert real.kill
        os.kill(real.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(ServerSlow):
                health(tenant)
            assert time.monotonic() - begun < 6
        finally:
            os.kill(real.pid, signal.SIGCONT)
        real.kill()
        with pytest.raises(ServerDown):
            health(tenant)


def test_a_proxy_that_drips_costs_one_timeout(real: RealServer) -> None:
    """Every byte comes in time and the answer never does."""
    driver = Driver(real, app())
    driver.apply()
    tenant = driver.tenant(driver.apps[0])
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{")
                try:
                    for _ in range(300):
                        peer.sendall(b" ")
                        time.sleep(0.1)
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        endpoint = Endpoint(host="127.0.0.1", port=listening.getsockname()[1])
        begun = time.monotonic()
        with pytest.raises(ServerSlow):
            health(replace(tenant, server=replace(real.server, endpoint=endpoint, timeout=1.0)))
        assert time.monotonic() - begun < 10
        thread.join()


# --- suspension, removal ---


def test_a_suspended_app_is_refused_at_once_and_apply_lets_it_in_again(real: RealServer) -> None:
    driver = Driver(real, app(), app("devao"))
    driver.apply()
    lernmi, devao = (driver.tenant(each) for each in driver.apps)
    fill(real)
    statements = driver.asked(lambda session, context: session.suspension(driver.apps[0], context))
    assert [s.text.split("\n")[0] for s in statements] == [
        "POST /collections/multidb__tokens__contract/points/delete?wait=true"
    ]
    driver.run(statements)
    with pytest.raises(AuthenticationFailed, match="suspended"):
        health(lernmi)
    assert ask(real, "GET", C, key=driver.token("lernmi")).status_code == 401
    assert health(devao).status is Status.HEALTHY
    assert driver.asked(lambda session, context: session.suspension(driver.apps[0], context)) == ()
    (change,) = driver.apply()
    assert change.resource.kind == "token admission"
    assert health(lernmi).status is Status.HEALTHY, "the same token is good again"
    assert counted(real, "lernmi_knowledge") == 3


def test_removal_drops_what_bears_the_mark_and_nothing_else(real: RealServer, tmp_path: Path) -> None:
    driver = Driver(real, app(), app("devao"))
    driver.apply()
    fill(real)
    fill(real, "devao_knowledge")
    ask(real, "PUT", "/collections/lernmi_by_hand", {"vectors": {"size": 4, "distance": "Dot"}}).raise_for_status()
    ask(real, "POST", f"{C}/snapshots?wait=true").raise_for_status()
    alias = {"create_alias": {"collection_name": "lernmi_knowledge", "alias_name": "search"}}
    ask(real, "POST", "/collections/aliases", {"actions": [alias]}).raise_for_status()
    token = driver.token("lernmi")
    statements = driver.asked(lambda session, context: session.removal(driver.apps[0], context))
    driver.run([*statements, *statements])  # as after an interruption
    names = {entry["name"] for entry in ask(real, "GET", "/collections").json()["result"]["collections"]}
    assert names == {"devao_knowledge", "lernmi_by_hand", registry_name("contract")}
    assert ask(real, "GET", "/aliases").json()["result"]["aliases"] == []
    assert ask(real, "GET", "/collections", key=token).status_code == 401
    assert counted(real, "devao_knowledge") == 3
    assert driver.asked(lambda session, context: session.removal(driver.apps[0], context)) == ()
    driver.apply()
    assert ask(real, "GET", f"{C}/snapshots").json()["result"] == [], "a collection's snapshots outlive it"


# --- the walls, and holes in them ---


def test_every_wall_holds_and_every_probe_would_work_on_the_own_collection(real: RealServer) -> None:
    driver = Driver(real, app("lernmi", **KINDS), app("devao", pages=KINDS["pages"]))
    driver.apply()
    fill(real)
    before = ask(real, "POST", f"{C}/points/scroll", {"with_vector": True}).json()["result"]
    lernmi, devao = (driver.tenant(each) for each in driver.apps)
    for attacker, victim in ((devao, lernmi), (lernmi, devao)):
        found = probes(attacker, victim)
        assert [probe for probe in found if not probe.ok] == []
        allowed = [probe.name for probe in found if probe.got is Outcome.ALLOWED]
        assert set(allowed) <= {"names in telemetry"}
        assert len(found) >= 28
    assert ask(real, "POST", f"{C}/points/scroll", {"with_vector": True}).json()["result"] == before
    assert driver.changes() == ()


def test_a_token_that_opens_everything_is_a_breach_by_every_probe(real: RealServer) -> None:
    driver = Driver(real, app(), app("devao"))
    driver.apply()
    fill(real)
    assert real.admin
    broad = jwt.encode({"exp": int(time.time()) + 900}, real.admin.reveal(), algorithm="HS256")
    driver.secrets.put({token_ref("devao"): Secret(broad)})
    names = sorted(entry["name"] for entry in ask(real, "GET", "/collections").json()["result"]["collections"])
    found = probes(driver.tenant(driver.apps[1]), driver.tenant(driver.apps[0]))
    kept = {probe.name for probe in found if not probe.breach}
    assert kept == {
        "names in telemetry",
        "a token with altered claims",
        "a token without signature",
        "a token signed with the app's token",
    }
    assert counted(real, "lernmi_knowledge") == 3, "harmless, also where everything is let through"
    assert sorted(entry["name"] for entry in ask(real, "GET", "/collections").json()["result"]["collections"]) == names
    assert [hole.name for hole in driver.holes()] == ["token opens too much"]


def test_a_probe_whose_control_fails_proves_nothing(real: RealServer) -> None:
    driver = Driver(real, app(), app("devao"))
    driver.apply()
    devao, lernmi = driver.tenant(driver.apps[1]), driver.tenant(driver.apps[0])
    ask(real, "DELETE", "/collections/devao_knowledge").raise_for_status()
    broken = {probe.name for probe in probes(devao, lernmi) if probe.got is Outcome.BROKEN}
    assert {"scroll", "list collections", "delete points"} <= broken


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("no tenant index", _admin("DELETE", f"{C}/index/tenant_id?wait=true")),
        ("snapshots kept", _admin("POST", f"{C}/snapshots?wait=true")),
        ("snapshot of everything kept", _admin("POST", "/snapshots?wait=true")),
        ("second admission", _admin("PUT", f"{REGISTRY}/points?wait=true", {"points": [PLANTED]})),
        ("second admission", _admin("PUT", f"{REGISTRY}/points?wait=true", {"points": [{**PLANTED, "id": 7}]})),
        ("alias in multidb's own names", _admin("POST", "/collections/aliases", {"actions": [ALIAS]})),
        ("token opens too much", lambda driver: driver.secrets.put({token_ref("lernmi"): driver.real.admin})),
    ],
)
def test_a_hole_is_named_and_its_statement_closes_it(
    real: RealServer, name: str, damage: Callable[[Driver], None]
) -> None:
    driver = Driver(real, app())
    driver.apply()
    assert driver.holes() == []
    damage(driver)
    (hole,) = driver.holes()
    assert hole.name == name
    assert hole.app in ("lernmi", None), "one of the manifest's, or the audit takes it for somebody else's business"
    if hole.closes == ("multidb apply --app lernmi",):  # tokens are signed here: the server has no request for it
        driver.apply()
    else:
        driver.run([Statement(text) for text in hole.closes])
    assert driver.holes() == []


def test_a_snapshot_behind_an_overwritten_mark_is_found(real: RealServer) -> None:
    driver = Driver(real, app())
    driver.apply()
    for path in ("/collections/lernmi_knowledge", "/collections/lernmi_old"):
        if path.endswith("old"):
            _admin("PUT", path, {"vectors": {"size": 4, "distance": "Dot"}})(driver)
        _admin("POST", f"{path}/snapshots?wait=true")(driver)
        _admin("PATCH", path, {"metadata": {"multidb": {"project": None, "app": ["x"]}}})(driver)
    found = [hole for hole in driver.holes() if hole.name == "snapshots kept"]
    assert {(hole.subject, hole.app) for hole in found} == {
        ("collection lernmi_knowledge", "lernmi"),
        ("collection lernmi_old", "lernmi"),
    }
    for hole in found:
        driver.run([Statement(text) for text in hole.closes])
    assert [hole for hole in driver.holes() if hole.name == "snapshots kept"] == []


def test_the_token_of_an_app_that_is_gone_is_a_hole_and_what_nobody_claims_is_told(real: RealServer) -> None:
    driver = Driver(real, app(), app("devao"))
    driver.apply()
    assert [remark.subject for remark in driver.search().remarks] == ["server"]
    for name in ("lernmi_old", "multidb__new__mine", "elsewhere"):
        _admin("PUT", f"/collections/{name}", {"vectors": {"size": 4, "distance": "Dot"}})(driver)
    driver.apps = driver.apps[:1]
    found, token = driver.search(), driver.token("devao")
    (hole,) = found.holes
    assert (hole.subject, hole.app) == ("token devao", None), "nobody's, or the audit would leave it out"
    assert {(remark.subject, remark.app) for remark in found.remarks} == {
        ("server", None),
        ("collection lernmi_old", "lernmi"),
        ("collection multidb__new__mine", None),
        ("collection devao_knowledge", None),
    }
    objects = {each.catalog: each.objects for each in found.catalogs}
    assert (objects["the registry of tokens"], objects["GET /collections/<name>"]) == (2, 6)
    assert ask(real, "POST", "/collections/devao_knowledge/points/scroll", {}, key=token).status_code == 200
    driver.run([Statement(text) for text in hole.closes])
    assert driver.holes() == []
    assert ask(real, "POST", "/collections/devao_knowledge/points/scroll", {}, key=token).status_code == 401


def test_an_alias_in_a_lost_collections_name_is_a_hole(real: RealServer) -> None:
    """devao's token lists its own collection; an alias of that name opens what it leads to."""
    driver = Driver(real, app(), app("devao"))
    driver.apply()
    fill(real)
    ask(real, "DELETE", "/collections/devao_knowledge").raise_for_status()
    alias = {"create_alias": {"collection_name": "lernmi_knowledge", "alias_name": "devao_knowledge"}}
    ask(real, "POST", "/collections/aliases", {"actions": [alias]}).raise_for_status()
    opens = ask(real, "POST", "/collections/devao_knowledge/points/scroll", {}, key=driver.token("devao"))
    (hole,) = [hole for hole in driver.holes() if hole.name.startswith("alias")]
    assert hole.app == "devao"
    assert opens.status_code == 200, "it is a real hole"


def test_servers_without_walls_say_so(tmp_path: Path) -> None:
    with real_server(tmp_path, api_key="", own=True) as real:
        driver = Driver(real, app(), app("devao"))
        driver.apply()
        assert [hole.name for hole in driver.holes()] == ["no api key"]
        found = probes(driver.tenant(driver.apps[0]), driver.tenant(driver.apps[1]))
        assert {probe.got for probe in found} == {Outcome.ALLOWED}
        assert not [probe for probe in found if not probe.ok]


# --- usage, quotas ---


def test_usage_is_counted_for_each_app_by_one_call(real: RealServer) -> None:
    driver = Driver(real, app("lernmi", **KINDS), app("devao"))
    driver.apply()
    fill(real, count=300)
    fill(real, "devao_knowledge", 20)
    usage = driver.asked(lambda session, context: session.usage(context, driver.apps))
    lernmi, devao = usage.apps["lernmi"], usage.apps["devao"]
    assert (lernmi.counts["points"], lernmi.counts["vectors"], lernmi.counts["collections"]) == (300, 300, 2)
    assert (devao.counts["points"], devao.estimated) == (20, False)
    assert lernmi.size is not None
    assert devao.size is not None
    assert 300 * 4 * 4 <= lernmi.size < 1_000_000
    assert devao.size < lernmi.size <= usage.size
    assert [name for name, _ in lernmi.largest] == ["lernmi_knowledge", "lernmi_pages"]


def test_an_app_over_its_quota_reads_and_deletes_and_does_not_grow(real: RealServer) -> None:
    driver = Driver(real, app(), app("devao"))
    driver.apply()
    fill(real)
    driver.read_only = frozenset({"lernmi"})
    (change,) = driver.apply()
    assert [(f.field, f.old, f.new) for f in change.fields] == [("read_only", False, True)]
    token = driver.token("lernmi")
    more = {"points": [{"id": 9, "vector": VECTOR}]}
    refused = ask(real, "PUT", f"{C}/points?wait=true", more, key=token)
    assert (refused.status_code, "Limit exceeded" in refused.text) == (400, True)
    batch = {"operations": [{"upsert": more}]}
    assert ask(real, "POST", f"{C}/points/batch?wait=true", batch, key=token).status_code == 400
    assert ask(real, "POST", f"{C}/points/scroll", {}, key=token).status_code == 200
    ask(real, "POST", f"{C}/points/delete?wait=true", {"points": [1]}, key=token).raise_for_status()
    assert counted(real, "lernmi_knowledge") == 2
    driver.read_only = frozenset()
    driver.apply()
    ask(real, "PUT", f"{C}/points?wait=true", more, key=token).raise_for_status()


# --- local mode ---


def test_a_local_folder_is_watched_too(tmp_path: Path) -> None:
    with local_folder(tmp_path) as real:
        driver = Driver(real, app("lernmi", **KINDS), app("devao"))
        driver.apply()
        lernmi, devao = (driver.tenant(each) for each in driver.apps)
        assert health(lernmi).message == "wrote and read lernmi_knowledge"
        with opened(real.server.endpoint.path) as client:
            assert client.count("lernmi_knowledge").count == 0
            locked = health(replace(lernmi, server=replace(real.server, timeout=0.3)))
            assert (locked.status, "another process" in locked.message) == (Status.DEGRADED, True)
            with pytest.raises(ServerError):
                probes(replace(lernmi, server=replace(real.server, timeout=0.3)), devao)
        found = probes(lernmi, devao)
        assert {(probe.expected, probe.got) for probe in found} == {(Outcome.ALLOWED, Outcome.ALLOWED)}
        assert driver.holes() == []
        usage = driver.asked(lambda session, context: session.usage(context, driver.apps))
        assert usage.apps["lernmi"].estimated
        assert driver.asked(lambda session, context: session.suspension(driver.apps[0], context)) == ()
        driver.run(driver.asked(lambda session, context: session.removal(driver.apps[0], context)))
        with opened(real.server.endpoint.path) as client:
            assert [entry.name for entry in client.get_collections().collections] == ["devao_knowledge"]
