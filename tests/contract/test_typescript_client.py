"""`clients/typescript/multidb.ts` with the drivers of Node.js: compiled strictly, its wall, and a rotation under it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY, Folder, project_folder

pytestmark = [pytest.mark.server, pytest.mark.rare, pytest.mark.timeout(600)]

MANIFEST = """\
version: 1
project: typescript
runtime: embedded
apps:
  ann: {stores: [postgres, redis]}
  bob: {stores: [postgres, redis], redis: {isolation: prefix}}
"""
CLIENT = REPOSITORY / "clients" / "typescript"
STRICTLY = ("--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext", "--strict")


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("typescript-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm: the drivers are packages of Node.js")
    made = tmp_path_factory.mktemp("typescript")
    for file in (CLIENT / "multidb.ts", CLIENT / "package.json", Path(__file__).parent / "typescript" / "trial.ts"):
        shutil.copy(file, made)
    for command in (
        [npm, "install", "--silent", "--no-audit"],
        ["npx", "tsc", *STRICTLY, "--noUncheckedIndexedAccess", "--skipLibCheck", "multidb.ts", "trial.ts"],
    ):
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.mark.parametrize("app", ["ann", "bob"])
def test_the_client_keeps_its_wall_and_follows_a_rotation(folder: Folder, compiled: Path, app: str) -> None:
    env = {**os.environ, "MULTIDB_ENV_FILE": str(folder.path / "apps" / app / ".env")}
    with subprocess.Popen(
        ["node", "trial.js"],
        cwd=compiled,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        before = json.loads(line)
        assert before["health"]["status"] == "healthy"
        assert set(before["health"]["stores"]) == {"postgres", "redis"}
        assert (before["first"], before["greeting"]) == (f"{app}_user", "hello")
        folder.ok("rotate", app)
        process.stdin.write("rotated\n")
        process.stdin.flush()
        after = json.loads(process.stdout.readline() or process.stderr.read())
        assert after == {"second": f"{app}_user_b", "greeting": "hello"}
        assert process.wait(60) == 0
