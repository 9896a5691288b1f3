"""Which lines of Postgres' log are refusals of an app. Real ones: tests/contract/test_refusals.py."""

from __future__ import annotations

import pytest

from multidb.model import App
from multidb.provisioners.postgres.observe.refusals import logged_refusals
from multidb.provisioners.postgres.provision.options import AppOptions

AT = "2026-11-28 10:31:05.123 UTC [77] app=ann user="


def app(**options: str) -> App:
    return App("ann", "ann", {"postgres": AppOptions.model_validate(options)})


@pytest.mark.parametrize(
    "line",
    [
        f"{AT}bob_user state=42501 by= ERROR:  permission denied for table x",
        f"{AT}ann_user state=42501 by=multidb audit ERROR:  permission denied for table x",
        f"{AT}ann_user state=42703 by=psql ERROR:  permission denied, says a column",
        f"{AT}ann_user state=57014 by=psql ERROR:  canceling statement due to user request",
        f"{AT}ann_user state=42501 by=psql LOG:  permission denied for table x",
        f"{AT}ann_user state=28P01 by= FATAL:  password authentication failed for user ann_user",
        "2026-11-28 10:31:05.123 UTC [77] app=bob user=ann_user state=42501 by= FATAL:  permission denied for database",
        "2026-11-28 10:31:05.123 UTC [77] app=ann_test user=ann_user state=42501 by= ERROR:  permission denied for x",
        f"x {AT}ann_user state=42501 by=psql ERROR:  permission denied for table x",
        "",
    ],
)
def test_others_and_other_things_are_left_out(line: str) -> None:
    assert logged_refusals(app(), [line]) == []


@pytest.mark.parametrize(
    ("state", "message", "hint"),
    [
        ("42501", 'permission denied to create extension "hstore"', "extensions: [hstore]"),
        ("42501", "permission denied for table x", "no option of an app gives that"),
        ("42501", "permission denied to create database", "test_database: true"),
        ("25P03", "terminating connection due to idle-in-transaction timeout", "idle_in_transaction_session_timeout"),
        ("25006", "cannot execute INSERT in a read-only transaction", "multidb usage ann"),
    ],
)
def test_each_kind_has_its_way_on(state: str, message: str, hint: str) -> None:
    (refusal,) = logged_refusals(app(), [f"{AT}ann_user state={state} by=my app FATAL:  {message}"])
    assert (refusal.what, refusal.count) == (message, 1)
    assert hint in refusal.hint


def test_the_newest_come_first_and_each_once() -> None:
    lines = [
        f"2026-11-28 10:31:0{second}.5 UTC [1] app=ann user=ann_readonly state=42501 by= ERROR:  denied {what}"
        for second, what in enumerate(["a", "b", "a"])
    ]
    found = logged_refusals(app(), lines)
    assert [(one.what, one.count, one.last.second if one.last else None) for one in found] == [
        ("denied a", 2, 2),
        ("denied b", 1, 1),
    ]


def test_what_an_app_wrote_steers_no_terminal() -> None:
    (refusal,) = logged_refusals(app(), [f"{AT}ann_user state=42501 by= ERROR:  denied \x1b[2J{'x' * 5000}"])
    assert "\x1b" not in refusal.what
    assert len(refusal.what) < 500
