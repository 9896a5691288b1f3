"""Answers that are kept until something that they were made of has changed.

To check a manifest takes pydantic and the models of every store, which is several times the work of starting at all. So
what `validate`, `env` and `show` have found is kept in ``.multidb/answers/``, with the digests of the files that it was
made of; while these are the same, nothing of that is loaded. An answer holds no secret: where a value has one in it,
the secret's name stands. An answer that cannot be understood counts as none, and none can say more than a manifest.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import multidb
from multidb import files
from multidb.document import APP_ID, Unreadable, digest, moment, parse
from multidb.errors import MultidbError, UsageError
from multidb.provisioners import INCLUDED
from multidb.secrets import Secret, SecretRef
from multidb.state import FILE, ProjectState
from multidb.state_store import refuse_moved

if TYPE_CHECKING:
    from multidb.fleet import Fleet
    from multidb.model import Project

__all__ = ["Answers", "AppAnswer", "ProjectAnswer", "parted"]

_LARGEST: Final = 16 * 1024**2  # bytes
_PHASES: Final = ("preparing", "prepared", "reverted", "finishing", "done")  # of `multidb.alternation`
_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]*")
_SERVER: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_BESIDE: Final = (
    "audit",
    "backup-work",
    "backups",
    "first_issued",
    "issued",
    "told",
)  # sections of the state that no answer follows from
_SPLITTABLE: Final = re.compile(r"[A-Za-z0-9._~-]{16,}")  # reads the same in an address and by itself; no other word


@dataclass(frozen=True, slots=True)
class ProjectAnswer:
    """What a manifest has that has no problems.

    Args:
        returned: what is to be said of apps that were removed and stand in it again, a sentence each.
    """

    project: str
    runtime: str
    apps: tuple[str, ...]
    returned: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AppAnswer:
    """What the manifest and the records know of one app.

    Args:
        servers: those that it uses, as (store, server).
        env: the variables of its env file, secrets included.
    """

    app: str
    tenant_id: str
    where: str
    labels: Mapping[str, str]
    servers: tuple[tuple[str, str], ...]
    env: Mapping[str, str | Secret]


class Answers:
    """The kept answers of one manifest. To be made before the manifest is read.

    Args:
        file: the manifest, as it was typed, since answers name places in it.
        overlay: the environment that is laid over it.
    """

    def __init__(self, file: Path, overlay: str | None) -> None:
        self._file, self._overlay = file, overlay
        self._state = ProjectState(file.parent)
        self._digest_of_state = _digest_of_state(self._state.folder / "state.json")

    def project(self) -> ProjectAnswer | None:
        """What is known of the manifest; None when that has to be found out."""
        match self._recall("project"):
            case {"project": str(project), "runtime": str(runtime), "apps": [*apps], "returned": [*returned]}:
                if _printable([project, runtime, *apps, *returned]):
                    return ProjectAnswer(project, runtime, tuple(apps), tuple(returned))
        return None

    def of_project(self, project: Project) -> ProjectAnswer:
        """The answer, made of the checked manifest."""
        returned = tuple(
            f"{where}: app {app} was {project.removed[app].where}; nothing is made of it"
            for app, where in project.returned.items()
        )
        answer = ProjectAnswer(project.name, project.runtime, tuple(project.apps), returned)
        document = {"project": answer.project, "runtime": answer.runtime, "apps": answer.apps, "returned": returned}
        self._keep("project", project, document)
        return answer

    def app(self, name: str) -> AppAnswer | None:
        """What is known of an app; None when that has to be found out.

        Raises:
            UsageError: the secrets cannot be read.
        """
        app = name.strip().replace("-", "_")
        if not re.fullmatch(APP_ID, app):
            return None
        match self._recall(f"app-{app}"):
            case {
                "tenant_id": str(tenant),
                "where": str(where),
                "labels": dict(labels),
                "servers": [*servers],
                "env": dict(env),
                "credentials": [*credentials],
            } if credentials == self._credentials(app) and _printable([tenant, where, *labels, *labels.values()]):
                pairs = [tuple(pair) for pair in servers if isinstance(pair, list) and len(pair) == 2 and _named(pair)]
                variables = {variable: self._joined(value) for variable, value in env.items()}
                if None in variables.values() or not all(map(_NAME.fullmatch, variables)):
                    return None
                if len(pairs) == len(servers):
                    return AppAnswer(app, tenant, where, labels, tuple(pairs), variables)  # type: ignore[arg-type]
        return None

    def of_app(self, fleet: Fleet, name: str) -> AppAnswer:
        """The answer, made of the checked manifest and the records; servers are asked where these do not know.

        Raises:
            UsageError: no such app, or it has no credentials yet.
            ServerError: a server has to be asked for something and does not answer.
        """
        from multidb.environment import environment

        app, variables = fleet.app(name), environment(fleet, name)
        answer = AppAnswer(app.id, app.tenant_id, app.where, app.labels, variables.servers, variables.env)
        env = {variable: parted(value, variables.secrets) for variable, value in variables.env.items()}
        if not variables.asked and None not in env.values():
            document = {
                "tenant_id": answer.tenant_id,
                "where": answer.where,
                "labels": dict(answer.labels),
                "servers": answer.servers,
                "env": env,
                "credentials": self._credentials(app.id),
            }
            self._keep(f"app-{app.id}", fleet.project, document)
        return answer

    # Keeping

    def standings(self, app: str, stores: Iterable[str]) -> dict[str, dict[str, Any]] | None:
        """What the records say of an app's credentials, by store: as `multidb.rotation.Standing.document`, without who
        uses what. None where the records are kept elsewhere, or are for others to understand."""
        try:
            document = parse(files.read_text(self._state.folder / "state.json") or "{}", _LARGEST)
            refuse_moved(document, "")
            rotations = document.get("alternation", {}).get(app, {})
            first = document.get("issued", {}).get(app)
            return {store: _standing(rotations.get(store), first) for store in stores}
        except (MultidbError, Unreadable, AttributeError, KeyError, TypeError, ValueError):
            return None

    def _recall(self, name: str) -> Any:
        try:
            document = parse(files.read_text(self._path(name)) or "", _LARGEST)
        except (UsageError, Unreadable):
            return None
        match document:
            case {"made_of": {"include": [*include]} as made_of, "answer": answer} if _printable(include):
                return answer if made_of == self._made_of(include) else None
        return None

    def _keep(self, name: str, project: Project, answer: Mapping[str, Any]) -> None:
        """Not where a store is another package's, which may change by itself, or secrets are kept elsewhere, which is
        not to be asked without need, or the state is, which does not tell when it changes; nor in a folder without any
        state."""
        from multidb.model.state_options import is_folder  # with all models, which are loaded where a project is

        used = {store for app in project.apps.values() for store in app.stores}
        made_of = self._made_of(project.include)
        alone = used <= INCLUDED.keys() and project.secrets.kind == FILE and is_folder(project.state)
        if self._state.folder.is_dir() and alone and made_of["files"] == project.sources:
            with suppress(UsageError):  # then it is made again
                text = json.dumps({"made_of": made_of, "answer": answer}, indent=1)
                files.write_text(self._path(name), text + "\n", mode=files.PRIVATE)

    def _path(self, name: str) -> Path:
        return self._state.folder / "answers" / f"{name}.json"

    def _made_of(self, include: list[str] | tuple[str, ...]) -> dict[str, Any]:
        """Everything that an answer follows from, as it is now."""
        read = [self._file, *([] if self._overlay is None else [self._overlaid()]), *self._included(include)]
        return {
            "code": [multidb.__version__, _newest(Path(multidb.__file__).parent)],
            "inside": os.environ.get("MULTIDB_INSIDE"),
            "state": self._digest_of_state,
            "overlay": self._overlay,
            "include": list(include),
            "files": {str(file): _digest(file) for file in read},
        }

    def _overlaid(self) -> Path:
        return self._file.with_name(f"{self._file.stem}.{self._overlay}{self._file.suffix}")

    def _included(self, patterns: list[str] | tuple[str, ...]) -> Iterator[Path]:
        for pattern in patterns:
            if not pattern.startswith("/") and ".." not in pattern:
                with suppress(OSError, ValueError, IndexError, NotImplementedError):
                    yield from (file for file in self._file.parent.glob(pattern) if file.is_file())

    # Secrets

    def _credentials(self, app: str) -> list[str]:
        """The names of the app's secrets: which there are is a part of the answer."""
        return sorted(map(str, self._state.secrets.refs(app)))

    def _joined(self, value: Any) -> str | Secret | None:
        """A value as it was before `parted`; None where it cannot be."""
        if isinstance(value, str):
            return value if value.isprintable() else None
        if not isinstance(value, list) or len(value) < 2 or not _printable(value):
            return None
        parts: list[str] = []
        for number, part in enumerate(value):
            if number % 2 == 0:
                parts.append(part)
                continue
            secret = self._state.secrets.get(SecretRef.parse(part)) if part.count("/") == 2 else None
            if secret is None or not _SPLITTABLE.fullmatch(secret.reveal()):
                return None
            parts.append(secret.reveal())
        return Secret("".join(parts))


def parted(value: str | Secret, secrets: Mapping[SecretRef, Secret]) -> str | list[str] | None:
    """A value without its secrets: text and secrets' names in turns. None where that cannot be told apart."""
    if not isinstance(value, Secret):
        return value
    if len(set(secrets.values())) < len(secrets):
        return None
    parts = [value.reveal()]
    for ref, secret in secrets.items():
        text = secret.reveal()
        if not _SPLITTABLE.fullmatch(text):
            return None
        split: list[str] = []
        for number, part in enumerate(parts):
            pieces = part.split(text) if number % 2 == 0 else [part]
            for piece in pieces[:-1]:
                split += [piece, str(ref)]
            split.append(pieces[-1])
        parts = split
    return parts if len(parts) > 1 else None


def _standing(rotation: Mapping[str, Any] | None, first: str | None) -> dict[str, Any]:
    """Of one store: what was recorded of a rotation there, if one was, and when the app got its first credentials."""
    if rotation is None:
        moments = {"since": None, "issued_at": first}
    else:
        moments = {"since": rotation["since"], "issued_at": rotation["issued"].get(rotation["current"])}
    for written in filter(None, moments.values()):
        moment(written)
    phase, current = (rotation["phase"], rotation["current"]) if rotation is not None else (None, "first")
    if current not in ("first", "second") or phase not in (None, *_PHASES):
        raise ValueError
    return {"current": current, "phase": phase, **moments, "former_used_by": []}


def _named(names: list[Any]) -> bool:
    """Whether these can be the names of stores and servers, and of files."""
    return all(isinstance(name, str) and _SERVER.fullmatch(name) for name in names)


def _printable(texts: list[Any]) -> bool:
    return all(isinstance(text, str) and text.isprintable() for text in texts)


def _digest(file: Path) -> str | None:
    """Of the file's bytes; None where it cannot be read."""
    try:
        return digest(file.read_bytes()) if file.is_file() else None  # a pipe can be read only once
    except OSError:
        return None


def _digest_of_state(file: Path) -> str | None:
    """Of what answers follow from in it: a service that writes down its backups every minute makes none of them old."""
    try:
        document = parse(files.read_text(file) or "", _LARGEST)
        sections = {name: section for name, section in document.items() if name not in _BESIDE}
    except (UsageError, Unreadable, AttributeError):  # whoever reads it says what is wrong
        return _digest(file)
    return digest(json.dumps(sections, sort_keys=True).encode())


def _newest(folder: Path) -> int:
    """When the code in the folder was last changed, in nanoseconds: a checkout changes without its version."""
    newest = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                newest = max(newest, _newest(Path(entry.path))) if entry.name != "__pycache__" else newest
            elif entry.name.endswith(".py"):
                newest = max(newest, entry.stat().st_mtime_ns)
    return newest
