"""Sets on every kind of target; S3 through a stand-in server, also with a slow and a dying line to it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import boto3
import moto.s3.models
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from multidb.backup.copying import copy_set
from multidb.backup.creation import make_sets, repository
from multidb.backup.journal import exclusively
from multidb.backup.pruning import carry_out, decide
from multidb.backup.recovery import recover
from multidb.backup.repository import Destinations, Repository, utc_now
from multidb.backup.run import run_backups, run_catching_up
from multidb.backup.schedule import freshness
from multidb.backup.targets import open_target
from multidb.backup.targets import s3 as s3_module
from multidb.backup.targets.folder import FolderTarget
from multidb.backup.targets.s3 import S3Target
from multidb.backup.verifying import verify
from multidb.engine import Engine
from multidb.errors import ArchiveError, TargetError, UsageError
from multidb.fleet import Scope
from multidb.model import Health, Status
from tests.unit.backup.cabinet import write_rows
from tests.unit.backup.conftest import MANIFEST, make_engine
from tests.unit.backup.sets_of_shop import quiet


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(("owner", "given"), [(12345, True), (23456, False)])
def test_what_root_backs_up_is_the_projects_owners_where_the_folder_is(tmp_path: Path, owner: int, given: bool) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    os.chown(project, 12345, 12345)
    os.chown(elsewhere, owner, owner)
    own = FolderTarget("own", project / "backups", project)
    there = FolderTarget("there", elsewhere, project)
    for target in (own, there):
        file = target.create("shop/ann/set/manifest.json")
        file.write(b"{}")
        file.commit()
    assert {path.stat().st_uid for path in project.rglob("*")} == {12345}
    assert {path.stat().st_uid for path in elsewhere.rglob("*")} == ({12345} if given else {0})
    assert {path.stat().st_mode & 0o077 for folder in (project, elsewhere) for path in folder.rglob("*")} == {0}


NOISE = bytes(range(256)) * 4096 * 20  # 20 MB: three parts


@pytest.fixture(scope="session")
def storage() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(storage: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "knows-the-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": storage,
    }.items():
        monkeypatch.setenv(name, value)
    name = f"sets-{time.monotonic_ns()}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["folder", "s3", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return "somewhere/"
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    return f"s3://{request.getfixturevalue('bucket')}/some/prefix"


def test_every_target_keeps_finds_proves_and_forgets_sets(address: str, engine: Engine) -> None:
    (made,) = make_sets(engine, Scope(apps=frozenset({"ann"})), to=[address], progress=quiet)
    assert made.ok, made.errors
    home = repository(engine.fleet, [address])
    (copy,) = home.copies()
    assert copy.backup_set == made.made
    assert verify(engine.fleet, home, copy, None, quiet).ok
    assert home.find("ann").verified
    home.remove(copy.target, copy.backup_set.folder)  # type: ignore[union-attr]
    assert home.copies() == []
    assert home.half_made() == []
    assert list(copy.target.list("shop")) == []


def test_storage_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a socket that takes connections, and a file system whose calls do not return."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "x"}.items():
            monkeypatch.setenv(name, value)
        began = time.monotonic()
        with pytest.raises(ArchiveError, match="target s3://sets"):
            list(open_target("s3://sets", tmp_path, 1.0).list("shop"))
        assert time.monotonic() - began < 30
    never = threading.Event()
    target = open_target("memory://silent", tmp_path, 0.3)
    upload = target.create("shop/a")
    upload.write(b"a")
    upload.commit()
    file_system = target._target._files  # type: ignore[attr-defined]
    try:
        monkeypatch.setattr(file_system, "find", lambda *_, **__: never.wait())
        monkeypatch.setattr(file_system, "mv", lambda *_: never.wait())
        with pytest.raises(TargetError, match=r"has made no progress for \d+ s") as caught:
            list(target.list("shop"))
        assert caught.value.where == "target memory://silent"
        with pytest.raises(TargetError, match="has made no progress"):
            target.create("shop/b").commit()
    finally:
        never.set()


def test_large_files_go_in_parts_and_come_back(address: str, tmp_path: Path) -> None:
    target = open_target(address, tmp_path)
    upload = target.create("shop/big")
    for start in range(0, len(NOISE), 1_000_000):
        upload.write(NOISE[start : start + 1_000_000])
    assert list(target.list("shop")) == []  # not before it is whole
    upload.commit()
    assert list(target.list("shop")) == [("shop/big", len(NOISE))]
    with target.open("shop/big") as file:
        assert file.read(len(NOISE) + 1) == NOISE
    given_up = target.create("shop/half")
    given_up.write(NOISE)
    given_up.abort()
    assert [path for path, _ in target.list("shop")] == ["shop/big"]
    with pytest.raises(ArchiveError, match="is not there"), target.open("shop/none"):
        pass
    target.delete("shop/big")
    target.delete("shop/big")


def test_several_at_once_and_one_that_fails_is_left_out(bucket: str, tmp_path: Path) -> None:
    targets = [open_target(address, tmp_path) for address in ("here/", f"s3://{bucket}/a", "s3://no-such-bucket/a")]
    destinations = Destinations(targets, "shop/ann/x")
    upload = destinations.create("one")
    upload.write(NOISE)
    upload.commit()
    destinations.write("two", "words")
    assert list(destinations.failed) == ["s3://no-such-bucket/a"]
    assert "NoSuchBucket" in str(destinations.failed["s3://no-such-bucket/a"])
    for target in targets[:2]:
        assert dict(target.list("shop")) == {"shop/ann/x/one": len(NOISE), "shop/ann/x/two": 5}


def test_a_target_that_was_away_for_a_moment_gets_no_manifest(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = FolderTarget.create, []

    def create(self: FolderTarget, path: str) -> object:
        if self.name == "away/":
            asked.append(path)
            if len(asked) == 1:
                raise TargetError("is away")
        return real(self, path)

    monkeypatch.setattr(FolderTarget, "create", create)
    (made,) = make_sets(engine, Scope(apps=frozenset({"ann"})), to=["away/", "here/"], progress=quiet)
    assert list(made.errors) == ["away/"]
    assert [copy.target.name for copy in repository(engine.fleet, ["away/", "here/"]).copies()] == ["here/"]
    assert len(asked) == 1, "it is left out from then on"
    assert not (tmp_path / "away").exists()


def test_credentials_do_not_stand_in_an_address(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no user or password") as caught:
        open_target("sftp://me:secret@host/backups", tmp_path)
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError, match="names no bucket"):
        open_target("s3://", tmp_path)
    with pytest.raises(UsageError, match="fsspec"):
        open_target("gopher://host/x", tmp_path)


class Line:
    """A line to the storage that can be slow and can be cut: a proxy of bytes.

    Args:
        rate: bytes a second upwards; 0: as fast as can be.
        cut_after: bytes upwards after which a connection is cut; 0: never.
        cuts: how many connections are cut before it is well again.
        dies_after: bytes upwards, of all connections together, after which every connection is cut; 0: never.
    """

    def __init__(self, storage: str, *, rate: int = 0, cut_after: int = 0, cuts: int = 0, dies_after: int = 0) -> None:
        where = urlparse(storage)
        self._to = (str(where.hostname), int(where.port or 0))
        self._rate, self._cut_after, self._cuts, self._dies_after = rate, cut_after, cuts, dies_after
        self.passed = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(self._to)
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, source: socket.socket, sink: socket.socket) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                if self._dies_after and self.passed > self._dies_after:
                    break
                sink.sendall(data)
                passed += len(data)
                self.passed += len(data)
                if self._rate:
                    time.sleep(len(data) / self._rate)
                if self._cut_after and passed > self._cut_after and self._cuts:
                    self._cuts -= 1
                    break
        except OSError:
            pass
        for each in (source, sink):
            each.close()

    def _down(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        sink.close()


def put(address: str, root: Path) -> None:
    upload = open_target(address, root).create("shop/big")
    try:
        upload.write(NOISE)
        upload.commit()
    except BaseException:
        upload.abort()
        raise


def test_a_line_that_is_cut_is_tried_again_part_by_part(
    bucket: str, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(storage, cut_after=3_000_000, cuts=3)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", line.address)
    put(f"s3://{bucket}", tmp_path)
    line.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", storage)
    assert boto3.client("s3").get_object(Bucket=bucket, Key="shop/big")["Body"].read() == NOISE


def test_a_slow_line_is_waited_for(bucket: str, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(storage, rate=10_000_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", line.address)
    put(f"s3://{bucket}", tmp_path)
    line.close()
    assert list(open_target(f"s3://{bucket}", tmp_path).list("shop")) == [("shop/big", len(NOISE))]


def test_a_lost_answer_to_the_end_of_an_upload_is_no_failure(bucket: str, tmp_path: Path) -> None:
    target = open_target(f"s3://{bucket}", tmp_path)
    assert isinstance(target, S3Target)
    complete, asked = target._client.complete_multipart_upload, []

    def answer_lost(**request: Any) -> None:  # as S3 answers the second try of what the first has done
        asked.append(complete(**request) if asked else None)
        raise ClientError({"Error": {"Code": "NoSuchUpload"}}, "CompleteMultipartUpload")

    target._client.complete_multipart_upload = answer_lost
    never_done, done = target.create("shop/never"), target.create("shop/done")
    for upload in (never_done, done):
        upload.write(NOISE)
    with pytest.raises(TargetError):  # the control: nothing has come of it
        never_done.commit()
    done.commit()
    assert list(target.list("shop")) == [("shop/done", len(NOISE))]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "PART_SIZE", 128 * 1024)
    monkeypatch.setattr(moto.s3.models, "S3_UPLOAD_PART_MIN_SIZE", 0)
    monkeypatch.setattr(s3_module, "TRIES", 2)


def uploads(bucket: str) -> list[str]:
    return [each["Key"] for each in boto3.client("s3").list_multipart_uploads(Bucket=bucket).get("Uploads", ())]


def test_storage_that_was_dead_is_an_error_and_gets_the_set_when_it_is_back(
    bucket: str, storage: str, tmp_path: Path, data: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = f"s3://{bucket}"
    engine = make_engine(tmp_path, data, MANIFEST.replace("sets/", f"{away}, sets/"))
    write_rows(data, "cabinet", "ann", 10_000)
    line = Line(storage, dies_after=300_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", line.address)
    done = run_backups(engine, Scope(apps=frozenset({"ann"})), scheduled=True, progress=quiet)
    (made,) = done.made
    assert made.made is not None
    assert isinstance(made.errors[away], TargetError)
    assert "cannot be reached" in str(made.errors[away])
    assert "knows-the-secret" not in str(done.document())
    assert "cannot be reached" in fresh(engine).message
    assert not run_catching_up(engine, quiet).ok, "it is dead still"
    line.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", storage)
    assert [copy.target.name for copy in repository(engine.fleet).copies()] == ["sets/"]
    assert uploads(bucket), "parts are there, and nobody could remove them"
    with exclusively(engine.state, "the next run"):
        assert recover(engine, None, quiet)[1] == {}
    assert uploads(bucket) == []
    caught = run_catching_up(engine, quiet)
    assert caught.recovered == [f"ann: {away} has set {made.made.id} now, too"]
    assert run_catching_up(engine, quiet).recovered == []
    home = repository(engine.fleet, [away])
    assert home.find("ann").verified, "the mark is of the same bytes"
    assert verify(engine.fleet, home, home.find("ann"), None, quiet).ok
    assert fresh(engine).status is Status.HEALTHY


def fresh(engine: Engine) -> Health:
    found = freshness(engine.project, engine.state, engine.project.apps["ann"], utc_now())
    assert found is not None
    return found


def test_an_interrupted_copy_goes_on_with_the_parts_that_are_there(
    bucket: str, storage: str, engine: Engine, data: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(data, "cabinet", "ann", 30_000)
    (made,) = make_sets(engine, Scope(apps=frozenset({"ann"})), progress=quiet)
    copy = repository(engine.fleet).find("ann")
    assert made.made is not None
    assert made.made.stored_size > 8 * 128 * 1024
    for dies_after in (500_000, 500_000):
        line = Line(storage, dies_after=dies_after)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", line.address)
        with pytest.raises(TargetError, match="cannot be reached"):
            copy_set(copy, open_target(f"s3://{bucket}", data), quiet)
        line.close()
    line = Line(storage)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", line.address)
    home = repository(engine.fleet, [f"s3://{bucket}"])
    (target,) = home.targets
    assert home.copies() == []
    assert len(home.half_made()) == 1
    left = {"Bucket": bucket, "Key": f"{made.made.folder}/by-another-run"}
    boto3.client("s3").create_multipart_upload(**left)
    before = line.passed
    assert copy_set(copy, target, quiet)
    assert line.passed - before < made.made.stored_size - 500_000, "what was there was sent again"
    assert not copy_set(copy, target, quiet)
    line.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", storage)
    assert uploads(bucket) == []
    home = repository(engine.fleet, [f"s3://{bucket}"])
    assert verify(engine.fleet, home, home.find("ann"), None, quiet).ok


def test_parts_of_another_file_are_not_taken_for_this_ones(bucket: str, tmp_path: Path, small_parts: None) -> None:
    target = open_target(f"s3://{bucket}", tmp_path)
    target.resume("shop/x").write(NOISE[:1_000_000])
    upload = target.resume("shop/x")
    other = NOISE[:300_000] + NOISE[1_000_000:1_500_001]
    upload.write(other)
    upload.commit()
    with target.open("shop/x") as file:
        assert file.read() == other


def test_a_damaged_set_is_not_copied(engine: Engine, tmp_path: Path) -> None:
    make_sets(engine, Scope(apps=frozenset({"ann"})), progress=quiet)
    copy = repository(engine.fleet).find("ann")
    assert copy.backup_set is not None
    path = tmp_path / "sets" / copy.backup_set.folder / "drawer/rows.txt.zst"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArchiveError, match="SHA-256"):
        copy_set(copy, open_target("other/", tmp_path), quiet)
    assert not list((tmp_path / "other").rglob("*.zst"))


def test_a_run_that_was_killed_leaves_no_parts_to_pay_for(
    bucket: str, storage: str, engine: Engine, data: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(data, "cabinet", "ann", 30_000)
    line = Line(storage, rate=500_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", line.address)
    child = os.fork()
    if not child:
        try:
            make_sets(engine, Scope(apps=frozenset({"ann"})), to=[f"s3://{bucket}"], progress=quiet)
        finally:
            os._exit(0)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", storage)
    while not uploads(bucket):
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    line.close()
    (half,) = repository(engine.fleet, [f"s3://{bucket}"]).half_made()
    assert half.folder.startswith("shop/ann/")
    with exclusively(engine.state, "the next run"):
        recover(engine, None, quiet)
    assert uploads(bucket) == []
    assert repository(engine.fleet, [f"s3://{bucket}"]).half_made() == []


def test_parts_that_no_note_tells_of_are_pruned_after_a_day(bucket: str, tmp_path: Path) -> None:
    target = open_target(f"s3://{bucket}", tmp_path)
    for name in ("20260101T000000Z-000000", "20260102T000000Z-000000"):
        target.create(f"shop/ann/{name}/x").write(NOISE)
    assert len(uploads(bucket)) == 2
    home = Repository("shop", [target])
    carry_out(home, decide(home, {}, datetime(2026, 1, 2, 12, tzinfo=UTC)))
    assert uploads(bucket) == ["shop/ann/20260102T000000Z-000000/x"]  # it may be another run's


def test_an_unreadable_target_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="Not a directory"):
        list(open_target("file/x", tmp_path).list("shop"))
    assert list(open_target("not-there-yet", tmp_path).list("shop")) == []
    home = Repository("shop", [open_target(name, tmp_path) for name in ("good", "file/x")])
    with pytest.raises(TargetError) as raised:
        home.copies()
    assert str(raised.value.hint).endswith("or go without it: --from good")
