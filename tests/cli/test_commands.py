"""The command line without any server: help, exit codes, errors, JSON documents, what is imported when."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from multidb.cli import COMMANDS
from tests.cli.command import REPOSITORY, Folder

DRIVERS = ("psycopg", "neo4j", "qdrant_client", "redis", "docker", "httpx", "grpc", "numpy")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, [])


def test_help_lists_every_command(folder: Folder) -> None:
    text = folder.ok("--help").out
    assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(folder: Folder, command: str) -> None:
    text = folder.ok(command, "--help").out
    assert "Example" in text
    assert f"multidb {command}" in " ".join(text.split())


@pytest.mark.parametrize("command", ["--help", "--version", "validate"])
def test_no_driver_is_imported_before_its_store_is_used(tmp_path: Path, command: str) -> None:
    (tmp_path / "multidb.yaml").write_text("version: 1\nproject: shop\nruntime: embedded\napps: {ann: {}}\n")
    code = (
        "import sys\nfrom multidb.cli import main\n"
        f"sys.argv = ['multidb', {command!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {DRIVERS!r} if name in sys.modules], file=sys.stderr)"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env, check=True
    )
    assert ran.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("store", "scheme", "own"),
    [
        ("postgres", "postgresql", {"psycopg"}),
        ("redis", "redis", {"redis"}),
        ("qdrant", "http", {"httpx"}),
        ("neo4j", "bolt", {"neo4j"}),
    ],
)
def test_a_plan_imports_the_drivers_of_the_stores_it_asks(
    tmp_path: Path, store: str, scheme: str, own: set[str]
) -> None:
    """Nothing listens there; the driver has to be loaded to find that out, and no other one."""
    (tmp_path / "multidb.yaml").write_text(
        f"version: 1\nproject: shop\nruntime: external\napps: {{ann: {{stores: [{store}]}}}}\n"
        f"external: {{{store}: {{url: '{scheme}://admin@127.0.0.1:1', password: {{env: PASSWORD}}}}}}\n"
    )
    code = (
        "import sys\nfrom multidb.cli import main\nsys.argv = ['multidb', 'plan']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 4, end.code\n"
        f"print('drivers', *(name for name in {DRIVERS!r} if name in sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PASSWORD": "long enough for anybody"}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env, check=True
    )
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("drivers")]
    others = {"psycopg", "neo4j", "qdrant_client", "redis", "httpx"} - own
    loaded = set(line.split()[1:])
    assert own <= loaded
    assert not loaded & others


def test_help_does_not_even_read_the_model(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom multidb.cli import main\nsys.argv = ['multidb', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'pydantic' not in sys.modules and 'yaml' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, env=env, check=True)


def test_no_manifest(folder: Folder) -> None:
    done = folder.run("plan")
    assert done.code == 2
    assert "multidb.yaml" in done.err
    assert "multidb init" in done.err


def test_init_writes_a_manifest_that_is_valid_and_keeps_secrets_out_of_git(folder: Folder) -> None:
    (folder.path / ".gitignore").write_text("node_modules")
    folder.ok("init", "--project", "shop")
    assert yaml.safe_load((folder.path / "multidb.yaml").read_text())["project"] == "shop"
    assert (folder.path / ".gitignore").read_text().splitlines() == ["node_modules", ".multidb/", ".env"]
    assert sorted(entry.name for entry in folder.path.iterdir()) == [".gitignore", "multidb.yaml"]
    folder.ok("validate")
    again = folder.run("init")
    assert again.code == 3
    assert "already" in again.err


def test_every_problem_of_a_manifest_at_once(folder: Folder) -> None:
    folder.manifest(
        "version: 1\nproject: shop\nruntim: embedded\napps:\n  Bad-Name: {}\n  ok: {store: [postgres]}\n  fine_: {}\n"
    )
    done = folder.run("validate")
    assert done.code == 2
    lines = [line for line in done.err.splitlines() if "multidb.yaml:" in line]
    assert len(lines) >= 4, done.err
    assert any("multidb.yaml:3:1" in line and "runtime" in line for line in lines)
    as_json = folder.run("validate", "--json")
    assert as_json.code == 2
    document = as_json.json()
    assert document["ok"] is False
    assert {problem["line"] for problem in document["error"]["problems"]} >= {3, 5, 6, 7}


def test_validate_says_what_is_there(folder: Folder) -> None:
    folder.manifest("version: 1\nproject: shop\nruntime: embedded\napps: {ann: {}, bob: {stores: [redis]}}\n")
    document = folder.ok("validate", "--json").json()
    assert document.pop("apps") == ["ann", "bob"]
    assert document == {"version": 1, "command": "validate", "ok": True, "project": "shop", "runtime": "embedded"}


def test_the_schema_accepts_the_example_and_refuses_a_mistake(folder: Folder) -> None:
    schema = json.loads(folder.ok("schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    example = yaml.safe_load((REPOSITORY / "multidb.yaml").read_text())
    jsonschema.validate(example, schema)
    example["apps"]["lernmi"] = {"stores": ["postgress"]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(example, schema)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "--app", "nobody"], ["nobody", "ann"]),
        (["plan", "--store", "mysql"], ["mysql", "postgres"]),
        (["frobnicate"], ["frobnicate"]),
        (["plan", "--frobnicate"], ["frobnicate"]),
        (["env", "No-Good!"], ["No-Good!"]),
        (["apply", "missing.json"], ["missing.json", "plan --out"]),
    ],
)
def test_usage_errors_say_what_and_what_next(folder: Folder, arguments: list[str], words: list[str]) -> None:
    folder.manifest("version: 1\nproject: shop\nruntime: embedded\napps: {ann: {}}\n")
    done = folder.run(*arguments)
    assert done.code == 2, done.err
    assert all(word in done.err for word in words), done.err
    as_json = folder.run(*arguments, "--json")
    assert as_json.code == 2
    assert as_json.json()["error"]["message"]


def test_a_runtime_that_is_not_there_yet(folder: Folder) -> None:
    folder.manifest("version: 1\nproject: shop\nruntime: compose\napps: {ann: {}}\n")
    done = folder.run("plan")
    assert done.code == 2
    assert "runtime: embedded" in done.err


def test_add_app_without_apply_keeps_comments(folder: Folder) -> None:
    text = "# mine\nversion: 1\nproject: shop\nruntime: embedded\napps:\n  ann: {} # first\n"
    folder.manifest(text)
    folder.ok("add-app", "beep-boop", "--stores", "postgres,redis", "--no-apply")
    after = (folder.path / "multidb.yaml").read_text()
    assert after.startswith(text)
    assert yaml.safe_load(after)["apps"]["beep_boop"] == {"stores": ["postgres", "redis"]}
    folder.ok("add-app", "beep_boop", "--no-apply")
    assert (folder.path / "multidb.yaml").read_text() == after


def test_add_app_that_cannot_be_leaves_the_manifest_alone(folder: Folder) -> None:
    text = "version: 1\nproject: shop\nruntime: embedded\napps:\n  ann: {}\n"
    folder.manifest(text)
    done = folder.run("add-app", "ann_user", "--collection", "Bad Name:0:cosine", "--no-apply")
    assert done.code == 2, done.err
    assert (folder.path / "multidb.yaml").read_text() == text


def test_a_manifest_file_elsewhere(folder: Folder) -> None:
    (folder.path / "other").mkdir()
    (folder.path / "other" / "x.yaml").write_text("version: 1\nproject: shop\nruntime: embedded\napps: {ann: {}}\n")
    folder.ok("validate", "-f", "other/x.yaml")
    folder.ok("validate", env={"MULTIDB_FILE": "other/x.yaml"})


def test_a_pipe_that_closes_early_is_no_error(folder: Folder) -> None:
    command = f"{sys.executable} -c 'from multidb.cli import main; main()' schema | head -1"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(["bash", "-c", command], cwd=folder.path, capture_output=True, text=True, env=env, check=True)
    assert ran.stdout == "{\n"
    assert ran.stderr == ""


def test_a_fault_of_our_own_is_no_traceback_and_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    from multidb.cli.output import report_error
    from multidb.secrets import Secret

    Secret("very-secret-value")
    assert report_error(RuntimeError("boom very-secret-value"), ["plan"]) == 1
    said = capsys.readouterr().err
    assert "RuntimeError: boom ***" in said
    assert "Traceback" not in said


def test_manifests_are_not_executable(folder: Folder) -> None:
    folder.ok("init")
    assert stat.S_IMODE((folder.path / "multidb.yaml").stat().st_mode) == 0o644
