"""Targets that stand still are given up in time; those that are slow are not."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from multidb.backup.creation import make_sets, repository
from multidb.backup.targets.folder import FolderTarget
from multidb.backup.targets.timeout import TimedTarget
from multidb.backup.verifying import verify
from multidb.errors import TargetError
from multidb.fleet import Scope
from tests.unit.backup.conftest import MANIFEST, make_engine
from tests.unit.backup.sets_of_shop import quiet
from tests.unit.backup.stopped_disk import stopped_disk

LIMIT = 0.5  # seconds without an answer
ENOUGH = 15.0  # seconds in which all is over, one call after the other, on a busy machine


class Stub:
    """A target whose calls of some kinds take their time.

    Args:
        takes: by kind, what is waited for first.
    """

    name = "stub/"

    def __init__(self, **takes: Callable[[], object]) -> None:
        self._takes = takes
        self.calls: list[str] = []

    def _call(self, kind: str) -> None:
        self._takes.get(kind, lambda: None)()
        self.calls.append(kind)

    def create(self, path: str) -> Stub:
        self._call("create")
        return self

    resume = create

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        self._call("open")
        yield self  # type: ignore[misc]
        self._call("close")

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for number in range(3):
            self._call("list")
            yield f"{prefix}/{number}", number

    def unfinished(self, prefix: str) -> Iterator[str]:
        self._call("unfinished")
        yield f"{prefix}/x"

    def delete(self, path: str) -> None:
        self._call("delete")

    def sweep(self, prefix: str) -> None:
        self._call("sweep")

    def write(self, data: bytes) -> None:
        self._call("write")

    def commit(self) -> None:
        self._call("commit")

    def abort(self) -> None:
        self._call("abort")

    def read(self, size: int = -1) -> bytes:
        self._call("read")
        return b"x"


def _use(target: TimedTarget, kind: str) -> None:
    if kind in ("create", "write", "commit", "resume"):
        upload = target.resume("a/b") if kind == "resume" else target.create("a/b")
        try:
            upload.write(b"x")
            upload.commit()
        except BaseException:
            upload.abort()
            raise
    elif kind in ("open", "read"):
        with target.open("a/b") as file:
            assert file.read(1) == b"x"
    elif kind in ("list", "unfinished"):
        assert list(getattr(target, kind)("a"))
    else:
        getattr(target, kind)("a")


@contextlib.contextmanager
def given_up() -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(TargetError, match=r"has made no progress for \d+ s \(since 2") as raised:
        yield
    assert time.monotonic() - began < ENOUGH
    assert raised.value.where == "target stub/"
    assert "run the command again" in str(raised.value.hint)


@pytest.mark.parametrize("kind", ["create", "write", "commit", "open", "read", "list", "unfinished", "delete", "sweep"])
def test_a_call_that_does_not_end_is_given_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidb.backup.targets.timeout.CLEARING_TIMEOUT", LIMIT)
    goes_on = threading.Event()
    stub = Stub(**{kind: goes_on.wait})
    target = TimedTarget(stub, LIMIT)
    with given_up():
        _use(target, kind)
    with given_up():
        _use(target, kind)
    goes_on.set()
    _use(target, kind)
    if kind in ("create", "open"):  # what was begun too late is put away
        late = "abort" if kind == "create" else "close"
        began = time.monotonic()
        while stub.calls.count(late) < (2 if kind == "create" else 3) and time.monotonic() - began < ENOUGH:
            time.sleep(0.01)
        assert stub.calls.count(late) == (2 if kind == "create" else 3)


def test_what_is_slow_is_not_given_up() -> None:
    """All calls together take longer than one may, and each so much less that a busy machine makes it no longer."""
    slow = lambda: time.sleep(LIMIT)  # noqa: E731
    target = TimedTarget(Stub(create=slow, write=slow, commit=slow, open=slow, read=slow, delete=slow), 4 * LIMIT)
    for kind in ("resume", "open", "delete"):
        _use(target, kind)


def test_what_follows_a_call_that_did_not_end_is_not_waited_for_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidb.backup.targets.timeout.CLEARING_TIMEOUT", 0.1)
    goes_on = threading.Event()
    target = TimedTarget(Stub(delete=goes_on.wait), 2.0)
    with given_up():
        target.delete("a/b")
    began = time.monotonic()
    for _ in range(3):
        with given_up():
            target.delete("a/b")
    assert time.monotonic() - began < 5.0, "each as long as the first they take 6 s"
    goes_on.set()


def test_a_disk_that_stands_still_costs_the_set_on_it_and_nothing_else(tmp_path: Path, data: Path) -> None:
    manifest = MANIFEST.replace("[sets/]", "[here/, away/]") + "progress_timeout: 3s\n"
    engine = make_engine(tmp_path, data, manifest)
    assert engine.project.progress_timeout == 3
    only_ann = Scope(apps=frozenset({"ann"}))
    began = time.monotonic()
    with stopped_disk(tmp_path / "away"):
        (made,) = make_sets(engine, only_ann, progress=quiet)
        assert made.made is not None
        assert list(made.errors) == ["away/"]
        assert "has made no progress" in str(made.errors["away/"])
        with pytest.raises(TargetError, match="has made no progress") as raised:
            repository(engine.fleet).copies()
        assert "--from here/" in str(raised.value.hint)
        here = repository(engine.fleet, ["here/"])
        assert verify(engine.fleet, here, here.find("ann"), None, quiet).ok
    assert time.monotonic() - began < 4 * ENOUGH
    assert all(each.ok for each in make_sets(engine, only_ann, progress=quiet))


def test_what_cannot_be_read_is_an_error_of_the_target() -> None:
    """Nothing is at the first address of a process' memory, which Linux says as of a disk that is broken."""
    if not Path("/proc/self/mem").exists():
        pytest.skip("no /proc here")
    target = FolderTarget("away/", Path("/proc/self"))
    with pytest.raises(TargetError, match="Input/output error"), target.open("mem") as file:
        file.read(1)
