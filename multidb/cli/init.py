"""`multidb init`: a manifest to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multidb import files, manifest
from multidb.cli.options import Run, examples, with_run
from multidb.errors import Refused

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_IGNORED = (".multidb/", ".env", "backups/")  # state, secrets, and dumps of whole databases


@app.command(
    epilog=examples(
        "multidb init",
        "multidb init --project digi",
    )
)
@with_run("init", env=False)
def init(
    run: Run,
    project: Annotated[str | None, typer.Option("--project", help="Its name; default: the folder's.")] = None,
) -> int:
    """Write a commented manifest and the .gitignore lines that keep secrets and backups out of git. Nothing else."""
    output, file = run.output, run.file
    if files.read_text(file) is not None:
        raise Refused("there is a manifest already", where=str(file), hint="add an app to it: multidb add-app NAME")
    files.write_text(file, manifest.initial(project or manifest.project_name(file.resolve().parent.name)))
    added = _ignore(file.parent / ".gitignore")
    output.document(True, {"written": [str(file)], "ignored": added})
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
