"""Postgres as a container: the official image and its contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from multidb.model import Statement
from multidb.model.container import Container, Pooler, SecretVariable, one_per_app, shared
from multidb.model.project import ServerSpec
from multidb.provisioners.postgres.observe.refusals import LINE_PREFIX
from multidb.provisioners.postgres.provision.options import STORE, ServerOptions
from multidb.provisioners.postgres.provision.roles import AppNames

__all__ = ["IMAGE", "POOLER", "containers"]

IMAGE: Final = "postgres:18-trixie"  # with the distribution: another one may sort text differently

POOLER: Final = Pooler(
    name="pgbouncer",
    image="edoburu/pgbouncer:v1.25.2-p0",
    oldest="PgBouncer 1.19 or later, which can look up passwords in another database",
    port=6432,
    secret="PGBOUNCER_PASSWORD",
    files={f"pgbouncer/{name}": f"pgbouncer/{name}.j2" for name in ("pgbouncer.ini", "start.sh", "setup.sh")},
    users=("nobody",),
    tls_files={"key.sh": "tls/key.sh.j2"},
    takes_certificate=("sh", "-c", "kill -HUP 1"),  # its start script has become PgBouncer
)


def containers(spec: ServerSpec, apps: Sequence[str], per_app: bool) -> list[Container]:
    """One server, or one for each app."""
    options = ServerOptions.of(spec.options)
    container = Container(
        name=spec.name,
        store=STORE,
        apps=spec.apps,
        image=options.image or IMAGE,
        ports={"port": 5432},
        secret=SecretVariable("POSTGRES_PASSWORD"),
        memory=options.memory or 1024**3,
        cpus=options.cpus,
        admin="postgres",
        database="postgres",
        scripts={"scripts/init-multiple-databases.sh": "init-multiple-databases.sh.j2"},
        files={"postgres/pg_hba.conf": "postgres/pg_hba.conf.j2"},
        pooler=POOLER,
        settings={"max_connections": options.max_connections, "line_prefix": LINE_PREFIX, "names": AppNames.of("$1")},
        users=("postgres",),
        tls_files={
            "key.sh": "tls/key.sh.j2",
            "start.sh": "postgres/start.sh.j2",
        },
        trust={"sslmode": "verify-full", "sslrootcert": "{}"},
        takes_certificate=(Statement("SELECT pg_reload_conf()"),),
    )
    return one_per_app(container, apps, spec) if per_app else shared(container, spec)
