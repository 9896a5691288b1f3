"""Secrets in AWS Secrets Manager.

It has no write that names the version before it. What it has is a token that becomes the new version's id, and refuses
another value under an id that there is (PutSecretValue, ``ClientRequestToken``). So the token of a write is made of the
id that was read: of two that have read the same version, the second is refused. The service keeps versions for a day at
least, which is longer than a run lasts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5

from multidb.distribution import add_command
from multidb.errors import SecretsUnavailable, UsageError
from multidb.model.secret_options import AwsSecrets
from multidb.secret_stores.documents import DocumentSecretStore, Outdated, Versioned
from multidb.secret_stores.kind import SecretStoreKind
from multidb.secrets import redact

__all__ = ["SECRET_STORE"]

_CONNECT, _READ, _TRIES = 10, 30, 5  # seconds, seconds, attempts at one request
_NEXT: Final = UUID("6f5f5d2e-3c0b-4f0e-9d0c-6a9b3f1d2c77")  # of what versions' ids are made; any would do
_FIRST: Final = "first"
_EMPTY: Final = "{}"
_DENIED: Final = ("AccessDeniedException", "AccessDenied", "UnauthorizedOperation", "KMSAccessDeniedException")
_ENDED: Final = (
    "ExpiredTokenException",
    "ExpiredToken",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
)


class AwsDocuments:
    """The service, as `multidb.secret_stores.documents.Documents`.

    Raises:
        UsageError: boto3 is not installed.
    """

    def __init__(self, options: AwsSecrets) -> None:
        self.title = f"AWS Secrets Manager, {options.region}, {options.prefix}"
        self._prefix = options.prefix
        self._region = options.region
        self._made: Any = None

    def read(self, name: str) -> Versioned:
        from botocore.exceptions import ClientError

        with self._explaining(f"read {name}"):
            try:
                answer = self._client().get_secret_value(SecretId=self._id(name))
            except ClientError as error:
                if _code(error) == "ResourceNotFoundException":
                    return Versioned()
                raise
        text = answer.get("SecretString") or ""
        return Versioned(None if text == _EMPTY else text, str(answer["VersionId"]))

    def write(self, name: str, text: str, before: Versioned) -> Versioned:
        token = str(uuid5(_NEXT, f"{name} {before.version or _FIRST}"))
        request = {"ClientRequestToken": token, "SecretString": text}
        with self._explaining(f"write {name}"):
            if before.version is None:
                answer = self._client().create_secret(
                    Name=self._id(name), Description="Written by multidb; not to be changed by hand.", **request
                )
            else:
                answer = self._client().put_secret_value(SecretId=self._id(name), **request)
        return Versioned(text, str(answer["VersionId"]))

    def erase(self, name: str, before: Versioned) -> None:
        """The service deletes a secret whatever its version is. So it is emptied first, which another's write stops."""
        self.write(name, _EMPTY, before)
        with self._explaining(f"delete {name}"):
            self._client().delete_secret(SecretId=self._id(name), ForceDeleteWithoutRecovery=True)

    def names(self) -> Iterator[str]:
        begin = f"{self._prefix}/"
        filters = [{"Key": "name", "Values": [begin]}]
        with self._explaining("list secrets"):
            for page in self._client().get_paginator("list_secrets").paginate(Filters=filters):
                for entry in page.get("SecretList", ()):
                    if (name := str(entry.get("Name", ""))).startswith(begin):  # the filter ignores case
                        yield name.removeprefix(begin)

    def _id(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _client(self) -> Any:
        if self._made is None:
            try:
                import boto3
                from botocore.config import Config
            except ImportError:
                raise UsageError("needs boto3", where=self.title, hint=add_command("[aws]")) from None
            config = Config(
                connect_timeout=_CONNECT, read_timeout=_READ, retries={"total_max_attempts": _TRIES, "mode": "standard"}
            )
            self._made = boto3.client("secretsmanager", region_name=self._region, config=config)
        return self._made

    @contextlib.contextmanager
    def _explaining(self, doing: str) -> Iterator[None]:
        """The service's errors as ours; `Outdated` where another run was first."""
        try:
            from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        except ImportError:
            raise UsageError("needs boto3", where=self.title, hint=add_command("[aws]")) from None
        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code == "ResourceExistsException" or (
                doing.startswith("write") and code in ("ResourceNotFoundException", "InvalidRequestException")
            ):
                raise Outdated from None
            raise self._refused(doing, code) from None
        except (BotoCoreError, HTTPClientError, OSError) as error:
            words = redact(str(error)).splitlines()[0][:200]
            raise SecretsUnavailable(
                f"cannot be reached: {words}",
                where=self.title,
                hint="check credentials and network (AWS_PROFILE, aws sts get-caller-identity), then run it again",
            ) from None

    def _refused(self, doing: str, code: str) -> SecretsUnavailable:
        if code in _ENDED:
            words, hint = "the credentials have ended, or are none", "log in again (aws sso login), then run it again"
        elif code in _DENIED:
            words = f"the credentials may not {doing}"
            hint = "ask for a policy that allows it (docs/secrets.md), or leave that out: --app, --store"
        else:
            words, hint = f"refuses to {doing}: it answered {code}", "correct that, then run the command again"
        return SecretsUnavailable(words, where=self.title, hint=hint)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "error"))


def _open(options: AwsSecrets, root: Path) -> DocumentSecretStore:
    return DocumentSecretStore(AwsDocuments(options))


SECRET_STORE = SecretStoreKind("aws", AwsSecrets, _open)
