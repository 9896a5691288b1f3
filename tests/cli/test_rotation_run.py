"""Rotations on real servers through the command line: what an app sees of them, killed anywhere, two at once."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from multidb.alternation import RotationPhase, alternations
from multidb.history import RunHistory
from multidb.provisioners.postgres.provision.setting_values import members
from multidb.state import ProjectState
from tests.support.command import REPOSITORY, Folder, project_folder

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]

MANIFEST = """\
version: 1
project: turns
runtime: embedded
apps:
  ann: {stores: [postgres], postgres: {roles: split}}
  bob: {stores: [postgres]}
  cyd: {stores: [postgres], rotate: never}
  dan: {stores: [postgres], rotate: {every: 90d}}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("turns-", MANIFEST) as found:
        found.ok("up")
        found.ok("apply", "--yes")
        yield found


def url_of(folder: Folder, app: str, variable: str = "DATABASE_URL") -> str:
    """As an app reads it: from its file."""
    lines = (folder.path / "apps" / app / ".env").read_text().splitlines()
    (value,) = [line.partition("=")[2].strip("'") for line in lines if line.startswith(f"{variable}=")]
    return value


def asked(url: str, statement: str = "SELECT session_user") -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        (row,) = connection.execute(statement.encode()).fetchall()
        return row[0]


def refused(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError as error:
        return re.search("password authentication failed|not permitted to log in", str(error)) is not None
    return False


def test_the_two_steps(folder: Folder) -> None:
    variables = ("DATABASE_URL", "ANN_DB_READONLY_URL", "ANN_DB_MIGRATE_URL")
    old = [url_of(folder, "ann", variable) for variable in variables]
    shown = folder.ok("rotate", "ann")
    assert "multidb rotate ann --finish" in shown.out
    new = [url_of(folder, "ann", variable) for variable in variables]
    assert [asked(url) for url in old] == ["ann_user", "ann_readonly", "ann_migrate"]
    assert [asked(url) for url in new] == ["ann_user_b", "ann_readonly_b", "ann_migrate_b"]
    folder.ok("plan", "--check")
    assert new == [url_of(folder, "ann", variable) for variable in variables], "an apply leaves them as they are"
    with psycopg.connect(old[1]) as session:
        done = folder.run("rotate", "ann", "--finish", "--yes", "--json")
        assert done.code == 3
        assert "1 session" in done.json()["error"]["message"]
        assert "127.0.0.1" in done.json()["error"]["message"]
        live = folder.ok("show", "ann", "--live", "--json").json()["credentials"]["postgres"]
        assert live["phase"] == "prepared"
        assert [(use["login"], use["sessions"]) for use in live["former_used_by"]] == [("ann_readonly", 1)]
        session.execute("SELECT 1")
        folder.ok("rotate", "ann", "--finish", "--force", "--yes")
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert all(map(refused, old))
    assert [asked(url) for url in new] == ["ann_user_b", "ann_readonly_b", "ann_migrate_b"]
    folder.ok("plan", "--check")
    audited = folder.ok("audit", "--json").json()
    former = [probe for probe in audited["probes"] if "before the last rotation" in probe["probe"]]
    assert [(probe["app"], probe["got"]) for probe in former] == [("ann", "refused")]
    assert [remark["app"] for remark in audited["remarks"]] == ["cyd"]


_EVERYWHERE = """
SELECT setconfig[1] FROM pg_db_role_setting WHERE setdatabase = 0 AND setrole = session_user::regrole"""


def test_what_the_app_has_set_for_its_login_comes_along(folder: Folder) -> None:
    everywhere = '"Odd, ""one""\\", public'
    with psycopg.connect(url_of(folder, "bob"), autocommit=True) as connection:
        connection.execute("SET ROLE NONE")
        connection.execute(f"ALTER ROLE bob_user SET search_path = {everywhere}".encode())
        connection.execute("ALTER ROLE bob_user IN DATABASE bob SET work_mem = '7MB'")
        connection.execute("ALTER ROLE bob_user IN DATABASE bob SET temp_tablespaces = ''")
        connection.execute("SELECT set_config('search_path', 'Odd;CREATE', false)")  # kept as it stands, without quotes
        connection.execute("ALTER ROLE bob_user IN DATABASE bob SET search_path FROM CURRENT")
    for _ in range(2):
        folder.ok("rotate", "bob", "--now", "--yes")
        folder.ok("plan", "--check")
        assert members(asked(url_of(folder, "bob"), "SHOW search_path")) == ["odd;create"]
        assert asked(url_of(folder, "bob"), _EVERYWHERE) == f"search_path={everywhere}"
        assert asked(url_of(folder, "bob"), "SHOW work_mem") == "7MB"
        assert asked(url_of(folder, "bob"), "SELECT current_user") == "bob_owner"
    assert asked(url_of(folder, "bob")) == "bob_user", "there and back"


def test_back_to_the_old_ones(folder: Folder) -> None:
    old = url_of(folder, "bob")
    folder.ok("rotate", "bob", "--prepare")
    new = url_of(folder, "bob")
    said = folder.ok("rotate", "bob", "--abort")
    assert "multidb rotate bob --finish" in said.out
    assert url_of(folder, "bob") == old
    assert asked(new)
    folder.ok("rotate", "bob", "--finish", "--yes")
    steps = [run.changes[0].action for run in RunHistory(ProjectState(folder.path)).runs() if run.is_about("bob")]
    assert steps[-3:] == ["prepare", "abort", "finish"]
    assert refused(new)
    assert asked(old)
    assert "No rotation is under way" in folder.ok("rotate", "bob", "--abort").out


def test_what_is_due(folder: Folder) -> None:
    assert folder.run("rotate").code == 2
    never = folder.run("rotate", "cyd")
    assert never.code == 3
    assert "rotate cyd --now" in never.err
    assert "Nothing is due" in folder.ok("rotate", "--auto").out
    assert "Nothing is due" in folder.ok("rotate", "--older-than", "90d").out
    state = ProjectState(folder.path)
    with state.change("issued") as issued:
        issued["dan"] = "2020-01-01T00:00:00+00:00"
        issued["cyd"] = "2020-01-01T00:00:00+00:00"
    health = folder.run("health", "dan", "--json").json()["apps"]["dan"]["stores"]["postgres"]
    assert (health["status"], health["hint"]) == ("degraded", "multidb rotate dan")
    old, kept = url_of(folder, "dan"), url_of(folder, "cyd")
    folder.ok("rotate", "--auto", "--after", "1h")
    assert url_of(folder, "dan") != old
    assert "Nothing is due" in folder.ok("rotate", "--auto", "--after", "1h").out
    assert asked(old)
    with psycopg.connect(old):
        busy = folder.run("rotate", "--auto", "--after", "1ms")
        assert busy.code == 3
        assert "1 session" in busy.out
    folder.ok("rotate", "--auto", "--after", "1ms")
    assert refused(old)
    assert url_of(folder, "cyd") == kept
    assert folder.run("health", "dan", "--json").json()["apps"]["dan"]["stores"]["postgres"]["status"] == "healthy"


def test_an_env_file_that_a_person_wrote_is_named_before_anything_is_done(folder: Folder) -> None:
    file = folder.path / "apps" / "bob" / ".env"
    old, text = url_of(folder, "bob"), file.read_text()
    by_hand = f"DATABASE_URL='{old}'\n"
    file.write_text(by_hand)
    known = alternations(ProjectState(folder.path))["bob", "postgres"]
    for step in ("--prepare", "--now"):
        done = folder.run("rotate", "bob", step)
        assert (done.code, "apps/bob/.env: multidb did not write it" in done.err) == (3, True), done.err
    due = folder.run("rotate", "--older-than", "1ms", "--json").json()["apps"]
    timer = {one["app"]: (one["step"] is not None, one["error"] and one["error"]["where"]) for one in due}
    assert timer["bob"] == (True, "apps/bob/.env")
    assert timer["ann"] == (True, None), "the others are rotated"
    assert alternations(ProjectState(folder.path))["bob", "postgres"] == known
    assert asked(old)
    said = folder.ok("rotate", "bob", "--prepare", "--yes")
    assert "multidb env bob" in said.out
    assert file.read_text() == by_hand
    new = folder.ok("env", "bob", "DATABASE_URL").out.strip()
    assert {asked(old), asked(new)} == {"bob_user", "bob_user_b"}
    file.write_text(text)
    folder.ok("rotate", "bob", "--abort")
    folder.ok("rotate", "bob", "--finish", "--force", "--yes")
    for app in ("ann", "dan"):
        folder.ok("rotate", app, "--finish", "--force", "--yes")
    assert refused(new)
    assert asked(url_of(folder, "bob")) == asked(old)


def test_an_app_is_not_renamed_while_two_of_its_credentials_work(folder: Folder) -> None:
    rename = ("rename-app", "bob", "rob", "--no-backup", "--yes-destroy", "bob")
    old = url_of(folder, "bob")
    folder.ok("rotate", "bob")
    done = folder.run(*rename)
    assert (done.code, "being rotated" in done.err, "multidb rotate bob --finish" in done.err) == (3, True, True)
    assert asked(old)
    assert asked(url_of(folder, "bob"))
    folder.ok("rotate", "bob", "--abort", "--force", "--yes")
    folder.ok(*rename)
    assert asked(url_of(folder, "rob", "DATABASE_URL"), "SELECT current_database()") == "rob"
    folder.ok("rotate", "rob", "--now", "--yes")
    folder.ok("rename-app", "rob", "bob", "--no-backup", "--yes-destroy", "rob")
    assert refused(old)
    assert asked(url_of(folder, "bob"), "SELECT current_database()") == "bob"
    folder.ok("plan", "--check")


def test_two_at_once(folder: Folder) -> None:
    ran: list[int] = []
    threads = [
        threading.Thread(target=lambda: ran.append(folder.run("rotate", "bob", "--now", "--yes").code)) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(ran) <= {0, 3}
    assert 0 in ran
    assert asked(url_of(folder, "bob"))
    folder.ok("plan", "--check")


def test_variables_that_cannot_be_written_cost_the_app_nothing(folder: Folder) -> None:
    old = url_of(folder, "bob")
    file = folder.path / "apps" / "bob" / ".env"
    text = file.read_text()
    file.unlink()
    file.mkdir()
    done = folder.run("rotate", "bob", "--now", "--yes")
    assert done.code != 0
    assert asked(old)
    file.rmdir()
    file.write_text(text)
    file.chmod(0o600)
    folder.ok("rotate", "bob", "--now", "--yes")
    assert refused(old)
    assert asked(url_of(folder, "bob"))


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.rare)])
def test_killed_anywhere_the_app_comes_in_and_the_same_again_finishes(folder: Folder, kills: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    randomly = random.Random(seed)
    command = [sys.executable, "-c", "from multidb.cli import main; main()", "rotate", "bob", "--now", "--yes"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for _ in range(kills):
        started = time.monotonic()
        quiet = subprocess.DEVNULL
        child = subprocess.Popen(command, cwd=folder.path, env=env, stdout=quiet, stderr=quiet, start_new_session=True)
        while (
            alternation(folder) in (None, RotationPhase.DONE)
            and child.poll() is None
            and time.monotonic() - started < 60
        ):
            time.sleep(0.01)
        time.sleep(randomly.uniform(0, 1.5))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if (folder.path / "apps" / "bob" / ".env").exists():
            assert asked(url_of(folder, "bob")), f"seed {seed}"
        folder.ok("rotate", "bob", "--now", "--yes")
        assert asked(url_of(folder, "bob")), f"seed {seed}"
        folder.ok("plan", "--check")


def alternation(folder: Folder) -> RotationPhase | None:
    entry = alternations(ProjectState(folder.path)).get(("bob", "postgres"))
    return None if entry is None else entry.phase
