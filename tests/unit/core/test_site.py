"""The site of docs/: what leads nowhere is an error of its build, and each page is found."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts/site", folder], capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a page](other.md#a-heading)", ""),
        ("[a page](nowhere.md)", "index.md:3"),
        ("[a page](other.md#nothing)", "index.md:3"),
    ],
)
def test_what_leads_nowhere_is_an_error_of_the_build(tmp_path: Path, text: str, complaint: str) -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[0]
    (tmp_path / "mkdocs.yml").write_text(config, encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n")
    (tmp_path / "docs/decisions").mkdir(parents=True)
    (tmp_path / "docs/index.md").write_text(f"# Start\n\n{text}\n")
    (tmp_path / "docs/other.md").write_text("# Other\n\n## A heading\n\n```sh name\nls\n```\n")
    built = build(tmp_path)
    assert (built.returncode, complaint in built.stderr) == (1 if complaint else 0, True), built.stderr
    assert "Traceback" not in built.stderr
    if not complaint:
        assert re.search(r"<code[^>]*>.*ls", (tmp_path / "build/site/other.html").read_text(), re.DOTALL)
        assert (tmp_path / "build/site/other.md").exists()


def test_a_page_that_nobody_finds_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/docs", tmp_path / "scripts/docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "docs/lost.md").write_text("# Lost\n")
    done = subprocess.run(
        [sys.executable, tmp_path / "scripts/docs", "--check"], capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (1, "not in the navigation of mkdocs.yml: docs/lost.md")
