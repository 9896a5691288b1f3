"""The toy server as a process of this machine: a program that is in this package."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from multidb import files
from multidb.errors import ServerDown, ServerSlow
from multidb.model import Endpoint, HostedServer, Hosting, Launch, Progress, Server
from multidb.ports import LOOPBACK
from multidb.secrets import Secret
from multidb_toy.connection import Connection

__all__ = ["processes"]


def processes(hosting: Hosting) -> list[HostedServer]:
    """One server for all apps."""
    return [replace(hosting.server(None), kind=ToyKind())]


class ToyKind:
    """See `multidb.model.ServerKind`."""

    ports: Sequence[str] = ("port",)
    at_once = 1
    start_timeout = 60.0
    one_major = False

    def missing(self) -> str | None:
        return None

    def product(self, hosted: HostedServer) -> str | None:
        return "Toy 1.0"

    def wrote(self, hosted: HostedServer) -> str | None:
        return None

    def way_back(self, product: str) -> str:
        return f"pip install multidb-toy=={product.split()[1]}"

    def initialised(self, hosted: HostedServer) -> bool:
        return (hosted.folder / "config.json").exists()

    def prepare(self, hosted: HostedServer, admin: Secret, progress: Progress) -> Launch:
        hosted.folder.mkdir(parents=True, exist_ok=True)
        hosted.folder.chmod(0o700)
        config = {
            "host": LOOPBACK,
            "port": hosted.ports["port"],
            "file": str(hosted.folder / "boxes.json"),
            "admin": hashlib.sha256(admin.reveal().encode()).hexdigest(),
        }
        files.write_text(hosted.folder / "config.json", json.dumps(config), mode=files.PRIVATE)
        program = Path(__file__).parents[1] / "server.py"
        return Launch([sys.executable, str(program), str(hosted.folder / "config.json")], hosted.folder)

    def endpoint(self, hosted: HostedServer) -> Endpoint:
        return Endpoint(host=LOOPBACK, port=hosted.ports["port"], user="admin")

    def probe(self, server: Server, admin: Secret) -> str | None:
        at = server.endpoint
        try:
            with Connection(at.host, at.port, at.user, admin, where=str(server), timeout=server.timeout) as connection:
                return f"Toy {connection.version}"
        except (ServerDown, ServerSlow):
            return None
