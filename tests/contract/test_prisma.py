"""Prisma's client on issued credentials, in both forms of roles. Its migrations are not tried: the program that makes
them is fetched from a host of its maker's, and is in no package. The tables are made by SQL, as `migrate` does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.command import Folder, project_folder

pytestmark = [pytest.mark.server, pytest.mark.rare, pytest.mark.timeout(600)]

MANIFEST = """\
version: 1
project: prisma
runtime: embedded
apps:
  ann: {stores: [postgres]}
  bob: {stores: [postgres], postgres: {roles: split}}
"""
TRIAL = Path(__file__).parent / "prisma"
TABLE = "CREATE TABLE notes (id serial PRIMARY KEY, text text NOT NULL)"


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("prisma-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm: Prisma is a package of Node.js")
    made = shutil.copytree(TRIAL, tmp_path_factory.mktemp("prisma") / "app")
    # The client is made without that program, and looks for it all the same.
    env = {**os.environ, "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true"}
    for command in ([npm, "install", "--silent", "--no-audit", "--ignore-scripts"], ["npx", "prisma", "generate"]):
        done = subprocess.run(command, cwd=made, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.mark.parametrize("app", ["ann", "bob"])
def test_the_client_works_with_the_address_as_it_is(folder: Folder, generated: Path, app: str) -> None:
    variables = folder.variables(app)
    migrating = variables.get(f"{app.upper()}_DB_MIGRATE_URL", variables["DATABASE_URL"])
    with psycopg.connect(migrating, autocommit=True) as connection:
        connection.execute(TABLE)
    env = {**os.environ, "DATABASE_URL": variables["DATABASE_URL"]}
    for login in (f"{app}_user", f"{app}_user_b"):
        command = ["npx", "tsx", "trial.ts"]
        done = subprocess.run(command, cwd=generated, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"found": ["hello"], "login": login, "owner": f"{app}_owner"}
        folder.ok("rotate", app, "--now", "--yes")
        env["DATABASE_URL"] = folder.variables(app)["DATABASE_URL"]
