"""Where a project's secrets are kept: the kinds that come with multidb, each a module here, and those that packages
installed beside it add as entry points of the group ``multidb.secrets``.

    [project.entry-points."multidb.secrets"]
    toy = "multidb_toy.secrets"              # the module whose ``SECRET_STORE`` it is
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from multidb.entry_points import added_modules, record_in, unusable
from multidb.errors import UsageError
from multidb.secrets import SecretStore
from multidb.state import FILE, ProjectState

if TYPE_CHECKING:
    from multidb.model.options import Section
    from multidb.model.secret_options import SecretStoreSpec
    from multidb.secret_stores.kind import SecretStoreKind

__all__ = ["open_secret_store", "secret_options", "secret_store_kind"]

_GROUP: Final = "multidb.secrets"


def open_secret_store(spec: SecretStoreSpec, root: Path) -> SecretStore:
    """The store that the manifest in the folder `root` describes so. Touches nothing yet. `UsageError` as above."""
    if spec.kind == FILE:
        return ProjectState(root).secrets
    return secret_store_kind(spec.kind).open(spec.options, root)


def secret_options() -> dict[str, type[Section]]:
    """The kinds of secret stores that there are, with the model of each one's options."""
    from multidb.model.secret_options import INCLUDED_SECRETS

    return {**INCLUDED_SECRETS, **{name: secret_store_kind(name).options for name in _added()}}


@cache
def secret_store_kind(name: str) -> SecretStoreKind:
    """The kind of this name; not for ``file``, which needs none.

    Raises:
        UsageError: there is no such kind; or the package that adds it cannot be used.
    """
    from multidb.model.secret_options import INCLUDED_SECRETS
    from multidb.secret_stores.kind import SecretStoreKind

    module = _added().get(name, f"{__name__}.{name}" if name in INCLUDED_SECRETS else "")
    if not module:
        known = ", ".join([*INCLUDED_SECRETS, *_added()])
        raise UsageError(f"there is no kind of secret store {name!r}", hint=f"kinds: {known}")
    where = f"secret store {name}"
    kind = record_in(module, "SECRET_STORE", where)
    if not isinstance(kind, SecretStoreKind) or kind.name != name:
        raise unusable(module, "has no SECRET_STORE of this name", where)
    return kind


@cache
def _added() -> Mapping[str, str]:
    """By name the modules of the kinds that other packages add. None takes the place of one of ours."""
    from multidb.model.secret_options import INCLUDED_SECRETS

    return added_modules(_GROUP, INCLUDED_SECRETS)
