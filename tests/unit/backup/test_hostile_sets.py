"""Sets that mean harm: whoever can write to a target can write anything there, and reaches nothing but the target."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from multidb.backup.cloning import entry_for
from multidb.backup.copying import copy_set
from multidb.backup.creation import repository
from multidb.backup.journal import MAKING, Journal
from multidb.backup.labels import CLONE_OF, EXPIRES
from multidb.backup.pruning import decide
from multidb.backup.recovery import recover
from multidb.backup.repository import utc_now
from multidb.backup.sets import StoredFile
from multidb.backup.streams import StoreReader
from multidb.backup.targets import open_target, within
from multidb.backup.targets.folder import FolderTarget
from multidb.engine import Engine
from multidb.errors import ArchiveError, TargetError
from multidb.model.options import Keep
from tests.unit.backup.cabinet import Archive
from tests.unit.backup.sets_of_shop import folder_of, made, quiet, tried

MIB = 1024**2


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a set's manifest as somebody does who knows about its digest."""
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    change(body)
    body.pop("digest", None)
    body["digest"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(body))


def of_the_cabinet(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        body["stores"]["cabinet"]["files"][0][key] = value

    return change


@pytest.mark.parametrize(
    "stored",
    ["../../../out", "/tmp/out", "cabinet/../../out", "drawer/rows.zst", "cabinet/rows.zst\x00", "cabinet\\rows"],
)
def test_a_set_that_says_that_its_file_is_elsewhere_is_none(engine: Engine, tmp_path: Path, stored: str) -> None:
    copy = made(engine)
    rewrite(folder_of(copy, tmp_path), of_the_cabinet("stored", stored))
    (bad,) = repository(engine.fleet).copies(["ann"])
    assert "lies elsewhere" in bad.problem
    with pytest.raises(ArchiveError, match="lies elsewhere"):
        copy_set(bad, open_target("other/", tmp_path), quiet)
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "out").exists()


def test_a_path_that_came_from_anywhere_else_does_not_leave_a_target_either(engine: Engine, tmp_path: Path) -> None:
    copy = made(engine)
    assert copy.backup_set is not None
    part = copy.backup_set.parts["cabinet"]
    file = dataclasses.replace(part.files[0], stored="../../../../out")
    parts = {"cabinet": dataclasses.replace(part, files=(file,))}
    forged = dataclasses.replace(copy, backup_set=dataclasses.replace(copy.backup_set, parts=parts))
    with pytest.raises(ArchiveError, match="lead elsewhere"):
        copy_set(forged, open_target("other/", tmp_path), quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\x00b", ""])
@pytest.mark.parametrize("address", ["here/", "memory://safe"])
def test_no_target_opens_writes_or_deletes_outside(tmp_path: Path, address: str, path: str) -> None:
    target = open_target(address, tmp_path)
    (tmp_path / "x").write_text("kept")
    with pytest.raises(ArchiveError), target.open(path):
        pass
    for act in (target.create, target.resume, target.delete, target.sweep, lambda each: list(target.list(each))):
        with pytest.raises(ArchiveError):
            act(path)
    assert (tmp_path / "x").read_text() == "kept"


def test_links_in_a_folder_are_not_followed(engine: Engine, tmp_path: Path) -> None:
    copy = made(engine)
    assert copy.backup_set is not None
    folder = folder_of(copy, tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("hush")
    target = copy.target
    (folder / "link").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    for path in ("link", "up/secret"):
        with (
            pytest.raises(ArchiveError, match="links in a target are not followed"),
            target.open(f"{copy.backup_set.folder}/{path}"),
        ):
            pass
    with pytest.raises(ArchiveError, match="links in a target are not followed"):
        target.create(f"{copy.backup_set.folder}/up/new")
    assert {path.rpartition("/")[2] for path, _ in target.list("shop")}.isdisjoint({"link", "secret"})
    target.sweep("shop")
    target.delete(f"{copy.backup_set.folder}/link")
    assert secret.read_text() == "hush"
    upload = target.create(f"{copy.backup_set.folder}/link2")
    (folder / "link2").symlink_to(secret)
    upload.write(b"mine")
    upload.commit()
    assert secret.read_text() == "hush"
    assert (folder / "link2").read_bytes() == b"mine"


def test_the_target_itself_may_be_a_link(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "sets").symlink_to(tmp_path / "disk")
    copy = made(engine)
    assert (tmp_path / "disk" / "shop" / "ann" / copy.id / "manifest.json").exists()
    assert tried(engine, copy).ok


def test_a_named_pipe_is_not_waited_for_and_depth_is_not_followed(engine: Engine, tmp_path: Path) -> None:
    copy = made(engine)
    folder = folder_of(copy, tmp_path)
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    assert repository(engine.fleet).copies(["ann"]) == []
    with pytest.raises(ArchiveError, match="not a file"), copy.target.open(f"shop/ann/{copy.id}/manifest.json"):
        pass
    deep = folder.joinpath(*["d"] * 40)
    deep.mkdir(parents=True)
    (deep / "rows.part").touch()
    assert not any("/d/" in path for path in [*copy.target.unfinished("shop"), *dict(copy.target.list("shop"))])
    copy.target.sweep("shop")
    assert (deep / "rows.part").exists()


def test_one_bad_set_costs_no_other_and_counts_for_nothing(engine: Engine, tmp_path: Path) -> None:
    good, bad, bobs = made(engine), made(engine), made(engine, "bob")
    assert tried(engine, good).ok
    rewrite(folder_of(bad, tmp_path), lambda body: body.update(stores=[1]))
    home = repository(engine.fleet)
    found = {copy.id: copy for copy in home.copies()}
    assert sorted(found) == sorted([good.id, bad.id, bobs.id])
    assert "stores" in found[bad.id].problem
    assert tried(engine, found[bad.id]).problem is not None
    assert tried(engine, bobs).ok
    decisions = {
        each.copy.id: each for each in decide(home, {"ann": Keep(last=1, daily=0, weekly=0)}, utc_now()).decisions
    }
    assert decisions[good.id].keep, "it is the last good one"
    assert decisions[bad.id].keep, "what cannot be read is not removed without a word"
    assert "cannot be read" in decisions[bad.id].why
    assert home.find("ann").id == good.id


def packed(size: int) -> bytes:
    """So many zeros, without holding them."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    block = bytes(MIB)
    return b"".join([*(compressor.compress(block) for _ in range(size // MIB)), compressor.flush()])


def test_a_file_that_unpacks_to_more_than_it_says_is_read_no_further(tmp_path: Path) -> None:
    bomb = packed(256 * MIB)
    assert len(bomb) < MIB
    (tmp_path / "bomb").write_bytes(bomb)
    sha = hashlib.sha256(bomb).hexdigest()
    seen: list[int] = []
    said = StoredFile("rows", "bomb", 1024, "0" * 64, len(bomb), sha)
    reader = StoreReader([said], FolderTarget("here", tmp_path).open, None, "set", seen.append)
    with pytest.raises(ArchiveError, match="holds more than the 1,024 bytes"):
        reader.check()
    assert sum(seen) <= MIB, "it was unpacked no further than one read"


def test_a_file_without_end_is_read_no_further_than_its_size(tmp_path: Path) -> None:
    reads = []

    class Endless:
        def read(self, size: int = -1) -> bytes:
            reads.append(size)
            assert len(reads) < 100
            return b"x" * size

        def __enter__(self) -> Endless:
            return self

        def __exit__(self, *exc: object) -> None:
            pass

    said = StoredFile("rows", "rows", 10, "0" * 64, 10, "0" * 64)
    with pytest.raises(ArchiveError, match="too long"):
        StoreReader([said], lambda path: Endless(), None, "set").check()  # type: ignore[arg-type, return-value]


def test_a_file_that_asks_for_memory_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    asks = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = b"".join([asks.compress(os.urandom(MIB)), asks.flush()])
    (tmp_path / "rows").write_bytes(data)
    said = StoredFile("rows", "rows", MIB, "0" * 64, len(data), hashlib.sha256(data).hexdigest())
    with pytest.raises(ArchiveError, match="unpacked"):
        StoreReader([said], FolderTarget("here", tmp_path).open, None, "set").check()


def test_what_a_listing_says_beside_what_was_asked_is_passed_over() -> None:
    listing = ["shop/a", "shop/../x", "other/a", "shop", "/etc/passwd", "shop/a\x00", "shop//a", "\ud800", "shop/b/c"]
    assert [path for path, _ in within(((path, 1) for path in listing), "shop", "here")] == ["shop/a", "shop/b/c"]


def test_a_listing_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidb.backup.targets.MOST_FILES", 10)

    def endless() -> Iterator[tuple[str, int]]:
        while True:
            yield "shop/a", 1

    with pytest.raises(TargetError, match="more than 10 files"):
        list(within(endless(), "shop", "here"))


@pytest.mark.parametrize("error", [KeyError, TypeError, ValueError, AttributeError, IndexError])
def test_a_store_that_cannot_make_sense_of_its_part_has_a_bad_set(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    copy = made(engine)

    def restore(self: Archive, *arguments: object) -> None:
        raise error("details")

    monkeypatch.setattr(Archive, "restore", restore)
    found = tried(engine, copy)
    assert found.problem is None
    assert found.verification is not None
    assert "not what this multidb writes" in found.verification.failures["cabinet"]


def test_a_note_of_a_set_that_was_begun_elsewhere_removes_nothing(engine: Engine, tmp_path: Path) -> None:
    copy = made(engine, "bob")
    Journal(engine.state).begin(MAKING, "ann", {"folder": f"shop/bob/{copy.id}", "to": ["sets/"]})
    (folder_of(copy, tmp_path) / "manifest.json").rename(tmp_path / "manifest.json")
    _, problems = recover(engine, None, quiet)
    assert "none of its sets is" in str(problems["ann"])
    assert len(list(folder_of(copy, tmp_path).rglob("*"))) > 1


def test_a_set_does_not_say_when_the_app_that_it_becomes_is_to_end() -> None:
    declared = {
        "stores": ["cabinet"],
        "labels": {CLONE_OF: "ann", EXPIRES: "2020-01-01T00:00:00+00:00", "tier": "gold"},
    }
    assert entry_for(declared)["labels"] == {"tier": "gold"}
    assert "labels" not in entry_for({"stores": ["cabinet"], "labels": {CLONE_OF: "ann"}})
