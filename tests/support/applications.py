"""Programs of others that run with what an app was issued: started, waited for, and their database asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg

from tests.support.command import Folder, program_output

__all__ = ["answered", "asked", "connected", "environment_with", "running"]

_MULTIDB = Path(sys.executable).parent / "multidb"


def environment_with(there: Path, *packages: str) -> Path:
    """The folder of the programs of an environment, made there, that has these packages."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    program_output([uv, "venv", "--quiet", there], there.parent)
    program_output([uv, "pip", "install", "--quiet", "--python", there, *packages], there.parent)
    return there / "bin"


def connected(folder: Folder, app: str, *options: str) -> list[str | Path]:
    return [_MULTIDB, "connect", app, "--file", folder.path / "multidb.yaml", *options, "--"]


@contextmanager
def running(command: list[str | Path], at: Path, env: dict[str, str]) -> Iterator[Path]:
    """The program while the block lasts, with all that it has started; its log."""
    log = at / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=at, env={**os.environ, **env}, stdout=out, stderr=out, start_new_session=True
        )
        try:
            yield log
        finally:
            os.killpg(process.pid, 15)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait(30)


def answered(address: str, log: Path) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            if httpx.get(address, timeout=10, follow_redirects=True).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)


def asked(folder: Folder, app: str, question: str) -> object:
    with psycopg.connect(folder.variables(app)["DATABASE_URL"]) as connection:
        row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return row[0]
