"""What commands print has no secret in it, whoever said it."""

from __future__ import annotations

import json

import pytest

from multidb.cli.output import Output, report_error
from multidb.errors import ServerError
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
