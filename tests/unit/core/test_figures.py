"""Sizes, lengths of time and lists, as people write and read them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from multidb.model import bytes_of, duration_of, duration_text, listed, size_in_words, time_in_words


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("500MB", 500_000_000), ("5GB", 5 * 10**9), ("5GiB", 5 * 2**30), ("1.5 kB", 1500), ("2TiB", 2**41)],
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "5", "5iB", "GB", "5gb", "-1GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        bytes_of(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_499, "999 kB"), (999_500, "1.0 MB"), (-8_100_000, "-8.1 MB")],
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert size_in_words(size) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("2min", 120), ("5m", 300), ("24h", 86_400), ("7d", 604_800), ("4w", 2_419_200)],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert duration_of(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["1ms", "1500ms", "1s", "90s", "2m", "1h", "24h", "36h", "7d", "2w", "9999999w"])
def test_lengths_of_time_are_written_as_they_are_read(text: str) -> None:
    assert duration_text(duration_of(text)) == text


@pytest.mark.parametrize(("text", "same"), [("1d", "24h"), ("120s", "2m"), ("14d", "2w"), ("1min", "1m")])
def test_one_length_of_time_has_one_text(text: str, same: str) -> None:
    assert duration_text(duration_of(text)) == same


@pytest.mark.parametrize("text", ["", "3", "d", "0d", "3 d", "-3d", "3y", "12345678s"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ValueError, match="not a length of time"):
        duration_of(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (172_799, "48 h"),
        (172_800, "2 d"),
    ],
)
def test_lengths_of_time_are_for_people(seconds: int, text: str) -> None:
    assert time_in_words(timedelta(seconds=seconds)) == text


def test_long_lists_end_in_a_number() -> None:
    assert listed(["ann"]) == "ann"
    assert listed(["ann", "bob", "eve"]) == "ann, bob, eve"
    assert listed(["ann", "bob", "eve", "carl", "dora"]) == "ann, bob, eve and 2 more"
    assert listed(["a: 1", "b: 2", "c: 3"], 2, between="; ") == "a: 1; b: 2 and 1 more"
