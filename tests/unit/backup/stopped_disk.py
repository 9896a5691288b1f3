"""A folder whose disk stands still, made of a file system in user space that nobody serves."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_DETACH = 2  # MNT_DETACH


@contextlib.contextmanager
def stopped_disk(folder: Path) -> Iterator[None]:
    """Whoever asks for something in the folder waits as long as the block runs, and then has an error; what was in it
    is there again afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no file systems in user space here: {error.strerror}")
    try:
        options = f"fd={descriptor},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        if libc.mount(b"multidb", bytes(folder), b"fuse", 0, options.encode()):
            pytest.skip(f"nothing can be mounted here: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            libc.umount2(bytes(folder), _DETACH)
    finally:
        os.close(descriptor)
