"""The Compose command line: it alone makes containers out of a compose file. Everything else asks the engine itself.

``docker compose`` (version 2, a plugin of Docker's command line) is taken where there is one, else ``docker-compose``
from 1.29 on, which Debian 12 has.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from multidb.errors import MultidbError, RuntimeUnavailable, ServerError, StartFailed, UsageError
from multidb.progress import ProgressTimer, ended_without
from multidb.secrets import redact

__all__ = ["command", "environment", "explain", "up"]

_CANDIDATES: Final = (("docker", "compose"), ("docker-compose",))
_OLDEST: Final = (1, 29)
_UNNUMBERED: Final = (2, 0)  # the second version calls itself "dev" when somebody has built it himself
_LAST_LINES: Final = 8
_TAKEN: Final = re.compile(r"(?:0\.0\.0\.0|127\.0\.0\.1|\[::\d?\]):(\d+).*(?:already allocated|already in use)")
_NO_IMAGE: Final = re.compile(r"(?:[Nn]o such image: |pull access denied for |manifest for )(\S+?)[,\s]")


def command() -> list[str]:
    """The argv with which Compose is called.

    Raises:
        RuntimeUnavailable: there is none on this machine, or only one that is too old.
    """
    too_old = ""
    for candidate in _CANDIDATES:
        version = _version(candidate)
        if version >= _OLDEST:
            return list(candidate)
        if version:
            too_old = f"{' '.join(candidate)} {'.'.join(map(str, version))} is too old; "
    raise RuntimeUnavailable(
        f"{too_old}Docker Compose is not installed",
        hint="install the plugin (docker-compose-plugin, or docker-compose on Debian), or use runtime: embedded",
    )


def up(
    file: Path,
    project: str,
    services: Sequence[str],
    extra: Mapping[str, str],
    heard: Callable[[str], None],
    progress_timeout: float,
) -> None:
    """Makes and starts the services of a compose file; returns when they are started, not when they are healthy.

    What has not changed since the last time is left alone. `heard` is told each line that Compose prints.

    Args:
        extra: what makes Compose talk to our engine.
        progress_timeout: seconds without a line of it after which it is ended.

    Raises:
        MultidbError: as `explain` says.
    """
    argv = [*command(), "-p", project, "-f", str(file), "up", "-d", "--no-build", *services]
    output = []
    with subprocess.Popen(
        argv,
        cwd=file.parent,
        env={**environment(os.environ, file.parent / ".env"), **extra},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        timer = ProgressTimer(progress_timeout)
        with ended_without(timer, lambda: _kill(process)):
            for line in process.stdout:
                timer.moved()
                if line.strip():
                    output.append(line.strip())
                    heard(output[-1])
            process.wait()
    if process.returncode and timer.expired():
        raise StartFailed(f"Docker Compose {timer.words}", where=str(file), hint=timer.hint)
    if process.returncode:
        raise explain(output, file)


def _kill(process: subprocess.Popen[str]) -> None:
    """With the plugin that it has started, which holds the same pipe."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
    process.kill()


def environment(inherited: Mapping[str, str], env_file: Path) -> dict[str, str]:
    """What Compose may see of our environment: nothing that would outweigh the rendered files.

    To Compose, a variable of the caller counts more than the ``.env`` beside the file: a POSTGRES_PASSWORD exported in
    somebody's shell would become the admin's password, and a COMPOSE_FILE would replace the file.
    """
    text = env_file.read_text(encoding="utf-8") if env_file.exists() else ""
    rendered = {match[1] for match in re.finditer(r"^(?:export )?([A-Za-z_][A-Za-z0-9_]*)=", text, re.MULTILINE)}
    kept = {
        name: value for name, value in inherited.items() if name not in rendered and not name.startswith("COMPOSE_")
    }
    return {**kept, "COMPOSE_ANSI": "never", "COMPOSE_PROGRESS": "plain", "COMPOSE_IGNORE_ORPHANS": "true"}


def explain(output: Sequence[str], file: Path) -> MultidbError:
    """The error for what Compose printed before it gave up."""
    text = "\n".join(output)
    if taken := _TAKEN.search(text):
        return UsageError(
            f"port {taken[1]} is taken by another process",
            where=str(file),
            hint="stop that process, or set another port under servers.<store>.port, then: multidb up",
        )
    if missing := _NO_IMAGE.search(f"{text}\n"):
        return ServerError(
            f"the image {missing[1]} is not there and cannot be pulled",
            hint=f"check servers.<store>.image in the manifest, and try: docker pull {missing[1]}",
        )
    return StartFailed(
        "Docker Compose could not start the servers; it ends with:\n"
        + "\n".join(f"  {line}" for line in redact(text).splitlines()[-_LAST_LINES:]),
        where=str(file),
        hint="correct the cause, then: multidb up (what is started already is left alone)",
    )


def _version(candidate: Sequence[str]) -> tuple[int, ...]:
    """The version of this Compose; empty when it is not there."""
    try:
        asked = subprocess.run(
            [*candidate, "version", "--short"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if asked.returncode:
        return ()
    match = re.search(r"(\d+)\.(\d+)", asked.stdout)
    return (int(match[1]), int(match[2])) if match else _UNNUMBERED
