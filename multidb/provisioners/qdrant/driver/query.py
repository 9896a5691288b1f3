"""A question to an app's collections: how many points there are, by a token that may read one collection."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from multidb.errors import Missing, NotAllowed, UsageError
from multidb.model import Column, ColumnType, Question, QuestionRows, Tenant
from multidb.provisioners.qdrant.driver.transport import Folder, Http, Transport, expect, ignore_known_warnings
from multidb.provisioners.qdrant.provision.options import STORE, AppOptions
from multidb.provisioners.qdrant.provision.resources import (
    QdrantFacts,
    admission_claim,
    collection_name,
    registry_name,
)
from multidb.provisioners.qdrant.provision.statements import Call, path_of
from multidb.provisioners.qdrant.provision.tokens import sign
from multidb.secrets import Secret, redact

__all__ = ["EXAMPLE", "answer", "check", "reader"]

EXAMPLE: Final = "count COLLECTION [FILTER]"
_HINT: Final = f"multidb query --{STORE} {EXAMPLE}, with a filter of Qdrant as JSON"
_AFTERWARDS: Final = 60  # seconds beyond a question's time for which its token is good
_LONGEST: Final = 3600  # seconds
_LARGEST: Final = 1 << 20  # bytes of an answer


@dataclass(frozen=True, slots=True)
class _Count:
    """What is counted: in the app's collection of this type, the points that the filter lets through."""

    collection: str
    filter: Mapping[str, Any] | None = None


def check(words: Sequence[str]) -> None:
    """Whether it is ``count COLLECTION [FILTER]``, with a filter of Qdrant's: it ignores keys that it does not know,
    and would count everything."""
    asked = _count(words)
    if asked.filter is None:
        return
    from pydantic import ValidationError
    from qdrant_client import models

    try:
        models.Filter.model_validate(asked.filter)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the filter is none of Qdrant's: {where}: {first['msg']}", hint=_HINT) from None


def _count(words: Sequence[str]) -> _Count:
    hint = _HINT
    if len(words) == 1:
        try:
            words = shlex.split(words[0])
        except ValueError as error:
            raise UsageError(f"the question is not a command: {error}", hint=hint) from None
    match words:
        case ["count", collection] if collection:
            return _Count(collection)
        case ["count", collection, text] if collection:
            return _Count(collection, _filter(text, hint))
    raise UsageError(f"the question is not {EXAMPLE}", hint=hint)


def _filter(text: str, hint: str) -> Mapping[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the filter is not JSON: {error}", hint=hint) from None
    if not isinstance(parsed, dict):
        raise UsageError("the filter is no JSON object", hint=hint)
    return parsed


@contextlib.contextmanager
def reader(tenant: Tenant, question: Question, admin: Secret | None) -> Iterator[Tenant]:
    """The app with a token that may read this collection for as long as the question lasts. Where the server does not
    limit tokens, the app as it comes."""
    facts = tenant.context.facts
    if facts is None or not QdrantFacts.of(facts).rbac or admin is None:
        yield tenant
        return
    claims = {
        "access": [{"collection": _name(tenant, question), "access": "r"}],
        "value_exists": admission_claim(registry_name(tenant.context.project), tenant.app.id),
        "exp": int(time.time() + min(question.timeout or _LONGEST, _LONGEST)) + _AFTERWARDS,
        "subject": tenant.app.id,
    }
    yield replace(tenant, env={**tenant.env, "QDRANT_API_KEY": sign(claims, admin)})


@contextlib.contextmanager
def answer(tenant: Tenant, question: Question) -> Iterator[QuestionRows]:
    """The number of points, exactly."""
    ignore_known_warnings()
    name, asked = _name(tenant, question), _count(question.words)
    body = {"exact": True, **({"filter": asked.filter} if asked.filter is not None else {})}
    with contextlib.closing(_transport(tenant)) as transport:
        reply = transport.send(
            Call("POST", f"{path_of(name)}/points/count", body), seconds=question.timeout, most=_LARGEST
        )
    if reply.status == 404:
        raise _missing(tenant, asked)
    if 400 <= reply.status < 500 and reply.status != 401:
        raise NotAllowed(f"HTTP {reply.status}: {redact(reply.error)}", where=f"app {tenant.app.id}")
    result = expect(tenant.server, reply).result
    number = result.get("count") if isinstance(result, Mapping) else None
    yield QuestionRows((Column("count", ColumnType.INTEGER),), iter([[[number]]]))


def _name(tenant: Tenant, question: Question) -> str:
    asked = _count(question.words)
    if asked.collection not in AppOptions.of(tenant.app.stores[STORE]).collections:
        raise _missing(tenant, asked)
    return collection_name(tenant.app.id, asked.collection)


def _missing(tenant: Tenant, asked: _Count) -> Missing:
    return Missing(f"it has no collection {asked.collection}", where=f"app {tenant.app.id}")


def _transport(tenant: Tenant) -> Transport:
    if "QDRANT_PATH" in tenant.env:
        return Folder(tenant.server)
    key = tenant.env.get("QDRANT_API_KEY")
    return Http(tenant.server, Secret(key) if isinstance(key, str) else key)
