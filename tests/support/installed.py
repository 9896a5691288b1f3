"""Stores of tests, found as every other store that is installed beside multidb: by the entry points of a package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multidb.provisioners import known_stores, provisioner

__all__ = ["added_stores", "forget_stores"]


@contextmanager
def added_stores(folder: Path, **modules: str) -> Iterator[None]:
    """In the block a package is installed that adds stores.

    Args:
        folder: where it is installed, an empty one.
        modules: store name -> the module whose ``PROVISIONER`` it is.
    """
    package = folder / "stores_of_tests-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: stores-of-tests\nVersion: 1.0\n")
    lines = "".join(f"{store} = {module}\n" for store, module in modules.items())
    (package / "entry_points.txt").write_text(f"[multidb.stores]\n{lines}")
    sys.path.insert(0, str(folder))
    forget_stores()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        forget_stores()


def forget_stores() -> None:
    """Has the stores looked for again, and their records read again."""
    known_stores.cache_clear()
    provisioner.cache_clear()
