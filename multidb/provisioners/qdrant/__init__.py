"""Qdrant: each app has its own collections and a token that opens nothing else.

**What an app gets.** A collection ``<app>_<type>`` for each type under ``collections`` (one type, ``knowledge`` with
1536 dimensions and cosine distance, when nothing is said), with an index on the payload field ``tenant_id`` made
before there is any data, and on the other fields under ``indexes``. A JSON Web Token, signed with the server's api
key, that may read and write points in these collections and do nothing else: no index, snapshot, alias or collection.
It carries an end (``servers.qdrant.token_days``, a year by default); with less than 30 days left the next apply signs
a new one. A token that is lost, lists other collections or was signed with a former key is replaced the same way; the
one before it stays valid until its own end. Every token depends on an entry in the project's registry, the
collection ``multidb__tokens__<project>``, which no app can open: without the entry the server refuses it at once. An
app's first token has the entry of the app; each that a rotation makes has one of its own, which no later token gets.
Names that begin with ``multidb__`` are multidb's own.

**Over its quota** an app's collections take no new points (an upsert of more than no points is refused); reading,
changing and deleting them stays possible. Local mode has no limits and ignores it.

**Backups** are the server's snapshots, or with ``servers.qdrant.backup: points`` and in local mode points as lines of
JSON. They are of one moment where the app wrote nothing meanwhile, which is checked. A restored collection comes in by
recovery from a snapshot, in one step each.

**How it is isolated.** *Enforced* where the server has ``service.api_key`` and ``service.jwt_rbac: true``: it refuses
every request about a collection that the token does not list. Every new token is tried on the server before it is
kept, and thrown away when it opens more or less than it should. *Naming only* elsewhere: without RBAC there is one
key for everything, which multidb gives to apps only when ``servers.qdrant.share_api_key: true`` says so; a server
without a key, and the client library's local mode (a folder, no server), have no walls at all.

**What stays a convention.** ``tenant_id`` separates an app's own customers inside a collection. The server does not
ask for it; `multidb.client.qdrant` adds it to every request.

**What is shared.** Memory, disk, file descriptors, CPU and the version. The names of other apps' collections, and
nothing else about them, show in the server's telemetry to everyone with a token; so a collection's name should not be
a secret. Strict mode (``strict``) limits what requests to a collection may cost.

**Where multidb runs it**, the server is a program of the machine or the release that `hosting.releases` fetches; where
neither is to be had, local mode.

**Local mode** keeps collections, points and owner marks, one process at a time. It has no payload indexes, strict
mode, quantization or storage settings, so none are planned for it.

**Owner mark.** ``metadata.multidb`` of the collection: project and app. A collection of the wanted name without it is
a conflict, and so is one with other vectors, since size, distance and names of vectors cannot be changed in place.

**Rights needed.** The server's ``api_key`` (or ``alt_api_key``); version 1.16 or newer, the first with metadata.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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
from multidb.provisioners.qdrant.hosting.address import QdrantAddress
from multidb.provisioners.qdrant.hosting.container import containers
from multidb.provisioners.qdrant.isolation import level
from multidb.provisioners.qdrant.provision import environment, options, resources
from multidb.provisioners.qdrant.provision.admin_password import ADMIN_PASSWORD
from multidb.provisioners.qdrant.provision.statements import statements
from multidb.secrets import Secret

__all__ = ["PROVISIONER"]


def _connect(server: Server, admin: Secret | None, application: str) -> Session:
    from multidb.provisioners.qdrant.provision.session import connect

    return connect(server, admin, application)


def _client(tenant: Tenant, access: AppAccess) -> AppClient:
    from multidb.provisioners.qdrant.driver.client import client

    return client(tenant, access)


def _check_health(tenant: Tenant, may_write: bool) -> Health:
    from multidb.provisioners.qdrant.observe.health import check_health

    return check_health(tenant, may_write)


def _archive(server: Server, admin: Secret | None, application: str, _: TakeOffline | None) -> Archive:
    from multidb.provisioners.qdrant.backup.archive import QdrantArchive

    return QdrantArchive(server, admin, application)


def _probe(attacker: Tenant, victims: Sequence[Tenant]) -> Iterable[Probe]:
    from multidb.provisioners.qdrant.isolation.audit import probe

    return probe(attacker, victims)


def _source(location: SourceLocation, options: ImportOptions) -> ImportSource:
    from multidb.provisioners.qdrant.backup.source import source

    return source(location, options)


def _processes(hosting: Hosting) -> Sequence[HostedServer]:
    from multidb.provisioners.qdrant.hosting.process import processes

    return processes(hosting)


def _check_question(words: Sequence[str]) -> None:
    from multidb.provisioners.qdrant.driver.query import check

    check(words)


def _answer(tenant: Tenant, question: Question) -> AbstractContextManager[QuestionRows]:
    from multidb.provisioners.qdrant.driver.query import answer

    return answer(tenant, question)


def _reader(tenant: Tenant, question: Question, admin: Secret | None) -> AbstractContextManager[Tenant]:
    from multidb.provisioners.qdrant.driver.query import reader

    return reader(tenant, question, admin)


def _read_existing(session: Session) -> Any:
    from multidb.provisioners.qdrant.provision.session import QdrantSession

    assert isinstance(session, QdrantSession)
    return session.existing()


def _existing_places(read: Any, known: Collection[str]) -> Sequence[ExistingPlace]:
    from multidb.provisioners.qdrant.provision.existing import places

    return places(read, known)


def _existing_options(existing: Sequence[ExistingPlace]) -> Mapping[str, Any]:
    from multidb.provisioners.qdrant.provision.existing import options_of

    return options_of(existing)


PROVISIONER = Provisioner(
    name=options.STORE,
    title="Qdrant",
    app_options=options.AppOptions,
    server_options=options.ServerOptions,
    derived_names=resources.derived_names,
    secrets=resources.secrets,
    desired=resources.desired,
    statements=statements,
    env=environment.env,
    isolation=level.isolation,
    scanning=Scanning(_read_existing, _existing_places, _existing_options, prefixed=True),
    rotates=resources.rotates,
    alternates=resources.alternates,
    tells_use=False,
    connect=_connect,
    client=_client,
    querying=Querying("qdrant", _check_question, _answer, "count COLLECTION [FILTER]", reader=_reader),
    check_health=_check_health,
    probe=_probe,
    archive=_archive,
    source=_source,
    source_options=("pattern", "prefix", "name"),
    reserved=(f"{resources.OWN_PREFIX}*",),
    own=(f"{resources.OWN_PREFIX}*",),
    address=QdrantAddress,
    processes=_processes,
    admin_password=ADMIN_PASSWORD,
    containers=containers,
)
