from __future__ import annotations

from pathlib import Path

import pytest

from multidb.errors import RuntimeUnavailable, ServerError, StartFailed, UsageError
from multidb.runtime import compose_tool

FILE = Path("infrastructure/docker-compose.yml")


def test_a_variable_of_the_callers_shell_does_not_outweigh_the_rendered_file(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("# POSTGRES_DB=x\nPOSTGRES_PASSWORD=rendered\nexport QDRANT_KEY=k\n")
    shell = {"POSTGRES_PASSWORD": "mine", "QDRANT_KEY": "mine", "COMPOSE_FILE": "other.yml", "POSTGRES_DB": "y"}

    child = compose_tool.environment({**shell, "PATH": "/bin"}, env_file)

    assert {"POSTGRES_PASSWORD", "QDRANT_KEY", "COMPOSE_FILE"} & set(child) == set()
    assert child["PATH"] == "/bin"
    assert child["POSTGRES_DB"] == "y"  # only a comment names it


@pytest.mark.parametrize(
    "said",
    [
        "Error response from daemon: driver failed programming external connectivity on endpoint digi-postgres-1: "
        "Bind for 127.0.0.1:5432 failed: port is already allocated",
        "ERROR: for postgres  Cannot start service postgres: driver failed programming external connectivity on "
        "endpoint digi_postgres_1 (0c1e): Error starting userland proxy: listen tcp4 127.0.0.1:5432: bind: address "
        "already in use",
    ],
)
def test_a_taken_port_is_named(said: str) -> None:
    error = compose_tool.explain([said], FILE)

    assert isinstance(error, UsageError)
    assert "port 5432 is taken" in error.message


@pytest.mark.parametrize(
    "said",
    [
        "Error response from daemon: pull access denied for digi/pg, repository does not exist or may require ...",
        "Error response from daemon: manifest for digi/pg not found: manifest unknown",
        "Error: No such image: digi/pg",
    ],
)
def test_an_image_that_cannot_be_had_is_named(said: str) -> None:
    error = compose_tool.explain([said], FILE)

    assert isinstance(error, ServerError)
    assert "the image digi/pg " in error.message
    assert error.hint is not None
    assert "docker pull digi/pg" in error.hint


def test_anything_else_is_shown_as_compose_said_it_last() -> None:
    error = compose_tool.explain([f"line {number}" for number in range(50)], FILE)

    assert "line 49" in error.message
    assert "line 40" not in error.message
    assert error.where == str(FILE)


def test_without_compose_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(RuntimeUnavailable, match="not installed") as caught:
        compose_tool.command()

    assert "docker-compose-plugin" in str(caught.value.hint)


def test_a_compose_that_is_too_old_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path / "docker-compose", "echo 1.25.0")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(RuntimeUnavailable, match=r"docker-compose 1\.25 is too old"):
        compose_tool.command()


def test_one_that_stands_still_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    _program(
        tmp_path / "docker-compose",
        'PATH=/usr/bin:/bin; [ "$1" = version ] && echo 1.29.2 || { echo begun; sleep 600; }',
    )
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(StartFailed, match="Docker Compose has made no progress") as caught:
        compose_tool.up(tmp_path / "compose.yaml", "shop", ["redis"], {}, said.append, 0.5)

    assert said[:1] == ["begun"]  # the shell may say after it that its program was killed
    assert "progress_timeout" in str(caught.value.hint)


@pytest.mark.parametrize("version", ["v2.40.1", "dev"])
def test_the_plugin_is_taken_before_the_old_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    _program(tmp_path / "docker-compose", "echo 1.29.2")
    _program(tmp_path / "docker", f'[ "$1" = compose ] && echo {version}')
    monkeypatch.setenv("PATH", str(tmp_path))

    assert compose_tool.command() == ["docker", "compose"]


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
