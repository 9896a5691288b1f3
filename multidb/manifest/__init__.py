"""The manifest: YAML text -> `multidb.model.Project`, with every problem at once; its JSON Schema; edits of its text.

Knows no store by name: what it has to know of each is handed in as a `StoreSchema`.
"""

from multidb.manifest.edit import (
    add_app,
    add_apps,
    apps_of,
    change_app,
    entry_of,
    initial,
    remove_app,
    rename_app,
    value_of,
    with_secrets,
    with_state,
)
from multidb.manifest.names import app_id, is_app_id, project_name
from multidb.manifest.project import Removed, load
from multidb.manifest.schema import StoreSchema, schema, secret_store_spec

__all__ = [
    "Removed",
    "StoreSchema",
    "add_app",
    "add_apps",
    "app_id",
    "apps_of",
    "change_app",
    "entry_of",
    "initial",
    "is_app_id",
    "load",
    "project_name",
    "remove_app",
    "rename_app",
    "schema",
    "secret_store_spec",
    "value_of",
    "with_secrets",
    "with_state",
]
