"""No command waits for an answer where nobody is: standard input is a pipe that stays open, as some runners have it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY, Folder
from tests.support.command_line import commands

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: alone
runtime: embedded
backup: {to: [sets/], keep: {last: 1}}
apps:
  ann: {stores: [redis]}
"""

ASKING = (
    "apply",
    "add-app eve --stores redis",
    "rename-app ann amy",
    "remove-app ann --no-backup",
    "purge bob",
    "backups prune",
    "rotate ann --now",
    "rotate --admin",
    "down --volumes",
)
"""With something to do for each: they have to say that nobody can be asked, and do nothing."""

NOT_ASKING = (
    *("init -f other/multidb.yaml", "up", "status", "logs", "doctor", "validate", "schema", "completion bash"),
    *(
        "plan",
        "move ann",
        "import --scan",
        "render --check",
        "recover redis",
        "apps",
        "show ann",
        "env ann",
        "connect ann -- true",
        "health",
    ),
    *("audit", "usage", "query --redis DBSIZE", "usage --enforce", "serve --check", "history"),
    *("backup ann", "backups list", "backups show ann", "backups verify ann", "backups copy ann --to more/"),
    *("restore ann", "clone ann ann_pr", "expire", "undo-remove eve"),
    *("secrets move --to file", "secrets rekey", "restart nobody"),
    *("state show", "state pull", "state push no.json", "state move --to .multidb/", "state recover", "state unlock 1"),
)
"""At least one of each other command. `connect ann` reads statements from its standard input: it is for that."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with tempfile.TemporaryDirectory(prefix="alone-") as name:
        found = Folder(Path(name), [])
        found.manifest(MANIFEST.replace("apps:\n", "apps:\n  bob: {stores: [redis]}\n"))
        found.ok("up")
        found.ok("apply", "--yes")
        found.ok("remove-app", "bob", "--no-backup", "--yes")
        for _ in range(2):
            found.ok("backup", "ann")
        found.ok("backups", "verify", "--all")
        yield found
        found.run("down")


def unattended(folder: Folder, command: str) -> tuple[int, str]:
    """Runs it with an input that never ends; its exit code, and what it said."""
    read, write = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from multidb.cli import main; main()", *command.split()],
            cwd=folder.path,
            stdin=read,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"},
            check=False,
        )
    finally:
        os.close(write)
        os.close(read)
    return done.returncode, done.stdout + done.stderr


def test_every_command_is_tried() -> None:
    tried = {
        " ".join(command.split()[: 1 + command.startswith(("backups", "secrets", "state "))])
        for command in (*ASKING, *NOT_ASKING)
    }
    assert tried == dict(commands()).keys()


def test_nobody_is_asked_where_nobody_is(folder: Folder) -> None:
    folder.manifest(MANIFEST.replace("ann: {stores: [redis]}", "ann: {stores: [redis], redis: {channels: [news]}}"))
    with ThreadPoolExecutor(4) as several:
        done = dict(zip(ASKING, several.map(lambda command: unattended(folder, command), ASKING), strict=True))
    assert {command: code for command, (code, _) in done.items()} == dict.fromkeys(ASKING, 3)
    assert [command for command, (_, said) in done.items() if "there is no terminal to ask on" not in said] == []
    assert folder.run("plan", "--check").code == 1, "nothing was changed"


@pytest.mark.rare
def test_no_command_waits_for_what_nobody_types(folder: Folder) -> None:
    folder.manifest(MANIFEST)
    folder.ok("apply", "--yes")
    with ThreadPoolExecutor(4) as several:
        done = dict(zip(NOT_ASKING, several.map(lambda command: unattended(folder, command), NOT_ASKING), strict=True))
    assert [said for _, said in done.values() if "Traceback" in said] == []
    assert {command: code for command, (code, _) in done.items() if code not in (0, 1, 2, 3, 6)} == {}
