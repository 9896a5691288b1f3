"""The suites themselves: they go through public names, and share what is in `tests.support`."""

from __future__ import annotations

import ast
from pathlib import Path

from hypothesis import HealthCheck, settings

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


def test_no_property_is_tried_against_the_clock() -> None:
    """On a busy machine each example may take longer than any deadline."""
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check


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


def _modules(tree: ast.Module) -> set[str]:
    """What a file calls the modules of ours that it has imported."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("multidb")
        for alias in node.names
        if _is_module(f"{node.module}.{alias.name}")
    }


def _is_module(name: str) -> bool:
    path = TESTS.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _private_settings(code: str) -> list[str]:
    """The private names of modules that a test has monkeypatch set."""
    tree = ast.parse(code)
    modules, private = _modules(tree), []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="setattr"), args=[ast.Constant(value=str(path)), *_]):
                module, _, name = path.rpartition(".")
                private += [path] if name.startswith("_") and _is_module(module) else []
            case ast.Call(
                func=ast.Attribute(attr="setattr"), args=[ast.Name(id=module), ast.Constant(value=str(name)), *_]
            ) if module in modules and name.startswith("_"):
                private.append(f"{module}.{name}")
    return private


def test_a_private_setting_is_noticed() -> None:
    code = "from multidb.service import serving as it\nfrom multidb.fleet import Fleet\n"
    assert _private_settings(f'{code}patch.setattr(it, "_GRACE", 1)') == ["it._GRACE"]
    assert _private_settings(f'{code}patch.setattr("multidb.fleet._TIMEOUT", 1)') == ["multidb.fleet._TIMEOUT"]
    assert _private_settings(f'{code}patch.setattr(it, "GRACE", 1)\npatch.setattr(Fleet, "_open", fails)') == []


def test_what_tests_set_of_a_module_is_public() -> None:
    """Whoever changes a private name may do so without reading tests. A fault put into a class is the test's own."""
    assert {
        str(path.relative_to(TESTS)): private
        for path in sorted(TESTS.rglob("*.py"))
        if (private := _private_settings(path.read_text()))
    } == {}
