"""A store that a package adds: installed beside multidb, with no line of it here, through every command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from multidb.ports import choose
from tests.support import toy_package
from tests.support.command import REPOSITORY, Folder

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: shop
runtime: embedded
apps:
  ann: {stores: [toy], toy: {colour: blue}, quota: {toy: 1MB}}
  bob: {stores: [toy]}
backup: {to: [backups], every: 24h}
"""

APPS = ("ann", "bob", "cat")
HEALTHY = re.compile(r'multidb_health_status\{(?=[^}]*store="toy")(?=[^}]*status="healthy")[^}]*\} 1\.0')


class Beside(Folder):
    """A folder whose commands find the package that was installed in `packages`."""

    packages: Path

    def run(self, *arguments: str, env: dict[str, str] | None = None, **options: Any) -> Any:
        path = os.pathsep.join([str(REPOSITORY), str(self.packages)])
        return super().run(*arguments, env={"PYTHONPATH": path, **(env or {})}, **options)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy store, installed as pip installs any package."""
    return toy_package.install(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Beside]:
    made = Beside(tmp_path_factory.mktemp("shop"), [])
    made.packages = packages
    made.manifest(MANIFEST)
    yield made
    made.run("down")


def in_its_box(folder: Folder, app: str, text: str, **binds: str) -> Any:
    """What the server answers to the app itself, with nothing but its variables."""
    env = folder.variables(app)
    script = (
        "import json, os, sys; from multidb_toy.connection import Connection; from multidb.secrets import Secret\n"
        "host, port = os.environ['TOY_ADDRESS'].split(':'); box = os.environ['TOY_BOX']\n"
        "key = Secret(os.environ['TOY_KEY'])\n"
        "with Connection(host, int(port), box, key, where='toy', timeout=10) as toy:\n"
        "    print(json.dumps(toy.ask(sys.argv[1], box=box, **json.loads(sys.argv[2]))))\n"
    )
    assert isinstance(folder, Beside)
    path = os.pathsep.join([str(REPOSITORY), str(folder.packages)])
    done = subprocess.run(
        [sys.executable, "-c", script, text, json.dumps(binds)],
        env={**os.environ, **env, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_store_that_a_package_adds_goes_through_everything(folder: Beside) -> None:
    folder.ok("validate")
    assert "What its box is painted." in folder.ok("schema").out
    up = folder.ok("up", "--json").json()
    assert [(each["server"], each["state"]) for each in up["servers"]] == [("toy", "running")]
    assert "PAINT ann blue" in folder.run("plan", "--sql").out
    folder.ok("apply", "--yes")
    folder.ok("plan", "--check")
    in_its_box(folder, "ann", "PUT $box $key $value", key="greeting", value="hello")

    folder.ok("add-app", "cat", "--stores", "toy", "--yes")
    assert in_its_box(folder, "cat", "KEYS $box") == []
    apps = folder.run("health", "--json").json()["apps"]
    assert {app: each["stores"]["toy"]["status"] for app, each in apps.items()} == dict.fromkeys(APPS, "healthy")
    audit = folder.ok("audit", "--json").json()
    assert (audit["counts"], audit["verdicts"]["ann"]) == (
        {"refused": 9, "allowed": 0, "broken": 0},
        {"toy": "enforced"},
    )
    usage = folder.ok("usage", "--json").json()
    assert usage["apps"]["ann"]["toy"]["size"] == len("greetinghello")

    in_its_box(folder, "cat", "PUT $box $key $value", key="greeting", value="hi")
    asked = folder.ok("query", "--box", "greeting", "--format", "csv").out
    columns, *rows = asked.splitlines()
    assert (columns, sorted(rows)) == ("app,key,text", ["ann,greeting,hello", "cat,greeting,hi"])
    assert "The question is for toy." in folder.ok("query", "--help").out
    assert folder.run("query", "--box", "").code == 2
    in_its_box(folder, "cat", "DEL $box $key", key="greeting")

    folder.ok("backup", "ann")
    (verified,) = folder.ok("backups", "verify", "ann", "--json").json()["sets"]
    assert verified["verified"]
    in_its_box(folder, "ann", "PUT $box $key $value", key="greeting", value="changed")
    folder.ok("restore", "ann", "--replace")
    assert in_its_box(folder, "ann", "GET $box $key", key="greeting") == "hello"

    page, metrics = served(folder)
    assert re.search(r"<th[^>]*>Toy</th>", page)
    assert HEALTHY.search(metrics)

    folder.ok("remove-app", "cat", "--yes")
    folder.ok("undo-remove", "cat")
    assert in_its_box(folder, "cat", "KEYS $box") == []
    folder.ok("remove-app", "cat", "--yes")
    folder.ok("purge", "cat", "--yes-destroy", "cat")
    folder.ok("plan", "--check")


def test_its_servers_are_rendered_as_containers_from_its_own_template(folder: Beside, tmp_path: Path) -> None:
    rendered = Beside(tmp_path, [])
    rendered.packages = folder.packages
    rendered.manifest(MANIFEST.replace("embedded", "compose"))
    rendered.ok("render")
    rendered.ok("render", "--check")
    services = yaml.safe_load((tmp_path / "infrastructure" / "docker-compose.yml").read_text())["services"]
    assert services["toy"]["image"] == "multidb-toy:1.0"
    assert "TOY_ADDRESS=toy:7070" in (tmp_path / "apps" / "ann" / ".env").read_text()


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (MANIFEST.replace("embedded", "external"), "external does not say where toy is"),
        (MANIFEST.replace("colour: blue", "colour: pink"), "colour must be"),
        (MANIFEST.replace("bob: {", "ann__scratch: {"), "would be named ann__scratch"),
    ],
)
def test_what_is_wrong_with_its_options_is_told_as_of_any_store(
    folder: Beside, tmp_path: Path, manifest: str, words: str
) -> None:
    wrong = Beside(tmp_path, [])
    wrong.packages = folder.packages
    wrong.manifest(manifest)
    done = wrong.run("validate")
    assert done.code == 2
    assert words in done.err + done.out


def test_an_app_that_names_no_stores_does_not_get_it(folder: Beside, tmp_path: Path) -> None:
    plain = Beside(tmp_path, [])
    plain.packages = folder.packages
    plain.manifest("version: 1\nproject: shop\nruntime: external\napps: {ann: {}}\n")
    done = plain.run("validate")
    assert "where postgres is, which app ann uses" in done.err
    assert "toy" not in done.err


def test_a_package_that_is_not_what_it_says_is_named(folder: Beside, tmp_path: Path) -> None:
    """Its entry point is there, and what it names is not."""
    broken = tmp_path / "broken_toy-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-toy\nVersion: 1.0\n")
    project = Beside(tmp_path, [])
    project.packages = tmp_path
    for group, what in (("stores", "store broken"), ("states", "state broken://")):
        (broken / "entry_points.txt").write_text(f"[multidb.{group}]\nbroken = broken_toy\n")
        project.manifest(f"{MANIFEST}state: broken://here\n")
        done = project.run("validate")
        assert done.code != 0
        assert f"{what}: its module broken_toy cannot be imported" in done.err
        assert "uninstall it" in done.err


def test_the_state_is_kept_in_a_place_that_a_package_adds(folder: Beside, tmp_path: Path) -> None:
    place = f"toy://{tmp_path}/shop.db"
    folder.ok("up")
    folder.ok("apply", "--yes")
    wrong = folder.run("state", "move", "--to", "toy://shop", "--yes")
    assert (wrong.code, "state must be toy:///FILE" in wrong.err) == (2, True)
    folder.ok("state", "move", "--to", place, "--yes")
    assert f"state: '{place}'" in (folder.path / "multidb.yaml").read_text()
    folder.ok("plan", "--check")
    folder.ok("add-app", "dan", "--stores", "toy", "--yes")
    shown = folder.ok("state", "show", "--json").json()
    assert (shown["kept_in"], shown["locks"]) == (place, [])
    runs = [run["command"] for run in folder.ok("history", "--json").json()["runs"]]
    assert runs[:2] == ["add-app", "state move"]
    other = Beside(tmp_path, [])
    other.packages = tmp_path  # which has no such package
    other.manifest((folder.path / "multidb.yaml").read_text().replace("toy", "redis").replace("redis://", "toy://"))
    unknown = other.run("plan")
    assert (unknown.code, f'no state can be kept in "{place[:40]}' in unknown.err) == (2, True)
    folder.ok("state", "move", "--to", ".multidb/", "--yes")
    folder.ok("purge", "--json")


def served(folder: Beside) -> tuple[str, str]:
    """The page and the metrics of `multidb serve`, once both know of the store."""
    port = choose(())
    command = ["serve", "--port", str(port)]
    path = os.pathsep.join([str(REPOSITORY), str(folder.packages)])
    token = folder.ok("serve", "--show-token").out.split()[-1]
    process = subprocess.Popen(
        [sys.executable, "-c", "from multidb.cli import main; main()", *command],
        cwd=folder.path,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        headers = {"Authorization": f"Bearer {token}"}
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline
            try:
                page = httpx.get(f"http://127.0.0.1:{port}/", headers=headers, timeout=10).text
                metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers, timeout=10).text
            except httpx.TransportError:
                time.sleep(0.2)
                continue
            if "Toy" in page and HEALTHY.search(metrics):
                return page, metrics
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
