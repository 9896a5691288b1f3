"""`multidb state`: where the state is kept: show it, copy it, move it, bring it back; take a lock from the dead."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from multidb import files, manifest
from multidb.cli.options import Run, YesOption, ask, examples, with_run
from multidb.document import Unreadable
from multidb.errors import ManifestError, Refused, UsageError
from multidb.fleet import Scope
from multidb.model import Action, Project, listed
from multidb.model.state_options import FOLDER, is_folder, is_state_address
from multidb.numbers import numbers_by_server
from multidb.plan import LOST
from multidb.project import load_project
from multidb.sections import ANY, SECTIONS
from multidb.state import ProjectState, holder
from multidb.state_folder import MACHINE
from multidb.state_store import StateStore, identified, refuse_moved, state_of
from multidb.state_stores import open_state, open_state_store
from multidb.state_stores.move import is_moved, move_state
from multidb.tombstone import tombstones

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    help="Where the state is kept: show, copy, move and recover it.",
    epilog=examples("multidb state show", "multidb state move --to s3://states/digi", "multidb state unlock 41"),
)

_LARGEST = 256 * 1024**2  # characters


@app.command(epilog=examples("multidb state show", "multidb state show --json"))
@with_run("state show")
def show(run: Run) -> int:
    """Say where the state is, what is in it, and which runs hold its locks."""
    output = run.output
    store = _store(run.project(offline=True))
    with output.working():
        document, locks = store.read().document, store.locks()
    sections = {name: len(section) for name, section in sorted(_shared(document).items())}
    moved = document.get("moved", {}).get("to")
    output.document(
        moved is None,
        {
            "kept_in": store.title,
            "id": document.get("identity", {}).get("id"),
            "moved_to": moved,
            "sections": sections,
            "locks": [lock.document() for lock in locks],
        },
    )
    output.say(f"The state is in {store.title}." if moved is None else f"{store.title}: moved to {moved}.")
    output.table(("section", "entries"), [(name, str(count)) for name, count in sections.items()])
    if locks:
        output.say()
        output.table(("lock", "", "held by"), [(lock.id, lock.name, lock.who) for lock in locks])
    return 0 if moved is None else 1


@app.command(epilog=examples("multidb state pull > state.json"))
@with_run("state pull")
def pull(run: Run) -> int:
    """Print the state, as a copy that `state push` takes. No secret is in it."""
    store = _store(run.project(offline=True))
    document = store.read().document
    refuse_moved(document, store.title)
    copy = {"version": 1, **_shared(document), "identity": dict(document.get("identity", {}))}
    if not copy["identity"]:
        del copy["identity"]
    run.output.document(True, {"state": copy})
    if not run.json:
        typer.echo(json.dumps(copy, indent=1, sort_keys=True))
    return 0


@app.command(epilog=examples("multidb state push state.json"))
@with_run("state push")
def push(
    run: Run,
    copy: Annotated[Path, typer.Argument(metavar="FILE", help="A copy that `state pull` has printed; - is stdin.")],
    yes: YesOption = False,
) -> int:
    """Put a copy in the place of the state, after an accident. What was written since the copy was made is lost."""
    output = run.output
    project = run.project(offline=True)
    store = _store(project)
    given = _checked(copy)
    with output.working():
        there = store.read().document
    refuse_moved(there, store.title)
    _refuse_stranger(given, there, project, str(copy))
    if not ask(f"Put {copy} in the place of the state in {store.title}?", yes=yes):
        raise Refused("nothing was changed")
    with output.working(), run.recorded(open_state(project), ()) as record:
        with store.change(holder("multidb state push")) as document:
            refuse_moved(document, store.title)
            _refuse_stranger(given, document, project, str(copy))
            for name in _shared(document):
                del document[name]
            document.update(given)
            identified(document, project.name)
        record.add("replace", "state", store.title)
    output.document(True, {"kept_in": store.title, "sections": sorted(_shared(given))})
    output.say(f"The state in {store.title} is what {copy} says.")
    return 0


@app.command(
    epilog=examples(
        "multidb state move --to s3://states/digi",
        "multidb state move --to postgres",
        "multidb state move --to .multidb/",
    )
)
@with_run("state move")
def move(
    run: Run,
    to: Annotated[
        str, typer.Option("--to", metavar="ADDRESS", help=".multidb/, s3://BUCKET/PREFIX, or postgres: as in state:")
    ],
    yes: YesOption = False,
) -> int:
    """Move the state to another place, and have the manifest say so. Cut off anywhere, run it again.

    Where it was stays a note that says where it went, so that a folder with an older manifest is told. Ports, processes
    and what else is of one machine stay there.
    """
    output, project = run.output, run.project(offline=True)
    address = ".multidb/" if is_folder(to) else to.rstrip("/")
    _refuse_no_place(address)
    _drafted(run, address)
    old, new = _store(project), open_state_store(project, address)
    here = project.state
    if here == address:
        here, old = FOLDER, open_state_store(project, FOLDER)  # the manifest was edited by hand before
        if is_folder(address) or "moved" in old.read().document or not _shared(old.read().document):
            output.document(True, {"from": None, "to": new.title, "moved": 0})
            output.say(f"The state is kept there already: {new.title}.")
            return 0
    gone = is_moved(old, address)
    if not ask(f"Move the state from {old.title} to {new.title}, and change {project.file} to say so?", yes=yes):
        raise Refused("nothing was moved")
    ends = open_state(replace(project, state=address))
    begins = ends if gone else open_state(replace(project, state=here))  # the history goes along
    with output.working(), run.recorded(begins, ()) as record:
        moved = move_state(old, new, address, project.name, holder("multidb state move"))
        record.ends_in = ends
        if project.state != address:
            _write(run, address)
        record.add("move", "state", new.title)
    output.document(True, {"from": old.title, "to": new.title, "moved": moved})
    output.say(f"The state is in {new.title} now; {old.title} says so to whoever looks there.")
    return 0


@app.command(epilog=examples("multidb state recover"))
@with_run("state recover")
def recover(run: Run) -> int:
    """Rebuild a state that is lost from what the servers know: numbers, and the apps that were removed.

    Credentials are not on the servers: an app whose credentials are lost is named, with the way to new ones. When an
    app was removed, and what stood in the manifest of it, is lost: its time of grace begins anew.
    """
    output = run.output
    project = run.project(offline=True)
    state = open_state(project)
    with output.working():
        is_lost = not _shared(state.store.read().document)
        recording = run.recorded(state, ()) if is_lost else nullcontext()  # else it is a plan, which changes nothing
    with output.working(), recording as record:
        state.start_anew(project.name)
        engine = run.engine(output, project)
        known = set(tombstones(engine.state))
        plan = engine.plan(Scope())
        engine.state.refresh()
        if record is not None:
            record.add("recover", "state", state.store.title)
    numbers = dict(sorted(numbers_by_server(engine.state).items()))
    removed = sorted(set(tombstones(engine.state)) - known)
    lost = sorted(
        {
            str(change.resource.app)
            for change in plan.changes
            if change.action is Action.CONFLICT and any(field.old == LOST for field in change.fields)
        }
    )
    ok = not plan.errors and not lost
    errors = {server.server: error.document() for server, error in plan.errors}
    output.document(
        ok, {"kept_in": state.store.title, "numbers": numbers, "removed": removed, "lost": lost, "errors": errors}
    )
    output.say(f"The state in {state.store.title} is what the servers know.", style="green" if ok else None)
    for server, of in numbers.items():
        output.say(f"  {server}: the numbers of {listed(sorted(of), 5)}")
    if removed:
        output.say(f"  removed before: {', '.join(removed)}; multidb purge lists them")
    for failed, error in plan.errors:
        output.note(f"{failed.server}: {error.sentence()}", style="red")
    for name in lost:
        output.note(f"{name}: its credentials are not here; multidb apply --regenerate {name}", style="yellow")
    return 4 if plan.errors else 0 if ok else 1


@app.command(epilog=examples("multidb state unlock 41"))
@with_run("state unlock")
def unlock(
    run: Run,
    lock: Annotated[str, typer.Argument(metavar="LOCK", help="The lock, as `multidb state show` calls it.")],
    yes: YesOption = False,
) -> int:
    """Take a lock from a run that is dead for certain. Whoever holds it can write nothing from then on."""
    output, project = run.output, run.project(offline=True)
    store = _store(project)
    with output.working():
        held = next((held for held in store.locks() if held.id == lock), None)
    if held is not None and not ask(f"Take the lock {held.name} from {held.who}?", yes=yes):
        raise Refused("nothing was changed")
    if held is None or is_folder(project.state):  # whose locks end with their processes
        store.unlock(lock)
    with output.working(), run.recorded(open_state(project), ()) as record:
        taken = store.unlock(lock)
        record.add("take", "lock", f"{taken.name} from {taken.who}")
    output.document(True, {"taken": taken.document()})
    output.say(f"Took the lock {taken.name} from {taken.who}.")
    return 0


def _store(project: Project) -> StateStore:
    return open_state_store(project, project.state)


def _shared(document: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that are the project's, and say something."""
    beside = MACHINE | {"identity", "moved", "version"}
    return {name: section for name, section in document.items() if name not in beside and section}


def _checked(path: Path) -> dict[str, Any]:
    """The sections of a copy, each of its shape, and the identity of the state that it is of."""
    where, hint = ("stdin" if str(path) == "-" else str(path)), "take another copy"
    text = sys.stdin.read(_LARGEST + 1) if str(path) == "-" else files.read_text(path)
    if text is None:
        raise UsageError("there is no such file", where=where, hint="multidb state pull > FILE makes one")
    document = state_of(text, where, hint)
    given = {**_shared(document), **({"identity": document["identity"]} if "identity" in document else {})}
    for name, section in given.items():
        try:
            given[name] = SECTIONS.get(name, ANY).read(section)
        except Unreadable as wrong:
            raise UsageError(f"is damaged: it {wrong}, in its section {name}", where=where, hint=hint) from None
    return given


def _refuse_stranger(given: Mapping[str, Any], there: Mapping[str, Any], project: Project, where: str) -> None:
    """`Refused` where the copy is of another state than the one that is there."""
    mine, known = given.get("identity", {}), there.get("identity", {})
    if mine.get("project", project.name) != project.name:
        raise Refused(
            f"is of the project {mine['project']}, and this is {project.name}"[:200], where=where, hint="take another"
        )
    if known.get("id") and mine.get("id", known["id"]) != known["id"]:
        raise Refused(
            "is no copy of the state that is there, but of another one of this project",
            where=where,
            hint="take a copy of that one; or take the state away where it is, then run the command again",
        )


def _refuse_no_place(address: str) -> None:
    if not is_state_address(address):
        raise UsageError(
            f'"{address[:80]}" is no place for a state',
            where="--to",
            hint="for example --to s3://states/digi, --to postgres, or --to .multidb/",
        )


def _drafted(run: Run, address: str) -> tuple[Path, str]:
    """The file that says where the state is, which is the manifest or the overlay that is laid over it, and the text
    that it will have.

    Raises:
        UsageError: it cannot be edited safely, or would be wrong.
    """
    path = run.file
    if run.overlay is not None:
        path = path.with_name(f"{path.stem}.{run.overlay}{path.suffix}")
    after = manifest.with_state(files.read_text(path) or "", address)
    try:
        changed = load_project(run.file, run.overlay, {path: after}, offline=True)
    except ManifestError as error:
        raise UsageError("; ".join(problem.message for problem in error.problems), where="--to") from None
    assert changed.state == address
    return path, after


def _write(run: Run, address: str) -> None:
    """Has the manifest, or its overlay, say where the state is from now on."""
    with ProjectState(run.file.parent).turn("manifest"):
        path, after = _drafted(run, address)
        files.write_text(path, after)
