"""A day with multidb on embedded servers, through the command line; then a search for secrets where none belong."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import psutil
import psycopg
import pytest
import yaml

from tests.support.command import REPOSITORY, Folder, project_folder

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: day
runtime: embedded
apps:
  ann: {stores: [postgres, qdrant, redis], qdrant: {collections: {knowledge: {size: 4}}}} # the first
  bob: {stores: [postgres, redis]}
"""


# With these, libpq connects to another machine, or not at all.
ELSEWHERE = {"PGHOSTADDR": "192.0.2.1", "PGSERVICE": "the-admins", "PGTARGETSESSIONATTRS": "standby"}


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("day-", MANIFEST) as found:
        yield found


@pytest.fixture(scope="module")
def applied(folder: Folder) -> Folder:
    folder.ok("up", env=ELSEWHERE)
    folder.ok("apply", "--yes")
    return folder


def test_planning_before_the_servers_run_says_what_to_do(folder: Folder) -> None:
    done = folder.run("plan")
    assert done.code in (0, 4)
    assert "multidb up" in done.out + done.err


def test_from_nothing_to_working_apps(applied: Folder) -> None:
    assert "No changes" in applied.ok("plan", "--check").out
    import psycopg
    import redis

    env = applied.variables("ann")
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE notes (text text)")
        connection.execute("INSERT INTO notes VALUES ('hello')")
    with psycopg.connect(env["ANN_DB_READONLY_URL"]) as connection:
        assert connection.execute("SELECT text FROM notes").fetchone() == ("hello",)
    with redis.Redis.from_url(env["REDIS_URL"]) as client:
        assert client.set("a", "b")


def test_up_twice_is_harmless(applied: Folder) -> None:
    before = {each["server"]: each["pid"] for each in applied.ok("status", "--json").json()["servers"]}
    applied.ok("up")
    assert {each["server"]: each["pid"] for each in applied.ok("status", "--json").json()["servers"]} == before


def test_drift_is_shown_refused_by_check_and_repaired(applied: Folder) -> None:
    import psycopg

    state = json.loads((applied.path / ".multidb" / "secrets.json").read_text())["secrets"]
    address = next(each for each in applied.ok("status", "--json").json()["servers"] if each["store"] == "postgres")
    host, port = address["address"].split(":")
    password = state["@postgres/postgres/admin"]
    with psycopg.connect(
        host=host, port=port, user="postgres", password=password, dbname="postgres", autocommit=True
    ) as admin:
        admin.execute("GRANT CONNECT ON DATABASE ann TO PUBLIC")
    done = applied.run("plan", "--check")
    assert done.code == 1
    assert "without public CONNECT" in done.out
    assert "REVOKE CONNECT ON DATABASE" in applied.ok("plan", "--sql").out
    applied.ok("apply", "--yes")
    applied.ok("plan", "--check")


def test_add_app_end_to_end_and_again(applied: Folder) -> None:
    text = (applied.path / "multidb.yaml").read_text()
    done = applied.ok("add-app", "carl", "--stores", "postgres,redis", "--extension", "ltree", "--yes")
    assert "multidb show carl" in done.out
    assert (applied.path / "multidb.yaml").read_text().startswith(text)
    env_file = applied.path / "apps" / "carl" / ".env"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    written = env_file.read_text()
    again = applied.ok("add-app", "carl", "--yes")
    assert "nothing to do" in again.out
    assert env_file.read_text() == written
    more = applied.ok("add-app", "carl", "--extension", "pg_trgm", "--yes")
    assert "+  carl: {stores: [postgres, redis], postgres: {extensions: [ltree, pg_trgm]}}" in more.out
    with psycopg.connect(applied.variables("carl")["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT show_trgm('abc') IS NOT NULL").fetchone() == (True,)
    applied.ok("plan", "--check")


def test_add_app_makes_one_more_collection_and_alters_none(applied: Folder) -> None:
    applied.ok("add-app", "ann", "--collection", "notes:4:dot", "--yes")
    made = (applied.path / "multidb.yaml").read_text()
    assert "qdrant: {collections: {knowledge: {size: 4}, notes: {size: 4, distance: dot}}}} # the first" in made
    assert "nothing to do" in applied.ok("add-app", "ann", "--collection", "notes:4:dot").out
    refused = applied.run("add-app", "ann", "--collection", "notes:8:dot", "--yes")
    assert refused.code == 3
    assert "cannot be changed in place" in refused.err
    assert "the same again, without what cannot be changed" in refused.err
    assert (applied.path / "multidb.yaml").read_text() == made
    applied.ok("plan", "--check")


def test_a_saved_plan_is_applied_as_saved_or_refused(applied: Folder) -> None:
    manifest = applied.path / "multidb.yaml"
    manifest.write_text(manifest.read_text() + "  dora: {stores: [redis]}\n")
    applied.ok("plan", "--out", "next.json")
    manifest.write_text(manifest.read_text() + "  emil: {stores: [redis]}\n")
    refused = applied.run("apply", "next.json", "--yes")
    assert refused.code == 3
    assert "plan --out" in refused.err
    manifest.write_text(manifest.read_text().replace("  emil: {stores: [redis]}\n", ""))
    plan = applied.path / "next.json"
    agreed = plan.read_text()
    plan.write_text(agreed.replace("ACL SETUSER dora_user", "ACL SETUSER eve_user"))
    tampered = applied.run("apply", "next.json", "--yes")
    assert tampered.code == 3
    assert "changed by hand" in tampered.err
    plan.write_text(agreed)
    applied.ok("apply", "next.json", "--yes")
    applied.ok("plan", "--check")


def test_without_a_terminal_nothing_is_applied_unasked(applied: Folder) -> None:
    manifest = applied.path / "multidb.yaml"
    before = manifest.read_text()
    manifest.write_text(before + "  fred: {stores: [redis]}\n")
    done = applied.run("apply")
    assert done.code == 3
    assert "--yes" in done.err
    manifest.write_text(before)


def test_an_env_file_written_by_hand_is_left_alone(applied: Folder) -> None:
    path = applied.path / "apps" / "bob" / ".env"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("MINE=1\n")
    applied.ok("env", "bob", "--write")
    assert path.read_text() == "MINE=1\n"


@pytest.mark.parametrize("form", ["dotenv", "export", "json", "k8s-secret"])
def test_env_masks_unless_asked(applied: Folder, form: str) -> None:
    shown = applied.ok("env", "ann", "--format", form).out
    password = applied.variables("ann")["DATABASE_URL"].split(":")[2].split("@")[0]
    assert password not in shown
    revealed = applied.ok("env", "ann", "--format", form, "--reveal").out
    if form == "k8s-secret":
        data = yaml.safe_load(revealed)["data"]["DATABASE_URL"]
        assert password in base64.b64decode(data).decode()
    else:
        assert password in revealed


def test_one_variable_is_printed_by_itself(applied: Folder) -> None:
    env = applied.variables("bob")
    for name in ("DATABASE_URL", "REDIS_PORT", "APP_NAME"):
        assert applied.ok("env", "bob", name).out == f"{env[name]}\n"
    assert applied.ok("env", "bob", "POSTGRES_USER", "--json").json()["variables"] == {"POSTGRES_USER": "bob_user"}
    assert urllib.parse.urlsplit(env["DATABASE_URL"]).password == env["POSTGRES_PASSWORD"]
    wrong = applied.run("env", "bob", "DATABASE_URI")
    assert (wrong.code, "did you mean DATABASE_URL?" in wrong.err, wrong.out) == (2, True, "")


def test_statements_come_by_a_pipe_and_the_first_that_fails_ends_it(applied: Folder) -> None:
    done = applied.run("connect", "bob", "--json", stdin="SELECT\n 1 AS one;\nSELECT nothing;\nSELECT 2;\n")
    assert done.code == 1
    assert done.json()["answers"] == [{"columns": ["one"], "rows": [["1"]], "note": "1 row"}]
    assert "nothing" in done.json()["error"]["message"]
    assert applied.ok("connect", "bob", stdin="SELECT session_user", env=ELSEWHERE).out.split()[-1] == "bob_user"
    assert applied.ok("connect", "bob", "--read-only", stdin="SELECT session_user").out.split()[-1] == "bob_readonly"
    assert applied.ok("connect", "bob", "--store", "redis", stdin="SET a 1\nGET a\n").out == "OK\n1\n"
    refused = applied.run("connect", "bob", "--store", "qdrant")
    assert (refused.code, "its stores: postgres, redis" in refused.err) == (2, True)


def test_a_program_runs_with_the_apps_variables_and_nobody_elses(applied: Folder) -> None:
    variables = "os.environ['REDIS_USER'], os.environ['APP_NAME'], os.environ['APP_TENANT_ID']"
    program = f"import os; print(*sorted(n for n in os.environ if n[:2] == 'PG'), {variables})"
    done = applied.ok("connect", "bob", "--", "python3", "-c", program, env={"PGSERVICE": "the-admins"})
    names = ["PGCONNECT_TIMEOUT", "PGDATABASE", "PGHOST", "PGPASSWORD", "PGPORT", "PGUSER"]
    assert done.out.split() == [*names, "bob_user", "bob", "bob"]
    assert applied.run("connect", "bob", "--", "sh", "-c", "exit 7").code == 7
    assert "cannot run no-such-program" in applied.run("connect", "bob", "--", "no-such-program").err


def test_every_app_is_listed_wherever_it_stands(applied: Folder) -> None:
    manifest = applied.path / "multidb.yaml"
    text = manifest.read_text()
    manifest.write_text(text + "  fred: {stores: [redis]}\n")
    applied.ok("apply", "--yes", "fred")
    before = {each["app"]: each for each in applied.ok("apps", "--json").json()["apps"]}
    assert before["fred"]["presence"] == "manifest"
    assert before["ann"]["stores"] == ["postgres", "qdrant", "redis"]
    assert before["ann"]["size"] > 1_000_000
    issued = datetime.fromisoformat(before["fred"]["issued_at"])
    assert timedelta() <= datetime.now(UTC) - issued < timedelta(minutes=10)
    manifest.write_text(text)
    assert "orphan" in next(line for line in applied.ok("apps").out.splitlines() if line.startswith("fred"))
    assert "fred" not in applied.ok("apps", "--recorded").out, "nobody was asked"
    applied.ok("remove-app", "fred", "--no-backup", "--yes")
    for arguments in (["apps"], ["apps", "--recorded"]):
        line = next(line for line in applied.ok(*arguments).out.splitlines() if line.startswith("fred"))
        assert "removed" in line
        assert "multidb undo-remove fred" in line
    applied.ok("purge", "fred", "--yes-destroy", "fred")
    assert "fred" not in applied.ok("apps").out
    assert "fred" not in (applied.path / ".multidb" / "state.json").read_text()


def test_an_app_on_every_kind_of_store_is_cloned_and_comes_back(applied: Folder) -> None:
    """Qdrant's local mode among them: a folder that is open already takes no second opening, not even of ours."""
    applied.ok("connect", "ann", stdin="CREATE TABLE letters AS SELECT 'kept' AS text")
    applied.ok("clone", "ann", "ann_pr")
    assert "kept" in applied.ok("connect", "ann_pr", "--store", "postgres", stdin="SELECT text FROM letters").out
    applied.ok("backup", "ann", "--to", "sets/")
    applied.ok("connect", "ann", stdin="DELETE FROM letters")
    applied.ok("restore", "ann", "--from", "sets/", "--replace")
    assert applied.ok("connect", "ann", stdin="SELECT text FROM letters").out.split()[-1] == "kept"
    applied.ok("remove-app", "ann_pr", "--no-backup", "--yes")
    applied.ok("purge", "ann_pr", "--yes-destroy", "ann_pr")


def test_a_statement_by_the_admins_hand_is_sent_from_a_projects_folder(applied: Folder) -> None:
    script = [sys.executable, str(REPOSITORY / "scripts" / "as-admin"), "SELECT 1"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(script, cwd=applied.path, env=env, capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("SELECT 1\n", "")


def test_show_tells_the_isolation_and_no_secret(applied: Folder) -> None:
    document = applied.ok("show", "ann", "--json").json()
    assert document["stores"]["postgres"]["isolation"] == "enforced"
    assert document["variables"]["DATABASE_URL"].startswith("postgresql://ann_user:***@127.0.0.1:")
    assert document["variables"]["REDIS_PASSWORD"] == "***"
    assert "enforced" in applied.ok("show", "ann").out


def test_doctor_finds_nothing_wrong(applied: Folder) -> None:
    document = applied.ok("doctor", "--json").json()
    assert {finding["level"] for finding in document["findings"]} <= {"ok", "warning"}
    assert any(finding["subject"] == "pg_dump" for finding in document["findings"])


def test_json_is_one_document_on_stdout(applied: Folder) -> None:
    for arguments in (["plan"], ["status"], ["apply", "--yes"], ["show", "ann"], ["doctor"], ["up"]):
        document = applied.run(*arguments, "--json").json()
        assert document["version"] == 1
        assert document["command"] == arguments[0]


def _reveals(arguments: Sequence[str]) -> bool:
    """Whether a secret was asked for: all of them, or one by its name."""
    return "--reveal" in arguments or (arguments[0] == "env" and any(word.isupper() for word in arguments[1:]))


def test_no_secret_is_where_none_belongs(applied: Folder) -> None:
    """Runs last in this file on purpose: reads everything that was said and written, the servers' logs and the process
    list, and looks for every secret in every encoding that a tool might have used."""
    store = applied.path / ".multidb" / "secrets.json"
    secrets = json.loads(store.read_text())["secrets"]
    assert len(secrets) > 10
    needles: dict[str, str] = {}
    for name, value in secrets.items():
        # What is derived one way from a password (a verifier, a hash) may be seen by an admin of the server's files.
        for form in (value, urllib.parse.quote(value), base64.b64encode(value.encode()).decode()):
            needles[form] = name
    allowed = {store, *applied.path.glob("apps/*/.env")}
    said = [ran for ran in applied.said if not _reveals(ran.arguments)]
    assert len(said) > 20
    for ran in said:
        _assert_clean(ran.out + ran.err, needles, f"output of multidb {' '.join(ran.arguments)}")
    data = applied.path / ".multidb" / "servers"
    for path in applied.path.rglob("*"):
        if path.is_file() and path not in allowed and data not in path.parents:
            _assert_clean(path.read_bytes().decode("utf-8", "replace"), needles, str(path.relative_to(applied.path)))
    for path in (applied.path / ".multidb" / "logs").glob("*"):
        _assert_clean(path.read_bytes().decode("utf-8", "replace"), needles, f"log {path.name}")
    for process in psutil.process_iter(["cmdline"]):
        _assert_clean(" ".join(process.info["cmdline"] or []), needles, f"command line of process {process.pid}")


def test_secret_files_are_private(applied: Folder) -> None:
    for path in applied.path.rglob("*"):
        if path.name in ("secrets.json", "state.json") or (path.name == ".env" and "bob" not in path.parts):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_down_stops_exactly_what_up_started(applied: Folder) -> None:
    pids = [each["pid"] for each in applied.ok("status", "--json").json()["servers"] if each["pid"]]
    assert pids
    applied.ok("down")
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    assert {each["state"] for each in applied.run("status", "--json").json()["servers"]} <= {"stopped", "running"}
    applied.ok("down")
    started = applied.ok("restart", "--json").json()
    assert started["cut_off"] == [], "nothing ran"
    applied.ok("plan", "--check")


def test_a_restart_names_the_apps_that_it_cuts_off(applied: Folder) -> None:
    every = applied.ok("apps", "--json").json()["apps"]
    using = [each["app"] for each in every if {"redis", "postgres"} & {*each["stores"]}]
    assert {"ann", "bob"} <= {*using}
    told = applied.ok("restart", "redis", "postgres", "--yes").out
    assert f"Cut off meanwhile: {', '.join(using)}\n" in told
    done = applied.ok("restart", "qdrant", "--json").json()
    (qdrant,) = done["servers"]
    assert done["cut_off"] == ([] if qdrant["pid"] is None else ["ann"]), "a folder cuts nobody off"
    unknown = applied.run("restart", "postgers")
    assert unknown.code == 2
    assert "there are: postgres, qdrant, redis" in unknown.err
    applied.ok("plan", "--check")


def test_env_files_follow_a_server_to_another_port(applied: Folder) -> None:
    before = applied.variables("ann")
    applied.ok("down")
    with socket.create_server(("127.0.0.1", int(before["REDIS_PORT"]))):
        assert "was taken" in applied.ok("up").out
        after = applied.variables("ann")
        assert after["REDIS_PORT"] != before["REDIS_PORT"]
        assert f"REDIS_PORT={after['REDIS_PORT']}\n" in (applied.path / "apps" / "ann" / ".env").read_text()
    (applied.path / ".multidb" / "state.json").unlink()
    applied.ok("up")
    found = applied.variables("ann")
    assert found["REDIS_DB"] == before["REDIS_DB"]
    assert found["DATABASE_URL"] in (applied.path / "apps" / "ann" / ".env").read_text()
    applied.ok("plan", "--check")


def test_a_lost_admin_password_is_not_looked_for_by_starting_again(applied: Folder) -> None:
    kept = applied.path / ".multidb" / "secrets.json"
    aside = kept.rename(kept.with_name("secrets.aside"))
    try:
        done = applied.run("plan")
        assert done.code == 2
        assert "restore it from a copy" in done.err
    finally:
        aside.rename(kept)


def _assert_clean(text: str, needles: dict[str, str], where: str) -> None:
    for value, name in needles.items():
        assert value not in text, f"{name} is in the {where}"
