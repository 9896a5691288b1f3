"""`multidb.testing`: an app for a test suite, on real servers, gone when the tests are."""

from __future__ import annotations

import json
import multiprocessing.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from multidb.errors import MultidbError
from multidb.testing import ephemeral_app
from tests.support.command import REPOSITORY, Folder

pytestmark = pytest.mark.server

PAGE = REPOSITORY / "docs" / "ci" / "testing.md"


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's servers have their folders."""
    multiprocessing.util.get_temp_dir()  # that of the commands' processes is to outlive this test
    with tempfile.TemporaryDirectory(prefix="t-") as name:
        Path(name).chmod(0o755)  # as root, Postgres runs as another user, who has to get in
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(name)


def servers_of(folder: Path) -> list[psutil.Process]:
    """The server processes whose folders are below it."""
    marked = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MULTIDB_SERVER", "").startswith(f"{folder}/"):
                marked.append(process)
        except psutil.Error:
            continue
    return marked


def test_the_page_is_true_and_nothing_stays(temporary: Path) -> None:
    """The files of the page, as a suite of their own."""
    suite = temporary / "suite"
    suite.mkdir()
    files = re.findall(r"^<!-- file: (.+?) -->\n```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["conftest.py", "test_notes.py"]
    for name, text in files:
        (suite / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(suite), str(suite)]
    done = subprocess.run(
        command,
        cwd=suite,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout + done.stderr
    assert servers_of(temporary) == []
    assert [path.name for path in temporary.iterdir()] == ["suite"]


_KILLED = """\
import sys, time
from multidb.testing import ephemeral_app
with ephemeral_app("redis"):
    print("there", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_run_has_left_is_ended_by_the_next_and_nobody_elses(temporary: Path) -> None:
    others = temporary / "multidb-testing-others"
    others.mkdir()  # says of nobody that he is gone
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", _KILLED], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    (abandoned,) = servers_of(temporary)
    with ephemeral_app("redis") as app:
        assert abandoned.is_running(), "its owner lives"
        assert app.env["REDIS_URL"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with ephemeral_app("redis") as app:
        client = redis.Redis.from_url(app.env["REDIS_URL"])
        assert client.set("key", "value")
        client.close()
        assert len(servers_of(temporary)) == 1
    assert servers_of(temporary) == []
    assert [path.name for path in temporary.iterdir()] == [others.name]


def test_on_the_servers_of_a_project_the_app_is_purged_and_the_manifest_untouched(temporary: Path) -> None:
    folder = Folder(temporary / "project", [])
    folder.path.mkdir()
    folder.path.chmod(0o755)
    folder.manifest("version: 1\nproject: shop\nruntime: embedded\napps:\n  ann: {stores: [postgres]}  # stays\n")
    before = (folder.path / "multidb.yaml").read_bytes()
    try:
        folder.ok("up")
        folder.ok("apply", "--yes")
        options = {"extensions": ["pg_trgm"]}
        with ephemeral_app("postgres", manifest=folder.path / "multidb.yaml", postgres=options) as app:
            with psycopg.connect(app.env["DATABASE_URL"]) as connection:
                assert connection.execute("SELECT similarity('a', 'a')").fetchall() == [(1.0,)]
            assert (folder.path / "multidb.yaml").read_bytes() == before
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(app.env["DATABASE_URL"])
        assert (folder.path / "multidb.yaml").read_bytes() == before
        assert folder.ok("plan", "--check", "--json").json()["warnings"] == []
        kept = json.loads((folder.path / ".multidb/secrets.json").read_text())["secrets"]
        assert [name for name in kept if name.startswith("test_")] == []
    finally:
        folder.run("down")


def test_what_cannot_be_had_is_said_and_leaves_nothing(temporary: Path) -> None:
    def ask(store: str) -> None:
        with ephemeral_app(store):
            raise AssertionError("it is there")

    with pytest.raises(MultidbError, match="nosuchstore"):
        ask("nosuchstore")
    assert list(temporary.iterdir()) == []
