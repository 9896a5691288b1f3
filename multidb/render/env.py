r"""An app's variables as the text of env files, and in the other forms that something reads them in. Pure.

Env files are read by Docker Compose, by shells and by python-dotenv, which quote differently; a value in single quotes
with ``\'`` for a quote inside is literal in all but the shell, so the ``export`` format has its own quoting.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from multidb.errors import UsageError
from multidb.secrets import Secret

__all__ = [
    "PRIVATE",
    "PUBLIC",
    "EnvFormat",
    "RenderedFile",
    "env_files",
    "env_header",
    "env_text",
    "is_ours",
    "yaml_text",
]

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
_HEADER: Final = (
    "# Written by multidb for the app {app}; changes made here are lost. Make it again: multidb env {app} {how}"
)
_OURS = re.compile(r'( "description": ")?# Written by multidb')  # JSON has no comments
_BARE = re.compile(r"[A-Za-z0-9_./:@%+,=?&~-]*\Z")


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """The text of a file and its permissions; `private` ones hold secrets."""

    text: str = field(repr=False)
    mode: int = PUBLIC

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
    GITHUB = "github"
    DOCKER_SECRET = "docker-secret"
    EXTERNAL_SECRET = "external-secret"
    VAULT = "vault"

    @property
    def refers(self) -> bool:
        """Whether it names secrets where they are kept (`multidb.secret_stores.references`), and has no value."""
        return self in (EnvFormat.EXTERNAL_SECRET, EnvFormat.VAULT)

    @property
    def has_secrets(self) -> bool:
        """Whether its text has values of secrets in it."""
        return not self.refers and self is not EnvFormat.DOCKER_SECRET


def env_text(
    app: str, env: Mapping[str, str | Secret], form: EnvFormat, *, masked: bool = False, elsewhere: bool = False
) -> str:
    """The variables of an app as text that ends in a newline. Contains its secrets unless `masked`.

    Args:
        form: none that `refers`.
        elsewhere: for a file of another place than the app's env file.

    Raises:
        UsageError: a value cannot be written in this form.
    """
    values = {name: _value(value, masked) for name, value in env.items()}
    match form:
        case EnvFormat.DOTENV:
            header = _HEADER.format(app=app, how="--to FILE" if elsewhere else "--write")
            return "\n".join([header, *(f"{k}={_dotenv(v)}" for k, v in values.items())]) + "\n"
        case EnvFormat.EXPORT:
            return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
        case EnvFormat.JSON:
            return json.dumps(values, indent=2) + "\n"
        case EnvFormat.K8S_SECRET:
            return env_header(app, form) + _k8s_secret(app, values)
        case EnvFormat.GITHUB:
            return env_header(app, form) + "".join(f"{k}={_github(app, k, v)}\n" for k, v in values.items())
        case EnvFormat.DOCKER_SECRET:
            return env_header(app, form) + _docker_secret(app, env)
        case _:
            raise ValueError(f"{form} names secrets and has no values")


def env_header(app: str, form: EnvFormat) -> str:
    """The line that begins a file of this form: how it is made again."""
    return _HEADER.format(app=app, how=f"--format {form} --to FILE") + "\n"


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


def _github(app: str, name: str, value: str) -> str:
    r"""As ``gh secret set --env-file`` reads it, with godotenv: in single quotes nothing is escaped, in double quotes
    ``\n``, ``\r`` and what stands behind another backslash. A quote behind a backslash never ends a value, quotes at
    its end are cut off, and ends of lines are made ``\n``."""
    if _BARE.match(value):
        return value
    if "'" not in value and "\r" not in value and not value.endswith("\\"):
        return f"'{value}'"
    if value.endswith(("\\", '"')):
        raise UsageError(
            f"{name} ends in a way that no file for gh can say",
            where=f"app {app}",
            hint=f"hand it over by itself: multidb env {app} {name} | gh secret set {name}",
        )
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("$", "\\$"), ("\n", "\\n"), ("\r", "\\r")):
        value = value.replace(character, escaped)
    return f'"{value}"'


def _docker_secret(app: str, env: Mapping[str, str | Secret]) -> str:
    """A Compose file that gives each secret to the service `app` as the file /run/secrets/NAME, which the variable
    NAME_FILE names; `docker compose` takes the values from its own environment."""
    secret = [name for name, value in env.items() if isinstance(value, Secret)]
    lines = ["services:", f"  {app}:", "    environment:"]
    for name, value in env.items():
        if not isinstance(value, Secret):
            lines.append(
                f"      {name}: {yaml_text(value.replace('$', '$$'))}"
            )  # it would name a variable of Compose's
    lines += [f"      {name}_FILE: /run/secrets/{name}" for name in secret]
    if secret:
        lines += ["    secrets:", *(f"      - {{source: {app}_{name}, target: {name}}}" for name in secret)]
        lines += ["secrets:", *(f"  {app}_{name}: {{environment: {name}}}" for name in secret)]
    return "\n".join(lines) + "\n"


def yaml_text(value: str) -> str:
    """A text in double quotes, which every version of YAML reads as that text."""
    import yaml

    return yaml.safe_dump(value, default_style='"', width=sys.maxsize).removesuffix("\n")


def _k8s_secret(app: str, values: Mapping[str, str]) -> str:
    name = app.replace("_", "-")
    data = "".join(f'  {key}: "{base64.b64encode(value.encode()).decode()}"\n' for key, value in values.items())
    return f"apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}-databases\ntype: Opaque\ndata:\n{data}"
