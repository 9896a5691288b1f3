from __future__ import annotations

import pytest

from multidb.runtime import ServerState
from multidb.runtime.container_state import ContainerState, judge, read


def described(status: str, **state: object) -> dict[str, object]:
    return {
        "State": {"Status": status, **state},
        "RestartCount": 0,
        "Config": {
            "Labels": {
                "com.docker.compose.service": "postgres",
                "com.docker.compose.project.working_dir": "/srv/digi/infrastructure",
            }
        },
        "NetworkSettings": {"Networks": {"digi": {"IPAddress": "172.18.0.2"}, "other": {"IPAddress": ""}}},
    }


def test_reads_what_the_engine_says() -> None:
    checks = [{"Output": "first"}, {"Output": "no response\n  yet\n"}]
    seen = read(
        described(
            "running",
            Health={"Status": "unhealthy", "Log": checks},
            ExitCode=0,
            Pid=77,
            StartedAt="1970-01-01T00:01:40.123456789Z",
        )
    )

    assert seen == ContainerState(
        service="postgres",
        status="running",
        health="unhealthy",
        health_output="no response yet",
        addresses={"digi": "172.18.0.2"},
        folder="/srv/digi/infrastructure",
        started=100.123456,
        pid=77,
    )


@pytest.mark.parametrize("health", [None, {}, {"Status": "none", "Log": None}])
def test_a_container_without_health_check_has_no_health(health: object) -> None:
    assert read(described("running", Health=health)).health == ""


def test_a_container_that_was_never_started_has_no_start() -> None:
    assert read(described("created", StartedAt="0001-01-01T00:00:00Z")).started == 0.0


def test_a_stranger_without_labels_or_networks_can_be_read() -> None:
    assert read({"State": {"Status": "exited"}, "Config": {"Labels": None}, "NetworkSettings": {}}) == ContainerState(
        "", "exited"
    )


@pytest.mark.parametrize(
    ("seen", "state", "words", "final"),
    [
        (None, ServerState.STOPPED, "multidb up", True),
        (ContainerState("s", "running", "healthy"), ServerState.RUNNING, "", True),
        (ContainerState("s", "running"), ServerState.RUNNING, "", True),
        (ContainerState("s", "running", "starting"), ServerState.FAILED, "is starting", False),
        (
            ContainerState("s", "running", "unhealthy", health_output="refused"),
            ServerState.FAILED,
            "not healthy: refused",
            False,
        ),
        (ContainerState("s", "running", "starting", restarts=3), ServerState.FAILED, "after each start", True),
        (ContainerState("s", "restarting", exit_code=1, restarts=1), ServerState.FAILED, "exit code 1", False),
        (ContainerState("s", "restarting", exit_code=1, restarts=3), ServerState.FAILED, "exit code 1", True),
        (ContainerState("s", "paused", name="shop-s-1"), ServerState.STOPPED, "docker unpause shop-s-1", True),
        (ContainerState("s", "created"), ServerState.STOPPED, "multidb up", False),
        (ContainerState("s", "created", problem="no such device"), ServerState.FAILED, "no such device", True),
        (ContainerState("s", "exited"), ServerState.STOPPED, "is stopped", True),
        (ContainerState("s", "exited", exit_code=143), ServerState.STOPPED, "is stopped", True),
        (ContainerState("s", "exited", exit_code=1), ServerState.FAILED, "exit code 1", True),
        (ContainerState("s", "exited", exit_code=137, out_of_memory=True), ServerState.FAILED, "memory limit", True),
        (ContainerState("s", "exited", exit_code=128, problem="bad mount"), ServerState.FAILED, "bad mount", True),
        (ContainerState("s", "dead", exit_code=1), ServerState.FAILED, "has ended", True),
    ],
)
def test_judges(seen: ContainerState | None, state: ServerState, words: str, final: bool) -> None:
    verdict = judge(seen)

    assert (verdict.state, verdict.final) == (state, final)
    assert words in verdict.message


def test_a_server_that_went_through_restarts_and_is_healthy_now_runs() -> None:
    assert judge(ContainerState("s", "running", "healthy", restarts=5)).state is ServerState.RUNNING


def test_what_a_health_check_prints_is_cut_to_one_line() -> None:
    checks = [{"Output": "x\n" * 5000}]
    said = read(described("running", Health={"Status": "unhealthy", "Log": checks})).health_output

    assert "\n" not in said
    assert len(said) < 400
