"""The tour and the how-to guides, block by block as they stand in docs/, on one embedded project. Servers that exist
already are the project's own."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY
from tests.support.guides import blocks, run

DOCS = REPOSITORY / "docs"
TOUR = DOCS / "tour.md"
GUIDES = sorted((DOCS / "how-to").glob("*.md"))
LONG = {
    "back-up-and-restore",
    "clone-for-staging",
    "remove-an-app",
    "rename-an-app",
    "run-in-ci",
    "share-a-database",
    "use-a-second-machine",
}  # what the tour or other tests do, at length; each in a project of its own, which has what it shows and no more
SECRETS = 'json.load(open(".multidb/secrets.json"))["secrets"]'
ADMIN_PASSWORD = f"""python3 -c 'import json; print({SECRETS}["@postgres/postgres/admin"])'"""


@contextmanager
def after_the_tour() -> Iterator[Path]:
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


@pytest.fixture(scope="module")
def project() -> Iterator[Path]:
    with after_the_tour() as folder:
        yield folder


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
@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in GUIDES if page.stem not in LONG])
def test_a_guide(page: Path, project: Path) -> None:
    run(page, project, external_postgres(project))


@pytest.mark.server
@pytest.mark.rare
@pytest.mark.parametrize("name", sorted(LONG))
def test_a_long_guide(name: str) -> None:
    with after_the_tour() as folder:
        run(DOCS / "how-to" / f"{name}.md", folder, external_postgres(folder))
