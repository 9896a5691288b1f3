"""What a command's process has imported before it is forked: all of multidb, with it the stores' libraries, and what
the tests begin a command by, which would otherwise be imported in each."""

from __future__ import annotations

import gc
import pkgutil
from importlib import import_module

import multidb
import tests.support.command  # noqa: F401

for _module in pkgutil.walk_packages(multidb.__path__, "multidb."):
    if not _module.name.endswith("__main__"):
        import_module(_module.name)

gc.freeze()  # nothing of this is ever garbage: a collection in a fork would only copy its pages
