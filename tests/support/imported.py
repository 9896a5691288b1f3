"""What a command's process has imported before it is forked, and each would import otherwise: all of multidb, with it
the stores' libraries and what a command imports only once it needs it, and what the tests begin a command by."""

from __future__ import annotations

import ast
import contextlib
import gc
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import multidb
import tests.support.stopped  # noqa: F401
from tests.support.own_ports import keep_apart


def _imported_later(source: Path) -> Iterator[str]:
    """The modules that functions of this file import."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module is not None:
                    yield node.module


for _module in pkgutil.walk_packages(multidb.__path__, "multidb."):
    if not _module.name.endswith("__main__"):
        import_module(_module.name)
for _source in sorted(Path(multidb.__path__[0]).rglob("*.py")):
    for _name in _imported_later(_source):
        with contextlib.suppress(ImportError):  # of an extra that is not installed
            import_module(_name)

keep_apart()
gc.freeze()  # nothing of this is ever garbage: a collection in a fork would only copy its pages
