"""A plan as a person reads it."""

from __future__ import annotations

import pytest

from multidb.cli.output import Output
from multidb.cli.plan_view import show_plan
from multidb.errors import ServerSlow
from multidb.plan import Plan, ServerPlan


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("app web on postgres (127.0.0.1:5432)", "app web on postgres (127.0.0.1:5432): no answer"),
        ("app web", "web on postgres: app web: no answer"),
        ("server postgres (127.0.0.1:5432)", "web on postgres: server postgres (127.0.0.1:5432): no answer"),
        (None, "web on postgres: no answer"),
    ],
)
def test_what_cannot_be_read_of_an_app_is_named_once(
    capsys: pytest.CaptureFixture[str], where: str | None, line: str
) -> None:
    unread = {"web": ServerSlow("no answer", where=where, hint="try again")}
    show_plan(Output("plan"), Plan("shop", (ServerPlan("postgres", "postgres", unread=unread),)))
    assert capsys.readouterr().out.splitlines()[:2] == [line, "  try again"]


def test_a_server_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    down = [ServerSlow("no answer", where=where) for where in ("server postgres (127.0.0.1:5432)", "127.0.0.1:5432")]
    show_plan(Output("plan"), Plan("shop", tuple(ServerPlan("postgres", "postgres", error=error) for error in down)))
    assert capsys.readouterr().out.splitlines()[:2] == [
        "server postgres (127.0.0.1:5432): no answer",
        "postgres: 127.0.0.1:5432: no answer",
    ]
