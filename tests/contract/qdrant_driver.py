"""A few lines that do to one Qdrant what the engine does: read, compare, run; and what is asked of it beside that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from multidb.model import App, Change, Hole, Inspection, Search, Server, Statement, StoreContext, Tenant
from multidb.plan import diff
from multidb.provisioners.qdrant import PROVISIONER
from multidb.provisioners.qdrant.provision.options import AppOptions, ServerOptions
from multidb.provisioners.qdrant.provision.resources import token_ref
from multidb.secrets import MemorySecretStore, Secret
from tests.support.case import RealServer

Answer = TypeVar("Answer")


class Driver:
    """What the engine does, in a few lines: read, compare, run."""

    def __init__(self, real: RealServer, *apps: App, options: ServerOptions | None = None) -> None:
        self.real = real
        self.apps = apps
        self.options = options or ServerOptions()
        self.secrets = MemorySecretStore()
        self.read_only: frozenset[str] = frozenset()

    def changes(self, adopt: frozenset[str] = frozenset()) -> tuple[Change, ...]:
        with PROVISIONER.connect(self.real.server, self.real.admin, "test") as session:
            return self._changes(session, adopt)

    def apply(self, adopt: frozenset[str] = frozenset()) -> tuple[Change, ...]:
        with PROVISIONER.connect(self.real.server, self.real.admin, "test") as session:
            made = self._changes(session, adopt)
            statements = [s for change in made for s in PROVISIONER.statements(change, self._context(session))]
            done = list(session.run(statements, self.secrets))
            assert done == list(range(1, len(statements) + 1))
            assert not self._changes(session, adopt)
        return made

    def env(self, app: App) -> dict[str, str]:
        with PROVISIONER.connect(self.real.server, self.real.admin, "test") as session:
            context = self._context(session)
        found = PROVISIONER.env(app, context, self.real.server.endpoint, self._secret)
        shown = {key: value.reveal() if isinstance(value, Secret) else value for key, value in found.items()}
        return {"APP_TENANT_ID": app.tenant_id, **shown}

    def context(self) -> StoreContext:
        with PROVISIONER.connect(self.real.server, self.real.admin, "test") as session:
            return self._context(session)

    def tenant(self, app: App, server: Server | None = None) -> Tenant:
        """The app as health checks and probes know it."""
        context = self.context()
        found = PROVISIONER.env(app, context, self.real.server.endpoint, self._secret)
        return Tenant(app, server or self.real.server, context, found)

    def run(self, statements: Sequence[Statement]) -> None:
        with PROVISIONER.connect(self.real.server, self.real.admin, "test") as session:
            list(session.run(statements, self.secrets))

    def asked(self, question: Callable[[Any, StoreContext], Answer]) -> Answer:
        """What an administrator's session answers."""
        with PROVISIONER.connect(self.real.server, self.real.admin, "test") as session:
            return question(session, self._context(session))

    def holes(self) -> list[Hole]:
        return list(self.search().holes)

    def search(self) -> Search:
        def look(session: Any, context: StoreContext) -> Search:
            wanted = PROVISIONER.desired(self.apps, context)
            found: Search = session.search(Inspection(context, self.apps, wanted, self.secrets))
            return found

        return self.asked(look)

    def token(self, app: str) -> str:
        return self._secret(token_ref(app)).reveal()

    def _secret(self, ref: Any) -> Secret:
        found = self.secrets.get(ref)
        assert found is not None
        return found

    def _context(self, session: Any) -> StoreContext:
        return StoreContext("contract", session.facts, self.options, server=self.real.server, read_only=self.read_only)

    def _changes(self, session: Any, adopt: frozenset[str]) -> tuple[Change, ...]:
        context = self._context(session)
        wanted = PROVISIONER.desired(self.apps, context)
        live = session.inspect(Inspection(context, self.apps, wanted, self.secrets))
        return diff(wanted, live, adopt)


def app(name: str = "lernmi", **collections: Any) -> App:
    return App(name, name, {"qdrant": AppOptions(collections=collections or {"knowledge": {"size": 4}})})
