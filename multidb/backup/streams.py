"""The way of a set's bytes: store -> SHA-256 -> zstd -> age -> SHA-256 -> target, and back. Memory stays flat.

`StoreWriter` and `StoreReader` are what a store sees (`ArchiveWriter`, `ArchiveReader`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, BinaryIO, Final, Protocol, cast

import zstandard

from multidb.backup.encryption import IDENTITY_VARIABLE, Identities, decrypting, encrypting
from multidb.backup.sets import StoredFile, stored_path
from multidb.errors import ArchiveError, TargetError, WrongKey

__all__ = ["StoreReader", "StoreWriter", "Upload", "checked", "unpacked"]

_LEVEL: Final = 3
_BUFFER: Final = 256 * 1024
_WINDOW: Final = 128 * 1024**2  # bytes that unpacking may remember; ours needs 2 MB, a stranger's file may ask for 2 GB
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


class Upload(Protocol):
    """A file on its way to where it is kept."""

    def write(self, data: bytes) -> None: ...

    def commit(self) -> None:
        """The file is whole; when this returns it is there under its name, durably."""

    def abort(self) -> None:
        """Forgets the file; as far as can be, nothing of it is left. Raises nothing."""


class StoreWriter:
    """Takes the files of one store. After the store has ended, `files` tells what was written.

    Args:
        store: its name, the folder of its files in the set.
        create: begins a file, given its path in the set.
        recipients: whom to encrypt for; nobody: not encrypted.
        counted: told the plain bytes of each write.
    """

    def __init__(
        self,
        store: str,
        create: Callable[[str], Upload],
        recipients: Sequence[str] = (),
        counted: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._store = store
        self._create = create
        self._recipients = tuple(recipients)
        self._counted = counted
        self._busy = False
        self.files: list[StoredFile] = []

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """A new file, to be written from start to end; one at a time. A block left by an error leaves no file."""
        if not _NAME.fullmatch(name) or any(file.name == name for file in self.files):
            raise ValueError(f"{name!r} cannot be a new file of the set")
        if self._busy:
            raise ValueError("one file at a time")
        self._busy = True
        stored = stored_path(self._store, name, encrypted=bool(self._recipients))
        try:
            upload = self._create(stored)
            try:
                plain, kept = _Digest(), _Digest()
                yield from self._writing(upload, plain, kept)
                upload.commit()
            except BaseException:
                upload.abort()
                raise
            self.files.append(StoredFile(name, stored, plain.size, plain.digest(), kept.size, kept.digest()))
        finally:
            self._busy = False

    def _writing(self, upload: Upload, plain: _Digest, kept: _Digest) -> Iterator[BinaryIO]:
        def keep(data: bytes) -> None:
            kept.add(data)
            upload.write(data)

        with ExitStack() as stack:
            out = stack.enter_context(encrypting(self._recipients, keep)) if self._recipients else keep
            compressing = _Compressing(out, plain, self._counted)
            buffered = io.BufferedWriter(compressing, _BUFFER)
            try:
                yield buffered
                buffered.flush()
                compressing.finish()
            finally:
                compressing.ended = True


class StoreReader:
    """Gives the files of one store back as the store wrote them, each compared with what the set says of it.

    Args:
        files: as the set lists them.
        open_stored: opens a file by its path in the set.
        keys: what to decrypt with, where it is encrypted.
        where: the set, for messages.
        counted: told the plain bytes of each read.
    """

    def __init__(
        self,
        files: Sequence[StoredFile],
        open_stored: Callable[[str], AbstractContextManager[BinaryIO]],
        keys: Identities | None,
        where: str,
        counted: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._files = {file.name: file for file in files}
        self._open = open_stored
        self._keys = keys
        self._where = where
        self._counted = counted

    def names(self) -> Sequence[str]:
        """The files, in the order in which they were written."""
        return tuple(self._files)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """The plain bytes of a file. A block that ends well has verified the whole file, read or not.

        Raises:
            ArchiveError: the file is missing, empty, cut off, altered, or encrypted for another key.
        """
        if name not in self._files:
            raise ArchiveError(f"has no file {name}", where=self._where)
        file = self._files[name]
        where = f"{self._where} {file.stored}"
        with ExitStack() as stack:
            stored = _CheckedFile(stack.enter_context(self._open(file.stored)), file.stored_size, file.sha256, where)
            source = cast("BinaryIO", stored)
            if file.stored.endswith(".age"):
                source = stack.enter_context(decrypting(source, self._needed(where)))
            unpacked = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(
                source, read_across_frames=True, closefd=False
            )
            plain = _Plain(unpacked, source, stored, file, where, self._counted)
            yield io.BufferedReader(plain, _BUFFER)
            plain.drain()

    def check(self) -> None:
        """Reads every file to its end. `ArchiveError` names the first that is not as it was written."""
        for name in self._files:
            with self.file(name):
                pass

    def _needed(self, where: str) -> Identities:
        if self._keys is None:
            raise no_key(where)
        return self._keys


@contextlib.contextmanager
def unpacked(source: BinaryIO, keys: Identities | None, where: str, *, encrypted: bool) -> Iterator[BinaryIO]:
    """The plain bytes of a stored file of which nothing is known but that it was written as a set's files are.

    Args:
        keys: what to decrypt with, where it is encrypted.

    Raises:
        ArchiveError: from reading: it is damaged, or encrypted for another key.
    """
    with ExitStack() as stack:
        if encrypted:
            if keys is None:
                raise no_key(where)
            source = stack.enter_context(decrypting(source, keys))
        reading = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(source, closefd=False)
        yield cast("BinaryIO", _Unpacked(reading, where))


def no_key(where: str) -> WrongKey:
    """That what is encrypted cannot be read without a key."""
    return WrongKey(
        "is encrypted, and no key was given", where=where, hint=f"--identity FILE, or {IDENTITY_VARIABLE}=FILE"
    )


class _Unpacked:
    """Unpacked bytes, whose damage is an error of ours."""

    def __init__(self, reading: Any, where: str) -> None:
        self._reading = reading
        self._where = where

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._reading.read(size))
        except zstandard.ZstdError:
            raise ArchiveError(
                "cannot be unpacked", where=self._where, hint="take the same of another target"
            ) from None


def checked(raw: BinaryIO, file: StoredFile, where: str) -> BinaryIO:
    """The stored bytes of a file, whose end is an `ArchiveError` where they are not those that the set says."""
    return cast("BinaryIO", _CheckedFile(raw, file.stored_size, file.sha256, where))


class _Digest:
    """Counts bytes and digests them."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()

    def add(self, data: Any) -> None:
        self.size += len(data)
        self._sha256.update(data)

    def digest(self) -> str:
        return self._sha256.hexdigest()


class _Compressing(io.RawIOBase):
    """Takes plain bytes and hands on compressed ones."""

    def __init__(self, out: Callable[[bytes], None], plain: _Digest, counted: Callable[[int], None]) -> None:
        self._out = out
        self._plain = plain
        self._counted = counted
        self.ended = False  # what a buffer still holds after that is of a file that was given up
        self._zstd = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.ended:
            return len(data)
        self._plain.add(data)
        self._counted(len(data))
        if packed := self._zstd.compress(data):
            self._out(packed)
        return len(data)

    def finish(self) -> None:
        """Writes what the compressor still holds."""
        self._out(self._zstd.flush())


class _CheckedFile(io.RawIOBase):
    """The stored bytes, compared at their end with the set's size and SHA-256."""

    def __init__(self, raw: BinaryIO, size: int, sha256: str, where: str) -> None:
        self._raw = raw
        self._size = size
        self._sha256 = sha256
        self._where = where
        self._read = _Digest()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        self._read.add(data)
        if not data or self._read.size > self._size:  # what goes on without end is not read to its end
            self._compare()
        return len(data)

    def drain(self) -> None:
        """Reads on to the end, so that what is wrong with the file is told by its size or checksum, not by a parser."""
        while self.read(_BUFFER):
            pass

    def _compare(self) -> None:
        content = self._read
        if not content.size and self._size:
            raise ArchiveError("is empty", where=self._where, hint="take another set")
        if content.size != self._size:
            words = f"is cut off: {content.size:,} bytes" if content.size < self._size else "is too long"
            raise ArchiveError(
                f"{words}, the set says {self._size:,}",
                where=self._where,
                hint="take another set, or the same from another target",
            )
        if content.digest() != self._sha256:
            raise ArchiveError(
                "is not the file that was written: its SHA-256 is another",
                where=self._where,
                hint="take another set, or the same from another target",
            )


class _Plain(io.RawIOBase):
    """The unpacked bytes, compared at their end with what the store wrote."""

    def __init__(
        self,
        unpacked: Any,
        packed: BinaryIO,
        stored: _CheckedFile,
        file: StoredFile,
        where: str,
        counted: Callable[[int], None],
    ) -> None:
        self._unpacked = unpacked
        self._packed = packed
        self._stored = stored
        self._file = file
        self._where = where
        self._counted = counted
        self._seen = _Digest()
        self._checked = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._unpack(len(buffer))
        except TargetError:
            raise
        except ArchiveError as error:
            self._stored.drain()  # a wrong checksum is the better reason
            raise type(error)(error.message, where=self._where, hint=error.hint or "take another set") from None
        buffer[: len(data)] = data
        self._seen.add(data)
        self._counted(len(data))
        if self._seen.size > self._file.size:  # a small file can unpack to more than any disk holds
            raise ArchiveError(
                f"holds more than the {self._file.size:,} bytes that the set says",
                where=self._where,
                hint="take another set",
            )
        if not data and not self._checked:
            self._check_rest()
        return len(data)

    def drain(self) -> None:
        """Reads what the store has left unread."""
        while not self._checked:
            self.read(_BUFFER)

    def _unpack(self, size: int) -> bytes:
        try:
            return bytes(self._unpacked.read(size))
        except zstandard.ZstdError:
            while self._packed.read(_BUFFER):  # where it is encrypted, a thread reads ahead of us; let it end
                pass
            raise ArchiveError("cannot be unpacked") from None

    def _check_rest(self) -> None:
        self._stored.drain()
        if (self._seen.size, self._seen.digest()) != (self._file.size, self._file.plain_sha256):
            raise ArchiveError("does not hold what the store wrote", where=self._where, hint="take another set")
        self._checked = True
