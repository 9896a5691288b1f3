"""The databases that an app has on a server: its own, and one for its tests where the manifest asks for it; or one that
it shares with other apps, where it has a schema. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from multidb.model import App
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.provisioners.postgres.provision.roles import AppNames

__all__ = ["Home", "database_names", "home"]


@dataclass(frozen=True, slots=True)
class Home:
    """Where an app's things are.

    Args:
        schema: the app's own in a database that others share; None: the whole database is the app's.
    """

    database: str
    schema: str | None = None

    def __str__(self) -> str:
        return self.database if self.schema is None else f"schema {self.schema} of {self.database}"


def home(app: App) -> Home:
    """The app's database, or its schema in one that others share."""
    options = app.stores.get(STORE)
    if isinstance(options, AppOptions) and options.database is not None:
        return Home(options.database, options.schema_name)
    return Home(AppNames.of(app.id).database)


def database_names(app: App) -> tuple[str, ...]:
    """The names of the app's databases, its own first. One that others share is none of its own."""
    names, options = AppNames.of(app.id), app.stores.get(STORE)
    if home(app).schema is not None:
        return ()
    tests = isinstance(options, AppOptions) and options.test_database
    return (names.database, names.test_database) if tests else (names.database,)
