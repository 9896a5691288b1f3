"""Postgres (13 to 18): a database of its own for every app on one shared server.

**What an app gets.** A database ``<app>`` and three roles without login: ``<app>_owner`` owns what is in the database,
``<app>_rw`` reads and writes it, ``<app>_ro`` reads it. Two logins: ``<app>_user``, which becomes ``<app>_owner`` when
it connects, so that an app that migrates its own schema just works, and ``<app>_readonly``, which can read every table
that the app has or will make. With ``roles: split`` a third login, ``<app>_migrate``, owns and changes the schema, and
``<app>_user`` only reads and writes. Once its credentials were rotated an app has two of each login, the second with
``_b`` behind its name, of which one may log in. Extensions, connection limits per login, and timeouts as the manifest
says.

**How it is isolated.** Nobody but the app's own logins may connect to its database, and no app may connect to the
server's own databases (``postgres``, ``template1``). The database belongs to the platform's admin login: the app cannot
let others in, raise its limits or change its settings for good. Passwords are generated; the server is only ever told
SCRAM-SHA-256 verifiers, so none can end up in its log.

**What is shared.** CPU, memory, disk, connections of the server as a whole, restarts. Every login can see the names of
all databases and roles and their comments. A timeout is a guard rail: the app can lift it for its own session.

**Over its quota** (where the manifest says ``enforce``) an app's logins become ``<app>_restricted`` instead of the
owner or the writer: they read, delete, and empty tables, and the server refuses INSERT, UPDATE, CREATE and temporary
tables. Its sessions are ended, so that they begin anew as that role. Nothing of the app's own grants changes, so
lifting it restores what was. Large objects can still be made: every login may.

**In a database that apps share** (``database`` and ``schema`` in the manifest), an app has a schema instead, which
belongs to the admin as a database does: the same roles and logins, CREATE in no other place, extensions in a schema of
their own. The database itself is nobody's of them. Names, NOTIFY channels and advisory locks are not kept apart there.

**What marks it as ours.** ``COMMENT ON DATABASE`` and ``COMMENT ON ROLE`` say ``multidb:<project>/<app>``. A role or
database under a wanted name without that comment is a conflict, also when only the comment was lost: adopting it writes
the comment and takes over everything in the database by planned statements, without touching data. A database's comment
ends in the revision of its inside, or in ``unfinished``, so that a look at the shared catalogs is enough to know which
databases have to be entered.

**What the admin login needs.** A superuser, or ``CREATEROLE`` and ``CREATEDB`` (Amazon RDS, Cloud SQL, Azure). Without
superuser: multidb grants the admin membership in each ``<app>_owner``; untrusted extensions are refused unless the
service allows them; passwords cannot be read back, so whether they are still ours is only known after a deep check,
which tries them; before Postgres 15 an app's schema cannot be given to it; and a database of the server's own that the
admin does not own stays open, which the isolation level says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from multidb.model import (
    App,
    AppAccess,
    AppClient,
    Archive,
    Column,
    ContinuousArchive,
    ExistingPlace,
    Finding,
    ForeignArchive,
    Health,
    HostedServer,
    Hosting,
    ImportOptions,
    ImportSource,
    Probe,
    Provisioner,
    Querying,
    Question,
    QuestionRows,
    Refusal,
    Scanning,
    Server,
    Session,
    SourceLocation,
    TakeOffline,
    Tenant,
)
from multidb.provisioners.postgres.hosting.address import PostgresAddress
from multidb.provisioners.postgres.hosting.container import POOLER, containers
from multidb.provisioners.postgres.isolation import level
from multidb.provisioners.postgres.observe import advice
from multidb.provisioners.postgres.provision import (
    applications,
    desired,
    environment,
    move_survey,
    options,
    resources,
    sharing,
    statements,
)
from multidb.provisioners.postgres.provision.admin_password import ADMIN_PASSWORD
from multidb.secrets import Secret
from multidb.state_store import StateStore

__all__ = ["PROVISIONER"]


def _connect(server: Server, password: Secret | None, application_name: str) -> Session:
    from multidb.provisioners.postgres.provision.session import (
        PostgresSession,  # the driver is loaded when it is needed
    )

    return PostgresSession(server, password, application_name)


def _archive(server: Server, password: Secret | None, application_name: str, _: TakeOffline | None) -> Archive:
    from multidb.provisioners.postgres.backup.archive import PostgresArchive

    return PostgresArchive(server, password, application_name)


def _source(location: SourceLocation, options: ImportOptions) -> ImportSource:
    from multidb.provisioners.postgres.backup.dump_file import PostgresDumpFile
    from multidb.provisioners.postgres.backup.followed import FollowedPostgres

    if location.path is not None:
        return PostgresDumpFile(location)
    return FollowedPostgres(location)


def _barman(folder: Path, details: Mapping[str, object]) -> ForeignArchive:
    from multidb.provisioners.postgres.backup.barman import BarmanArchive

    return BarmanArchive(folder, details)


def _continuous(server: Server, password: Secret | None, application_name: str) -> ContinuousArchive:
    from multidb.provisioners.postgres.backup.wal import PostgresContinuous

    return PostgresContinuous(server, password, application_name)


def _state_store(reach: Callable[[], tuple[Server, Secret | None]], project: str, application: str) -> StateStore:
    from multidb.provisioners.postgres.driver.state_store import PostgresStateStore

    return PostgresStateStore(reach, project, application)


def _client(tenant: Tenant, access: AppAccess) -> AppClient:
    from multidb.provisioners.postgres.driver.client import client

    return client(tenant, access)


def _check_health(tenant: Tenant, may_write: bool) -> Health:
    from multidb.provisioners.postgres.observe.health import check_health

    return check_health(tenant, may_write)


def _probe(attacker: Tenant, victims: Sequence[Tenant]) -> Iterable[Probe]:
    from multidb.provisioners.postgres.isolation.audit import probe

    return probe(attacker, victims)


def _examine(servers: Sequence[Server], versions: Sequence[int]) -> Iterable[Finding]:
    from multidb.provisioners.postgres.observe.examination import examine

    return examine(servers, versions)


def _logged_refusals(app: App, lines: Iterable[str]) -> Sequence[Refusal]:
    from multidb.provisioners.postgres.observe.refusals import logged_refusals

    return logged_refusals(app, lines)


def _processes(hosting: Hosting) -> Sequence[HostedServer]:
    from multidb.provisioners.postgres.hosting.process import processes

    return processes(hosting)


def _read_existing(session: Session) -> Any:
    from multidb.provisioners.postgres.provision.session import PostgresSession

    assert isinstance(session, PostgresSession)
    return session.existing()


def _existing_places(read: Any, known: Collection[str]) -> Sequence[ExistingPlace]:
    from multidb.provisioners.postgres.provision.existing import places

    return places(read, known)


def _check_question(words: Sequence[str]) -> None:
    from multidb.provisioners.postgres.driver.query import check

    check(words)


def _answer(tenant: Tenant, question: Question) -> AbstractContextManager[QuestionRows]:
    from multidb.provisioners.postgres.driver.query import answer

    return answer(tenant, question)


def _columns(tenant: Tenant, question: Question) -> tuple[Column, ...]:
    from multidb.provisioners.postgres.driver.query import columns

    return columns(tenant, question)


PROVISIONER = Provisioner(
    name=options.STORE,
    title="Postgres",
    app_options=options.AppOptions,
    server_options=options.ServerOptions,
    derived_names=resources.derived_names,
    secrets=resources.secrets,
    desired=desired.desired,
    statements=statements.statements,
    env=environment.env,
    isolation=level.isolation,
    connect=_connect,
    client=_client,
    logged_refusals=_logged_refusals,
    querying=Querying("sql", _check_question, _answer, "SELECT count(*) FROM users", columns=_columns),
    check_health=_check_health,
    probe=_probe,
    archive=_archive,
    source=_source,
    continuous=_continuous,
    foreign_archives={"barman": _barman},
    address=PostgresAddress,
    processes=_processes,
    admin_password=ADMIN_PASSWORD,
    containers=containers,
    poolers=(POOLER,),
    examine=_examine,
    tables=True,
    scripts=True,
    statement_end=";",
    scanning=Scanning(_read_existing, _existing_places),
    reserved=resources.RESERVED,
    placed=move_survey.placed,
    check=sharing.check,
    own_options=sharing.own_options,
    shared_options=("reads",),
    profiles=tuple(applications.ApplicationName),
    own=("pg_*", "public"),
    advise=advice.advise,
    state_store=_state_store,
    rotates=lambda app, facts: "",
    alternates=resources.alternates,
)
