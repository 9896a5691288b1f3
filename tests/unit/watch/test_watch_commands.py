"""What `health`, `audit` and `usage` print and exit with, on a store kept in memory."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.text import Text

from multidb.audit import last
from multidb.cli import audit as audit_cli
from multidb.cli import health as health_cli
from multidb.cli import usage as usage_cli
from multidb.cli.options import Run
from multidb.cli.terminal import Grid
from multidb.engine import Engine
from multidb.errors import ServerDown
from multidb.model import AppUsage, Health, Isolation, Query, Status
from multidb.usage import History, Look
from tests.support.toy_store import SHELF
from tests.unit.watch.conftest import OpenShop

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def shop(open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The project that every command of the test finds."""
    quotas = {"ann": "{quota: {toy: {size: 1000B, enforce: read-only}}}", "bob": "{quota: {toy: 1kB}}", "eve": "{}"}
    engine = open_shop(quotas)
    monkeypatch.setattr(Run, "engine", lambda run, output, project=None: engine)
    monkeypatch.setattr(Run, "fleet", lambda run, output, project=None: engine.fleet)
    return engine


def test_everybody_is_well(shop: Engine, capsys: Captured) -> None:
    assert health_cli.health() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["app", "status", "toy"]
    assert lines[1].split() == ["ann", "healthy", "ok", "1", "ms"]
    assert len(lines) == 4


def test_what_is_wrong_is_told_once_with_its_fix_however_many_it_is_wrong_for(shop: Engine, capsys: Captured) -> None:
    loose = Health(Status.DEGRADED, "the lid is loose", fix="mend it")
    SHELF.found = dict.fromkeys(("ann", "bob", "eve"), loose)
    assert health_cli.health() == 1
    out = capsys.readouterr().out
    assert "ann toy, bob toy, eve toy: the lid is loose; mend it" in out
    assert out.count("the lid is loose") == 1
    assert health_cli.health("ann", as_json=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["status"], list(document["apps"])) == (False, "degraded", ["ann"])


def test_health_exits_with_4_only_when_nobody_has_answered(shop: Engine) -> None:
    SHELF.found = {"ann": ServerDown("went away")}
    assert health_cli.health() == 1
    assert health_cli.health("ann") == 4
    SHELF.found = dict.fromkeys(("ann", "bob", "eve"), ServerDown("went away"))
    assert health_cli.health() == 4


def test_nothing_to_check(shop: Engine, capsys: Captured) -> None:
    assert health_cli.health(stores=["toy"], name="ann") == 0
    shop.project.apps.clear()  # type: ignore[attr-defined]
    capsys.readouterr()
    assert health_cli.health() == 0
    assert "multidb add-app" in capsys.readouterr().out
    for command in (audit_cli.audit_command, usage_cli.usage):
        assert command() == 0
        out = capsys.readouterr().out
        assert "multidb add-app" in out
        assert "proved" not in out


def test_watching_prints_a_document_a_line_until_ctrl_c(
    shop: Engine, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []

    def after(seconds: float) -> None:
        rounds.append(seconds)
        SHELF.found = {"bob": Health(Status.DEGRADED, "worn")}
        if len(rounds) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(health_cli, "time", SimpleNamespace(sleep=after, monotonic=time.monotonic))
    assert health_cli.health(watch=True, every=1.0, as_json=True) == 1, "the last round decides"
    captured = capsys.readouterr()
    documents = [json.loads(line) for line in captured.out.splitlines()]
    assert [each["status"] for each in documents] == ["healthy", "degraded", "degraded"]
    assert all(each["command"] == "health" for each in documents)
    assert all(0 < each <= 1 for each in rounds), "from one round to the next, not between them"
    assert captured.err == ""
    rounds.clear()
    assert health_cli.health(watch=True, every=1.0) == 1
    assert "degraded" in capsys.readouterr().out


def test_walls_that_hold(shop: Engine, capsys: Captured) -> None:
    assert audit_cli.audit_command() == 0
    out = capsys.readouterr().out
    assert "ann  enforced" in out
    assert "toy: all 6 pairs" in out
    assert "Every wall that is promised was proved." in out
    kept = last(shop.state)
    assert kept is not None
    assert kept.ok


def test_a_part_of_an_audit_is_not_remembered_as_the_whole(shop: Engine) -> None:
    assert audit_cli.audit_command("ann") == 0
    assert audit_cli.audit_command(stores=["toy"]) == 0
    assert last(shop.state) is None


def test_breaches_holes_and_what_closes_them(shop: Engine, capsys: Captured, tmp_path: Path) -> None:
    SHELF.open_to, SHELF.unlocked, SHELF.clumsy, SHELF.shy = {"bob": "eve"}, {"ann"}, {"ann"}, {"bob"}
    assert audit_cli.audit_command(report=tmp_path / "audit.md") == 1
    out = capsys.readouterr().out
    for line in (
        "breach on toy: look in by eve against bob worked (it is a box)",
        "hole on toy: unlocked box, box ann. Anybody can look in.",
        "    SHUT ann",
        "broken probe on toy: look in by ann against bob: it is a box",
        "not tried: bob on toy against eve: no probe was made",
        "Not every wall was proved.",
    ):
        assert line in out, line
    assert "worked" in (tmp_path / "audit.md").read_text()


def test_known_accounts_and_what_they_could_do(open_shop: OpenShop, shop: Engine, capsys: Captured) -> None:
    (spec,) = (spec for spec in shop.project.servers if spec.store == "toy")
    shop.fleet.project = replace(shop.project, servers=(replace(spec, known=frozenset({"zoe", "yan"})),))
    SHELF.boxes["zoe"] = SHELF.boxes["ann"]
    assert audit_cli.audit_command() == 0
    out = capsys.readouterr().out
    assert "known on toy: yan: nothing that would be a hole" in out
    assert "known on toy: zoe: box of nobody, box zoe: Who put it here?" in out
    assert "hole on" not in out


def test_many_breaches_are_counted_and_not_all_printed(open_shop: OpenShop, shop: Engine, capsys: Captured) -> None:
    many = open_shop([f"app{number:02}" for number in range(30)])
    shop.project.apps.clear()  # type: ignore[attr-defined]
    shop.project.apps.update(many.project.apps)  # type: ignore[attr-defined]
    SHELF.clumsy = set(many.project.apps)
    assert audit_cli.audit_command(seed=1) == 1
    out = capsys.readouterr().out
    assert out.count("broken probe") == 20
    assert "70 more; --json and --report have them all" in out
    assert "90 of 870 pairs, drawn with seed 1" in out
    assert audit_cli.audit_command(all_pairs=True, as_json=True) == 1
    assert len(json.loads(capsys.readouterr().out)["broken"]) == 870


def test_gaps_are_told_where_there_is_no_wall(shop: Engine, capsys: Captured, tmp_path: Path) -> None:
    SHELF.level, SHELF.open_to = Isolation.NAMING_ONLY, {"bob": "ann"}
    assert audit_cli.audit_command() == 0
    out = capsys.readouterr().out
    assert "naming-only" in out
    assert "1 open where no wall is promised" in out
    assert "look in" not in out
    SHELF.dusty = {"bob"}
    assert audit_cli.audit_command(verbose=True, report=tmp_path / "audit.md") == 0
    out = capsys.readouterr().out
    assert "open where no wall is promised: toy: look in (1)" in out
    assert "searched on toy: the shelf (3): boxes that are open" in out
    assert "note on toy: dust under bob: nobody sweeps here" in out
    assert "- toy: look in (1)" in (tmp_path / "audit.md").read_text()


def test_a_server_that_cannot_be_asked_is_4(shop: Engine, capsys: Captured) -> None:
    SHELF.down = True
    assert audit_cli.audit_command() == 4
    assert "not asked: toy: nothing listens; start it" in capsys.readouterr().out
    assert usage_cli.usage() == 4
    assert "toy: nothing listens; start it" in capsys.readouterr().out


def test_usage_shows_shares_of_quotas_and_of_the_total(shop: Engine, capsys: Captured) -> None:
    History(shop.state).add(Look(datetime.now(UTC) - timedelta(days=1), {"ann": {"toy": 300}}))
    SHELF.weights = {"ann": 500, "bob": 900, "eve": 600}
    assert usage_cli.usage() == 0
    lines = capsys.readouterr().out.splitlines()
    ann, bob, eve = lines[1:4]
    assert [line.count("━") for line in (ann, bob, eve)] == [4, 7, 2], "of eight"
    assert "50% of quota" in ann
    assert "+200 B" in ann
    assert any(line.startswith("Growth since ") for line in lines[4:])
    assert "1 of 4" in ann
    assert "90% of quota" in bob
    assert "30% of all apps" in eve
    assert usage_cli.usage("eve") == 0
    assert "%" not in capsys.readouterr().out, "all of itself says nothing"
    assert "bob toy has nearly used up its quota of 1.0 kB" in lines[4:]


def test_usage_is_sorted_and_summed(shop: Engine, capsys: Captured) -> None:
    SHELF.weights = {"ann": 500, "bob": 900, "eve": 600}
    for order, apps in (("manifest", "ann bob eve"), ("size", "bob eve ann"), ("quota", "bob ann eve")):
        assert usage_cli.usage(order=usage_cli.Order(order)) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[1:4]] == apps.split()
        assert lines[4].split()[:6] == ["all", "3", "apps", "toy", "2.0", "kB"]
    assert usage_cli.usage("eve", as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["toy"]["size"] == 600


def test_details_have_their_units_and_stay_on_one_line(shop: Engine, capsys: Captured) -> None:
    SHELF.used["ann"] = AppUsage(
        size=5,
        counts={"queries": 8, "query_time": 0.643, "cache_hit": 0.9504, "temp_bytes": 2_800_000, "label raw_bytes": 7},
        largest=(("public.a\nb", 4_000),),
        slow=(Query("SELECT\n  1", 1, 0.3, 0.3),),
    )
    assert usage_cli.usage("ann", verbose=True, slow=True) == 0
    out = capsys.readouterr().out
    assert "counts: queries 8, query_time 0.6 s, cache_hit 95.0%, temp_bytes 2.8 MB, label raw_bytes 7\n" in out
    assert "largest: public.a b 4.0 kB\n" in out
    assert "ann toy: 1 call, mean 300.0 ms, 0.3 s in all: SELECT 1\n" in out


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_no_word_is_cut_on_a_terminal_of_any_width(columns: int) -> None:
    console = Console(width=columns, file=StringIO(), force_terminal=True, color_system=None)
    long = "an_app_with_a_very_long_name_xx"
    table = Grid("app", "store", "size", "", "", "growth", "connections", right=("size",))
    bar = ProgressBar(total=1, completed=0.5, width=8)
    table.add_row("ann", "postgres", "7.8 MB", bar, "50% of all apps", "+161 kB", "25 of 25")
    table.add_row(Text(long), "redis", "~0 B", "", "", "+0 B", "")
    console.print(table)
    assert isinstance(console.file, StringIO)
    drawn = console.file.getvalue()
    assert max(len(line.rstrip()) for line in drawn.splitlines()) <= columns
    for whole in ("postgres", "7.8 MB", "50% of all apps", "+161 kB", "25 of 25", "connections", "redis"):
        assert whole in drawn, whole
    assert drawn.count("━") == 4, "half of the bar"
    assert (long in drawn) is (columns != 80), "of all, a name may be folded where that saves the table"
    assert len([line for line in drawn.splitlines() if "+0 B" in line]) == 1


def test_over_the_quota_is_1_and_enforcement_says_what_it_did(shop: Engine, capsys: Captured) -> None:
    SHELF.weights = {"ann": 1000, "bob": 2000, "eve": 5}
    assert usage_cli.usage(enforced=True) == 1
    out = capsys.readouterr().out
    assert "ann toy is over its quota of 1.0 kB" in out
    assert "ann toy is read-only from now on" in out
    assert "bob toy is read-only" not in out
    assert usage_cli.usage("ann") == 1
    assert "read-only" in capsys.readouterr().out.splitlines()[1]
    SHELF.weights = {"ann": 1, "bob": 1, "eve": 5}
    assert usage_cli.usage(enforced=True, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["enforced"]["lifted"] == {"toy": ["ann"]}


def test_what_a_server_cannot_do_is_not_said_to_be_done(shop: Engine, capsys: Captured) -> None:
    SHELF.weights, SHELF.seals = {"ann": 1000}, False
    assert usage_cli.usage(enforced=True) == 1
    out = capsys.readouterr().out
    assert "ann toy should be read-only, which its server cannot do" in out
    assert "from now on" not in out


def test_an_enforcement_that_failed_has_the_exit_code_of_its_apply(shop: Engine, capsys: Captured) -> None:
    SHELF.weights, SHELF.fail_on = {"ann": 1000}, "SEAL"
    assert usage_cli.usage(enforced=True) == 4
    captured = capsys.readouterr()
    assert "the shelf is full" in captured.err
    assert "multidb plan" in captured.err
