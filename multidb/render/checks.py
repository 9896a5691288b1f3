"""What is wrong with templates, and with the files that they give."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from multidb.errors import UsageError
from multidb.render.env import RenderedFile
from multidb.secrets import Secret

__all__ = ["check", "template_position", "wrong_template"]

_SHOWN: Final = 12  # a shorter secret would be found by chance


def template_position(error: BaseException, template: str) -> tuple[str, int]:
    """Where in the templates an error came up: the innermost frame that belongs to one."""
    place, trace = (template, 0), error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.endswith(".j2"):
            place = (name, trace.tb_lineno)
        trace = trace.tb_next
    return place


def wrong_template(template: str, line: int, message: str) -> UsageError:
    """That a template cannot be rendered, with the way back."""
    return UsageError(
        f"the template is wrong: {message}",
        where=f"templates/{template}:{line}",
        hint="correct it, or remove your copy to have the one that comes with multidb; nothing was written",
    )


def check(files: Mapping[str, RenderedFile], secrets: Sequence[Secret]) -> None:
    """Refuses what is no YAML, JSON or compose file, and a secret in a file that others can read, with `UsageError`."""
    for path, file in files.items():
        if path.endswith((".yml", ".json")):
            document = _parsed(path, file.text)
            if path.endswith("docker-compose.yml"):
                _check_compose(path, document)
        if not file.private and any(
            value in file.text for secret in secrets if len(value := secret.reveal()) >= _SHOWN
        ):
            raise UsageError(
                "a template puts a secret into a file that others can read",
                where=path,
                hint="let Compose take it from the env file; nothing was written",
            )


def _parsed(path: str, text: str) -> Any:
    try:
        return json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        form = "JSON" if path.endswith(".json") else "YAML"
        raise UsageError(f"what the templates give is not {form}: {error}", where=path) from None


def _check_compose(path: str, document: Any) -> None:
    services = document.get("services") if isinstance(document, dict) else None
    if not isinstance(services, dict) or not services:
        raise UsageError("what the templates give is not a compose file: it has no services", where=path)
    for name, service in services.items():
        if not isinstance(service, dict) or not ({"image", "build"} & set(service)):
            raise UsageError(f"service {name} has neither image nor build", where=path)
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", str(name)):
            raise UsageError(f"{name!r} is no name for a service", where=path)
