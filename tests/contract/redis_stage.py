"""Two applied apps on real Valkey and Redis, for tests of what is done with apps that are there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import redis

from multidb.model import App, StoreContext
from multidb.provisioners.redis.backup.archive import RedisArchive
from multidb.provisioners.redis.driver.connection import ask, ask_lines
from multidb.provisioners.redis.provision.options import AppOptions
from tests.contract.case_redis import (
    ADMIN,
    PASSWORD,
    as_admin,
    real_server,
    redis_6_binary,
    redis_8_binary,
    redis_binary,
    valkey_binary,
)
from tests.contract.redis_project import Project
from tests.support.case import RealServer

BINARIES = {"valkey-9": valkey_binary, "redis-7": redis_binary, "redis-8": redis_8_binary, "redis-6": redis_6_binary}
KINDS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("valkey-9", {}),
    ("redis-7", {"scripts": True}),
    ("redis-7", {"isolation": "prefix", "scripts": True}),
    ("redis-8", {}),
)


class Stage:
    """Two applied apps on one server, and an archive of it."""

    def __init__(self, real: RealServer, options: Mapping[str, Any]) -> None:
        self.project = Project(real, **options)
        self.real = real
        self.project.apply("alpha", "beta")
        self.alpha, self.beta = (App(name, name, {"redis": AppOptions(**options)}) for name in ("alpha", "beta"))
        with self.project.connect() as session:
            self.context: StoreContext = self.project.context(session, [self.alpha, self.beta])
        self.prefix = "alpha:" if options.get("isolation") == "prefix" else ""
        self.scripts = bool(options.get("scripts"))

    def archive(self) -> RedisArchive:
        return RedisArchive(self.real.server, self.real.admin, "multidb test")

    def raw(self, app: App) -> redis.Redis:
        """The admin in the app's DB, bytes in and out."""
        endpoint = self.real.server.endpoint
        client = redis.Redis(
            host=endpoint.host,
            port=endpoint.port,
            username=ADMIN,
            password=PASSWORD,
            db=self.context.numbers[app.id],
            protocol=2,
        )
        client.response_callbacks.clear()
        return client


@pytest.fixture(scope="module")
def redis_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RealServer]]:
    with contextlib.ExitStack() as stack:
        started = {}
        for name, binary in BINARIES.items():
            with contextlib.suppress(pytest.skip.Exception):
                folder = tmp_path_factory.mktemp(name)
                started[name] = stack.enter_context(real_server(folder, binary=binary))
        yield started


@contextlib.contextmanager
def on_stage(servers: Mapping[str, RealServer], name: str, options: Mapping[str, Any]) -> Iterator[Stage]:
    if name not in servers:
        pytest.skip(f"{name} is not installed")
    yield Stage(servers[name], options)
    with as_admin(servers[name]) as client:
        for user in set(ask_lines(client, "ACL", "USERS")) - {"default", ADMIN}:
            ask(client, "ACL", "DELUSER", user)
        client.execute_command("FLUSHALL")


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}{'-prefix' if 'isolation' in kind[1] else ''}")
def stage(request: pytest.FixtureRequest, redis_servers: dict[str, RealServer]) -> Iterator[Stage]:
    with on_stage(redis_servers, *request.param) as made:
        yield made


@pytest.fixture
def valkey(redis_servers: dict[str, RealServer]) -> Iterator[Stage]:
    with on_stage(redis_servers, "valkey-9", {}) as made:
        yield made
