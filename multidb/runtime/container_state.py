"""What the Docker engine says of a container, read and judged. Pure: its JSON comes in, words for people go out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from multidb.runtime import ServerState

__all__ = ["ContainerState", "Verdict", "judge", "read"]

_STOP_CODES = (0, 143)  # ended by itself, or by TERM, which is how a container is stopped
_LONGEST_OUTPUT = 300


@dataclass(frozen=True, slots=True)
class ContainerState:
    """One container at one moment.

    Args:
        status: created, running, paused, restarting, removing, exited or dead.
        health: starting, healthy or unhealthy; empty where the container has no health check.
        health_output: what the last health check printed.
        exit_code: of the last run; means nothing while it runs.
        out_of_memory: the last run was ended because the container's limit was reached.
        restarts: how often the engine has started it again by itself.
        addresses: its address in each network that it is in, by the network's name.
        folder: the folder of the compose file that it was made from.
        problem: why the engine could not start it.
        started: when it was last started, in seconds since 1970; 0 when it never was.
        pid: its first process, as the engine's machine numbers it; None when there is none.
        name: as the engine calls it.
    """

    service: str
    status: str
    health: str = ""
    health_output: str = ""
    exit_code: int = 0
    out_of_memory: bool = False
    restarts: int = 0
    addresses: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    problem: str = ""
    started: float = 0.0
    pid: int | None = None
    name: str = ""

    @property
    def way_on(self) -> str:
        """The command that lets one go on that is paused."""
        return f"docker unpause {self.name}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a container's state means for its server.

    Args:
        final: waiting longer changes nothing.
    """

    state: ServerState
    message: str = ""
    final: bool = True


def read(attributes: Mapping[str, Any]) -> ContainerState:
    """The container as ``GET /containers/<id>/json`` describes it, made by any version of Compose."""
    state = attributes.get("State") or {}
    health = state.get("Health") or {}
    labels = (attributes.get("Config") or {}).get("Labels") or {}
    networks = (attributes.get("NetworkSettings") or {}).get("Networks") or {}
    checks = health.get("Log") or []
    return ContainerState(
        service=labels.get("com.docker.compose.service", ""),
        status=state.get("Status", ""),
        health="" if health.get("Status") in (None, "none") else health["Status"],
        health_output=_short(checks[-1].get("Output") or "") if checks else "",
        exit_code=int(state.get("ExitCode") or 0),
        out_of_memory=bool(state.get("OOMKilled")),
        restarts=int(attributes.get("RestartCount") or 0),
        addresses={name: network["IPAddress"] for name, network in networks.items() if network.get("IPAddress")},
        folder=labels.get("com.docker.compose.project.working_dir", ""),
        problem=_short(state.get("Error") or ""),
        started=_seconds(state.get("StartedAt") or ""),
        pid=state.get("Pid") or None,
        name=(attributes.get("Name") or "").removeprefix("/"),
    )


def judge(seen: ContainerState | None) -> Verdict:
    """Whether the server in the container runs, and what to say about it. None: there is no container."""
    if seen is None:
        return Verdict(ServerState.STOPPED, "not started; multidb up")
    match seen.status:
        case "running":
            return _running(seen)
        case "restarting":
            return Verdict(ServerState.FAILED, f"ends after each start ({_end(seen)})", final=seen.restarts > 2)
        case "paused":
            return Verdict(ServerState.STOPPED, f"is paused; let it go on: {seen.way_on}")
        case "created":
            if seen.problem:
                return Verdict(ServerState.FAILED, f"could not be started: {seen.problem}")
            return Verdict(ServerState.STOPPED, "not started; multidb up", final=False)
    if seen.problem:
        return Verdict(ServerState.FAILED, f"could not be started: {seen.problem}")
    if seen.exit_code in _STOP_CODES and not seen.out_of_memory:
        return Verdict(ServerState.STOPPED, "is stopped; multidb up")
    return Verdict(ServerState.FAILED, f"has ended ({_end(seen)})")


def _running(seen: ContainerState) -> Verdict:
    if seen.restarts > 2 and seen.health != "healthy":
        return Verdict(ServerState.FAILED, f"ends after each start ({seen.restarts} times so far)")
    if seen.health == "starting":
        return Verdict(ServerState.FAILED, "is starting", final=False)
    if seen.health == "unhealthy":
        suffix = f": {seen.health_output}" if seen.health_output else ""
        return Verdict(ServerState.FAILED, f"runs and is not healthy{suffix}", final=False)
    return Verdict(ServerState.RUNNING)


def _end(seen: ContainerState) -> str:
    if seen.out_of_memory:
        return "it reached its memory limit"
    return f"exit code {seen.exit_code}"


def _seconds(moment: str) -> float:
    """The engine's ``2026-11-21T14:05:01.123456789Z`` in seconds since 1970; 0 for its year 1, which means never."""
    if not moment or moment.startswith("0001-"):
        return 0.0
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", moment)).timestamp()


def _short(text: str) -> str:
    """The text on one line, not longer than fits a message."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_OUTPUT else f"{line[:_LONGEST_OUTPUT]} ..."
