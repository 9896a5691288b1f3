"""The stores that multidb knows. A store is a folder here and one line in `STORES`."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from multidb.errors import UsageError
from multidb.model import Provisioner

__all__ = ["STORES", "provisioner"]

STORES: dict[str, str] = {
    "postgres": "multidb.provisioners.postgres",
    "neo4j": "multidb.provisioners.neo4j",
    "qdrant": "multidb.provisioners.qdrant",
    "redis": "multidb.provisioners.redis",
}
"""Store name -> the module whose ``PROVISIONER`` it is. Importing one imports no driver."""


@cache
def provisioner(store: str) -> Provisioner:
    """The provisioner of `store`. `UsageError` names the stores there are."""
    try:
        module = import_module(STORES[store])
    except KeyError:
        raise UsageError(f"there is no store {store!r}", hint=f"stores: {', '.join(STORES)}") from None
    found = module.PROVISIONER
    assert isinstance(found, Provisioner)
    return found
