"""The words of the code are those of docs/glossary.md: none that it rules out, and no class name twice."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import multidb
from multidb.model import counted

CODE = Path(multidb.__file__).parent
GLOSSARY = Path(__file__).parents[3] / "docs" / "glossary.md"
STORES = CODE / "provisioners"


def ruled_out() -> dict[str, tuple[str, ...]]:
    """The words that the glossary's last table rules out, each with the files and folders in which it may be used."""
    rows = re.findall(
        r"^\| (`.+?) \| .+? \|(.*)\|$", GLOSSARY.read_text().split("## Words that are not used")[1], re.MULTILINE
    )
    return {
        word: tuple(re.findall(r"`([^`]+)`", exceptions.partition(":")[0]))
        for words, exceptions in rows
        for word in re.findall(r"`([^`]+)`", words)
    }


def names(code: str) -> Iterator[tuple[int, str]]:
    """Every name that the code gives to something, with its line."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name


def words(name: str) -> set[str]:
    """The words that a name is made of: ``_seat_of`` and ``SeatOf`` of two."""
    return {part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


@pytest.mark.parametrize(
    ("code", "given"),
    [
        ("for each in some: pass", ["each"]),
        ("def _found_stacks(wanted): ...", ["_found_stacks", "wanted"]),
        ("class Seat:\n    said: str", ["Seat", "said"]),
        ("self.pace = told.pace", ["pace"]),
        ("[spare for spare in site]", ["spare"]),
        ("from docker.errors import NotFound", []),
    ],
)
def test_the_names_that_a_code_gives(code: str, given: list[str]) -> None:
    assert [name for _, name in names(code) if words(name) & ruled_out().keys()] == given


def test_no_name_has_a_word_that_is_ruled_out() -> None:
    out = ruled_out()
    assert len(out) > 20, "the glossary's table is not read any more"
    used = []
    for file in sorted(CODE.rglob("*.py")):
        path = file.relative_to(CODE).as_posix()
        given = [(1, part) for part in path.removesuffix(".py").split("/")] + list(names(file.read_text()))
        for line, name in given:
            of_here = {word for word in words(name) & out.keys() if not path.startswith(out[word])}
            used += [f"{path}:{line}: {name}"] if of_here else []
    assert used == []


def test_what_is_excepted_is_there() -> None:
    paths = {path for excepted in ruled_out().values() for path in excepted}
    assert [path for path in sorted(paths) if not (CODE / path).exists()] == []


def test_no_class_outside_of_the_stores_is_called_as_another() -> None:
    classes = Counter(
        node.name
        for file in CODE.rglob("*.py")
        if file.parent == STORES or not file.is_relative_to(STORES)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in classes.items() if count > 1] == []


def _uncounted(tree: ast.AST) -> Iterator[int]:
    """Lines where a length stands right before a word in the plural, whatever the length is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for value, text in pairwise(node.values):
                called = value.value if isinstance(value, ast.FormattedValue) else None
                counts = isinstance(called, ast.Call) and isinstance(called.func, ast.Name) and called.func.id == "len"
                if counts and isinstance(text, ast.Constant) and re.match(r" [a-z]+s\b", str(text.value)):
                    yield node.lineno


def test_one_thing_is_not_called_as_several_are() -> None:
    found = [
        f"{path.name}:{line}"
        for path in Path(multidb.__file__).parent.rglob("*.py")
        for line in _uncounted(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == [], "multidb.model.counted says 1 app and 2 apps"
    assert list(_uncounted(ast.parse('f"{len(apps)} apps"'))) == [1]
    assert list(_uncounted(ast.parse('f"{len(apps)} of them"'))) == []
    assert [counted(number, "app") for number in (0, 1, 1200)] == ["0 apps", "1 app", "1,200 apps"]
    assert counted(2, "key was", "keys were") == "2 keys were"
