"""A repository of Barman as the archive of a moment: read without Barman, and of a real one."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
import zstandard

from multidb.errors import ArchiveError, MultidbError
from multidb.model import BaseFiles
from multidb.provisioners.postgres.backup.barman import BarmanArchive
from tests.contract.barman import Barman
from tests.support import postgres_servers
from tests.support.command import project_folder
from tests.support.moments import now, scratch_processes

pytestmark = pytest.mark.server

SIZE = 1 << 20  # of a file of WAL here
NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
INFO = """\
backup_label='START WAL LOCATION: 0/300028 (file 000000010000000000000003)\\n'
begin_time=2026-11-28 11:00:00+00:00
begin_wal=000000010000000000000003
compression=None
encryption=None
end_time=2026-11-28 11:01:00+00:00
parent_backup_id=None
status=DONE
tablespaces=None
version=180006
xlog_segment_size=1048576
"""


def wal(number: int) -> str:
    return f"0000000100000000{number:08X}"


def repository(folder: Path, *, info: str = INFO, packed: Callable[[bytes], bytes] = bytes) -> BarmanArchive:
    """One base backup of two databases, and WAL from its third file to its sixth."""
    data = folder / "base" / "20261128T110000" / "data"
    for name, content in (
        ("PG_VERSION", b"18\n"),
        ("global/1", b"g"),
        ("base/5/PG_VERSION", b"18\n"),
        ("base/5/pg_filenode.map", b"map"),
        ("base/16385/PG_VERSION", b"18\n"),
        ("base/16385/16400", b"rows" * 1000),
    ):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)
    (data / "global" / "link").symlink_to("/etc/passwd")
    (folder / "meta").mkdir()
    (folder / "meta" / "20261128T110000-backup.info").write_text(info)
    for number in range(3, 7):
        path = folder / "wals" / "0000000100000000" / wal(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed(bytes([number]) * SIZE))
        os.utime(path, (NOON.timestamp() + 3600 * (number - 4), NOON.timestamp() + 3600 * (number - 4)))
    return BarmanArchive(folder, {"databases": {"16385": "shop", "16999": "gone"}})


def read_all(files: BaseFiles) -> dict[str, bytes]:
    read = {}
    for name, opened in files.log():
        with opened as file:
            read[name] = file.read()
    return read


@pytest.mark.parametrize(
    "packed", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress]
)
def test_its_wal_is_read_however_it_is_packed(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    archive = repository(tmp_path, packed=packed)
    (base,) = archive.bases()
    assert base.base.product == "PostgreSQL 18.6"
    assert base.base.details["databases"] == {"5": "", "16385": "shop"}, "each is known by its number"
    files, last = archive.files(base, NOON)
    assert last == wal(5), "the one that was ended well after the moment, and none after it"
    assert read_all(files) == {wal(number): bytes([number]) * SIZE for number in (3, 4, 5)}


def test_its_base_backup_is_cut_by_database_and_no_link_is_followed(tmp_path: Path) -> None:
    archive = repository(tmp_path)
    (base,) = archive.bases()
    files, _ = archive.files(base, NOON)
    content = {}
    for name in files.names():
        with files.file(name) as file:
            content[name] = file.read()
    assert list(content) == ["0000.tar", "0001.tar", "0002.tar", "maps.tar", "sizes.txt"]
    assert b"rowsrows" in content["0002.tar"]
    assert not any(b"rowsrows" in content[name] for name in content if name != "0002.tar")
    assert b"root:" not in content["0000.tar"]
    assert "base/16385/16400 4000" in content["sizes.txt"].decode().splitlines()
    with files.file("0002.tar") as file:  # one that is not read to its end hinders nobody
        assert file.read(10)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("compression=None", "compression=gzip"), "compressed"),
        (("encryption=None", "encryption=gpg"), "encrypted"),
        (("parent_backup_id=None", "parent_backup_id=20261127T110000"), "incremental"),
        (("tablespaces=None", "tablespaces=[('fast', 16999, '/fast')]"), "tablespaces"),
    ],
)
def test_what_cannot_be_read_of_it_is_said(tmp_path: Path, changed: tuple[str, str], words: str) -> None:
    (base,) = repository(tmp_path, info=INFO.replace(*changed)).bases()
    assert words in base.problem


def test_what_is_damaged_or_missing_is_no_other_moment(tmp_path: Path) -> None:
    archive = repository(tmp_path, packed=gzip.compress)
    (base,) = archive.bases()
    path = tmp_path / "wals" / "0000000100000000" / wal(4)
    whole = path.read_bytes()
    for wrong in (whole[:-100], gzip.compress(b"x" * (SIZE + 1)), gzip.compress(b"x"), b"\x04\x22\x4d\x18rest"):
        path.write_bytes(wrong)
        files, _ = archive.files(base, NOON)
        with pytest.raises(MultidbError) as refused:
            read_all(files)
        assert str(path) in str(refused.value)
    path.unlink()
    _, last = archive.files(base, NOON)
    assert last == wal(3), "no file beyond a gap is asked for"
    (tmp_path / "meta" / "20261128T110000-backup.info").write_text("status=DONE\n")
    with pytest.raises(ArchiveError, match="does not say"):
        archive.bases()
    with pytest.raises(ArchiveError, match="no server's folder"):
        BarmanArchive(tmp_path / "base", {}).bases()


MANIFEST = """\
version: 1
project: elsewhere
runtime: external
external: {{postgres: {{url: 'postgresql://postgres@127.0.0.1:{port}', password: {{env: ADMIN}}}}}}
apps: {{eve: {{stores: [postgres]}}, bob: {{stores: [postgres]}}}}
backup: {{to: [sets/], every: 52w, verify: never}}
"""


@pytest.mark.rare
@pytest.mark.parametrize(("major", "compression"), [(15, "gzip"), (18, "none")])
def test_an_app_comes_back_out_of_what_a_real_barman_has(major: int, compression: str, tmp_path: Path) -> None:
    home = tmp_path / "barman"
    home.mkdir()
    with (
        postgres_servers.cluster(major) as cluster,
        project_folder("elsewhere-", MANIFEST.format(port=cluster.port)) as folder,
    ):
        env = {"ADMIN": cluster.password}
        folder.ok("apply", "--yes", env=env)
        barman = Barman(home, cluster, compression)
        try:
            barman.backup()
            url = folder.ok("env", "eve", "--format", "json", "--reveal", env=env).json()["DATABASE_URL"]
            with psycopg.connect(url, autocommit=True) as eve:
                eve.execute("CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 10) n")
                moment = now()
                eve.execute("DELETE FROM orders WHERE id > 4")
                later = now()
                eve.execute("DROP TABLE orders")
            barman.archive()
        finally:
            barman.end()
        source = ("--from", f"barman:{barman.folder}", "--replace")
        folder.ok("restore", "eve", "--at", moment, *source, "--keep-copy", env=env)
        with psycopg.connect(url) as eve:
            assert eve.execute("SELECT count(*) FROM orders").fetchone() == (10,)
        folder.ok("restore", "eve", "--until", later, *source, env=env)
        with psycopg.connect(url) as eve:
            assert eve.execute("SELECT count(*) FROM orders").fetchone() == (4,)
        folder.ok("restore", "eve", "--at", moment, *source, env=env)  # its database has another number by now
        with psycopg.connect(url) as eve:
            assert eve.execute("SELECT count(*) FROM orders").fetchone() == (10,)
        beyond = folder.run("restore", "eve", "--at", now(), *source, env=env)
        assert beyond.code == 6, "nobody knows whether it has all until then"
        assert "ends before that moment" in beyond.err
        refused = folder.run("restore", "eve", "--at", "2020-01-01 10:00", *source, env=env)
        assert "no base backup from before" in refused.err
        assert not scratch_processes(folder)
        shutil.rmtree(barman.folder)
        assert "Barman repository" in folder.run("restore", "eve", "--at", moment, *source, env=env).err
