"""Apps that share a database on a Postgres server."""

from __future__ import annotations

from typing import Any

import psycopg

from multidb.model import App
from multidb.provisioners.postgres.provision.options import AppOptions
from tests.contract.postgres_site import NUMBERS, Site

__all__ = ["enter", "home", "sharing"]


def sharing(database: str = "", **options: Any) -> App:
    """An app with a schema, called otherwise than the app, in a database that others may have one in, too."""
    number = next(NUMBERS)
    home = {"database": database or f"shared{number}", "schema": f"of{number}"}
    return App(f"s{number}", f"s{number}", {"postgres": AppOptions(**home, **options)})


def home(app: App) -> tuple[str, str]:
    options = AppOptions.of(app.stores["postgres"])
    assert options.database is not None
    assert options.schema_name is not None
    return options.database, options.schema_name


def enter(site: Site, app: App, login: str = "user") -> psycopg.Connection[Any]:
    return site.enter(app, login, database=home(app)[0])
