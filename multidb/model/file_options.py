"""Where the manifest says that files of an app are, beside its stores. Pure.

By name in the app's sets, a location: a path in the manifest's folder, and, where the manifest gives it a name of its
own, an absolute path or the URL of storage that fsspec knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Final

from pydantic import BeforeValidator

from multidb.document import Unreadable, inside, printable

__all__ = ["AppFiles", "files_entry", "is_url", "location_parts"]

_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://")
_LONGEST_NAME: Final = 200
_MOST: Final = 100
_FORM: Final = "must be a list of paths in the manifest's folder (uploads/), or a mapping of names to locations"


def is_url(location: str) -> bool:
    """Whether the location is storage that is reached by a URL."""
    return _URL.match(location) is not None


def files_entry(files: Mapping[str, str]) -> list[str] | dict[str, str]:
    """The files as the manifest has them: a list where that says it all."""
    return list(files) if all(name == location for name, location in files.items()) else dict(files)


def location_parts(location: str, root: str) -> tuple[str, ...]:
    """The parts of a location's path, by which it is seen whether it lies in another.

    Args:
        root: the manifest's folder, an absolute path.
    """
    if is_url(location):
        return tuple(part for part in location.split("/") if part)
    return PurePosixPath(root, location.removeprefix("file://")).parts


def _files(value: object) -> object:
    if value is None:
        return {}
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        paths = [_inside(item) for item in value]
        for position, path in enumerate(paths):
            if path in paths[:position]:
                raise ValueError(f'has "{printable(path)}" twice')
        return _checked(dict(zip(paths, paths, strict=True)))
    if isinstance(value, Mapping) and all(isinstance(item, str) for pair in value.items() for item in pair):
        return _checked({_inside(name): _location(location) for name, location in value.items()})
    raise ValueError(_FORM)


def _checked(files: dict[str, str]) -> dict[str, str]:
    if len(files) > _MOST:
        raise ValueError(f"has more than {_MOST} locations; name the folder that they are in")
    for name in files:
        if len(name) > _LONGEST_NAME:
            raise ValueError(f'has a name of more than {_LONGEST_NAME} characters: "{printable(name)}"')
        if within := next((other for other in files if name.startswith(f"{other}/")), None):
            raise ValueError(f'has "{printable(name)}", which is in "{printable(within)}" already')
    return files


def _inside(path: str) -> str:
    """The path without what means nothing in it; it does not leave the manifest's folder."""
    if is_url(path) or path.startswith("/"):
        raise ValueError(f'has "{printable(path)}", which needs a name: files: {{uploads: {printable(path)}}}')
    parts = [part for part in path.split("/") if part not in ("", ".")]
    try:
        return inside("/".join(parts))
    except Unreadable:
        raise ValueError(f'has "{printable(path)}", which is no path to files inside the manifest\'s folder') from None


def _location(text: str) -> str:
    if is_url(text):
        if text.startswith("file://"):
            raise ValueError(f'has "{printable(text)}": write the path alone')
        if "@" in text.partition("://")[2].partition("/")[0]:
            raise ValueError("has an address with a user or a password in it; give them by the environment")
        if "/" not in text.partition("://")[2].strip("/"):
            raise ValueError(f'has "{printable(text)}": name a folder in it, {printable(text.rstrip("/"))}/uploads')
        return text.rstrip("/")
    if not text.startswith("/"):
        return _inside(text)
    return f"/{_inside(text.lstrip('/'))}"


AppFiles = Annotated[
    dict[str, str], BeforeValidator(_files, json_schema_input_type=tuple[str, ...] | dict[str, str] | None)
]
"""By name, the location of some of an app's files."""
