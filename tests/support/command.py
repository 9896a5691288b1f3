"""Runs `multidb` the way a person does: as a process, in a folder, with nothing but its arguments.

A command is some two thirds of a second of imports, and the suite runs more than a thousand. So a process is not begun
from nothing each time: it is forked from one that has imported multidb and its libraries and done nothing else. A
command that is given an environment of its own is begun from nothing, as its libraries read theirs when imported; but
for secrets, which no library looks for.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pty
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from multidb.cli.command_line import wants_document
from tests.support.documents import assert_documented

REPOSITORY = Path(__file__).resolve().parents[2]
_SURROUNDINGS = {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "COLUMNS": "120"}
_SECRET = re.compile(r"([A-Z_]*_)?(PASSWORD|ADMIN)")  # variables that only manifests and commands name

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.support.imported"])


@dataclass(frozen=True)
class Ran:
    arguments: tuple[str, ...]
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Folder:
    """A project's folder and everything that was said in it."""

    path: Path
    said: list[Ran]

    def run(
        self,
        *arguments: str,
        stdin: str | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 240,
        before: Callable[[], None] | None = None,
    ) -> Ran:
        """Runs it to its end.

        Args:
            before: what its process does first; only where it gets no environment of its own.
        """
        surroundings = {**os.environ, **_SURROUNDINGS, **(env or {})}
        if all(map(_SECRET.fullmatch, env or ())):
            done = _forked(self.path, arguments, stdin, surroundings, timeout, before)
        else:
            done = _begun(self.path, arguments, stdin, surroundings, timeout)
        self.said.append(done)
        assert "Traceback (most recent call last)" not in done.err + done.out, done.err
        if wants_document(arguments) and "--help" not in arguments:
            assert_documented(done.out)
        return done

    def ok(self, *arguments: str, **options: Any) -> Ran:
        done = self.run(*arguments, **options)
        assert done.code == 0, f"multidb {' '.join(arguments)}: exit {done.code}\n{done.out}\n{done.err}"
        return done

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that runs meanwhile. It can be killed at any moment: nothing else is in its process."""
        command = [sys.executable, "-c", "from multidb.cli import main; main()", *arguments]
        env, pipe = {**os.environ, "PYTHONPATH": str(REPOSITORY)}, subprocess.PIPE
        return subprocess.Popen(command, cwd=self.path, env=env, stdout=pipe, stderr=pipe, text=True)

    def variables(self, app: str) -> dict[str, str]:
        """The app's variables, with its credentials."""
        variables: dict[str, str] = self.ok("env", app, "--format", "json", "--reveal").json()
        return variables

    def manifest(self, text: str) -> None:
        (self.path / "multidb.yaml").write_text(text)


@contextlib.contextmanager
def project_folder(prefix: str, manifest: str) -> Iterator[Folder]:
    """A project in a temporary folder, whose servers are stopped at the end."""
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        path = Path(name)
        path.chmod(0o755)  # as root, Postgres runs as another user, who has to get in
        folder = Folder(path, [])
        folder.manifest(manifest)
        try:
            yield folder
        finally:
            folder.run("down")


def program_output(
    command: Sequence[str | Path], at: Path, env: Mapping[str, str] | None = None, timeout: float = 400
) -> str:
    """What another program printed that has to succeed, in this folder and with these variables besides."""
    done = subprocess.run(
        command, cwd=at, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def on_terminal(folder: Path, arguments: list[str], *, typed: str = "", **env: str) -> tuple[int, str]:
    """A command on a terminal at which somebody has typed these lines: its exit code, and what it shows."""
    master, slave = pty.openpty()
    command = [sys.executable, "-c", "from multidb.cli import main; main()", *arguments]
    surroundings = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"}
    try:
        run = subprocess.Popen(
            command, cwd=folder, stdin=slave, stdout=slave, stderr=subprocess.STDOUT, env={**surroundings, **env}
        )
        os.close(slave)
        os.write(master, typed.encode())
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while chunk := os.read(master, 65536):
                shown += chunk
        return run.wait(60), shown.decode()
    finally:
        os.close(master)


def _begun(path: Path, arguments: tuple[str, ...], stdin: str | None, env: dict[str, str], timeout: float) -> Ran:
    ran = subprocess.run(
        [sys.executable, "-c", "from multidb.cli import main; main()", *arguments],
        cwd=path,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
        check=False,
    )
    return Ran(arguments, ran.returncode, ran.stdout, ran.stderr)


def _forked(
    path: Path,
    arguments: tuple[str, ...],
    stdin: str | None,
    env: dict[str, str],
    timeout: float,
    before: Callable[[], None] | None,
) -> Ran:
    with tempfile.TemporaryDirectory(prefix="multidb-ran-") as name:
        streams = Path(name)
        if stdin is not None:
            (streams / "in").write_text(stdin)
        process = started(path, arguments, streams, env, before)
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["multidb", *arguments], timeout)
        code = process.exitcode
        assert code is not None
        process.close()
        return Ran(arguments, code, (streams / "out").read_text(), (streams / "err").read_text())


def started(
    path: Path,
    arguments: tuple[str, ...],
    streams: Path,
    env: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> ForkServerProcess:
    """A command that runs in the folder `path`. What it says comes into ``out`` and ``err`` in the folder `streams`.

    Args:
        before: what its process does first.
    """
    env = env or {**os.environ, **_SURROUNDINGS}
    process = FORKS.Process(target=_command, args=(str(path), arguments, streams, env, before))
    process.start()
    return process


def _command(
    path: str, arguments: tuple[str, ...], streams: Path, env: dict[str, str], before: Callable[[], None] | None
) -> None:
    """What the forked process does: takes its folder, environment and streams, and is the command."""
    os.chdir(path)
    os.environ.clear()
    os.environ.update(env)
    given = streams / "in"
    for number, name, flags in (
        (0, given if given.exists() else Path(os.devnull), os.O_RDONLY),
        (1, streams / "out", os.O_WRONLY | os.O_CREAT),
        (2, streams / "err", os.O_WRONLY | os.O_CREAT),
    ):
        stream = os.open(name, flags, 0o600)
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = ["multidb", *arguments]
    if before is not None:
        before()
    from multidb.cli import main

    main()
