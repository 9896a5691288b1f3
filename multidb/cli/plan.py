"""`multidb plan`: what would change on the servers."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from multidb import files
from multidb.cli.notices import NotifyOption, tell
from multidb.cli.options import AppsArgument, AppsOption, DeepOption, Run, StoresOption, examples, scope, with_run
from multidb.cli.plan_view import show_plan, show_sql
from multidb.cli.server_wide import closing_lines, show_closings
from multidb.errors import UsageError
from multidb.formats import PLAN
from multidb.model import Level

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class PlanForm(StrEnum):
    """How `multidb plan` prints its result."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


@app.command(
    epilog=examples(
        "multidb plan",
        "multidb plan --check                    (CI: exit 1 on drift)",
        "multidb plan --out next.json           (then: multidb apply next.json)",
        "multidb plan lernmi --sql",
        "multidb plan --format markdown          (for a comment on a pull request)",
    )
)
@with_run("plan", verbose=True, forms=PlanForm)
def plan(  # noqa: PLR0913 (an option is an argument)
    run: Run,
    names: AppsArgument = None,
    apps: AppsOption = None,
    stores: StoresOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Save the plan, to apply exactly this one.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 when anything would change, or is warned of.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Only the statements, as they would be sent.")] = False,
    adopt: Annotated[
        list[str] | None, typer.Option("--adopt", help="Plan to take over what exists for this app.", metavar="NAME")
    ] = None,
    deep: DeepOption = True,
    notify: NotifyOption = False,
) -> int:
    """Show what would change on the servers, statement by statement with -v. Changes nothing and takes no lock."""
    output = run.output
    if sql and run.form == PlanForm.MARKDOWN:
        raise UsageError("--sql prints statements as text", hint="multidb plan --format markdown -v has them too")
    named = [*(names or ()), *(apps or ())] or None
    engine, asked = run.engine(output), scope(named, stores, adopt=adopt, deep=deep)
    with output.working():
        planned = engine.plan(asked)
    if notify:
        tell(output, engine.fleet, lambda notifier: notifier.about_plan(planned, asked))
    if out is not None:
        about = {"adopt": sorted(adopt or ()), "apps": named, "stores": stores, "deep": deep}
        saved = {"version": PLAN.version, "command": "plan", **about, **planned.document()}
        files.write_text(out, json.dumps(saved, indent=1) + "\n")
    if run.json:
        output.document(not planned.errors and not planned.conflicts, planned.document())
    elif run.form == PlanForm.MARKDOWN:
        from multidb.cli.plan_markdown import plan_markdown

        output.write(plan_markdown(planned, closing_lines(engine, planned), verbose=run.verbose))
    elif sql:
        show_sql(output, planned)
    else:
        show_plan(output, planned)
        show_closings(output, engine, planned)
    if out is not None:
        output.note(f"Saved. Apply exactly this plan with: multidb apply {out}")
    if planned.errors:
        return planned.errors[0][1].exit_code
    if planned.conflicts:
        return 3
    wrong = [warning for warning in planned.warnings if warning.level is not Level.OK]
    return 1 if check and (planned.changes or planned.moves or wrong) else 0
