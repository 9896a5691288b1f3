"""What tests may take from each other, and from the code: what is there to be used, by public names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
PLACES = {"state_stores", "state_places"}  # fixtures of the places of a state, which two modules try


def taken(code: str) -> Iterator[tuple[str, str]]:
    """The modules that the code imports from, each with a name that it takes."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def wrong(path: str, code: str) -> list[str]:
    """What a test at `path` (``tests/unit/...``) should not take."""
    here, suite = path.removesuffix(".py").replace("/", "."), path.split("/")[1]
    return [
        f"{path}: {module} {name}"
        for module, name in taken(code)
        if (module.startswith("multidb") and name.startswith("_"))
        or (
            module.startswith("tests.")
            and module != here
            and (
                (module.split(".")[-1].startswith("test_") and module.split(".test_")[-1] not in PLACES)
                or module.split(".")[1] not in (suite, "support")
            )
        )
    ]


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("from multidb.engine import Engine", 0),
        ("from multidb.baseline import _text", 1),
        ("from tests.unit.engine.test_engine import OneEach", 1),
        ("from tests.contract.postgres_site import Site", 1),
        ("import tests.cli.test_whole_run", 1),
        ("from tests.support.case import RealServer", 0),
        ("from tests.unit.backup.cabinet import Archive", 0),
    ],
)
def test_what_is_wrong_is_seen(code: str, count: int) -> None:
    assert len(wrong("tests/unit/core/test_x.py", code)) == count


def test_tests_import_public_names_and_what_is_there_for_tests() -> None:
    files = sorted(TESTS.rglob("*.py"))
    assert len(files) > 200
    paths = {file.relative_to(TESTS.parent).as_posix(): file.read_text(encoding="utf-8") for file in files}
    assert [found for path, code in paths.items() for found in wrong(path, code)] == []
