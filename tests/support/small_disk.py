"""A project on a small disk of its own, whose servers are elsewhere: what is full is what multidb itself writes."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command import Folder


def addresses(folder: Folder) -> dict[str, str]:
    """By store, where its server is."""
    servers = folder.ok("status", "--json").json()["servers"]
    return {server["store"]: server["address"] for server in servers}


def admin_passwords(folder: Folder) -> dict[str, str]:
    """Of its servers of Postgres and Redis."""
    document = json.loads((folder.path / ".multidb" / "secrets.json").read_text())["secrets"]
    return {store: document[f"@{store}/{store}/admin"] for store in ("postgres", "redis")}


@contextmanager
def small_project(servers: Folder, size: str, rest: str) -> Iterator[Folder]:
    """The project.

    Args:
        servers: the project that has the servers, of Postgres and Redis.
        rest: its manifest from ``apps:`` on; its apps are removed at the end.
    """
    passwords, at = admin_passwords(servers), addresses(servers)
    with tempfile.TemporaryDirectory(prefix="small-") as name:
        _mount(Path(name), size)
        try:
            made = Folder(Path(name), [])
            for store, password in passwords.items():
                (made.path / store).write_text(password)
            made.manifest(
                "version: 1\nproject: small\nruntime: external\nexternal:\n"
                f"  postgres: {{url: 'postgresql://postgres@{at['postgres']}/postgres', "
                "password: {file: postgres}}\n"
                f"  redis: {{url: 'redis://multidb_admin@{at['redis']}', password: {{file: redis}}}}\n{rest}"
            )
            made.ok("apply", "--yes")
            yield made
            emptied(made)
            for app in made.ok("apps", "--json").json()["apps"]:
                made.run("remove-app", app["app"], "--no-backup", "--yes")
                made.ok("purge", app["app"], "--yes-destroy", app["app"])
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


@contextmanager
def small_disk(path: Path, size: str = "160m") -> Iterator[None]:
    """A disk of its own in the place of a folder of a server's; whoever stops the server has left the block."""
    path.mkdir(parents=True)
    _mount(path, size)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def _mount(path: Path, size: str) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")


def fill(folder: Folder, left: int = 0) -> None:
    """No more than so many blocks are left on the project's disk."""
    disk = os.statvfs(folder.path)
    with (folder.path / "full").open("wb") as file:
        file.write(b"\0" * disk.f_bsize * max(disk.f_bavail - left, 0))


def emptied(folder: Folder) -> None:
    """There is room again."""
    (folder.path / "full").unlink(missing_ok=True)
