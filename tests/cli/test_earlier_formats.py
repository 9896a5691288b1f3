"""What earlier versions have written is read: state, secrets, sets, verification marks, saved plans, the manifest. What
a newer one has written is refused in words, and left as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import psycopg
import pytest
import redis

from multidb.sections import SECTIONS
from multidb.state import ProjectState
from tests.support.command import REPOSITORY, Folder

FORMATS = sorted(path for path in (REPOSITORY / "tests" / "fixtures" / "formats").iterdir() if path.is_dir())
NEWER = "is of version 9, which a newer multidb has written"


def copied(source: Path, into: Path) -> Folder:
    """The project of that day, as if it had been upgraded."""
    shutil.copytree(source, into, dirs_exist_ok=True)
    (into / "multidb").rename(into / ".multidb")
    (into / ".multidb" / "secrets.json").chmod(0o600)
    return Folder(into, [])


@pytest.fixture(params=FORMATS, ids=lambda path: path.name)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return copied(request.param, tmp_path / "project")


def test_the_state_is_read_whole(project: Folder) -> None:
    """Every section that is written down, with nothing left out."""
    state = ProjectState(project.path)
    written = json.loads((project.path / ".multidb" / "state.json").read_text())
    assert {"numbers", "ports", "removed", "backups", "audit"} <= written.keys()
    for section in written.keys() - {"version"}:
        assert section in SECTIONS
        assert state.read(section) == written[section], section
    secrets = json.loads((project.path / ".multidb" / "secrets.json").read_text())["secrets"]
    read = {ref: state.secrets.get(ref) for ref in state.secrets.refs()}
    assert {str(ref): secret.reveal() for ref, secret in read.items() if secret} == secrets


def test_every_command_that_needs_no_server_answers(project: Folder) -> None:
    project.ok("validate")
    assert "fixture-" in project.ok("env", "lernmi", "--reveal").out
    sets = project.ok("backups", "list", "--json").json()["sets"]
    assert sorted(one["app"] for one in sets) == ["beep_boop", "beep_boop", "lernmi"]
    assert [one["verified"] for one in sets] == [True] * 3
    (lernmi,) = [one["set"] for one in sets if one["app"] == "lernmi"]
    assert "table public.people: 100" in project.ok("backups", "show", lernmi).out
    plan = project.run("apply", "plan.json", "--yes")
    assert "is not a plan" not in plan.err
    assert "changed by hand" not in plan.err


def rewrite(path: Path, key: str, value: object) -> str:
    text = json.dumps({**json.loads(path.read_text()), key: value})
    path.write_text(text)
    return text


@pytest.mark.parametrize(
    ("file", "key", "value", "command", "code"),
    [
        (".multidb/state.json", "version", 9, ("plan",), 3),
        (".multidb/secrets.json", "version", 9, ("env", "lernmi", "--reveal"), 3),
        ("plan.json", "version", 9, ("apply", "plan.json"), 3),
    ],
    ids=["state", "secrets", "plan"],
)
def test_a_newer_one_is_refused_and_left_as_it_is(
    file: str, key: str, value: object, command: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    project = copied(FORMATS[-1], tmp_path / "project")
    path = project.path / file
    text = rewrite(path, key, value)
    done = project.run(*command)
    assert done.code == code, done.err
    assert NEWER in done.err
    assert "damaged" not in done.err
    assert path.read_text() == text


def test_a_newer_set_manifest_or_mark_is_told(tmp_path: Path) -> None:
    """A set names its multidb; the mark of another format counts as none; a manifest's version is a problem of it."""
    project = copied(FORMATS[-1], tmp_path / "project")
    first, second = sorted((project.path / "sets" / "shop" / "beep_boop").iterdir())
    rewrite(first / "manifest.json", "format", "multidb set 9")
    rewrite(second / "verified.json", "format", "multidb verification 9")
    refused = project.run("backups", "show", first.name)
    assert refused.code == 1
    assert NEWER in refused.out
    listed = {one["set"]: one for one in project.run("backups", "list", "--json").json()["sets"]}
    assert listed[second.name]["verified"] is False
    (project.path / "multidb.yaml").write_text("version: 9\nproject: shop\n")
    manifest = project.run("validate")
    assert manifest.code == 2
    assert "version 9 is newer than what this multidb reads" in manifest.err


@pytest.mark.server
@pytest.mark.slow
def test_sets_are_restored(tmp_path_factory: pytest.TempPathFactory) -> None:
    """On real servers, into a new project: what was in the app then."""
    path = tmp_path_factory.mktemp("restored")
    path.chmod(0o755)
    folder = Folder(path, [])
    folder.manifest((FORMATS[-1] / "multidb.yaml").read_text())
    folder.ok("up")
    try:
        folder.ok("apply", "--yes")
        for source in FORMATS:
            shutil.copytree(source / "sets", path / "sets", dirs_exist_ok=True)
            (made,) = (source / "sets" / "shop" / "lernmi").iterdir()
            folder.ok("backups", "verify", made.name)
            folder.ok("restore", made.name, "--replace", "--yes")
            env = folder.variables("lernmi")
            with psycopg.connect(env["DATABASE_URL"]) as connection:
                row = connection.execute("SELECT count(*), min(name), max(id) FROM people").fetchone()
                assert row == (100, "name 1", 100), source.name
                connection.execute("DELETE FROM people")
            with redis.Redis.from_url(env["REDIS_URL"], decode_responses=True) as client:
                assert client.get("greeting") == "hello"
                assert client.hgetall("card") == {"a": "1"}
                assert client.lrange("list", 0, -1) == ["a", "b"]
                client.flushdb()
    finally:
        folder.run("down")


@pytest.mark.server
@pytest.mark.slow
def test_a_project_of_that_day_rotates(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its app has one login, with the password of then. A plan changes nothing of that; a rotation makes a second."""
    path = tmp_path_factory.mktemp("rotated")
    path.chmod(0o755)
    project = copied(FORMATS[0], path)
    kept = project.path / ".multidb" / "secrets.json"
    # What is made of a password is made up, too, and no server takes it: it is made again.
    rewrite(
        kept,
        "secrets",
        {
            ref: value
            for ref, value in json.loads(kept.read_text())["secrets"].items()
            if not ref.endswith(("_verifier", "_sha256"))
        },
    )
    rewrite(project.path / ".multidb" / "state.json", "ports", {})  # what they were may be another's by now
    project.ok("up")
    try:
        project.ok("apply", "--yes")
        former = project.variables("lernmi")
        assert "fixture-" in former["DATABASE_URL"]
        project.ok("plan", "--check")
        assert "Nothing is due" in project.ok("rotate", "--auto").out
        project.ok("rotate", "lernmi")
        now = project.variables("lernmi")
        for env in (former, now):
            psycopg.connect(env["DATABASE_URL"]).close()
            with redis.Redis.from_url(env["REDIS_URL"]) as client:
                assert client.ping()
        project.ok("rotate", "lernmi", "--finish", "--yes")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(former["DATABASE_URL"]).close()
        with redis.Redis.from_url(former["REDIS_URL"]) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        psycopg.connect(now["DATABASE_URL"]).close()
        project.ok("plan", "--check")
    finally:
        project.run("down")
