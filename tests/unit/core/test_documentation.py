"""The pages for people: every link leads somewhere, and commands, messages and variables named there exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from multidb.cli.command_line import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = "".join(page.read_text(encoding="utf-8").split("```")[0::2])
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", prose)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_shown_exist(page: Path) -> None:
    prose_and_code = page.read_text(encoding="utf-8").split("```")
    shown = [name for part in prose_and_code[0::2] for name in re.findall(r"`multidb ([a-z][a-z-]*)", part)]
    shown += [
        name for part in prose_and_code[1::2] for name in re.findall(r"^multidb ([a-z][a-z-]*)", part, re.MULTILINE)
    ]
    assert sorted(set(shown) - set(COMMANDS)) == []


def test_nobody_is_told_to_install_another_projects_package() -> None:
    """On the package index, multidb is somebody else's library."""
    texts = [
        path for path in (*PAGES, *(ROOT / "multidb").rglob("*.py"), *(ROOT / "templates").rglob("*")) if path.is_file()
    ]
    told = re.compile(r"(?:pip|pipx|uv tool|uv pip) install (?:-[-\w]+ )*['\"]?multidb(?![-\w])")
    assert [path.name for path in texts if told.search(path.read_text(encoding="utf-8"))] == []
    assert told.search("pip install 'multidb[serve]'")  # the control


def texts_of_the_code() -> list[str]:
    """Every string in the code, with ``\0`` where a value is put in."""
    texts = []
    for path in (ROOT / "multidb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def is_said(message: str, texts: Iterable[str]) -> bool:
    """Whether one of the texts has the message; ``...`` in it is a value."""
    pattern = re.compile(".*".join(re.escape(part) for part in message.split("...")), re.DOTALL)
    return any(pattern.search(text) for text in texts)


def test_messages_that_are_explained_are_said() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert "These come from the servers" in sections.pop("An app cannot work")
    messages = re.findall(r"^\| `(.+?)` \|", "".join(sections.values()), re.MULTILINE)
    texts = texts_of_the_code()
    assert [message for message in messages if not is_said(message, texts)] == []
    assert len(messages) > 30
    assert not is_said("there is no such manifesto", texts)
    assert not is_said("... backs up the moon ...", texts)


def test_variables_that_are_explained_are_those_that_there_are() -> None:
    own, read = (ROOT / "docs/variables.md").read_text(encoding="utf-8").split("## What multidb reads")
    texts = texts_of_the_code()
    names = "".join(re.findall(r"^\| (`.+?) \|", own, re.MULTILINE))
    named = {
        name.replace("<APP>", "\0") for name in re.findall(r"`([A-Z][A-Z0-9_]+|(?:[A-Z0-9_]*<APP>[A-Z_]*))`", names)
    }
    endings = {name.split("\0")[-1] or name.split("\0")[0] for name in named}
    assert sorted(name for name in endings if not any(name in text for text in texts)) == []
    for example in ROOT.glob("apps/*/.env.example"):
        app = example.parent.name.upper()
        given = re.findall(r"^([A-Z][A-Z0-9_]*)=", example.read_text(encoding="utf-8"), re.MULTILINE)
        assert {name if name in named else name.replace(app, "\0") for name in given} <= named
    code = "\n".join(texts) + "\n".join(path.read_text() for path in (ROOT / "templates").rglob("*") if path.is_file())
    assert set(re.findall(r"`(MULTIDB_\w+)`", read)) <= set(re.findall(r"MULTIDB_[A-Z_]+[A-Z]", code))
