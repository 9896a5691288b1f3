"""An exchange of a server's data that is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from multidb.runtime.exchange import settle


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({"data": "old"}, "old"),
        ({"data.replaced": "old"}, "old"),
        ({"data.replaced": "old", "data": "new"}, "new"),
        ({}, None),
    ],
)
def test_an_interrupted_exchange_ends_with_the_old_data_or_the_new(
    tmp_path: Path, there: dict[str, str], expected: str | None
) -> None:
    for name, content in there.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "graph").write_text(content)
    for _ in range(2):
        settle(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == (["data"] if expected else [])
    assert expected is None or (tmp_path / "data" / "graph").read_text() == expected
