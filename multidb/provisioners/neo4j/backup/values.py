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

Three things the driver itself does not tell or cannot hold: the zone ``UTC``, which it gives as the offset zero, and an
offset's seconds (``+00:53:28``), which it drops, are told by what the server calls the zones; the seconds are refused,
like a year before 1 or after 9999.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any, Final

import pytz
from neo4j.spatial import CartesianPoint, Point, WGS84Point
from neo4j.time import Date, DateTime, Duration, Time
from neo4j.vector import Vector

__all__ = ["decode", "encode"]

_UTC: Final = "UTC"
_PLAIN: Final = frozenset((str, int, bool, type(None)))
_POINTS: Final[Mapping[int, type[Point]]] = {
    4326: WGS84Point,
    4979: WGS84Point,
    7203: CartesianPoint,
    9157: CartesianPoint,
}


def encode(value: Any, zones: Sequence[str] = ()) -> Any:
    """What `json` writes for a value that the driver gave. `TypeError` for one of no known type, or that it cannot
    hold.

    Args:
        zones: where it has one, the zone of the value as the server calls it (``timezone``), or of each in a list.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if kind is list:
        return [encode(item, zones[at : at + 1]) for at, item in enumerate(value)]
    if kind in (bytes, bytearray):
        return {"bytes": base64.b64encode(value).decode()}
    if kind in _OTHERS:
        written = _OTHERS[kind](value)
        for zone in zones:
            if zone.count(":") > 1:
                raise TypeError(f"an offset with seconds: {zone}")
            if zone == _UTC:
                written["zone"] = zone
        return written
    if isinstance(value, Point):
        return {"point": [encode(float(item)) for item in value], "srid": value.srid}
    raise TypeError(f"a property of type {kind.__name__}")


def decode(value: Any) -> Any:
    """The inverse of `encode`. `ValueError` or `KeyError` for what it did not write."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value))
    return _TAGS[tag](value[tag], value)


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
    "vector": lambda text, whole: Vector(base64.b64decode(text, validate=True), whole["of"]),
}
