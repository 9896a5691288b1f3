"""From values to the text of files: pure functions, nothing is written here."""

from multidb.render.deployment import (
    BACKUP,
    CA_FILE,
    CA_MOUNTED,
    GRAFANA,
    MONITORING,
    MONITORING_VOLUMES,
    TOKEN,
    TlsMaterial,
    render,
)
from multidb.render.env import EnvFormat, RenderedFile, env_files, env_text, is_ours

__all__ = [
    "BACKUP",
    "CA_FILE",
    "CA_MOUNTED",
    "GRAFANA",
    "MONITORING",
    "MONITORING_VOLUMES",
    "TOKEN",
    "EnvFormat",
    "RenderedFile",
    "TlsMaterial",
    "env_files",
    "env_text",
    "is_ours",
    "render",
]
