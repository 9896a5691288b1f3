"""Sets in S3 or in storage that speaks its protocol.

Credentials, region and endpoint come from where every S3 tool takes them (``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``,
``AWS_ENDPOINT_URL_S3`` ...). Files are sent in parts, each with its checksum, each tried again on its own when the
network fails; an object appears only when all of its parts are there. Parts that a run left when it died are removed by
the next run that clears up after it, or gone on with where the same bytes can be had again (`resume`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, BinaryIO, Final, cast

from multidb import s3
from multidb.backup.targets import safe, within
from multidb.errors import ArchiveError, TargetError
from multidb.model import PROGRESS_TIMEOUT

__all__ = ["TRIES", "PART_SIZE", "S3Target"]

PART_SIZE: Final = 8 * 1024 * 1024
_LARGE_PART: Final = 4 * PART_SIZE  # once so many are sent that an object's 10,000 parts could run out
_MANY: Final = 2000
_CONNECT, _READ, TRIES = 10, 60, 8  # seconds, seconds, attempts at one request
_HINT: Final = (
    "check the bucket and the credentials (AWS_PROFILE, AWS_ENDPOINT_URL_S3 ...), then run it again; "
    "what only reads may leave it out: --from OTHER_TARGET"
)


class S3Target:
    """A bucket, or a prefix in one.

    Args:
        address: ``s3://bucket/prefix``.
        progress_timeout: seconds without an answer, all tries at a request together, after which it is given up.

    Raises:
        UsageError: boto3 is not installed, or there is no bucket in the address.
    """

    def __init__(self, address: str, progress_timeout: float = PROGRESS_TIMEOUT) -> None:
        self.name = address
        self._bucket, self._prefix = s3.place_of(address)
        self._client = _client(progress_timeout)

    def create(self, path: str) -> _Object:
        return _Object(self, self._client, self._bucket, self._key(path))

    def resume(self, path: str) -> _Object:
        key = self._key(path)
        with self.explaining(path):
            begun = [upload for upload in self._uploads(key) if upload["Key"] == key]
            if not begun:
                return _Object(self, self._client, self._bucket, key, stays=True)
            upload = max(begun, key=lambda upload: upload["Initiated"])["UploadId"]
            sent = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload)
            there = {part["PartNumber"]: part for page in sent for part in page.get("Parts", ())}
        return _Object(self, self._client, self._bucket, key, upload, there, stays=True)

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        with self.explaining(path):
            body = self._client.get_object(Bucket=self._bucket, Key=self._key(path))["Body"]
        with contextlib.closing(_Body(self, body, path)) as file:
            yield cast("BinaryIO", file)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        yield from within(self._objects(prefix), prefix, self.name)

    def unfinished(self, prefix: str) -> Iterator[str]:
        with self.explaining(prefix):
            begun = ((self._path(upload["Key"]), 0) for upload in self._uploads(self._key(prefix) + "/"))
            for path, _ in within(begun, prefix, self.name):
                yield path

    def delete(self, path: str) -> None:
        with self.explaining(path):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(path))

    def sweep(self, prefix: str) -> None:
        """Ends the uploads that nobody goes on with: their parts cost money and are not seen."""
        with self.explaining(prefix):
            for upload in self._uploads(self._key(prefix) + "/"):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def _objects(self, prefix: str) -> Iterator[tuple[str, int]]:
        pages = self._client.get_paginator("list_objects_v2")
        with self.explaining(prefix):
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._key(prefix) + "/"):
                for entry in page.get("Contents", ()):
                    yield self._path(entry["Key"]), entry["Size"]

    def _key(self, path: str) -> str:
        return self._prefix + safe(path, self.name)

    def _path(self, key: str) -> str:
        return key.removeprefix(self._prefix) if key.startswith(self._prefix) else ""

    def _uploads(self, prefix: str) -> Iterator[dict[str, Any]]:
        """The uploads that were begun and not ended, under keys that begin so."""
        for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix):
            yield from page.get("Uploads", ())

    @contextlib.contextmanager
    def explaining(self, path: str) -> Iterator[None]:
        """Errors of the storage as ours."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "error"))
            missing = code in ("NoSuchKey", "404")
            hint = "take another set, or the same from another target" if missing else _HINT
            kind = ArchiveError if missing else TargetError
            words = "is not there" if missing else f"the storage answered {code}"
            raise kind(words, where=f"{self.name} {path}", hint=hint) from None
        except (BotoCoreError, HTTPClientError, OSError) as error:
            words = str(error).splitlines()[0][:200]
            raise TargetError(f"cannot be reached: {words}", where=f"target {self.name}", hint=_HINT) from None


class _Object:
    """An object on its way. Up to one part it is sent whole; from then on in parts.

    Args:
        upload: the id of one that an earlier run has begun; `there`: by number, its parts.
        stays: whether giving up leaves the parts to a later run.
    """

    def __init__(
        self,
        target: S3Target,
        client: Any,
        bucket: str,
        key: str,
        upload: str = "",
        there: Mapping[int, Mapping[str, Any]] = MappingProxyType({}),
        *,
        stays: bool = False,
    ) -> None:
        self._target = target
        self._client = client
        self._place = {"Bucket": bucket, "Key": key}
        self._held = bytearray()
        self._upload = upload
        self._there = there
        self._stays = stays
        self._parts: list[dict[str, Any]] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        self._held += data
        size = PART_SIZE if len(self._parts) < _MANY else _LARGE_PART
        while len(self._held) > size:
            self._send(bytes(self._held[:size]))
            del self._held[:size]

    def commit(self) -> None:
        with self._target.explaining(self._place["Key"]):
            if not self._upload:
                body = bytes(self._held)
                self._client.put_object(**self._place, Body=body, ChecksumAlgorithm="CRC32")
                return
            self._send(bytes(self._held))
            self._complete()

    def abort(self) -> None:
        if self._upload and not self._stays:
            with contextlib.suppress(ArchiveError), self._target.explaining(self._place["Key"]):
                self._client.abort_multipart_upload(**self._place, UploadId=self._upload)

    def _send(self, part: bytes) -> None:
        with self._target.explaining(self._place["Key"]):
            if not self._upload:
                begun = self._client.create_multipart_upload(**self._place, ChecksumAlgorithm="CRC32")
                self._upload = begun["UploadId"]
            number = len(self._parts) + 1
            sent = self._there.get(number)
            if sent is None or not _same(sent, part):
                sent = self._client.upload_part(
                    **self._place, UploadId=self._upload, PartNumber=number, Body=part, ChecksumAlgorithm="CRC32"
                )
            checksum = {name: sent[name] for name in ("ChecksumCRC32",) if name in sent}
            self._parts.append({"PartNumber": number, "ETag": sent["ETag"], **checksum})
            self._size += len(part)

    def _complete(self) -> None:
        from botocore.exceptions import ClientError

        try:
            self._client.complete_multipart_upload(
                **self._place, UploadId=self._upload, MultipartUpload={"Parts": self._parts}
            )
        except ClientError as error:
            # The first try may have done it and its answer been lost; to the second one it is no upload any more.
            if error.response.get("Error", {}).get("Code") != "NoSuchUpload" or not self._is_whole():
                raise

    def _is_whole(self) -> bool:
        from botocore.exceptions import ClientError

        try:
            return bool(self._client.head_object(**self._place)["ContentLength"] == self._size)
        except ClientError:
            return False


def _same(sent: Mapping[str, Any], part: bytes) -> bool:
    """Whether a part that the storage has is this one: by its CRC-32, or where none is kept by its MD5, as an ETag is
    unless the storage encrypts with a key of its own."""
    if sent["Size"] != len(part):
        return False
    if "ChecksumCRC32" in sent:
        return bool(sent["ChecksumCRC32"] == base64.b64encode(zlib.crc32(part).to_bytes(4, "big")).decode())
    return bool(sent["ETag"].strip('"') == hashlib.md5(part, usedforsecurity=False).hexdigest())


class _Body:
    """An object's bytes. A connection that ends before they do is an error here, not an early end."""

    def __init__(self, target: S3Target, body: Any, path: str) -> None:
        self._target = target
        self._body = body
        self._path = path

    def read(self, size: int = -1) -> bytes:
        with self._target.explaining(self._path):
            return bytes(self._body.read(size if size >= 0 else None))

    def close(self) -> None:
        self._body.close()


def _client(progress_timeout: float) -> Any:
    read = min(_READ, progress_timeout)
    tries = max(1, min(TRIES, int(progress_timeout / read)))
    return s3.client(connect=min(_CONNECT, read), read=read, tries=tries)
