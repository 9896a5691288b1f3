"""The pages for people: every link leads somewhere, every command named there exists."""

from __future__ import annotations

import re
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
