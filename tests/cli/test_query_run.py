"""`multidb query` through the command line, on a real Valkey."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Folder, on_terminal

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: asking
runtime: embedded
apps:
  ann: {stores: [redis], labels: {team: x}}
  bob_b: {stores: [redis]}
  eve: {stores: [postgres]}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with tempfile.TemporaryDirectory(prefix="asking-") as name:
        found = Folder(Path(name), [])
        found.manifest(MANIFEST.replace("  eve: {stores: [postgres]}\n", ""))
        found.ok("up")
        found.ok("apply", "--yes")
        found.manifest(MANIFEST)
        found.ok("connect", "ann", "--store", "redis", stdin='SET word "\x1b[31mred\x07\u202e"\nSET plain =1+1\n')
        yield found
        found.run("down")


def test_the_answers_of_all_apps_and_what_came_of_it(folder: Folder) -> None:
    done = folder.ok("query", "--redis", "DBSIZE")
    assert [line.split() for line in done.out.splitlines()] == [["app", "answer"], ["ann", "2"], ["bob_b", "0"]]
    document = folder.ok("query", "--redis", "GET plain", "--json").json()
    assert [(answer["app"], answer["status"], answer["rows"]) for answer in document["answers"]] == [
        ("ann", "answered", [["=1+1"]]),
        ("bob_b", "answered", [[None]]),
    ]
    assert (document["question"], document["store"], document["limit"]) == (["GET plain"], "redis", 1000)
    refused = folder.run("query", "--redis", "DEL", "plain", "--json")
    assert (refused.code, [answer["error"]["code"] for answer in refused.json()["answers"]]) == (1, ["not-allowed"] * 2)
    assert folder.run("query", "SELECT 1").code == 4, "nobody has started that server"


def test_only_some_apps_are_asked(folder: Folder) -> None:
    for options in (("--apps", "ann"), ("--label", "team=x"), ("--apps", "ann,bob-b", "--label", "team=x")):
        assert folder.ok("query", "--redis", "DBSIZE", *options).out.split() == ["app", "answer", "ann", "2"]
    assert folder.ok("query", "--redis", "DBSIZE", "--apps", "bob-b").out.split() == ["app", "answer", "bob_b", "0"]
    assert folder.run("query", "--redis", "DBSIZE", "--apps", "nobody").code == 2
    assert folder.run("query", "--redis", "DBSIZE", "--apps", "eve").code == 2
    assert folder.run("query", "--redis", "DBSIZE", "--label", "team=y").code == 2
    assert folder.run("query", "--redis", "DBSIZE", "--label", "team").code == 2


def test_what_an_app_has_written_steers_no_terminal_and_is_whole_in_a_file(folder: Folder) -> None:
    written = folder.ok("query", "--redis", "GET word", "--format", "csv", "--apps", "ann").out
    assert written == "app,answer\nann,\x1b[31mred\x07\u202e\n"
    lines = folder.ok("query", "--redis", "GET word", "--format", "jsonl", "--apps", "ann").out
    assert lines == '{"app": "ann", "answer": "\\u001b[31mred\\u0007\u202e"}\n'
    assert "\x1b" not in folder.ok("query", "--redis", "GET word").out
    for form in ("csv", "jsonl", "text"):
        code, shown = on_terminal(folder.path, ["query", "--redis", "GET word", "--format", form, "--apps", "ann"])
        assert code == 0
        assert "red" in shown
        assert not {"\x1b[31m", "\x07", "\u202e"} & {part for part in ("\x1b[31m", "\x07", "\u202e") if part in shown}


def test_every_question_stands_in_the_history_and_no_answer(folder: Folder) -> None:
    folder.ok("query", "--redis", "GET", "plain")
    run = folder.ok("history", "--limit", "1", "--json").json()["runs"][0]
    assert (run["command"], run["outcome"], run["apps"]) == ("query", "done", ["ann", "bob_b"])
    assert [(change["action"], change["kind"], change["name"]) for change in run["changes"]] == [
        ("read", "query", "GET plain")
    ]
    folder.run("query", "--redis", "SET a b")
    assert "SET a b" in folder.ok("history", "--limit", "1").out
    assert "=1+1" not in (folder.path / ".multidb/history/runs.jsonl").read_text()
    assert (folder.path / ".multidb/history/runs.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--redis", "--cypher", "x"),
        ("--redis", "--store", "postgres", "x"),
        ("--redis", "DBSIZE", "--limit", "0"),
        ("--redis", "DBSIZE", "--limit", "10001", "--json"),
        ("--redis", "DBSIZE", "--table", "a"),
        ("--redis", "DBSIZE", "--into", "a.duckdb", "--format", "csv"),
        ("--redis", "DBSIZE", "--into", "a.duckdb", "--table", "a b"),
        ("--redis", "DBSIZE", "--timeout", "soon"),
        ("--redis", "DBSIZE", "--format", "csv", "--json"),
        ("--store", "nothing", "x"),
        (),
    ],
)
def test_what_does_not_go_together_is_refused_before_anybody_is_asked(
    folder: Folder, arguments: tuple[str, ...]
) -> None:
    before = folder.ok("history", "--json").json()["lines"]
    done = folder.run("query", *arguments)
    assert (done.code, done.out) == (2, "") if "--json" not in arguments else done.code == 2
    assert folder.ok("history", "--json").json()["lines"] == before
    assert not (folder.path / "a.duckdb").exists()


def test_a_missing_library_is_one_error_with_the_command(folder: Folder) -> None:
    (folder.path / "without").mkdir()
    (folder.path / "without/pyarrow.py").write_text("raise ImportError('not installed')\n")
    (folder.path / "without/duckdb.py").write_text("raise ImportError('not installed')\n")
    env = {"PYTHONPATH": f"{folder.path / 'without'}:{Path(__file__).resolve().parents[2]}"}
    for options in (("--format", "parquet"), ("--into", "a.duckdb")):
        done = folder.run("query", "--redis", "DBSIZE", *options, env=env)
        assert (done.code, done.out) == (2, "")
        assert "multidb-cli[query]" in done.err
    assert "ann" in folder.ok("query", "--redis", "DBSIZE", "--format", "csv", env=env).out
