"""A machine that does not let a command work: full or closed output, a folder that is gone, no more threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY

MAIN = "from multidb.cli import main; main()"
NO_THREADS = (
    "import threading\n"
    'def start(self): raise RuntimeError("can\'t start new thread")\n'
    f"threading.Thread.start = start\n{MAIN}"
)
MANIFEST = """\
version: 1
project: shop
runtime: external
apps: {ann: {stores: [redis]}}
external: {redis: {url: "redis://127.0.0.1:1", password: {env: ADMIN}}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "multidb.yaml").write_text(MANIFEST)
    return tmp_path


def shell(folder: Path, line: str, code: str = MAIN) -> subprocess.CompletedProcess[str]:
    """Runs a line of shell in which ``multidb`` is the command."""
    done = subprocess.run(
        ["/bin/bash", "-c", f'multidb() {{ "{sys.executable}" -c "$CODE" "$@"; }}\n{line}'],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "NO_COLOR": "1",
            "CODE": code,
            "ADMIN": "secret-of-the-admin",
        },
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    assert "fault of multidb" not in done.stderr + done.stdout
    return done


@pytest.mark.parametrize("command", ["schema", "--help", "--version", "validate --json", "apply --json", "plan --json"])
def test_output_that_is_full_is_said(project: Path, command: str) -> None:
    done = shell(project, f"multidb {command} >/dev/full")
    assert done.returncode != 0
    assert "No space left on device" in done.stderr
    assert "standard output" in done.stderr or "--json" in command
    assert done.stderr.count("standard output") <= 1


def test_all_output_that_is_full_is_no_traceback(project: Path) -> None:
    assert shell(project, "multidb schema >/dev/full 2>/dev/full").returncode != 0


@pytest.mark.parametrize("closing", [">&-", ">&- 2>&-", "<&- >&- 2>&-", "<&-"])
def test_output_that_is_closed_is_nobodys(project: Path, closing: str) -> None:
    assert shell(project, f"multidb validate --json {closing}").returncode == 0
    assert shell(project, f"multidb plan {closing}").returncode == 4
    left = sorted(path.name for path in project.iterdir())
    assert left == ["multidb.yaml"] or left == [".multidb", "multidb.yaml"]


def test_a_reader_that_has_enough_is_no_failure(project: Path) -> None:
    done = shell(project, "multidb schema | head -c 10; echo ${PIPESTATUS[0]}")
    assert done.stdout.endswith("\n0\n") or done.stdout.endswith("0\n")
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["validate", "plan", "plan --json", "init", "schema"])
def test_a_working_folder_that_is_gone_is_said(tmp_path: Path, command: str) -> None:
    done = shell(tmp_path, f'mkdir gone; cd gone; rmdir "$PWD"; multidb {command}')
    assert done.returncode in (0, 2), done.stderr
    assert command == "schema" or "Error: " in done.stderr or '"error"' in done.stdout


def test_nothing_is_made_that_every_account_may_write(project: Path) -> None:
    shell(project, "umask 000; multidb plan; multidb init -f below/multidb.yaml --project new")
    made = [path for path in project.rglob("*") if path != project / "multidb.yaml"]
    assert project / "below" / "multidb.yaml" in made
    assert not [path for path in made if path.stat().st_mode & 0o002]


def test_a_name_that_the_locale_has_no_letters_for_is_said(project: Path) -> None:
    locale = "LC_ALL=C PYTHONCOERCECLOCALE=0"
    (project / "s\u00f6ns").mkdir()
    draft = (project / "multidb.yaml").read_text().replace("{env: ADMIN}", "{file: s\u00f6ns/password}")
    (project / "multidb.yaml").write_text(draft, encoding="utf-8")
    done = shell(project, f"{locale} PYTHONUTF8=0 multidb plan")
    assert done.returncode == 2
    assert "PYTHONUTF8=1" in done.stderr
    assert "ascii" in done.stderr
    assert "s\u00f6ns/password" in shell(project, f"{locale} PYTHONUTF8=1 multidb plan").stderr


@pytest.mark.parametrize("form", ["", "--json"])
def test_no_more_threads_is_said(project: Path, form: str) -> None:
    done = shell(project, f"multidb plan {form}", NO_THREADS)
    assert done.returncode == 2
    assert "no more threads" in (done.stdout if form else done.stderr)
    assert "ulimit -u" in (done.stdout if form else done.stderr)
