"""`multidb secrets`: where secrets are kept: move them, encrypt them anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from multidb import files, manifest
from multidb.cli.options import Run, YesOption, ask, examples, with_run
from multidb.errors import Refused, UsageError
from multidb.model import counted
from multidb.model.secret_options import SecretStoreSpec
from multidb.secret_stores import secret_options, secret_store_kind
from multidb.secret_stores.move import SecretMove
from multidb.state import FILE, ProjectState
from multidb.state_stores import open_state

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    help="Where secrets are kept: move them, encrypt them anew.",
    epilog=examples("multidb secrets move --to '{sops: {file: secrets.enc.yaml}}'", "multidb secrets rekey"),
)

_FROM = "secrets-from"
ToOption = Annotated[
    str,
    typer.Option("--to", metavar="WHERE", help="As the manifest's section secrets: file, or {vault: {url: ...}}."),
]


@app.command(
    epilog=examples(
        "multidb secrets move --to '{age: {file: secrets.age, recipients: [age1...]}}'",
        "multidb secrets move --to '{vault: {url: https://vault:8200, mount: kv, path: multidb/digi}}'",
        "multidb secrets move --to file",
    )
)
@with_run("secrets move")
def move(run: Run, to: ToOption, yes: YesOption = False) -> int:
    """Move every secret to another place, and have the manifest say so. Cut off anywhere, run it again.

    They are copied, read back and compared before the manifest is changed; only then they are deleted where they were.
    What was committed, or lies in backups of the old place, stays there. Let no other run be at work meanwhile.
    """
    output, new = run.output, _spec(to)
    state = open_state(run.project())
    with state.lock("secrets", "multidb secrets move"):
        project = run.project()  # as it is now: another move may have ended meanwhile
        old = _cut_off(state) if project.secrets == new else project.secrets
        if old is None:
            output.document(True, {"from": None, "to": str(new), "moved": 0, "left": []})
            output.say(f"Secrets are kept there already: {new}.")
            return 0
        moving = SecretMove(old, new, Path(project.root))
        names = moving.names()
        question = f"Move {counted(len(names), 'secret')} from {old} to {new}, and delete what is there now?"
        if not ask(question, yes=yes):
            raise Refused("nothing was moved")
        with output.working(), run.recorded(state, ()) as record:
            if project.secrets != new:
                moving.copy()
                _remember(state, old)
                _write(run, new)
                moving.copy()  # what another run has put there until now
            left = moving.delete()
            _remember(state, None)
            record.add("move", "secrets", str(new))
    output.document(not left, {"from": str(old), "to": str(new), "moved": len(names) - len(left), "left": left})
    output.say(f"Moved {counted(len(names) - len(left), 'secret')} from {old} to {new}.")
    for name in left:
        output.note(f"{name} has another value there, so it is left in {old}", style="yellow")
    return 1 if left else 0


@app.command(epilog=examples("multidb secrets rekey"))
@with_run("secrets rekey")
def rekey(run: Run) -> int:
    """Encrypt the secrets anew, for who may read them from now on.

    These are the manifest's recipients (age), or those whom .sops.yaml names (SOPS). Whoever is left
    out still knows what they have read, and can read what was committed before.
    """
    project = run.project()
    spec = project.secrets
    again = None if spec.kind == FILE else secret_store_kind(spec.kind).rekey
    if again is None:
        raise UsageError(
            f"secrets are kept in {spec}, which is not encrypted for recipients",
            where=project.file,
            hint="move them: multidb secrets move --to '{age: {file: secrets.age, recipients: [age1...]}}'",
        )
    with run.recorded(open_state(project), ()) as record:
        again(spec.options, Path(project.root))
        record.add("encrypt", "secrets", str(spec))
    run.output.document(True, {"secrets": str(spec)})
    run.output.say(f"Encrypted anew: {spec}.")
    return 0


def _spec(text: str, name: str = "--to") -> SecretStoreSpec:
    try:
        return manifest.secret_store_spec(manifest.value_of(text, name), secret_options())
    except ValueError as wrong:
        hint = "for example --to file, or --to '{sops: {file: secrets.enc.yaml}}' (docs/secrets.md)"
        raise UsageError(str(wrong), where=name, hint=hint) from None


def _cut_off(state: ProjectState) -> SecretStoreSpec | None:
    """Where an earlier run was moving secrets from that has changed the manifest, and has not ended."""
    section: Mapping[str, Any] = state.read(_FROM)
    return manifest.secret_store_spec(section["spec"], secret_options()) if "spec" in section else None


def _remember(state: ProjectState, old: SecretStoreSpec | None) -> None:
    """Writes down where secrets are being moved from; None: that is done."""
    with state.change(_FROM) as section:
        section.clear()
        if old is not None:
            section["spec"] = old.value


def _write(run: Run, new: SecretStoreSpec) -> None:
    """Has the manifest, or the overlay that is laid over it, say where secrets are from now on."""
    path = run.file
    if run.overlay is not None:
        path = path.with_name(f"{path.stem}.{run.overlay}{path.suffix}")
    with ProjectState(run.file.parent).turn("manifest"):
        before = files.read_text(path) or ""
        files.write_text(path, manifest.with_secrets(before, new.value))
        try:
            changed = run.project().secrets
        except BaseException:  # what makes the manifest wrong is taken back before the problem is reported
            files.write_text(path, before)
            raise
        if changed != new:
            files.write_text(path, before)
            raise UsageError(
                "still says otherwise where secrets are kept",
                where=str(path),
                hint="write it by hand, then run it again",
            )
