"""A tenant, and what puts it into a request. Pure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from qdrant_client import models

from multidb.client.errors import CallRefused

__all__ = ["APP_FIELD", "CREATED_FIELD", "TENANT_FIELD", "Tenancy", "first_key", "plain_id", "referenced_ids"]

TENANT_FIELD: Final = "tenant_id"
APP_FIELD: Final = "app_name"
CREATED_FIELD: Final = "created_at"
_OURS: Final = frozenset({TENANT_FIELD, APP_FIELD})

# Of a path like ``a.b[0]``, the key at the top; Qdrant also takes keys in double quotes.
_FIRST_KEY = re.compile(r'\s*(?:"([^"]*)"|([^.\[]*))')

_NO_IDS = (
    models.OrderByQuery,
    models.FusionQuery,
    models.RrfQuery,
    models.FormulaQuery,
    models.SampleQuery,
    models.TextQuery,
    models.SparseVector,
    models.Document,
    models.Image,
    models.InferenceObject,
)


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Whose points a client reads and writes.

    Args:
        app: the app's name; it stands in every payload.
        prefix: what the names of the app's collections begin with.
        tenant: the value of ``tenant_id``; `CallRefused` when it is empty, since that would be nobody's.
    """

    app: str
    prefix: str
    tenant: str

    def __post_init__(self) -> None:
        if not isinstance(self.tenant, str) or not self.tenant:
            raise CallRefused("a tenant is a text that is not empty")

    def collection(self, kind: str) -> str:
        """The full name of the app's collection for one type of content."""
        return f"{self.prefix}{kind}"

    def narrowed(self, where: Any = None) -> models.Filter:
        """`where`, and the tenant. Nested: no ``should`` or ``min_should`` of the caller stands beside the tenant.

        Raises:
            CallRefused: `where` is no `models.Filter` (gRPC's own messages are not taken).
        """
        mine = models.FieldCondition(key=TENANT_FIELD, match=models.MatchValue(value=self.tenant))
        if where is None:
            return models.Filter(must=[mine])
        if isinstance(where, Mapping):
            where = models.Filter.model_validate(where)
        if not isinstance(where, models.Filter):
            raise CallRefused(f"a filter is a models.Filter here, not {type(where).__qualname__}")
        return models.Filter(must=[mine, where])

    def among(self, ids: Iterable[Any]) -> models.Filter:
        """The tenant's points among `ids`."""
        return self.narrowed(models.Filter(must=[models.HasIdCondition(has_id=[plain_id(point) for point in ids])]))

    def selected(self, selector: Any) -> models.FilterSelector:
        """The tenant's points among those of a selector: ids, a filter, `PointIdsList` or `FilterSelector`."""
        match selector:
            case models.Filter():
                return models.FilterSelector(filter=self.narrowed(selector))
            case models.FilterSelector():
                return models.FilterSelector(filter=self.narrowed(selector.filter), shard_key=selector.shard_key)
            case models.PointIdsList():
                return models.FilterSelector(filter=self.among(selector.points), shard_key=selector.shard_key)
            case list() | tuple():
                return models.FilterSelector(filter=self.among(selector))
        raise CallRefused(
            "points are a list of ids, models.Filter, models.PointIdsList or models.FilterSelector here, "
            f"not {type(selector).__qualname__}"
        )

    def stamp(self, now: str | None = None) -> dict[str, str]:
        """What every payload of the tenant has."""
        return {
            TENANT_FIELD: self.tenant,
            APP_FIELD: self.app,
            CREATED_FIELD: now or datetime.now(UTC).isoformat(timespec="milliseconds"),
        }

    def stamped(self, payload: Mapping[str, Any] | None, now: str | None = None) -> dict[str, Any]:
        """A whole payload as the tenant's, whatever tenant and app it names; a ``created_at`` of its own stays."""
        stamp, payload = self.stamp(now), payload or {}
        if payload.get(CREATED_FIELD) is not None:
            stamp[CREATED_FIELD] = payload[CREATED_FIELD]
        return {**payload, **stamp}

    def points(self, points: Any) -> Any:
        """Points or a `Batch`, stamped; the caller's own are not changed."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        if isinstance(points, models.Batch):
            payloads = points.payloads if points.payloads is not None else [None] * len(points.ids)
            if len(payloads) != len(points.ids):
                raise CallRefused(f"a batch has as many payloads as ids: {len(payloads)} are not {len(points.ids)}")
            return points.model_copy(update={"payloads": [self.stamped(payload, now) for payload in payloads]})
        return [self._point(point, now) for point in points]

    def _point(self, point: Any, now: str) -> models.PointStruct:
        if not isinstance(point, models.PointStruct):
            raise CallRefused(f"a point is a models.PointStruct here, not {type(point).__qualname__}")
        return point.model_copy(update={"payload": self.stamped(point.payload, now)})

    def laid_over(self, payload: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        """A payload that is laid over what a point has, so that it moves the point to no other tenant.

        Raises:
            CallRefused: `key` leads into what says whose the point is.
        """
        if key is not None:
            self.keys([key])
            return dict(payload)
        stamp = self.stamp()
        return {name: stamp[name] if name in _OURS else value for name, value in payload.items()}

    def keys(self, keys: Sequence[str]) -> list[str]:
        """Paths in a payload, as they are.

        Raises:
            CallRefused: one of them leads into what says whose the point is.
        """
        if isinstance(keys, str):
            raise CallRefused("keys are a list of paths, not one text")
        for key in keys:
            if first_key(key) in _OURS:
                raise CallRefused(f"{first_key(key)} says whose a point is; it is neither changed nor removed")
        return list(keys)


def first_key(path: str) -> str:
    """The key at the top of a path in a payload: ``a`` of ``a.b[0]`` and of ``"a".b``."""
    match = _FIRST_KEY.match(path)
    assert match is not None  # it matches nothing at all, too
    return match[1] if match[1] is not None else match[2].strip()


def plain_id(point: Any) -> int | str:
    """A point's id as it is sent; UUIDs in the one form that can be compared.

    Raises:
        CallRefused: it is no number, text or UUID.
    """
    if isinstance(point, uuid.UUID):
        return str(point)
    if isinstance(point, str):
        try:
            return str(uuid.UUID(point))
        except ValueError:
            return point  # the server says what is wrong with it
    if isinstance(point, int) and not isinstance(point, bool):
        return point
    raise CallRefused(f"a point's id is a number, a text or a UUID here, not {type(point).__qualname__}")


def referenced_ids(query: Any) -> Iterator[int | str]:
    """The ids of points whose vectors a query starts from.

    Raises:
        CallRefused: a kind of query that is not known here, which might read past the tenant.
    """
    match query:
        case None | list():
            return
        case int() | str() | uuid.UUID():
            yield plain_id(query)
        case models.NearestQuery():
            yield from referenced_ids(query.nearest)
        case models.RecommendQuery():
            for example in (*(query.recommend.positive or ()), *(query.recommend.negative or ())):
                yield from referenced_ids(example)
        case models.DiscoverQuery():
            yield from referenced_ids(query.discover.target)
            yield from _of_pairs(query.discover.context)
        case models.ContextQuery():
            yield from _of_pairs(query.context)
        case models.RelevanceFeedbackQuery():
            yield from referenced_ids(query.relevance_feedback.target)
            for item in query.relevance_feedback.feedback:
                yield from referenced_ids(item.example)
        case _ if isinstance(query, _NO_IDS) or hasattr(query, "tolist"):  # an array of numpy's
            return
        case _:
            raise CallRefused(f"a query of the type {type(query).__qualname__} is not known here")


def _of_pairs(context: Any) -> Iterator[int | str]:
    for pair in context if isinstance(context, list) else [context] if context is not None else []:
        yield from referenced_ids(pair.positive)
        yield from referenced_ids(pair.negative)
