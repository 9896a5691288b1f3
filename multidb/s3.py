"""A client of S3, or of storage that speaks its protocol, made in one way for all that is kept there.

Credentials, region and endpoint come from where every S3 tool takes them (``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``,
``AWS_ENDPOINT_URL_S3`` ...).
"""

from __future__ import annotations

from typing import Any

from multidb.distribution import add_command
from multidb.errors import UsageError

__all__ = ["client", "place_of"]


def client(*, connect: float, read: float, tries: int) -> Any:
    """A client; `UsageError` where boto3 is not installed.

    Args:
        connect, read: seconds that a connection, and the next byte of an answer, may take.
        tries: at one request that the network, or the storage, fails.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise UsageError("needs the package boto3", where="s3://", hint=add_command("[s3]")) from None
    retries: Any = {"mode": "standard", "total_max_attempts": tries}
    settings = Config(connect_timeout=connect, read_timeout=read, retries=retries)
    return boto3.session.Session().client("s3", config=settings)


def place_of(address: str) -> tuple[str, str]:
    """The bucket of ``s3://bucket/prefix``, and what its keys begin with.

    Raises:
        UsageError: it names no bucket.
    """
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    if not bucket:
        raise UsageError("names no bucket", where=address, hint="for example s3://backups/digi")
    return bucket, prefix.strip("/") + "/" if prefix.strip("/") else ""
