"""From values to the text of files: pure functions, nothing is written here."""

from multidb.render.deployment import POOLER, POOLER_PORT, RenderedFile, render
from multidb.render.env import ENV_HEADER, EnvFormat, env_example, env_text, is_ours

__all__ = [
    "ENV_HEADER",
    "POOLER",
    "POOLER_PORT",
    "EnvFormat",
    "RenderedFile",
    "env_example",
    "env_text",
    "is_ours",
    "render",
]
