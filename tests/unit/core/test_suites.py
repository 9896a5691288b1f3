"""The suites themselves: they go through public names."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[2]


def _imports(path: Path) -> list[tuple[str, str]]:
    """Every ``from module import name`` of a file, also inside functions."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return [(node.module or "", alias.name) for node in found for alias in node.names]


def test_no_test_imports_a_private_name() -> None:
    private = [
        f"{path.relative_to(TESTS)}: {module}.{name}"
        for path in sorted(TESTS.rglob("*.py"))
        for module, name in _imports(path)
        if module.startswith(("multidb", "tests")) and any(part.startswith("_") for part in [*module.split("."), name])
    ]
    assert private == []
