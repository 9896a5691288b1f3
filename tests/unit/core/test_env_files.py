"""An app's env file is the same whichever command writes it, and says where the app reaches its servers."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest

from multidb.cli.env_files import following_servers, write_env_files
from multidb.cli.output import Output
from multidb.deployment import Deployment, containers
from multidb.fleet import Fleet
from multidb.model import Endpoint
from multidb.project import load_project
from multidb.provisioners import provisioner
from multidb.secrets import generate

MANIFEST = """\
version: 1
project: digi
runtime: compose
servers: {neo4j: {isolation: instance}}
apps:
  ann: {stores: [postgres, neo4j, redis]}
  bob: {stores: [postgres, redis]}
"""


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Servers in containers that were started, and apps that were applied, as far as the records tell."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    (tmp_path / "multidb.yaml").write_text(MANIFEST)
    fleet = Fleet(load_project(tmp_path / "multidb.yaml"))
    apps = fleet.project.apps.values()
    specs = [spec for app in apps for store in app.stores for spec in provisioner(store).secrets(app)]
    fleet.state.secrets.put({spec.ref: generate() for spec in specs})
    fleet.state.secrets.put({server.admin_ref: generate() for server in containers(fleet.project)})
    with fleet.state.change("numbers") as section:
        section["redis"] = {"ann": 1, "bob": 2}
    return fleet


def write(fleet: Fleet, *apps: str) -> tuple[list[str], str]:
    said = io.StringIO()
    with redirect_stderr(said):
        written = write_env_files(fleet, Output("env"), apps)
    return [str(path.relative_to(fleet.project.root)) for path in written], said.getvalue()


def test_every_command_writes_the_same_file(fleet: Fleet, tmp_path: Path) -> None:
    rendered = Deployment(fleet.project, fleet.state).files(new_secrets=True)
    Deployment(fleet.project, fleet.state).write(rendered)
    assert write(fleet, "ann", "bob") == ([], ""), "there is nothing to change in what render wrote"
    for app in ("ann", "bob"):
        assert "postgres:5432" in rendered[f"apps/{app}/.env"].text
        (tmp_path / "apps" / app / ".env").unlink()
        (tmp_path / "apps" / app / ".env.example").unlink()
    assert write(fleet, "ann", "bob")[0] == ["apps/ann/.env", "apps/bob/.env"]
    for path in (f"apps/{app}/{name}" for app in ("ann", "bob") for name in (".env", ".env.example")):
        assert (tmp_path / path).read_text() == rendered[path].text


def test_a_file_that_others_can_read_is_closed_again(fleet: Fleet, tmp_path: Path) -> None:
    write(fleet, "bob")
    file = tmp_path / "apps" / "bob" / ".env"
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    assert write(fleet, "bob")[0] == ["apps/bob/.env"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_a_person_wrote_stays(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "apps" / "bob" / ".env"
    file.parent.mkdir(parents=True)
    file.write_text("MINE=1\n")
    written, said = write(fleet, "bob", "ann")
    assert written == ["apps/ann/.env"]
    assert "left alone" in said
    assert file.read_text() == "MINE=1\n"


class Moving:
    """A runtime whose servers, as apps see them, may be elsewhere after the block."""

    def __init__(self, fleet: Fleet) -> None:
        self._own = fleet.runtime
        self.moved: dict[str, Endpoint | None] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def app_endpoints(self) -> dict[str, Endpoint]:
        endpoints = {**self._own.app_endpoints(), **self.moved}
        return {name: endpoint for name, endpoint in endpoints.items() if endpoint is not None}


@pytest.mark.parametrize(
    ("before", "after", "written"),
    [
        ({}, {}, []),
        ({}, {"redis": Endpoint("redis", 7000)}, ["ann", "bob"]),
        ({"neo4j-ann": None}, {}, ["ann"]),  # it had no address, or none that was remembered
        ({}, {"qdrant": Endpoint("qdrant", 7000)}, []),  # which none of them uses
    ],
)
def test_the_files_follow_the_address_that_apps_see(
    fleet: Fleet,
    tmp_path: Path,
    before: dict[str, Endpoint | None],
    after: dict[str, Endpoint | None],
    written: list[str],
) -> None:
    write(fleet, "ann")
    write(fleet, "bob")
    for app in ("ann", "bob"):
        file = tmp_path / "apps" / app / ".env"
        file.write_text(file.read_text().splitlines()[0])
    fleet.runtime = runtime = Moving(fleet)
    runtime.moved = before
    with following_servers(fleet, Output("up")):
        runtime.moved = after
    files = {app: (tmp_path / "apps" / app / ".env").read_text() for app in ("ann", "bob")}
    assert [app for app, text in files.items() if "REDIS_URL" in text] == written
    assert all(f"redis:{after['redis'].port}" in files[app] for app in written if "redis" in after)
