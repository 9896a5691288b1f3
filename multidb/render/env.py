r"""From values to the text of files: pure functions, nothing is written here.

Env files are read by Docker Compose, by shells and by python-dotenv, which quote differently; a value in single quotes
with ``\'`` for a quote inside is literal in all but the shell, so the ``export`` format has its own quoting.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from multidb.secrets import Secret

__all__ = ["PRIVATE", "EnvFormat", "RenderedFile", "env_files", "env_text", "is_ours"]

PRIVATE: Final = 0o600
_PUBLIC: Final = 0o644
_HEADER: Final = (
    "# Written by multidb for the app {app}; changes made here are lost. Make it again: multidb env {app} --write"
)
_OURS = re.compile(r'( "description": ")?# Written by multidb')  # JSON has no comments
_BARE = re.compile(r"[A-Za-z0-9_./:@%+,=?&~-]*\Z")


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """The text of a file and its permissions; `private` ones hold secrets."""

    text: str = field(repr=False)
    mode: int = _PUBLIC

    @property
    def private(self) -> bool:
        """Whether only its owner may read it."""
        return self.mode == PRIVATE


class EnvFormat(StrEnum):
    """The forms in which `multidb env` prints an app's variables."""

    DOTENV = "dotenv"
    EXPORT = "export"
    JSON = "json"
    K8S_SECRET = "k8s-secret"


def env_text(app: str, env: Mapping[str, str | Secret], form: EnvFormat, *, masked: bool = False) -> str:
    """The variables of an app as text that ends in a newline. Contains its secrets unless `masked`."""
    values = {name: _value(value, masked) for name, value in env.items()}
    match form:
        case EnvFormat.DOTENV:
            return "\n".join([_HEADER.format(app=app), *(f"{k}={_dotenv(v)}" for k, v in values.items())]) + "\n"
        case EnvFormat.EXPORT:
            return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
        case EnvFormat.JSON:
            return json.dumps(values, indent=2) + "\n"
        case EnvFormat.K8S_SECRET:
            return _k8s_secret(app, values)


def env_files(app: str, env: Mapping[str, str | Secret]) -> dict[str, RenderedFile]:
    """The env file of an app, and beside it the one that is committed, by their paths in the manifest's folder."""
    return {
        f"apps/{app}/.env": RenderedFile(env_text(app, env, EnvFormat.DOTENV), PRIVATE),
        f"apps/{app}/.env.example": RenderedFile(_example(app, env)),
    }


def _example(app: str, env: Mapping[str, str | Secret]) -> str:
    """The env file with every secret left empty."""
    header = (
        f"# Written by multidb: what it gives to the app {app}. The real file is .env beside this one (not committed)."
    )
    lines = [f"{name}={'' if isinstance(value, Secret) else _dotenv(value)}" for name, value in env.items()]
    return "\n".join([header, *lines]) + "\n"


def is_ours(text: str) -> bool:
    """Whether a file was written by multidb, and so may be written again."""
    return any(_OURS.match(line) for line in text.split("\n", 4)[:3])


def _value(value: str | Secret, masked: bool) -> str:
    if isinstance(value, Secret):
        return str(value) if masked else value.reveal()
    return value


def _dotenv(value: str) -> str:
    if _BARE.match(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _k8s_secret(app: str, values: Mapping[str, str]) -> str:
    name = app.replace("_", "-")
    data = "".join(f"  {key}: {base64.b64encode(value.encode()).decode()}\n" for key, value in values.items())
    return f"apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}-databases\ntype: Opaque\ndata:\n{data}"
