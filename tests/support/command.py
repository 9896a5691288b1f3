"""Runs `multidb` the way a person does: as a process, in a folder, with nothing but its arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


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
        self, *arguments: str, stdin: str | None = None, env: dict[str, str] | None = None, timeout: float = 240
    ) -> Ran:
        ran = subprocess.run(
            [sys.executable, "-c", "from multidb.cli import main; main()", *arguments],
            cwd=self.path,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "COLUMNS": "120", **(env or {})},
            check=False,
        )
        done = Ran(arguments, ran.returncode, ran.stdout, ran.stderr)
        self.said.append(done)
        assert "Traceback (most recent call last)" not in ran.stderr + ran.stdout, ran.stderr
        return done

    def ok(self, *arguments: str, **options: Any) -> Ran:
        done = self.run(*arguments, **options)
        assert done.code == 0, f"multidb {' '.join(arguments)}: exit {done.code}\n{done.out}\n{done.err}"
        return done

    def manifest(self, text: str) -> None:
        (self.path / "multidb.yaml").write_text(text)
