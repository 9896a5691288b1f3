"""A project on a Redis or Valkey server, and the steps that the engine takes there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multidb.model import App, Change, Inspection, Server, Statement, StoreContext
from multidb.plan import diff
from multidb.provisioners.redis import PROVISIONER
from multidb.provisioners.redis.provision.options import AppOptions, ServerOptions
from multidb.provisioners.redis.provision.session import RedisSession, connect
from multidb.secrets import Alternate, MemorySecretStore, Secret, SecretRef, generate
from tests.support.case import RealServer, Tenant


class Project:
    """Apps on one server, applied as the engine does it."""

    def __init__(self, real: RealServer, **options: Any) -> None:
        self.real = real
        self.options = options
        self.secrets = MemorySecretStore()
        self.recorded: dict[str, int] = {}
        self.server_options = ServerOptions()

    def apps(self, names: Sequence[str]) -> list[App]:
        return [App(name, name, {"redis": AppOptions(**self.options)}) for name in names]

    def connect(self, timeout: float = 10) -> RedisSession:
        server = Server("redis", "redis", self.real.server.endpoint, timeout=timeout)
        return connect(server, self.real.admin, "multidb test")

    def context(self, session: RedisSession, apps: Sequence[App]) -> StoreContext:
        assert PROVISIONER.allocate is not None
        self.recorded |= PROVISIONER.allocate(apps, session.facts, self.recorded)
        return StoreContext("realtest", session.facts, self.server_options, self.recorded)

    def plan(self, session: RedisSession, *names: str) -> tuple[tuple[Change, ...], list[Statement]]:
        apps = self.apps(names)
        context = self.context(session, apps)
        desired = PROVISIONER.desired(apps, context)
        live = session.inspect(Inspection(context, apps, desired, self.secrets))
        changes = diff(desired, live)
        return changes, [each for change in changes for each in PROVISIONER.statements(change, context)]

    def generate(self, *names: str) -> None:
        for app in self.apps(names):
            password, digest = (spec for spec in PROVISIONER.secrets(app) if spec.alternate is Alternate.FIRST)
            if self.secrets.get(password.ref) is None:
                value = generate()
                assert digest.derive is not None
                self.secrets.put({password.ref: value, digest.ref: Secret(digest.derive(value.reveal()))})

    def apply(self, *names: str, only: int | None = None) -> None:
        """Sends the plan's statements, or only the first so many."""
        self.generate(*names)
        with self.connect() as session:
            for _ in session.run(self.plan(session, *names)[1][:only], self.secrets):
                pass

    def in_sync(self, *names: str) -> bool:
        with self.connect() as session:
            return not self.plan(session, *names)[0]

    def tenant(self, name: str) -> Tenant:
        with self.connect() as session:
            [app] = self.apps([name])
            context = self.context(session, [app])
            env = PROVISIONER.env(app, context, self.real.server.endpoint, self._secret)
        return Tenant(name, {key: v.reveal() if isinstance(v, Secret) else v for key, v in env.items()})

    def _secret(self, ref: SecretRef) -> Secret:
        secret = self.secrets.get(ref)
        assert secret is not None
        return secret
