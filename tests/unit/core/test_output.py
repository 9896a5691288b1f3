"""What commands print has no secret in it, whoever said it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from multidb.cli.output import Output, report_error
from multidb.cli.terminal import Terminal, prose
from multidb.errors import ServerError, StartFailed
from multidb.secrets import Secret

VALUE = 'swordfish"quoted"'


@pytest.fixture(autouse=True)
def known() -> None:
    Secret(VALUE).reveal()


def test_no_line_has_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("logs")
    output.say(f"said {VALUE}")
    output.note(f"noted {VALUE}")
    output.table(("column",), [(f"cell {VALUE}",)])
    report_error(ServerError(f"refused {VALUE}", where=f"at {VALUE}", hint=f"try {VALUE}"), [])
    out, err = capsys.readouterr()
    assert "said ***" in out
    assert "cell ***" in out
    assert "noted ***" in err
    assert "at ***: refused ***" in err
    assert "try ***" in err
    assert "swordfish" not in out + err


def test_no_document_has_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    Output("logs", json=True).document(True, {"logs": {"postgres": [f"line {VALUE}"]}, "count": 1, "none": None})
    report_error(ServerError(f"refused {VALUE}"), ["logs", "--json"])
    out = capsys.readouterr().out
    assert "swordfish" not in out
    first, second = out.split("\n{")
    assert json.loads(first) == {
        "version": 1,
        "command": "logs",
        "ok": True,
        "logs": {"postgres": ["line ***"]},
        "count": 1,
        "none": None,
    }
    assert json.loads("{" + second)["error"]["message"] == "refused ***"


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
def test_no_name_in_an_error_adds_a_line_of_its_own(capsys: pytest.CaptureFixture[str], separator: str) -> None:
    name = f"orders{separator}  beta: healthy"
    error = ServerError(f'relation "{name}" is locked', where=f"app {name}", hint=f"look at {name}")
    assert error.sentence().splitlines() == [error.sentence()]
    report_error(error, [])
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_server_that_does_not_start_is_quoted_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(StartFailed("ended right after its start; its log ends with:\n  one\n  two"), [])
    assert capsys.readouterr().err.splitlines()[1:] == ["  one", "  two"]


def test_nothing_that_is_printed_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\x1b]0;owned\x07\x9b1m\u202eb"
    output = Output("usage")
    output.say(name)
    output.note(name)
    output.table((name,), [(name,)])
    report_error(ServerError(name, where=name, hint=name), [])
    out, err = capsys.readouterr()
    assert not set("\x1b\x07\x9b\u202e") & set(out + err)
    assert out.count("a\N{REPLACEMENT CHARACTER}[2J") == 3
    console = Terminal(force_terminal=True, color_system="standard")
    console.print("red", style="red")
    assert capsys.readouterr().out == "\x1b[31mred\x1b[0m\n", "rich itself still does"


def test_a_terminal_without_the_letters_gets_others(tmp_path: Path) -> None:
    """Where the locale has ASCII only, nothing fails, text is spelled and JSON is still JSON."""
    (tmp_path / "ü.yaml").write_text("version: 1\nproject: shop\napps: {}\n", encoding="utf-8")
    run = [sys.executable, "-c", "from multidb.cli import main; main()", "validate", "-f", "ü.yaml"]
    found = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    ran = subprocess.run(run, cwd=tmp_path, env=found, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(r"\xfc.yaml: project shop")
    (tmp_path / "ü.yaml").write_text("version: 1\nproject: ü\n", encoding="utf-8")
    ran = subprocess.run([*run, "--json"], cwd=tmp_path, env=found, capture_output=True, text=True, check=False)
    assert "ü.yaml" in json.dumps(json.loads(ran.stdout), ensure_ascii=False)


@pytest.mark.parametrize(
    ("width", "line", "shown"),
    [
        (12, "", [""]),
        (15, "wrote      .env", ["wrote      .env"]),
        (12, "role lernmi_user, database lernmi", ["role", "lernmi_user,", "database", "lernmi"]),
        (13, "  settings of login lernmi_user_b", ["  settings of", "  login", "  lernmi_user_b"]),
        (12, "  DATABASE_URL=postgresql://somewhere/lernmi", ["  DATABASE_URL=postgresql://somewhere/lernmi"]),
        (12, "Next: multidb rotate lernmi --finish", ["Next:", "multidb rotate lernmi --finish"]),
        (12, "close it: GRANT CONNECT ON DATABASE x TO y", ["close it:", "GRANT CONNECT ON DATABASE x TO y"]),
        (12, "multidb apply lernmi --yes", ["multidb apply lernmi --yes"]),
        (13, "日本語 日本語 日本", ["日本語 日本語", "日本"]),
        (12, "one\ntwo three four five", ["one", "two three", "four five"]),
    ],
)
def test_prose_is_broken_between_words_and_what_is_copied_is_not(width: int, line: str, shown: list[str]) -> None:
    assert prose(line, width).split("\n") == shown


def test_a_terminal_gets_prose_by_words_and_a_statement_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(width=12, force_terminal=True, color_system=None, soft_wrap=True)
    terminal.say("one two three four")
    terminal.say("one two three four", verbatim=True)
    assert capsys.readouterr().out == "one two\nthree four\none two three four\n"
