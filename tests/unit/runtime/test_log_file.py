from __future__ import annotations

from pathlib import Path

from multidb.runtime.log_file import log_lines


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "postgres.log"
    log.write_bytes(b"one\ntwo\n\xff three\nfour")

    assert list(log_lines(log, 2, follow=False)) == ["\ufffd three", "four"]


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert list(log_lines(tmp_path / "none.log", 5, follow=True)) == []


def test_followed_a_log_gives_what_is_added_once_the_line_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "redis.log"
    log.write_text("old\n")
    lines = log_lines(log, 1, follow=True)
    assert next(lines) == "old"

    with log.open("a") as file:
        file.write("new\nhalf")

    assert next(lines) == "new"
