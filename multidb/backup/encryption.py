"""Encryption of a set's files with age (https://age-encryption.org), streamed. Nothing about it is of our own making:
``age -d -i KEY`` reads what is written here.

A set is encrypted for *recipients* (public keys, in the manifest) and read with an *identity* (a secret key, in a file
that the manifest never names).
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from multidb.age_keys import Identities, read_identities, recipient
from multidb.errors import ArchiveError, WrongKey

__all__ = ["IDENTITY_VARIABLE", "Identities", "decrypting", "encrypting", "identities"]

IDENTITY_VARIABLE: Final = "MULTIDB_BACKUP_IDENTITY"
_CHUNK: Final = 64 * 1024  # age's own


def identities(path: Path | None, environment: Mapping[str, str]) -> Identities | None:
    """The keys of the file `path`, or of the one that ``MULTIDB_BACKUP_IDENTITY`` names; None when neither is given.

    Raises:
        UsageError: the file cannot be read, others can read it, or there is no key in it.
    """
    named = path or (Path(environment[IDENTITY_VARIABLE]) if environment.get(IDENTITY_VARIABLE) else None)
    if named is None:
        return None
    return read_identities(named, f"--identity FILE, or ${IDENTITY_VARIABLE}")


@contextlib.contextmanager
def encrypting(recipients: Sequence[str], write: Callable[[bytes], None]) -> Iterator[Callable[[bytes], None]]:
    """Gives a function that takes plain bytes; `write` gets the encrypted ones, the last of them when the block ends.

    age reads its input by itself, so it runs in a thread behind a pipe. An error of `write` comes out of the next call
    or of the end of the block. A block left by an error ends the thread; what `write` got is then worth nothing.
    """
    import pyrage

    keys = [recipient(text) for text in recipients]
    source, sink = os.pipe()
    output = _Output(write)

    def work() -> None:
        with io.FileIO(source, "rb") as reader, contextlib.suppress(Exception):  # `output` keeps what matters
            pyrage.encrypt_io(reader, output, keys)
            output.finished = True

    thread = threading.Thread(target=work, name="age", daemon=True)
    thread.start()
    try:
        with io.FileIO(sink, "wb") as pipe:

            def feed(data: bytes) -> None:
                try:
                    _write_all(pipe, data)
                except BrokenPipeError:
                    thread.join()
                    raise output.error or ArchiveError("age ended early") from None

            yield feed
    finally:
        thread.join()
    if not output.finished:
        raise output.error or ArchiveError("age could not encrypt")


@contextlib.contextmanager
def decrypting(source: BinaryIO, keys: Identities) -> Iterator[BinaryIO]:
    """The plain bytes of an encrypted stream, to be read from start to end.

    Raises:
        ArchiveError: from reading, when no key fits, or the bytes are not what age wrote.
    """
    import pyrage

    out, into = os.pipe()
    failure: list[Exception] = []
    reading = _Input(source)

    def work() -> None:
        with io.FileIO(into, "wb") as writer:
            try:
                pyrage.decrypt_io(reading, _Output(lambda data: _write_all(writer, data)), keys.keys)
            except Exception as error:
                failure.append(reading.error or error)

    thread = threading.Thread(target=work, name="age", daemon=True)
    thread.start()
    with io.FileIO(out, "rb") as plain:
        try:
            yield cast("BinaryIO", _Decrypted(plain, thread, failure))
        finally:
            plain.close()  # a thread that still writes gets a broken pipe, and ends
            thread.join()


class _Decrypted(io.RawIOBase):
    """The end of the pipe that gives plain bytes, and raises at its end what made the thread stop."""

    def __init__(self, pipe: io.FileIO, thread: threading.Thread, failure: list[Exception]) -> None:
        self._pipe = pipe
        self._thread = thread
        self._failure = failure

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._pipe.readinto(buffer) or 0
        if not count:
            self._thread.join()
            if self._failure:
                raise _explained(self._failure[0])
        return count


class _Output:
    """What age writes to. It would wrap our errors in its own; the first one is kept as it was."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self.error: BaseException | None = None
        self.finished = False

    def write(self, data: bytes) -> int:
        try:
            self._write(data)
        except BaseException as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""


class _Input:
    """What age reads from, with the first error kept."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            return self._source.read(size)
        except Exception as error:
            self.error = error
            raise


def _explained(error: Exception) -> Exception:
    if isinstance(error, ArchiveError):
        return error
    if "No matching keys" in str(error):
        return WrongKey(
            "is encrypted for another key", hint=f"give the right one: --identity FILE, or {IDENTITY_VARIABLE}=FILE"
        )
    return ArchiveError("cannot be decrypted: it is not what age wrote")


def _write_all(pipe: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view[:_CHUNK]) or 0 :]
