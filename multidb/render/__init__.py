"""From values to the text of files: pure functions, nothing is written here."""

from multidb.render.deployment import (
    BACKUP,
    CA_FILE,
    CA_MOUNTED,
    GRAFANA,
    MONITORING,
    MONITORING_VOLUMES,
    TOKEN,
    RenderedFile,
    TlsMaterial,
    render,
)
from multidb.render.env import ENV_HEADER, EnvFormat, env_example, env_text, is_ours

__all__ = [
    "BACKUP",
    "CA_FILE",
    "CA_MOUNTED",
    "ENV_HEADER",
    "GRAFANA",
    "MONITORING",
    "MONITORING_VOLUMES",
    "TOKEN",
    "EnvFormat",
    "RenderedFile",
    "TlsMaterial",
    "env_example",
    "env_text",
    "is_ours",
    "render",
]
