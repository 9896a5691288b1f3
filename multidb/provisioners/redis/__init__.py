"""Redis and Valkey.

What an app gets
    A DB number, which it keeps, and an ACL user ``<app>_user`` with a password of its own; while its
    credentials are rotated also ``<app>_user_b``, and after that one of the two. Pub/sub channels
    ``<app>:*``, Celery's broadcast channels of its DB, and what the app's ``channels`` option adds.

How it is isolated
    *Valkey 9.1.1 and later*: the ACL names the one DB that the user may touch (``db=3``). ``enforced``.

    *Redis 6.2 and later, older Valkey*: the only SELECT that the user may send is that of its own DB, and COPY and
    MOVE, which reach other DBs, are denied. But every connection starts in DB 0, where all apps can read and write
    until they select their own. multidb gives DB 0 to nobody. ``partial``.

    ``isolation: prefix`` (automatic on a cluster): the user may touch only keys that start with ``<app>:``, all apps
    live in DB 0, and SCAN, KEYS, RANDOMKEY, DBSIZE, FLUSHDB and SORT, which ignore key patterns, are denied.
    ``enforced``. On servers without database rules all apps have to use the same isolation.
    An app that is not told stays where it is, and one that has keys is not sent elsewhere: that is refused.

    With a default user that needs no password everything is ``naming-only``. multidb turns that user off when it logs
    in as somebody else (unless ``servers.redis.default_user: keep``; on a server of others only when asked), and never
    when it is that user itself.

What works
    Every data type, blocking commands, streams, transactions, pub/sub, INFO, HELLO, CLIENT ID, INFO, SETNAME, GETNAME,
    SETINFO; with ``scripts: true`` EVAL, EVALSHA, FCALL, SCRIPT LOAD and EXISTS (decision 22). Celery, RQ, BullMQ,
    Sidekiq and the locks of redis-py are made of scripts, so an app that uses them says so, by ``profile`` (decision
    80) or ``scripts``. RQ's remote commands to workers need ``channels: ["rq:pubsub:*"]`` besides, which all apps that
    have it share. Celery's results are announced on ``celery-task-meta-*``, a channel name with no app in it, so an app
    that reads results sets ``global_keyprefix``, which its profile gives it as ``CELERY_KEY_PREFIX``. With
    ``isolation: prefix`` a client has to put ``REDIS_KEY_PREFIX`` before its keys.

What is denied
    Scripts and functions, unless the app asks for them. Whatever acts on more than the app: CONFIG, ACL (except
    WHOAMI), FLUSHALL, SWAPDB, MOVE, COPY, FUNCTION, SCRIPT FLUSH and KILL, CLIENT LIST, KILL and TRACKING, MONITOR,
    DEBUG, PUBSUB, MEMORY STATS, LATENCY, RESTORE, MIGRATE.

What is shared
    Memory, eviction and ``maxmemory``, the one thread that runs commands (a script that does not end, or one command
    on very many keys, stops everybody), the script cache, connections, restarts. INFO shows every app the server's
    numbers, among them how many keys each DB has.

An app over its quota
    Keeps the commands that read and those that make data smaller (DEL, UNLINK, EXPIRE, LPOP, ZREM, XTRIM, FLUSHDB ...)
    and loses all others that write. It gets them back when it is no longer read-only.

Backups
    A set holds every key as DUMP gives it, with its expiry (`keys_file` says in what form). It is not of one moment:
    keys that change meanwhile are in it as they were when their turn came. Functions and scripts belong to the server
    and are in no set. A set goes into a server of its own version or a later one of the same product; which other ones
    take it is for the server to say, and it is refused before anything is loaded where it does not. To be tried or
    loaded a set takes a free DB number for a while, held by an ACL user without rights (``__multidb__:scratch:...``).
    Restored keys come in by SWAPDB, in one step. With ``isolation: prefix`` one transaction renames them all: no app is
    served as long as that lasts, about a second or two for a million keys. A cluster is not backed up.

The end of an app
    Suspended: its user is off, its sessions are ended. Removed: its DB is flushed, or the keys of its prefix are
    unlinked, then its user is deleted. The user's mark says which data is the app's: an app whose user has lost its
    mark, or whose DB number somebody else has too, keeps its data.

Where the rules are kept
    In the server's ``aclfile`` (ACL SAVE), else in its configuration file (CONFIG REWRITE). A server that has neither
    forgets its users at a restart; `multidb apply` makes them again. Rules are not replicated: a replica or another
    node of a cluster has its own. Passwords reach the server only as SHA-256 hashes of 256 random bits.

The lock of an apply is the key ``__multidb__:lock`` (with a number behind it on some nodes of a cluster) in DB 0 or,
where every app reaches that, in the last DB. An app whose entry asks for the last DB could delete it.

The admin needs ACL, CONFIG GET (and REWRITE), INFO, COMMAND, and EVAL, SET, GETRANGE, PTTL on the lock; for usage
CLIENT LIST, RANDOMKEY, SCAN, TYPE and MEMORY USAGE; to suspend and remove CLIENT KILL, SELECT, FLUSHDB, SCAN and
UNLINK; for backups DUMP, RESTORE, SWAPDB (with prefixes MULTI and RENAME) as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from multidb.model import (
    App,
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
    Refusal,
    Scanning,
    Server,
    Session,
    SourceLocation,
    TakeOffline,
    Tenant,
)
from multidb.provisioners.redis.hosting.address import RedisAddress
from multidb.provisioners.redis.hosting.container import containers
from multidb.provisioners.redis.isolation.level import isolation
from multidb.provisioners.redis.observe.advice import advise, caveats
from multidb.provisioners.redis.provision.admin_password import ADMIN_PASSWORD
from multidb.provisioners.redis.provision.environment import env
from multidb.provisioners.redis.provision.numbers import allocate, check
from multidb.provisioners.redis.provision.options import STORE, AppOptions, ServerOptions
from multidb.provisioners.redis.provision.profiles import ProfileName
from multidb.provisioners.redis.provision.resources import alternates, derived_names, desired, secrets
from multidb.provisioners.redis.provision.statements import statements
from multidb.secrets import Secret

__all__ = ["PROVISIONER"]


def _connect(server: Server, password: Secret | None, application: str) -> Session:
    from multidb.provisioners.redis.provision import session  # the driver is imported when the store is used

    return session.connect(server, password, application)


def _client(tenant: Tenant, access: AppAccess) -> AppClient:
    from multidb.provisioners.redis.driver.client import client

    return client(tenant, access)


def _check_health(tenant: Tenant, may_write: bool) -> Health:
    from multidb.provisioners.redis.observe import health

    return health.check_health(tenant, may_write)


def _refusals(session: Session, app: App) -> Sequence[Refusal]:
    from multidb.provisioners.redis.observe.refusals import refusals
    from multidb.provisioners.redis.provision.session import RedisSession

    assert isinstance(session, RedisSession)
    return refusals(app, session.acl_log(), datetime.now(UTC))


def _probe(attacker: Tenant, victims: Sequence[Tenant]) -> Iterable[Probe]:
    from multidb.provisioners.redis.isolation import audit

    return audit.probe(attacker, victims)


def _archive(server: Server, password: Secret | None, application: str, _: TakeOffline | None) -> Archive:
    from multidb.provisioners.redis.backup import archive

    return archive.RedisArchive(server, password, application)


def _source(location: SourceLocation, options: ImportOptions) -> ImportSource:
    from multidb.provisioners.redis.backup.followed import FollowedRedis

    return FollowedRedis(location, options)


def _processes(hosting: Hosting) -> Sequence[HostedServer]:
    from multidb.provisioners.redis.hosting.process import processes

    return processes(hosting)


def _check_question(words: Sequence[str]) -> None:
    from multidb.provisioners.redis.driver.query import check

    check(words)


def _answer(tenant: Tenant, question: Question) -> AbstractContextManager[QuestionRows]:
    from multidb.provisioners.redis.driver.query import answer

    return answer(tenant, question)


def _reader(tenant: Tenant, question: Question, admin: Secret | None) -> AbstractContextManager[Tenant]:
    from multidb.provisioners.redis.driver.query import reader

    return reader(tenant, question, admin)


def _read_existing(session: Session) -> Any:
    from multidb.provisioners.redis.provision.session import RedisSession

    assert isinstance(session, RedisSession)
    return session.existing()


def _existing_places(read: Any, known: Collection[str]) -> Sequence[ExistingPlace]:
    from multidb.provisioners.redis.provision.existing import places

    return places(read, known)


PROVISIONER = Provisioner(
    name=STORE,
    profiles=tuple(ProfileName),
    title="Redis",
    app_options=AppOptions,
    server_options=ServerOptions,
    derived_names=derived_names,
    secrets=secrets,
    desired=desired,
    statements=statements,
    env=env,
    isolation=isolation,
    scanning=Scanning(_read_existing, _existing_places),
    connect=_connect,
    client=_client,
    refusals=_refusals,
    querying=Querying("redis", _check_question, _answer, "DBSIZE", reader=_reader),
    check_health=_check_health,
    probe=_probe,
    archive=_archive,
    source=_source,
    source_options=("pattern", "prefix"),
    address=RedisAddress,
    processes=_processes,
    admin_password=ADMIN_PASSWORD,
    containers=containers,
    allocate=allocate,
    shared_options=("channels",),
    check=check,
    advise=advise,
    rotates=lambda app, facts: "",
    alternates=alternates,
    caveats=caveats,
    own=("__multidb__*",),
)
