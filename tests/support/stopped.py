"""A multidb that stops at a step of its work, to be killed there or to go on when something has happened meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.support.command import REPOSITORY, Folder

_STOPPING = """\
import os, signal, sys
from importlib import import_module
step = sys.argv.pop(1)
place, _, number = step.partition("#")
module, _, path = place.partition(":")
*owners, name = path.split(".")
owner = import_module(module)
for one in owners:
    owner = getattr(owner, one)
work, left = getattr(owner, name), int(number or 1)
def stop(*arguments, **options):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGSTOP)
    return work(*arguments, **options)
setattr(owner, name, stop)
from multidb.cli import main
main()
"""


def stopped_at(folder: Folder, step: str, *command: str) -> subprocess.Popen[str] | None:
    """A command that has come to a step and stands there, with nothing done of what comes then; None where it has ended
    before.

    Args:
        step: the function that it stops before it calls, ``module:name``, with ``#2`` at the end for the second call.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _STOPPING, step, *command],
        cwd=folder.path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return process
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.stdout is not None:
        process.stdout.close()
    return None


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def go_on(process: subprocess.Popen[str]) -> tuple[int, str]:
    """To its end: its exit code, and what it has said."""
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=900)
    return process.returncode, said
