"""`multidb doctor`: what stands in the way, each with its fix."""

from __future__ import annotations

from typing import Annotated

import typer

from multidb.cli.options import Run, examples, with_run
from multidb.diagnosis import diagnose
from multidb.manifest import app_id
from multidb.model import Level
from multidb.refusals import refusal_findings

app = typer.Typer(rich_markup_mode=None, add_completion=False)

DoctorAppArgument = Annotated[
    str | None, typer.Argument(metavar="NAME", help="What this app was refused; default: the whole project.")
]


@app.command(
    epilog=examples(
        "multidb doctor",
        "multidb doctor --json",
        "multidb doctor lernmi                  (what its servers refused it, and what would help)",
    )
)
@with_run("doctor")
def doctor(run: Run, name: DoctorAppArgument = None) -> int:
    """Check versions, ports in use, client tools and capacity. Exit 1 when something is wrong; warnings are not.

    With the name of an app: what its servers have refused it, as far as they keep it, and what would help.
    """
    output = run.output
    fleet = run.fleet(output, run.project(offline=name is None))
    with output.working():
        diagnosed = diagnose(fleet) if name is None else list(refusal_findings(fleet, fleet.app(app_id(name))))
    ok = all(finding.level is not Level.ERROR for finding in diagnosed)
    findings = [
        {
            "level": finding.level.value,
            "subject": finding.subject,
            "message": finding.message,
            "hint": finding.fix or None,
        }
        for finding in diagnosed
    ]
    output.document(ok, {"findings": findings})
    rows = [(f.level.value, f.subject, f.message + (f"; fix: {f.fix}" if f.fix else "")) for f in diagnosed]
    output.table(("", "what", ""), rows, {"ok": "green", "warning": "yellow", "error": "red"})
    return 0 if ok else 1
