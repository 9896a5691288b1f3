"""What every command takes, and what a mistake on the command line is told."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from multidb.cli.command_line import GROUPS
from multidb.cli.documents import DOCUMENTS, WITHOUT_DOCUMENT
from multidb.cli.output import Output
from tests.support.command import REPOSITORY, Folder, on_terminal
from tests.support.command_line import commands
from tests.support.documents import assert_documented, schema


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, [])


@pytest.fixture
def shop(folder: Folder) -> Folder:
    """A project on servers that nobody has started."""
    manifest = {"version": 1, "project": "shop", "apps": {"ann": {}, "beep_boop": {}}}
    (folder.path / "multidb.yaml").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("arguments", "told", "hint"),
    [
        (("plann",), "No such command 'plann'. Did you mean plan?", "multidb --help"),
        (("zzz",), "No such command 'zzz'.", "multidb --help"),
        (("plan", "--chek"), "No such option: --chek. Did you mean --check?", "multidb plan --help"),
        (("backups", "lst"), "Did you mean 'list'?", "multidb backups --help"),
        (("backups", "list", "--frm", "x"), "Did you mean --from?", "multidb backups list --help"),
        (("env",), "Missing argument 'NAME'.", "multidb env --help"),
        (("show", "--app"), "Missing argument 'NAME'.", "multidb show --help"),
        (("logs", "--lines", "many"), "'--lines' / '-n'", "multidb logs --help"),
    ],
)
def test_a_mistake_names_what_was_meant_and_this_commands_help(
    folder: Folder, arguments: tuple[str, ...], told: str, hint: str
) -> None:
    run = folder.run(*arguments)
    assert run.code == 2
    assert told in run.err
    assert run.err.rstrip().endswith(f"  {hint}")
    assert folder.run(*hint.split()[1:]).code == 0  # the command that is named works


@pytest.mark.parametrize("option", ["--yes", "-y"])
def test_every_command_takes_yes(option: str) -> None:
    for _, command in commands():
        with pytest.raises(typer.Exit):  # the help that is asked for too, instead of anything that is done
            command.make_context(command.name, [option, "--help"])
        with pytest.raises(Exception, match="No such option"):
            command.make_context(command.name, ["--no-such-option", "--help"])


def test_every_command_has_a_document_with_a_schema_or_a_reason() -> None:
    """A new command needs ``with_run``, and its document a type among `DOCUMENTS`, of which ``scripts/docs`` makes the
    schema."""
    paths = dict(commands())
    assert paths.keys() == DOCUMENTS.keys() | WITHOUT_DOCUMENT.keys()
    assert not DOCUMENTS.keys() & WITHOUT_DOCUMENT.keys()
    assert all(len(reason.split()) > 2 for reason in WITHOUT_DOCUMENT.values())
    for path in DOCUMENTS:
        assert any("--json" in parameter.opts for parameter in paths[path].params), path
        assert schema(path).schema != schema("frobnicate").schema, path


@pytest.mark.parametrize(
    "otherwise",
    [
        {"extra": 1},
        {"version": 2},
        {"command": "apply"},
        {"error": {"code": "usage", "message": "m", "where": None}},
        {"apps": "ann"},
        {"ok": None},
    ],
)
def test_a_document_that_is_not_as_its_schema_says_is_found(otherwise: dict[str, Any]) -> None:
    right = {"version": 1, "command": "validate", "ok": True, "project": "shop", "runtime": "embedded", "apps": ["ann"]}
    assert_documented(json.dumps(right, indent=2))
    assert_documented(json.dumps(right) + "\n" + json.dumps(right))
    with pytest.raises(AssertionError):
        assert_documented(json.dumps({**right, **otherwise}, indent=2))
    with pytest.raises(AssertionError):
        assert_documented(json.dumps(right) + "\n" + json.dumps({**right, **otherwise}))


def test_a_moment_without_its_zone_is_found() -> None:
    told = {"app": "ann", "phase": "removed", "since": "2026-11-21T14:05:01+00:00", "final_set": None}
    right = {"version": 1, "command": "remove-app", "ok": True, **told, "until": "2026-11-28T14:05:01+00:00"}
    assert_documented(json.dumps(right))
    with pytest.raises(AssertionError):
        assert_documented(json.dumps({**right, "until": "2026-11-28T14:05:01"}))


@pytest.mark.parametrize(
    ("arguments", "named", "code"),
    [
        (("frobnicate", "--json"), "", "usage"),
        (("backups", "lst", "--json"), "backups", "usage"),
        (("backups", "list", "--json", "--frm"), "backups list", "usage"),
        (("backups", "verify", "--json", "--from", "nowhere/"), "backups verify", None),
        (("env", "eve", "--json"), "env", "usage"),
        (("show", "--json"), "show", "usage"),
        (("serve", "--json"), "serve", "usage"),
        (("plan", "--format", "json", "--store", "mysql"), "plan", "usage"),
        (("audit", "--format=json", "eve"), "audit", "usage"),
        (("health", "--json", "--format", "junit"), "health", "usage"),
        (("init", "--json"), "init", "refused"),
    ],
)
def test_a_document_names_its_command_also_where_that_fails(
    shop: Folder, arguments: tuple[str, ...], named: str, code: str | None
) -> None:
    run = shop.run(*arguments)
    document = run.json()
    assert (document["version"], document["command"], document["ok"]) == (1, named, run.code == 0)
    assert document.get("error", {"code": None})["code"] == code
    if code is not None:
        assert {"code", "message", "where", "hint"} <= document["error"].keys()


def test_the_json_of_a_program_to_be_run_is_not_ours(shop: Folder) -> None:
    run = shop.run("connect", "ann", "--", "ls", "--json")
    assert run.out == ""
    assert "Error: app ann: there is no address" in run.err


def test_the_json_of_an_env_file_is_no_document(shop: Folder) -> None:
    run = shop.run("env", "eve", "--format", "json")
    assert (run.code, run.out) == (2, "")
    qdrant = ("env", "ann", "--store", "qdrant")
    flat = json.loads(shop.ok(*qdrant, "--format", "json").out)
    assert flat["QDRANT_COLLECTION_ANN"] == "ann_knowledge"
    assert shop.ok(*qdrant, "--json").json()["variables"] == flat


def test_what_was_not_agreed_to_has_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("apply", json=True)
    output.end(3)
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["error"]["code"]) == (False, "aborted")
    output.end(0)
    assert capsys.readouterr().out == ""


def test_a_secret_that_was_asked_for_is_in_clear_in_its_document(shop: Folder) -> None:
    shown = shop.ok("serve", "--show-token").out.strip()
    assert shop.ok("serve", "--show-token", "--json").json()["token"] == shown != "***"
    checked = shop.ok("serve", "--check", "--port", "0", "--json").json()
    assert checked["project"] == "shop"
    assert checked["address"].startswith("http://127.0.0.1:")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = shop.run("serve", "--check", "--port", str(taken.getsockname()[1]))
    assert refused.code == 2
    assert "cannot listen there" in refused.err


def test_a_schema_in_its_envelope_is_the_same(folder: Folder) -> None:
    assert folder.ok("schema", "--json").json()["schema"] == json.loads(folder.ok("schema").out)


def test_yes_does_not_take_a_name_that_was_to_be_typed(shop: Folder) -> None:
    run = shop.run("down", "--volumes", "--yes")
    assert run.code == 3
    assert "--yes-destroy" in run.err


def test_no_help_shows_a_type_of_the_language() -> None:
    reference = (REPOSITORY / "docs" / "cli.md").read_text()
    assert "--file PATH" in reference
    assert re.findall(r"(?:<|list\[)(?:str|int|float|path)\b.*", reference) == []


@pytest.mark.parametrize("given", [["ann"], ["--app", "ann"], ["--app=ann"], ["-y", "--app", "ann"], ["--yes", "ann"]])
def test_an_app_is_named_as_one_likes(given: list[str]) -> None:
    for _, command in commands():
        taken = {each.name for each in command.params} & {"name", "names", "apps"}
        if not taken or command.name in ("clone", "rename-app", "restore", "query"):
            continue  # two apps; an app of whose sets one is chosen; what is asked, and apps by --apps
        values = command.make_context(command.name, list(given)).params
        assert [values[each] for each in taken if values[each]] in (["ann"], [["ann"]], [("ann",)]), command.name


def test_a_named_app_is_the_only_one(shop: Folder) -> None:
    for given in ("ann",), ("--app", "ann"):
        run = shop.run("plan", *given, "--json")
        assert run.code == 4  # no server runs
        assert "ann" in run.out
        assert "beep_boop" not in run.out


@pytest.mark.parametrize(
    ("command", "given"), [("plan", ("eve",)), ("apply", ("--app", "eve")), ("health", ("--app=eve",))]
)
def test_an_app_that_is_not_there_is_said(shop: Folder, command: str, given: tuple[str, ...]) -> None:
    run = shop.run(command, *given)
    assert run.code == 2
    assert "eve" in run.err


def test_half_of_an_env_file_is_not_taken_for_all(shop: Folder) -> None:
    """Only the local mode of Qdrant has an address before anything was started."""
    run = shop.run("env", "ann")
    assert (run.code, run.out) == (4, "")
    assert "postgres" in run.err
    assert "never started" in run.err
    assert "QDRANT_COLLECTION_ANN=ann_knowledge" in shop.ok("env", "ann", "--store", "qdrant").out
    wrote = shop.run("env", "ann", "--write")
    assert (wrote.code, "never started" in wrote.err) == (4, True)
    assert not (shop.path / "apps").exists()


def test_a_file_is_a_plan_and_a_name_an_app(shop: Folder) -> None:
    (shop.path / "other").write_text("{}")
    (shop.path / "ann").write_text("{}")
    assert "is not a plan saved by multidb" in shop.run("apply", "other").err
    assert "there is no such plan" in shop.run("apply", "next.json").err
    assert "is not a plan" not in shop.run("apply", "ann").err
    assert "is not a plan saved by multidb" in shop.run("apply", "./ann").err
    assert "was named beside others" in shop.run("apply", "other", "ann").err


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_help_is_as_wide_as_the_terminal(folder: Folder, columns: int) -> None:
    text = folder.run("--help", env={"COLUMNS": str(columns)}).out
    widest = max(len(line) for line in text.splitlines())
    assert widest <= columns
    assert columns == 200 or widest > columns - 12
    assert [line[:-1] for line in text.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)] == ["Options", *GROUPS]


@pytest.mark.parametrize(("env", "bold"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_headings_are_bold_where_that_is_wanted(folder: Folder, env: dict[str, str], bold: bool) -> None:
    code, shown = on_terminal(folder.path, ["plan", "-h"], **env)
    assert (code, "\x1b[1m" in shown) == (0, bold)


@pytest.mark.parametrize("ci", ["true", "1"])
def test_nobody_is_asked_in_ci(shop: Folder, ci: str) -> None:
    """A runner may have a terminal, and nobody at it."""
    code, shown = on_terminal(shop.path, ["down", "--volumes"], CI=ci)
    assert code == 3
    assert "there is no terminal to ask on" in shown


@pytest.mark.parametrize(("value", "yes"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_environment_can_say_yes(monkeypatch: pytest.MonkeyPatch, value: str, yes: bool) -> None:
    monkeypatch.setenv("MULTIDB_YES", value)
    own = [(each, command) for _, command in commands() for each in command.params if each.name == "yes"]
    assert [command.name for each, command in own if each.envvar != "MULTIDB_YES"] == []
    asking = {command.name: command for _, command in own}
    for name in ("apply", "prune", "remove-app"):
        assert asking[name].make_context(name, ["ann"]).params["yes"] is yes


def test_it_runs_as_a_module(folder: Folder) -> None:
    run = subprocess.run([sys.executable, "-m", "multidb", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("multidb ")


def test_f_follows_a_log(folder: Folder) -> None:
    text = folder.ok("logs", "-h").out
    assert "-f, --follow" in text
    assert "-f, --file" in folder.ok("plan", "-h").out


def test_doctor_names_another_projects_package_of_this_name(shop: Folder) -> None:
    packages = shop.path / "packages"
    info = packages / "multidb-0.1.4.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: multidb\nVersion: 0.1.4\nSummary: Many databases\n")
    told = shop.run("doctor", env={"PYTHONPATH": f"{packages}:{REPOSITORY}"}).out
    assert "the distribution multidb 0.1.4 is another project's" in told
    assert "another project's" not in shop.run("doctor").out
