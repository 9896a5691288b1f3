"""A project whose apps are given data that is elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.support.command import Folder, project_folder

MANIFEST = """\
version: 1
project: moving
runtime: embedded
backup: {to: [sets/]}
apps:
  shop: {stores: [postgres]}
  other: {stores: [postgres]}
"""
PASSWORD = "s3cret-of-the-source"


@contextmanager
def importing_project() -> Iterator[Folder]:
    """The project, applied, whose servers are stopped at the end."""
    with project_folder("importing-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


def there(folder: Folder, app: str = "shop") -> list[str]:
    """The tables that the app sees."""
    with psycopg.connect(folder.variables(app)["DATABASE_URL"]) as connection:
        rows = connection.execute(
            "SELECT format('%I.%I', n.nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE relkind = 'r' AND c.oid >= 16384 ORDER BY 1"
        )
        return [name for (name,) in rows]


def databases(folder: Folder) -> set[str]:
    """Every database and role on the apps' server."""
    with psycopg.connect(folder.variables("other")["DATABASE_URL"]) as connection:
        names = "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles"
        return {name for (name,) in connection.execute(names)}


def emptied(folder: Folder) -> Folder:
    """The project, whose app `shop` has nothing."""
    if there(folder):
        folder.ok("remove-app", "shop", "--no-backup", "--yes")
        folder.ok("purge", "shop", "--yes-destroy", "shop")
        folder.manifest(MANIFEST)
        folder.ok("apply", "--yes")
    return folder
