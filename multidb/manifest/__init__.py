"""The manifest: YAML text -> `multidb.model.Project`, with every problem at once; its JSON Schema; edits of its text.

Knows no store by name: what it has to know of each is handed in as a `StoreSchema`.
"""

from multidb.manifest.names import app_id, project_name
from multidb.manifest.project import load
from multidb.manifest.schema import StoreSchema, schema

__all__ = ["StoreSchema", "app_id", "load", "project_name", "schema"]
