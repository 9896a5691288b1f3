"""`multidb init`: a manifest to start from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Any, Final

import typer

from multidb import files, manifest
from multidb.cli.connections import connection_documents, show_connections
from multidb.cli.options import Run, YesOption, ask, examples, with_run
from multidb.cli.output import is_attended
from multidb.connections import AskedServer, first_problem, try_connections
from multidb.errors import Refused, UsageError
from multidb.model import Address, RuntimeKind
from multidb.model.address import scheme_of
from multidb.project import load_project
from multidb.provisioners import known_stores, provisioner

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_IGNORED = (".multidb/", ".env", "backups/")  # state, secrets, and dumps of whole databases
_RUNTIMES: Final = {
    RuntimeKind.EMBEDDED: "processes of this machine, which multidb starts",
    RuntimeKind.COMPOSE: "containers, which multidb starts",
    RuntimeKind.EXTERNAL: "servers that exist already",
}
_NONE: Final = "none"  # typed where a server asks for no password
_SOURCES: Final = "env:NAME (an environment variable) or file:PATH"


@app.command(
    epilog=examples(
        "multidb init",
        "multidb init --project digi --runtime compose",
        "multidb init --address postgresql://multidb@db.example.com --password-from postgres=env:PG_PASSWORD",
    )
)
@with_run("init", env=False)
def init(
    run: Run,
    project: Annotated[str | None, typer.Option("--project", help="Its name; default: the folder's.")] = None,
    runtime: Annotated[
        RuntimeKind | None, typer.Option("--runtime", help="Where the servers come from; default: embedded.")
    ] = None,
    addresses: Annotated[
        list[str] | None,
        typer.Option(
            "--address",
            metavar="URL",
            help="A server that exists already, with its admin's name and no password; may be repeated.",
        ),
    ] = None,
    passwords: Annotated[
        list[str] | None,
        typer.Option(
            "--password-from",
            metavar="STORE=SOURCE",
            help=f"Where an admin's password is read from: {_SOURCES}; may be repeated.",
        ),
    ] = None,
    connect: Annotated[
        bool, typer.Option("--connect/--no-connect", help="Try the servers that exist already, or write unseen.")
    ] = True,
    yes: YesOption = False,
) -> int:
    """Write a commented manifest and the .gitignore lines that keep secrets and backups out of git.

    On a terminal it asks what the options do not say. Servers that exist already are tried first, and what their admins
    may do is said. Passwords are never written, only where they are read from.
    """
    output, file = run.output, run.file
    if files.read_text(file) is not None:
        raise Refused("there is a manifest already", where=str(file), hint="add an app to it: multidb add-app NAME")
    attended = is_attended(sys.stdin) and not yes
    external = _external(addresses or (), passwords or ())
    runtime = runtime or (RuntimeKind.EXTERNAL if external else _asked_runtime() if attended else RuntimeKind.EMBEDDED)
    if not (runtime.starts_servers or external):
        external = _asked_servers() if attended else {}
    _refuse_unlike(runtime, external)
    text = manifest.initial(project or manifest.project_name(file.resolve().parent.name), runtime, external)
    load_project(file, None, {file: text})
    connections = _tried(run, text) if external and connect else []
    problem = first_problem(connections)
    if problem is not None and not (attended and ask("Write the manifest all the same?", yes=False)):
        output.note("Nothing was written. Correct what is said above; or write it unseen: the same with --no-connect")
        output.document(False, {"written": [], "ignored": [], "servers": connection_documents(connections)})
        return problem.exit_code
    files.write_text(file, text)
    added = _ignore(file.parent / ".gitignore")
    servers = {"servers": connection_documents(connections)} if connections else {}
    output.document(True, {"written": [str(file)], "ignored": added, **servers})
    output.say(f"Wrote {file}" + (f" and added {', '.join(added)} to .gitignore" if added else ""))
    output.say("Next: multidb add-app NAME")
    return 0


def _ignore(path: Path) -> list[str]:
    text = files.read_text(path) or ""
    missing = [line for line in _IGNORED if line not in text.splitlines()]
    if missing:
        gap = "" if not text or text.endswith("\n") else "\n"
        files.write_text(path, text + gap + "\n".join(missing) + "\n")
    return missing


def _tried(run: Run, text: str) -> list[AskedServer]:
    """The servers of a manifest that is not written yet, asked and shown."""
    with run.output.working():
        connections = try_connections(run.fleet(run.output, load_project(run.file, None, {run.file: text})))
    show_connections(run.output, connections, written=False)
    return connections


def _refuse_unlike(runtime: RuntimeKind, external: Mapping[str, Any]) -> None:
    """Raises where the options do not go together."""
    if external and runtime.starts_servers:
        raise UsageError(
            f"--address names servers that exist already, and runtime {runtime} starts its own",
            hint="leave out --runtime, or --address",
        )
    if not external and not runtime.starts_servers:
        example = next(model.example() for _, model in _addresses())
        raise UsageError(
            "runtime external has no servers yet", hint=f"say where they are: multidb init --address {example}"
        )


# What the options say


def _external(addresses: Sequence[str], passwords: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By store, its entry under ``external``."""
    entries: dict[str, dict[str, Any]] = {}
    for url in addresses:
        store = _store_at(url)
        if store in entries:
            raise UsageError(f"--address names two servers of {store}", hint="a manifest has one server of each store")
        if refusal := _refusal(store, url):
            raise UsageError(
                f"--address of {store} {refusal}", hint=f"how passwords are given: --password-from {store}=env:NAME"
            )
        entries[store] = {"url": url}
    for text in passwords:
        store, _, source = text.partition("=")
        if store not in entries:
            raise UsageError(
                "--password-from begins with a store that has an --address",
                hint=f"for example --password-from {next(iter([*entries, *known_stores()]))}=env:ADMIN_PASSWORD",
            )
        entries[store]["password"] = _source(source)
    return entries


def _addresses() -> Iterator[tuple[str, type[Address]]]:
    """The stores whose servers may exist already, each with how their addresses are written."""
    for store in known_stores():
        if (address := provisioner(store).address) is not None:
            yield store, address


def _store_at(url: str) -> str:
    """The store whose servers are at such an address."""
    scheme = scheme_of(url)
    for store, address in _addresses():
        if scheme in address.dialect.schemes:
            return store
    known = ", ".join(f"{next(iter(address.dialect.schemes))}:// ({store})" for store, address in _addresses())
    what = f"no store of multidb is at {scheme}://" if scheme else "--address is no URL"
    raise UsageError(what, hint=f"addresses begin with {known}")


def _refusal(store: str, url: str) -> str | None:
    address = provisioner(store).address
    assert address is not None
    return address.refusal(url)


def _source(text: str) -> dict[str, str]:
    """Where a password is read from. Messages never repeat it: it may be the password itself."""
    kind, _, name = text.partition(":")
    if kind not in ("env", "file") or not name:
        raise UsageError("a password is never given here, only where it is read from", hint=f"write {_SOURCES}")
    return {kind: name}


# What a person is asked


def _asked_runtime() -> RuntimeKind:
    _tell("Where do the servers come from?")
    for kind, meaning in _RUNTIMES.items():
        _tell(f"  {kind:<9} {meaning}")
    while True:
        answer = typer.prompt("Runtime", default=str(RuntimeKind.EMBEDDED), err=True).strip().lower()
        near = [kind for kind in RuntimeKind if answer and kind.startswith(answer)]
        if len(near) == 1:
            return near[0]
        _tell(f"  one of {', '.join(RuntimeKind)}")


def _asked_servers() -> dict[str, dict[str, Any]]:
    """By store, the entry of each server that the person has."""
    _tell("Where are they? For each store the address with its admin's name; nothing where there is none.")
    entries: dict[str, dict[str, Any]] = {}
    for store, address in _addresses():
        if url := _asked_address(store, address):
            entries[store] = {"url": url}
            if source := _asked_source(store):
                entries[store]["password"] = source
    return entries


def _asked_address(store: str, address: type[Address]) -> str:
    while True:
        url: str = typer.prompt(f"{store} ({address.example()})", default="", show_default=False, err=True).strip()
        refusal = address.refusal(url) if url else None
        if refusal is None:
            return url
        _tell(f"  it {refusal}")


def _asked_source(store: str) -> dict[str, str] | None:
    usual = f"env:{store.upper()}_ADMIN_PASSWORD"
    while True:
        text: str = typer.prompt(
            f"  its password is in env:NAME, file:PATH or {_NONE}", default=usual, err=True
        ).strip()
        if text == _NONE:
            return None
        try:
            return _source(text)
        except UsageError as error:
            _tell(f"  {error.message}; {error.hint}")


def _tell(line: str) -> None:
    """A line beside the questions, as wide as the terminal."""
    from multidb.cli.terminal import prose

    typer.echo(prose(line, get_terminal_size().columns), err=True)
