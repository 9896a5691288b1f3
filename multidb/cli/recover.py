"""`multidb recover`: back into a server whose admin's password somebody has changed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from multidb.cli.env_files import write_env_files
from multidb.cli.options import Run, examples, with_run
from multidb.cli.plan_view import report_document, show_report
from multidb.fleet import Scope

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=examples("multidb recover neo4j-lernmi"))
@with_run("recover")
def recover(
    run: Run,
    server: Annotated[str, typer.Argument(metavar="SERVER", help="The server, as `multidb status` calls it.")],
) -> int:
    """Get back into a Neo4j that multidb runs, when its admin's password was changed.

    On Neo4j Community every login is an administrator: an app can change the admin's password and lock multidb out.
    This stops the server, takes all of its logins away, starts it with the admin's own and makes the apps' logins anew,
    with the passwords that they had. Data, indexes and constraints stay; other accounts are gone. Nobody gets in
    meanwhile.
    """
    output = run.output
    engine = run.engine(output)
    with output.working(), run.recorded(engine.state, ()) as record:
        there = engine.fleet.runtime.recover(server, output.progress)
        record.add("replace", "logins", f"of server {there.name}")
        apps = [app.id for app in engine.fleet.apps_of(there)]
        record.apps = tuple(apps)
        report = engine.apply(Scope(apps=frozenset(apps), stores=frozenset({there.store})))
        record.applied(report)
    code = show_report(output, report)
    if code == 0:
        write_env_files(engine.fleet, output, apps)
        output.say(f"multidb is back in {there}.", style="green")
    document: dict[str, Any] = {"server": there.name, **report_document(report)}
    output.document(code == 0, document)
    return code
