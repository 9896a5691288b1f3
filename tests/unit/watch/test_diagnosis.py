"""What doctor asks of the servers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multidb.diagnosis import diagnose
from multidb.model import Endpoint, Finding, Level, Server
from multidb.provisioners import provisioner
from multidb.runtime import ServerState, ServerStatus
from tests.support import toy_store
from tests.unit.watch.conftest import OpenShop


def test_doctor_logs_in_to_each_server_once_for_all_that_it_asks(
    open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    examining = replace(
        toy_store.PROVISIONER,
        advise=lambda apps, context: [Finding(Level.OK, "toy", f"room for {len(apps)}")],
        examine=lambda servers, majors: [Finding(Level.OK, "tools", f"for {majors}")],
    )
    monkeypatch.setattr(toy_store, "PROVISIONER", examining)
    provisioner.cache_clear()
    engine = open_shop(["ann", "bob"])
    before = toy_store.SHELF.logins
    messages = [finding.message for finding in diagnose(engine.fleet)]
    assert {"room for 2", "for [1]"} <= set(messages)
    assert toy_store.SHELF.logins == before + 1
    toy_store.SHELF.down = True
    messages = [finding.message for finding in diagnose(engine.fleet)]
    assert {"nothing listens", "for []"} <= set(messages)


@pytest.mark.parametrize(("external", "way"), [(False, "multidb up"), (True, "external.toy.url in the manifest")])
def test_doctor_names_a_way_to_a_server_that_is_there_in_this_runtime(
    open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch, external: bool, way: str
) -> None:
    engine = open_shop(["ann"])
    server = Server("toy", "toy", Endpoint("127.0.0.1", 0), external=external)
    down = ServerStatus("toy", "toy", ServerState.FAILED, server, "cannot be reached")
    monkeypatch.setattr(engine.fleet.runtime, "status", lambda: [down])
    (finding,) = [finding for finding in diagnose(engine.fleet) if finding.message == "cannot be reached"]
    assert way in finding.fix
