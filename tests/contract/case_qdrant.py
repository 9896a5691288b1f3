"""Qdrant in the contract suite: local mode always, a real server when one can be found.

The server comes from ``MULTIDB_TEST_QDRANT`` (a binary; ``image:NAME`` for a container, where a Docker engine is; or a
URL, with ``MULTIDB_TEST_QDRANT_API_KEY`` and, if it is not 6334, ``MULTIDB_TEST_QDRANT_GRPC_PORT`` beside it) or from a
``qdrant`` on the PATH.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from multidb.model import Endpoint, Server
from multidb.ports import choose
from multidb.provisioners.qdrant import PROVISIONER
from multidb.provisioners.qdrant.provision.options import ServerOptions
from multidb.secrets import Secret
from tests.support.case import Drift, Lesser, RealServer, Refused, StoreCase, Tenant, Threat
from tests.support.load_qdrant import CLIENTS

READ_ONLY_KEY = "another-key-of-the-tests-that-only-reads"
VECTOR = [0.1, 0.2, 0.3, 0.4]
SETTINGS = {
    "collections": {
        "knowledge": {
            "size": 4,
            "on_disk": True,
            "hnsw": {"m": 0, "payload_m": 16},
            "quantization": {"type": "scalar", "always_ram": True},
            "strict": {"max_query_limit": 500, "unindexed_filtering_retrieve": False},
            "indexes": {"lang": "keyword"},
        }
    }
}


def ask(real: RealServer, method: str, path: str, body: Any = None, *, key: str | None = None) -> httpx.Response:
    """One request to a real server, as its administrator unless another key is given."""
    endpoint = real.server.endpoint
    url = f"{'https' if endpoint.tls else 'http'}://{endpoint.host}:{endpoint.port}{path}"
    admin = real.admin.reveal() if real.admin else ""
    headers = {"api-key": admin if key is None else key}
    return httpx.request(method, url, json=body, headers=headers, timeout=60, trust_env=False)


@contextlib.contextmanager
def real_server(
    folder: Path, *, rbac: bool = True, api_key: str | None = None, own: bool = False, cluster: bool = False
) -> Iterator[RealServer]:
    """A Qdrant server of our own with RBAC, or the one that ``MULTIDB_TEST_QDRANT`` points at (never with `own`: for
    tests that restart the server or delete whatever is on it). `cluster`: in distributed mode, as its only node."""
    where = os.environ.get("MULTIDB_TEST_QDRANT") or shutil.which("qdrant")
    if not where:
        pytest.skip("no Qdrant server: set MULTIDB_TEST_QDRANT to its binary, its URL or image:NAME")
    if where.startswith(("http://", "https://", "image:")):
        if own or not rbac or api_key is not None:
            pytest.skip("this test starts a server of its own: MULTIDB_TEST_QDRANT is no binary")
        with _contained(where) if where.startswith("image:") else contextlib.nullcontext(_given(where)) as given:
            yield given
        return
    key = "a-key-of-the-tests-with-more-than-32-bytes" if api_key is None else api_key
    http = choose(())
    grpc = choose({http})
    config = folder / "config.yaml"
    peers = choose({http, grpc}) if cluster else None
    told = {"cluster": {"enabled": True, "p2p": {"port": peers}}} if peers else {}
    config.write_text(json.dumps(server_config(folder, http, grpc, key, rbac) | told))
    process = _start(where, config, folder, http, peers)

    def kill() -> None:
        process.kill()
        process.wait()

    def restart() -> None:
        nonlocal process
        kill()
        process = _start(where, config, folder, http, peers)
        object.__setattr__(real, "pid", process.pid)

    endpoint = Endpoint(host="127.0.0.1", port=http, params={"grpc_port": str(grpc)})
    real = RealServer(
        Server("qdrant", "qdrant", endpoint),
        Secret(key) if key else None,
        ServerOptions(),
        pid=process.pid,
        kill=kill,
        restart=restart,
    )
    try:
        yield real
    finally:
        kill()


@contextlib.contextmanager
def local_folder(folder: Path) -> Iterator[RealServer]:
    """A folder of the client library's local mode."""
    endpoint = Endpoint(path=str(folder / "qdrant"))
    yield RealServer(Server("qdrant", "qdrant", endpoint), None, ServerOptions())


def _given(url: str) -> RealServer:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    assert parts.hostname
    grpc = os.environ.get("MULTIDB_TEST_QDRANT_GRPC_PORT", "6334")
    endpoint = Endpoint(host=parts.hostname, port=parts.port or 6333, tls=tls, params={"grpc_port": grpc})
    return RealServer(
        Server("qdrant", "qdrant", endpoint), Secret(os.environ["MULTIDB_TEST_QDRANT_API_KEY"]), ServerOptions()
    )


@contextlib.contextmanager
def _contained(image: str) -> Iterator[RealServer]:
    """A server in a container, on this machine's own network: an engine may have been started without a bridge."""
    from testcontainers.core.container import DockerContainer

    http, key = choose(()), "a-key-of-the-tests-with-more-than-32-bytes"
    grpc = choose({http})
    told = {"HOST": "127.0.0.1", "HTTP_PORT": http, "GRPC_PORT": grpc, "API_KEY": key, "JWT_RBAC": "true"}
    container = DockerContainer(image.removeprefix("image:")).with_kwargs(network_mode="host")
    for name, value in told.items():
        container.with_env(f"QDRANT__SERVICE__{name}", str(value))
    with container.with_env("QDRANT__TELEMETRY_DISABLED", "true"):
        _ready(http, lambda: True, lambda: b"".join(container.get_logs()).decode())
        endpoint = Endpoint(host="127.0.0.1", port=http, params={"grpc_port": str(grpc)})
        yield RealServer(Server("qdrant", "qdrant", endpoint), Secret(key), ServerOptions())


@contextlib.contextmanager
def _reader(real: RealServer) -> Iterator[tuple[Server, Secret]]:
    if real.pid is None:
        pytest.skip("the server that MULTIDB_TEST_QDRANT points at was not configured here")
    yield real.server, Secret(READ_ONLY_KEY)


def server_config(folder: Path, http: int, grpc: int, key: str, rbac: bool) -> dict[str, Any]:
    storage = {"storage_path": str(folder / "storage"), "snapshots_path": str(folder / "snapshots")}
    service = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "jwt_rbac": rbac}
    return {
        "log_level": "WARN",
        "telemetry_disabled": True,
        "storage": storage,
        "service": service | ({"api_key": key, "read_only_api_key": READ_ONLY_KEY} if key else {}),
    }


def _start(binary: str, config: Path, folder: Path, port: int, peers: int | None) -> subprocess.Popen[bytes]:
    argv = [binary, "--config-path", str(config), *(["--uri", f"http://127.0.0.1:{peers}"] if peers else [])]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log)
    try:
        _ready(port, lambda: process.poll() is None, (folder / "log").read_text)
    except BaseException:
        process.kill()
        raise
    return process


def _ready(port: int, alive: Callable[[], bool], log: Callable[[], str]) -> None:
    """Waits until the server answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200:
                return
        assert alive(), log()
        time.sleep(0.05)
    raise AssertionError(f"the server is not ready after 60 s: {log()}")


def use(tenant: Tenant) -> None:
    from multidb.client import connect
    from multidb.client.qdrant import models

    variables = {"APP_NAME": tenant.app, "APP_TENANT_ID": tenant.app, **tenant.env}
    with warnings.catch_warnings(), connect(variables=variables) as place:
        warnings.simplefilter("ignore")
        qdrant = place.qdrant
        qdrant.upsert("knowledge", [models.PointStruct(id=1, vector=VECTOR, payload={"text": tenant.app})])
        (hit,) = qdrant.query_points("knowledge", query=VECTOR, limit=1).points
        assert hit.payload is not None
        assert {**hit.payload, "created_at": ""} == {
            "text": tenant.app,
            "tenant_id": variables["APP_TENANT_ID"],
            "app_name": tenant.app,
            "created_at": "",
        }
        assert qdrant.count("knowledge").count == 1


# --- a server ------------------------------------------------------------------------------------------------------


def _squat(real: RealServer, app: str) -> None:
    ask(real, "PUT", f"/collections/{app}_knowledge", {"vectors": {"size": 4, "distance": "Cosine"}}).raise_for_status()
    points = [{"id": 7, "vector": VECTOR, "payload": {"old": True}}]
    ask(real, "PUT", f"/collections/{app}_knowledge/points?wait=true", {"points": points}).raise_for_status()


def _squatted(real: RealServer, app: str) -> bool:
    found = ask(real, "GET", f"/collections/{app}_knowledge/points/7")
    return found.status_code == 200 and found.json()["result"]["payload"] == {"old": True}


def _remove(real: RealServer, app: str) -> None:
    for entry in ask(real, "GET", "/collections").json()["result"]["collections"]:
        if entry["name"].startswith(f"{app}_"):
            ask(real, "DELETE", f"/collections/{entry['name']}")
    of_app = {"filter": {"must": [{"key": "app", "match": {"value": app}}]}}
    ask(real, "POST", "/collections/multidb__tokens__contract/points/delete?wait=true", of_app)  # where it is


def _by_hand(method: str, rest: str, body: Any = None) -> Callable[[RealServer, str], None]:
    def damage(real: RealServer, app: str) -> None:
        ask(real, method, f"/collections/{app}_knowledge{rest}", body).raise_for_status()

    return damage


_TENANT_INDEX = {"field_name": "tenant_id", "field_schema": {"type": "keyword", "is_tenant": False}}

DRIFTS = [
    Drift("the tenant index is dropped", _by_hand("DELETE", "/index/tenant_id?wait=true"), ("payload index",)),
    Drift("the tenant index is a plain one", _by_hand("PUT", "/index?wait=true", _TENANT_INDEX), ("is_tenant",)),
    Drift("an index is dropped", _by_hand("DELETE", "/index/lang?wait=true"), ("payload index",)),
    Drift("a limit is raised", _by_hand("PATCH", "", {"strict_mode_config": {"max_query_limit": 9}}), ("strict",)),
    Drift("limits are switched off", _by_hand("PATCH", "", {"strict_mode_config": {"enabled": False}}), ("strict",)),
    Drift("the graph is changed", _by_hand("PATCH", "", {"hnsw_config": {"m": 8, "payload_m": 4}}), ("hnsw",)),
    Drift("vectors go to memory", _by_hand("PATCH", "", {"vectors": {"": {"on_disk": False}}}), ("vectors_on_disk",)),
    Drift("no quantization", _by_hand("PATCH", "", {"quantization_config": "Disabled"}), ("quantization",)),
    Drift(
        "another quantization",
        _by_hand("PATCH", "", {"quantization_config": {"binary": {"always_ram": True}}}),
        ("quantization",),
    ),
    Drift("segments", _by_hand("PATCH", "", {"optimizers_config": {"default_segment_number": 5}}), ("optimizers",)),
    Drift("the collection is deleted", _by_hand("DELETE", ""), ("collection",)),
]


def _as(tenant: Tenant, method: str, path: str, body: Any = None, *, key: str | None = None, **more: Any) -> Any:
    """A request with the tenant's own token; what it answers. `Refused` when the server says no."""
    headers = {"api-key": tenant.env["QDRANT_API_KEY"] if key is None else key}
    url = tenant.env["QDRANT_URL"] + path
    answer = httpx.request(method, url, json=body, headers=headers, timeout=60, trust_env=False, **more)
    if answer.status_code in (401, 403):
        raise Refused(answer.text)
    assert answer.status_code == 200, f"the probe broke: {answer.status_code} {answer.text}"
    return answer.json()["result"] if "json" in answer.headers.get("content-type", "") else answer.text


def _threat(name: str, method: str, path: str, body: Any = None) -> Threat:
    """The same request for the victim's collection (refused) and the attacker's own (works). `<app>`: the app's id."""

    def on(attacker: Tenant, target: str) -> None:
        _as(attacker, "PUT", f"/collections/{attacker.app}_knowledge/points?wait=true", {"points": [_POINT]})
        _as(attacker, method, path.replace("<app>", target), _filled(body, target))

    return Threat(name, lambda a, b: on(a, b.app), lambda a: on(a, a.app))


def _forbidden(name: str, method: str, path: str, body: Any = None, **more: Any) -> Threat:
    """A request that no app may make, on the victim's things or (`<me>`) its own."""

    def attempt(attacker: Tenant, victim: Tenant) -> None:
        target = path.replace("<me>", attacker.app).replace("<app>", victim.app)
        _as(attacker, method, target, _filled(body, victim.app), **more)

    return Threat(name, attempt, None)


def _filled(body: Any, target: str) -> Any:
    return json.loads(json.dumps(body).replace("<app>", target)) if body is not None else None


def _lists(name: str, path: str, names: Callable[[Any], set[str]]) -> Threat:
    """An answer that may come, but not with the victim's collection in it."""

    def look(attacker: Tenant, app: str) -> None:
        if f"{app}_knowledge" not in names(_as(attacker, "GET", path)):
            raise Refused(f"{path} says nothing of {app}")

    return Threat(name, lambda a, b: look(a, b.app), lambda a: look(a, a.app))


def _named(result: Any) -> set[str]:
    return {entry["name"] for entry in result["collections"]}


def _measured(result: Any) -> set[str]:
    # Names alone do leak, in the list of running snapshots; see test_qdrant_server.py.
    return {entry["id"] for entry in result["collections"]["collections"]}


def _forged(name: str, forge: Callable[[str, str], str]) -> Threat:
    """The victim's points, with a token made from the attacker's own."""

    def attempt(attacker: Tenant, victim: Tenant) -> None:
        key = forge(attacker.env["QDRANT_API_KEY"], victim.app)
        _as(attacker, "POST", f"/collections/{victim.app}_knowledge/points/scroll", {}, key=key)

    return Threat(name, attempt, lambda a: _as(a, "POST", f"/collections/{a.app}_knowledge/points/scroll", {}))


def _encoded(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def _claims(app: str) -> dict[str, Any]:
    return {"access": [{"collection": f"{app}_knowledge", "access": "prw"}], "exp": int(time.time()) + 900}


def _altered(token: str, app: str) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{_encoded(_claims(app))}.{signature}"


def _unsigned(token: str, app: str) -> str:
    return f"{_encoded({'alg': 'none', 'typ': 'JWT'})}.{_encoded(_claims(app))}."


def _signed_by_itself(token: str, app: str) -> str:
    import jwt

    return jwt.encode(_claims(app), token, algorithm="HS256")


def _over_grpc(attacker: Tenant, target: str) -> None:
    import grpc
    from qdrant_client import QdrantClient

    env = attacker.env
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = QdrantClient(
            url=env["QDRANT_URL"],
            grpc_port=int(env["QDRANT_GRPC_PORT"]),
            prefer_grpc=True,
            api_key=env["QDRANT_API_KEY"],
            check_compatibility=False,
        )
        try:
            client.scroll(f"{target}_knowledge")
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                raise Refused(str(error.details())) from None
            raise
        finally:
            client.close()


_POINT = {"id": 1, "vector": VECTOR, "payload": {"tenant_id": "x"}}
_C = "/collections/<app>_knowledge"
_LOOKUP = {"query": 1, "lookup_from": {"collection": "<app>_knowledge"}}
_ALIAS = {"create_alias": {"collection_name": "<app>_knowledge", "alias_name": "stolen"}}
_RENAME = {"rename_alias": {"old_alias_name": "<app>", "new_alias_name": "stolen"}}
_NEW = {"vectors": {"size": 4, "distance": "Cosine"}}
_INDEX = {"field_name": "x", "field_schema": "keyword"}

THREATS = [
    _threat("describe", "GET", _C),
    _threat("read a point", "GET", f"{_C}/points/1"),
    _threat("scroll", "POST", f"{_C}/points/scroll", {}),
    _threat("count", "POST", f"{_C}/points/count", {}),
    _threat("search", "POST", f"{_C}/points/query", {"query": VECTOR}),
    _threat("facet", "POST", f"{_C}/facet", {"key": "tenant_id"}),
    _threat("look up vectors elsewhere", "POST", "/collections/<app>_knowledge/points/query", _LOOKUP),
    Threat(
        "search the own collection with a vector from elsewhere",
        lambda a, b: _as(a, "POST", f"/collections/{a.app}_knowledge/points/query", _filled(_LOOKUP, b.app)),
        lambda a: _as(a, "POST", f"/collections/{a.app}_knowledge/points/query", _filled(_LOOKUP, a.app)),
    ),
    _threat("write", "PUT", f"{_C}/points?wait=true", {"points": [_POINT]}),
    _threat("set payload", "POST", f"{_C}/points/payload?wait=true", {"payload": {"a": 1}, "points": [1]}),
    _threat("delete points", "POST", f"{_C}/points/delete?wait=true", {"points": [999]}),
    _lists("list collections", "/collections", _named),
    _lists("read telemetry", "/telemetry?details_level=6", _measured),
    Threat("scroll over gRPC", lambda a, b: _over_grpc(a, b.app), lambda a: _over_grpc(a, a.app)),
    _forbidden("create a collection", "PUT", "/collections/<me>_more", _NEW),
    _forbidden("create one in the other's name", "PUT", "/collections/<app>_more", _NEW),
    _forbidden("change a collection", "PATCH", _C, {"metadata": {"multidb": {"project": "x", "app": "x"}}}),
    _forbidden("change the own collection's limits", "PATCH", "/collections/<me>_knowledge", {"metadata": {"a": 1}}),
    _forbidden("drop a collection", "DELETE", _C),
    _forbidden("drop the own collection", "DELETE", "/collections/<me>_knowledge"),
    _forbidden("create an alias", "POST", "/collections/aliases", {"actions": [_ALIAS]}),
    _forbidden("rename an alias", "POST", "/collections/aliases", {"actions": [_RENAME]}),
    _forbidden("create an index", "PUT", f"{_C}/index", _INDEX),
    _forbidden("drop the own tenant index", "DELETE", "/collections/<me>_knowledge/index/tenant_id"),
    _forbidden("list snapshots", "GET", f"{_C}/snapshots"),
    _forbidden("take a snapshot", "POST", f"{_C}/snapshots"),
    _forbidden("take a snapshot of the own collection", "POST", "/collections/<me>_knowledge/snapshots"),
    _forbidden("download a snapshot", "GET", f"{_C}/snapshots/any.snapshot"),
    _forbidden("recover from a URL", "PUT", f"{_C}/snapshots/recover", {"location": "http://127.0.0.1:9/x"}),
    _forbidden("upload a snapshot", "POST", f"{_C}/snapshots/upload", files={"snapshot": b"x"}),
    _forbidden("snapshots of everything", "GET", "/snapshots"),
    _forbidden("metrics", "GET", "/metrics"),
    _forbidden("cluster", "GET", "/cluster"),
    _forbidden("logger", "GET", "/logger"),
    _forged("a token with altered claims", _altered),
    _forged("a token without signature", _unsigned),
    _forged("a token signed with the app's token", _signed_by_itself),
]


# --- local mode ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """The folder, opened as anybody could."""
    from qdrant_client import QdrantClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = QdrantClient(path=path)
        try:
            yield client
        finally:
            client.close()


def _local_squat(real: RealServer, app: str) -> None:
    from qdrant_client import models

    with opened(real.server.endpoint.path) as client:
        client.create_collection(f"{app}_knowledge", models.VectorParams(size=4, distance=models.Distance.COSINE))
        client.upsert(f"{app}_knowledge", [models.PointStruct(id=7, vector=VECTOR, payload={"old": True})])


def _local_squatted(real: RealServer, app: str) -> bool:
    with opened(real.server.endpoint.path) as client:
        found = client.retrieve(f"{app}_knowledge", [7])
        return [point.payload for point in found] == [{"old": True}]


def _local_remove(real: RealServer, app: str) -> None:
    with opened(real.server.endpoint.path) as client:
        for entry in client.get_collections().collections:
            if entry.name.startswith(f"{app}_"):
                client.delete_collection(entry.name)


def _local_delete(real: RealServer, app: str) -> None:
    with opened(real.server.endpoint.path) as client:
        client.delete_collection(f"{app}_knowledge")


def _local_read(attacker: Tenant, target: str) -> None:
    with opened(attacker.env["QDRANT_PATH"]) as client:
        assert client.scroll(f"{target}_knowledge")[0]


def _local_write(attacker: Tenant, target: str) -> None:
    from qdrant_client import models

    with opened(attacker.env["QDRANT_PATH"]) as client:
        points = [models.PointStruct(id=str(uuid.uuid4()), vector=VECTOR, payload={})]
        client.upsert(f"{target}_knowledge", points)


CASES = [
    StoreCase(
        name="qdrant-server",
        provisioner=PROVISIONER,
        start=real_server,
        use=use,
        squat=_squat,
        squatted=_squatted,
        remove=_remove,
        app_options=SETTINGS,
        drifts=DRIFTS,
        typed={"GET /collections/{app}_knowledge": "points_count"},
        refused="GET /collections/of_another",
        threats=THREATS,
        lesser=[Lesser("a key that only reads", _reader, "it is a read-only key")],
        clients=CLIENTS,
    ),
    StoreCase(
        name="qdrant-local",
        provisioner=PROVISIONER,
        start=local_folder,
        use=use,
        squat=_local_squat,
        squatted=_local_squatted,
        remove=_local_remove,
        app_options=SETTINGS,
        drifts=[Drift("the collection is deleted", _local_delete, ("collection",))],
        threats=[
            Threat("read", lambda a, b: _local_read(a, b.app), lambda a: _local_read(a, a.app)),
            Threat("write", lambda a, b: _local_write(a, b.app), lambda a: _local_write(a, a.app)),
        ],
        attackable=False,
    ),
]
