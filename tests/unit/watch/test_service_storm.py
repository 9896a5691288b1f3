"""A storm on `multidb serve` while its servers are slow: what reaches them, counted where it arrives."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest

from multidb.model import Health, Tenant
from multidb.provisioners import provisioner
from multidb.service.application import Intervals, Service, application
from multidb.service.sources import Sources
from tests.support.toy_store import SHELF
from tests.unit.watch.conftest import OpenShop

PATHS = ("/health/databases", "/health/databases/ann", "/health/databases/eve", "/metrics", "/")


class Doorman:
    """Stands before the check of a store and counts who is in, by app."""

    def __init__(self) -> None:
        self.checks: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._inside: Counter[str] = Counter()
        self._guard = threading.Lock()

    def enter(self, app: str) -> None:
        with self._guard:
            self.checks[app] += 1
            self._inside[app] += 1
            self.most[app] = max(self.most[app], self._inside[app])

    def leave(self, app: str) -> None:
        with self._guard:
            self._inside[app] -= 1


@pytest.fixture
def doorman(toy: None, monkeypatch: pytest.MonkeyPatch) -> Doorman:
    found, check = Doorman(), provisioner("toy").check_health
    assert check is not None

    def counted(tenant: Tenant, may_write: bool) -> Health:
        found.enter(tenant.app.id)
        try:
            return check(tenant, may_write)
        finally:
            found.leave(tenant.app.id)

    slow = replace(provisioner("toy"), check_health=counted)
    monkeypatch.setattr("multidb.health.provisioner", lambda name: slow)
    return found


def test_a_storm_on_slow_servers_is_never_two_checks_of_one_place(open_shop: OpenShop, doorman: Doorman) -> None:
    """Nothing is cached, the service looks by itself as well, one server is slow and one says nothing."""
    engine = open_shop(["ann", "bob", "eve"], each=True)
    SHELF.lag, SHELF.silent, SHELF.patience = 0.03, {"toy-eve"}, 0.1
    began = time.monotonic()

    async def storm() -> list[int]:
        with ThreadPoolExecutor(5) as executor:
            intervals = Intervals(health=0.01, usage=0, backups=0, drift=0, audit=0)
            service = Service(Sources(lambda: engine), executor, intervals=intervals, fresh=0)
            transport = httpx.ASGITransport(application(service, token=None, loopback_only=True))
            async with service.running(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                codes = []
                for _ in range(4):
                    asked = [client.get(path) for path in PATHS for _ in range(20)]
                    codes += [answer.status_code for answer in await asyncio.gather(*asked)]
                return codes

    codes = asyncio.run(storm())
    assert Counter(codes) == {503: 160, 200: 240}, "of the app that is well, of the metrics and of the page"
    assert set(doorman.most.values()) == {1}
    assert set(doorman.checks) == {"ann", "bob", "eve"}
    assert max(doorman.checks.values()) <= (time.monotonic() - began) / SHELF.patience + 1
