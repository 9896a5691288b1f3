"""`multidb apply`: bring the servers to the manifest."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from multidb import files
from multidb.cli.env_files import write_env_files
from multidb.cli.options import AppsOption, DeepOption, Run, StoresOption, YesOption, ask, examples, scope, with_run
from multidb.cli.plan_view import report_document, show_plan, show_report
from multidb.cli.server_wide import refused_to_close
from multidb.document import Unreadable
from multidb.engine import Engine
from multidb.errors import NewerFormat, Refused, StalePlan, UsageError
from multidb.fleet import Scope
from multidb.formats import NewerVersion
from multidb.manifest import app_id, is_app_id
from multidb.plan import Plan, SavedPlan, saved_plan
from multidb.report import Report

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "multidb apply",
        "multidb apply --yes lernmi",
        "multidb apply next.json         (a saved plan)",
        "multidb apply --adopt lernmi    (take over what exists; no data is touched)",
    )
)
@with_run("apply", verbose=True)
def apply(
    run: Run,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME|PLAN", help="Only these apps; or a plan saved by plan --out.")
    ] = None,
    apps: AppsOption = None,
    stores: StoresOption = None,
    adopt: Annotated[
        list[str] | None, typer.Option("--adopt", help="Take over what exists under this app's names.", metavar="NAME")
    ] = None,
    regenerate: Annotated[
        list[str] | None,
        typer.Option("--regenerate", help="New credentials where this app's are lost.", metavar="NAME"),
    ] = None,
    deep: DeepOption = True,
    yes: YesOption = False,
) -> int:
    """Bring the servers to the manifest: plan, ask, run. Never deletes an app's data.

    What exists under a wanted name and is not multidb's is refused (exit 3). When a server fails, the others go on, and
    the report says what was done, what failed and what was not tried (exit 5); run it again to finish.
    """
    output = run.output
    engine = run.engine(output)
    saved, named = _plan_or_apps(names or [], engine.project.apps)
    agreed = None if saved is None else read_plan(saved)
    asked = scope([*named, *(apps or ())], stores, adopt=adopt, regenerate=regenerate, deep=deep)
    if agreed is not None:
        asked = scope(agreed.apps, agreed.stores, adopt=agreed.adopt, deep=agreed.deep)
    with output.working():
        planned = engine.plan(asked)
    if agreed is not None and not agreed.covers(planned):
        raise StalePlan(
            "the servers or the manifest have changed since this plan was made",
            where=str(saved),
            hint=f"make a new one: multidb plan --out {saved}",
        )
    if saved is None or not yes or not planned.changes:  # a saved plan that needs no yes was read when it was saved
        show_plan(output, planned)
    if planned.changes and not planned.conflicts and not ask("Apply these changes?", yes=yes):
        output.note("Nothing was changed.")
        return 3
    if left_open := refused_to_close(output, engine, planned, yes=yes):
        asked = replace(asked, left_open=left_open)
        with output.working():
            planned = engine.plan(asked)
    with output.working():
        report = _applied(run, engine, asked, planned)
    code = show_report(output, report)
    write_env_files(engine.fleet, output, _changed(engine, report), report)
    output.document(code == 0, {"plan": planned.document(), **report_document(report)})
    return code


def _applied(run: Run, engine: Engine, asked: Scope, planned: Plan) -> Report:
    if not planned.changes or planned.conflicts:
        return engine.apply(asked, planned)
    apps = [change.resource.app for change in planned.changes if change.resource.app is not None]
    with run.recorded(engine.state, apps, planned.digest) as record:
        report = engine.apply(asked, planned)
        record.applied(report)
    return report


def _changed(engine: Engine, report: Report) -> list[str]:
    changed = {change.resource.app for change in report.done}
    return [app for app in engine.project.apps if app in changed]


def _plan_or_apps(given: list[str], known: Container[str]) -> tuple[Path | None, list[str]]:
    """The saved plan that was named, or the apps. What both could be is the app.

    Raises:
        UsageError: a plan and something else.
    """
    apps = [word for word in given if _is_an_app(word, known)]
    plans = [word for word in given if word not in apps]
    if plans and len(given) > 1:
        raise UsageError(
            f"a saved plan says itself for which apps it is; {plans[0]} was named beside others",
            hint=f"multidb apply {plans[0]}",
        )
    return (Path(plans[0]), []) if plans else (None, apps)


def _is_an_app(name: str, known: Container[str]) -> bool:
    return is_app_id(name.replace("-", "_")) and (app_id(name) in known or not Path(name).exists())


def read_plan(path: Path) -> SavedPlan:
    text = files.read_text(path)
    if text is None:
        raise UsageError("there is no such plan", where=str(path), hint=f"make it: multidb plan --out {path}")
    try:
        plan = saved_plan(text)
    except NewerVersion as wrong:
        raise NewerFormat(str(wrong), where=str(path), hint=f"make it again: multidb plan --out {path}") from None
    except Unreadable as wrong:
        raise UsageError(
            f"is not a plan saved by multidb: it {wrong}",
            where=str(path),
            hint=f"make it again: multidb plan --out {path}",
        ) from None
    if plan.altered:  # it would not be what runs
        raise Refused(
            "was changed by hand after it was saved",
            where=str(path),
            hint=f"change the manifest instead, then: multidb plan --out {path}",
        )
    return plan
