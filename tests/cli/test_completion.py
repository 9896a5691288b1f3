"""What a TAB gives, in the shells themselves: a line is typed on a terminal of the test's own, completed, and run."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from multidb.backup.labels import CLONE_OF
from multidb.backup.set_ids import is_set_id
from multidb.cli.candidates import TABLE
from multidb.cli.known_names import KnownNames
from multidb.project import load_project
from multidb.state import ProjectState
from multidb.tombstone import Phase, Tombstone, write_tombstone
from tests.support.command import REPOSITORY, Folder

MANIFEST = """\
version: 1
project: shop
backup: {to: [backups/, "s3://bucket/sets"]}
apps:
  ann: {stores: [postgres, qdrant], qdrant: {collections: {knowledge: {size: 4}}}}
  beep_boop: {stores: [postgres, redis], labels: {clone_of: ann}}
  bob: {stores: [redis]}
"""
SETS = "20261121T140501Z-1a2b3c", "20261122T140501Z-1a2b3c"
HOSTILE = "we $(touch hacked) `touch hacked`.json"
SHELLS = {
    "bash": (["--noprofile", "--norc", "-i"], 'eval "$(command multidb completion bash)"'),
    "zsh": (["-f", "-i"], 'autoload -Uz compinit; compinit -u -D; eval "$(command multidb completion zsh)"'),
    "fish": (["--no-config", "-i"], "multidb completion fish | source"),
}
LINES = [
    ("heal", ["health"]),
    ("plan --chec", ["plan", "--check"]),
    ("backups veri", ["backups", "verify"]),
    ("env an", ["env", "ann"]),
    ("env beep-", ["env", "beep-boop"]),
    ("show --app an", ["show", "--app", "ann"]),
    ("env ann DATABASE_U", ["env", "ann", "DATABASE_URL"]),
    ("env ann --format k", ["env", "ann", "--format", "k8s-secret"]),
    ("undo-remove go", ["undo-remove", "gone"]),
    ("undo-remove ", ["undo-remove", "gone"]),
    ("plan --store=q", ["plan", "--store=qdrant"]),
    ("logs neo4j-", ["logs", "neo4j-ann"]),
    ("restore ann/20261121", ["restore", f"ann/{SETS[0]}"]),
    ("backups show 20261122", ["backups", "show", SETS[1]]),
    ("backup --to s3://b", ["backup", "--to", "s3://bucket/sets"]),
    ("plan --env pr", ["plan", "--env", "prod"]),
    ("add-app new --collection kno", ["add-app", "new", "--collection", "knowledge:4"]),
    ("add-app new --stores redis,neo", ["add-app", "new", "--stores", "redis,neo4j"]),
    ("apply nex", ["apply", "next.json"]),
    ("apply we", ["apply", HOSTILE]),
    ("plan --file oth", ["plan", "--file", "other.yaml"]),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder as a day of work leaves it."""
    root = tmp_path_factory.mktemp("shop")
    (root / "multidb.yaml").write_text(MANIFEST)
    (root / "multidb.prod.yaml").write_text("{}")
    (root / "other.yaml").write_text(MANIFEST)
    for name in ("next.json", HOSTILE):
        (root / name).write_text(json.dumps({"version": 1, "command": "plan", "apps": None}))
    (root / "neither.json").write_text("{}")
    for number, name in enumerate(SETS):
        folder = root / "backups" / "shop" / ("ann", "bob")[number] / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    (root / "backups" / "shop" / "ann" / "20261123T140501Z-1a2b3c").mkdir()  # nobody has finished it
    (root / "apps" / "ann").mkdir(parents=True)
    (root / "apps" / "ann" / ".env.example").write_text("# Written by multidb\nAPP_NAME=ann\nDATABASE_URL=\n")
    state = root / ".multidb"
    (state / "access").mkdir(parents=True)
    (state / "access" / "neo4j-ann.json").write_text("{}")
    now = datetime(2026, 11, 28, tzinfo=UTC)
    stone = Tombstone("gone", Phase.REMOVED, now, now + timedelta(days=7), (), "20261120T140501Z-1a2b3c")
    write_tombstone(ProjectState(root), stone)
    programs = root / "bin"
    programs.mkdir()
    launcher = programs / "multidb"
    launcher.write_text(
        f'#!/bin/sh\nif [ -n "$_MULTIDB_COMPLETE" ] || [ "$1" = completion ]; then\n'
        f'  PYTHONPATH={REPOSITORY} exec {sys.executable} -c "from multidb.cli import main; main()" "$@"\nfi\n'
        "printf 'ran'; printf '{%s}' \"$@\"; echo .\n"
    )
    launcher.chmod(0o755)
    return root


def _asked(shop: Path, line: str) -> list[str]:
    """What a shell is told that asks for the end of `line`."""
    env = {**os.environ, "_MULTIDB_COMPLETE": "bash", "_MULTIDB_LINE": f"multidb {line}"}
    told = subprocess.run([shop / "bin" / "multidb"], cwd=shop, env=env, capture_output=True, text=True, check=True)
    how, *rows = told.stdout.splitlines()
    assert told.stderr == ""
    return [how, *(row.partition("\t")[0] for row in rows)]


class Terminal:
    """A shell on a terminal."""

    def __init__(self, shell: str, folder: Path) -> None:
        arguments, prepare = SHELLS[shell]
        env = {
            "HOME": str(folder),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "TERM": "xterm",
        }
        self._pid, self._master = pty.fork()
        if self._pid == 0:
            os.chdir(folder)
            os.execvpe(shell, [shell, *arguments], env)
        termios.tcsetwinsize(self._master, (24, 200))
        self.shown = ""
        self.type(f"{prepare}\r")
        self.type("echo rea''dy.\r")
        self.until("ready.")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, pattern: str, timeout: float = 60) -> str:
        """What was shown until `pattern` is, which is forgotten then."""
        end = time.monotonic() + timeout
        while not (found := re.search(pattern, self.shown)):
            ready, _, _ = select.select([self._master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{pattern!r} was not shown: {self.shown!r}"
            self.shown += os.read(self._master, 65536).decode(errors="replace")
        shown, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return shown

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._master)


@contextmanager
def terminal(shell: str, folder: Path) -> Iterator[Terminal]:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    opened = Terminal(shell, folder)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_tab_completes_the_word(shop: Path, shell: str) -> None:
    with terminal(shell, shop) as screen:
        for line, arguments in LINES:
            screen.type(f"multidb {line}\t\r")
            wanted = "ran" + "".join(f"{{{argument}}}" for argument in arguments)
            shown = screen.until(r"ran\{.*\}\.")
            assert shown.endswith(f"{wanted}."), f"{line!r} in {shell}: {shown!r}"
    assert not (shop / "hacked").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_two_tabs_list_what_could_be_meant(shop: Path, shell: str) -> None:
    with terminal(shell, shop) as screen:
        screen.type("multidb undo-remove gone; multidb env b\t\t")
        screen.until(r"beep_boop(.|\n)*bob|bob(.|\n)*beep_boop")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("undo-remove ", ["gone"]),
        ("purge ", ["gone"]),
        ("remove-app ", ["ann", "beep_boop", "bob"]),
        ("clone ann ", ["beep_boop"]),  # to be made again
        ("plan ann ", ["beep_boop", "bob"]),
        ("env ann ", ["APP_NAME", "DATABASE_URL"]),
        ("env --app ann ", ["APP_NAME", "DATABASE_URL"]),
        ("env ann --store ", ["postgres", "qdrant"]),
        ("plan --store ", ["postgres", "neo4j", "qdrant", "redis"]),
        ("backups list ", ["ann", "beep_boop", "bob", "gone"]),
        ("restore 2026", ["20261122T140501Z-1a2b3c", "20261121T140501Z-1a2b3c", "20261120T140501Z-1a2b3c"]),
        ("backups show --app ", ["ann", "beep_boop", "bob", "gone"]),
        ("restore gone/", ["gone/20261120T140501Z-1a2b3c"]),
        ("backups copy ann --from ", ["backups/", "s3://bucket/sets"]),
        ("apply ", ["ann", "beep_boop", "bob", "next.json", re.sub(r"([^\w.])", r"\\\1", HOSTILE)]),
        ("purge gone --yes-destroy ", []),
        ("plan --check --ch", []),  # once is enough
        ("plan -f other.yaml --fi", []),
        ("plan > ", "files"),
        ("audit --report ", "files"),
        ("connect ann -- ", "files"),
        ("no-such-command ", []),
        ("completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_what_is_offered(shop: Path, line: str, offered: list[str] | str) -> None:
    assert _asked(shop, line) == (["files"] if offered == "files" else ["words", *offered])


def test_sets_far_away_are_known_from_the_last_list(tmp_path: Path, shop: Path) -> None:
    """The target is one that completion does not look into; the file system behind it is this machine's."""
    away, name = tmp_path / "away", "20261123T140501Z-1a2b3c"
    folder = tmp_path / "project"
    (folder / ".multidb").mkdir(parents=True)
    target = f"local://{away}"
    (folder / "multidb.yaml").write_text(MANIFEST.replace('backups/, "s3://bucket/sets"', target))
    (away / "shop" / "ann" / name).mkdir(parents=True)
    (away / "shop" / "ann" / name / "manifest.json").write_text("{}")
    line = f"restore -f {folder}/multidb.yaml 2026"
    assert _asked(shop, line) == ["words"]
    assert name in Folder(folder, []).run("backups", "list").out
    assert _asked(shop, line) == ["words", name]
    shutil.rmtree(away / "shop" / "ann")
    Folder(folder, []).ok("backups", "list")
    assert _asked(shop, line) == ["words"]


def test_the_names_are_those_that_the_manifest_has(shop: Path) -> None:
    """Its apps are read without being checked; what is checked reads the same."""
    text = (
        "version: 1\nproject: shop\ninclude: [more/*.yaml]\n"
        "apps:\n  one: &one {stores: [qdrant]}\n"
        "  two: *one\n  three: {<<: *one}\n  'four': {stores: [postgres, redis]}\n  five: {}\n"
    )
    (shop / "mixed.yaml").write_text(text)
    (shop / "mixed.prod.yaml").write_text("apps: {six: {stores: [postgres]}, five: {stores: [postgres]}}\n")
    (shop / "more").mkdir()
    (shop / "more" / "seven.yaml").write_text("seven: {stores: [redis]}\n")
    project = load_project(shop / "mixed.yaml", "prod")
    offered = _asked(shop, "show -f mixed.yaml --env prod ")
    assert sorted(offered[1:]) == sorted(project.apps)
    for app_id, entry in project.apps.items():
        assert _asked(shop, f"env -f mixed.yaml --env prod {app_id} --store ") == ["words", *entry.stores]


@pytest.mark.parametrize(
    "text",
    [
        "apps: {ann: {}, bob: [",
        "apps:\n  ann: {}\n  'x; rm -rf /': {}\n  $(x): {}\n  ? [a]\n  : {}\n",
        "apps: {ann: {}, deep: " + "[" * 5000 + "]" * 5000 + "}",
        "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\napps: {ann: *c, bob: &bob {stores: *bob}}",
    ],
)
def test_a_manifest_that_is_wrong_costs_no_name_that_it_has(shop: Path, text: str) -> None:
    (shop / "wrong.yaml").write_text(text)
    offered = _asked(shop, "show -f wrong.yaml ")
    assert "ann" in offered
    assert set(offered) <= {"words", "ann", "bob", "deep"}


def test_a_folder_without_anything_offers_commands(tmp_path: Path, shop: Path) -> None:
    env = {**os.environ, "_MULTIDB_COMPLETE": "bash", "_MULTIDB_LINE": "multidb env "}
    told = subprocess.run([shop / "bin" / "multidb"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == ("words\n", "")
    told = subprocess.run([shop / "bin" / "multidb"], env={**env, "_MULTIDB_COMPLETE": "no_shell"}, capture_output=True)
    assert (told.returncode, told.stdout, told.stderr) == (1, b"", b"")


def test_the_table_names_sources_that_there_are(shop: Path) -> None:
    rows = [row for entry in json.loads(Path(TABLE).read_text()).values() for row in entry["parameters"]]
    sources = {source for _, source, _, _ in rows if isinstance(source, str)}
    assert {"apps", "removed", "sets", "variables"} <= sources
    assert [
        source for source in sources if source not in ("files", "nothing") and not hasattr(KnownNames, source)
    ] == []
    assert all(is_set_id(name) for name in SETS)
    assert f"{CLONE_OF}: ann" in MANIFEST


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".local/share/bash-completion/completions/multidb"),
        ("zsh", ".local/share/zsh/site-functions/_multidb"),
        ("fish", ".config/fish/completions/multidb.fish"),
    ],
)
def test_it_is_installed_where_the_shell_looks(tmp_path: Path, shell: str, file: str) -> None:
    folder = Folder(tmp_path, [])
    env = {"HOME": str(tmp_path), "SHELL": f"/bin/{shell}", "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": ""}
    told = folder.ok("completion", "--install", env=env)
    assert str(tmp_path / file) in told.out
    assert (tmp_path / file).read_text() == folder.ok("completion", shell).out
    assert [path.name for path in tmp_path.iterdir()] in ([".local"], [".config"])


def test_a_shell_that_is_not_known_is_said(tmp_path: Path) -> None:
    run = Folder(tmp_path, []).run("completion", env={"SHELL": "/bin/tcsh"})
    assert run.code == 2
    assert "tcsh" in run.err
    assert run.err.rstrip().endswith("multidb completion bash")
