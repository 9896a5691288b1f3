"""Qdrant as a process, where a server binary can be found. No package registry has one; without it the client's local
mode stands in: a folder, no process, no walls between apps.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from multidb import files
from multidb.errors import AuthenticationFailed, RuntimeUnavailable
from multidb.model import Endpoint, HostedServer, Hosting, Launch, Progress, Server
from multidb.ports import LOOPBACK
from multidb.processes import version_of
from multidb.provisioners.qdrant.provision.options import ServerOptions
from multidb.secrets import Secret

__all__ = ["QdrantKind", "processes"]

_BINARY = "MULTIDB_QDRANT"
_LOCAL_PRODUCT = "Qdrant local mode"
_LOCAL_NOTE = "local mode: no server process, one process at a time, isolation naming-only"
_SWITCH = "multidb up --switch qdrant"


def processes(hosting: Hosting) -> list[HostedServer]:
    """One server for all apps, or the folder that stands in for it where no server was ever to be had."""
    hosted, binary = hosting.server(None), _find(ServerOptions.of(hosting.options).binary, hosting.root)
    local = dataclasses.replace(hosted, folder=hosted.folder.with_name("qdrant-local"))
    kind, product = QdrantKind(binary), hosting.product(hosted.name)
    if hosting.switched:
        in_folder = binary is None
    elif product is not None:
        in_folder = product == _LOCAL_PRODUCT
    else:  # nothing yet, or the record is lost
        in_folder = not kind.initialised(hosted) and (binary is None or local.folder.exists())
    if not in_folder:
        return [dataclasses.replace(hosted, kind=kind)]
    other = "" if binary is None else f"; an empty server of {binary} instead: {_SWITCH}"
    return [dataclasses.replace(local, note=_LOCAL_NOTE + other, folder_product=_LOCAL_PRODUCT)]


def _find(configured: str | None, root: Path) -> str | None:
    """The server binary: from the manifest (relative to its folder), the environment, or the PATH, in that order."""
    if configured:
        return str(root / Path(configured).expanduser())
    return os.environ.get(_BINARY) or shutil.which("qdrant")


class QdrantKind:
    """How to start and ask a Qdrant server.

    Args:
        binary: as `processes` found it; it may turn out not to be there. None where nothing was found.
    """

    ports: Sequence[str] = ("port", "grpc_port")
    at_once = 1
    start_timeout = 120.0  # every collection is opened before the first answer; 300 take 5 seconds
    one_major = False

    def __init__(self, binary: str | None) -> None:
        self._binary = binary

    def missing(self) -> str | None:
        if self._binary is None:
            return (
                f"neither servers.qdrant.binary nor {_BINARY} names the program of this project's server, and none is"
                f" on the PATH ({_SWITCH} goes on without a server)"
            )
        if not os.access(self._binary, os.X_OK) or Path(self._binary).is_dir():
            return f"the Qdrant server {self._binary} is not there or cannot be run"
        return None

    def product(self, hosted: HostedServer) -> str | None:
        number = version_of((str(self._binary), "--version"))
        return None if number is None else f"Qdrant {number}"

    def wrote(self, hosted: HostedServer) -> str | None:
        return None

    def way_back(self, product: str) -> str:
        return f"set servers.qdrant.binary or {_BINARY} to the program of {product}, then: multidb up"

    def initialised(self, hosted: HostedServer) -> bool:
        return (hosted.folder / "storage").exists()

    def prepare(self, hosted: HostedServer, admin: Secret, progress: Progress) -> Launch:
        reason = self.missing()
        if reason is not None or self._binary is None:
            raise RuntimeUnavailable(reason or "", where=hosted.name)
        hosted.folder.mkdir(parents=True, exist_ok=True)
        hosted.folder.chmod(0o700)
        config = hosted.folder / "config.yaml"
        files.write_text(config, json.dumps(_config(hosted, admin), indent=1) + "\n", mode=files.PRIVATE)
        return Launch([self._binary, "--config-path", str(config), "--disable-telemetry"], hosted.folder)

    def endpoint(self, hosted: HostedServer) -> Endpoint:
        return Endpoint(host=LOOPBACK, port=hosted.ports["port"], params={"grpc_port": str(hosted.ports["grpc_port"])})

    def probe(self, server: Server, admin: Secret) -> str | None:
        address = f"http://{server.endpoint.host}:{server.endpoint.port}"
        try:
            _get(f"{address}/collections", admin, server.timeout)
            about = json.loads(_get(f"{address}/", admin, server.timeout))
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise AuthenticationFailed("refuses the api key", where=str(server)) from None
            return None
        except (OSError, ValueError):
            return None
        return f"Qdrant {about.get('version', '')}".strip()


def _get(url: str, key: Secret, timeout: float) -> bytes:
    request = urllib.request.Request(url, headers={"api-key": key.reveal()})  # noqa: S310  always http:// to loopback
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business on loopback
    with direct.open(request, timeout=timeout) as response:
        body: bytes = response.read()
    return body


def _config(hosted: HostedServer, key: Secret) -> dict[str, object]:
    """The server's configuration. JSON is YAML, which is what Qdrant reads."""
    return {
        "log_level": "WARN",
        "telemetry_disabled": True,
        "service": {
            "host": LOOPBACK,
            "http_port": hosted.ports["port"],
            "grpc_port": hosted.ports["grpc_port"],
            "api_key": key.reveal(),
            "jwt_rbac": True,
            "enable_cors": False,
            "enable_snapshot_url_recovery": False,  # else the server fetches any address that it is given
        },
        "storage": {
            "storage_path": str(hosted.folder / "storage"),
            "snapshots_path": str(hosted.folder / "snapshots"),
            "wal": {"wal_capacity_mb": 1, "wal_segments_ahead": 0},  # per collection; the default is 32 MB
        },
    }
