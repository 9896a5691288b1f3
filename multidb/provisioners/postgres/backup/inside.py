"""Running a program in the container of a server, which has those of its own version.

The command line of Docker is asked, since it finds the engine wherever a context or ``DOCKER_HOST`` says. Secrets reach
the program by name: the value is taken from the environment of that command line, and stands in no argument.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["LIST", "Inside", "located"]

LIST: Final = "/dev/fd/3"  # where a program finds its table of contents

_TIMEOUT: Final = 60  # seconds for a question to the engine
# A process in a container outlives the command line that has started it, so its number there is said first.
_NUMBERED: Final = 'echo "$$" >&2; '
# The table of contents comes first, and is a file without a name before the program starts: nothing of the app stays.
# Byte by byte, since what comes after it has to be left where it is.
_LISTED: Final = (
    'list=$(mktemp) && dd bs=1 count="$1" of="$list" 2>/dev/null && exec 3<"$list" && rm "$list" && shift && '
)


@dataclass(frozen=True, slots=True)
class Inside:
    """A running container.

    Args:
        container: its id.
    """

    container: str

    def command(self, program: Sequence[str], listed: int | None = None) -> list[str]:
        """The argv that runs a program in the container; the first line that it writes to stderr is its number there.

        Args:
            listed: how many bytes of standard input are no input of the program, but the file `LIST`.
        """
        environment = ["-e", "PGPASSWORD", "-e", "PGAPPNAME"]
        start = ["docker", "exec", "-i", *environment, self.container, "sh", "-c"]
        if listed is None:
            return [*start, f'{_NUMBERED}exec "$@"', "sh", *program]
        return [*start, f'{_NUMBERED}{_LISTED}exec "$@"', "sh", str(listed), *program]

    def end(self, number: str) -> None:
        """Ends the program of that number, which has its statement on the server cancelled. Gone already is fine."""
        argv = ["docker", "exec", self.container, "sh", "-c", 'kill "$1"', "sh", number]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT)


def located(project: str, service: str) -> Inside | None:
    """The running container of a service of Compose; None when there is none, or no engine that could say so."""
    labels = {"project": project, "service": service, "oneoff": "False"}
    filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
    try:
        asked = subprocess.run(
            ["docker", "ps", "--quiet", *filters],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    words = asked.stdout.split()
    return Inside(words[0]) if words else None
