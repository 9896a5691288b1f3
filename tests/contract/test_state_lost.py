"""State and secrets that are gone, or of an old copy, on real servers: what these know is read back."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multidb.manifest import remove_app
from tests.support.command import Folder

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: shop
runtime: embedded
apps:
  ann: {stores: [postgres, redis]}
  bob: {stores: [postgres, redis]}
  cat: {stores: [postgres, redis]}
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
    folder.ok("validate")
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
    (command,) = [part for part in check["hint"].replace(";", ",").split(",") if "multidb apply" in part]
    words = shlex.split(command[command.index("multidb apply") :])
    folder.ok(*words[1 : words.index("--app") + 2], "--yes")
    assert folder.ok("health", "--json").json()["status"] == "healthy"
    folder.ok("plan", "--check")


def lose(folder: Folder, *owners: str) -> None:
    """Takes what is known of removed apps and numbers out of the state, and these apps' credentials out of the secrets;
    the servers go on."""
    document = json.loads(state(folder).read_text())
    state(folder).write_text(json.dumps({**document, "removed": {}, "numbers": {}}))
    path = folder.path / ".multidb" / "secrets.json"
    document = json.loads(path.read_text())
    kept = {name: value for name, value in document["secrets"].items() if name.split("/")[0] not in owners}
    path.write_text(json.dumps({**document, "secrets": kept}))


def removed(folder: Folder) -> Any:
    return folder.ok("purge", "--json").json()["removed"]


def test_a_removed_app_is_known_again_from_the_servers_and_comes_back(folder: Folder) -> None:
    before = {name: folder.ok("env", name, "--format", "json", "--reveal").json() for name in ("ann", "bob")}
    held = numbers(folder)
    for name in ("ann", "bob"):
        folder.ok("remove-app", name, "--yes", "--no-backup")
    lose(folder, "bob")
    assert removed(folder) == {}
    told = folder.run("plan", "--check")
    assert told.code == 1
    assert "app ann: was removed" in told.out + told.err
    assert {name: stone["phase"] for name, stone in removed(folder).items()} == {"ann": "removed", "bob": "removed"}
    folder.ok("plan", "--check")  # it is said once
    folder.ok("undo-remove", "ann")
    assert folder.ok("env", "ann", "--format", "json", "--reveal").json() == before["ann"]
    assert numbers(folder)["ann"] == held["ann"]
    refused = folder.run("undo-remove", "bob")
    assert refused.code == 3
    assert "multidb apply --regenerate bob" in refused.out + refused.err
    folder.ok("apply", "--regenerate", "bob", "--yes")
    folder.ok("undo-remove", "bob")
    assert removed(folder) == {}
    assert numbers(folder) == held
    assert folder.ok("health", "--json").json()["status"] == "healthy"
    assert folder.ok("env", "bob", "--format", "json", "--reveal").json() != before["bob"]
    folder.ok("plan", "--check")


def test_an_app_whose_logins_are_on_is_no_removed_one_and_a_removed_one_can_be_purged(folder: Folder) -> None:
    folder.ok("remove-app", "cat", "--yes", "--no-backup")
    lose(folder)
    with folder_without(folder, "ann"):
        told = folder.run("plan", "--check")
        assert told.code == 1
        assert "app ann: is on the servers and not in the manifest" in told.out + told.err
        assert removed(folder).keys() == {"cat"}
    folder.ok("plan", "--check")
    folder.ok("purge", "cat", "--yes-destroy", "cat")
    assert removed(folder) == {}
    folder.ok("plan", "--check")


@contextlib.contextmanager
def folder_without(folder: Folder, app: str) -> Iterator[None]:
    """In the block the entry of an app is not in the manifest."""
    path = folder.path / "multidb.yaml"
    text = path.read_text()
    path.write_text(remove_app(text, app))
    yield
    path.write_text(text)
