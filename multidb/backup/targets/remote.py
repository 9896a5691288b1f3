"""Sets on any storage that fsspec has a file system for: ``sftp://``, ``gs://``, ``az://``, ``webdav://`` ...

Options and credentials come from fsspec's own configuration (``~/.config/fsspec``, ``FSSPEC_<PROTOCOL>_<OPTION>``).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from functools import cached_property
from typing import Any, BinaryIO, cast

from multidb.backup.targets import safe, within
from multidb.distribution import add_command
from multidb.errors import ArchiveError, TargetError, UsageError

__all__ = ["RemoteTarget"]

_UNFINISHED = ".part"


class RemoteTarget:
    """A folder of such a storage. A file is written under a temporary name and moved, which every file system has;
    where moving is copying, a reader still sees the final name only when all of the file is there.

    Args:
        address: ``sftp://host/path``.

    Raises:
        UsageError: the package for this kind of storage is not installed.
    """

    def __init__(self, address: str) -> None:
        self.name = address
        try:
            import fsspec

            fsspec.get_filesystem_class(address.partition("://")[0])
        except ImportError as error:
            raise UsageError(f"needs a package: {error}", where=address, hint=add_command("[remote]")) from None
        except Exception as error:  # every file system has errors of its own
            raise UsageError(f"is no address that fsspec knows: {error}", where=address) from None
        self._url_to_fs = fsspec.core.url_to_fs

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system, to which some connect at once, and the path in it."""
        files, root = self._url_to_fs(self.name)
        return files, str(root).rstrip("/")

    @property
    def _files(self) -> Any:
        return self._opened[0]

    def create(self, path: str) -> _NewObject:
        with self.explaining(path):
            final = self._full(path)
            self._files.makedirs(final.rpartition("/")[0], exist_ok=True)
            return _NewObject(self, self._files, final)

    resume = create  # what was written of a file is gone with its run

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        with self.explaining(path):
            file = self._files.open(self._full(path), "rb")
        with contextlib.closing(_Stored(self, file, path)) as stored:
            yield cast("BinaryIO", stored)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self.explaining(prefix):
            files = self._files_below(prefix)
        for path, size in within(files.items(), prefix, self.name):
            if not path.endswith(_UNFINISHED):
                yield path, size

    def unfinished(self, prefix: str) -> Iterator[str]:
        with self.explaining(prefix):
            files = self._files_below(prefix)
        for path, _ in within(files.items(), prefix, self.name):
            if path.endswith(_UNFINISHED):
                yield path

    def delete(self, path: str) -> None:
        with self.explaining(path), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._full(path))

    def sweep(self, prefix: str) -> None:
        with self.explaining(prefix):
            for path, _ in within(self._files_below(prefix).items(), prefix, self.name):
                if path.endswith(_UNFINISHED):
                    self._files.rm_file(self._full(path))
            folder = self._full(prefix)
            if self._files.isdir(folder) and not self._files_below(prefix):
                self._files.rm(folder, recursive=True)

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

    def _files_below(self, prefix: str) -> dict[str, int]:
        """Size by path, relative to the target; what is not in it has no path."""
        self._files.invalidate_cache()
        full = self._full(prefix)
        files: dict[str, dict[str, Any]] = self._files.find(full, detail=True)
        return {self._relative(path): int(entry.get("size") or 0) for path, entry in files.items()}

    def _full(self, path: str) -> str:
        return f"{self._opened[1]}/{safe(path, self.name)}"

    def _relative(self, path: str) -> str:
        _, root, rest = path.partition(f"{self._opened[1]}/")
        return rest if root else ""


class _NewObject:
    """A file under a temporary name."""

    def __init__(self, target: RemoteTarget, files: Any, final: str) -> None:
        self._target = target
        self._files = files
        self._final = final
        self._temporary = f"{final}.{secrets.token_hex(4)}{_UNFINISHED}"
        self._file = files.open(self._temporary, "wb")

    def write(self, data: bytes) -> None:
        with self._target.explaining(self._final):
            self._file.write(bytes(data))

    def commit(self) -> None:
        with self._target.explaining(self._final):
            self._file.close()
            self._files.mv(self._temporary, self._final)

    def abort(self) -> None:
        with contextlib.suppress(Exception):
            self._file.close()
        with contextlib.suppress(Exception):
            self._files.rm_file(self._temporary)


class _Stored:
    """A file that is read."""

    def __init__(self, target: RemoteTarget, file: Any, path: str) -> None:
        self._target = target
        self._file = file
        self._path = path

    def read(self, size: int = -1) -> bytes:
        with self._target.explaining(self._path):
            return bytes(self._file.read(size))

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._file.close()
