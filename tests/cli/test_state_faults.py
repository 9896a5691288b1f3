"""What is wrong with the place of the state, through the commands: one clear error, nothing lost, nothing half-made."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support import seaweedfs
from tests.support.command import Folder, project_folder
from tests.support.odd_storage import Careless, Ending, listening

pytestmark = pytest.mark.server

_MANIFEST = """\
version: 1
project: faults
runtime: embedded
apps:
  ann: {stores: [redis]}
"""
_BOB = "  bob: {stores: [redis]}\n"
_STATE = f"s3://{seaweedfs.BUCKET}/faults"
_KEY = "faults/state.json"


@pytest.fixture(scope="module")
def storage() -> Iterator[seaweedfs.S3Server]:
    with seaweedfs.s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def folder(storage: seaweedfs.S3Server) -> Iterator[Folder]:
    """A project with its state in S3, and one app more in its manifest than were made."""
    with pytest.MonkeyPatch.context() as patched, project_folder("faults-", _MANIFEST) as made:
        for name, value in storage.environment().items():
            patched.setenv(name, value)
        made.ok("up")
        made.ok("apply", "--yes")
        made.ok("state", "move", "--to", _STATE, "--yes")
        made.manifest((made.path / "multidb.yaml").read_text().replace("apps:\n", f"apps:\n{_BOB}"))
        yield made


@pytest.fixture(autouse=True)
def _comes_in(storage: seaweedfs.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in storage.environment().items():
        monkeypatch.setenv(name, value)


def whole(folder: Folder, manifest: str) -> None:
    """All is as it was: ann's place, nothing of bob, no lock, the manifest."""
    assert (folder.path / "multidb.yaml").read_text() == manifest
    changes = folder.ok("plan", "--json").json()["changes"]
    assert {(change["app"], change["action"]) for change in changes if change["app"]} == {("bob", "create")}
    assert folder.ok("health", "ann", "--read-only", "--json").json()["apps"]["ann"]
    assert folder.ok("state", "show", "--json").json()["locks"] == []
    assert folder.ok("history", "--json").json()["problems"] == []


def refused(folder: Folder, code: int, words: str, *commands: str) -> None:
    for command in commands:
        done = folder.run(*command.split())
        assert (done.code, words in done.err, done.err.count("Error:")) == (code, True, 1), (command, done.err)


CHANGING = ("apply --yes", "add-app cat --stores redis --yes", "remove-app ann --no-backup --yes")


def test_without_rights_nothing_is_changed(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, admin = (folder.path / "multidb.yaml").read_text(), {**os.environ}
    for account, words, commands in (
        ("stranger", "the credentials may not read", ("plan", *CHANGING)),
        ("reader", "the credentials may not write", CHANGING),
    ):
        for name, value in seaweedfs.environment(os.environ["AWS_ENDPOINT_URL_S3"], account).items():
            monkeypatch.setenv(name, value)
        refused(folder, 4, words, *commands)
        for name in seaweedfs.environment(""):
            monkeypatch.setenv(name, admin[name])
        whole(folder, manifest)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda text: text[: len(text) // 2], 2, "is damaged: it is not JSON"),
        (lambda text: json.dumps({**json.loads(text), "version": 999}), 3, "newer multidb"),
        (
            lambda text: json.dumps({**json.loads(text), "identity": {"id": "0", "project": "other"}}),
            3,
            "is the state of the project other, and this is faults",
        ),
    ],
    ids=["half-written", "newer", "another project's"],
)
def test_a_state_that_is_not_ours_to_read_is_left_as_it_is(
    folder: Folder, storage: seaweedfs.S3Server, change: Callable[[str], str], code: int, words: str
) -> None:
    manifest, place = (folder.path / "multidb.yaml").read_text(), {"Bucket": seaweedfs.BUCKET, "Key": _KEY}
    before = storage.client().get_object(**place)["Body"].read()
    wrong = change(before.decode()).encode()
    storage.client().put_object(**place, Body=wrong)
    refused(folder, code, words, "plan", *CHANGING, "state show", "state pull", "state move --to .multidb/ --yes")
    assert storage.client().get_object(**place)["Body"].read() == wrong
    storage.client().put_object(**place, Body=before)
    whole(folder, manifest)


def test_storage_without_conditional_writes_gets_no_state(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, before = (folder.path / "multidb.yaml").read_text(), os.environ["AWS_ENDPOINT_URL_S3"]
    folder.ok("state", "move", "--to", ".multidb/", "--yes")
    handler = type("Handler", (Careless,), {"objects": {}})
    with listening(handler) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        refused(folder, 4, "writes whatever a write depends on", "state move --to s3://states/careless --yes")
        assert list(handler.objects) == ["/states/careless/state.json.probe"]
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", before)
    assert folder.ok("state", "show", "--json").json()["moved_to"] is None
    folder.ok("state", "move", "--to", _STATE, "--yes")
    whole(folder, manifest)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.rare)])
def test_credentials_that_end_anywhere_in_an_apply_leave_nothing_half_made(
    folder: Folder, storage: seaweedfs.S3Server, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    manifest = (folder.path / "multidb.yaml").read_text()
    for requests in itertools.count(1, step):
        handler = type("Handler", (Ending,), {"behind": storage.url, "left": requests, "guard": threading.Lock()})
        with listening(handler) as url:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
            done = folder.run("apply", "--yes")
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", storage.url)
        if done.code == 0:
            break
        words = "the credentials have ended"
        assert (done.code, words in done.err, done.err.count("Error:")) == (4, True, 1), (requests, done.err)
        for lock in folder.ok("state", "show", "--json").json()[
            "locks"
        ]:  # it could not give them back; their lease ends
            folder.ok("state", "unlock", lock["id"], "--yes")
        folder.ok("plan")
    print(f"{requests} requests")
    assert requests > 9
    folder.ok("apply", "--yes")
    folder.ok("plan", "--check")
    assert (folder.path / "multidb.yaml").read_text() == manifest
    runs = folder.ok("history", "--json").json()
    assert runs["problems"] == []
    assert folder.ok("env", "bob", "--format", "json", "--reveal").json()["REDIS_PASSWORD"]
    folder.ok("remove-app", "bob", "--no-backup", "--yes")
    folder.ok("purge", "bob", "--yes-destroy", "bob")
    folder.manifest(manifest)
