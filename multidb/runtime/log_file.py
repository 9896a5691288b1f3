"""The log file of a server, read from its end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["log_lines"]

_PAUSE: Final = 0.5  # seconds between two looks at a file that is followed


def log_lines(path: Path, lines: int, follow: bool) -> Iterator[str]:
    """The last lines of a log; with `follow` also each whole line that is added, without an end. No file, no lines."""
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with file:
        yield from (line.rstrip("\n") for line in deque(file, maxlen=lines))
        rest = ""
        while follow:
            rest += file.read()
            *whole, rest = rest.split("\n")
            yield from whole
            time.sleep(_PAUSE)
