"""Sets of the project of these tests: made, looked for and verified."""

from __future__ import annotations

from pathlib import Path

from multidb.backup.creation import BackupResult, make_sets, repository
from multidb.backup.encryption import Identities
from multidb.backup.repository import Copy
from multidb.backup.verifying import Verified, verify
from multidb.engine import Engine
from multidb.fleet import Scope


def quiet(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
    pass


def make(engine: Engine, *apps: str, **options: object) -> dict[str, BackupResult]:
    found = make_sets(engine, Scope(apps=frozenset(apps) or None), progress=quiet, **options)  # type: ignore[arg-type]
    return {each.app: each for each in found}


def made(engine: Engine, app: str = "ann", **options: object) -> Copy:
    done = make(engine, app, **options)[app]
    assert done.ok, done.errors
    return repository(engine.fleet).find(f"{app}/{done.made.id}")  # type: ignore[union-attr]


def tried(engine: Engine, copy: Copy, keys: Identities | None = None) -> Verified:
    return verify(engine.fleet, repository(engine.fleet), copy, keys, quiet)


def folder_of(copy: Copy, root: Path) -> Path:
    return root / "sets" / "shop" / copy.app / copy.id
