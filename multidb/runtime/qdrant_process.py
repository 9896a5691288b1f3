"""Qdrant as a process, where a server binary can be found. No package registry has one; without it the client's local
mode stands in: a folder, no process, no walls between apps.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from multidb import files
from multidb.errors import AuthenticationFailed, RuntimeUnavailable
from multidb.model import Endpoint, Progress, Server
from multidb.runtime.launch import Launch, Site
from multidb.runtime.ports import LOOPBACK
from multidb.runtime.product import version_of
from multidb.secrets import Secret

__all__ = ["BINARY", "LOCAL_MODE", "SWITCH", "QdrantKind", "find"]

BINARY = "MULTIDB_QDRANT"
LOCAL_MODE = "local mode: no server process, one process at a time, isolation naming-only"
SWITCH = "multidb up --switch qdrant"


def find(configured: str | None, root: Path) -> str | None:
    """The server binary: from the manifest (relative to its folder), the environment, or the PATH, in that order."""
    if configured:
        return str(root / Path(configured).expanduser())
    return os.environ.get(BINARY) or shutil.which("qdrant")


class QdrantKind:
    """How to start and ask a Qdrant server.

    Args:
        binary: as `find` found it; it may turn out not to be there. None where nothing was found.
    """

    store = "qdrant"
    ports: Sequence[str] = ("port", "grpc_port")
    at_once = 1
    patience = 120.0  # every collection is opened before the first answer; 300 take 5 seconds
    stop_signal = signal.SIGTERM
    one_major = False

    def __init__(self, binary: str | None) -> None:
        self._binary = binary

    def missing(self) -> str | None:
        if self._binary is None:
            return (
                f"neither servers.qdrant.binary nor {BINARY} names the program of this project's server, and none is on"
                f" the PATH ({SWITCH} goes on without a server)"
            )
        if not os.access(self._binary, os.X_OK) or Path(self._binary).is_dir():
            return f"the Qdrant server {self._binary} is not there or cannot be run"
        return None

    def product(self, site: Site) -> str | None:
        number = version_of((str(self._binary), "--version"))
        return None if number is None else f"Qdrant {number}"

    def wrote(self, site: Site) -> str | None:
        return None

    def way_back(self, product: str) -> str:
        return f"set servers.qdrant.binary or {BINARY} to the program of {product}, then: multidb up"

    def initialised(self, site: Site) -> bool:
        return (site.folder / "storage").exists()

    def prepare(self, site: Site, admin: Secret, progress: Progress) -> Launch:
        reason = self.missing()
        if reason is not None or self._binary is None:
            raise RuntimeUnavailable(reason or "", where=site.name)
        site.folder.mkdir(parents=True, exist_ok=True)
        site.folder.chmod(0o700)
        config = site.folder / "config.yaml"
        files.write_text(config, json.dumps(_config(site, admin), indent=1) + "\n", mode=files.PRIVATE)
        return Launch([self._binary, "--config-path", str(config), "--disable-telemetry"], site.folder)

    def endpoint(self, site: Site) -> Endpoint:
        return Endpoint(host=LOOPBACK, port=site.ports["port"], params={"grpc_port": str(site.ports["grpc_port"])})

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


def _config(site: Site, key: Secret) -> dict[str, object]:
    """The server's configuration. JSON is YAML, which is what Qdrant reads."""
    return {
        "log_level": "WARN",
        "telemetry_disabled": True,
        "service": {
            "host": LOOPBACK,
            "http_port": site.ports["port"],
            "grpc_port": site.ports["grpc_port"],
            "api_key": key.reveal(),
            "jwt_rbac": True,
            "enable_cors": False,
            "enable_snapshot_url_recovery": False,  # else the server fetches any address that it is given
        },
        "storage": {
            "storage_path": str(site.folder / "storage"),
            "snapshots_path": str(site.folder / "snapshots"),
            "wal": {"wal_capacity_mb": 1, "wal_segments_ahead": 0},  # per collection; the default is 32 MB
        },
    }
