"""`multidb doctor`: what stands in the way, each with its fix."""

from __future__ import annotations

import typer

from multidb.cli.options import Run, examples, with_run
from multidb.diagnosis import diagnose
from multidb.model import Level

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb doctor",
        "multidb doctor --json",
    )
)
@with_run("doctor")
def doctor(run: Run) -> int:
    """Check versions, ports in use, client tools and capacity. Exit 1 when something is wrong; warnings are not."""
    output = run.output
    with output.working():
        diagnosed = diagnose(run.fleet(output, run.project(offline=True)))
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
