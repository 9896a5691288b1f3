"""The suites themselves: they go through public names, and share what is in `tests.support`."""

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


def _suite(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Whose a module of the tests is: a folder's, or one of those under ``unit``; nobody's at the top."""
    return parts[: 2 if parts[0] == "unit" else 1] if len(parts) > 1 else ()


def test_no_suite_imports_from_another() -> None:
    shared = {(), ("support",)}
    across = [
        f"{path.relative_to(TESTS)}: {module}"
        for path in sorted(TESTS.rglob("*.py"))
        for module, name in _imports(path)
        if module.startswith("tests")
        and _suite((*module.split(".")[1:], name)) not in {_suite(path.relative_to(TESTS).parts), *shared}
    ]
    assert across == []


def test_no_test_imports_another() -> None:
    """What several tests need stands in a module that is none: whoever changes a test changes that one alone."""
    places = ("tests.contract.test_state_stores", "tests.cli.test_state_places")  # with fixtures for each kind of place
    tests = [
        f"{path.relative_to(TESTS)}: {module}"
        for path in sorted(TESTS.rglob("*.py"))
        for module, _ in _imports(path)
        if ".test_" in module and module not in places and module.split(".")[-1] != path.stem
    ]
    assert tests == []
