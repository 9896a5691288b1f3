"""The metrics: each fact under its name, and no name that is not described."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from multidb.backup.schedule import LastSets
from multidb.service.collector import Reading
from multidb.service.metrics import METRICS, exposition
from multidb.service.overview import overview
from tests.support import reports

AT = reports.AT.timestamp()


@pytest.fixture(scope="module")
def text() -> str:
    seen = reports.usage()
    known = overview(
        reports.project(),
        health=reports.health(),
        plan=reports.plan(),
        audit=reports.audited(),
        usage=seen.report,
        looks=seen.looks,
        backups=reports.backups(),
    )
    return exposition(known, {"health": Reading(1, reports.AT, 0.25), "drift": Reading(None, reports.AT, 1.5)}).decode()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("multidb_collector_success", {"collector": "health"}, 1),
        ("multidb_collector_success", {"collector": "drift"}, 0),
        ("multidb_collector_duration_seconds", {"collector": "drift"}, 1.5),
        ("multidb_health_status", {"app": "lernmi", "store": "redis", "status": "unhealthy"}, 1),
        ("multidb_health_status", {"app": "lernmi", "store": "redis", "status": "healthy"}, 0),
        ("multidb_health_latency_seconds", {"app": "lernmi", "store": "postgres"}, 0.0032),
        ("multidb_app_status", {"app": "beep_boop", "status": "degraded"}, 1),
        ("multidb_isolation_level", {"app": "beep_boop", "store": "postgres", "level": "partial"}, 1),
        ("multidb_isolation_level", {"app": "lernmi", "store": "redis", "level": "naming-only"}, 1),
        ("multidb_isolation_open", {"app": "lernmi", "store": "postgres"}, 1),
        ("multidb_isolation_open", {"app": "beep_boop", "store": "postgres"}, 0),
        ("multidb_audit_breaches", {}, 1),
        ("multidb_audit_holes", {}, 1),
        ("multidb_audit_finished_timestamp_seconds", {}, AT),
        ("multidb_drift_changes", {"server": "postgres", "store": "postgres"}, 3),
        ("multidb_credentials_issued_timestamp_seconds", {"app": "lernmi", "store": "postgres"}, AT),
        ("multidb_app_size_bytes", {"app": "lernmi", "store": "postgres"}, 9_000_000),
        ("multidb_app_quota_bytes", {"app": "lernmi", "store": "postgres"}, 8_000_000),
        ("multidb_app_quota_ratio", {"app": "lernmi", "store": "postgres"}, 1.125),
        ("multidb_app_read_only", {"app": "lernmi", "store": "postgres"}, 1),
        ("multidb_app_connections", {"app": "lernmi", "store": "postgres"}, 17),
        ("multidb_app_connections_limit", {"app": "lernmi", "store": "postgres"}, 20),
        ("multidb_server_connections_limit", {"server": "postgres", "store": "postgres"}, 100),
        ("multidb_backup_last_success_timestamp_seconds", {"app": "lernmi"}, AT - 3 * 86400),
        ("multidb_backup_last_verified_timestamp_seconds", {"app": "lernmi"}, AT - 4 * 86400),
        ("multidb_backup_newest_moment_timestamp_seconds", {"app": "lernmi"}, AT),
        ("multidb_backup_moment_lag_limit_seconds", {"app": "lernmi"}, 86400),
        ("multidb_backup_interval_seconds", {"app": "lernmi"}, 86400),
        ("multidb_backup_failed", {"app": "lernmi"}, 1),
        ("multidb_backup_failed", {"app": "beep_boop"}, 0),
        ("multidb_backup_missing", {"app": "beep_boop"}, 1),
    ],
)
def test_a_fact_is_a_sample(text: str, name: str, labels: dict[str, str], value: float) -> None:
    assert samples(text)[name, frozenset(labels.items())] == value


def test_what_is_not_known_has_no_sample(text: str) -> None:
    names = {name for name, labels in samples(text) if ("app", "beep_boop") in labels}
    assert "multidb_app_quota_ratio" not in names
    assert "multidb_backup_last_success_timestamp_seconds" not in names
    unscheduled = overview(reports.project(), backups={"lernmi": LastSets(reports.AT, None, None)})
    names = {name for name, _ in samples(exposition(unscheduled, {}).decode())}
    assert "multidb_backup_last_success_timestamp_seconds" in names
    assert not {"multidb_backup_interval_seconds", "multidb_backup_missing"} & names, "or alerts would ask for one"
    nothing = exposition(overview(reports.project()), {}).decode()
    assert {name for name, _ in samples(nothing) if name.startswith("multidb_")} == {"multidb_build_info"}


def test_every_metric_is_described_and_given_somewhere(text: str) -> None:
    families = {family.name: family for family in text_string_to_metric_families(text)}
    own = {name for name in families if name.startswith("multidb_")}
    assert own == set(METRICS)
    for name in own:
        assert families[name].documentation == METRICS[name][0]
        assert all(set(sample.labels) == set(METRICS[name][1]) for sample in families[name].samples)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here (Debian: apt-get install prometheus)")
def test_prometheus_finds_nothing_to_say_about_the_names(text: str) -> None:
    own = "".join(line for line in text.splitlines(keepends=True) if "multidb_" in line)
    ran = subprocess.run(["promtool", "check", "metrics"], input=own, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
