"""Neo4j: a database per app where the server has databases and roles, else a small server per app.

What the server can do is found by asking it to plan ``SHOW ROLES`` and ``CREATE DATABASE``, not by its edition's name:
DozerDB calls itself enterprise and has no roles.

**With databases and roles** (Enterprise, ``isolation: database``, *enforced*). An app gets a database named after it
(``beep_boop`` gets ``beep-boop``; ids of two letters and ids that begin with ``system`` get ``db.`` in front), the
roles ``<app>_rw`` and ``<app>_ro`` with rights on that database alone, and the user ``<app>_user`` with the first role
and the database as its home. The built-in roles are never given, since they reach every database. Once per server the
right to read files and URLs by LOAD CSV is taken from PUBLIC, which every user has. ``manage_schema: false`` keeps the
app from making indexes and constraints. Rights beyond these, on the app's roles or by other roles of its user, are
drift and are taken away; rights that were made ``IMMUTABLE`` are left alone, since they can be changed only while
authentication is off.

**Without roles** (Community, DozerDB, ``isolation: instance``). There every user is an administrator, so a server is
given to one app: *enforced* where multidb runs the servers, since no other app has credentials there; *partial* on a
server that exists already, where others may have accounts. A second app is refused. ``isolation: label`` puts all apps
in one database on request: *naming only*, each with its own user, and the label in ``NEO4J_LABEL`` is a convention.

**Owner mark.** A role ``multidb_<project>_OWNS_<app>`` that nobody has and that may do nothing; without roles an empty
index of that name in the default database, which survives the deletion of all data. An unmarked server with data in it
is a conflict. A server that multidb runs for one app is marked by its place in the project's folder.

**What is shared.** Between databases of one server: memory, page cache, CPU, disk, restarts, and the number of
databases (``dbms.max_databases``, 100 by default). Between instances: the machine.

**Health** is tried as the app: a node without a label in a transaction that is rolled back, which leaves no name
behind. Read-only databases, a server short of memory and a heap that stays full after a collection are degraded.

**Over its quota** an app of an Enterprise server has READ and DELETE instead of WRITE, and may not make names, indexes
or constraints. Without roles no user can be held back: there the quota warns and nothing more.

**Turned off** an app's user is suspended on Enterprise. Community has no such thing: the user is dropped, and comes
back by `apply` with its old password. Its connections are ended either way, which neither a new status nor a drop
does.

**Rotated**, an app comes as ``<app>_user`` and ``<app>_user_b`` in turn, with the same role and home. The one that was
replaced is dropped and its connections are ended.

**Sizes** are not told over Bolt. They are read from the data folder where it is on this machine, which its file
``server_id`` has to prove.

**Backups** are a typed logical export through the driver (`graph_file` and `values` document it): every type of value,
constraints and indexes. Neo4j has no snapshots: a part is consistent when the database's bookmark says that nothing
was committed meanwhile. With databases, a set is tried in ``try.<app>`` and loaded in ``new.<app>``, which a role marks
as multidb's (``multidb_<project>_TRIES_<app>``, ``multidb_<project>_LOADS_<app>``): a database of that name without it
is refused. Else a scratch server takes its place, which the runtime starts. What replaces live data on the same server
does so in one transaction of at most 200,000 nodes and relationships; where multidb runs the server, a scratch server's
data folder takes the place of the live one, of any size. Not in an export: with `isolation: label` the indexes, which
are the shared database's. Refused on servers before 5.13: dates before the year 1 or after 9999 and offsets with
seconds, which Python's driver cannot hold and the others are asked to spell.

With ``servers.neo4j.backup: dump`` a part is what ``neo4j-admin database dump`` writes of a server that the runtime
stops for it (`Runtime.take_offline`).

**Rights needed.** The role ``admin``, or any user on Community. Neo4j 5 or newer; 4.4 is refused.

**Locking.** Neo4j has no advisory lock: two applies of one project are kept apart by a file lock in the project's
folder, applies from two machines are not. Every command is atomic and every change is read again before it is made,
so that two machines can at worst meet a plain error and run again.

**Whether the server still has our password** is told by logging in, once per user in a deep check. After three failed
logins Neo4j refuses a user for five seconds, whatever the password; a check that meets this waits it out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from multidb.model import (
    AppAccess,
    AppClient,
    Archive,
    ExistingPlace,
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
    Scanning,
    Server,
    Session,
    SourceLocation,
    TakeOffline,
    Tenant,
)
from multidb.provisioners.neo4j.driver.optional import leave_out_arrays
from multidb.provisioners.neo4j.hosting.address import Neo4jAddress
from multidb.provisioners.neo4j.hosting.container import containers
from multidb.provisioners.neo4j.isolation import level
from multidb.provisioners.neo4j.provision import environment, options, resources
from multidb.provisioners.neo4j.provision.admin_password import ADMIN_PASSWORD
from multidb.provisioners.neo4j.provision.statements import statements
from multidb.secrets import Secret
from multidb.startup import is_command_line

__all__ = ["PROVISIONER"]

if is_command_line():
    leave_out_arrays()


def _connect(server: Server, admin: Secret | None, application: str) -> Session:
    from multidb.provisioners.neo4j.provision.session import connect

    return connect(server, admin, application)


def _client(tenant: Tenant, access: AppAccess) -> AppClient:
    from multidb.provisioners.neo4j.driver.client import client

    return client(tenant, access)


def _check_health(tenant: Tenant, may_write: bool) -> Health:
    from multidb.provisioners.neo4j.observe.health import check_health

    return check_health(tenant, may_write)


def _probe(attacker: Tenant, victims: Sequence[Tenant]) -> Iterable[Probe]:
    from multidb.provisioners.neo4j.isolation.audit import probe

    return probe(attacker, victims)


def _archive(server: Server, admin: Secret | None, application: str, take_offline: TakeOffline | None) -> Archive:
    from multidb.provisioners.neo4j.backup.archive import Neo4jArchive

    return Neo4jArchive(server, admin, application, take_offline)


def _source(location: SourceLocation, _: ImportOptions) -> ImportSource:
    from multidb.provisioners.neo4j.backup.source import source

    return source(location)


def _processes(hosting: Hosting) -> Sequence[HostedServer]:
    from multidb.provisioners.neo4j.hosting.process import processes

    return processes(hosting)


def _check_question(words: Sequence[str]) -> None:
    from multidb.provisioners.neo4j.driver.query import check

    check(words)


def _answer(tenant: Tenant, question: Question) -> AbstractContextManager[QuestionRows]:
    from multidb.provisioners.neo4j.driver.query import answer

    return answer(tenant, question)


def _read_existing(session: Session) -> Any:
    from multidb.provisioners.neo4j.provision.session import Neo4jSession

    assert isinstance(session, Neo4jSession)
    return session.existing()


def _existing_places(read: Any, known: Collection[str]) -> Sequence[ExistingPlace]:
    from multidb.provisioners.neo4j.provision.existing import places

    return places(read, known)


PROVISIONER = Provisioner(
    name=options.STORE,
    title="Neo4j",
    app_options=options.AppOptions,
    server_options=options.ServerOptions,
    derived_names=resources.derived_names,
    secrets=resources.secrets,
    desired=resources.desired,
    statements=statements,
    env=environment.env,
    env_asks=environment.env_asks,
    isolation=level.isolation,
    scanning=Scanning(_read_existing, _existing_places),
    rotates=lambda app, facts: "",
    alternates=resources.alternates,
    connect=_connect,
    client=_client,
    querying=Querying("cypher", _check_question, _answer, "MATCH (n) RETURN count(n)"),
    check_health=_check_health,
    probe=_probe,
    archive=_archive,
    source=_source,
    address=Neo4jAddress,
    processes=_processes,
    admin_password=ADMIN_PASSWORD,
    containers=containers,
    statement_end=";",
    own=("multidb_*", "PUBLIC"),
)
