"""What is mounted in a folder of this machine: nothing can be put in the place of that by renaming."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

__all__ = ["mounted_in"]

_MOUNTS: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


def mounted_in(place: Path) -> list[str]:
    """What is mounted there, relative to it; ``.`` where that is the place itself. A folder of the same disk that is
    mounted there too has the number of that disk, and is known from the kernel's list alone; where the system has no
    such list, nothing is found."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return []
    real = os.path.realpath(os.fsencode(place))
    points = set()
    for line in lines:
        point = _ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), line.split(b" ")[4])
        if point == real or point.startswith(real.rstrip(b"/") + b"/"):
            points.add(os.fsdecode(os.path.relpath(point, real)))
    return sorted(points)
