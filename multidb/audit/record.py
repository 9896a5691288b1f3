"""The outcome of the last whole audit, kept in the project's state for the page and the metrics."""

from __future__ import annotations

from typing import Any

from multidb.audit.findings import Audit, Summary
from multidb.document import moment
from multidb.state import ProjectState

__all__ = ["last", "remember"]

_SECTION = "audit"
_FIGURES = ("probes", "breaches", "holes", "unproved", "errors")


def remember(state: ProjectState, audit: Audit) -> None:
    """Keeps the outcome in place of the one before."""
    summary = audit.summary()
    with state.change(_SECTION) as section:
        section.update(
            finished=summary.finished.isoformat(timespec="seconds"),
            ok=summary.ok,
            **{name: getattr(summary, name) for name in _FIGURES},
        )


def last(state: ProjectState) -> Summary | None:
    """The outcome of the last audit of every app and store; None when there was none."""
    section: dict[str, Any] = state.read(_SECTION)
    if not section:
        return None
    figures = {name: int(section[name]) for name in _FIGURES}
    return Summary(moment(section["finished"]), bool(section["ok"]), **figures)
