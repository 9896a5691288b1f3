"""A real Barman, and what it archives of a server of a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.postgres_servers import SUPERUSER, Cluster

_CONFIGURATION = """\
[barman]
barman_user = {user}
barman_home = {home}
barman_lock_directory = {home}
log_file = {home}/log
path_prefix = {programs}
[main]
description = main
conninfo = {address}
streaming_conninfo = {address}
backup_method = postgres
streaming_archiver = on
slot_name = barman
create_slot = auto
immediate_checkpoint = true
compression = {compression}
"""


def program() -> str:
    """Barman's; skips the test where there is none."""
    beside = Path(sys.executable).with_name("barman")
    found = os.environ.get("MULTIDB_TEST_BARMAN") or shutil.which("barman") or (str(beside) if beside.exists() else "")
    if not found:
        pytest.skip("no Barman here (pip install barman psycopg2-binary, or MULTIDB_TEST_BARMAN names it)")
    return found


class Barman:
    """A repository of one server, called ``main``."""

    def __init__(self, home: Path, cluster: Cluster, compression: str) -> None:
        self._program = program()
        self._file = home / "barman.conf"
        self.folder = home / "main"
        address = f"host=127.0.0.1 port={cluster.port} user={SUPERUSER} dbname=postgres password={cluster.password}"
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        text = _CONFIGURATION.format(
            user=user, home=home, programs=cluster.binaries, address=address, compression=compression
        )
        self._file.write_text(text)
        self.run("receive-wal", "--create-slot", "main")
        self._receiving = subprocess.Popen(
            [self._program, "-c", str(self._file), "receive-wal", "main"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._settled(lambda: any((self.folder / "streaming").glob("*.partial")))
        self.archive()

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [self._program, "-c", str(self._file), *arguments], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"barman {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def archive(self) -> None:
        """Everything that the server has written until now."""
        self.run("switch-wal", "--force", "--archive", "main")

    def backup(self) -> None:
        self.run("backup", "main")

    def end(self) -> None:
        if self._receiving.poll() is None:
            self._receiving.terminate()
        self._receiving.wait(30)

    def _settled(self, seen: object) -> None:
        assert callable(seen)
        for _ in range(150):
            if seen():
                return
            time.sleep(0.2)
        pytest.fail("Barman receives no WAL")
