"""An audit for CI systems: as SARIF 2.1.0, by which they show findings at the lines of a file, and as JUnit's XML.

Both are made of the audit alone, and hold no secret.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from multidb.audit.findings import Audit, ServerAudited
from multidb.junit import Case, CaseOutcome, Suite, junit
from multidb.secrets import redact

__all__ = ["audit_junit", "audit_sarif"]

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_RULES: Final = {
    "breach": ("error", "An app reached another", "A probe with the app's own credentials worked, and must not."),
    "hole": ("error", "An app could reach another", "A server's catalog lets an app do more than it may."),
    "broken": ("warning", "A probe proves nothing", "It does not work on the app's own things either."),
    "untried": ("warning", "A pair was not tried", "So nothing is proved of it."),
    "unread": ("warning", "A catalog could not be read", "So nothing is proved of what stands in it."),
    "not-asked": ("warning", "A server or an app could not be asked", "So nothing is proved of it."),
}
"""By id: level, what it is, and what it means."""


@dataclass(frozen=True, slots=True)
class _AuditResult:
    """One finding. `subject` and `where` tell it from others of its rule, in this audit and in the next."""

    rule: str
    store: str
    where: str
    app: str | None
    subject: str
    message: str
    closes: tuple[str, ...] = ()

    @property
    def level(self) -> str:
        """SARIF's word. What is the server's own and closed to the admin is no fault of anybody."""
        return "note" if self.rule == "unread" and self.app is None else _RULES[self.rule][0]

    @property
    def line(self) -> str:
        """All of it on one line, but for the statements."""
        return f"{_RULES[self.rule][1].lower()}: {self.where}: {self.subject}: {self.message}"


def audit_sarif(audit: Audit, places: Mapping[str | None, tuple[str, int]]) -> str:
    """The findings at the entries of the apps whose walls they are about.

    Args:
        places: by app, its entry, as a URI that is relative to the repository and a line; under None, the manifest.
    """
    run = {
        "tool": {
            "driver": {
                "name": "multidb",
                "version": audit.multidb,
                "rules": [_rule(name, *texts) for name, texts in _RULES.items()],
            }
        },
        "automationDetails": {"id": f"multidb-audit/{audit.project}/"},
        "invocations": [
            {
                "executionSuccessful": not audit.errors,
                "startTimeUtc": f"{audit.started:%Y-%m-%dT%H:%M:%SZ}",
                "endTimeUtc": f"{audit.finished:%Y-%m-%dT%H:%M:%SZ}",
            }
        ],
        "columnKind": "unicodeCodePoints",
        "results": [_result(result, places) for result in _findings(audit)],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def audit_junit(audit: Audit) -> str:
    """A suite for each store: a case for each server, and one for each app, whose walls hold or do not."""
    findings = list(_findings(audit))
    suites = [
        Suite(store, audit.started, [*_server_cases(audit, store, findings), *_app_cases(audit, store, findings)])
        for store in audit.stores
    ]
    return junit(f"multidb audit of {audit.project}", suites)


def _findings(audit: Audit) -> Iterator[_AuditResult]:
    for tried in audit.breaches:
        yield _AuditResult("breach", tried.store, tried.server, tried.probe.wall, tried.act, f"it worked{tried.detail}")
    for opened in audit.holes:
        hole = opened.hole
        subject = f"{hole.name}, {hole.subject}"
        yield _AuditResult("hole", opened.store, opened.server, hole.app, subject, hole.message, tuple(hole.closes))
    for tried in audit.broken:
        why = tried.probe.detail or "its control failed"
        yield _AuditResult("broken", tried.store, tried.server, tried.probe.wall, tried.act, why)
    for untried in audit.untried:
        subject = f"{untried.app} against {untried.target}" if untried.target else untried.app
        yield _AuditResult("untried", untried.store, untried.store, untried.target or untried.app, subject, untried.why)
    stores = {server.server: server.store for server in audit.servers}
    for server, unread in audit.unread:
        yield _AuditResult("unread", stores[server], server, unread.app, unread.catalog, unread.why)
    for audited in audit.servers:
        if audited.error is not None:
            yield _AuditResult("not-asked", audited.store, audited.server, None, "the server", audited.error.sentence())
    for (app, store), error in audit.refusals.items():
        yield _AuditResult("not-asked", store, store, app, app, error.sentence())


def _rule(name: str, level: str, what: str, meaning: str) -> dict[str, Any]:
    return {
        "id": name,
        "shortDescription": {"text": what},
        "fullDescription": {"text": f"{what}. {meaning}"},
        "defaultConfiguration": {"level": level},
    }


def _result(result: _AuditResult, places: Mapping[str | None, tuple[str, int]]) -> dict[str, Any]:
    uri, line = places.get(result.app) or places[None]
    identity = "\0".join((result.rule, result.store, result.where, result.app or "", result.subject))
    statements = "".join(f"\n\n{statement}" for statement in result.closes)
    closes = f"\n\nStatements that close it:{statements}" if statements else ""
    named = {"name": redact(result.app), "kind": "object"} if result.app else {"name": result.where, "kind": "module"}
    return {
        "ruleId": result.rule,
        "level": result.level,
        "message": {"text": redact(f"{result.where}: {result.subject}: {result.message}{closes}")},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": line}},
                "logicalLocations": [{**named, "fullyQualifiedName": redact(f"{result.where}/{result.app or ''}")}],
            }
        ],
        "partialFingerprints": {"multidbFinding/v1": hashlib.sha256(identity.encode()).hexdigest()},
    }


def _server_cases(audit: Audit, store: str, findings: list[_AuditResult]) -> Iterator[Case]:
    for server in audit.servers:
        if server.store == store:
            own = [result for result in findings if result.where == server.server and result.app is None]
            yield _skipped(server) if server.skipped else _case(f"server {server.server}", store, own)


def _skipped(server: ServerAudited) -> Case:
    return Case(f"multidb.audit.{server.store}", f"server {server.server}", CaseOutcome.SKIPPED, server.skipped)


def _app_cases(audit: Audit, store: str, findings: list[_AuditResult]) -> Iterator[Case]:
    for app in audit.apps:
        verdict = audit.verdict(app, store)
        if verdict:
            own = [result for result in findings if (result.app, result.store) == (app, store)]
            yield _case(app, store, own, verdict)


def _case(name: str, store: str, findings: list[_AuditResult], verdict: str = "") -> Case:
    """A case fails by what is open; it is an error where nothing is open that could be looked at."""
    group = f"multidb.audit.{store}"
    lines = {level: [result.line for result in findings if result.level == level] for level in ("error", "warning")}
    detail = "\n".join(
        line for result in findings for line in (result.line, *(f"    {text}" for text in result.closes))
    )
    if lines["error"] or verdict in ("breach", "hole"):
        message = (lines["error"] or ["a hole of the server as a whole"])[0]
        return Case(group, name, CaseOutcome.FAILURE, message, detail)
    if lines["warning"] or verdict == "not proved":
        return Case(group, name, CaseOutcome.ERROR, (lines["warning"] or ["not proved"])[0], detail)
    return Case(group, name)
