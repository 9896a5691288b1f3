"""No function is longer than what can be read at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import multidb

CODE = Path(multidb.__file__).parent
MOST = 60  # lines


def lengths(code: str) -> Iterator[tuple[str, int]]:
    """How long each function is: the lines from its first statement to its last, whatever stands on them.

    Its decorators, its signature and its docstring are not counted: a command declares its options there, and says what
    it promises. A function within another counts for both.
    """
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = (node.end_lineno or 0) - statements[0].lineno + 1 if statements else 0
            yield node.name, length


@pytest.mark.parametrize(
    ("code", "length"),
    [
        ("def work(): return 1", 1),
        ("def work(): ...", 1),
        ('def work():\n    """What\n    it does."""', 0),
        (
            '@made\ndef work(\n    one,\n):\n    """What\n    it does."""\n    one()\n\n    # why\n    two(\n    )',
            5,
        ),
        ('async def work():\n    return """one\n    two\n    three"""', 3),
    ],
)
def test_the_length_of_a_function(code: str, length: int) -> None:
    assert list(lengths(code)) == [("work", length)]


def test_a_function_within_another_counts_for_both() -> None:
    assert dict(lengths("def outer():\n    def inner():\n        one()\n    return inner")) == {"outer": 3, "inner": 1}


def test_no_function_is_longer_than_what_can_be_read_at_once() -> None:
    files = sorted(CODE.rglob("*.py"))
    assert len(files) > 300
    assert [
        f"{file.relative_to(CODE)}: {name} has {length} lines"
        for file in files
        for name, length in lengths(file.read_text(encoding="utf-8"))
        if length > MOST
    ] == []
