"""How the address of a Redis or Valkey server is written."""

from __future__ import annotations

from typing import ClassVar

from multidb.model import Address, Dialect

__all__ = ["RedisAddress"]


class RedisAddress(Address):
    """A Redis or Valkey server that exists already, at redis:// or, with TLS, rediss://."""

    dialect: ClassVar[Dialect] = Dialect(
        {"redis": False, "rediss": True, "valkey": False, "valkeys": True}, 6379, "default"
    )
