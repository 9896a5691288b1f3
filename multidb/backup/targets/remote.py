"""Sets on any storage that fsspec has a file system for: ``sftp://``, ``gs://``, ``az://``, ``webdav://`` ...

Options and credentials come from fsspec's own configuration (``~/.config/fsspec``, ``FSSPEC_<PROTOCOL>_<OPTION>``).
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, TypeVar, cast

from multidb.backup.targets import safe, within
from multidb.errors import ArchiveError, TargetError, UsageError
from multidb.model import PROGRESS_TIMEOUT
from multidb.progress import ProgressTimer

__all__ = ["RemoteTarget"]

_UNFINISHED = ".part"
_CLEARING = 10.0  # seconds for what is done after something has failed

_T = TypeVar("_T")


class RemoteTarget:
    """A folder of such a storage. A file is written under a temporary name and moved, which every file system has;
    where moving is copying, a reader still sees the final name only when all of the file is there.

    Args:
        address: ``sftp://host/path``.
        progress_timeout: seconds that one call to the storage may take, which its file system may not limit.

    Raises:
        UsageError: the package for this kind of storage is not installed.
    """

    def __init__(self, address: str, progress_timeout: float = PROGRESS_TIMEOUT) -> None:
        self.name = address
        self._progress_timeout = progress_timeout
        try:
            import fsspec

            self._files, root = fsspec.core.url_to_fs(address)
        except ImportError as error:
            raise UsageError(f"needs a package: {error}", where=address, hint="pip install 'multidb[remote]'") from None
        except Exception as error:  # every file system has errors of its own
            raise UsageError(f"is no address that fsspec knows: {error}", where=address) from None
        self._root = str(root).rstrip("/")

    def create(self, path: str) -> _NewObject:
        final = self._full(path)
        with self.explaining(path):
            self.in_time(lambda: self._files.makedirs(final.rpartition("/")[0], exist_ok=True))
            return _NewObject(self, self._files, final)

    resume = create  # what was written of a file is gone with its run

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        with self.explaining(path):
            file = self.in_time(lambda: self._files.open(self._full(path), "rb"))
        with contextlib.closing(_Stored(self, file, path)) as stored:
            yield cast("BinaryIO", stored)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self.explaining(prefix):
            found = self._found(prefix)
        for path, size in within(found.items(), prefix, self.name):
            if not path.endswith(_UNFINISHED):
                yield path, size

    def unfinished(self, prefix: str) -> Iterator[str]:
        with self.explaining(prefix):
            found = self._found(prefix)
        for path, _ in within(found.items(), prefix, self.name):
            if path.endswith(_UNFINISHED):
                yield path

    def delete(self, path: str) -> None:
        with self.explaining(path), contextlib.suppress(FileNotFoundError):
            self.in_time(lambda: self._files.rm_file(self._full(path)))

    def sweep(self, prefix: str) -> None:
        with self.explaining(prefix):
            for path, _ in within(self._found(prefix).items(), prefix, self.name):
                if path.endswith(_UNFINISHED):
                    self.in_time(partial(self._files.rm_file, self._full(path)))
            folder = self._full(prefix)
            if self.in_time(lambda: self._files.isdir(folder)) and not self._found(prefix):
                self.in_time(lambda: self._files.rm(folder, recursive=True))

    @contextlib.contextmanager
    def explaining(self, path: str) -> Iterator[None]:
        """Errors of the storage as ours."""
        try:
            yield
        except ArchiveError:
            raise
        except FileNotFoundError:
            raise ArchiveError("is not there", where=f"{self.name} {path}") from None
        except Exception as error:  # every file system has errors of its own
            words = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise TargetError(
                words, where=f"target {self.name}", hint="check the address and the credentials, then run it again"
            ) from None

    def in_time(self, call: Callable[[], _T], most: float | None = None) -> _T:
        """What the call gives. It goes on in a thread of its own, which nobody waits for any more when it takes too
        long: many file systems know no limit.

        Args:
            most: seconds, where it is not worth as much as other calls.

        Raises:
            TargetError: it takes too long.
        """
        given: list[_T] = []
        failed: list[BaseException] = []

        def work() -> None:
            try:
                given.append(call())
            except BaseException as error:
                failed.append(error)

        timer = ProgressTimer(self._progress_timeout)
        worker = threading.Thread(target=work, name="multidb-target", daemon=True)
        worker.start()
        worker.join(min(self._progress_timeout, most or self._progress_timeout))
        if failed:
            raise failed[0]
        if not given:
            raise TargetError(timer.words, where=f"target {self.name}", hint=timer.hint)
        return given[0]

    def _found(self, prefix: str) -> dict[str, int]:
        """Size by path, relative to the target; what is not in it has no path."""
        self._files.invalidate_cache()
        full = self._full(prefix)
        found: dict[str, dict[str, Any]] = self.in_time(lambda: self._files.find(full, detail=True))
        return {self._relative(path): int(entry.get("size") or 0) for path, entry in found.items()}

    def _full(self, path: str) -> str:
        return f"{self._root}/{safe(path, self.name)}"

    def _relative(self, path: str) -> str:
        _, root, rest = path.partition(f"{self._root}/")
        return rest if root else ""


class _NewObject:
    """A file under a temporary name."""

    def __init__(self, target: RemoteTarget, files: Any, final: str) -> None:
        self._target = target
        self._files = files
        self._final = final
        self._temporary = f"{final}.{secrets.token_hex(4)}{_UNFINISHED}"
        self._file = target.in_time(lambda: files.open(self._temporary, "wb"))

    def write(self, data: bytes) -> None:
        with self._target.explaining(self._final):
            self._target.in_time(lambda: self._file.write(bytes(data)))

    def commit(self) -> None:
        with self._target.explaining(self._final):
            self._target.in_time(self._file.close)
            self._target.in_time(lambda: self._files.mv(self._temporary, self._final))

    def abort(self) -> None:
        with contextlib.suppress(Exception):
            self._target.in_time(self._file.close, _CLEARING)
        with contextlib.suppress(Exception):
            self._target.in_time(lambda: self._files.rm_file(self._temporary), _CLEARING)


class _Stored:
    """A file that is read."""

    def __init__(self, target: RemoteTarget, file: Any, path: str) -> None:
        self._target = target
        self._file = file
        self._path = path

    def read(self, size: int = -1) -> bytes:
        with self._target.explaining(self._path):
            return bytes(self._target.in_time(lambda: self._file.read(size)))

    def close(self) -> None:
        with contextlib.suppress(TargetError):
            self._target.in_time(self._file.close, _CLEARING)
