"""A project on a Postgres server, and the steps that the engine takes there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg

from multidb.model import (
    App,
    Change,
    Inspection,
    Probe,
    Statement,
    StoreContext,
    Tenant,
)
from multidb.plan import diff
from multidb.provisioners.postgres import PROVISIONER
from multidb.provisioners.postgres.provision.options import AppOptions
from multidb.provisioners.postgres.provision.resources import password_ref
from multidb.provisioners.postgres.provision.session import PostgresSession
from multidb.secrets import MemorySecretStore, Secret, generate
from tests.support.postgres_servers import SUPERUSER, Cluster

NUMBERS = itertools.count(1)


class Site:
    """A project on the server: its apps, its secrets, and the steps that the engine takes."""

    def __init__(self, served: Cluster, admin: str = SUPERUSER, timeout: float = 10.0) -> None:
        self.served = served
        self.secrets = MemorySecretStore()
        self.admin = admin
        self.timeout = timeout

    def app(self, **options: Any) -> App:
        name = f"s{next(NUMBERS)}"
        return App(name, name, {"postgres": AppOptions(**options)})

    def connect(self, name: str = "multidb test") -> PostgresSession:
        return PostgresSession(self.served.server(self.admin, self.timeout), self.served.admin(self.admin), name)

    def plan(
        self, session: PostgresSession, apps: Sequence[App], *, deep: bool = True, adopt: Sequence[str] = ()
    ) -> list[Change]:
        context = StoreContext("site", session.facts)
        desired = PROVISIONER.desired(apps, context)
        live = session.inspect(Inspection(context, apps, desired, self.secrets, deep))
        changes = diff(desired, live, frozenset(adopt))
        return [replace(change, statements=tuple(PROVISIONER.statements(change, context))) for change in changes]

    def statements(self, session: PostgresSession, apps: Sequence[App], **how: Any) -> list[Statement]:
        self.generate(apps)
        return [statement for change in self.plan(session, apps, **how) for statement in change.statements]

    def generate(self, apps: Sequence[App]) -> None:
        for spec in (spec for app in apps for spec in PROVISIONER.secrets(app)):
            if self.secrets.get(spec.ref) is None:
                source = self.secrets.get(spec.source) if spec.source else None
                made = Secret(spec.derive(source.reveal())) if source and spec.derive else generate()
                self.secrets.put({spec.ref: made})

    def apply(self, apps: Sequence[App], **how: Any) -> None:
        with self.connect() as session:
            list(session.run(self.statements(session, apps, **how), self.secrets))

    def changes(self, apps: Sequence[App], **how: Any) -> list[Change]:
        with self.connect() as session:
            return self.plan(session, apps, **how)

    def settle(self, session: PostgresSession, app: App, context: StoreContext) -> list[Change]:
        """Applies once as the engine does in this context; what a second look would change."""
        for attempt in ("apply", "look"):
            desired = PROVISIONER.desired([app], context)
            changes = diff(desired, session.inspect(Inspection(context, [app], desired, self.secrets)))
            todo = [statement for change in changes for statement in PROVISIONER.statements(change, context)]
            if attempt == "apply":
                list(session.run(todo, self.secrets))
        return list(changes)

    def enter(self, app: App, login: str = "user", *, database: str = "") -> psycopg.Connection[Any]:
        password = self.secrets.get(password_ref(app.id, login))
        assert password is not None
        return psycopg.connect(
            host="127.0.0.1",
            port=self.served.port,
            user=f"{app.id}_{login}",
            password=password.reveal(),
            dbname=database or app.id,
            autocommit=True,
        )

    def clean(self, *apps: App) -> None:
        for app in apps:
            self.served.sql(f"DROP DATABASE IF EXISTS {app.id} WITH (FORCE)")


def restrict(site: Site, app: App, *, read_only: bool) -> list[Change]:
    """Applies once as the engine does, with the app over its quota or not; what a second look would change."""
    with site.connect() as session:
        context = StoreContext("site", session.facts, read_only=frozenset({app.id} if read_only else ()))
        return site.settle(session, app, context)


def tenant(site: Site, app: App, **context: Any) -> Tenant:
    """The app as health checks and probes know it."""
    server = site.served.server(site.admin, site.timeout)
    made = StoreContext("site", None, server=server, **context)

    def secret(ref: Any) -> Secret:
        value = site.secrets.get(ref)
        assert value is not None
        return value

    return Tenant(app, server, made, PROVISIONER.env(app, made, server.endpoint, secret))


def probes(site: Site, attacker: App, victim: App, **context: Any) -> list[Probe]:
    """What came of trying every wall of the victim with the attacker's logins."""
    assert PROVISIONER.probe is not None
    with site.connect() as session:
        facts = session.facts
    a, b = tenant(site, attacker, **context), tenant(site, victim, **context)
    return list(PROVISIONER.probe(replace(a, context=replace(a.context, facts=facts)), [b]))
