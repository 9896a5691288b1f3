"""A set's files on their way out and back: what comes back is what went in, or an error says what is wrong."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pyrage
import pytest

from multidb.age_keys import recipient_problem
from multidb.backup.encryption import Identities, identities
from multidb.backup.streams import StoreReader, StoreWriter
from multidb.backup.targets.folder import FolderTarget
from multidb.errors import ArchiveError, UsageError

KEY = pyrage.x25519.Identity.generate()
RECIPIENT = str(KEY.to_public())
BOTH = pytest.mark.parametrize("recipients", [(), (RECIPIENT,)], ids=["plain", "age"])
NOISE = random.Random(7).randbytes(3_000_000)


def write(folder: Path, recipients: tuple[str, ...], **files: bytes) -> StoreWriter:
    writer = StoreWriter("toy", FolderTarget("here", folder).create, recipients)
    for name, data in files.items():
        with writer.file(name) as file:
            for start in range(0, len(data), 100_001):
                file.write(data[start : start + 100_001])
    return writer


def reader(folder: Path, writer: StoreWriter, key: object = KEY) -> StoreReader:
    keys = Identities([key]) if key else None
    return StoreReader(writer.files, FolderTarget("here", folder).open, keys, "set")


@BOTH
def test_what_comes_back_is_what_went_in(tmp_path: Path, recipients: tuple[str, ...]) -> None:
    files = {"noise": NOISE, "nothing": b"", "zeros": bytes(5_000_000), "word": b"x"}
    writer = write(tmp_path, recipients, **files)
    back = reader(tmp_path, writer)
    assert list(back.names()) == list(files)
    for name, data in files.items():
        with back.file(name) as file:
            assert file.read() == data
    sizes = {file.name: (file.size, (tmp_path / file.stored).stat().st_size) for file in writer.files}
    assert sizes == {file.name: (len(files[file.name]), file.stored_size) for file in writer.files}
    assert writer.files[2].stored_size < 10_000
    assert all(file.stored.endswith(".zst.age" if recipients else ".zst") for file in writer.files)


def read_through(back: StoreReader, name: str) -> None:
    with back.file(name) as file:
        while file.read(50_000):
            pass


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def late_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@BOTH
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "is cut off"),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "is cut off"),
        (flipped, "SHA-256 is another"),
        (late_flip, "SHA-256 is another"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), "is too long"),
        (Path.unlink, "is not there"),
        (lambda path: path.write_bytes((path.parent / path.name.replace("one", "two")).read_bytes()), "is"),
    ],
    ids=["cut", "half", "flipped", "flipped at the end", "empty", "longer", "missing", "swapped"],
)
def test_every_damage_is_found_and_named(
    tmp_path: Path, recipients: tuple[str, ...], damage: Callable[[Path], object], said: str
) -> None:
    writer = write(tmp_path, recipients, one=NOISE[:900_000], two=NOISE[1_000_000:2_000_000])
    damage(tmp_path / writer.files[0].stored)
    with pytest.raises(ArchiveError, match=said) as caught:
        read_through(reader(tmp_path, writer), "one")
    assert writer.files[0].stored in str(caught.value)
    with pytest.raises(ArchiveError, match=said):
        reader(tmp_path, writer).check()
    with reader(tmp_path, writer).file("two") as file:
        assert file.read() == NOISE[1_000_000:2_000_000]


def test_a_file_that_is_read_in_part_is_proved_whole(tmp_path: Path) -> None:
    writer = write(tmp_path, (), one=NOISE)
    late_flip(tmp_path / writer.files[0].stored)
    with pytest.raises(ArchiveError, match="SHA-256"), reader(tmp_path, writer).file("one") as file:
        file.read(10)


def test_the_wrong_key_and_no_key_are_named(tmp_path: Path) -> None:
    writer = write(tmp_path, (RECIPIENT,), one=NOISE)
    assert NOISE[:16] not in (tmp_path / writer.files[0].stored).read_bytes()
    with pytest.raises(ArchiveError, match="another key"):
        reader(tmp_path, writer, pyrage.x25519.Identity.generate()).check()
    with pytest.raises(ArchiveError, match="no key was given"):
        reader(tmp_path, writer, None).check()


@BOTH
def test_a_store_that_fails_leaves_no_file(tmp_path: Path, recipients: tuple[str, ...]) -> None:
    writer = StoreWriter("toy", FolderTarget("here", tmp_path).create, recipients)
    with pytest.raises(RuntimeError), writer.file("one") as file:
        fail_after(file)
    assert writer.files == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with writer.file("one") as file:  # and may be tried again
        file.write(b"x")
    assert len(writer.files) == 1


def fail_after(file: BinaryIO) -> None:
    file.write(NOISE[:1000])
    raise RuntimeError


class Full:
    """A target that has no room."""

    def write(self, data: bytes) -> None:
        raise ArchiveError("No space left on device")

    def commit(self) -> None:
        raise AssertionError

    def abort(self) -> None:
        self.aborted = True


@BOTH
def test_a_full_disk_is_the_error_that_the_store_gets(recipients: tuple[str, ...]) -> None:
    upload = Full()
    writer = StoreWriter("toy", lambda path: upload, recipients)
    with pytest.raises(ArchiveError, match="No space"), writer.file("one") as file:
        file.writelines([NOISE] * 5)
    assert upload.aborted
    assert writer.files == []


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "x" * 200])
def test_a_files_name_is_plain(tmp_path: Path, name: str) -> None:
    writer = StoreWriter("toy", FolderTarget("here", tmp_path).create)
    with pytest.raises(ValueError, match="cannot be a new file"), writer.file(name):
        pass


def test_one_file_at_a_time_and_none_twice(tmp_path: Path) -> None:
    writer = StoreWriter("toy", FolderTarget("here", tmp_path).create)
    with writer.file("one"), pytest.raises(ValueError, match="one file"), writer.file("two"):
        pass
    with pytest.raises(ValueError, match="cannot be"), writer.file("one"):
        pass


def test_identities_come_from_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"# created\n{KEY}\n")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="others can read"):
        identities(path, {})
    path.chmod(0o600)
    assert identities(None, {}) is None
    found = identities(None, {"MULTIDB_BACKUP_IDENTITY": str(path)})
    assert found is not None
    assert [str(key) for key in found.keys] == [str(KEY)]
    path.write_text("AGE-SECRET-KEY-1NOTHING")
    with pytest.raises(UsageError, match="no secret key") as caught:
        identities(path, {})
    assert "NOTHING" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        identities(tmp_path / "none", {})


def test_recipients_are_checked() -> None:
    assert recipient_problem(RECIPIENT) is None
    assert recipient_problem("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIvHDR6+fIT3eB+MFmlyCEa+MX8P/tLYzckflOVjeIRJ") is None
    assert "public key" in str(recipient_problem("age1nothing"))


def test_memory_is_flat(tmp_path: Path) -> None:
    """256 MB of noise, encrypted and read back, in a process of its own."""
    import subprocess
    import sys

    script = (
        "import resource,sys,random\n"
        "from pathlib import Path\n"
        "from tests.unit.backup.test_backup_streams import *\n"
        "folder=Path(sys.argv[1]); block=NOISE[:1<<20]\n"
        "before=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "writer=StoreWriter('toy', FolderTarget('here', folder).create, (RECIPIENT,))\n"
        "with writer.file('one') as file:\n"
        "    for _ in range(256): file.write(block)\n"
        "with reader(folder, writer).file('one') as file:\n"
        "    while file.read(1<<16): pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert int(ran.stdout) < 30_000  # KB
