"""`multidb import`: what exists on servers already, taken under management; and data from elsewhere, for an app."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from multidb import files, manifest
from multidb.cli.entries import show_edit
from multidb.cli.import_data import AppOrNoneArgument, DataRequest, Sources, names_of, with_source_options
from multidb.cli.import_live import LiveImport
from multidb.cli.options import Run, YesOption, examples, with_run
from multidb.cli.output import Output
from multidb.document import printable
from multidb.errors import UsageError, one_line
from multidb.model import AppMode, ImportOptions, Project, counted, listed
from multidb.scan import Scan, ScannedServer, scan
from multidb.state import ProjectState

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_WATCHED = 12  # entries that are shown in full


@app.command(
    "import",
    epilog=examples(
        "multidb import --scan                       (what is there, and what would be an app)",
        "multidb import --scan --write multidb.yaml  (adds the apps to the manifest, to be observed)",
        "multidb import --scan --mode additive --write found.yaml",
        "multidb import shop --from-postgres postgresql://reader@db.example.com/shop        (what would come, and how)",
        "multidb import shop --from-postgres postgresql://reader@db.example.com/shop --yes  (does it)",
        "multidb import shop --from-postgres env:SHOP_URL --replace",
        "multidb import shop --from-postgres env:SHOP_URL --live --yes; multidb import shop --live",
        "multidb import shop --cutover",
    ),
)
@with_run("import", verbose=True)
@with_source_options
def import_apps(  # noqa: PLR0913 (an option is an argument)
    run: Run,
    name: AppOrNoneArgument = None,
    scanning: Annotated[bool, typer.Option("--scan", help="Read the servers that the manifest names.")] = False,
    write: Annotated[
        Path | None,
        typer.Option("--write", help="Where the manifest with the apps goes: itself, or a new file.", metavar="FILE"),
    ] = None,
    mode: Annotated[AppMode, typer.Option("--mode", help="How far the manifest decides about them.")] = AppMode.OBSERVE,
    sources: Sources = None,
    pattern: Annotated[
        str, typer.Option("--pattern", help="Of keys and collections only those of such a name: 'shop:*'.")
    ] = "",
    prefix: Annotated[
        str,
        typer.Option("--prefix", help="Only names that begin so; the app's own comes in its stead."),
    ] = "",
    names: Annotated[
        list[str] | None, typer.Option("--name", help="Another name for one; may be repeated.", metavar="OLD=NEW")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="What the app has now may go.")] = False,
    safety_set: Annotated[
        bool, typer.Option("--safety-set/--no-safety-set", help="Make a set of what the app has now first.")
    ] = True,
    accept_differences: Annotated[
        bool,
        typer.Option("--accept-differences", help="Take the copy of a source that was written meanwhile."),
    ] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Follow the source after the copy; without --from-: how far it is, with --yes caught up first.",
        ),
    ] = False,
    cutover: Annotated[
        bool, typer.Option("--cutover", help="Stop writers at the source that is followed, and take its place.")
    ] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Give up an import that was interrupted, or follows.")] = False,
    yes: YesOption = False,
) -> int:
    """Find apps on servers that exist already (--scan), or give an app data that is elsewhere (--from-).

    With --scan, each thing that could be an app's place becomes part of an entry; what could not is listed, with the
    reason. With --write the entries go into the manifest, to be observed. No server is changed.

    With --from- it says what would come, under which names, and what would not; then it asks, and where nobody can be
    asked it changes nothing without --yes. All of it is copied beside the app's data and compared with its source
    before anything of the app is replaced. An app that has data is refused without --replace. WHERE is an address
    without a password, a file, or where the whole address is: env:NAME, file:PATH. The password is read from
    MULTIDB_IMPORT_STORE_PASSWORD. Interrupted, the same command goes on.

    With --live the copy follows its source, which is written all the while, until --cutover: that stops writers there,
    waits for the last change, compares, and makes the copy the app's. What both make at the source is taken away again.
    Where a store tells nobody of its changes, --live --yes again and --cutover bring the copy up to date by comparing,
    and --cutover asks that its writers be stopped by hand.
    """
    options = ImportOptions(pattern, prefix, names_of(names))
    request = DataRequest(run, sources or {}, options, replace, safety_set, accept_differences, yes)
    if name is not None:
        if scanning or write is not None:
            raise UsageError("--scan reads all servers, and finds apps by itself", hint="leave out the app's name")
        return _of_app(request, name, live=live, cutover=cutover, abort=abort)
    if sources or abort or live or cutover:
        raise UsageError("nothing says which app it is for", hint="multidb import NAME --from-STORE WHERE")
    if not scanning:
        raise UsageError(
            "nothing says what to import",
            hint="apps on servers: multidb import --scan; data for an app: multidb import NAME --from-STORE WHERE",
        )
    return _scan(run, write, mode)


def _of_app(request: DataRequest, name: str, *, live: bool, cutover: bool, abort: bool) -> int:
    if live + cutover + abort > 1:
        raise UsageError("--live, --cutover and --abort are three things to do", hint="leave two of them out")
    if request.typed and (cutover or abort):
        raise UsageError("it is known where the source is", hint="leave out --from-...")
    followed = LiveImport(request)
    if abort:
        return followed.abort(name) if followed.is_under_way(name) else request.abort(name)
    if cutover:
        return followed.cut_over(name)
    if live:
        return followed.begin(name) if request.typed else followed.say_lag(name)
    return request.carry_out(name)


def _scan(run: Run, write: Path | None, mode: AppMode) -> int:
    output = run.output
    project = run.project()
    text = files.read_text(run.file) or ""
    if write is not None and write.exists() and write.resolve() != run.file.resolve():
        raise UsageError("there is such a file already", where=str(write), hint="name the manifest, or a new file")

    def load(entries: Mapping[str, Mapping[str, Any]]) -> Project:
        from multidb.project import load_project

        return load_project(run.file, run.overlay, {run.file: manifest.add_apps(text, entries)})

    with output.working():
        done = scan(run.fleet(output, project), mode, load)
    written = _write(run, done, write, text) if write is not None and done.entries else ""
    ok = all(server.error is None for server in done.servers)
    output.document(ok, {**_document(done), "written": [written] if written else [], "data": None})
    _show(output, done)
    if done.entries:
        _show_entries(output, done, text, run.file, written)
    elif not done.managed:
        output.say("Nothing there could be an app.")
    errors = [server.error for server in done.servers if server.error is not None]
    return errors[0].exit_code if errors else 0


def _write(run: Run, done: Scan, target: Path, text: str) -> str:
    """Puts the apps where they are to go. Gives the file's name."""
    engine = run.engine(run.output)
    with run.recorded(engine.state, list(done.entries)) as record:
        if target.resolve() == run.file.resolve():
            with ProjectState(run.file.parent).turn("manifest"):
                now = files.read_text(run.file) or ""
                files.write_text(run.file, manifest.add_apps(now, done.entries))
        else:
            files.write_text(target, manifest.add_apps(text, done.entries))
        for name in done.entries:
            record.add("create", "entry", f"{name} in {target}", name)
    return str(target)


def _document(done: Scan) -> dict[str, Any]:
    return {
        "entries": {name: dict(entry) for name, entry in done.entries.items()},
        "managed": list(done.managed),
        "servers": [_server_document(server) for server in done.servers],
        "accounts": done.accounts,
    }


def _server_document(server: ScannedServer) -> dict[str, Any]:
    return {
        "server": server.server,
        "store": server.store,
        "product": server.product or None,
        "places": [
            {
                "kind": place.kind,
                "name": place.name,
                "app": place.app or None,
                "reason": place.reason or None,
                "accounts": list(place.accounts),
                "notes": list(place.notes),
            }
            for place in server.places
        ],
        "error": server.error.document() if server.error else None,
        "skipped": server.skipped or None,
    }


def _show(output: Output, done: Scan) -> None:
    for server in done.servers:
        if server.error is not None:
            output.say(f"{server.server}: {server.error}", style="red")
        elif server.skipped:
            output.say(f"{server.server}: skipped, {server.skipped}", style="yellow")
    rows = [
        (place.app, server.server, f"{place.kind} {printable(place.name)}", one_line("; ".join(place.notes)))
        for server in done.servers
        for place in server.places
        if place.app in done.entries and not place.reason
    ]
    if rows:
        output.table(("app", "server", "has", "beside what the manifest says"), sorted(rows))
    left = [
        (server.server, f"{place.kind} {printable(place.name)}", one_line(place.reason))
        for server, place in done.unplaced
    ]
    if left:
        output.say()
        output.say("In no app:", style="bold")
        output.table(("server", "what", "why"), left)


def _show_entries(output: Output, done: Scan, text: str, manifest_file: Path, written: str) -> None:
    output.say()
    for store, names in done.accounts.items():
        shown = listed([printable(name) for name in names], 12)
        output.say(f"{store}: used by {shown}, too. Accounts that are meant to stay: known: {{{store}: [..]}}")
    if written:
        output.say(f"{counted(len(done.entries), 'app')} added to {written}.", style="green")
        output.say("Next: multidb plan (what taking them over would change)")
        return
    first = dict(list(done.entries.items())[:_WATCHED])
    show_edit(output, manifest_file, text, manifest.add_apps(text, first))
    if len(done.entries) > len(first):
        output.say(f"and {len(done.entries) - len(first)} more")
    output.say("Next: multidb import --scan --write multidb.yaml")
