"""What came of asking the servers of a manifest, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from multidb.cli.output import Output
from multidb.connections import AskedServer
from multidb.model import Finding

__all__ = ["connection_documents", "show_connections"]

_STYLES = {"ok": "green", "skipped": "yellow", "warning": "yellow", "error": "red"}


def connection_documents(connections: Sequence[AskedServer]) -> list[dict[str, Any]]:
    """Plain JSON values."""
    return [
        {
            "server": connection.name,
            "store": connection.store,
            "where": connection.where,
            "address": str(connection.server.endpoint) if connection.server else None,
            "product": connection.product or None,
            "ok": connection.problem is None,
            "findings": [
                {
                    "level": finding.level.value,
                    "subject": finding.subject,
                    "message": finding.message,
                    "hint": finding.fix or None,
                }
                for finding in connection.findings
            ],
            "error": connection.error.document() if connection.error else None,
            "skipped": connection.skipped or None,
        }
        for connection in connections
    ]


def show_connections(output: Output, connections: Sequence[AskedServer], *, written: bool = True) -> None:
    """A line for each thing that there is to say of a server; nothing where there are no servers.

    Args:
        written: the manifest is there to be looked into, so that errors name the place.
    """
    if connections:
        rows = [row for connection in connections for row in _rows(connection, written)]
        output.table(("", "server", ""), rows, _STYLES)


def _rows(connection: AskedServer, written: bool) -> Iterator[tuple[str, str, str]]:
    name = connection.name
    if connection.product and connection.server is not None:
        yield "ok", name, f"{connection.product} at {connection.server.endpoint}"
    if connection.skipped:
        yield "skipped", name, connection.skipped
    for finding in connection.findings:
        yield finding.level.value, name, f"{finding.message}{_fix(finding)}"
    if connection.error is not None:
        place = f"{connection.where}: " if written else ""
        yield "error", name, f"{place}{connection.error.sentence(where=False)}"


def _fix(finding: Finding) -> str:
    return f"; fix: {finding.fix}" if finding.fix else ""
