"""A session on one Qdrant: what is there compared with what is wanted, and the statements sent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final, Self

from multidb.errors import ServerError, StatementFailed
from multidb.model import (
    App,
    CredentialUse,
    Finding,
    Inspection,
    Resource,
    Search,
    Server,
    ServerUsage,
    Statement,
    StoreContext,
)
from multidb.provisioners.qdrant.driver.connection import open_transport
from multidb.provisioners.qdrant.driver.transport import AT_ONCE, Transport, hint_for
from multidb.provisioners.qdrant.provision.admin_rights import admin_rights
from multidb.provisioners.qdrant.provision.catalog import Catalog
from multidb.provisioners.qdrant.provision.existing import ExistingCollections
from multidb.provisioners.qdrant.provision.live import live_collection, live_index, live_registry, live_token
from multidb.provisioners.qdrant.provision.removal import orphans, removal, suspension
from multidb.provisioners.qdrant.provision.resources import (
    Admission,
    ApiKey,
    Collection,
    PayloadIndex,
    QdrantFacts,
    Registry,
    Token,
    admission_id,
    token_ref,
)
from multidb.provisioners.qdrant.provision.statements import Call, independent
from multidb.provisioners.qdrant.provision.tokens import claims_of, sign, signed_with, with_expiry
from multidb.secrets import Alternate, Secret, SecretRef, SecretStore, redact

__all__ = ["QdrantSession", "connect"]

_WORK_SECONDS: Final = 60.0  # making a collection on a busy server takes longer than a check may
_ATTEMPTS: Final = 4
_BUSY: Final = frozenset({429, 500, 502, 503, 504})


class QdrantSession:
    """A session on one Qdrant, as `multidb.model.Session` promises."""

    def __init__(self, server: Server, admin: Secret | None, transport: Transport, facts: QdrantFacts) -> None:
        self._server = server
        self._admin = admin
        self._transport = transport
        self._catalog = Catalog(server, transport)
        self.facts = facts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._transport.close()

    def inspect(self, inspection: Inspection) -> Sequence[Resource]:
        """One call for all names, one for each collection that is wanted or bears the name of one of the apps, and one
        for the tokens that are admitted."""
        desired = {resource.key: resource for resource in inspection.desired}
        kept = {resource.name for resource in inspection.desired if isinstance(resource, Collection | Registry)}
        prefixes = tuple(f"{app.id}_" for app in inspection.apps)
        names = [name for name in self._catalog.names() if name in kept or (prefixes and name.startswith(prefixes))]
        details = self._catalog.described(names)
        resources: list[Resource] = []
        for name, described in details.items():
            if isinstance(registry := desired.get((Registry.kind, name)), Registry):
                resources.append(live_registry(registry, described))
                continue
            want = desired.get((Collection.kind, name))
            collection = live_collection(name, described, want if isinstance(want, Collection) else None)
            if want is not None or (collection.owner and collection.owner.project == inspection.context.project):
                resources.append(collection)
        for want in inspection.desired:
            if isinstance(want, PayloadIndex) and (there := details.get(want.collection)) is not None:
                resources += [index] if (index := live_index(want, there)) else []
            elif isinstance(want, Token):
                resources += [token] if (token := self._token(want, inspection.secrets)) else []
            elif isinstance(want, ApiKey):
                held = inspection.secrets.get(token_ref(want.name, want.alternate))
                resources += [replace(want, value=_same(held, self._admin))] if held else []
        return [*resources, *self._admissions(inspection)]

    def existing(self) -> ExistingCollections:
        """Every collection: one call for all names, one for their configuration, one for the aliases, and one more for
        each collection that the server does not tell of in that."""
        return ExistingCollections(self._catalog.configured(), self._catalog.aliases())

    def admin_rights(self, context: StoreContext, apps: Sequence[App]) -> Sequence[Finding]:
        """See `Session.admin_rights`. Whether the key manages the server is asked by a change of nothing."""
        nothing = Call("POST", "/collections/aliases", {"actions": []})
        manages = self.facts.local or self._transport.send(nothing).status not in (401, 403)
        return tuple(admin_rights(self.facts, self._server.name, manages=manages))

    def usage(self, context: StoreContext, apps: Sequence[App]) -> ServerUsage:
        """One call for all; in local mode, one for each collection."""
        from multidb.provisioners.qdrant.observe.usage import usage  # as below: not loaded by a plan

        return usage(self._server, self._transport, context, apps)

    def search(self, inspection: Inspection) -> Search:
        """One call for all names, one for aliases, one for the admitted, one for each collection, and one more for
        each of ours."""
        from multidb.provisioners.qdrant.isolation.holes import search

        return search(self._catalog, inspection, self._admin)

    def in_use(self, credentials: Mapping[str, Alternate]) -> Mapping[str, Sequence[CredentialUse]]:
        """Nothing that anybody could tell: there are no sessions, each request brings its token."""
        return {}

    def orphans(self, context: StoreContext, known: Iterable[str]) -> Mapping[str, Sequence[str]]:
        """One call for all names, one for the admitted, and one for the marks of all; in local mode, one for each."""
        return orphans(self._catalog, context, frozenset(known))

    def suspension(self, app: App, context: StoreContext) -> Sequence[Statement]:
        """Takes the app's token off the list of those admitted. Nothing where the server has no such list."""
        return suspension(self._catalog, app, context) if self.facts.rbac else ()

    def removal(self, app: App, context: StoreContext) -> Sequence[Statement]:
        """The app's admission, its collections with their snapshots (aliases go with them), and its places."""
        return (*self.suspension(app, context), *removal(self._catalog, app, context))

    def lock(self, project: str, holder: str) -> AbstractContextManager[None]:
        """No lock: Qdrant has nothing to build one from that dies with its holder (local mode locks its folder by
        itself). Two applies at once from two machines do no harm: every call may be repeated, and a collection that the
        other one made first is read again and taken for done when it bears our mark. On one machine the project's lock
        file keeps them apart anyway. The last calls of an apply that was killed may still take effect a moment later,
        which makes a plan made in that moment stale."""
        return contextlib.nullcontext()

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        """Sends the statements; neighbours of one kind (all creations, then all indexes) go side by side.

        Yields a number when all statements up to it have taken effect.
        """
        calls = [Call.parse(statement.text) for statement in statements]
        start = 0
        while start < len(calls):
            end = start + len(independent(calls[start:]))
            yield from self._side_by_side(calls[start:end], start, secrets)
            start = end

    def _side_by_side(self, calls: Sequence[Call], start: int, secrets: SecretStore) -> Iterator[int]:
        if len(calls) == 1 or self.facts.local:
            for index, call in enumerate(calls, start):
                self._one(call, index, index, secrets)
                yield index + 1
            return
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="qdrant") as pool:
            futures = [pool.submit(self._one, call, start + n, start + n, secrets) for n, call in enumerate(calls)]
            try:
                for index, future in enumerate(futures, start):
                    future.result()
                    yield index + 1
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, call: Call, index: int, durable: int, secrets: SecretStore) -> None:
        try:
            if call.http:
                self._request(call)
            else:
                self._keep(call, secrets)
        except _Failed as failure:
            raise StatementFailed(
                f"{call.verb} {call.target}: {redact(failure.message)}",
                index=index,
                durable=durable,
                where=str(self._server),
                hint=failure.hint,
                refused=True,
            ) from None
        except ServerError as error:
            raise StatementFailed(
                f"{call.verb} {call.target}: {error.message}",
                index=index,
                durable=durable,
                where=str(self._server),
                hint="when the server answers again, run multidb apply again: it goes on where this one stopped",
            ) from None

    def _request(self, call: Call) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            last = attempt == _ATTEMPTS
            try:
                reply = self._transport.send(call, seconds=_WORK_SECONDS)
            except ServerError:
                if last:
                    raise
            else:
                if reply.fine or (reply.status == 404 and call.verb == "DELETE"):
                    return
                if reply.status == 409 and call.makes_collection and self._made_already(call):
                    return
                if reply.status not in _BUSY or last:
                    raise _Failed(reply.error, hint_for(reply.status))
            time.sleep(0.2 * 2**attempt)

    def _made_already(self, call: Call) -> bool:
        """Whether the collection that stands in the way bears our mark: made by another apply, or by a call whose
        answer got lost. Should its vectors be others, the next plan says so."""
        reply = self._transport.send(Call("GET", call.target, {}))
        config = reply.result["config"] if reply.fine else {}
        mark = (config.get("metadata") or {}).get("multidb")
        return bool(mark) and mark == call.body["metadata"]["multidb"]

    def _keep(self, call: Call, secrets: SecretStore) -> None:
        assert self._admin is not None
        ref = SecretRef.parse(call.target)
        if call.verb == "SHARE":
            secrets.put({ref: self._admin})
            return
        claims = with_expiry(call.body, time.time())
        token = sign(claims, self._admin)
        self._try(token, {str(entry["collection"]) for entry in claims["access"]})
        secrets.put({ref: token})

    def _try(self, token: Secret, granted: set[str]) -> None:
        """Asks the server what `token` opens before anybody gets it: exactly what it should."""
        reply = self._transport.send(Call("GET", "/collections", {}), key=token)
        if not reply.fine:
            raise _Failed(f"the server refuses the new token: {reply.error}", hint_for(reply.status))
        opens = {str(entry["name"]) for entry in reply.result["collections"]}
        if opens != granted:
            odd = ", ".join(sorted(opens ^ granted))
            raise _Failed(
                f"the new token does not open exactly the app's collections (differs in {odd}); it was thrown away",
                "run multidb apply again; if it stays so, the server does not limit tokens as documented",
            )

    def _token(self, want: Token, secrets: SecretStore) -> Token | None:
        assert want.app is not None
        held = secrets.get(token_ref(want.app, want.alternate))
        if held is None or self._admin is None:
            return None
        claims = claims_of(held)
        if claims is None:  # not a token at all: what an earlier setup left there
            return None
        return live_token(want, claims, signed=signed_with(held, self._admin), now=time.time())

    def _admissions(self, inspection: Inspection) -> list[Admission]:
        admissions = [resource for resource in inspection.desired if isinstance(resource, Admission)]
        if not admissions:
            return []
        ids = [admission_id(admission.registry, admission.token) for admission in admissions]
        present = self._catalog.present(admissions[0].registry, ids)
        there = {admission.key: point in present for admission, point in zip(admissions, ids, strict=True)}
        # One that is to be gone is told of, there or not.
        return [
            replace(admission, admitted=there[admission.key])
            for admission in admissions
            if there[admission.key] or not admission.admitted
        ]


class _Failed(Exception):
    """A statement that the server refused for good."""

    def __init__(self, message: str, hint: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def connect(server: Server, admin: Secret | None, application: str) -> QdrantSession:
    """Opens a session and finds out what the server is.

    Raises:
        ServerDown, ServerSlow, AuthenticationFailed, NotAllowed, WrongVersion, Locked: each says what to do next.
    """
    transport, facts = open_transport(server, admin)
    try:
        rotated = Catalog(server, transport).rotated() if facts.rbac else ()
    except BaseException:
        transport.close()
        raise
    return QdrantSession(server, None if facts.local else admin or None, transport, replace(facts, rotated=rotated))


def _same(held: Secret, admin: Secret | None) -> str:
    return "current" if held == admin else "other"
