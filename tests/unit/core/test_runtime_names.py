"""Where servers come from is asked of `RuntimeKind` and of the runtime: nothing compares its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import multidb
from multidb.model import RuntimeKind

CODE = Path(multidb.__file__).parent
OWN = (  # they say what each runtime is
    CODE / "runtime",
    CODE / "model" / "options.py",
    CODE / "manifest",
)
CLASSES = {"EmbeddedRuntime", "ComposeRuntime", "ExternalRuntime"}


def is_name(node: ast.AST) -> bool:
    """Whether an expression is a runtime's name, or a collection with one."""
    match node:
        case ast.Constant(value=value):
            return value in set(RuntimeKind)
        case ast.Attribute(value=ast.Name(id="RuntimeKind")):
            return True
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            return any(map(is_name, parts))
    return False


def comparisons(code: str) -> Iterator[int]:
    """The lines that compare something with a runtime's name, or ask which runtime's class something is of."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Compare(left=left, comparators=others) if any(map(is_name, [left, *others])):
                yield node.lineno
            case ast.MatchValue(value=value) if is_name(value):
                yield value.lineno
            case ast.Call(func=ast.Name(id="isinstance"), args=[_, of]) if CLASSES & {
                each.id for each in ast.walk(of) if isinstance(each, ast.Name)
            }:
                yield node.lineno


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ('x = project.runtime == "external"', [1]),
        ('if "compose" != runtime: pass', [1]),
        ('x = kind in ("compose", "embedded")', [1]),
        ("x = project.runtime is not RuntimeKind.EMBEDDED", [1]),
        ('match runtime:\n    case "compose":\n        pass', [2]),
        ("isinstance(runtime, (int, ComposeRuntime))", [1]),
        ('say("compose"); x = {"external": 1}; y = project.runtime.in_containers', []),
    ],
)
def test_a_comparison_is_found(code: str, lines: list[int]) -> None:
    assert list(comparisons(code)) == lines


def test_nothing_but_the_runtimes_and_the_manifest_compares_their_names() -> None:
    files = [file for file in CODE.rglob("*.py") if not any(file.is_relative_to(own) for own in OWN)]
    assert len(files) > 200
    found = {str(file.relative_to(CODE)): list(comparisons(file.read_text(encoding="utf-8"))) for file in files}
    assert {file: lines for file, lines in found.items() if lines} == {}
