"""JUnit's XML, by which CI systems show what was tried: a suite for each thing that was looked at, with its cases.

There is no standard of it. What is written is what Jenkins, GitLab and GitHub's readers have in common: suites with
their counts, cases with a class name, a time, and at most one `failure`, `error` or `skipped` each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from multidb.secrets import redact

__all__ = ["Case", "CaseOutcome", "Suite", "junit"]

_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


class CaseOutcome(StrEnum):
    """What came of a case that did not pass; the name of its element."""

    FAILURE = "failure"  # it is not as it should be
    ERROR = "error"  # nobody knows whether it is
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that was tried.

    Args:
        group: what it is shown under, inside its suite.
        outcome: None: it passed.
        message: one line; `detail`: all that there is to say.
        seconds: None: nobody has measured it.
    """

    group: str
    name: str
    outcome: CaseOutcome | None = None
    message: str = ""
    detail: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """Cases that belong together, and when they began."""

    name: str
    began: datetime
    cases: Sequence[Case]
    seconds: float | None = None


def junit(name: str, suites: Sequence[Suite]) -> str:
    """The document, which ends in a newline. It holds no secret, whatever a server has said."""
    root = Element("testsuites", {"name": _text(name), **_counts([case for suite in suites for case in suite.cases])})
    for suite in suites:
        began = suite.began.isoformat(timespec="seconds")
        section = SubElement(root, "testsuite", {"name": _text(suite.name), **_counts(suite.cases), "timestamp": began})
        section.set("time", _seconds(suite.seconds if suite.seconds is not None else _sum(suite.cases)))
        for case in suite.cases:
            _add(section, case)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _add(section: Element, case: Case) -> None:
    element = SubElement(section, "testcase", {"classname": _text(case.group), "name": _text(case.name)})
    element.set("time", _seconds(case.seconds or 0.0))
    if case.outcome is not None:
        outcome = SubElement(element, case.outcome.value, {"message": _text(case.message)})
        if case.outcome is not CaseOutcome.SKIPPED:
            outcome.set("type", case.outcome.value)
        outcome.text = _text(case.detail) or None


def _counts(cases: Sequence[Case]) -> dict[str, str]:
    outcomes = [case.outcome for case in cases]
    counts = {"failures": CaseOutcome.FAILURE, "errors": CaseOutcome.ERROR, "skipped": CaseOutcome.SKIPPED}
    return {"tests": str(len(cases)), **{name: str(outcomes.count(outcome)) for name, outcome in counts.items()}}


def _sum(cases: Sequence[Case]) -> float:
    return sum(case.seconds or 0.0 for case in cases)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"


def _text(text: str) -> str:
    """Without secrets, and without what XML has no way to write."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", redact(text))
