"""State and secrets that are gone, or of an old copy, on real servers: what these know is read back."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Folder

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: shop
runtime: embedded
apps:
  ann: {stores: [postgres, redis]}
  bob: {stores: [redis]}
  cat: {stores: [redis]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    made = Folder(tmp_path_factory.mktemp("lost"), [])
    made.manifest(MANIFEST)
    made.ok("up")
    made.ok("apply", "--yes")
    yield made
    made.ok("down")


def state(folder: Folder) -> Path:
    return folder.path / ".multidb" / "state.json"


def numbers(folder: Folder) -> Any:
    return json.loads(state(folder).read_text())["numbers"]["redis"]


def test_an_old_copy_of_the_state_gives_nobody_the_number_of_another(folder: Folder) -> None:
    before = numbers(folder)
    assert sorted(before.values()) == [1, 2, 3]
    document = json.loads(state(folder).read_text())
    document["numbers"]["redis"] = {"ann": before["bob"], "bob": before["bob"], "gone": before["cat"]}
    state(folder).write_text(json.dumps(document))
    folder.ok("plan", "--check")
    assert numbers(folder) == before
    assert folder.ok("health", "--json").json()["status"] == "healthy"


def test_a_state_of_wrong_types_is_said_and_what_the_message_says_works(folder: Folder) -> None:
    before = numbers(folder)
    document = json.loads(state(folder).read_text())
    state(folder).write_text(json.dumps({**document, "numbers": {"redis": {"ann": "1"}}}))
    refused = folder.run("plan")
    assert refused.code == 2
    assert "numbers" in refused.err
    assert "redis.ann" in refused.err
    assert "move it away" in refused.err
    state(folder).rename(state(folder).with_suffix(".bad"))
    folder.ok("up")  # the ports were in it, too
    folder.ok("plan", "--check")
    assert numbers(folder) == before
    assert folder.ok("health", "--json").json()["status"] == "healthy"


@pytest.mark.parametrize("name", ["ann/postgres/user", "bob/redis/user"])
def test_a_credential_that_fits_no_more_is_repaired_by_the_command_that_health_names(folder: Folder, name: str) -> None:
    path = folder.path / ".multidb" / "secrets.json"
    document = json.loads(path.read_text())
    document["secrets"][name] = "from-an-old-copy-of-the-secrets-0123456789"
    path.write_text(json.dumps(document))
    app, store, _ = name.split("/")
    sick = folder.run("health", "--json")
    assert sick.code == 1
    check = sick.json()["apps"][app]["stores"][store]
    assert check["status"] == "unhealthy", check
    (command,) = [part for part in check["fix"].replace(";", ",").split(",") if "multidb apply" in part]
    words = shlex.split(command[command.index("multidb apply") :])
    folder.ok(*words[1 : words.index("--app") + 2], "--yes")
    assert folder.ok("health", "--json").json()["status"] == "healthy"
    folder.ok("plan", "--check")
