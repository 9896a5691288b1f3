"""A server that exists already, as ``external.<store>`` in the manifest says where it is and how to log in.

    external:
      postgres: {url: "postgresql://admin@db.example.com/postgres?sslmode=verify-full", password: {env: PG_PASSWORD}}
      qdrant:   {url: "https://qdrant.example.com:6333", password: {file: /run/secrets/qdrant}}

An address never carries a password: manifests are committed, printed and shared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from multidb.model.core import Endpoint
from multidb.secret_source import SecretSource

__all__ = ["Address", "Dialect", "scheme_of"]

_SECRET_PARAMETERS = {"password", "passwd", "pwd", "sslpassword", "api_key", "api-key", "apikey", "token", "key"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the address of a store's servers is written.

    Args:
        schemes: by scheme, whether it means TLS; the one to name first in messages first.
        port: where a server listens whose address names no port.
        user: the admin's login where the address names none; empty where the store has no logins by name.
        database: the maintenance database where the address names none; empty where the store has none.
    """

    schemes: Mapping[str, bool]
    port: int
    user: str = ""
    database: str = ""


class Address(BaseModel):
    """One entry of ``external:``: a server that exists already. Each store has a subclass with its `dialect`, and with
    the options that its servers have beside these."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True
    )
    dialect: ClassVar[Dialect]

    url: str | None = Field(default=None, description="Address of the server with its admin's name, without password.")
    password: SecretSource | None = Field(
        default=None, description="Where the admin's password (or api key) is read from."
    )
    app_url: str | None = Field(
        default=None, description="Address as the apps see it, where that is another one (a private network, a pooler)."
    )
    ca_file: str | None = Field(default=None, description="Certificates of the authorities to trust, in PEM.")
    cert_file: str | None = Field(default=None, description="Client certificate to show to the server, in PEM.")
    key_file: str | None = Field(default=None, description="Private key of cert_file, in PEM.")
    timeout: float = Field(default=10.0, gt=0, description="Seconds that connecting or one question may take.")

    @field_validator("url", "app_url")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        return value if value is None else _checked(value, _example(cls.dialect))

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        self.require_address()
        for name, url in (("url", self.url), ("app_url", self.app_url)):
            if url is not None and urlsplit(url).scheme not in self.dialect.schemes:
                other = scheme_of(url)
                unlike = f", which {other}:// is not" if other else ""
                raise ValueError(f"must have {name} beginning with {_listed(self.dialect)}{unlike}")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("must have cert_file and key_file together")
        return self

    @classmethod
    def refusal(cls, url: str) -> str | None:
        """What is wrong with a url, as the end of a sentence that begins with its name; None: nothing. Does not repeat
        it, since there may be a password in it."""
        try:
            cls.model_validate({"url": url})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return str(first.get("ctx", {}).get("error") or first["msg"])
        return None

    @classmethod
    def example(cls) -> str:
        """An address as the store's servers have one."""
        return _example(cls.dialect)

    def require_address(self) -> None:
        """`ValueError` when the entry does not say where the server is."""
        if self.url is None:
            raise ValueError(f"must have url, such as {_example(self.dialect)}")

    def endpoint(self, root: Path) -> Endpoint:
        """The server as multidb reaches it. `root` is the manifest's folder, for the paths in the entry."""
        return self.endpoint_at(self.url or "", root)

    def app_endpoint(self, root: Path) -> Endpoint:
        """The server as its apps reach it: `app_url` where given."""
        return self.endpoint_at(self.app_url, root) if self.app_url else self.endpoint(root)

    def endpoint_at(self, url: str, root: Path) -> Endpoint:
        """What an address comes to: as it says, and by the store's dialect where it is silent."""
        parts = urlsplit(url)
        files = {name: getattr(self, name) for name in ("ca_file", "cert_file", "key_file")}
        given = {name: str(root / Path(path).expanduser()) for name, path in files.items() if path is not None}
        return Endpoint(
            host=parts.hostname or "",
            port=parts.port or self.dialect.port,
            user=unquote(parts.username or self.dialect.user),
            database=unquote(parts.path.strip("/")) or self.dialect.database,
            tls=self.dialect.schemes[parts.scheme],
            params={**dict(parse_qsl(parts.query)), **given},
        )


def scheme_of(url: str) -> str:
    """What stands before ``://``; empty where nothing does that could be a scheme. No part of a password: that would
    stand behind it."""
    match = re.match(r"([a-z][a-z0-9+.-]{0,30})://", url.strip().lower())
    return match[1] if match else ""


def _listed(dialect: Dialect) -> str:
    return " or ".join(f"{scheme}://" for scheme in dialect.schemes)


def _example(dialect: Dialect) -> str:
    user = f"{dialect.user}@" if dialect.user else ""
    return f"{next(iter(dialect.schemes))}://{user}db.example.com:{dialect.port}"


def _checked(url: str, example: str) -> str:
    """The address, when it has a host and no password. Messages never repeat it: it may hold one."""
    try:
        parts: SplitResult = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"must be an address such as {example}") from None
    if parts.password is not None or _SECRET_PARAMETERS & {name.lower() for name, _ in parse_qsl(parts.query)}:
        raise ValueError("must not carry a password; move it out: password: {env: NAME} or password: {file: PATH}")
    if not host:
        raise ValueError(f"must have a host, such as {example}")
    return url
