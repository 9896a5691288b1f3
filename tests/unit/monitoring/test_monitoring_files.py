"""The rendered monitoring: its own tools accept it, its alerts fire when they should, and it asks for nothing that
`multidb serve` does not give.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from multidb.errors import UsageError
from multidb.model import Server
from multidb.project import load_deployment
from multidb.runtime import open_runtime
from multidb.service.metrics import METRICS

MANIFEST = """version: 1
project: digi
runtime: {}
deploy: {{strategy: {}, profiles: [monitoring]}}
{}apps: {{lernmi: {{}}}}
"""


def tool(name: str, package: str) -> Any:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"no {name} here (Debian: apt-get install {package})")


promtool, amtool = tool("promtool", "prometheus"), tool("amtool", "prometheus-alertmanager")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("monitoring")
    (folder / "multidb.yaml").write_text(MANIFEST.format("compose", "hybrid", ""))
    made = load_deployment(folder / "multidb.yaml")
    files = made.files(new_secrets=True)
    made.write(files)
    assert set(made.compare(load_deployment(folder / "multidb.yaml").files(new_secrets=False)).values()) == {"current"}
    return folder / "infrastructure" / "monitoring"


def said(*command: str, cwd: Path) -> str:
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@promtool
def test_prometheus_accepts_its_configuration(rendered: Path, tmp_path: Path) -> None:
    text = (rendered / "prometheus/prometheus.yml").read_text()
    text = text.replace("/etc/prometheus/multidb/", f"{rendered}/prometheus/").replace("/run/multidb/", f"{tmp_path}/")
    (tmp_path / "token").write_text("x")
    (tmp_path / "prometheus.yml").write_text(text)
    assert "SUCCESS: 18 rules found" in said("promtool", "check", "config", "prometheus.yml", cwd=tmp_path)


@amtool
def test_alertmanager_accepts_its_configuration(rendered: Path) -> None:
    assert "SUCCESS" in said("amtool", "check-config", "alertmanager.yml", cwd=rendered / "alertmanager")


PLACE = 'app="lernmi",store="postgres"'
FIRING: dict[str, tuple[dict[str, str], str]] = {  # alert: (series: values every minute, when it fires)
    "MultidbAbsent": ({'up{job="multidb"}': "0x20"}, "10m"),
    "MultidbLookFailed": ({'multidb_collector_success{collector="usage"}': "0x20"}, "10m"),
    "MultidbHealthOutdated": ({'multidb_collector_last_run_timestamp_seconds{collector="health"}': "0x20"}, "10m"),
    "MultidbAppUnhealthy": ({f'multidb_health_status{{{PLACE},status="unhealthy"}}': "1x20"}, "10m"),
    "MultidbAppDegraded": ({f'multidb_health_status{{{PLACE},status="degraded"}}': "1x20"}, "20m"),
    "MultidbWallOpen": ({f"multidb_isolation_open{{{PLACE}}}": "1x20"}, "1m"),
    "MultidbBreach": ({"multidb_audit_breaches": "0x20", "multidb_audit_holes": "2x20"}, "1m"),
    "MultidbAuditOutdated": ({"multidb_audit_finished_timestamp_seconds": "0x3000"}, "49h"),
    "MultidbDrift": ({'multidb_drift_changes{server="postgres",store="postgres"}': "3x20"}, "20m"),
    "MultidbBackupTooOld": (
        {
            'multidb_backup_last_success_timestamp_seconds{app="lernmi"}': "0x200",
            'multidb_backup_interval_seconds{app="lernmi"}': "3600x200",
        },
        "90m",
    ),
    "MultidbArchiveBehind": (
        {
            'multidb_backup_newest_moment_timestamp_seconds{app="lernmi"}': "0x200",
            'multidb_backup_moment_lag_limit_seconds{app="lernmi"}': "900x200",
        },
        "30m",
    ),
    "MultidbBackupFailed": ({'multidb_backup_failed{app="lernmi"}': "1x20"}, "10m"),
    "MultidbBackupMissing": ({'multidb_backup_missing{app="lernmi"}': "1x200"}, "70m"),
    "MultidbBackupNotVerified": ({'multidb_backup_missing{app="lernmi"}': "0x2000"}, "25h"),
    "MultidbQuotaNearlyUsed": ({f"multidb_app_quota_ratio{{{PLACE}}}": "0.95x20"}, "20m"),
    "MultidbQuotaUsed": ({f"multidb_app_quota_ratio{{{PLACE}}}": "1.2x20"}, "10m"),
    "MultidbConnectionsNearLimit": (
        {f"multidb_app_connections{{{PLACE}}}": "18x20", f"multidb_app_connections_limit{{{PLACE}}}": "20x20"},
        "10m",
    ),
    "MultidbServerConnectionsNearLimit": (
        {
            'multidb_server_connections{server="postgres",store="postgres"}': "95x20",
            'multidb_server_connections_limit{server="postgres",store="postgres"}': "100x20",
        },
        "10m",
    ),
}
WELL = {
    'up{job="multidb"}': "1x200",
    'multidb_collector_success{collector="usage"}': "1x200",
    'multidb_collector_last_run_timestamp_seconds{collector="health"}': "0+60x200",
    f'multidb_health_status{{{PLACE},status="unhealthy"}}': "0x200",
    f'multidb_health_status{{{PLACE},status="degraded"}}': "0x200",
    f"multidb_isolation_open{{{PLACE}}}": "0x200",
    "multidb_audit_breaches": "0x200",
    "multidb_audit_holes": "0x200",
    "multidb_audit_finished_timestamp_seconds": "0x200",
    'multidb_drift_changes{server="postgres",store="postgres"}': "0x200",
    'multidb_backup_last_success_timestamp_seconds{app="lernmi"}': "0x200",
    'multidb_backup_last_verified_timestamp_seconds{app="lernmi"}': "0x200",
    'multidb_backup_interval_seconds{app="lernmi"}': "86400x200",
    'multidb_backup_newest_moment_timestamp_seconds{app="lernmi"}': "0+60x200",
    'multidb_backup_moment_lag_limit_seconds{app="lernmi"}': "900x200",
    'multidb_backup_failed{app="lernmi"}': "0x200",
    'multidb_backup_missing{app="lernmi"}': "0x200",
    f"multidb_app_quota_ratio{{{PLACE}}}": "0.5x200",
    f"multidb_app_connections{{{PLACE}}}": "2x200",
    f"multidb_app_connections_limit{{{PLACE}}}": "20x200",
    'multidb_server_connections{server="postgres",store="postgres"}': "5x200",
    'multidb_server_connections_limit{server="postgres",store="postgres"}': "100x200",
}


def rules(rendered: Path) -> list[dict[str, Any]]:
    document = yaml.safe_load((rendered / "prometheus/alerts.yml").read_text())
    found: list[dict[str, Any]] = document["groups"][0]["rules"]
    return found


def _firing(alert: str) -> str:
    return f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'


def _test(series: dict[str, str], expected: list[dict[str, Any]]) -> dict[str, Any]:
    listed = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": listed, "promql_expr_test": expected}


@promtool
def test_each_alert_fires_and_is_silent_when_all_is_well(rendered: Path, tmp_path: Path) -> None:
    assert {rule["alert"] for rule in rules(rendered)} == set(FIRING)
    fires = {
        alert: {"expr": _firing(alert), "eval_time": at, "exp_samples": [{"labels": "{}", "value": 1}]}
        for alert, (_, at) in FIRING.items()
    }
    silent = [{"expr": _firing(alert), "eval_time": "180m", "exp_samples": []} for alert in FIRING]
    tests = [_test(series, [fires[alert]]) for alert, (series, _) in FIRING.items()] + [_test(WELL, silent)]
    document = {"rule_files": [str(rendered / "prometheus/alerts.yml")], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document))
    assert "SUCCESS" in said("promtool", "test", "rules", "test.yml", cwd=tmp_path)


def expressions(rendered: Path) -> Iterator[str]:
    for rule in rules(rendered):
        yield rule["expr"]
    for path in (rendered / "grafana/dashboards/multidb").iterdir():
        board = json.loads(path.read_text())
        yield from (variable["definition"] for variable in board["templating"]["list"])
        for panel in board["panels"]:
            yield from (target["expr"] for target in panel["targets"])


def test_nothing_is_asked_for_that_is_not_given(rendered: Path) -> None:
    asked = {name for each in expressions(rendered) for name in re.findall(r"\bmultidb_\w+", each)}
    assert asked <= set(METRICS)
    assert len(asked) > 20
    for each in expressions(rendered):
        for name, matchers in re.findall(r"\b(multidb_\w+)\{([^}]*)\}", each):
            used = set(re.findall(r"(\w+)\s*=", matchers))
            assert used <= set(METRICS[name][1]), each


@promtool
def test_prometheus_can_read_what_is_asked(rendered: Path, tmp_path: Path) -> None:
    """The variable's own language is Grafana's; everything else is given to Prometheus' parser, as a rule each."""
    asked = [each.replace("$app", "lernmi") for each in expressions(rendered) if not each.startswith("label_values(")]
    named = [{"record": f"asked:number_{number}", "expr": each} for number, each in enumerate(asked)]
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": named}]}))
    assert f"SUCCESS: {len(asked)} rules found" in said("promtool", "check", "rules", "asked.yml", cwd=tmp_path)


def test_every_line_of_a_dashboard_has_the_labels_that_it_is_called_by(rendered: Path) -> None:
    called = 0
    for path in (rendered / "grafana/dashboards/multidb").iterdir():
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                kept = re.findall(r"\bby \(([^)]*)\)", target["expr"])
                names = set(re.findall(r"\bmultidb_\w+", target["expr"]))
                given = set(kept[0].split(", ")) if kept else set.intersection(*(set(METRICS[n][1]) for n in names))
                assert wanted <= given, (panel["title"], target["expr"])
                called += len(wanted)
    assert called > 5


def test_dashboards_are_two_of_which_one_is_by_app(rendered: Path) -> None:
    boards = {path.name: json.loads(path.read_text()) for path in (rendered / "grafana/dashboards/multidb").iterdir()}
    assert set(boards) == {"overview.json", "app.json"}
    (variable,) = boards["app.json"]["templating"]["list"]
    assert variable["name"] == "app"
    assert all('app="$app"' in t["expr"] for panel in boards["app.json"]["panels"] for t in panel["targets"])
    sources = yaml.safe_load((rendered / "grafana/datasources/multidb.yml").read_text())["datasources"]
    assert {source["uid"] for source in sources} == {
        panel["datasource"]["uid"] for panel in boards["app.json"]["panels"]
    }
    for board in boards.values():
        places = [panel["gridPos"] for panel in board["panels"]]
        assert all(place["x"] + place["w"] <= 24 for place in places)
        assert len({panel["id"] for panel in board["panels"]}) == len(places)


def test_apps_write_logs_of_their_own(rendered: Path) -> None:
    root = rendered.parents[1]
    app = yaml.safe_load((root / "apps/lernmi/docker-compose.yml").read_text())["services"]["lernmi"]
    assert app["labels"] == {"multidb.app": "lernmi"}
    assert app["logging"]["options"]["labels"] == "multidb.app"
    servers = yaml.safe_load((root / "infrastructure/docker-compose.yml").read_text())["services"]
    assert "log_line_prefix=%m [%p] app=%d user=%u state=%e by=%a " in servers["postgres"]["command"]
    assert servers["prometheus"]["networks"] == ["monitoring"], "where no app is"


@pytest.mark.parametrize(("runtime", "strategy"), [("compose", "separate"), ("external", "hybrid")])
def test_where_it_cannot_stand_it_is_refused(tmp_path: Path, runtime: str, strategy: str) -> None:
    stores = ("postgres", "neo4j", "qdrant", "redis")
    schemes = dict(zip(stores, ("postgresql", "bolt", "http", "redis"), strict=True))
    external = "".join(f"  {store}: {{url: '{schemes[store]}://db.example.com'}}\n" for store in stores)
    more = f"external:\n{external}" if runtime == "external" else ""
    (tmp_path / "multidb.yaml").write_text(MANIFEST.format(runtime, strategy, more))
    with pytest.raises(UsageError, match="shared servers that run in containers") as refused:
        load_deployment(tmp_path / "multidb.yaml").files(new_secrets=True)
    assert "multidb serve" in (refused.value.hint or "")


@pytest.mark.parametrize("runtime", ["compose", "embedded"])
def test_inside_the_network_servers_are_reached_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    (tmp_path / "multidb.yaml").write_text(MANIFEST.format(runtime, "hybrid", ""))
    made = load_deployment(tmp_path / "multidb.yaml")
    made.files(new_secrets=True)
    monkeypatch.setenv("MULTIDB_INSIDE", "1")
    servers: list[Server] = open_runtime(made.project, made.state).servers()
    assert {str(server) for server in servers} == {
        "postgres (postgres:5432)",
        "neo4j-lernmi (neo4j-lernmi:7687)",
        "qdrant (qdrant:6333)",
        "redis (redis:6379)",
    }


def test_the_page_about_it_names_every_metric_with_its_labels() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs/monitoring.md").read_text()
    for name, (says, labels) in METRICS.items():
        assert f"| `{name}` | {', '.join(labels)} | {says} |" in text
