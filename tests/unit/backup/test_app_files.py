"""An app's files in its sets: as they were, in their place again, and never by a way that leads out of their folder."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyrage
import pytest
import zstandard

from multidb.backup.app_files import locations
from multidb.backup.app_files.entries import link_stays_inside
from multidb.backup.app_files.own import beside, make_own, remove_own
from multidb.backup.app_files.sqlite import NotADatabase, copied
from multidb.backup.cloning import copy_into, entry_for
from multidb.backup.copying import copy_set
from multidb.backup.creation import repository, targets_of
from multidb.backup.encryption import Identities
from multidb.backup.recovery import recover
from multidb.backup.repository import Copy
from multidb.backup.restoring import Restored, SetSource, restore
from multidb.backup.sets import BackupSet, Consistency
from multidb.engine import Engine
from multidb.errors import ArchiveError, ManifestError, Refused, UsageError
from multidb.fleet import Scope
from multidb.project import load_project
from tests.support.somebody import SOMEBODY, as_somebody
from tests.unit.backup.cabinet import rows_of
from tests.unit.backup.conftest import make_engine
from tests.unit.backup.sets_of_shop import folder_of, made, make, quiet, tried

MANIFEST = """\
version: 1
project: shop
apps:
  ann: {stores: [cabinet, drawer], files: [uploads/, data/facts.db]}
  bob: {stores: [cabinet, drawer]}
backup: {to: [sets/], verify: always}
"""


def tree(folder: Path) -> dict[str, Any]:
    """What is in a folder, by name: the bytes of a file, where a link leads."""
    return {
        path.relative_to(folder).as_posix(): path.readlink().as_posix()
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else path.stat().st_mode & 0o777
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    folder = tmp_path / "uploads"
    (folder / "2026" / "empty").mkdir(parents=True)
    (folder / "2026" / "photo.jpg").write_bytes(bytes(range(256)) * 2000)
    (folder / "2026" / 'Grüße & "more".txt').write_text("hello")
    (folder / "a.sh").write_text("#!/bin/sh\n")
    (folder / "a.sh").chmod(0o750)
    (folder / "latest").symlink_to("2026/photo.jpg")
    (tmp_path / "data").mkdir()
    with sqlite3.connect(tmp_path / "data" / "facts.db") as facts:
        facts.execute("PRAGMA journal_mode = wal")
        facts.execute("CREATE TABLE facts (id int, text text)")
        facts.executemany("INSERT INTO facts VALUES (?, ?)", ((number, f"fact {number}") for number in range(500)))
    return folder


@pytest.fixture
def shop(tmp_path: Path, data: Path, uploads: Path) -> Engine:
    return make_engine(tmp_path, data, MANIFEST)


def back(engine: Engine, copy: Copy, app: str = "ann", **options: Any) -> Restored:
    return restore(engine, SetSource(repository(engine.fleet), copy), app, progress=quiet, **options)


def test_they_are_in_the_set_and_come_back_as_they_were(shop: Engine, tmp_path: Path, uploads: Path) -> None:
    before = tree(uploads)
    copy = made(shop)
    assert copy.backup_set is not None
    counts = copy.backup_set.files.part.measures.counts  # type: ignore[union-attr]
    assert (counts["files uploads"], counts["files data/facts.db"]) == (3, 1)
    assert counts["bytes uploads"] == sum(len(value) for value in before.values() if isinstance(value, bytes))
    assert tried(shop, copy).ok
    (uploads / "2026" / "photo.jpg").write_bytes(b"overwritten")
    (uploads / "new").write_text("since")
    (uploads / "a.sh").chmod(0o600)
    with sqlite3.connect(tmp_path / "data" / "facts.db") as facts:
        facts.execute("DELETE FROM facts")
    inode = uploads.stat().st_ino
    with pytest.raises(Refused, match="uploads"):
        back(shop, copy, stores=["files"])
    done = back(shop, copy, replace=True)
    assert (done.stores, done.files) == (("cabinet", "drawer"), ("uploads", "data/facts.db"))
    assert tree(uploads) == before
    assert (uploads / "a.sh").stat().st_mode & 0o777 == 0o750
    assert uploads.stat().st_ino == inode, "what is mounted into a container has to stay"
    with sqlite3.connect(tmp_path / "data" / "facts.db") as facts:
        assert facts.execute("SELECT count(*) FROM facts").fetchone() == (500,)
    assert sorted(path.name for path in tmp_path.glob(".multidb-*")) == []
    assert done.safety is not None
    assert done.safety.files is not None
    back(shop, repository(shop.fleet).find(f"ann/{done.safety.id}"), replace=True, stores=["files"])
    assert (uploads / "new").read_text() == "since"


def test_a_database_at_work_is_in_the_set_as_it_is_at_one_moment(shop: Engine, tmp_path: Path) -> None:
    path = tmp_path / "data" / "facts.db"
    writer = sqlite3.connect(path)
    try:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("INSERT INTO facts VALUES (1000, 'committed, and in the log beside it alone')")
        writer.commit()
        writer.execute("INSERT INTO facts VALUES (1001, 'not committed')")
        assert path.with_name("facts.db-wal").stat().st_size > 0
        copy = made(shop)
    finally:
        writer.rollback()
        writer.close()
    back(shop, copy, replace=True)
    with sqlite3.connect(path) as facts:
        assert facts.execute("SELECT max(id) FROM facts").fetchone() == (1000,)
        assert facts.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("linked", ["facts.db", "facts.db-wal", "data"])
def test_a_database_that_becomes_a_link_before_sqlite_opens_it_is_not_followed(tmp_path: Path, linked: str) -> None:
    for folder in ("data", "foreign"):
        (tmp_path / folder).mkdir(exist_ok=True)
    foreign, path = sqlite3.connect(tmp_path / "foreign" / "facts.db"), tmp_path / "data" / "facts.db"
    own = sqlite3.connect(path)
    for database in (foreign, own):
        database.execute("PRAGMA journal_mode = wal")
        database.execute("CREATE TABLE IF NOT EXISTS facts (id)")
        database.commit()
    seen = (path.parent.stat(), path.stat())
    with copied(path, *seen) as copy:
        assert copy.exists()
    own.close()
    link = tmp_path / linked if linked == "data" else path.with_name(linked)
    if link.exists():
        link.rename(tmp_path / "away")
    link.symlink_to(tmp_path / "foreign" / ("" if linked == "data" else linked))
    with pytest.raises(NotADatabase), copied(path, *seen):
        pytest.fail("it was opened")
    foreign.close()


def test_what_sqlite_keeps_beside_an_old_database_is_not_taken_for_the_new_ones(shop: Engine, tmp_path: Path) -> None:
    copy = made(shop)
    for end in ("-wal", "-shm", "-journal"):
        (tmp_path / "data" / f"facts.db{end}").write_bytes(b"of the old one")
    (tmp_path / "data" / "facts.db").unlink()
    back(shop, copy, replace=True, stores=["files"])
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["facts.db"]


def test_a_file_that_says_that_it_is_a_database_is_copied_as_it_lies_there(shop: Engine, uploads: Path) -> None:
    (uploads / "fake.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    copy = made(shop)
    assert copy.backup_set is not None
    assert "fake.db" in " ".join(copy.backup_set.files.part.notes)  # type: ignore[union-attr]
    (uploads / "fake.db").unlink()
    back(shop, copy, replace=True)
    assert (uploads / "fake.db").stat().st_size == 5016


def test_nothing_is_read_that_lies_elsewhere(shop: Engine, tmp_path: Path, uploads: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of somebody else")
    os.mkfifo(uploads / "pipe")
    (uploads / "out").symlink_to("../secret")
    (uploads / "absolute").symlink_to(secret)
    (uploads / "2026" / "dir").symlink_to("../..")
    (uploads / "up_and_in").symlink_to("2026/../../secret")
    copy = made(shop)
    assert copy.backup_set is not None
    notes = " ".join(copy.backup_set.files.part.notes)  # type: ignore[union-attr]
    assert "4 entries left out: a link that leads elsewhere" in notes
    assert "neither a file, nor a folder, nor a link (such as pipe)" in notes
    text = zstandard.ZstdDecompressor().stream_reader((folder_of(copy, tmp_path) / "files/files.tar.zst").read_bytes())
    with tarfile.open(fileobj=io.BytesIO(text.read())) as tar:
        names = tar.getnames()
    assert "uploads/latest" in names
    assert not {"uploads/out", "uploads/absolute", "uploads/pipe", "uploads/2026/dir"} & set(names)


@pytest.mark.parametrize("replaced", ["data", "data/facts.db", "uploads"])
def test_a_location_that_has_become_a_link_is_neither_read_nor_written(
    shop: Engine, tmp_path: Path, uploads: Path, replaced: str
) -> None:
    copy = made(shop)
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / replaced).rename(elsewhere)
    kept = elsewhere.read_bytes() if elsewhere.is_file() else tree(elsewhere)
    (tmp_path / replaced).symlink_to(elsewhere)
    failed = make(shop, "ann")["ann"]
    assert failed.made is None
    assert "is a link" in str(failed.errors["files"])
    with pytest.raises(ArchiveError, match="is a link"):
        back(shop, copy, replace=True)
    assert (elsewhere.read_bytes() if elsewhere.is_file() else tree(elsewhere)) == kept


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read what is another account's alone")
def test_a_second_name_of_another_accounts_file_is_left_out(shop: Engine, tmp_path: Path, uploads: Path) -> None:
    os.chown(uploads, 1234, 1234)
    shadow = tmp_path / "shadow"
    shadow.write_text("root's own")
    os.link(shadow, uploads / "mine")
    own = uploads / "own"
    own.write_text("the app's")
    os.chown(own, 1234, 1234)
    os.link(own, uploads / "own_too")
    copy = made(shop)
    assert copy.backup_set is not None
    assert "second name of another account's file (such as mine)" in " ".join(copy.backup_set.files.part.notes)  # type: ignore[union-attr]
    back(shop, copy, replace=True)
    assert not (uploads / "mine").exists()
    assert (uploads / "own_too").read_text() == "the app's"
    assert {path.lstat().st_uid for path in uploads.rglob("*") if not path.is_symlink()} == {1234}


def _with_closed_folders(uploads: Path) -> None:
    """As Go keeps its modules."""
    (uploads / "modules" / "one").mkdir(parents=True)
    (uploads / "modules" / "one" / "file").write_text("1")
    for folder in (uploads / "modules" / "one", uploads / "modules", uploads):
        folder.chmod(0o555)


@pytest.mark.parametrize("gone", [False, True])
def test_folders_that_nobody_may_write_are_replaced(shop: Engine, tmp_path: Path, uploads: Path, gone: bool) -> None:
    def replaced() -> None:
        _with_closed_folders(uploads)
        before, copy = tree(uploads), made(shop)
        uploads.chmod(0o755)
        if gone:
            uploads.rename(tmp_path / "elsewhere")
        else:
            (uploads / "later").mkdir(mode=0o555)
            uploads.chmod(0o555)
        back(shop, copy, replace=True, safety=False)
        assert tree(uploads) == before
        assert not [path for path in tmp_path.iterdir() if path.name.startswith((".multidb-old", ".multidb-new"))]

    if os.geteuid() != 0:
        replaced()
        return
    for path in (tmp_path, *tmp_path.rglob("*")):  # root may write anywhere, so it has nothing to show
        os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
    assert as_somebody(replaced, tmp_path)


def hostile(engine: Engine, tmp_path: Path, *members: tarfile.TarInfo) -> Copy:
    """A set of ann's whose files were written by somebody who knows what a set is."""
    copy = made(engine)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    plain = buffer.getvalue()
    stored = zstandard.ZstdCompressor().compress(plain)
    (folder_of(copy, tmp_path) / "files" / "files.tar.zst").write_bytes(stored)
    backup_set = copy.backup_set
    assert backup_set is not None
    assert backup_set.files is not None
    import hashlib

    file = dataclasses.replace(
        backup_set.files.files[0],
        size=len(plain),
        plain_sha256=hashlib.sha256(plain).hexdigest(),
        stored_size=len(stored),
        sha256=hashlib.sha256(stored).hexdigest(),
    )
    forged = dataclasses.replace(backup_set, files=dataclasses.replace(backup_set.files, files=(file,)))
    (folder_of(copy, tmp_path) / "manifest.json").write_text(forged.to_json())
    return repository(engine.fleet).find(f"ann/{copy.id}")


def info(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0, **pax: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, size
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644  # only root looks into a folder that nobody may enter
    member.pax_headers = dict(pax)
    return member


TOP = info("uploads", tarfile.DIRTYPE)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([TOP, info("uploads/../../out", size=3)], "may lead elsewhere"),
        ([TOP, info("/out", size=3)], "may lead elsewhere"),
        ([TOP, info("uploads/a\\b")], "may lead elsewhere"),
        ([TOP, info("other")], "of no location"),
        ([info("uploads/first")], "not where it should be"),
        ([TOP, info("uploads/b"), info("uploads/a")], "not where it should be"),
        ([TOP, info("uploads/a"), info("uploads/a")], "not where it should be"),
        ([info("uploads"), info("uploads/a")], "not where it should be"),
        ([TOP, info("data/facts.db"), TOP], "not where it should be"),
        ([TOP, info("uploads/in", tarfile.SYMTYPE, "../.."), info("uploads/in/x", size=3)], "leads elsewhere"),
        ([TOP, info("uploads/d", tarfile.SYMTYPE, "."), info("uploads/d/x", size=3)], "leads elsewhere"),
        ([TOP, info("uploads/d", tarfile.SYMTYPE, "e"), info("uploads/d/x", size=3)], "no folder that came before"),
        ([TOP, info("uploads/l", tarfile.SYMTYPE, "/etc/passwd")], "leads elsewhere"),
        ([TOP, info("uploads/l", tarfile.LNKTYPE, "uploads/a")], "neither a file"),
        ([TOP, info("uploads/d", tarfile.CHRTYPE)], "neither a file"),
        ([TOP, info("uploads/d", tarfile.FIFOTYPE)], "neither a file"),
        ([info("uploads", tarfile.SYMTYPE, "..")], "leads elsewhere"),
        ([TOP, info("uploads/x", comment="y" * 100_000)], "neither a file"),
        ([TOP, info("uploads/unknown", size=1)], "not what was backed up"),
        ([], "not what was backed up"),
    ],
)
def test_names_and_links_that_mean_harm_are_refused(
    shop: Engine, tmp_path: Path, uploads: Path, members: list[tarfile.TarInfo], said: str
) -> None:
    copy = hostile(shop, tmp_path, *members)
    before, around = tree(uploads), {path.name for path in tmp_path.iterdir()}
    verified = tried(shop, copy)
    assert not verified.ok
    assert verified.verification is not None
    assert said in verified.verification.failures["files"]
    with pytest.raises(ArchiveError, match=said):
        back(shop, copy, replace=True, safety=False)
    assert tree(uploads) == before
    assert {path.name for path in tmp_path.iterdir()} == around
    assert not (tmp_path / ".multidb" / "files").exists()


def test_what_gives_a_program_anothers_power_does_not_come_back(shop: Engine, tmp_path: Path, uploads: Path) -> None:
    (uploads / "a.sh").chmod(0o6755)
    copy = made(shop)
    back(shop, copy, replace=True)
    assert (uploads / "a.sh").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    ("path", "target", "stays"),
    [
        ("a", "b", True),
        ("a", "b/c", True),
        ("d/a", "../b", True),
        ("d/a", "..", True),
        ("a", "..", False),
        ("d/a", "../../b", False),
        ("a", "/b", False),
        ("a", "b/../..", False),
        ("a", ".", False),
        ("a", "", False),
        ("a", "b//c", False),
    ],
)
def test_links_that_stay_inside(path: str, target: str, stays: bool) -> None:
    assert link_stays_inside(path, target) is stays


def test_interrupted_at_any_step_the_next_run_finishes(
    shop: Engine, tmp_path: Path, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename is one where a run may die: then the app has all of the set's files after the next run."""
    before = tree(uploads)
    copy = made(shop)
    rename, step = os.rename, 0
    while True:
        step += 1
        (uploads / "since").write_text("new")
        count = iter(range(1, 1000))

        def dying(*arguments: Any, step: int = step, count: Any = count, **options: Any) -> None:
            if next(count) == step:
                raise KeyboardInterrupt
            rename(*arguments, **options)

        monkeypatch.setattr(locations.os, "rename", dying)
        try:
            back(shop, copy, replace=True, safety=False)
            break
        except KeyboardInterrupt:
            monkeypatch.setattr(locations.os, "rename", rename)
            done, problems = recover(shop, None, quiet)
            assert not problems
            assert "finished the restore" in done[0]
        assert tree(uploads) == before, step
        assert not list(tmp_path.glob(".multidb-*")), step
    assert step > 5


@contextlib.contextmanager
def mounted(source: Path, target: Path) -> Iterator[None]:
    """A folder of the same disk mounted in another one's place, whose number of the disk says nothing of it."""
    done = subprocess.run(["mount", "--bind", source, target], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.parametrize("where", ["uploads", "uploads/2026", "uploads/2026/a b"])
def test_what_is_mounted_in_a_location_is_said_before_anything_is_changed(
    shop: Engine, tmp_path: Path, uploads: Path, where: str
) -> None:
    """Half of the files were beside the location then, with the restore called one that had changed nothing."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (uploads / "2026" / "a b").mkdir()
    copy = made(shop)
    (uploads / "since").write_text("of the app")
    with mounted(volume, tmp_path / where):
        (volume / "there").write_text("of the volume")
        before = tree(uploads)
        for stores in (None, ["files"]):
            with pytest.raises(Refused, match="mounted") as refused:
                back(shop, copy, replace=True, stores=stores, safety=stores is None)
            assert str(refused.value.where) == str(uploads)
            assert tree(uploads) == before
            assert recover(shop, None, quiet) == ([], {})
            assert not list(tmp_path.glob(".multidb-*"))
    back(shop, copy, replace=True, safety=False)
    assert not (uploads / "since").exists()
    assert (volume / "there").read_text() == "of the volume"


def _refused(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("again", [False, True])
def test_a_move_that_the_system_refuses_leaves_a_location_as_it_is(
    shop: Engine, tmp_path: Path, uploads: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """A file that cannot be moved (``chattr +i``, a folder that is somebody else's). Where those before it cannot be
    put back (`again`), and where another location has its new files, the next run finishes."""
    copy = made(shop)
    of_set = tree(uploads)
    (uploads / "since").write_text("new")
    uploads.chmod(0o555)
    before, move = tree(uploads), locations.move
    for step in range(1, 4 + 3 + 2):  # those that are there, the new ones, and one of another location
        count = iter(range(1, 1000))

        def moving(*arguments: Any, step: int = step, count: Any = count) -> None:
            number = next(count)
            if number == step or (again and number > step):
                _refused()
            move(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(locations, "move", moving)
            with pytest.raises(ArchiveError, match="not permitted"):
                back(shop, copy, replace=True, safety=False, stores=["files"])
        whole = step == 1 or (step < 8 and not again)
        if whole:
            assert tree(uploads) == before, step
            assert uploads.stat().st_mode & 0o777 == 0o555
        done, problems = recover(shop, None, quiet)
        assert not problems
        assert ("undid a restore" if whole else "finished the restore") in done[0]
        assert tree(uploads) == (before if whole else of_set), step
        if not whole:
            (uploads / "since").write_text("new")
            uploads.chmod(0o555)
        assert not list(tmp_path.glob(".multidb-*")), step


def test_what_was_there_before_and_cannot_be_removed_is_named(
    shop: Engine, tmp_path: Path, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = made(shop)
    before = tree(uploads)
    (uploads / "since").write_text("new")
    remove = locations.remove_tree

    def removing(above: int, name: str) -> None:
        if name == ".multidb-old-uploads" and locations.status_at(above, name):
            _refused()
        remove(above, name)

    with monkeypatch.context() as patched:
        patched.setattr(locations, "remove_tree", removing)
        done = back(shop, copy, replace=True, safety=False)
        assert f"is left in {tmp_path / '.multidb-old-uploads'}: Operation not permitted" in " ".join(done.notes)
        assert tree(uploads) == before
        (uploads / "since").write_text("newer")
        with pytest.raises(ArchiveError, match="not permitted") as refused:
            back(shop, copy, replace=True, safety=False, stores=["files"])
        assert str(refused.value.where) == str(tmp_path / ".multidb-old-uploads")
    assert (uploads / "since").read_text() == "newer"
    back(shop, copy, replace=True, safety=False)
    assert tree(uploads) == before
    assert not list(tmp_path.glob(".multidb-*"))


def test_a_set_of_stores_alone_is_not_whole_and_leaves_the_files(shop: Engine, uploads: Path) -> None:
    from multidb.backup.creation import make_sets

    (one,) = make_sets(shop, Scope(frozenset({"ann"}), frozenset({"cabinet", "drawer"})), progress=quiet)
    assert one.made is not None
    assert (one.made.files, one.made.complete) == (None, False)
    (files_alone,) = make_sets(shop, Scope(frozenset({"ann"}), frozenset()), files=True, progress=quiet)
    assert files_alone.made is not None
    assert (list(files_alone.made.all_parts), files_alone.made.complete) == (["files"], False)
    (uploads / "new").write_text("stays")
    back(shop, repository(shop.fleet).find(f"ann/{one.made.id}"), replace=True)
    assert (uploads / "new").exists()


def test_logins_that_are_off_do_not_make_files_of_one_moment(shop: Engine) -> None:
    assert made(shop, quiesce=True).backup_set.consistency is Consistency.PER_STORE  # type: ignore[union-attr]


def test_sets_without_files_are_written_as_ever(shop: Engine, tmp_path: Path) -> None:
    """Earlier versions read them, and the marks beside sets that there are stay good."""
    bobs = json.loads((folder_of(made(shop, "bob"), tmp_path) / "manifest.json").read_text())
    assert bobs["format"] == "multidb set 1"
    assert "files" not in bobs
    anns = (folder_of(made(shop), tmp_path) / "manifest.json").read_text()
    assert json.loads(anns)["format"] == "multidb set 2"
    assert BackupSet.from_json(anns, "x").to_json() == anns


def test_they_are_encrypted_and_copied_like_the_rest(tmp_path: Path, data: Path, uploads: Path) -> None:
    key = pyrage.x25519.Identity.generate()
    text = f"encrypt: {{recipients: [{key.to_public()}]}}, verify: always}}"
    engine = make_engine(tmp_path, data, MANIFEST.replace("verify: always}", text))
    copy = made(engine)
    assert (folder_of(copy, tmp_path) / "files" / "files.tar.zst.age").exists()
    assert tried(engine, copy, Identities([key])).ok
    (other,) = targets_of(engine.fleet, ["others/"])
    assert copy_set(copy, other, quiet)
    assert (tmp_path / "others/shop/ann" / copy.id / "files/files.tar.zst.age").exists()


def test_a_location_that_is_not_there_is_said_and_left_alone(shop: Engine, uploads: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "facts.db").unlink()
    copy = made(shop)
    assert copy.backup_set is not None
    assert "data/facts.db is not there" in " ".join(copy.backup_set.files.part.notes)  # type: ignore[union-attr]
    (tmp_path / "data" / "facts.db").write_text("made since")
    back(shop, copy, replace=True)
    assert (tmp_path / "data" / "facts.db").read_text() == "made since"


def test_a_location_that_the_newest_set_has_and_that_is_gone_keeps_its_sets(
    shop: Engine, tmp_path: Path, uploads: Path
) -> None:
    """A folder that is not mounted, a backup from another machine: sets without it were whole, and the newest ones, and
    those that had it were removed in their time."""
    copy = made(shop)
    uploads.rename(tmp_path / "elsewhere")
    failed = make(shop, "ann")["ann"]
    assert failed.made is None
    assert f"not there, but in set {copy.id}: uploads" in str(failed.errors["files"])
    assert f"multidb restore ann/{copy.id} --store files" in str(failed.errors["files"].hint)
    assert [one.id for one in repository(shop.fleet).copies(["ann"])] == [copy.id]
    back(shop, copy, replace=True)  # a safety set is one of what is there
    assert tree(uploads) == tree(tmp_path / "elsewhere")
    shutil.rmtree(uploads)
    uploads.mkdir()
    assert made(shop).backup_set is not None  # an empty one is there
    uploads.rmdir()
    (tmp_path / "data" / "facts.db").unlink()
    assert ": uploads, data/facts.db" in str(make(shop, "ann")["ann"].errors["files"])
    assert made(shop, "bob").backup_set is not None


def test_an_app_without_that_location_is_told_so(shop: Engine, tmp_path: Path, data: Path) -> None:
    copy = made(shop)
    engine = make_engine(tmp_path, data, MANIFEST.replace(", files: [uploads/, data/facts.db]", ""))
    with pytest.raises(UsageError, match="no files uploads, data/facts"):
        back(engine, copy, replace=True)
    back(engine, copy, replace=True, stores=["cabinet"])


def test_a_clone_has_files_of_its_own_that_end_with_it(shop: Engine, tmp_path: Path, data: Path, uploads: Path) -> None:
    ann = {"stores": ["cabinet", "drawer"], "files": ["uploads", "data/facts.db"]}
    own = beside(ann, "cat")
    assert own == {"files": {"uploads": "apps/cat/files/uploads", "data/facts.db": "apps/cat/files/data/facts.db"}}
    assert "files" not in entry_for(ann)
    more = f"  cat: {{stores: [cabinet, drawer], files: {json.dumps(own['files'])}}}\nbackup:"
    engine = make_engine(tmp_path, data, MANIFEST.replace("backup:", more))
    make_own(engine.project, "cat")
    copy_into(engine, "ann", "cat", progress=quiet)
    folder = tmp_path / "apps" / "cat" / "files"
    assert tree(folder / "uploads") == tree(uploads)
    assert rows_of(data, "cabinet", "cat")
    with pytest.raises(Refused, match="uploads"):
        copy_into(engine, "ann", "cat", progress=quiet)
    assert remove_own(engine.project, "cat")
    assert not folder.exists()
    folder.mkdir()
    assert not remove_own(engine.project, "cat"), "it carries no mark"
    assert folder.exists()
    assert not remove_own(engine.project, "ann")
    assert uploads.exists()


def test_files_in_storage_are_in_the_set_and_come_back(tmp_path: Path, data: Path) -> None:
    import fsspec

    storage = fsspec.filesystem("memory")
    for name, content in {"models/a/one.bin": b"1" * 70_000, "models/two.bin": b"2"}.items():
        storage.pipe(f"/top/{name}", content)
    manifest = MANIFEST.replace("[uploads/, data/facts.db]", "{models: memory://top/models}")
    try:
        engine = make_engine(tmp_path, data, manifest)
        copy = made(engine)
        assert tried(engine, copy).ok
        storage.pipe("/top/models/two.bin", b"changed")
        storage.pipe("/top/models/new.bin", b"new")
        storage.pipe("/top/beside.bin", b"not of it")
        back(engine, copy, replace=True)
        assert storage.cat("/top/models/two.bin") == b"2"
        assert sorted(storage.find("/top")) == ["/top/beside.bin", "/top/models/a/one.bin", "/top/models/two.bin"]
    finally:
        storage.rm("/top", recursive=True)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("[../other]", "no path to files inside"),
        ("[.]", "no path to files inside"),
        ("[/srv/x]", "needs a name"),
        ("['s3://bucket/x']", "needs a name"),
        ("[a, a/]", 'has "a" twice'),
        ("[a, a/b]", 'in "a" already'),
        ("{x: a, y: a/b}", "is or lies in files of ann"),
        ("[sets]", "sets/ is multidb's"),
        ("[sets/old]", "sets/ is multidb's"),
        ("[.multidb]", ".multidb is multidb's"),
        ("[apps]", "multidb writes there"),
        ("[apps/ann]", "multidb writes there"),
        ("{x: 's3://u:p@host/x'}", "a user or a password"),
        ("{x: 's3://bucket'}", "name a folder in it"),
        ("{x: 'file:///srv/x'}", "write the path alone"),
        ("5", "must be a list of paths"),
        ("[bobs/of_ann]", "is or lies in files of bob"),
    ],
)
def test_locations_that_cannot_be_are_said_with_their_line(tmp_path: Path, files: str, said: str) -> None:
    text = MANIFEST.replace("[uploads/, data/facts.db]", files).replace("bob: {", "bob: {files: [bobs], ")
    (tmp_path / "multidb.yaml").write_text(text)
    with pytest.raises(ManifestError) as caught:
        load_project(tmp_path / "multidb.yaml")
    (problem, *_) = caught.value.problems
    assert said in problem.message
    assert problem.line == 4


def test_locations_that_the_manifest_says_expressly(tmp_path: Path) -> None:
    files = "{uploads: apps/ann/uploads/, spool: /var/spool/ann, models: 's3://bucket/models/'}"
    (tmp_path / "multidb.yaml").write_text(MANIFEST.replace("[uploads/, data/facts.db]", files))
    app = load_project(tmp_path / "multidb.yaml").apps["ann"]
    assert app.files == {"uploads": "apps/ann/uploads", "spool": "/var/spool/ann", "models": "s3://bucket/models"}
