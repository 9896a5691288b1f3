"""The databases that an app has on a server: its own, and one for its tests where the manifest asks for it. Pure."""

from __future__ import annotations

from multidb.model import App
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.provisioners.postgres.provision.roles import AppNames

__all__ = ["database_names"]


def database_names(app: App) -> tuple[str, ...]:
    """The names of the app's databases, its own first."""
    names, options = AppNames.of(app.id), app.stores.get(STORE)
    tests = isinstance(options, AppOptions) and options.test_database
    return (names.database, names.test_database) if tests else (names.database,)
