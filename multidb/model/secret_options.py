"""Where the manifest has a project's secrets kept: the kind of store, and what each kind has to be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from multidb.model.options import Recipient, Section

__all__ = [
    "INCLUDED_SECRETS",
    "AgeSecrets",
    "AwsSecrets",
    "FileSecrets",
    "SecretStoreSpec",
    "SecretsSection",
    "SopsSecrets",
    "VaultSecrets",
]

_PREFIX: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*$"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def _path(description: str) -> Any:
    return Field(
        max_length=200,
        pattern=_PREFIX,
        json_schema_extra={"errorMessage": "must be a path such as multidb/digi"},
        description=description,
    )


def _file(description: str) -> Any:
    return Field(
        min_length=1,
        max_length=200,
        pattern=_PREFIX,
        json_schema_extra={"errorMessage": "must be a file in the manifest's folder, such as secrets.age"},
        description=description,
    )


class FileSecrets(Section):
    """In ``.multidb/secrets.json``, readable by its owner only; of this folder, and nobody else's."""


class AgeSecrets(Section):
    """In one file that age encrypts. It may be committed."""

    file: str = _file("The file, relative to the manifest.")
    recipients: tuple[Recipient, ...] = Field(
        min_length=1,
        description="Public keys of those who may read it: age1... of `age-keygen`, or ssh-ed25519. The secret key is "
        "in the file that $MULTIDB_SECRETS_IDENTITY names.",
    )


class SopsSecrets(Section):
    """In one file that SOPS encrypts, by the rules of its own ``.sops.yaml``. It may be committed."""

    file: str = _file("The file, relative to the manifest. A rule of .sops.yaml has to fit its name.")


class VaultSecrets(Section):
    """In HashiCorp Vault or OpenBao, in a KV engine of version 2: one secret for each app."""

    url: str = Field(description="Its address, with https. The token is in $VAULT_TOKEN or ~/.vault-token.")
    mount: str = _path("Where the KV engine of version 2 is mounted.")
    path: str = _path("What the secrets' paths begin with; an app's is PATH/apps/APP.")

    @field_validator("url")
    @classmethod
    def _encrypted(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            plain = parts.scheme == "http" and parts.hostname in _LOOPBACK
            whole = parts.hostname and parts.port != 0 and not (parts.query or parts.fragment)
        except ValueError:
            whole = plain = False
        if not whole or not (plain or parts.scheme == "https"):
            raise ValueError("must be an address such as https://vault.example.com:8200; http on this machine only")
        if parts.username is not None or parts.password is not None:
            raise ValueError("has no user or password in it: the token is in $VAULT_TOKEN")
        return url.rstrip("/")


class AwsSecrets(Section):
    """In AWS Secrets Manager: one secret for each app. Credentials come from where every AWS tool takes them."""

    region: str = Field(
        pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$",
        json_schema_extra={"errorMessage": "must be a region such as eu-central-1"},
        description="The region.",
    )
    prefix: str = _path("What the secrets' names begin with; an app's is PREFIX/apps/APP.")


INCLUDED_SECRETS: Final[Mapping[str, type[Section]]] = MappingProxyType(
    {"file": FileSecrets, "age": AgeSecrets, "sops": SopsSecrets, "vault": VaultSecrets, "aws": AwsSecrets}
)
"""The kinds that come with multidb, with their options; no package can take one's place."""


@dataclass(frozen=True, slots=True)
class SecretStoreSpec:
    """Where a project's secrets are kept.

    Args:
        kind: ``file``, ``vault`` ...
        options: an instance of the kind's model; None: it has nothing to be told.
    """

    kind: str = "file"
    options: Section | None = None

    @property
    def value(self) -> Any:
        """As it stands in the manifest."""
        options = {} if self.options is None else self.options.model_dump(mode="json", exclude_defaults=True)
        return {self.kind: options} if options else self.kind

    def __str__(self) -> str:
        """A line for people; no secret is in the options."""
        options = {} if self.options is None else self.options.model_dump(mode="json", exclude={"recipients"})
        return " ".join([self.kind, *(str(option) for option in options.values())])


class SecretsSection(Section):
    """Where secrets are kept: exactly one kind."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self._given) != 1:
            raise ValueError(f"must name exactly one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def _given(self) -> dict[str, Section]:
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    @property
    def spec(self) -> SecretStoreSpec:
        """The kind that was named, with its options."""
        ((kind, options),) = self._given.items()
        return SecretStoreSpec(kind, options)
