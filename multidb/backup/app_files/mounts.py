"""What is mounted in a folder of this machine: nothing can be put in the place of that by renaming."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

__all__ = ["mounted_in"]


def mounted_in(place: Path) -> list[str]:
    """What is mounted there, relative to it; ``.`` where that is the place itself. A folder of the same disk that is
    mounted there too has the number of that disk, and is known from the system's list alone; where there is no such
    list, nothing is found."""
    real = Path(os.path.realpath(place))
    try:
        points = {Path(mount.mountpoint) for mount in psutil.disk_partitions(all=True)}
    except OSError:
        return []
    return sorted(str(point.relative_to(real)) for point in points if point.is_relative_to(real))
