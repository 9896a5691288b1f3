"""The external runtime: servers that exist already, on another host or as a managed service. multidb only reaches them.

    external:
      postgres: {url: "postgresql://admin@db.example.com/postgres?sslmode=verify-full", password: {env: PG_PASSWORD}}
      qdrant:   {url: "https://qdrant.example.com:6333", password: {file: /run/secrets/qdrant}}

An address never carries a password: manifests are committed, printed and shared.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from multidb.errors import Refused, UsageError
from multidb.model import App, Endpoint, Progress, Project, Server
from multidb.runtime import ServerState, ServerStatus
from multidb.runtime.together import side_by_side
from multidb.secret_source import SecretSource
from multidb.secrets import Secret
from multidb.state import ProjectState

__all__ = ["ExternalRuntime", "ExternalServer"]

_STORES = ("postgres", "redis", "qdrant", "neo4j")
_SECRET_PARAMETERS = {"password", "passwd", "pwd", "sslpassword", "api_key", "api-key", "apikey", "token", "key"}


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How the address of a store is written."""

    schemes: Mapping[str, bool]  # scheme: whether it means TLS
    port: int
    user: str
    database: str


_DIALECTS = {
    "postgres": _Dialect({"postgresql": False, "postgres": False}, 5432, "postgres", "postgres"),
    "redis": _Dialect({"redis": False, "rediss": True, "valkey": False, "valkeys": True}, 6379, "default", ""),
    "qdrant": _Dialect({"http": False, "https": True}, 6333, "", ""),
    "neo4j": _Dialect(
        {"bolt": False, "neo4j": False, "bolt+s": True, "neo4j+s": True, "bolt+ssc": True, "neo4j+ssc": True},
        7687,
        "neo4j",
        "neo4j",
    ),
}

# The names of libpq for what the manifest calls the same everywhere.
_POSTGRES_FILES = {"ca_file": "sslrootcert", "cert_file": "sslcert", "key_file": "sslkey"}


class ExternalServer(BaseModel):
    """One entry of ``external:`` in the manifest: a server that exists already."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str | None = Field(
        default=None,
        description="Address of the server with its admin's name, without password: postgresql://, redis:// or "
        "rediss://, http:// or https:// (Qdrant), bolt://, bolt+s:// or neo4j+s://.",
    )
    path: str | None = Field(
        default=None, description="Qdrant only: folder of the client's local mode, instead of url."
    )
    password: SecretSource | None = Field(
        default=None, description="Where the admin's password (Qdrant: the api key) is read from."
    )
    app_url: str | None = Field(
        default=None, description="Address as the apps see it, where that is another one (a private network, a pooler)."
    )
    sslmode: str | None = Field(
        default=None, description="Postgres: disable, allow, prefer, require, verify-ca or verify-full."
    )
    ca_file: str | None = Field(default=None, description="Certificates of the authorities to trust, in PEM.")
    cert_file: str | None = Field(default=None, description="Client certificate to show to the server, in PEM.")
    key_file: str | None = Field(default=None, description="Private key of cert_file, in PEM.")
    grpc_port: int | None = Field(default=None, ge=1, le=65535, description="Qdrant: port of its gRPC interface.")
    timeout: float = Field(default=10.0, gt=0, description="Seconds that connecting or one question may take.")

    @field_validator("url", "app_url")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        return value if value is None else _checked(value)

    @field_validator("sslmode")
    @classmethod
    def _known_sslmode(cls, value: str | None) -> str | None:
        known = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
        if value is not None and value not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _one_address(self) -> ExternalServer:
        if (self.url is None) == (self.path is None):
            raise ValueError("must have either url, or path (Qdrant's local mode)")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("must have cert_file and key_file together")
        return self

    def problem(self, store: str) -> str | None:
        """What does not fit the store ``external.<store>``, for a person; None when it fits."""
        dialect = _DIALECTS.get(store)
        if dialect is None:
            return f"must be one of {', '.join(_STORES)}"
        if self.path is not None and store != "qdrant":
            return "must have url; path is only for Qdrant's local mode"
        for name, url in (("url", self.url), ("app_url", self.app_url)):
            if url is not None and urlsplit(url).scheme not in dialect.schemes:
                return f"must have {name} beginning with {' or '.join(f'{scheme}://' for scheme in dialect.schemes)}"
        if self.sslmode is not None and store != "postgres":
            return "must not have sslmode, which is Postgres's; its TLS is chosen by the scheme of url"
        if self.grpc_port is not None and store != "qdrant":
            return "must not have grpc_port, which is Qdrant's"
        return None

    def endpoint(self, store: str, root: Path) -> Endpoint:
        """The server as multidb reaches it. `root` is the manifest's folder, for the paths in the entry."""
        if self.path is not None:
            return Endpoint(path=str(root / Path(self.path).expanduser()))
        return self._endpoint(store, root, self.url or "")

    def app_endpoint(self, store: str, root: Path) -> Endpoint:
        """The server as its apps reach it: `app_url` where given."""
        return self._endpoint(store, root, self.app_url) if self.app_url else self.endpoint(store, root)

    def _endpoint(self, store: str, root: Path, url: str) -> Endpoint:
        dialect, parts = _DIALECTS[store], urlsplit(url)
        params = dict(parse_qsl(parts.query))
        names = _POSTGRES_FILES if store == "postgres" else {}
        for field in ("ca_file", "cert_file", "key_file"):
            value = getattr(self, field)
            if value is not None:
                params[names.get(field, field)] = str(root / Path(value).expanduser())
        if self.sslmode is not None:
            params["sslmode"] = self.sslmode
        if self.grpc_port is not None:
            params["grpc_port"] = str(self.grpc_port)
        if store == "neo4j":
            params["scheme"] = parts.scheme
        tls = dialect.schemes[parts.scheme]
        if store == "postgres":
            tls = params.get("sslmode", "prefer") not in ("disable", "allow", "prefer")
        return Endpoint(
            host=parts.hostname or "",
            port=parts.port or dialect.port,
            user=unquote(parts.username or dialect.user),
            database=unquote(parts.path.strip("/")) or dialect.database,
            tls=tls,
            params=params,
        )


class ExternalRuntime:
    """A `Runtime` that starts and stops nothing.

    Args:
        project: its `external` holds an `ExternalServer` (or a mapping to make one from) per store.
    """

    def __init__(self, project: Project, state: ProjectState) -> None:
        self._project = project
        self._root = Path(project.root)

    def up(self, progress: Progress, only: Sequence[str] | None = None) -> list[ServerStatus]:
        """Refuses: these servers are not ours to start."""
        raise self._not_ours("start")

    def switch(self, stores: Sequence[str]) -> None:
        """Refuses: these servers are not ours to choose."""
        raise self._not_ours("choose")

    def down(self, progress: Progress) -> list[ServerStatus]:
        """Refuses: these servers are not ours to stop."""
        raise self._not_ours("stop")

    def retire(self, app: App, progress: Progress, *, erase: bool = False) -> list[ServerStatus]:
        """Nothing: none of these servers is ours."""
        return []

    def spare(self, server: Server, progress: Progress, *, adoptable: bool) -> None:
        """None: these servers are not ours to start."""

    def adopt(self, server: Server, spare: Server, progress: Progress) -> None:
        """Refuses: these servers are not ours to change."""
        raise self._not_ours("replace")

    def take_offline(self, server: Server) -> None:
        """None: these servers are not ours to stop."""

    def recover(self, name: str, progress: Progress) -> Server:
        """Refuses: these servers are not ours to stop."""
        raise self._not_ours("stop")

    def resume(self, progress: Progress) -> list[ServerStatus]:
        """Nothing: none is taken offline."""
        return []

    def status(self) -> list[ServerStatus]:
        """Whether something listens at each address; nobody logs in for that."""
        return side_by_side(_reached, self.servers())

    def servers(self) -> list[Server]:
        """See `Runtime.servers`.

        Raises:
            UsageError: a store that an app uses has no address, or one that does not fit it.
        """
        servers = []
        for store in _STORES:
            if self._project.apps_with(store):
                entry = self._entry(store)
                servers.append(Server(store, store, entry.endpoint(store, self._root), timeout=entry.timeout))
        return servers

    def missing(self) -> list[ServerStatus]:
        """See `Runtime.missing`. Every server here has an address."""
        return []

    def names_for(self, app: App) -> list[str]:
        """See `Runtime.names_for`. None of these is ours to start."""
        return []

    def admin(self, server: Server) -> Secret | None:
        """See `Runtime.admin`. None also where the manifest names no password: the server asks for none."""
        source = self._entry(server.store).password
        if server.endpoint.path or source is None:
            return None
        return source.read(self._root, f"server {server.name}", "the admin's password")

    def app_endpoint(self, server: Server) -> Endpoint:
        """See `Runtime.app_endpoint`."""
        return self._entry(server.store).app_endpoint(server.store, self._root)

    def logs(self, name: str, lines: int, follow: bool) -> Iterator[str]:
        """Refuses: nobody but the servers' own administrators can read these."""
        raise self._not_ours("read the logs of")

    def _entry(self, store: str) -> ExternalServer:
        where = f"{self._project.file}, external.{store}"
        value: Any = self._project.external.get(store)
        if value is None:
            raise UsageError(
                "is missing, and apps use this store",
                where=where,
                hint=f'add: external: {{{store}: {{url: "...", password: {{env: NAME}}}}}}',
            )
        try:
            entry = value if isinstance(value, ExternalServer) else ExternalServer.model_validate(value)
        except ValidationError as error:
            raise UsageError(_readable(error), where=where) from None
        problem = entry.problem(store)
        if problem is not None:
            raise UsageError(problem, where=where)
        return entry

    def _not_ours(self, verb: str) -> Refused:
        return Refused(
            f"these servers are not ours to {verb}: the manifest says runtime: external",
            where=self._project.file,
            hint="multidb status shows whether they can be reached",
        )


def _checked(url: str) -> str:
    """The address, when it has a host and no password. Messages never repeat it: it may hold one."""
    try:
        parts: SplitResult = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must be an address such as postgresql://admin@db.example.com:5432/postgres") from None
    if parts.password is not None or _SECRET_PARAMETERS & {name.lower() for name, _ in parse_qsl(parts.query)}:
        raise ValueError("must not carry a password; move it out: password: {env: NAME} or password: {file: PATH}")
    if not host:
        raise ValueError("must have a host, such as postgresql://admin@db.example.com:5432/postgres")
    return url


def _readable(error: ValidationError) -> str:
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'])} {problem['msg'].removeprefix('Value error, ')}".strip()
        for problem in problems
    )


def _reached(server: Server) -> ServerStatus:
    endpoint = server.endpoint
    if endpoint.path:
        state = ServerState.RUNNING if Path(endpoint.path).is_dir() else ServerState.STOPPED
        return ServerStatus(server.name, server.store, state, server, "local mode: a folder, no server process")
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout=server.timeout):
            return ServerStatus(server.name, server.store, ServerState.RUNNING, server, "accepts connections")
    except TimeoutError:
        reason = f"does not answer within {server.timeout:g} s"
    except OSError as error:
        reason = f"cannot be reached: {error.strerror or error}"
    return ServerStatus(server.name, server.store, ServerState.FAILED, server, reason)
