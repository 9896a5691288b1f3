"""Where the manifest has a project's state kept, as text: ``.multidb/``, ``s3://bucket/prefix``, or a server's name."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["FOLDER", "is_folder", "is_s3", "is_state_address"]

FOLDER: Final = ".multidb/"
"""In the manifest's folder, on this machine: where it is where the manifest names no place."""
_S3: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.=-]+)*/?")
_SERVER: Final = re.compile(r"[a-z][a-z0-9_]*")


def is_folder(address: str) -> bool:
    """Whether it is the folder."""
    return address.rstrip("/") == FOLDER.rstrip("/")


def is_s3(address: str) -> bool:
    """Whether it is a place in S3; a wrong address is none."""
    return _S3.fullmatch(address) is not None and ".." not in address


def is_state_address(address: str) -> bool:
    """Whether it has the form of a place. Whether there is a server of the name is another matter."""
    return is_folder(address) or is_s3(address) or _SERVER.fullmatch(address) is not None
