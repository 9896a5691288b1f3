"""The history through the command line, on a real Valkey: what each command that changes something leaves there."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from multidb.cli.command_line import COMMANDS
from multidb.history import RecordedRun, RunHistory, RunOutcome
from multidb.state import ProjectState
from tests.support.command import Folder
from tests.support.command_line import commands

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: past
runtime: embedded
backup: {to: [sets/], keep: {last: 1}}
apps:
  ann: {stores: [redis]}
"""

CHANGING = {
    "apply": "apply --yes",
    "add-app": "add-app bob --stores redis --yes",
    "rename-app": "rename-app ann amy --no-backup --yes-destroy ann",
    "usage": "usage --enforce",
    "query": "query --redis DBSIZE",  # changes nothing: what was asked is known all the same
    "backup": "backup ann",
    "backups prune": "backups prune --yes",
    "restore": "restore ann --replace",
    "clone": "clone ann ann_pr --ttl 1s",
    "expire": "expire",
    "remove-app": "remove-app bob --no-backup --yes",
    "undo-remove": "undo-remove bob",
    "purge": "purge bob --yes-destroy bob",
    "state push": "state push state.json --yes",
    "secrets move": "secrets move --to {age: {file: secrets.age, recipients: [age1...]}} --yes",
    "secrets rekey": "secrets rekey",
}
"""What changes apps, their places or their sets, or what is remembered of them, each by an example."""

NOT_HERE = {"recover", "rotate", "import", "move", "state move", "state recover", "state unlock"}
"""Change something too, and take a Neo4j; or somebody else's servers, as test_import_run.py has them; or a Postgres, as
test_rotation_run.py and test_move_run.py have one; or a shared state, as test_state_places.py has it."""

CHANGING_NOTHING = {
    *(
        "init",
        "up",
        "down",
        "restart",
        "status",
        "logs",
        "serve",
        "doctor",
        "validate",
        "schema",
        "completion",
        "render",
    ),
    *("plan", "apps", "show", "env", "connect", "health", "audit", "history"),
    *("backups list", "backups show", "backups verify", "backups copy", "state show", "state pull"),
}
"""Of apps, their places and their sets, and of what is remembered of them."""


def test_of_every_command_it_is_known_whether_it_has_a_place_in_the_history() -> None:
    assert dict(commands()).keys() == {*CHANGING, *NOT_HERE, *CHANGING_NOTHING}
    assert {command.split()[0] for command in CHANGING} <= {*COMMANDS}


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with tempfile.TemporaryDirectory(prefix="past-") as name:
        found = Folder(Path(name), [])
        found.manifest(MANIFEST)
        found.ok("up")
        yield found
        found.run("down")


def recorded(folder: Folder) -> list[RecordedRun]:
    return RunHistory(ProjectState(folder.path)).runs()


def changes(run: RecordedRun) -> set[str]:
    return {f"{change.action} {change.kind}" for change in run.changes}


def test_each_command_that_changes_something_is_recorded_and_none_that_does_not(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command, app, change in (
        ("apply --yes", "ann", "create acl user"),
        ("apply --yes", "", ""),  # there is nothing to do
        ("add-app bob --stores redis --yes", "bob", "create acl user"),
        ("query --redis DBSIZE", "ann", "read query"),
        ("backup ann", "ann", "create set"),
        ("backup ann", "ann", "create set"),
        ("backups verify ann", "", ""),
        ("backups prune --yes", "ann", "delete set"),
        ("restore ann --replace", "ann", "replace data"),
        ("clone ann ann_pr --ttl 1s", "ann_pr", "replace data"),
        ("expire", "ann_pr", "purge app"),
        ("rename-app ann amy --no-backup --yes-destroy ann", "amy", "rename app"),
        ("rename-app amy ann --no-backup --yes-destroy amy", "ann", "rename app"),
        ("remove-app bob --no-backup --yes", "bob", "remove app"),
        ("undo-remove bob", "bob", "restore app"),
        ("remove-app bob --no-backup --yes", "bob", "remove app"),
        ("purge bob --yes-destroy bob", "bob", "purge app"),
    ):
        before = len(recorded(folder))
        if command == "expire":
            time.sleep(2)  # more than the clone's whole time
        folder.ok(*command.split())
        *earlier, run = recorded(folder)
        assert len(earlier) + 1 == before + bool(change), command
        if change:
            assert (command.startswith(run.command), run.outcome) == (True, RunOutcome.DONE)
            assert list(run.arguments) == command.split()
            assert (app in run.apps, change in changes(run)) == (True, True), command
            assert (run.plan is not None) == any(each.server for each in run.changes)

    identity = pyrage.x25519.Identity.generate()
    (folder.path / "identity.txt").write_text(f"{identity}\n")
    (folder.path / "identity.txt").chmod(0o600)
    monkeypatch.setenv("MULTIDB_SECRETS_IDENTITY", str(folder.path / "identity.txt"))
    key = identity.to_public()
    (folder.path / "state.json").write_text(folder.ok("state", "pull").out)
    for command, change in (
        (("state", "push", "state.json", "--yes"), "replace state"),
        (("secrets", "move", "--to", f"{{age: {{file: secrets.age, recipients: [{key}]}}}}", "--yes"), "move secrets"),
        (("secrets", "rekey"), "encrypt secrets"),
        (("secrets", "move", "--to", "file", "--yes"), "move secrets"),
        (("secrets", "move", "--to", "file", "--yes"), ""),  # they are there
        (("state", "recover"), ""),  # nothing is lost
    ):
        before = len(recorded(folder))
        folder.ok(*command)
        *earlier, run = recorded(folder)
        assert len(earlier) + 1 == before + bool(change), command
        if change:
            assert (run.command, run.outcome, changes(run)) == (" ".join(command[:2]), RunOutcome.DONE, {change})

    about = folder.ok("history", "bob", "--json").json()
    assert [run["command"] for run in about["runs"]] == [
        *("purge", "remove-app", "undo-remove", "remove-app"),
        *("query", "add-app"),
    ]
    assert folder.ok("history", "--since", "1s", "--app", "nobody", "--json").json()["runs"] == []
    text = folder.ok("history", "bob", "--limit", "2", "-v").out
    assert "purge app bob" in text
    assert "more: --limit" in text


def test_a_quota_that_makes_an_app_read_only_is_recorded(folder: Folder) -> None:
    folder.manifest(
        MANIFEST.replace("{stores: [redis]}", "{stores: [redis], quota: {redis: {size: 1B, enforce: read-only}}}")
    )
    before = len(recorded(folder))
    folder.ok("connect", "ann", stdin="SET key value\n")
    for _ in range(2):  # the second finds it read-only
        assert folder.run("usage", "--enforce").code == 1
        *earlier, run = recorded(folder)
        assert (len(earlier), run.command, run.apps) == (before, "usage", ("ann",))
    folder.manifest(MANIFEST)
    folder.ok("usage", "--enforce")
    assert len(recorded(folder)) == before + 2, "and that it may write again"


def test_a_line_that_was_altered_is_said_with_a_command_that_works(folder: Folder) -> None:
    path = folder.path / ".multidb/history/runs.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    altered = json.loads(lines[1]) | {"outcome": "failed"}
    path.write_text("".join([lines[0], json.dumps(altered) + "\n", *lines[2:]]))
    done = folder.run("history", "--json")
    assert (done.code, done.json()["ok"], done.json()["problems"]) == (1, False, ["line 2 was altered"])
    assert "line 2 was altered" in done.err
    findings = folder.run("doctor", "--json").json()["findings"]
    finding = next(finding for finding in findings if finding["subject"] == "history")
    assert finding["level"] == "error"
    command = finding["hint"].rpartition(": multidb ")[2].split()
    assert folder.run(*command).code == 3, "nobody has agreed to it"
    assert folder.run("history").code == 1
    aside = folder.ok(*command, "--yes", "--json").json()["set_aside"]
    assert (folder.path / ".multidb" / aside / "runs.jsonl").read_text().splitlines()[0] == lines[0].strip()
    folder.ok("backup", "ann")
    first, _ = recorded(folder)
    assert changes(first) == {"set aside history"}
    assert [change.name for change in first.changes] == [aside]
    folder.ok("history")
