"""How the address of a Postgres server is written: as libpq reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from multidb.model import Address, Dialect, Endpoint

__all__ = ["PostgresAddress"]

# The names of libpq for what the manifest calls the same for every store.
_FILES = {"ca_file": "sslrootcert", "cert_file": "sslcert", "key_file": "sslkey"}
_PERHAPS_PLAIN = ("disable", "allow", "prefer")


class PostgresAddress(Address):
    """A Postgres server that exists already, at postgresql://."""

    dialect: ClassVar[Dialect] = Dialect({"postgresql": False, "postgres": False}, 5432, "postgres", "postgres")

    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None = Field(
        default=None, description="How far TLS is asked for, as libpq has it."
    )

    def endpoint_at(self, url: str, root: Path) -> Endpoint:
        """TLS is not a matter of the scheme, but of ``sslmode``: in the entry, else in the address."""
        endpoint = super().endpoint_at(url, root)
        params = {_FILES.get(name, name): value for name, value in endpoint.params.items()}
        if self.sslmode is not None:
            params["sslmode"] = self.sslmode
        return replace(endpoint, tls=params.get("sslmode", "prefer") not in _PERHAPS_PLAIN, params=params)
