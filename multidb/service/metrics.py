"""The readings as Prometheus metrics. Pure but for the time of the scrape.

Labels are apps, stores, servers and fixed words, so their number is bounded by the manifest. What is not known has no
sample; `METRICS` is every name there can be, which dashboards and alert rules are tested against.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector as Source

from multidb import __version__
from multidb.model import Isolation, Status
from multidb.service.collector import Reading
from multidb.service.overview import AppRow, Cell, Overview

__all__ = ["METRICS", "exposition"]

_APP = ("app",)
_PLACE = ("app", "store")
_SERVER = ("server", "store")

METRICS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "multidb_build_info": ("The version of multidb; always 1.", ("version",)),
    "multidb_collector_success": ("Whether the last look of this kind could be made.", ("collector",)),
    "multidb_collector_duration_seconds": ("How long the last look took.", ("collector",)),
    "multidb_collector_last_run_timestamp_seconds": ("When the last look ended.", ("collector",)),
    "multidb_health_status": ("1 for the status that the app's place on the store has, else 0.", (*_PLACE, "status")),
    "multidb_health_latency_seconds": ("How long the check's round trips to the store took.", _PLACE),
    "multidb_credentials_issued_timestamp_seconds": ("When the credential was made that the app comes with.", _PLACE),
    "multidb_app_status": ("1 for the status that the app as a whole has, else 0.", ("app", "status")),
    "multidb_isolation_level": ("1 for the isolation that the server gives to the app, else 0.", (*_PLACE, "level")),
    "multidb_isolation_open": ("Whether the last audit found the app's wall open.", _PLACE),
    "multidb_audit_probes": ("Attempts of the last audit.", ()),
    "multidb_audit_breaches": ("Attempts of the last audit that got through a promised wall.", ()),
    "multidb_audit_holes": ("Holes that the last audit found in the servers' catalogs.", ()),
    "multidb_audit_unproved": ("What the last audit could not prove.", ()),
    "multidb_audit_errors": ("Servers and apps that the last audit could not ask.", ()),
    "multidb_audit_finished_timestamp_seconds": ("When the last audit ended.", ()),
    "multidb_drift_changes": ("Changes that multidb apply would make on the server.", _SERVER),
    "multidb_app_size_bytes": ("Bytes that the app's data takes.", _PLACE),
    "multidb_app_quota_bytes": ("Bytes that the app may use.", _PLACE),
    "multidb_app_quota_ratio": ("How much of its quota the app uses; 1 is all of it.", _PLACE),
    "multidb_app_read_only": ("Whether the app may only read and delete, being over its quota.", _PLACE),
    "multidb_app_connections": ("Connections that the app has open.", _PLACE),
    "multidb_app_connections_limit": ("Connections that the app may open.", _PLACE),
    "multidb_server_size_bytes": ("Bytes that the server's data takes.", _SERVER),
    "multidb_server_connections": ("Connections that the server has open.", _SERVER),
    "multidb_server_connections_limit": ("Connections that the server allows.", _SERVER),
    "multidb_backup_last_success_timestamp_seconds": ("When the app's newest backup was made.", _APP),
    "multidb_backup_last_verified_timestamp_seconds": (
        "When the app's newest backup was made that was verified by restoring it.",
        _APP,
    ),
    "multidb_backup_interval_seconds": ("How often the app is to be backed up.", _APP),
    "multidb_backup_failed": ("Whether the app's last backup failed, if only for one of its targets.", _APP),
    "multidb_backup_missing": ("Whether the app is to be backed up and has no backup at all.", _APP),
    "multidb_backup_newest_moment_timestamp_seconds": (
        "The newest moment that the app can be brought back to, out of the archive of its server.",
        _APP,
    ),
    "multidb_backup_moment_lag_limit_seconds": ("How old that moment may be.", _APP),
}
"""Every metric but those of the process itself: what it says, and its labels."""

Sample = tuple[str, tuple[str, ...], float]


def exposition(known: Overview, readings: Mapping[str, Reading[Any]]) -> bytes:
    """The text of ``/metrics``.

    Args:
        readings: the latest one of each collector, by its name.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*_own(readings), *_samples(known)]))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Families(Source):
    """Samples as the client library wants them: by metric, in the order of `METRICS`."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = list(samples)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in METRICS.items()}
        for name, labels, value in self._samples:
            families[name].add_metric(labels, value)
        yield from (family for family in families.values() if family.samples)


def _own(readings: Mapping[str, Reading[Any]]) -> Iterator[Sample]:
    yield "multidb_build_info", (__version__,), 1
    for name, reading in readings.items():
        yield "multidb_collector_success", (name,), reading.value is not None
        yield "multidb_collector_duration_seconds", (name,), reading.seconds
        yield "multidb_collector_last_run_timestamp_seconds", (name,), reading.at.timestamp()


def _samples(known: Overview) -> Iterator[Sample]:
    for row in known.rows:
        yield from _of_app(row)
        for cell in row.cells.values():
            yield from _of_cell(cell)
    apps = {row.app for row in known.rows}
    for check in known.health.checks if known.health else ():
        if check.issued is not None and check.app in apps:
            yield "multidb_credentials_issued_timestamp_seconds", (check.app, check.store), check.issued.timestamp()
    yield from _of_audit(known)
    for server in known.plan.servers if known.plan else ():
        if server.error is None and not server.skipped:
            yield "multidb_drift_changes", (server.server, server.store), len(server.changes)
    for seen in known.usage.servers if known.usage else ():
        if seen.usage is not None:
            place = (seen.server, seen.store)
            yield from _given("multidb_server_size_bytes", place, seen.usage.size)
            yield from _given("multidb_server_connections", place, seen.usage.connections)
            yield from _given("multidb_server_connections_limit", place, seen.usage.connection_limit)


def _of_app(row: AppRow) -> Iterator[Sample]:
    if row.status is not None:
        for status in Status:
            yield "multidb_app_status", (row.app, status.value), row.status is status
    if row.backup is not None:
        app = (row.app,)
        if row.backup.every is not None:
            yield "multidb_backup_interval_seconds", app, row.backup.every.total_seconds()
            yield "multidb_backup_failed", app, row.backup.failed
            yield "multidb_backup_missing", app, row.backup.newest is None
        if row.backup.newest is not None:
            yield "multidb_backup_last_success_timestamp_seconds", app, row.backup.newest.timestamp()
        if (moments := row.backup.moments) is not None:
            yield "multidb_backup_moment_lag_limit_seconds", app, moments.lag.total_seconds()
            newest = moments.when.timestamp() if moments.when is not None else 0.0
            yield "multidb_backup_newest_moment_timestamp_seconds", app, newest
        if row.backup.verified is not None:
            yield "multidb_backup_last_verified_timestamp_seconds", app, row.backup.verified.timestamp()


def _of_cell(cell: Cell) -> Iterator[Sample]:
    place = (cell.app, cell.store)
    if cell.health is not None:
        for status in Status:
            yield "multidb_health_status", (*place, status.value), cell.health.status is status
        yield from _given("multidb_health_latency_seconds", place, cell.health.latency)
    if cell.isolation is not None:
        for level in Isolation:
            yield "multidb_isolation_level", (*place, level.value), cell.isolation[0] is level
    if cell.verdict:
        yield "multidb_isolation_open", place, cell.open
    if cell.usage is not None:
        now, quota = cell.usage.usage, cell.usage.quota
        yield from _given("multidb_app_size_bytes", place, now.size)
        yield from _given("multidb_app_connections", place, now.connections)
        yield from _given("multidb_app_connections_limit", place, now.connection_limit)
        yield from _given("multidb_app_quota_bytes", place, quota.size if quota else None)
        yield from _given("multidb_app_quota_ratio", place, cell.usage.share)
        yield "multidb_app_read_only", place, cell.usage.read_only


def _of_audit(known: Overview) -> Iterator[Sample]:
    if known.audit is None:
        return
    summary = known.audit.summary()
    yield "multidb_audit_probes", (), summary.probes
    yield "multidb_audit_breaches", (), summary.breaches
    yield "multidb_audit_holes", (), summary.holes
    yield "multidb_audit_unproved", (), summary.unproved
    yield "multidb_audit_errors", (), summary.errors
    yield "multidb_audit_finished_timestamp_seconds", (), summary.finished.timestamp()


def _given(name: str, labels: tuple[str, ...], value: float | None) -> Iterator[Sample]:
    if value is not None:
        yield name, labels, value
