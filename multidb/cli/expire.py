"""`multidb expire`: clones go when their time is up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from multidb import removal
from multidb.backup.cloning import expires_at
from multidb.backup.journal import exclusively
from multidb.backup.labels import CLONE_OF
from multidb.backup.repository import utc_now
from multidb.cli.options import Run, examples, with_run
from multidb.cli.output import Output
from multidb.cli.remove_app import engine_of
from multidb.errors import MultidbError
from multidb.model import App, moment_in_words

__all__ = ["Expired", "remove_expired", "show_expired"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@dataclass(frozen=True, slots=True)
class Expired:
    """The clones whose time was up, and by id why one could not be removed."""

    clones: tuple[App, ...]
    failed: dict[str, MultidbError]

    @property
    def gone(self) -> list[App]:
        """Those that were removed."""
        return [clone for clone in self.clones if clone.id not in self.failed]


@app.command(epilog=examples("multidb expire", "multidb expire --dry-run"))
@with_run("expire")
def expire(
    run: Run,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which.")] = False,
) -> int:
    """Remove the clones whose time is up, data, logins and manifest entry. For cron; asks nothing.

    Only what `multidb clone --ttl` made: an app with both of its labels. No other app is ever touched. Interrupted
    anywhere, the next run finishes it. While backup work is going on it says so and leaves (exit 3): a clone may just
    be getting its data. `multidb backup --watch` does the same by itself.
    """
    output = run.output
    if dry_run:
        going = removal.expired(run.fleet(output), utc_now())
        done = Expired(tuple(going), {})
    else:
        with output.working():
            done = remove_expired(run, output)
    removed = [] if dry_run else [clone.id for clone in done.gone]
    failed = {clone: error.document() for clone, error in done.failed.items()}
    expired = [clone.id for clone in done.clones]
    output.document(not done.failed, {"expired": expired, "removed": removed, "failed": failed})
    show_expired(output, done, "would remove" if dry_run else "removed")
    if not done.clones:
        output.say("No clone's time is up.")
    return next(iter(done.failed.values())).exit_code if done.failed else 0


def remove_expired(run: Run, output: Output) -> Expired:
    """Removes the clones whose time is up; one that cannot be removed keeps no other.

    Raises:
        Locked: backup work is going on; a clone may just be getting its data.
    """
    if not removal.expired(run.fleet(output), utc_now()):
        return Expired((), {})
    failed: dict[str, MultidbError] = {}
    with exclusively(run.fleet(output).state, "expire"):
        clones = tuple(removal.expired(run.fleet(output), utc_now()))
        for clone in clones:
            try:
                with run.fleet(output).state.lock_apps([clone.id], "multidb expire"):
                    if clone.id in {app.id for app in removal.expired(run.fleet(output), utc_now())}:
                        _purge(run, output, clone.id)
            except MultidbError as error:
                failed[clone.id] = error
    return Expired(clones, failed)


def _purge(run: Run, output: Output, clone: str) -> None:
    fleet = engine_of(run, output, clone).fleet
    with run.recorded(fleet.state, [clone], command="expire") as record:
        removal.purge(fleet, clone, output.progress)
        record.add("purge", "app", clone, clone)


def show_expired(output: Output, done: Expired, verb: str = "removed") -> None:
    """A line for each clone."""
    for clone in done.clones:
        ends = expires_at(clone)
        words = f"{clone.id}, a clone of {clone.labels[CLONE_OF]}" + (f" until {moment_in_words(ends)}" if ends else "")
        if clone.id in done.failed:
            output.note(f"{words}: {done.failed[clone.id].sentence()}", style="red")
        else:
            output.say(f"{verb} {words}")
