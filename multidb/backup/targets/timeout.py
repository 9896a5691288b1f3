"""Targets whose calls may never come back: a disk that hangs, a mount whose server is gone, a library without a limit.

The system gives nobody up who waits for a disk. So each call is made in a thread of its own, for which nobody waits any
more when there is no answer; what it gives after that is put away there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from queue import Empty, SimpleQueue
from typing import BinaryIO, Final, TypeVar, cast

from multidb.backup.streams import Upload
from multidb.backup.targets import Target
from multidb.errors import TargetError
from multidb.progress import ProgressTimer

__all__ = ["CLEARING_TIMEOUT", "TimedTarget"]

CLEARING_TIMEOUT: Final = 10.0  # seconds for what is done after something has failed
_AT_ONCE: Final = 100  # entries of a listing that one call gives

_T = TypeVar("_T")


class TimedTarget:
    """A target of which each call has to end in time.

    Args:
        target: whose calls may take for ever, and may be left in the middle by the end of the process.
        progress_timeout: seconds for one call. After one that did not end, the next ones have ten seconds, until one
            does.
    """

    def __init__(self, target: Target, progress_timeout: float) -> None:
        self.name = target.name
        self.progress_timeout = progress_timeout
        self.still = False
        """Whether the last call did not end."""
        self._target = target

    def create(self, path: str) -> Upload:
        return self._begun(lambda: self._target.create(path))

    def resume(self, path: str) -> Upload:
        return self._begun(lambda: self._target.resume(path))

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        def close() -> None:
            opened.__exit__(None, None, None)

        with _Calls(self) as calls:
            opened = self._target.open(path)
            file = calls.made(opened.__enter__, late=lambda _: close())
            try:
                yield cast("BinaryIO", _TimedFile(calls, file))
            finally:
                with contextlib.suppress(TargetError):
                    calls.made(close, limit=CLEARING_TIMEOUT)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return self._listed(lambda: self._target.list(prefix))

    def unfinished(self, prefix: str) -> Iterator[str]:
        return self._listed(lambda: self._target.unfinished(prefix))

    def delete(self, path: str) -> None:
        with _Calls(self) as calls:
            calls.made(lambda: self._target.delete(path))

    def sweep(self, prefix: str) -> None:
        with _Calls(self) as calls:
            calls.made(lambda: self._target.sweep(prefix))

    def _begun(self, begin: Callable[[], Upload]) -> Upload:
        calls = _Calls(self)
        try:
            return _TimedUpload(calls, calls.made(begin, late=lambda upload: upload.abort()))
        except BaseException:
            calls.close()
            raise

    def _listed(self, find: Callable[[], Iterator[_T]]) -> Iterator[_T]:
        with _Calls(self) as calls:
            entries = find()
            while some := calls.made(lambda: list(islice(entries, _AT_ONCE))):
                yield from some


class _Calls:
    """Calls that are made one after the other, in one thread as long as each ends in time."""

    def __init__(self, target: TimedTarget) -> None:
        self._target = target
        self._asked: SimpleQueue[Callable[[], None] | None] | None = None

    def __enter__(self) -> _Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def made(
        self, call: Callable[[], _T], *, limit: float | None = None, late: Callable[[_T], object] = lambda _: None
    ) -> _T:
        """What the call gives, or raises.

        Args:
            limit: seconds, where it is not worth as much as other calls.
            late: what is done with what it gives when nobody waits for it any more.

        Raises:
            TargetError: it does not end in time.
        """
        answers: SimpleQueue[tuple[_T | None, BaseException | None]] = SimpleQueue()
        given_up = threading.Event()

        def work() -> None:
            try:
                given = call()
            except BaseException as error:
                answers.put((None, error))
            else:
                answers.put((given, None))
                if given_up.is_set():
                    with contextlib.suppress(Exception):
                        late(given)

        target = self._target
        if self._asked is None:
            self._asked = SimpleQueue()
            threading.Thread(target=_work, args=(self._asked,), name="multidb-target", daemon=True).start()
        timer = ProgressTimer(target.progress_timeout)
        self._asked.put(work)
        try:
            longest = min(timer.timeout, limit or timer.timeout, CLEARING_TIMEOUT if target.still else timer.timeout)
            given, failed = answers.get(timeout=longest)
        except BaseException as error:
            given_up.set()
            self.close()
            if not isinstance(error, Empty):
                raise
            target.still = True
            raise TargetError(timer.words, where=f"target {target.name}", hint=timer.hint) from None
        target.still = False
        if failed is not None:
            raise failed
        return cast("_T", given)

    def close(self) -> None:
        """The thread ends when what it has to do is done."""
        if self._asked is not None:
            self._asked.put(None)
            self._asked = None


def _work(asked: SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := asked.get()) is not None:
        call()


class _TimedUpload:
    """A file that is being written."""

    def __init__(self, calls: _Calls, upload: Upload) -> None:
        self._calls = calls
        self._upload = upload

    def write(self, data: bytes) -> None:
        self._calls.made(lambda: self._upload.write(data))

    def commit(self) -> None:
        self._calls.made(self._upload.commit)
        self._calls.close()

    def abort(self) -> None:
        with contextlib.suppress(TargetError):
            self._calls.made(self._upload.abort, limit=CLEARING_TIMEOUT)
        self._calls.close()


class _TimedFile:
    """A file that is read."""

    def __init__(self, calls: _Calls, file: BinaryIO) -> None:
        self._calls = calls
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._calls.made(lambda: self._file.read(size))
