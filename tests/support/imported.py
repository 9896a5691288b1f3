"""What a command's process has imported before it is forked, and each would import otherwise: all of multidb, with it
the stores' libraries and what a command imports only once it needs it, and what the tests begin a command by. Models
are built, too: a command puts that off until it needs one, and it is a quarter of what a short one does."""

from __future__ import annotations

import contextlib
import gc
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from pydantic import BaseModel

import multidb
import tests.support.stopped  # noqa: F401
from multidb.manifest.schema import shape_of
from multidb.project import store_schemas
from multidb.secret_stores import secret_options
from tests.support.own_ports import keep_apart

# What stands in a function, by its indentation: to parse all files would take as long as to import most of them.
_LATER = re.compile(r"^ +(?:import ([\w.]+)|from ([\w.]+) import )", re.MULTILINE)
_TYPES = re.compile(r"^if TYPE_CHECKING:\n(?: .*\n)+", re.MULTILINE)


def _imported_later(source: Path) -> Iterator[str]:
    """The modules that functions of this file import."""
    for match in _LATER.finditer(_TYPES.sub("", source.read_text(encoding="utf-8"))):
        yield match[1] or match[2]


def _models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


for _module in pkgutil.walk_packages(multidb.__path__, "multidb."):
    if not _module.name.endswith("__main__"):
        import_module(_module.name)
for _source in sorted(Path(multidb.__path__[0]).rglob("*.py")):
    for _name in _imported_later(_source):
        with contextlib.suppress(ImportError):  # of an extra that is not installed
            import_module(_name)
_manifest = shape_of(store_schemas(), secret_options())
for _model in set(_models(BaseModel)):
    if _model.__module__.startswith("multidb."):
        _model.model_rebuild()

keep_apart()
gc.freeze()  # nothing of this is ever garbage: a collection in a fork would only copy its pages
