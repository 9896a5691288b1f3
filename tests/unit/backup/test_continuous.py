"""Continuous archiving without a server: moments that people write, what signs an archive, what may be removed."""

from __future__ import annotations

import contextlib
import io
import itertools
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

import pytest

from multidb.backup.continuous.catalog import Base, LogPosition, Positions, Stream, positions_text, thinned
from multidb.backup.continuous.layout import LogFile, mac_of, signed, slot, verified
from multidb.backup.continuous.moments import moment_of
from multidb.backup.continuous.pruning import needed
from multidb.backup.targets import Target
from multidb.document import Unreadable, parse
from multidb.errors import ArchiveError, UsageError
from multidb.model import BaseBackup
from multidb.progress import ProgressTimer
from multidb.provisioners.postgres.backup import base_files
from multidb.secrets import Secret


class Files:
    """The files of a base backup, in memory."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        if name in self.content:
            yield io.BytesIO(self.content[name])
            return
        written = io.BytesIO()
        yield written
        self.content[name] = written.getvalue()


KEY, OTHER = Secret("k" * 40), Secret("o" * 40)
NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-28 12:00", NOON),
        ("2026-11-28T12:00:00", NOON),
        ("2026-11-28 12:00:00.5", NOON + timedelta(seconds=0.5)),
        ("2026-11-28 12:00 UTC", NOON),
        ("2026-11-28 12:00:00Z", NOON),
        ("2026-11-28 14:00+02:00", NOON),
        ("2026-11-28 14:00 +0200", NOON),
        ("2026-11-28 07:00-05:00", NOON),
    ],
)
def test_a_moment_without_a_zone_is_in_utc(text: str, moment: datetime) -> None:
    assert moment_of(text) == moment


@pytest.mark.parametrize("text", ["", "2026-11-28", "noon", "2026-13-28 10:00", "2026-11-28 25:00", "12:00", "1' OR 1"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no moment"):
        moment_of(text)


def test_a_document_is_taken_only_where_and_by_whom_it_was_signed() -> None:
    text = signed({"a": 1}, KEY, "here")
    assert verified(parse(text, 1000), KEY, "here") == {"a": 1}
    for document, key, place in (
        (parse(text, 1000), OTHER, "here"),
        (parse(text, 1000), KEY, "elsewhere"),
        (parse(text.replace("1", "2", 1), 1000), KEY, "here"),
        ({"a": 1}, KEY, "here"),
        ([], KEY, "here"),
    ):
        with pytest.raises(Unreadable):
            verified(document, key, place)


def test_a_file_of_the_log_is_known_by_its_name_alone() -> None:
    mac = mac_of(KEY, "x").hexdigest()
    segment = LogFile.of(f"log/000000010000000000000003-{mac}.zst.age")
    assert segment is not None
    assert (segment.name, segment.encrypted, segment.is_segment) == ("000000010000000000000003", True, True)
    history = LogFile.of(f"log/00000002.history-{mac}.zst")
    assert history is not None
    assert not history.is_segment
    for path in (f"log/../x-{mac}.zst", f"log/000000010000000000000003-{mac[1:]}.zst", "log/x", f"base/{mac}.zst"):
        assert LogFile.of(path) is None


def test_a_slot_has_a_name_that_servers_take_and_no_two_projects_have() -> None:
    names = {slot(project) for project in ("a-b", "a_b", "ab", "x" * 40)}
    assert len(names) == 4
    assert all(len(name) <= 63 and name.replace("_", "").isalnum() and name.islower() for name in names)


def base(hours_ago: float) -> Base:
    ended = NOON - timedelta(hours=hours_ago)
    backup = BaseBackup("PostgreSQL 18.6", "0" * 24, ended - timedelta(minutes=1), ended, {})
    return Base(f"{ended:%Y%m%dT%H%M%SZ}-000000", backup)


def test_what_a_kept_moment_needs_is_never_removed() -> None:
    bases = tuple(base(hours) for hours in (72, 48, 24, 1))
    assert needed(bases, NOON - timedelta(hours=50)) == bases
    assert needed(bases, NOON - timedelta(hours=47)) == bases[1:]
    assert needed(bases, NOON) == bases[3:]
    assert needed(bases, NOON - timedelta(days=30)) == bases
    assert needed((), NOON) == ()


def test_positions_get_thin_with_age_and_none_is_moved() -> None:
    entries = [LogPosition(NOON - timedelta(minutes=minutes), f"{minutes:024}") for minutes in range(300, -1, -1)]
    kept = thinned(entries, NOON)
    assert set(kept) <= set(entries)
    assert [entry for entry in kept if NOON - entry.when <= timedelta(hours=1)] == entries[-61:]
    gaps = [later.when - earlier.when for earlier, later in itertools.pairwise(kept)]
    assert max(gaps) <= timedelta(minutes=16)
    assert len(kept) < 90
    assert thinned(kept, NOON) == kept


def test_a_window_begins_where_a_base_backup_is_whole(target: Target) -> None:
    positions = Positions("1", NOON, (LogPosition(NOON, "0" * 24),))
    assert Stream(target, "s", "f", positions, (base(2), base(1))).window is not None
    assert Stream(target, "s", "f", positions, (base(-1),)).window is None  # its end is not in the log yet
    assert Stream(target, "s", "f", positions, ()).window is None
    assert Stream(target, "s", "f", None, (base(1),)).window is None
    assert "2026-11-28T12:00:00" in positions_text(positions, KEY, "f")


@pytest.fixture
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    from multidb.backup.targets import open_target

    return open_target("sets", tmp_path_factory.getbasetemp())


def tar(*names: str) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    made.seek(0)
    return made


def test_a_base_backup_is_cut_where_another_database_begins() -> None:
    files = Files()
    source = tar("PG_VERSION", "base/1/1", "base/1/PG_VERSION", "base/16384/2", "global/3", "backup_manifest")
    parts = base_files.written(source, files, ProgressTimer(60))
    assert [part["database"] for part in parts] == [None, 1, 16384, None]
    with files.file(base_files.SIZES) as file:
        assert base_files.read_sizes(file) == {"base/1/1": 8, "base/1/PG_VERSION": 17, "base/16384/2": 12}
    for name, inside in (("0001.tar", ["base/1/1", "base/1/PG_VERSION"]), (base_files.MAPS, ["base/1/PG_VERSION"])):
        with files.file(name) as file:
            members = [(entry.name, content.read() if content else b"") for entry, content in base_files.members(file)]
        assert members == [(path, path.encode()) for path in inside]


def test_a_base_backup_that_is_not_whole_is_none() -> None:
    with pytest.raises(ArchiveError, match="ended before"):
        base_files.written(tar("PG_VERSION", "base/1/1"), Files(), ProgressTimer(60))
    with pytest.raises(ArchiveError, match="sizes"):
        base_files.read_sizes(io.BytesIO(b"base/1/../../x 8\n"))
