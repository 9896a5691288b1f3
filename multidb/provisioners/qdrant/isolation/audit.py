"""The walls between apps on one Qdrant, tried with an app's own token.

Every request of a probe changes nothing, also where it is let through: it names points that do not exist, an index, a
snapshot or an alias of a random name, or has nothing to do in it. What only the right to do it on *nothing* would not
tell (making a collection, taking a snapshot) is not tried: the acts beside it need the same right.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from multidb.errors import MultidbError, ServerError
from multidb.model import App, Outcome, Probe, Tenant
from multidb.provisioners.qdrant.driver.transport import Folder, Http, Reply, Transport, ignore_known_warnings
from multidb.provisioners.qdrant.provision.options import STORE, TENANT_FIELD, AppOptions
from multidb.provisioners.qdrant.provision.resources import (
    QdrantFacts,
    collection_name,
    registry_name,
)
from multidb.provisioners.qdrant.provision.statements import Call
from multidb.provisioners.qdrant.provision.tokens import sign
from multidb.secrets import Secret, redact

__all__ = ["probe"]

_REFUSED: Final = frozenset({401, 403})
_NOWHERE: Final = "multidb-audit-nowhere"
_SECONDS: Final = 60  # life of a forged token


@dataclass(frozen=True, slots=True)
class _Act:
    """A request about the collection ``{it}``. A status in `works` says that it was let through."""

    name: str
    verb: str
    path: str
    body: Mapping[str, Any] | None = None
    works: frozenset[int] = frozenset({200})
    everyone: bool = False  # forbidden to all apps, also on their own: there is no control

    def call(self, target: str, own: str, point: str) -> Call:
        names = {"{it}": target, "{own}": own, "{point}": point}
        text = json.dumps([self.path, self.body or {}])
        for word, value in names.items():
            text = text.replace(word, value)
        path, body = json.loads(text)
        return Call(self.verb, path, body)


_C: Final = "/collections/{it}"
_GONE: Final = frozenset({200, 404})  # let through, and there is no such point
_EMPTY: Final = frozenset({200, 400})  # let through, and there is nothing to do
_RANDOM: Final = {"query": {"sample": "random"}, "limit": 1}

_ACTS: Final = (
    _Act("describe", "GET", _C),
    _Act("read a point", "GET", f"{_C}/points/{{point}}", works=_GONE),
    _Act("retrieve points", "POST", f"{_C}/points", {"ids": ["{point}"]}),
    _Act("scroll", "POST", f"{_C}/points/scroll", {"limit": 1, "with_payload": False}),
    _Act("count", "POST", f"{_C}/points/count", {"exact": False}),
    _Act("search", "POST", f"{_C}/points/query", _RANDOM),
    _Act("search in a batch", "POST", f"{_C}/points/query/batch", {"searches": [_RANDOM]}),
    _Act("facet", "POST", f"{_C}/facet", {"key": TENANT_FIELD, "limit": 1}),
    _Act("write", "PUT", f"{_C}/points?wait=true", {"points": []}, works=_EMPTY),
    _Act("set payload", "POST", f"{_C}/points/payload?wait=true", {"payload": {"a": 1}, "points": []}, works=_EMPTY),
    _Act("delete points", "POST", f"{_C}/points/delete?wait=true", {"points": ["{point}"]}),
    _Act(
        "write in a batch",
        "POST",
        f"{_C}/points/batch?wait=true",
        {"operations": [{"delete": {"points": ["{point}"]}}]},
    ),
    _Act("change a collection", "PATCH", _C, {"metadata": {}}, everyone=True),
    _Act("drop a collection", "DELETE", f"{_C}_{{point}}", everyone=True),
    _Act("drop an index", "DELETE", f"{_C}/index/{_NOWHERE}?wait=true", everyone=True),
    _Act("list snapshots", "GET", f"{_C}/snapshots", everyone=True),
    _Act("drop a snapshot", "DELETE", f"{_C}/snapshots/{_NOWHERE}.snapshot", everyone=True),
    _Act("download a snapshot", "GET", f"{_C}/snapshots/{_NOWHERE}.snapshot", everyone=True),
)
_GLOBAL: Final = (
    _Act("change aliases", "POST", "/collections/aliases", {"actions": [{"delete_alias": {"alias_name": "{point}"}}]}),
    _Act("drop a collection", "DELETE", "/collections/{point}"),
    _Act("snapshots of everything", "GET", "/snapshots"),
    _Act("metrics", "GET", "/metrics"),
    _Act("cluster", "GET", "/cluster"),
    _Act("logger", "GET", "/logger"),
)


_ON_REGISTRY: Final = (
    _Act("read the registry of tokens", "POST", f"{_C}/points/scroll", {"limit": 1}),
    _Act("write to the registry of tokens", "PUT", f"{_C}/points?wait=true", {"points": []}),
)
"""Whoever could write there would let its own token in, or others' out."""


def probe(attacker: Tenant, victims: Sequence[Tenant]) -> Iterable[Probe]:
    """Tries what the attacker's token, or its folder, opens of each victim. `ServerError` when nothing answers."""
    ignore_known_warnings()
    if "QDRANT_PATH" in attacker.env:
        return _in_folder(attacker, victims)
    return _on_server(attacker, victims)


def _on_server(attacker: Tenant, victims: Sequence[Tenant]) -> list[Probe]:
    key = attacker.env.get("QDRANT_API_KEY")
    transport = Http(attacker.server, key if isinstance(key, Secret) or key is None else Secret(key))
    try:
        attack = _Attack(attacker, transport)
        return [*attack.on_server(), *(probe for victim in victims for probe in attack.on(victim))]
    finally:
        transport.close()


class _Attack:
    """One app's attempts. The control of an act is the same act on the app's own collection."""

    def __init__(self, attacker: Tenant, transport: Http) -> None:
        self._attacker = attacker.app.id
        self._key = attacker.env.get("QDRANT_API_KEY")
        self._own = _collection_of(attacker.app)
        self._registry = registry_name(attacker.context.project)
        self._transport = transport
        self._expected = Outcome.REFUSED if _walled(attacker) else Outcome.ALLOWED
        self._controls = {act.name: self._control(act) for act in _ACTS if not act.everyone}
        self._listed = _names(self._send(Call("GET", "/collections", {})))
        self._telemetry = self._send(Call("GET", "/telemetry?details_level=6", {}))

    def on_server(self) -> Iterator[Probe]:
        """Probes of what no app may do at all."""
        for act in _GLOBAL:
            yield self._probe(None, act.name, self._send(act.call("", "", str(uuid.uuid4()))))
        for act in _ON_REGISTRY:
            yield self._probe(None, act.name, self._send(self._call(act, self._registry)))

    def on(self, victim: Tenant) -> Iterator[Probe]:
        """Probes of what may not be done to one victim."""
        target = _collection_of(victim.app)
        for act in _ACTS:
            reply = self._send(self._call(act, target))
            yield self._probe(victim, act.name, reply, self._controls.get(act.name, ""))
        yield self._lookup(victim, target)
        yield self._seen(victim, "list collections", target, self._listed, self._expected)
        measured = _ids(self._telemetry)
        yield self._seen(victim, "read telemetry", target, measured, self._expected)
        yield from self._names_in_telemetry(victim, target)
        yield from self._forged(victim, target)

    def _call(self, act: _Act, target: str) -> Call:
        return act.call(quote(target, safe=""), quote(self._own, safe=""), str(uuid.uuid4()))

    def _control(self, act: _Act) -> str:
        """Why the act does not work on the app's own collection; empty when it does."""
        reply = self._send(self._call(act, self._own))
        return "" if reply.status in act.works else f"on its own collection: {reply.status} {_words_of(reply)}"

    def _lookup(self, victim: Tenant, target: str) -> Probe:
        """A search of the own collection that takes its vector out of the victim's."""
        act = _Act("look up vectors elsewhere", "POST", "/collections/{own}/points/query", works=_GONE)

        def asked(elsewhere: str) -> Reply:
            body = {"query": str(uuid.uuid4()), "limit": 1, "lookup_from": {"collection": elsewhere}}
            return self._send(Call(act.verb, self._call(act, elsewhere).target, body))

        control = asked(self._own)
        broken = "" if control.status not in _REFUSED else f"on its own collection: {_words_of(control)}"
        return self._probe(victim, act.name, asked(target), broken)

    def _seen(self, victim: Tenant, name: str, target: str, seen: set[str] | None, expected: Outcome) -> Probe:
        """Whether an answer that may come has the victim's collection in it."""
        if seen is None:
            return self._made(victim, name, expected, Outcome.REFUSED)
        if self._own not in seen:
            return self._made(victim, name, expected, Outcome.BROKEN, f"it does not show {self._own} either")
        return self._made(victim, name, expected, Outcome.ALLOWED if target in seen else Outcome.REFUSED)

    def _names_in_telemetry(self, victim: Tenant, target: str) -> Iterator[Probe]:
        """Names show in the list of running snapshots; docs/security.md says so."""
        if self._telemetry.fine:
            shown = json.dumps(f"{target}") in json.dumps(self._telemetry.result)
            got = Outcome.ALLOWED if shown else Outcome.REFUSED
            yield self._made(victim, "names in telemetry", Outcome.ALLOWED, got)

    def _forged(self, victim: Tenant, target: str) -> Iterator[Probe]:
        token = _revealed(self._key)
        if token.count(".") != 2:
            return  # not a token: nothing to forge from
        access = {"access": [{"collection": target, "access": "prw"}], "exp": int(time.time()) + _SECONDS}
        head, _, signature = token.split(".")
        unsigned = f"{_encoded({'alg': 'none', 'typ': 'JWT'})}.{_encoded(access)}."
        forged = {
            "a token with altered claims": f"{head}.{_encoded(access)}.{signature}",
            "a token without signature": unsigned,
            "a token signed with the app's token": sign(access, Secret(token)).reveal(),
        }
        read = next(act for act in _ACTS if act.name == "scroll")
        for name, forgery in forged.items():
            reply = self._transport.send(self._call(read, target), key=Secret(forgery))
            yield self._probe(victim, name, reply, self._controls[read.name])

    def _probe(self, victim: Tenant | None, name: str, reply: Reply, broken: str = "") -> Probe:
        got = Outcome.BROKEN if broken else Outcome.REFUSED if reply.status in _REFUSED else Outcome.ALLOWED
        return self._made(victim, name, self._expected, got, broken or _words_of(reply))

    def _made(self, victim: Tenant | None, name: str, expected: Outcome, got: Outcome, detail: str = "") -> Probe:
        return Probe(self._attacker, victim.app.id if victim else None, name, expected, got, detail)

    def _send(self, call: Call) -> Reply:
        return self._transport.send(call)


def _in_folder(attacker: Tenant, victims: Sequence[Tenant]) -> list[Probe]:
    """In local mode nothing is promised, and the probes prove that word honest."""
    try:
        transport = Folder(attacker.server)
    except ServerError:
        raise
    except MultidbError as error:  # another process has the folder
        raise ServerError(error.message, where=error.where, hint=error.hint) from None
    try:
        return [probe for victim in victims for probe in _folder_acts(attacker, victim, transport)]
    finally:
        transport.close()


def _folder_acts(attacker: Tenant, victim: Tenant, transport: Transport) -> Iterator[Probe]:
    acts = (
        ("scroll", "POST", "points/scroll", {"limit": 1}),
        ("delete points", "POST", "points/delete", {"points": [str(uuid.uuid4())]}),
    )
    for name, verb, rest, body in acts:
        own, other = (
            transport.send(Call(verb, f"/collections/{_collection_of(tenant.app)}/{rest}", body))
            for tenant in (attacker, victim)
        )
        got = Outcome.BROKEN if not own.fine else Outcome.ALLOWED if other.fine else Outcome.REFUSED
        yield Probe(attacker.app.id, victim.app.id, name, Outcome.ALLOWED, got, _words_of(other))


def _walled(tenant: Tenant) -> bool:
    """Whether this server claims a wall: by its facts, or by the app's key being a token."""
    facts = tenant.context.facts
    if isinstance(facts, QdrantFacts):
        return facts.rbac
    return _revealed(tenant.env.get("QDRANT_API_KEY")).count(".") == 2


def _revealed(key: Secret | str | None) -> str:
    return key.reveal() if isinstance(key, Secret) else key or ""


def _collection_of(app: App) -> str:
    options = AppOptions.of(app.stores[STORE])
    return collection_name(app.id, next(iter(options.collections)))


def _names(reply: Reply) -> set[str] | None:
    return {str(entry["name"]) for entry in reply.result["collections"]} if reply.fine else None


def _ids(telemetry: Reply) -> set[str] | None:
    if not telemetry.fine:
        return None
    return {str(entry["id"]) for entry in telemetry.result["collections"].get("collections") or ()}


def _words_of(reply: Reply) -> str:
    return redact(reply.error)[:200]


def _encoded(document: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")
