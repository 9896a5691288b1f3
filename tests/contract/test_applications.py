"""Whole applications as their makers ship them, installed by themselves, with the variables of their profile."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from multidb.ports import choose
from tests.support.applications import answered, asked, connected, environment_with, running
from tests.support.command import Folder, program_output, project_folder

pytestmark = [pytest.mark.server, pytest.mark.rare, pytest.mark.timeout(900)]

MANIFEST = """\
version: 1
project: applications
runtime: embedded
servers: {postgres: {max_connections: 400}}
apps:
  models: {profile: mlflow, stores: [postgres]}
  flows: {profile: prefect, stores: [postgres]}
  dags: {profile: airflow, stores: [postgres, redis], postgres: {roles: split}}
  labels: {profile: label-studio, stores: [postgres]}
"""

RUNS = """\
import sys, mlflow
from concurrent.futures import ThreadPoolExecutor
mlflow.set_tracking_uri(sys.argv[1])
experiment, client = mlflow.set_experiment("x").experiment_id, mlflow.MlflowClient()

def logged(number):
    client.log_metric(client.create_run(experiment).info.run_id, "m", number)

with ThreadPoolExecutor(32) as at_once:
    print(len(list(at_once.map(logged, range(100)))))
"""
FLOW = """\
from prefect import flow, task

@task
def add(a, b):
    return a + b

@flow
def sums():
    return add(1, 2)

print(sums())
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("applications-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(packages) -> the folder of the programs of an environment that has them."""

    def install(*packages: str) -> Path:
        return environment_with(tmp_path_factory.mktemp("application") / "venv", *packages)

    return install


def test_mlflow_with_four_workers_and_many_clients(
    folder: Folder, installed: Callable[..., Path], tmp_path: Path
) -> None:
    programs, port = installed("mlflow", "psycopg2-binary"), choose(set())
    server = [programs / "mlflow", "server", "--workers", "4", "--port", str(port)]
    (tmp_path / "runs.py").write_text(RUNS)
    with running([*connected(folder, "models"), *server], tmp_path, {}) as log:
        answered(f"http://127.0.0.1:{port}/health", log)
        done = program_output([programs / "python", "runs.py", f"http://127.0.0.1:{port}"], tmp_path)
    assert done.splitlines()[-1] == "100"
    assert "too many connections" not in log.read_text()
    assert asked(folder, "models", "SELECT count(*) FROM metrics") == 100


def test_prefect_runs_a_flow(folder: Folder, installed: Callable[..., Path], tmp_path: Path) -> None:
    programs, port = installed("prefect"), choose(set())
    env = {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    (tmp_path / "flow.py").write_text(FLOW)
    server: list[str | Path] = [programs / "prefect", "server", "start", "--port", str(port)]
    with running([*connected(folder, "flows"), *server], tmp_path, env) as log:
        answered(f"http://127.0.0.1:{port}/api/health", log)
        api = {**env, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        assert program_output([programs / "python", "flow.py"], tmp_path, api).splitlines()[-1] == "3"
    assert asked(folder, "flows", "SELECT count(*) FROM flow_run") == 1


def test_airflow_migrates_with_split_roles_and_its_workers_answer(
    folder: Folder, installed: Callable[..., Path], tmp_path: Path
) -> None:
    programs = installed("apache-airflow[celery,postgres]")
    env = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    airflow = programs / "airflow"
    program_output([*connected(folder, "dags", "--migrate"), airflow, "db", "migrate"], tmp_path, env)
    owners = "SELECT string_agg(DISTINCT tableowner, ' ') FROM pg_tables WHERE schemaname = 'public'"
    assert asked(folder, "dags", owners) == "dags_owner"
    results = "from airflow.providers.celery.executors.celery_executor import app; app.backend.ResultSession().close()"
    python = programs / "python"
    program_output([*connected(folder, "dags", "--migrate"), python, "-c", results], tmp_path, env)
    program_output([*connected(folder, "dags"), airflow, "db", "check"], tmp_path, env)
    celery = ["-m", "celery", "-A", "airflow.providers.celery.executors.celery_executor.app"]
    ping = [*connected(folder, "dags"), python, *celery, "inspect", "ping", "--timeout", "5"]
    worker: list[str | Path] = [airflow, "celery", "worker", "--concurrency", "1", "--skip-serve-logs"]
    with running([*connected(folder, "dags"), *worker], tmp_path, env) as log:
        deadline = time.monotonic() + 180
        while True:
            done = subprocess.run(
                ping, cwd=tmp_path, env={**os.environ, **env}, capture_output=True, text=True, check=False
            )
            if "pong" in done.stdout:
                break
            assert time.monotonic() < deadline, log.read_text()[-3000:] + done.stdout + done.stderr
    assert "NOPERM" not in log.read_text()


def test_label_studio_migrates_as_it_starts(folder: Folder, installed: Callable[..., Path], tmp_path: Path) -> None:
    programs, port = installed("label-studio"), choose(set())
    env = {"LABEL_STUDIO_BASE_DATA_DIR": str(tmp_path), "COLLECT_ANALYTICS": "false", "SECRET_KEY": "of the test"}
    server: list[str | Path] = [programs / "label-studio", "start", "--no-browser", "--port", str(port)]
    with running([*connected(folder, "labels"), *server], tmp_path, env) as log:
        answered(f"http://127.0.0.1:{port}/health", log)
    assert asked(folder, "labels", "SELECT count(*) > 100 FROM django_migrations") is True
