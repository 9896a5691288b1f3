"""The stores that multidb knows: those that come with it, each a folder here, and those that packages installed beside
it add as entry points of the group ``multidb.stores``.

    [project.entry-points."multidb.stores"]
    toy = "multidb_toy"                      # the module whose ``PROVISIONER`` it is
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Final

from multidb.errors import UsageError

if TYPE_CHECKING:  # the names of the stores need no model
    from multidb.model import Provisioner

__all__ = ["INCLUDED", "LANGUAGES", "STORES", "provisioner"]

_GROUP: Final = "multidb.stores"
INCLUDED: Final = {
    "postgres": "multidb.provisioners.postgres",
    "neo4j": "multidb.provisioners.neo4j",
    "qdrant": "multidb.provisioners.qdrant",
    "redis": "multidb.provisioners.redis",
}
"""The stores that come with multidb. An app that names no stores has these; no package can take one's place."""
LANGUAGES: Final = {"sql": "postgres", "cypher": "neo4j", "qdrant": "qdrant", "redis": "redis"}
"""What questions are written in -> the store that they are for. One of which nothing is said is in the first."""

if TYPE_CHECKING:
    STORES: dict[str, str]
    """Store name -> the module whose ``PROVISIONER`` it is. Importing one imports no driver."""


def __getattr__(name: str) -> dict[str, str]:
    """`STORES`, when it is first asked for: every installed distribution is looked into for it."""
    if name != "STORES":
        raise AttributeError(name)
    from importlib.metadata import entry_points

    added = {point.name: point.value for point in entry_points(group=_GROUP) if point.name not in INCLUDED}
    stores: dict[str, str] = globals().setdefault("STORES", INCLUDED | added)
    return stores


@cache
def provisioner(store: str) -> Provisioner:
    """The provisioner of `store`.

    Raises:
        UsageError: there is no such store; or the package that adds it cannot be used.
    """
    from multidb.model import Provisioner
    from multidb.provisioners import STORES

    if store not in STORES:
        raise UsageError(f"there is no store {store!r}", hint=f"stores: {', '.join(STORES)}")
    module = STORES[store]
    try:
        record = getattr(import_module(module), "PROVISIONER", None)
    except ImportError as error:
        raise _unusable(store, module, f"cannot be imported: {error}") from None
    if not isinstance(record, Provisioner):
        raise _unusable(store, module, "has no PROVISIONER")
    if record.name != store:
        raise _unusable(store, module, f"calls itself {record.name}")
    return record


def _unusable(store: str, module: str, problem: str) -> UsageError:
    return UsageError(
        f"its module {module} {problem}",
        where=f"store {store}",
        hint="install another version of the package that adds the store, or uninstall it",
    )
