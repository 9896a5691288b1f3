"""Sets made, verified and brought back on a store of files: what is promised when all goes well, and when it does
not."""

from __future__ import annotations

import dataclasses
import errno
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb import files
from multidb.backup import creation
from multidb.backup.cloning import copy_into
from multidb.backup.creation import make_sets, pausing, repository
from multidb.backup.encryption import Identities
from multidb.backup.journal import RESTORING, Journal, exclusively
from multidb.backup.recovery import recover
from multidb.backup.repository import utc_now
from multidb.backup.restoring import Restored, SetSource, restore, restore_tables
from multidb.backup.run import run_backups
from multidb.backup.schedule import due
from multidb.backup.set_ids import made_at, new_id
from multidb.backup.sets import BackupSet, Consistency, Reason, Verification
from multidb.closure import Closure, close
from multidb.engine import Engine
from multidb.errors import ArchiveError, Conflict, Locked, Refused, ServerDown, TargetError, UsageError, WrongKey
from multidb.fleet import Fleet, Scope
from multidb.model import App, Place, PlaceKind, Server, StoreContext
from tests.unit.backup.cabinet import FAULTS, ONE_PLACE, Archive, rows_of, write_rows
from tests.unit.backup.conftest import MANIFEST, make_engine
from tests.unit.backup.sets_of_shop import folder_of, made, make, quiet, tried


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_set_is_one_folder_that_tells_what_is_in_it(engine: Engine, tmp_path: Path) -> None:
    copy = made(engine)
    folder = folder_of(copy, tmp_path)
    assert files_in(folder) == ["cabinet/rows.txt.zst", "drawer/rows.txt.zst", "manifest.json"]
    told = json.loads((folder / "manifest.json").read_text())
    assert (told["app"], told["consistency"], told["complete"]) == ("ann", "per-store", True)
    assert told["stores"]["cabinet"]["counts"] == {"rows": 50}
    assert told["declaration"] == {"stores": ["cabinet", "drawer"]}
    assert copy.backup_set == BackupSet.from_json((folder / "manifest.json").read_bytes(), "x")
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*"))


def test_sets_of_one_second_are_in_the_order_in_which_they_were_made(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = [datetime(2026, 3, 1, 12, 0, 0, part, tzinfo=UTC) for part in range(0, 1_000_000, 90_909)]
    ids = []
    for moment in moments:
        monkeypatch.setattr(creation, "exact_now", lambda moment=moment: moment)
        ids.append(made(engine).id)
    home = repository(engine.fleet)
    assert [copy.id for copy in home.copies()] == ids[::-1]
    assert {made_at(set_id) for set_id in ids} == {moments[0]}
    assert home.find("ann").id == ids[-1]


@given(st.integers(0, 10**9), st.integers(0, 10**6 - 1), st.integers(1, 3))
def test_ids_sort_as_the_moments_do_that_are_a_millisecond_apart(second: int, microsecond: int, apart: int) -> None:
    early = datetime.fromtimestamp(second, UTC) + timedelta(microseconds=microsecond)
    late = early + timedelta(milliseconds=apart)
    assert made_at(new_id(late)) == late.replace(microsecond=0)
    assert new_id(early) < new_id(late)
    assert len({new_id(late) for _ in range(20)}) > 1


def test_only_a_set_of_one_moment_is_called_consistent(engine: Engine, data: Path) -> None:
    alone = make_sets(engine, Scope(frozenset({"ann"}), frozenset({"drawer"})), progress=quiet)[0].made
    assert alone is not None
    assert alone.consistency is Consistency.CONSISTENT
    assert not alone.complete
    paused = made(engine, quiesce=True).backup_set
    assert paused is not None
    assert paused.consistency is Consistency.CONSISTENT


def test_logins_are_off_while_a_quiesced_set_is_made_and_on_afterwards(
    engine: Engine, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.unit.backup.cabinet import Archive

    seen = []
    real = Archive.backup

    def backup(self: Archive, *arguments: object) -> object:
        seen.append([(self.shelf.box(app) or {})["login"] for app in ("ann", "bob")])
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Archive, "backup", backup)
    made(engine, quiesce=True)
    assert seen == [["off", "on"], ["off", "on"]]
    assert engine.plan().in_sync
    FAULTS["backup ann"] = ArchiveError("broken")
    assert not make(engine, "ann", quiesce=True)["ann"].ok
    assert engine.plan().in_sync
    assert Journal(engine.state).open("paused") == {}


def test_what_went_wrong_first_is_told_when_the_logins_do_not_come_on_again_either(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> NoReturn:
        raise ServerDown("does not answer")

    monkeypatch.setattr(Engine, "apply", gone)
    with pytest.raises(ArchiveError, match="broken"), pausing(engine, engine.project.apps["ann"], quiet):
        raise ArchiveError("broken")
    assert "ann" in Journal(engine.state).open("paused"), "the next run turns them on"


def test_one_app_that_fails_harms_no_other_and_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    FAULTS["midway ann drawer"] = ServerDown("went away", where="drawer")
    done = make(engine)
    assert done["bob"].ok
    assert done["ann"].made is None
    assert "went away" in str(done["ann"].errors["drawer"])
    assert not list((tmp_path / "sets").rglob("ann/*"))
    assert [copy.app for copy in repository(engine.fleet).copies()] == ["bob"]
    assert repository(engine.fleet).half_made() == []


def test_a_server_that_is_down_fails_the_apps_on_it(engine: Engine, data: Path) -> None:
    (data / "drawer" / "down").touch()
    done = make(engine)
    assert {app: list(each.errors) for app, each in done.items()} == {"ann": ["drawer"], "bob": ["drawer"]}
    assert repository(engine.fleet).copies() == []


def test_a_target_that_fails_costs_only_its_own_copy(tmp_path: Path, data: Path) -> None:
    (tmp_path / "file").touch()
    engine = make_engine(tmp_path, data, MANIFEST.replace("[sets/]", "[sets/, file/sets, more/]"))
    done = make(engine, "ann")["ann"]
    assert done.made is not None
    assert list(done.errors) == ["file/sets"]
    for name in ("sets/", "more/"):
        (copy,) = repository(engine.fleet, [name]).copies()
        assert copy.backup_set == done.made
        assert tried(engine, copy).ok
    every = make(engine, "ann", to=["file/sets"])["ann"]
    assert every.made is None
    assert list(every.errors) == ["file/sets"]


def test_a_good_set_is_proved_and_says_so(engine: Engine, tmp_path: Path, data: Path) -> None:
    copy = made(engine)
    assert not copy.verified
    assert tried(engine, copy).ok
    again = repository(engine.fleet).find(copy.id)
    assert again.verified
    assert again.verification == Verification.from_json((folder_of(copy, tmp_path) / "verified.json").read_bytes())
    assert not list(data.rglob("*__*"))
    assert rows_of(data, "cabinet", "ann").count(b"\n") == 50


def swap(folder: Path) -> None:
    one, two = folder / "cabinet/rows.txt.zst", folder / "drawer/rows.txt.zst"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "stores", "said"),
    [
        (lambda f: (f / "drawer/rows.txt.zst").write_bytes(b""), ["drawer"], "is empty"),
        (lambda f: (f / "drawer/rows.txt.zst").unlink(), ["drawer"], "is not there"),
        (lambda f: flip(f / "drawer/rows.txt.zst"), ["drawer"], "SHA-256"),
        (lambda f: (f / "drawer/rows.txt.zst").write_bytes(b"\x28\xb5\x2f\xfd"), ["drawer"], "cut off"),
        (swap, ["cabinet", "drawer"], "is"),
    ],
    ids=["empty", "missing", "flipped", "cut", "swapped"],
)
def test_a_damaged_set_does_not_verify(
    engine: Engine, tmp_path: Path, harm: object, stores: list[str], said: str
) -> None:
    copy = made(engine)
    harm(folder_of(copy, tmp_path))  # type: ignore[operator]
    found = tried(engine, copy)
    assert not found.ok
    assert found.verification is not None
    assert sorted(found.verification.failures) == stores
    assert all(said in words and f"{store}/rows.txt" in words for store, words in found.verification.failures.items())
    assert not repository(engine.fleet).find(copy.id).verified


def test_a_manifest_that_was_altered_is_no_manifest(engine: Engine, tmp_path: Path) -> None:
    copy = made(engine)
    path = folder_of(copy, tmp_path) / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 50', '"rows": 49'))
    (found,) = repository(engine.fleet).copies()
    assert "damaged" in found.problem
    assert not tried(engine, found).ok


def test_a_set_without_one_of_its_stores_is_found_out(engine: Engine, tmp_path: Path) -> None:
    copy = made(engine)
    assert copy.backup_set is not None
    less = dataclasses.replace(copy.backup_set, parts={"drawer": copy.backup_set.parts["drawer"]})
    (folder_of(copy, tmp_path) / "manifest.json").write_text(less.to_json())
    verification = tried(engine, repository(engine.fleet).find(copy.id)).verification
    assert verification is not None
    assert verification.failures == {"cabinet": "the set has nothing of it"}


def test_a_set_that_restores_to_something_else_does_not_verify(engine: Engine, tmp_path: Path) -> None:
    """What was measured and what was written differ, though every checksum fits."""
    copy = made(engine)
    assert copy.backup_set is not None
    part = copy.backup_set.parts["drawer"]
    for measures, said in (
        (dataclasses.replace(part.part.measures, counts={"rows": 51}), "rows: 50, the set says 51"),
        (dataclasses.replace(part.part.measures, fingerprints={"rows": "0"}), "rows: another content"),
        (dataclasses.replace(part.part.measures, counts={"rows": 50, "more": 1}), "more: none, the set says 1"),
    ):
        other = dataclasses.replace(part, part=dataclasses.replace(part.part, measures=measures))
        changed = dataclasses.replace(copy.backup_set, parts={**copy.backup_set.parts, "drawer": other})
        (folder_of(copy, tmp_path) / "manifest.json").write_text(changed.to_json())
        verification = tried(engine, repository(engine.fleet).find(copy.id)).verification
        assert verification is not None
        assert said in verification.failures["drawer"]


def test_a_mark_does_not_pass_to_another_set(engine: Engine, tmp_path: Path, data: Path) -> None:
    first = made(engine)
    tried(engine, first)
    second = made(engine)
    mark = folder_of(first, tmp_path) / "verified.json"
    (folder_of(second, tmp_path) / "verified.json").write_bytes(mark.read_bytes())
    assert [copy.verified for copy in repository(engine.fleet).copies() if copy.id == second.id] == [False]


def test_what_says_nothing_of_the_set_leaves_no_mark(engine: Engine, tmp_path: Path, data: Path) -> None:
    copy = made(engine)
    (data / "drawer" / "down").touch()
    found = tried(engine, copy)
    assert isinstance(found.problem, ServerDown)
    assert "verified.json" not in files_in(folder_of(copy, tmp_path))


def test_a_store_without_room_is_read_and_called_unverified(engine: Engine) -> None:
    copy = made(engine)
    ONE_PLACE.add("drawer")
    verification = tried(engine, copy).verification
    assert verification is not None
    assert "no second server" in verification.unverified["drawer"]
    assert not verification.ok


def test_a_place_that_is_not_ours_says_nothing_of_the_set(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = made(engine)

    def prepare(*_: object) -> NoReturn:
        raise Conflict("the database ann__scratch exists and multidb did not make it")

    monkeypatch.setattr("tests.unit.backup.cabinet.Archive.prepare", prepare)
    verification = tried(engine, copy).verification
    assert verification is not None
    assert "multidb did not make it" in verification.unverified["cabinet"]
    assert not verification.failures
    assert not verification.ok


def test_encrypted_sets_need_their_key(tmp_path: Path, data: Path) -> None:
    key = pyrage.x25519.Identity.generate()
    manifest = MANIFEST.replace("verify:", f"encrypt: {{recipients: [{key.to_public()}]}}, verify:")
    engine = make_engine(tmp_path, data, manifest)
    copy = made(engine)
    assert "cabinet/rows.txt.zst.age" in files_in(folder_of(copy, tmp_path))
    assert tried(engine, copy, Identities([key])).ok
    for keys in (None, Identities([pyrage.x25519.Identity.generate()])):
        assert isinstance(tried(engine, copy, keys).problem, WrongKey)
    assert repository(engine.fleet).find(copy.id).verified  # a wrong key says nothing about the set
    with pytest.raises(WrongKey):
        restore(engine, SetSource(repository(engine.fleet), copy), "ann", replace=True, safety=False, progress=quiet)


def test_a_restore_brings_back_what_was(engine: Engine, data: Path) -> None:
    before = {store: rows_of(data, store, "ann") for store in ("cabinet", "drawer")}
    copy = made(engine)
    write_rows(data, "cabinet", "ann", 7, salt="later")
    with pytest.raises(Refused, match="has data in cabinet, drawer"):
        restore(engine, SetSource(repository(engine.fleet), copy), "ann", progress=quiet)
    assert rows_of(data, "cabinet", "ann").count(b"\n") == 7
    done = restore(engine, SetSource(repository(engine.fleet), copy), "ann", replace=True, progress=quiet)
    assert {store: rows_of(data, store, "ann") for store in before} == before
    assert engine.plan().in_sync
    assert done.safety is not None
    assert done.safety.reason is Reason.SAFETY
    assert done.safety.parts["cabinet"].part.measures.counts == {"rows": 7}
    assert not list(data.rglob("*__*"))
    assert Journal(engine.state).open("restoring") == {}


def test_one_store_alone_is_restored(engine: Engine, data: Path) -> None:
    copy = made(engine)
    for store in ("cabinet", "drawer"):
        write_rows(data, store, "ann", 7, salt="later")
    restore(engine, SetSource(repository(engine.fleet), copy), "ann", stores=["drawer"], replace=True, progress=quiet)
    assert [rows_of(data, store, "ann").count(b"\n") for store in ("cabinet", "drawer")] == [7, 50]
    with pytest.raises(UsageError, match="the set has no pages"):
        restore(
            engine, SetSource(repository(engine.fleet), copy), "ann", stores=["pages"], replace=True, progress=quiet
        )


def test_single_tables_are_restored(engine: Engine, data: Path) -> None:
    copy, journal = made(engine), Journal(engine.state)
    for store in ("cabinet", "drawer"):
        write_rows(data, store, "ann", 7, salt="later")

    def bring_back(*names: str, replace: bool = True) -> Restored:
        home = repository(engine.fleet)
        return restore_tables(engine, SetSource(home, copy), "drawer", names, replace=replace, progress=quiet)

    with pytest.raises(Refused, match="app ann has all rows"):
        bring_back("rows", replace=False)
    with pytest.raises(UsageError, match="the set has no table columns"):
        bring_back("rows", "columns")
    FAULTS["replace tables"] = Refused("a view is made of it")
    with pytest.raises(Refused, match="a view"):
        bring_back("rows")
    assert journal.open("restoring") == {}, "nothing was changed, and the next run has nothing to say"
    FAULTS["replace tables"] = ServerDown("gone")
    with pytest.raises(ServerDown):
        bring_back("rows")
    FAULTS.clear()
    with exclusively(engine.state, "test"):
        assert recover(engine, None, quiet)[0][0].endswith("all of them are new, or none")
    assert [rows_of(data, store, "ann").count(b"\n") for store in ("cabinet", "drawer")] == [7, 7]
    done = bring_back("rows")
    assert done.tables == ("all rows",)
    assert done.safety is not None
    assert list(done.safety.parts) == ["drawer"]
    assert [rows_of(data, store, "ann").count(b"\n") for store in ("cabinet", "drawer")] == [7, 50]
    write_rows(data, "drawer", "ann", 0)
    assert bring_back("rows", replace=False).safety is None
    assert not list(data.rglob("*__*"))
    assert journal.open("restoring") == {}


def test_another_app_gets_the_data_under_its_own_names(engine: Engine, data: Path) -> None:
    copy = made(engine)
    for store in ("cabinet", "drawer"):
        write_rows(data, store, "bob", 0)
    done = restore(engine, SetSource(repository(engine.fleet), copy), "bob", progress=quiet)
    assert done.safety is None
    assert rows_of(data, "drawer", "bob") == rows_of(data, "drawer", "ann").replace(b"ann:", b"bob:")


def test_a_restore_that_fails_while_it_loads_changes_nothing(engine: Engine, tmp_path: Path, data: Path) -> None:
    copy = made(engine)
    write_rows(data, "cabinet", "ann", 7, salt="later")
    before = rows_of(data, "cabinet", "ann")
    flip(folder_of(copy, tmp_path) / "drawer/rows.txt.zst")
    with pytest.raises(ArchiveError, match="SHA-256"):
        restore(engine, SetSource(repository(engine.fleet), copy), "ann", replace=True, progress=quiet)
    assert rows_of(data, "cabinet", "ann") == before
    assert not list(data.rglob("*__*"))


def test_a_restore_that_fails_while_places_are_exchanged_is_finished_by_the_next_run(
    engine: Engine, tmp_path: Path, data: Path
) -> None:
    copy = made(engine)
    for store in ("cabinet", "drawer"):
        write_rows(data, store, "ann", 7, salt="later")
    FAULTS["replace ann drawer"] = ServerDown("went away", where="drawer")
    with pytest.raises(ServerDown):
        restore(engine, SetSource(repository(engine.fleet), copy), "ann", replace=True, progress=quiet)
    assert [rows_of(data, store, "ann").count(b"\n") for store in ("cabinet", "drawer")] == [50, 7]
    assert isinstance(make(engine, "ann")["ann"].errors["backup"], Refused)  # nobody wants a set of this
    _, problems = recover(engine, None, quiet)
    assert list(problems) == ["ann"]
    FAULTS.clear()
    (folder_of(copy, tmp_path) / "drawer/rows.txt.zst").unlink()  # what is loaded and compared needs the set no more
    done, problems = recover(engine, None, quiet)
    assert not problems
    assert "finished the restore" in done[0]
    assert [rows_of(data, store, "ann").count(b"\n") for store in ("cabinet", "drawer")] == [50, 50]
    assert not list(data.rglob("*__*"))
    assert engine.plan().in_sync
    assert recover(engine, None, quiet) == ([], {})


@pytest.mark.parametrize("fault", ["replace ann", "restore ann cabinet"])
def test_a_restore_whose_first_exchange_is_refused_changes_nothing_then_or_later(
    engine: Engine, data: Path, fault: str
) -> None:
    copy = made(engine)
    for store in ("cabinet", "drawer"):
        write_rows(data, store, "ann", 7, salt="later")
    if fault == "restore ann cabinet":  # which is loaded where it is
        ONE_PLACE.add("cabinet")
    FAULTS[fault] = ArchiveError("is too large to be exchanged")
    with pytest.raises(ArchiveError, match="too large"):
        restore(engine, SetSource(repository(engine.fleet), copy), "ann", replace=True, progress=quiet)
    for store in ("cabinet", "drawer"):
        write_rows(data, store, "ann", 9, salt="since")
    assert not list(data.rglob("*__*"))
    done, problems = recover(engine, None, quiet)
    assert (["undid a restore" in said for said in done], problems) == ([True], {})
    assert {login(data, store, "ann") for store in ("cabinet", "drawer")} == {"on"}
    assert made(engine).backup_set is not None
    assert [rows_of(data, store, "ann").count(b"\n") for store in ("cabinet", "drawer")] == [9, 9]


def test_a_restore_that_a_server_failed_says_that_it_is_to_be_finished(engine: Engine) -> None:
    copy = made(engine)
    FAULTS["replace ann"] = ServerDown("went away", where="cabinet", hint="start it")
    with pytest.raises(ServerDown) as failed:
        restore(engine, SetSource(repository(engine.fleet), copy), "ann", replace=True, progress=quiet)
    assert failed.value.hint.startswith("start it; then finish the restore")
    assert failed.value.hint.endswith("multidb backup ann")


def test_nobody_logs_in_to_an_app_that_a_server_left_half_restored(engine: Engine, data: Path) -> None:
    copy = made(engine)
    write_rows(data, "drawer", "ann", 7, salt="later")
    FAULTS["replace ann drawer"] = ServerDown("went away", where="drawer")
    with pytest.raises(ServerDown):
        restore(engine, SetSource(repository(engine.fleet), copy), "ann", replace=True, progress=quiet)

    def logins() -> set[str]:
        return {login(data, store, "ann") for store in ("cabinet", "drawer")}

    assert "on" not in logins()
    assert engine.apply().error() is None
    assert logins() == {"off"}, "apply"
    assert [warning.subject for warning in engine.plan().warnings] == ["app ann"]
    assert [app.id for app in due(engine.fleet, utc_now()) if app.id == "ann"] == ["ann"]
    assert run_backups(engine, Scope(), scheduled=False, progress=quiet).errors.keys() == {"ann"}
    assert logins() == {"off"}, "a backup that cannot finish it"
    FAULTS.clear()
    done = run_backups(engine, Scope(), scheduled=False, progress=quiet)
    assert (done.ok, {each.app: each.ok for each in done.made}) == (True, {"ann": True, "bob": True})
    assert logins() == {"on"}
    assert rows_of(data, "drawer", "ann").count(b"\n") == 50
    assert engine.plan().warnings == ()


@pytest.mark.parametrize("step", ["begin", "end", "learn"])
def test_what_cannot_be_written_down_of_one_app_costs_no_other_its_result(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real = getattr(Journal, step)

    def full(journal: Journal, *arguments: Any, **facts: Any) -> None:
        if "ann" in arguments:
            raise UsageError("cannot be written: No space left on device", where="state.json")
        real(journal, *arguments, **facts)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, step, full)
        done = run_backups(engine, Scope(), scheduled=False, progress=quiet)
    results = {each.app: each for each in done.made}
    assert (results["ann"].ok, results["bob"].ok) == (step == "end", True)
    assert [each.copy.app for each in done.verified if each.ok] == ["bob"]
    assert (results["ann"].made is None) == (step == "begin")
    sets = {copy.app: copy.id for copy in repository(engine.fleet).copies()}
    assert run_backups(engine, Scope(frozenset({"bob"})), scheduled=False, progress=quiet).ok
    assert {copy.id for copy in repository(engine.fleet).copies()} >= set(sets.values())
    assert Journal(engine.state).open("making") == {}


@pytest.mark.parametrize("lasts", [False, True])
def test_a_full_disk_in_the_middle_of_an_exchange_opens_no_app_that_is_half_restored(
    engine: Engine, data: Path, monkeypatch: pytest.MonkeyPatch, lasts: bool
) -> None:
    """Where what was exchanged cannot be written down, for a moment or until somebody makes room."""
    copy = made(engine)
    for store in ("cabinet", "drawer"):
        write_rows(data, store, "ann", 7, salt="later")
    real, full = files.write_text, []

    def write_text(path: Path, text: str, *, mode: int | None = None) -> None:
        state = json.loads(text) if path.name == "state.json" else {}
        exchanged = state.get("backup-work", {}).get("restoring", {}).get("ann", {}).get("exchanged")
        if (lasts and full) or (exchanged and not full):
            full.append(path)
            raise UsageError("cannot be written: No space left on device", where=str(path), hint="free space")
        real(path, text, mode=mode)

    source = SetSource(repository(engine.fleet), copy)
    with monkeypatch.context() as patched:
        patched.setattr(files, "write_text", write_text)
        with pytest.raises(UsageError, match="No space") as failed:
            restore(engine, source, "ann", replace=True, safety=False, progress=quiet)
    assert failed.value.hint == "free space; then finish the restore, until when its logins are off: multidb backup ann"
    assert "on" not in {login(data, store, "ann") for store in ("cabinet", "drawer")}
    assert run_backups(engine, Scope(), scheduled=False, progress=quiet).ok
    assert {login(data, store, "ann") for store in ("cabinet", "drawer")} == {"on"}
    assert [rows_of(data, store, "ann").count(b"\n") for store in ("cabinet", "drawer")] == [50, 50]


def test_an_app_left_half_restored_stays_closed_where_another_restore_is_refused(engine: Engine, data: Path) -> None:
    source = SetSource(repository(engine.fleet), made(engine))
    FAULTS["replace ann drawer"] = ServerDown("went away", where="drawer")
    with pytest.raises(ServerDown):
        restore(engine, source, "ann", replace=True, safety=False, progress=quiet)
    FAULTS.clear()
    FAULTS["replace ann"] = ArchiveError("is too large to be exchanged")
    with pytest.raises(ArchiveError, match="too large"):
        restore(engine, source, "ann", replace=True, safety=False, progress=quiet)
    FAULTS.clear()
    assert recover(engine, None, quiet)[1] == {}
    assert engine.apply().error() is None
    assert {login(data, store, "ann") for store in ("cabinet", "drawer")} == {"off"}
    restore(engine, source, "ann", replace=True, safety=False, progress=quiet)
    assert {login(data, store, "ann") for store in ("cabinet", "drawer")} == {"on"}


def test_a_store_is_restored_while_the_server_of_another_is_gone(
    engine: Engine, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, suspend, closed = made(engine), Fleet.suspend, []

    def without_drawer(fleet: Fleet, app: App, server: Server) -> None:
        if server.store == "drawer":
            raise ServerDown("went away", where="drawer")
        closed.append(server.store)
        suspend(fleet, app, server)

    monkeypatch.setattr(Fleet, "suspend", without_drawer)
    write_rows(data, "cabinet", "ann", 7, salt="later")
    source = SetSource(repository(engine.fleet), copy)
    restore(engine, source, "ann", stores=["cabinet"], replace=True, safety=False, progress=quiet)
    assert (rows_of(data, "cabinet", "ann").count(b"\n"), closed) == (50, ["cabinet"])
    with pytest.raises(ServerDown):
        restore(engine, source, "ann", replace=True, safety=False, progress=quiet)
    assert {login(data, store, "ann") for store in ("cabinet", "drawer")} == {"on"}


@pytest.mark.parametrize("at", [0, 1])
def test_what_is_bound_to_an_app_refuses_its_restore_before_anything_is_exchanged(
    engine: Engine, data: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    copy = made(engine)
    for store in ("cabinet", "drawer"):
        write_rows(data, store, "ann", 7, salt="later")
    asked: list[str] = []

    def require_unbound(archive: Archive, app: App, context: StoreContext) -> None:
        asked.append(archive.server.store)
        if asked == ["cabinet", "drawer"] * (at + 1):  # before the safety set; when all is loaded
            raise Refused("a slot is bound to it", hint="drop it")

    monkeypatch.setattr(Archive, "require_unbound", require_unbound, raising=False)
    sets = len(list((data.parent / "sets").rglob("manifest.json")))
    with pytest.raises(Refused, match="a slot is bound"):
        restore(engine, SetSource(repository(engine), copy), "ann", replace=True, progress=quiet)
    assert len(list((data.parent / "sets").rglob("manifest.json"))) == sets + at
    assert [rows_of(data, store, "ann").count(b"\n") for store in ("cabinet", "drawer")] == [7, 7]
    assert not list(data.rglob("*__*"))
    assert recover(engine, None, quiet) == ([], {})
    assert made(engine).backup_set is not None


def test_what_cannot_be_put_right_of_one_app_is_no_failure_of_anothers_backup(engine: Engine) -> None:
    note = {
        "set": "20261121T140501Z-1a2b3c",
        "of": "ann",
        "target": "sets/",
        "stores": ["drawer"],
        "phase": "exchanging",
    }
    Journal(engine.state).begin(RESTORING, "ann", note)
    alone = run_backups(engine, Scope(apps=frozenset({"bob"})), scheduled=False, progress=quiet)
    assert alone.ok
    assert [each.app for each in alone.made if each.ok] == ["bob"]
    assert alone.notes[0].startswith("ann: ")
    together = run_backups(engine, Scope(), scheduled=False, progress=quiet)
    assert (together.ok, list(together.errors)) == (False, ["ann"])
    assert {each.app: each.ok for each in together.made} == {"ann": False, "bob": True}


def test_what_was_loaded_for_a_place_that_has_the_same_already_goes_too(engine: Engine, data: Path) -> None:
    copy = made(engine)
    FAULTS["replace ann"] = ServerDown("went away", where="cabinet")
    with pytest.raises(ServerDown):
        restore(engine, SetSource(repository(engine.fleet), copy), "ann", replace=True, progress=quiet)
    assert len(list(data.rglob("ann__new.*"))) == 2
    FAULTS.clear()
    done, problems = recover(engine, None, quiet)
    assert "finished the restore" in done[0]
    assert not problems
    assert not list(data.rglob("*__*"))


def test_a_set_outlives_its_app_and_what_a_killed_proof_of_it_left_goes(
    engine: Engine, tmp_path: Path, data: Path
) -> None:
    copy = made(engine)
    without = make_engine(tmp_path, data, MANIFEST.replace("  ann: {stores: [cabinet, drawer]}\n", ""))
    assert tried(without, copy).ok
    FAULTS["restore ann"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        tried(without, copy)
    FAULTS.clear()
    write_rows(data, "cabinet", "ann__scratch", 5)
    done, problems = recover(without, None, quiet)
    assert not problems
    assert "scratch" in done[0]
    assert not list(data.rglob("*__scratch.rows"))
    assert recover(without, None, quiet) == ([], {})


def test_no_space_for_temporary_files_says_nothing_of_a_set(engine: Engine) -> None:
    copy = made(engine)
    for what in ("restore ann", "backup ann"):
        FAULTS[what] = OSError(errno.ENOSPC, "No space left on device")
    found = tried(engine, copy)
    assert isinstance(found.problem, TargetError)
    assert "TMPDIR" in (found.problem.hint or "")
    assert found.verification is None
    assert recover(engine, None, quiet) == ([], {})  # and its scratch places are gone
    assert isinstance(make(engine, "ann")["ann"].errors["cabinet"], TargetError)


def test_no_restore_without_its_safety_set(engine: Engine, data: Path) -> None:
    copy = made(engine)
    FAULTS["backup ann"] = ServerDown("went away", where="drawer")
    before = rows_of(data, "cabinet", "ann")
    with pytest.raises(ArchiveError, match="could not be backed up first"):
        restore(engine, SetSource(repository(engine.fleet), copy), "ann", replace=True, progress=quiet)
    assert rows_of(data, "cabinet", "ann") == before
    restore(engine, SetSource(repository(engine.fleet), copy), "ann", replace=True, safety=False, progress=quiet)


def test_a_store_with_one_place_is_loaded_where_it_is(engine: Engine, data: Path) -> None:
    copy = made(engine)
    ONE_PLACE.add("drawer")
    write_rows(data, "drawer", "ann", 7, salt="later")
    restore(engine, SetSource(repository(engine.fleet), copy), "ann", replace=True, progress=quiet)
    assert rows_of(data, "drawer", "ann").count(b"\n") == 50


def test_no_scratch_server_is_started_for_a_new_clone(
    engine: Engine, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded where it lives; what has data is loaded beside it first."""
    asked: list[str] = []
    monkeypatch.setattr(
        engine.fleet.runtime, "scratch", lambda server, progress, *, adoptable: asked.append(server.name)
    )
    ONE_PLACE.add("drawer")
    write_rows(data, "drawer", "bob", 0)
    copy_into(engine, "ann", "bob", replace=True, progress=quiet)
    assert rows_of(data, "drawer", "bob") == rows_of(data, "drawer", "ann").replace(b"ann:", b"bob:")
    assert asked == []
    copy_into(engine, "ann", "bob", replace=True, progress=quiet)
    assert asked == ["drawer"]


def test_what_a_clone_was_loaded_with_is_compared(engine: Engine, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ONE_PLACE.add("drawer")
    write_rows(data, "drawer", "bob", 0)
    restored = Archive.restore

    def less(self: Archive, place: Place, *rest: Any) -> None:
        restored(self, place, *rest)
        if place.kind is PlaceKind.LIVE:
            write_rows(data, "drawer", "bob", 49, salt="drawer")

    monkeypatch.setattr(Archive, "restore", less)
    with pytest.raises(ArchiveError, match="rows: 49, the set says 50"):
        copy_into(engine, "ann", "bob", replace=True, progress=quiet)
    for store in ("cabinet", "drawer"):
        assert login(data, store, "bob") != "on"


def login(data: Path, store: str, app: str) -> str:
    found: str = json.loads((data / store / f"{app}.json").read_text())["login"]
    return found


def test_no_login_of_an_unfinished_clone_is_on_whatever_is_run(engine: Engine, data: Path) -> None:
    """Interrupted at its end, when its data is there and is not masked."""
    for store in ("cabinet", "drawer"):
        write_rows(data, store, "bob", 0)
    FAULTS["replace bob drawer"] = ServerDown("went away", where="drawer")
    with pytest.raises(ServerDown):
        copy_into(engine, "ann", "bob", progress=quiet)
    FAULTS.clear()

    def off() -> bool:
        return "on" not in {login(data, store, "bob") for store in ("cabinet", "drawer")}

    assert off()
    assert engine.apply().error() is None
    assert off(), "apply"
    (warning,) = engine.plan().warnings
    assert (warning.subject, "multidb clone ann bob" in warning.fix) == ("app bob", True)
    with exclusively(engine.state, "backup"):
        assert recover(engine, None, quiet)[1] == {}
    assert off(), "another backup command"
    assert "has not got all of ann's data" in str(make(engine, "bob")["bob"].errors["backup"])
    assert make(engine, "ann", quiesce=True)["ann"].ok
    assert off(), "a backup of the original"
    copy_into(engine, "ann", "bob", progress=quiet)  # what is half there is nobody's, so nobody is asked
    assert not off()
    assert engine.plan().warnings == ()


def test_a_finished_clone_is_made_again_only_when_it_may_go(engine: Engine, data: Path) -> None:
    for store in ("cabinet", "drawer"):
        write_rows(data, store, "bob", 0)
    assert copy_into(engine, "ann", "bob", progress=quiet).safety is None
    write_rows(data, "drawer", "bob", 3, salt="work")
    before = rows_of(data, "drawer", "bob")
    with pytest.raises(Refused, match="app bob has data in cabinet, drawer"):
        copy_into(engine, "ann", "bob", progress=quiet)
    assert (rows_of(data, "drawer", "bob"), login(data, "drawer", "bob")) == (before, "on")
    FAULTS["backup bob"] = ServerDown("went away", where="drawer")
    with pytest.raises(ArchiveError, match="could not be backed up first"):
        copy_into(engine, "ann", "bob", replace=True, progress=quiet)
    assert (rows_of(data, "drawer", "bob"), login(data, "drawer", "bob")) == (before, "on")
    FAULTS.clear()
    safety = copy_into(engine, "ann", "bob", replace=True, progress=quiet).safety
    assert safety is not None
    assert rows_of(data, "drawer", "bob") != before
    home = repository(engine.fleet)
    restore(engine, SetSource(home, home.find(safety.id)), "bob", replace=True, progress=quiet)
    assert rows_of(data, "drawer", "bob") == before


def test_a_clone_begun_with_a_mask_is_not_finished_without(engine: Engine) -> None:
    close(engine.state, Closure("bob", "ann", masked=True))
    with pytest.raises(Refused, match="begun with --mask") as refused:
        copy_into(engine, "ann", "bob", progress=quiet)
    assert "--mask FILE.sql" in (refused.value.hint or "")


def test_two_runs_at_once_the_second_says_so(engine: Engine) -> None:
    with exclusively(engine.state, "backup"), pytest.raises(Locked, match="multidb backup by"):
        exclusively(engine.state, "backup").__enter__()


def test_sets_are_found_by_the_names_that_people_use(engine: Engine) -> None:
    first, second = made(engine), made(engine)
    home = repository(engine.fleet)
    newest = max(first.id, second.id)
    assert home.find("ann").id == newest
    assert home.find(f"ann/{first.id}").id == first.id
    assert home.find(first.id).id == first.id
    time.sleep(1.1)  # an id is of a second
    put_aside = made(engine, reason=Reason.SAFETY)
    (part,) = make_sets(engine, Scope(frozenset({"ann"}), frozenset({"drawer"})), progress=quiet)
    assert part.made is not None
    assert {copy.id for copy in home.copies(["ann"])} == {first.id, second.id, put_aside.id, part.made.id}
    assert home.find("ann").id == newest
    with pytest.raises(UsageError, match="may be several"):
        home.find(first.id[:6])
    with pytest.raises(UsageError, match="no backup set"):
        home.find("carl")
