"""The stores that multidb knows: those that come with it, each a folder here, and those that packages installed beside
it add as entry points of the group ``multidb.stores``.

    [project.entry-points."multidb.stores"]
    toy = "multidb_toy"                      # the module whose ``PROVISIONER`` it is
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

from multidb.entry_points import added_modules, record_in, unusable
from multidb.errors import UsageError

if TYPE_CHECKING:  # the names of the stores need no model
    from multidb.model import Provisioner

__all__ = ["INCLUDED", "known_stores", "provisioner"]

_GROUP: Final = "multidb.stores"
INCLUDED: Final = {
    "postgres": "multidb.provisioners.postgres",
    "neo4j": "multidb.provisioners.neo4j",
    "qdrant": "multidb.provisioners.qdrant",
    "redis": "multidb.provisioners.redis",
}
"""The stores that come with multidb. An app that names no stores has these; no package can take one's place."""


@cache
def known_stores() -> Mapping[str, str]:
    """Store name -> the module whose ``PROVISIONER`` it is. Importing one imports no driver.

    Every installed distribution is looked into, once in a process.
    """
    return INCLUDED | added_modules(_GROUP, INCLUDED)


@cache
def provisioner(store: str) -> Provisioner:
    """The provisioner of `store`.

    Raises:
        UsageError: there is no such store; or the package that adds it cannot be used.
    """
    from multidb.model import Provisioner

    if store not in known_stores():
        raise UsageError(f"there is no store {store!r}", hint=f"stores: {', '.join(known_stores())}")
    module = known_stores()[store]
    where, what = f"store {store}", "the store"
    record = record_in(module, "PROVISIONER", where, what)
    if not isinstance(record, Provisioner):
        raise unusable(module, "has no PROVISIONER", where, what)
    if record.name != store:
        raise unusable(module, f"calls itself {record.name}", where, what)
    return record
