"""Whether backups find a ``pg_dump`` for each server, looked for as they do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from multidb.errors import ArchiveError
from multidb.model import Finding, Level, Server
from multidb.provisioners.postgres.backup.programs import find, needs_tls

__all__ = ["examine"]

_USUAL: Final = 18  # the version that is reckoned with while no server runs that could be asked


def examine(servers: Sequence[Server], versions: Sequence[int]) -> Iterator[Finding]:
    """See `Provisioner.examine`."""
    containers = [server.container for server in servers]
    container = containers[0] if containers and all(containers) else None
    tls = any(needs_tls(server.endpoint) for server in servers)
    if container is not None and not versions:
        return  # a server that does not run cannot be asked what it has, and its image has what it needs
    for version in versions or [_USUAL]:
        try:
            program = find("pg_dump", version, "pg_dump", container, tls=tls)
        except ArchiveError as error:
            level, assumed = Level.ERROR, ""
            if not versions:
                level, assumed = Level.WARNING, f"no server has said its version; one of Postgres {version} "
            yield Finding(level, "pg_dump", f"{assumed}{error.message}", error.hint or "")
        else:
            taken = " in the server's container is taken" if program.inside is not None else ""
            yield Finding(Level.OK, "pg_dump", f"version {program.version}{taken}")
