"""Sets on every kind of target; S3 through a stand-in server, also with a slow and a dying line to it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import boto3
import pytest
from moto.server import ThreadedMotoServer

from multidb.backup.making import make_sets, repository
from multidb.backup.repository import Destinations, Repository
from multidb.backup.targets import open_target
from multidb.backup.targets import s3 as s3_module
from multidb.backup.targets.folder import FolderTarget
from multidb.backup.verifying import verify
from multidb.engine import Engine, Scope
from multidb.errors import ArchiveError, TargetError, UsageError
from tests.unit.backup.cabinet import write_rows
from tests.unit.backup.test_backup_work import quiet

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
    home = repository(engine, [address])
    (copy,) = home.copies()
    assert copy.found == made.made
    assert verify(engine, home, copy, None, quiet).ok
    assert home.find("ann").verified
    home.remove(copy.target, copy.found.folder)  # type: ignore[union-attr]
    assert home.copies() == []
    assert home.half_made() == []
    assert list(copy.target.list("shop")) == []


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
    assert [copy.target.name for copy in repository(engine, ["away/", "here/"]).copies()] == ["here/"]
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
    """

    def __init__(self, storage: str, *, rate: int = 0, cut_after: int = 0, cuts: int = 0) -> None:
        where = urlparse(storage)
        self._to = (str(where.hostname), int(where.port or 0))
        self._rate, self._cut_after, self._cuts = rate, cut_after, cuts
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
                sink.sendall(data)
                passed += len(data)
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


def test_storage_that_stays_dead_is_an_error_and_no_set(
    bucket: str, storage: str, engine: Engine, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "_TRIES", 2)
    write_rows(data, "cabinet", "ann", 150_000)
    line = Line(storage, cut_after=1_000_000, cuts=1000)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", line.address)
    (made,) = make_sets(engine, Scope(apps=frozenset({"ann"})), to=[f"s3://{bucket}", "sets/"], progress=quiet)
    line.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", storage)
    assert made.made is not None
    assert isinstance(made.errors[f"s3://{bucket}"], TargetError)
    assert "cannot be reached" in str(made.errors[f"s3://{bucket}"])
    assert "knows-the-secret" not in str(made.errors)
    assert [copy.target.name for copy in repository(engine, ["sets/", f"s3://{bucket}"]).copies()] == ["sets/"]


def test_parts_that_nobody_goes_on_with_go_with_their_set(bucket: str, tmp_path: Path) -> None:
    target = open_target(f"s3://{bucket}", tmp_path)
    for name in ("20260101T000000Z-000000", "20260102T000000Z-000000"):
        target.create(f"shop/ann/{name}/x").write(NOISE)
    client = boto3.client("s3")
    assert len(client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 2
    Repository("shop", [target]).remove(target, "shop/ann/20260101T000000Z-000000")
    (left,) = client.list_multipart_uploads(Bucket=bucket)["Uploads"]  # it may be another run's
    assert left["Key"] == "shop/ann/20260102T000000Z-000000/x"


def test_an_unreadable_target_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="Not a directory"):
        list(open_target("file/x", tmp_path).list("shop"))
    assert list(open_target("not-there-yet", tmp_path).list("shop")) == []
