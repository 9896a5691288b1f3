"""What a command's process has imported before it is forked: all of multidb, and with it the stores' libraries."""

from __future__ import annotations

import gc
import pkgutil
from importlib import import_module

import multidb

for _module in pkgutil.walk_packages(multidb.__path__, "multidb."):
    if not _module.name.endswith("__main__"):
        import_module(_module.name)

gc.freeze()  # nothing of this is ever garbage: a collection in a fork would only copy its pages
