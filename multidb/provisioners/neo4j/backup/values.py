"""Neo4j's property values as JSON that loses nothing, and back.

What JSON has stays as it is: booleans, strings, lists, integers (all 64 bits), finite floats, which always have a point
or an exponent. Since no property is a map, an object always stands for a value of another type:

    {"float": "nan"}                                             also "inf" and "-inf"
    {"bytes": "AAEC"}                                            base64
    {"date": "2026-11-21"}
    {"time": "12:00:00.000000001+01:00"}                         with an offset
    {"local_time": "12:00:00.000000001"}
    {"datetime": "2026-11-21T12:00:00.5+01:00"}                  with an offset
    {"datetime": "2026-11-21T12:00:00.5+01:00", "zone": "Europe/Berlin"}        "UTC" is another than the offset zero
    {"local_datetime": "2026-11-21T12:00:00.5"}
    {"duration": [14, 3, 11, 5]}                                 months, days, seconds, nanoseconds
    {"point": [12.9, 51.2], "srid": 4326}                        4326 and 4979 (WGS 84), 7203 and 9157 (Cartesian)
    {"vector": "AAAAAA==", "of": "f32"}                          base64, most significant byte first
    {"text": "-0044-03-15", "of": "date"}                        also "time", "datetime" and "localdatetime"

The last is what Cypher's function of that name makes the value of, for those that the driver cannot hold: a year
before 1 or after 9999, an offset with seconds (``+00:53:28``), a zone that is not known here. In a list with one of
them all are written so. By the server's own text the zone ``UTC`` is told from the offset zero, too, as which the
driver gives it.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final

import pytz
from neo4j.spatial import CartesianPoint, Point, WGS84Point
from neo4j.time import Date, DateTime, Duration, Time
from neo4j.vector import Vector

__all__ = ["Spelled", "decode", "encode"]

_UTC: Final = "UTC"
_PLAIN: Final = frozenset((str, int, bool, type(None)))
_POINTS: Final[Mapping[int, type[Point]]] = {
    4326: WGS84Point,
    4979: WGS84Point,
    7203: CartesianPoint,
    9157: CartesianPoint,
}


_IN_UTC: Final = "[UTC]"
_WITH_SECONDS: Final = re.compile(r"[+-]\d\d:\d\d:\d\d$")  # of an offset
_BEFORE_ZONE: Final = re.compile(r"[+-]\d\d:\d\d:\d\d(?=\[)")  # an offset with seconds
_FUNCTIONS: Final[Sequence[tuple[str, re.Pattern[str]]]] = (
    ("date", re.compile(r"[^T:]*")),
    ("time", re.compile(r"\d\d:[^T]*")),
    ("datetime", re.compile(r"[^T]+T.*(Z|[+-]\d\d:[\d:]*)(\[.*\])?")),
    ("localdatetime", re.compile(r"[^T]+T[\d:.]*")),
)


@dataclass(frozen=True, slots=True)
class Spelled:
    """A value that a function of Cypher makes of its text, or a list of such values."""

    function: str
    text: str | list[str]


def encode(value: Any, text: str | Sequence[str] | None = None) -> Any:
    """What `json` writes for a value that the driver gave. `TypeError` for one of no known type, or that it cannot
    hold and of which there is no text.

    Args:
        text: of a date, or of a time with an offset or a zone, how the server writes it (``toString``); of a list of
            them, of each.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if text is not None and not isinstance(text, str):
        if kind is not list or any(map(_is_out_of_range, value, text)):
            return list(map(_spelled, text))
        return list(map(encode, value, text))
    if kind is list:
        return [encode(item) for item in value]
    if kind in (bytes, bytearray):
        return {"bytes": base64.b64encode(value).decode()}
    if text is not None and _is_out_of_range(value, text):
        return _spelled(text)
    if kind in _OTHERS:
        written = _OTHERS[kind](value)
        if text is not None and text.endswith(_IN_UTC):
            written["zone"] = _UTC
        return written
    if isinstance(value, Point):
        return {"point": [encode(float(item)) for item in value], "srid": value.srid}
    raise TypeError(f"a property of type {kind.__name__}")


def _is_out_of_range(value: Any, text: str) -> bool:
    """Whether the driver does not hold a date or time that the server writes so."""
    return type(value) not in _OTHERS or (isinstance(value, (Time, DateTime)) and bool(_WITH_SECONDS.search(text)))


def _spelled(text: str) -> dict[str, str]:
    function = next((name for name, pattern in _FUNCTIONS if pattern.fullmatch(text)), None)
    if function is None:
        raise TypeError(f"a date or time written {text[:40]}")
    return {"text": text, "of": function}


def decode(value: Any) -> Any:
    """The inverse of `encode`. `ValueError` or `KeyError` for what it did not write."""
    if isinstance(value, list):
        return _list([decode(item) for item in value])
    if not isinstance(value, dict):
        return value
    tag = next(iter(value))
    return _TAGS[tag](value[tag], value)


def _list(items: list[Any]) -> Any:
    texts = [item for item in items if isinstance(item, Spelled)]
    if not texts:
        return items
    words = [item.text for item in texts if isinstance(item.text, str) and item.function == texts[0].function]
    if len(words) < len(items):
        raise ValueError("a list of several types")
    return Spelled(texts[0].function, words)


def _decode_text(text: Any, whole: Mapping[str, Any]) -> Spelled:
    if not isinstance(text, str) or whole["of"] not in {name for name, _ in _FUNCTIONS}:
        raise ValueError("a text of no known function")
    # Neo4j 5 writes an offset with seconds and does not read one. A zone has it from times when no clock was put back.
    return Spelled(whole["of"], _BEFORE_ZONE.sub("", text))


def _encode_time(value: Time) -> dict[str, str]:
    return {"local_time" if value.tzinfo is None else "time": value.iso_format()}


def _encode_datetime(value: DateTime) -> dict[str, str]:
    if value.tzinfo is None:
        return {"local_datetime": value.iso_format()}
    zone = getattr(value.tzinfo, "zone", None)
    zone = None if zone == _UTC else zone
    return {"datetime": value.iso_format(), **({"zone": zone} if zone else {})}


def _encode_duration(value: Duration) -> dict[str, list[int]]:
    return {"duration": [value.months, value.days, value.seconds, value.nanoseconds]}


def _encode_vector(value: Vector) -> dict[str, str]:
    return {"vector": base64.b64encode(value.raw()).decode(), "of": value.dtype}


_OTHERS: Final[Mapping[type, Callable[[Any], dict[str, Any]]]] = {
    Date: lambda value: {"date": value.iso_format()},
    Time: _encode_time,
    DateTime: _encode_datetime,
    Duration: _encode_duration,
    Vector: _encode_vector,
}


def _decode_datetime(text: str, whole: Mapping[str, Any]) -> DateTime:
    """The offset says which of two moments is meant in the hour that a zone has twice a year."""
    moment = DateTime.from_iso_format(text)
    if "zone" in whole:
        return moment.as_timezone(pytz.timezone(whole["zone"]))
    # The driver sends its own UTC as the zone of that name; Python's is an offset to it.
    return moment.replace(tzinfo=UTC) if getattr(moment.tzinfo, "zone", None) == _UTC else moment


def _decode_point(coordinates: list[Any], whole: Mapping[str, Any]) -> Point:
    return _POINTS[whole["srid"]]([decode(coordinate) for coordinate in coordinates])


_TAGS: Final[Mapping[str, Callable[[Any, Mapping[str, Any]], Any]]] = {
    "float": lambda text, _: float(text),
    "bytes": lambda text, _: base64.b64decode(text, validate=True),
    "date": lambda text, _: Date.from_iso_format(text),
    "time": lambda text, _: Time.from_iso_format(text),
    "local_time": lambda text, _: Time.from_iso_format(text),
    "datetime": _decode_datetime,
    "local_datetime": lambda text, _: DateTime.from_iso_format(text),
    "duration": lambda parts, _: Duration(months=parts[0], days=parts[1], seconds=parts[2], nanoseconds=parts[3]),
    "point": _decode_point,
    "text": _decode_text,
    "vector": lambda text, whole: Vector(base64.b64decode(text, validate=True), whole["of"]),
}
