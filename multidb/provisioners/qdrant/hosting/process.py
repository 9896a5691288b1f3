"""Qdrant as a process: by a program that the project or the machine has, else by the one that Qdrant releases, which is
fetched once. Where neither can be had, the client's local mode stands in: a folder, no process, no walls between apps.
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
from multidb.provisioners.qdrant.hosting.releases import DOWNLOAD, NEVER, Release, release
from multidb.provisioners.qdrant.provision.options import ServerOptions
from multidb.secrets import Secret

__all__ = ["QdrantKind", "processes"]

_BINARY = "MULTIDB_QDRANT"
_LOCAL_PRODUCT = "Qdrant local mode"
_LOCAL_NOTE = "local mode: no server process, one process at a time, isolation naming-only"
_SWITCH = "multidb up --switch qdrant"


def processes(hosting: Hosting) -> list[HostedServer]:
    """One server for all apps, or the folder that stands in for it where no server was ever to be had."""
    hosted, kind = hosting.server(None), _kind(ServerOptions.of(hosting.options), hosting.root)
    product = hosting.product(hosted.name)
    folder = hosted.folder.with_name("qdrant-local")

    def local(reason: str) -> HostedServer:
        note = "; ".join(filter(None, (_LOCAL_NOTE, reason, kind.way_to_a_server(reason))))
        return dataclasses.replace(hosted, folder=folder, note=note, folder_product=_LOCAL_PRODUCT)

    begun = kind.initialised(hosted)
    if hosting.switched:
        in_folder = not kind.obtainable
    elif product is not None:
        in_folder = product == _LOCAL_PRODUCT
    else:  # nothing yet, or the record is lost
        in_folder = not begun and (not kind.obtainable or folder.exists())
    if in_folder:
        return [local(kind.obstacle or hosting.skipped(hosted.name) or "")]
    without_a_server = hosting.switched or (product is None and not begun)
    return [dataclasses.replace(hosted, kind=kind, stand_in=local if without_a_server and kind.fetches else None)]


def _kind(options: ServerOptions, root: Path) -> QdrantKind:
    """With the program from the manifest (relative to its folder), the environment, the PATH, or a release, in that
    order."""
    if options.binary:
        return QdrantKind(str(root / Path(options.binary).expanduser()))
    if binary := os.environ.get(_BINARY) or shutil.which("qdrant"):
        return QdrantKind(binary)
    try:
        return QdrantKind(release(options.version, options.download))
    except RuntimeUnavailable as error:
        return QdrantKind(None, error.message)


class QdrantKind:
    """How to have, start and ask a Qdrant server.

    Args:
        program: the server's program as it was found, which may turn out not to be there; or the release that has it.
            None where there is neither.
        obstacle: why there is no release.
    """

    ports: Sequence[str] = ("port", "grpc_port")
    at_once = 1
    start_timeout = 120.0  # every collection is opened before the first answer; 300 take 5 seconds
    one_major = False

    def __init__(self, program: str | Release | None, obstacle: str = "") -> None:
        self._program = program
        self.obstacle = obstacle

    @property
    def obtainable(self) -> bool:
        """Whether there is something to start, or to fetch."""
        return self._program is not None

    @property
    def fetches(self) -> bool:
        """Whether its program is of a release."""
        return isinstance(self._program, Release)

    def missing(self) -> str | None:
        if self._program is None:
            return (
                f"neither servers.qdrant.binary nor {_BINARY} names the program of this project's server, none is on"
                f" the PATH, and none is fetched: {self.obstacle} ({_SWITCH} goes on without a server)"
            )
        if isinstance(self._program, str) and (not os.access(self._program, os.X_OK) or Path(self._program).is_dir()):
            return f"the Qdrant server {self._program} is not there or cannot be run"
        return None

    def product(self, hosted: HostedServer) -> str | None:
        if isinstance(self._program, Release):
            return str(self._program)
        number = version_of((str(self._program), "--version"))
        return None if number is None else f"Qdrant {number}"

    def to_fetch(self, hosted: HostedServer) -> str:
        """See `FetchedKind.to_fetch`."""
        if not isinstance(self._program, Release) or not self._program.to_fetch:
            return ""
        return f"{self._program.to_fetch}; to do without: servers.qdrant.download: {NEVER}"

    def way_to_a_server(self, reason: str) -> str:
        """What to do, in local mode for this reason, to have a server."""
        if self.obtainable:
            again = "once it can be fetched (https_proxy, or a mirror as servers.qdrant.download)" if reason else ""
            return f"an empty server of {self._program} instead{again and ', '}{again}: {_SWITCH}"
        other = f", or let one be fetched (servers.qdrant.download, {DOWNLOAD})" if NEVER in self.obstacle else ""
        return f"for a server, name its program with servers.qdrant.binary or {_BINARY}{other}, then: {_SWITCH}"

    def wrote(self, hosted: HostedServer) -> str | None:
        return None

    def way_back(self, product: str) -> str:
        version = f"servers.qdrant.version: {product.split()[1]}, or " if self.fetches else ""
        return f"set {version}servers.qdrant.binary or {_BINARY} to the program of {product}, then: multidb up"

    def initialised(self, hosted: HostedServer) -> bool:
        return (hosted.folder / "storage").exists()

    def prepare(self, hosted: HostedServer, admin: Secret, progress: Progress) -> Launch:
        reason, program = self.missing(), self._program
        if reason is not None or program is None:
            raise RuntimeUnavailable(reason or "", where=hosted.name)
        if isinstance(program, Release):
            program = str(program.fetch(progress))
        files.make_folder(hosted.folder.parent)
        hosted.folder.mkdir(exist_ok=True)  # root's where root starts it, as its process is
        hosted.folder.chmod(0o700)
        config = hosted.folder / "config.yaml"
        files.write_text(config, json.dumps(_config(hosted, admin), indent=1) + "\n", mode=files.PRIVATE)
        return Launch([program, "--config-path", str(config), "--disable-telemetry"], hosted.folder)

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
            **({"alt_api_key": hosted.other_admin.reveal()} if hosted.other_admin else {}),
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
