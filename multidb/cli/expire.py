"""`multidb expire`: clones go when their time is up."""

from __future__ import annotations

from typing import Annotated

import typer

from multidb import removal
from multidb.backup.cloning import CLONE_OF, EXPIRES, expired
from multidb.backup.repository import utc_now
from multidb.cli.options import DEFAULT_FILE, EnvOption, FileOption, JsonOption, Run, examples
from multidb.errors import MultidbError

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=examples("multidb expire", "multidb expire --dry-run"))
def expire(
    file: FileOption = DEFAULT_FILE,
    env: EnvOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Remove the clones whose time is up, data, logins and manifest entry. For cron; asks nothing.

    Only what `multidb clone --ttl` made: an app with both of its labels. No other app is ever touched.
    """
    run = Run("expire", file, env, json=as_json)
    output = run.output
    engine = run.engine(output)
    going = expired(engine.project.apps, utc_now())
    failed: dict[str, MultidbError] = {}
    for each in going if not dry_run else ():
        try:
            with output.working():
                removal.purge(run.engine(output), each.id, output.progress)
        except MultidbError as error:
            failed[each.id] = error
    gone = [each.id for each in going if each.id not in failed and not dry_run]
    output.document(not failed, {"expired": [each.id for each in going], "removed": gone})
    for each in going:
        words = f"{each.id}, a clone of {each.labels[CLONE_OF]} until {each.labels.get(EXPIRES)}"
        if each.id in failed:
            output.note(f"{words}: {failed[each.id]}", style="red")
        else:
            output.say(f"{'would remove' if dry_run else 'removed'} {words}")
    if not going:
        output.say("No clone's time is up.")
    return next(iter(failed.values())).exit_code if failed else 0
