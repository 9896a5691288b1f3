"""Sets of apps on a Redis or Valkey server, kept in memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from multidb.model import App, Part
from tests.contract.redis_stage import Stage


def quiet(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
    pass


@dataclass
class Files:
    """A set in memory: writer and reader in one."""

    content: dict[str, bytes] = field(default_factory=dict)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        buffer = io.BytesIO()
        yield buffer
        self.content[name] = buffer.getvalue()

    def names(self) -> Sequence[str]:
        return list(self.content)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.content[name])


class Writer:
    def __init__(self, files: Files) -> None:
        self._files = files

    def file(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        return self._files.writing(name)


def backup(stage: Stage, app: App) -> tuple[Part, Files]:
    files = Files()
    with stage.archive() as archive:
        return archive.backup(app, stage.context, Writer(files), quiet), files
