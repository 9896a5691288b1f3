"""Restores through the command line that were killed while places were exchanged: nobody writes to the app until
another command finishes them, so that nothing written is lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import psycopg
import pytest
import redis

from multidb.backup.journal import RESTORING, Journal
from multidb.state import ProjectState
from tests.support.command import Folder, project_folder
from tests.support.stopped import kill, stopped_at

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: back
runtime: embedded
apps:
  ann: {stores: [postgres, redis], files: [uploads/]}
  bob: {stores: [redis]}
backup: {to: [sets/], verify: never}
"""
Contents = tuple[set[str], set[str], set[str]]


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("back-", MANIFEST) as made:
        (made.path / "uploads").mkdir()
        made.ok("up")
        made.ok("apply", "--yes")
        with entered(made) as ann:
            ann.execute("CREATE TABLE notes (note text)")
        yield made


@pytest.fixture(scope="module")
def set_id(folder: Folder) -> str:
    write(folder, "of the set")
    (made,) = folder.ok("backup", "ann", "--json").json()["sets"]
    return str(made["set"])


def entered(folder: Folder) -> psycopg.Connection[tuple[str]]:
    return psycopg.connect(folder.variables("ann")["DATABASE_URL"], autocommit=True)


def write(folder: Folder, note: str) -> None:
    """The app writes it everywhere."""
    with entered(folder) as ann:
        ann.execute("INSERT INTO notes VALUES (%s)", [note])
    with redis.Redis.from_url(folder.variables("ann")["REDIS_URL"]) as client:
        client.set(note, "1")
    (folder.path / "uploads" / note).write_text(note)


def contents(folder: Folder) -> Contents:
    with entered(folder) as ann, redis.Redis.from_url(folder.variables("ann")["REDIS_URL"]) as client:
        notes = {note for (note,) in ann.execute("SELECT note FROM notes")}
        keys = {key.decode() for key in client.scan_iter()}
    return notes, keys, {path.name for path in (folder.path / "uploads").iterdir()}


OLD, SINCE = {"of the set"}, {"of the set", "since"}
EXCHANGING = (
    "multidb.backup.restoring:_Restore._note_exchanged",
    pytest.param("multidb.backup.restoring:_Restore._exchange", marks=pytest.mark.rare),
    pytest.param("multidb.backup.restoring:_Restore._note_exchanged#2", marks=pytest.mark.rare),
    pytest.param("multidb.backup.restoring:_Restore._exchange_files", marks=pytest.mark.rare),
)


def test_what_is_written_when_everything_was_exchanged_stays(folder: Folder, set_id: str) -> None:
    _killed(folder, "multidb.backup.restoring:Journal.end", set_id)
    folder.ok("apply", "--yes")
    write(folder, "since")
    folder.ok("backup", "ann")
    assert contents(folder) == (SINCE, SINCE, SINCE)
    assert Journal(ProjectState(folder.path)).open(RESTORING) == {}


@pytest.mark.parametrize("step", EXCHANGING)
def test_nobody_writes_to_an_app_whose_places_are_half_exchanged(folder: Folder, set_id: str, step: str) -> None:
    """Else whatever finishes the exchange would replace it."""
    _killed(folder, step, set_id)
    told = folder.run("doctor", "--json").json()["findings"]
    assert [finding["message"] for finding in told if finding["subject"] == "app ann"] == [
        "a restore of it was interrupted, and may have given it some of its data"
    ]
    kept_manifest = (folder.path / "multidb.yaml").read_text()
    folder.manifest("\n".join(line for line in kept_manifest.splitlines() if not line.startswith("  ann:")) + "\n")
    (lost,) = (
        finding
        for finding in folder.run("doctor", "--json").json()["findings"]
        if finding["subject"] == "app ann" and "interrupted" in finding["message"]
    )
    assert lost["hint"].startswith("put its entry back")
    folder.manifest(kept_manifest)
    assert _unfinished(folder, "ann", "multidb backup ann")
    assert folder.run("health", "ann").code != 0
    folder.ok("backup")  # of all of them, as by a timer
    assert contents(folder) == (OLD, OLD, OLD)
    assert Journal(ProjectState(folder.path)).open(RESTORING) == {}
    folder.ok("plan", "--check")


def test_an_app_whose_set_is_gone_in_the_exchange_takes_another(folder: Folder, set_id: str) -> None:
    write(folder, "before")
    (other,) = folder.ok("backup", "ann", "--json").json()["sets"]
    _killed(folder, "multidb.backup.restoring:_Restore._note_exchanged", other["set"])
    for gone in (folder.path / "sets").glob(f"**/{other['set']}"):
        shutil.rmtree(gone)
    assert _unfinished(folder, "ann", "multidb restore SET --replace --no-safety-set")
    refused = folder.run("backup", "ann")
    assert refused.code != 0
    folder.ok("restore", set_id, "--replace", "--no-safety-set")
    assert contents(folder) == (OLD, OLD, OLD)
    folder.ok("plan", "--check")


def test_a_restore_that_changed_nothing_is_undone_without_its_set(folder: Folder, set_id: str) -> None:
    """As on another machine, where the folder of sets is another one, or while its storage is away."""
    folder.ok("restore", set_id, "--replace", "--no-safety-set")
    _killed(folder, "multidb.backup.restoring:_Restore._note#3", set_id)  # its logins are off by then
    sets = folder.path / "sets"
    sets.rename(folder.path / "away")
    try:
        folder.ok("backup", "ann")
        assert Journal(ProjectState(folder.path)).open(RESTORING) == {}
    finally:
        shutil.rmtree(sets, ignore_errors=True)
        (folder.path / "away").rename(sets)
    assert contents(folder) == ({*OLD, "before"},) * 3


def _killed(folder: Folder, step: str, set_id: str) -> None:
    """A restore of the app, killed before it came to the step."""
    write(folder, "before")
    process = stopped_at(folder, step, "restore", set_id, "--replace", "--no-safety-set")
    assert process is not None, f"it never came to {step}"
    kill(process)


@pytest.mark.rare
def test_what_was_loaded_waits_for_the_target_while_other_scratch_places_go(folder: Folder, set_id: str) -> None:
    """A restore that cannot be finished now, beside a set that was being tried: what it has loaded is not cleared."""
    write(folder, "before")
    step = "multidb.backup.restoring:_Restore._exchange"
    process = stopped_at(folder, step, "restore", set_id, "--replace", "--no-safety-set")
    assert process is not None
    kill(process)
    state = ProjectState(folder.path)
    Journal(state).begin("verifying", "ann", {"stores": ["postgres", "redis"]})
    sets = folder.path / "sets"
    sets.rename(folder.path / "away")
    try:
        refused = folder.run("backup", "ann")
        assert (refused.code != 0, "a restore of it is unfinished" in refused.err + refused.out) == (True, True)
        assert Journal(state).open("verifying") == {}
    finally:
        for left in (sets, sets.with_name("removed")):
            if left.exists():
                left.rename(folder.path / "made-meanwhile")
        (folder.path / "away").rename(sets)
    folder.ok("backup", "ann")
    assert contents(folder) == (OLD, OLD, OLD)


def test_a_manifest_without_the_app_does_not_end_its_restore(folder: Folder, set_id: str) -> None:
    """As from another folder, or on an old branch: what is half of the set and half of before is finished later."""
    write(folder, "before")
    step = "multidb.backup.restoring:_Restore._note_exchanged"
    process = stopped_at(folder, step, "restore", set_id, "--replace", "--no-safety-set")
    assert process is not None
    kill(process)
    folder.manifest(MANIFEST.replace("  ann: {stores: [postgres, redis], files: [uploads/]}\n", ""))
    folder.ok("backup")
    folder.manifest(MANIFEST)
    assert [*Journal(ProjectState(folder.path)).open(RESTORING)] == ["ann"]
    folder.ok("backup", "ann")
    assert contents(folder) == (OLD, OLD, OLD)
    with entered(folder) as ann:
        assert ann.execute("SELECT datname FROM pg_database WHERE datname ~ '^ann__'").fetchall() == []


def test_an_app_that_a_restore_could_not_fill_is_known_for_unfinished(folder: Folder, set_id: str) -> None:
    manifest, way_on = (folder.path / "multidb.yaml").read_text(), f"multidb restore {set_id} --as half"
    assert folder.run("restore", set_id, "--as", "half", "--store", "qdrant").code == 2
    assert (folder.path / "multidb.yaml").read_text() == manifest, "what is refused adds no app"

    (dump,) = (folder.path / "sets").glob(f"**/{set_id}/postgres*")
    dump.rename(folder.path / "away")
    assert folder.run("restore", set_id, "--as", "half").code != 0
    (folder.path / "away").rename(dump)
    assert _unfinished(folder, "half", way_on)

    process = stopped_at(folder, "multidb.backup.restoring:_Restore._note_exchanged", "restore", set_id, "--as", "half")
    assert process is not None
    kill(process)
    assert _unfinished(folder, "half", way_on)
    folder.ok("restore", set_id, "--as", "half")
    with psycopg.connect(folder.variables("half")["DATABASE_URL"]) as half:
        assert half.execute("SELECT note FROM notes").fetchall() == [("of the set",)]
    assert folder.run("restore", set_id, "--as", "half").code == 3, "what is finished goes with --replace only"
    folder.ok("plan", "--check")


def test_an_app_whose_restore_a_backup_finishes_is_open(folder: Folder, set_id: str) -> None:
    process = stopped_at(folder, "multidb.backup.restoring:_Restore._note_exchanged", "restore", set_id, "--as", "late")
    assert process is not None
    kill(process)
    assert _unfinished(folder, "late", f"multidb restore {set_id} --as late")
    folder.ok("backup", "late")
    folder.ok("plan", "--check")
    with redis.Redis.from_url(folder.variables("late")["REDIS_URL"]) as client:
        assert client.keys() == [b"of the set"]


def _unfinished(folder: Folder, app: str, way_on: str) -> bool:
    """Whether it is known for unfinished, and nobody is let in, whatever is applied."""
    folder.ok("apply", "--yes")
    checked, env = folder.run("plan", "--check"), folder.variables(app)
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        psycopg.connect(env["DATABASE_URL"])
    with redis.Redis.from_url(env["REDIS_URL"]) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    return checked.code == 1 and way_on in " ".join(checked.out.split())
