"""How the address of a Qdrant server is written: two ports, or the folder of the client's local mode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from multidb.model import Address, Dialect, Endpoint

__all__ = ["QdrantAddress"]


class QdrantAddress(Address):
    """A Qdrant server that exists already, at http:// or https://."""

    dialect: ClassVar[Dialect] = Dialect({"http": False, "https": True}, 6333)

    path: str | None = Field(default=None, description="Folder of the client's local mode, instead of url.")
    grpc_port: int | None = Field(default=None, ge=1, le=65535, description="Port of its gRPC interface.")

    def require_address(self) -> None:
        """`ValueError` when the entry says neither where the server is nor where its folder is, or both."""
        if (self.url is None) == (self.path is None):
            raise ValueError("must have either url, or path (the client's local mode)")

    def endpoint(self, root: Path) -> Endpoint:
        """The folder, where the entry names one."""
        if self.path is not None:
            return Endpoint(path=str(root / Path(self.path).expanduser()))
        return super().endpoint(root)

    def endpoint_at(self, url: str, root: Path) -> Endpoint:
        """GRPC has a port of its own."""
        endpoint = super().endpoint_at(url, root)
        return (
            endpoint
            if self.grpc_port is None
            else replace(endpoint, params={**endpoint.params, "grpc_port": str(self.grpc_port)})
        )
