"""How the address of a toy server is written."""

from __future__ import annotations

from typing import ClassVar

from multidb.model import Address, Dialect

__all__ = ["PORT", "ToyAddress"]

PORT = 7070


class ToyAddress(Address):
    """A toy server that exists already, at toy://."""

    dialect: ClassVar[Dialect] = Dialect({"toy": False}, PORT, "admin")
