"""A deployment with certificates, at a moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from multidb.deployment import Deployment
from multidb.project import load_project
from multidb.state import ProjectState

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def deployment(root: Path, tls: str = "own", *, days: int = 0, more: str = "") -> Deployment:
    (root / "multidb.yaml").write_text(
        f"version: 1\nproject: digi\nruntime: compose\ndeploy: {{tls: {tls}{more}}}\n"
        "apps: {ann: {stores: [postgres, redis]}}\n"
    )
    project = load_project(root / "multidb.yaml")
    return Deployment(project, ProjectState(root), clock=lambda: NOW + timedelta(days=days))
