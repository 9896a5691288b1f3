"""Sizes, moments, lengths of time and lists, as people write and read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = [
    "bytes_of",
    "duration_of",
    "duration_text",
    "listed",
    "memory_of",
    "memory_text",
    "moment_in_words",
    "size_in_words",
    "time_in_words",
]

_POWERS: Final = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_MOST: Final = 2**63
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def bytes_of(size: str) -> int:
    """The bytes of ``500MB`` (powers of 1000) or ``5GiB`` (powers of 1024).

    Raises:
        ValueError: it is something else, or more than any file system holds (2 ** 63).
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT]?)(i?)B", size)
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"{size!r} is not a size")
    size_in_bytes = float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2]]
    if size_in_bytes >= _MOST:
        raise ValueError("must be a size below 9 million TB")
    return int(size_in_bytes)


def memory_of(amount: str) -> int:
    """The bytes of ``512m`` or ``2g``, as Docker and Java write memory (powers of 1024). `ValueError` for others."""
    match = re.fullmatch(r"([0-9]+)([mMgG])", amount)
    if match is None:
        raise ValueError(f"{amount!r} is not an amount of memory")
    return int(match[1]) << 10 * _POWERS[match[2].upper()]


def memory_text(amount: int) -> str:
    """What `memory_of` makes those bytes of; what is less than a megabyte of them is dropped."""
    megabytes = amount // 1024**2
    return f"{megabytes}m" if megabytes % 1024 else f"{megabytes // 1024}g"


def size_in_words(size: float) -> str:
    """Bytes for people, in powers of 1000: ``8.1 MB``; what has shrunk has a minus."""
    value, units = abs(float(size)), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    sign = "-" if size < 0 else ""
    return f"{sign}{value:.0f} {units[0]}" if value >= 99.5 or units[0] == "B" else f"{sign}{value:.1f} {units[0]}"


def duration_of(text: str) -> timedelta:
    """``30s``, ``2min``, ``6h``, ``7d``, ``4w`` as a length of time. `ValueError` for anything else."""
    match = re.fullmatch(rf"([1-9][0-9]{{0,6}})({'|'.join(_SECONDS)})", text)
    if match is None:
        raise ValueError(f"{text!r} is not a length of time")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def duration_text(length: timedelta) -> str:
    """What `duration_of` makes that length of, as short as people write it: ``30s``, ``24h``, ``7d``, ``2w``."""
    thousandths = round(length.total_seconds() * 1000)
    for unit, least in (("w", 2), ("d", 2), ("h", 1), ("m", 1), ("s", 1)):
        count, rest = divmod(thousandths, _SECONDS[unit] * 1000)
        if rest == 0 and count >= least:
            return f"{count:.0f}{unit}"
    return f"{thousandths}ms"


def time_in_words(length: timedelta) -> str:
    """A length of time for people, in the largest unit of which there are two: ``36 h``; none is negative."""
    seconds = length.total_seconds()
    for unit in ("d", "h", "min"):
        if seconds >= 2 * _SECONDS[unit]:
            return f"{seconds / _SECONDS[unit]:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def moment_in_words(moment: datetime) -> str:
    """A moment for people, to the second and in UTC: ``2026-11-28 10:31:05 UTC``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def counted(count: int, one: str, several: str = "") -> str:
    """The number and what of: ``1 app``, ``2 apps``, ``1,200 entries``.

    Args:
        several: what more than one (or none) is called; empty: an s is added.
    """
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def listed(things: Sequence[str], most: int = 3, between: str = ", ") -> str:
    """The first of them, and how many more there are: ``ann, bob, eve and 4 more``."""
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return between.join(things[:most]) + more
