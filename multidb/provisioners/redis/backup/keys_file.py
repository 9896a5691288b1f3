"""The file that holds an app's keys. Pure: bytes in, records out.

All numbers are big-endian. The file is::

    header    8 bytes   "MDBREDIS"
              u16       version of this format: 1
              u16       RDB version of the payloads, as in their last ten bytes
    record    u8        1
              i64       when the key expires, in milliseconds since 1970; -1: never
              u32, u64  length of the key, length of the payload
              bytes     the key, without the prefix of an app that has one
              bytes     what DUMP gave; its first byte is the RDB type, and RESTORE takes it as it is
    trailer   u8        0
              u64       number of records
              u32       CRC-32 of everything before it, the trailer's count included

So ``RESTORE <key> <when, or 0> <payload> REPLACE ABSTTL`` for each record is a restore by hand.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from multidb.errors import ArchiveError

__all__ = ["LONGEST", "NEVER", "KeysReader", "KeysWriter", "Record", "rdb_version"]

NEVER: Final = -1
_MAGIC: Final = b"MDBREDIS"
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sHH")
_RECORD: Final = struct.Struct(">BqIQ")
_COUNT: Final = struct.Struct(">BQ")
_CHECKSUM: Final = struct.Struct(">I")
LONGEST: Final = 512 << 20  # bytes that a server takes in one word, unless its proto-max-bulk-len says otherwise
_BUFFER: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Record:
    """One key: its name, its serialized value, and when it expires (milliseconds since 1970, or `NEVER`).

    Args:
        measurable: the value is in the shape that it has when it is restored. Else two servers may give other bytes for
            the same value.
    """

    key: bytes
    payload: bytes
    expiry: int
    measurable: bool = True


def rdb_version(payload: bytes) -> int:
    """The RDB version in the footer of what DUMP gave."""
    return int.from_bytes(payload[-10:-8], "little")


class KeysWriter:
    """Writes records to `out`; `close` writes the trailer."""

    def __init__(self, out: BinaryIO, rdb: int) -> None:
        self._out = out
        self._buffer = bytearray(_HEADER.pack(_MAGIC, _VERSION, rdb))
        self._checksum = 0
        self.count = 0

    def write(self, record: Record) -> None:
        """Adds one record."""
        self._buffer += _RECORD.pack(1, record.expiry, len(record.key), len(record.payload))
        self._buffer += record.key
        self._buffer += record.payload
        self.count += 1
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def close(self) -> None:
        """Writes the trailer, without which the file is not a whole one."""
        self._buffer += _COUNT.pack(0, self.count)
        self._flush()
        self._out.write(_CHECKSUM.pack(self._checksum))

    def _flush(self) -> None:
        self._checksum = zlib.crc32(self._buffer, self._checksum)
        self._out.write(self._buffer)
        self._buffer = bytearray()


class KeysReader:
    """Reads what `KeysWriter` wrote. Holds one record at a time.

    Args:
        longest: bytes that a key or value may have. A file that says more is not read on.

    Raises:
        ArchiveError: the file is no such file, is cut off or altered. What was altered may be found only at its end.
    """

    def __init__(self, file: BinaryIO, longest: int = LONGEST) -> None:
        self._file = file
        self._longest = longest
        self._checksum = 0
        magic, version, self.rdb = _HEADER.unpack(self._read(_HEADER.size))
        if magic != _MAGIC:
            raise ArchiveError("the file does not hold Redis keys")
        if version != _VERSION:
            raise ArchiveError(f"the file has format {version}, and this multidb reads {_VERSION}")

    def __iter__(self) -> Iterator[Record]:
        count = 0
        while self._peek() == 1:
            _, expiry, key_length, length = _RECORD.unpack(b"\1" + self._read(_RECORD.size - 1))
            if max(key_length, length) > self._longest:
                raise ArchiveError(
                    f"the file holds a key or value of {max(key_length, length)} bytes, and the server takes "
                    f"{self._longest}",
                    hint="raise the server's proto-max-bulk-len if that is true of the app, or take another set",
                )
            yield Record(self._read(key_length), self._read(length), expiry)
            count += 1
        _, written = _COUNT.unpack(b"\0" + self._read(_COUNT.size - 1))
        checksum = self._checksum
        if (checksum,) != _CHECKSUM.unpack(self._read(_CHECKSUM.size)) or written != count or self._file.read(1):
            raise _damaged()

    def _peek(self) -> int:
        [tag] = self._read(1)
        if tag not in (0, 1):
            raise _damaged()
        return int(tag)

    def _read(self, size: int) -> bytes:
        """Exactly so many bytes. Asked for in pieces, so that a false length does not take the memory it names."""
        pieces = []
        left = size
        while left:
            piece = self._file.read(min(left, _BUFFER))
            if not piece:
                raise ArchiveError("the file is cut off", hint="take another set; this one cannot be restored whole")
            self._checksum = zlib.crc32(piece, self._checksum)
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)


def _damaged() -> ArchiveError:
    return ArchiveError("the file is damaged: its checksum does not fit", hint="take another set")
