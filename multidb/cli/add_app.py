"""`multidb add-app`: an app, from nothing to credentials in one command."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from multidb import manifest
from multidb.cli.entries import ensure_entry
from multidb.cli.env_files import following_servers, write_env_files
from multidb.cli.options import Run, examples, with_run
from multidb.cli.plan_view import report_document, show_report
from multidb.cli.server_wide import left_open
from multidb.errors import UsageError
from multidb.fleet import Scope
from multidb.model import Project
from multidb.provisioners import STORES, provisioner
from multidb.runtime import ServerState

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    "add-app",
    epilog=examples(
        "multidb add-app lernmi",
        "multidb add-app beep-boop --stores postgres,redis",
        "multidb add-app digi_core --collection knowledge:1536:cosine --extension vector",
    ),
)
@with_run("add-app", verbose=True)
def add_app(
    run: Run,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new app; beep-boop means beep_boop.")],
    stores: Annotated[str | None, typer.Option("--stores", help="Which stores, comma-separated; default: all.")] = None,
    collections: Annotated[
        list[str] | None,
        typer.Option("--collection", help="A Qdrant collection as type:size:distance; may be repeated."),
    ] = None,
    extensions: Annotated[
        list[str] | None, typer.Option("--extension", help="A Postgres extension; may be repeated.")
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant-id", help="Its tenant id; default: its name.")] = None,
    no_apply: Annotated[bool, typer.Option("--no-apply", help="Only write the manifest entry.")] = False,
) -> int:
    """Add an app: manifest entry, a place on every store, credentials and env file. Run again, it changes nothing."""
    output = run.output
    new = manifest.app_id(name)
    entry = _entry(stores, collections, extensions, tenant)
    project, _ = ensure_entry(run, output, new, entry)
    if no_apply:
        output.document(True, {"app": new, "applied": False})
        return 0
    return _bring_up(run, project, new)


def _bring_up(run: Run, project: Project, new: str) -> int:
    output = run.output
    engine = run.engine(output, project)
    with engine.fleet.keeping_open():
        with output.working():
            with following_servers(engine.fleet, output):
                states = engine.fleet.start(new)
            report = engine.apply(Scope(apps=frozenset({new})))
            left = left_open(engine, new)
        for status in states:
            if status.state is not ServerState.RUNNING:
                output.note(f"{status.name}: {status.state.value}, {status.message}", style="yellow")
        code = show_report(output, report)
        for server, things in left.items():
            output.note(
                f"{server}: {things}: open, and left so, because others may use the server; "
                "multidb apply closes it, and asks first",
                style="yellow",
            )
        written = write_env_files(engine.fleet, output, [new])
    document: dict[str, Any] = {"app": new, "applied": True, "plan": report.plan.document(), **report_document(report)}
    output.document(code == 0, {**document, "written": [str(path) for path in written]})
    if code:
        output.note(f"  To go on with {new} alone: multidb apply --app {new}")
        return code
    if not report.done:
        output.say(f"{new} is as the manifest says; nothing to do.", style="green")
    output.say(f"Next: multidb show {new} · its variables are in apps/{new}/.env (multidb env {new})")
    return 0


def _entry(
    stores: str | None, collections: list[str] | None, extensions: list[str] | None, tenant: str | None
) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if tenant is not None:
        entry["tenant_id"] = tenant
    if stores is not None:
        names = [store.strip() for store in stores.split(",") if store.strip()]
        unknown = [store for store in names if store not in STORES]
        if unknown or not names:
            raise UsageError(f"there is no store {', '.join(unknown)!r}", hint=f"stores: {', '.join(STORES)}")
        entry["stores"] = names
    if extensions:
        entry[_store_with("extensions")] = {"extensions": extensions}
    if collections:
        entry[_store_with("collections")] = {"collections": dict(_collection(text) for text in collections)}
    return entry


def _store_with(option: str) -> str:
    """The store whose apps have this option."""
    return next(store for store in STORES if option in provisioner(store).app_options.model_fields)


def _collection(text: str) -> tuple[str, dict[str, Any]]:
    kind, _, rest = text.partition(":")
    size, _, distance = rest.partition(":")
    if not kind or not size.isdigit():
        raise UsageError(f"{text!r} is not type:size:distance", hint="for example --collection knowledge:1536:cosine")
    return kind, {"size": int(size), **({"distance": distance} if distance else {})}
