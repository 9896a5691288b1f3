"""What a plan needs of a Redis or Valkey server: its facts, its rules, sending."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self

import redis
from redis.exceptions import (
    BusyLoadingError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from multidb.errors import (
    NotAllowed,
    ServerError,
    StatementFailed,
    WrongVersion,
)
from multidb.model import (
    App,
    CredentialUse,
    Finding,
    Inspection,
    Resource,
    Search,
    Server,
    ServerUsage,
    Statement,
    StoreContext,
)
from multidb.provisioners.redis.driver.connection import (
    ADMIN_NEEDS,
    PRIMARY,
    ask,
    clients,
    explained,
    fields,
    open_client,
    patiently,
    pipelined,
    scanned,
)
from multidb.provisioners.redis.provision.admin_rights import admin_rights
from multidb.provisioners.redis.provision.catalog import is_here, read_catalog, read_rules, read_saved
from multidb.provisioners.redis.provision.existing import ExistingUsers
from multidb.provisioners.redis.provision.lock import Lease
from multidb.provisioners.redis.provision.numbers import lock_number
from multidb.provisioners.redis.provision.readers import is_reader_name
from multidb.provisioners.redis.provision.removal import orphans, removal, suspension
from multidb.provisioners.redis.provision.resources import (
    NOTE_USER,
    AclUser,
    Claim,
    DefaultUser,
    RedisFacts,
    SavedRules,
    SaveNote,
    default_user_is_open,
    live_default_user,
    live_user,
    marks_of,
    user_name,
)
from multidb.provisioners.redis.provision.rules import CommandTable, Rule, parse_rule, split_line
from multidb.provisioners.redis.provision.rules_file import differing
from multidb.secrets import Alternate, Secret, SecretStore, redact

__all__ = ["RedisSession", "carry_out", "connect", "read_facts"]

_QUESTIONS = (
    *(("INFO", section) for section in ("server", "cluster", "keyspace")),
    ("COMMAND",),
    ("ACL", "LIST"),
    ("ACL", "WHOAMI"),
    *(("CONFIG", "GET", name) for name in ("databases", "cluster-databases", "aclfile", "acl-pubsub-default")),
)
_CONNECTIONS = 4  # that an apply or removal may need beside its session's own
_RETRIES = 5
_RETRYABLE = ("LOADING", "BUSY ", "TRYAGAIN", "CLUSTERDOWN")
_FIRST_DB_RULES = (9, 1, 1)  # in 9.1.0 COPY and CLUSTER FLUSHSLOT got past them (valkey #3801, #3806)
_FIRST_CHANNEL_RULES = (6, 2)


def connect(server: Server, password: Secret | None, application: str) -> RedisSession:
    """Opens a session and reads what the server is: one handshake and one round trip.

    Raises:
        ServerDown, ServerSlow, AuthenticationFailed, NotAllowed, WrongVersion: see multidb.errors.
    """
    another = partial(open_client, server, password, application)
    client = another()
    try:
        facts = patiently(server, lambda: read_facts(server, client))
        return RedisSession(server, client, facts, another, password)
    except BaseException:
        client.close()
        raise


class RedisSession:
    """One connection to one server."""

    def __init__(
        self,
        server: Server,
        client: redis.Redis,
        facts: RedisFacts,
        another: Callable[..., redis.Redis],
        password: Secret | None = None,
    ) -> None:
        self._server = server
        self._client = client
        self._facts = facts
        self._another = another
        self._password = password
        self._lease: Lease | None = None

    @property
    def facts(self) -> RedisFacts:
        """What the server is; read again when the lock is taken, since DB numbers may have gone to somebody else."""
        return self._facts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(RedisError):
            self._client.close()

    def existing(self) -> ExistingUsers:
        """Every user, by one ``ACL LIST``; how many keys each DB has is known of the session."""
        rules = read_rules(self._server, self._client)
        return ExistingUsers(rules, self._facts, frozenset(filter(is_reader_name, rules)))

    def inspect(self, inspection: Inspection) -> Sequence[Resource]:
        """The live users by one ``ACL LIST``, however many apps there are."""
        rules = read_rules(self._server, self._client)
        users = {want.name: want for want in inspection.desired if isinstance(want, AclUser)}
        live: list[Resource] = []
        for name, rule in rules.items():
            want = users.get(name)
            if want is not None or _project(rule) == inspection.context.project:
                live.append(live_user(rule, want, self._facts, inspection.secrets))
        if "default" in rules:
            live.append(live_default_user(rules["default"]))
        unsaved = NOTE_USER in rules or _will_change(inspection.desired, live)
        unsaved = unsaved or bool(differing(rules, read_saved(self._facts), self._facts))
        # Both say what the coming changes make of the saved rules; when there are none, nothing is to be done.
        live.append(SaveNote(name="before the first change", written=NOTE_USER in rules or not unsaved))
        live.append(SavedRules(name="after the last change", saved=not unsaved))
        return live

    @contextlib.contextmanager
    def lock(self, project: str, holder: str) -> Iterator[None]:
        """Keeps every other apply away from this server: DB numbers and the saved ACL are shared by all projects.

        The lock of a dead holder is taken over; at worst this waits 15 seconds for it to expire.

        Raises:
            Locked: a holder that is alive has it.
        """
        self._make_room()
        with self._open(db=lock_number(self._facts)) as client, Lease(self._server, client, project, holder) as lease:
            self._lease = lease
            try:
                self._facts = read_facts(self._server, self._client)
                yield
            finally:
                self._lease = None

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        """Sends one statement at a time, so that nothing follows one that failed. Each is durable when answered."""
        for index, statement in enumerate(statements):
            try:
                self._carry_out(statement, secrets)
            except RedisError as error:
                raise StatementFailed(
                    f"{redact(str(error))}: {_shortened(statement.text)}",
                    index=index,
                    durable=index,
                    where=str(self._server),
                    hint=_advice(error),
                    refused=isinstance(error, ResponseError),
                ) from None
            except ServerError as error:
                raise StatementFailed(
                    error.message, index=index, durable=index, where=str(self._server), hint=error.hint
                ) from None
            yield index + 1

    def admin_rights(self, context: StoreContext, apps: Sequence[App]) -> Sequence[Finding]:
        """See `Session.admin_rights`; one ``ACL LIST``."""
        rule = read_rules(self._server, self._client).get(self._facts.admin)
        return tuple(admin_rights(rule, self._facts, self._server.name))

    def usage(self, context: StoreContext, apps: Sequence[App]) -> ServerUsage:
        """Keys and connections as the server counts them, memory reckoned from a sample of keys."""
        from multidb.provisioners.redis.observe.usage import read_usage  # as below: not loaded by a plan

        return read_usage(self._server, self._another, context, apps)

    def search(self, inspection: Inspection) -> Search:
        """What the rules of the server open around the apps."""
        from multidb.provisioners.redis.isolation.holes import search

        return search(inspection, read_catalog(self._server, self._client, self._facts, self._password))

    def in_use(self, credentials: Mapping[str, Alternate]) -> Mapping[str, Sequence[CredentialUse]]:
        """See `Session.in_use`; one ``CLIENT LIST``."""
        from multidb.provisioners.redis.observe.credential_use import credential_use

        with explained(self._server):
            users = {user_name(app, alternate): app for app, alternate in credentials.items()}
            return credential_use(users, clients(ask(self._client, "CLIENT", "LIST")))

    def acl_log(self) -> list[Any]:
        """The entries of ``ACL LOG``, the newest first; the server keeps the last 128."""
        with explained(self._server):
            return list(ask(self._client, "ACL", "LOG", 128))

    def orphans(self, context: StoreContext, known: Collection[str]) -> Mapping[str, Sequence[str]]:
        """See `Session.orphans`; one ``ACL LIST``."""
        return orphans(context, read_rules(self._server, self._client), known)

    def suspension(self, app: App, context: StoreContext) -> Sequence[Statement]:
        """See `Session.suspension`: the app's user off and its sessions ended."""
        return suspension(app, context, read_rules(self._server, self._client), self._connected())

    def removal(self, app: App, context: StoreContext) -> Sequence[Statement]:
        """The app's keys and users, as far as they carry our mark."""
        return removal(app, context, read_rules(self._server, self._client))

    def _connected(self) -> set[str]:
        with explained(self._server):
            return {client["user"] for client in clients(ask(self._client, "CLIENT", "LIST"))}

    def _carry_out(self, statement: Statement, secrets: SecretStore) -> None:
        if not statement.scope:
            self._send(_words(statement, secrets))
            return
        if self._lease is not None:
            self._lease.check()
        carry_out(self._open, statement)

    def _open(self, **options: Any) -> redis.Redis:
        """One more connection of ours. Where the server has none left, the one who has most of them gives some up."""
        client = self._another(**options)
        try:
            # no PING: a server whose last save has failed refuses it
            patiently(self._server, lambda: ask(client, "CLIENT", "ID"), self._make_room)
        except BaseException:
            client.close()
            raise
        return client

    def _make_room(self) -> None:
        """Sees to it that a few connections can still be made. What that costs, it costs whoever has most of them: an
        app that takes all keeps nobody from being applied, suspended or removed."""
        with explained(self._server):
            info = fields(ask(self._client, "INFO", "clients"))
            missing = _CONNECTIONS + int(info.get("connected_clients", 0)) - int(info.get("maxclients", 0) or 1 << 30)
            if missing <= 0:
                return
            others = [
                client for client in clients(ask(self._client, "CLIENT", "LIST")) if client["user"] != self._facts.admin
            ]
            most = Counter(client["user"] for client in others).most_common(1)
            theirs = [client for client in others if most and client["user"] == most[0][0]]
            theirs.sort(key=lambda client: int(client.get("idle", 0)), reverse=True)
            for idle in theirs[:missing]:
                with contextlib.suppress(ResponseError):  # it is gone already
                    ask(self._client, "CLIENT", "KILL", "ID", idle["id"])

    def _send(self, words: Sequence[str]) -> None:
        for attempt in range(_RETRIES + 1):
            if self._lease is not None:
                self._lease.check()
            try:
                ask(self._client, *words)
                return
            except RedisError as error:
                if attempt == _RETRIES or not _retryable(error):
                    raise
            time.sleep(min(0.1 * 2**attempt, 2.0))


# --- sending ---------------------------------------------------------------------------------------------------------


def carry_out(another: Callable[..., redis.Redis], statement: Statement) -> None:
    """Sends a statement that is for one DB, over a connection that is in that DB. Raises the driver's exceptions.

    Args:
        another: opens a client, as `open_client` does.
    """
    words = split_line(statement.text)
    with another(db=int(statement.scope), raw=True) as client:
        if "|" not in words:
            ask(client, *words)
            return
        bar = words.index("|")
        for keys in scanned(client, words[2:bar]):
            pipelined(client, [(*words[bar + 1 :], key) for key in keys])


def _retryable(error: RedisError) -> bool:
    return isinstance(error, BusyLoadingError) or str(error).startswith(_RETRYABLE)


def _advice(error: RedisError) -> str:
    if isinstance(error, redis.TimeoutError | redis.ConnectionError):
        return "bring the server back, then run multidb apply again; it goes on where this stopped"
    if isinstance(error, NoPermissionError):
        return ADMIN_NEEDS
    if isinstance(error, ReadOnlyError):
        return PRIMARY
    return "correct what the server says, then run multidb apply again"


def _words(statement: Statement, secrets: SecretStore) -> list[str]:
    words = split_line(statement.text)
    for name, ref in statement.binds:
        secret = secrets.get(ref)
        if secret is None:
            raise ServerError(f"the secret {ref} is missing", hint="multidb apply --regenerate APP makes a new one")
        words = [f"#{secret.reveal()}" if word == f"#${name}" else word for word in words]
    return words


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."


# --- reading ---------------------------------------------------------------------------------------------------------


def read_facts(server: Server, client: redis.Redis) -> RedisFacts:
    """What the server is and can do, in one round trip."""
    with explained(server):
        pipeline: Any = client.pipeline(transaction=False)
        for words in _QUESTIONS:
            pipeline.execute_command(*words)
        pipeline.response_callbacks.clear()
        answers = dict(zip(_QUESTIONS, pipeline.execute(raise_on_error=False), strict=True))
        # One section at a time: in others an app can make as many lines as it likes (errorstats, of its scripts).
        sections = [answers[words] for words in _QUESTIONS if words[0] == "INFO"]
        for answer in (*sections, answers["COMMAND",]):
            if isinstance(answer, RedisError):
                raise answer
    info = fields("\n".join(sections))
    product, version = product_of(info)
    if _numbers(info.get("redis_version", "")) < _FIRST_CHANNEL_RULES:
        raise WrongVersion(
            f"{product} {version} has no ACL users with channel permissions",
            where=str(server),
            hint="use Redis 6.2 or later, or Valkey",
        )
    users = answers["ACL", "LIST"]
    if isinstance(users, RedisError):
        raise NotAllowed(f"ACL LIST: {redact(str(users))}", where=str(server), hint=ADMIN_NEEDS)
    table = _table(answers["COMMAND",])
    rules = [parse_rule(line) for line in users]
    admin = answers["ACL", "WHOAMI"]
    me = admin if isinstance(admin, str) else server.endpoint.user or "default"
    _check_admin(server, me, rules, table)
    _check_where_users_are_kept(server, answers["CONFIG", "GET", "aclfile"], info)
    cluster = info.get("cluster_enabled") == "1"
    numbers = answers["CONFIG", "GET", "cluster-databases" if cluster else "databases"]
    persistence, rules_file = _persistence(_setting(answers["CONFIG", "GET", "aclfile"]), info.get("config_file", ""))
    return RedisFacts(
        product=product,
        version=version,
        commands=table,
        databases=int(_setting(numbers) or 1) if cluster else _number(_setting(numbers)),
        db_rules=product == "Valkey" and _numbers(version) >= _FIRST_DB_RULES,
        cluster=cluster,
        persistence=persistence,
        admin=me,
        default_open=any(rule.user == "default" and default_user_is_open(rule) for rule in rules),
        claims=tuple(claim for rule in rules for claim in _claims(rule)),
        rules_file=rules_file,
        here=is_here(server, info),
        external=server.external,
        new_users_hear_all=_setting(answers["CONFIG", "GET", "acl-pubsub-default"]) == "allchannels",
        keys=keys_by_number(info),
    )


def product_of(info: Mapping[str, str]) -> tuple[str, str]:
    """Valkey calls itself Redis 7.2.4 in ``redis_version``, for old clients."""
    if info.get("server_name") == "valkey" or "valkey_version" in info:
        return "Valkey", info.get("valkey_version", "")
    return "Redis", info.get("redis_version", "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _table(commands: Sequence[Any]) -> CommandTable:
    categories: dict[str, frozenset[str]] = {}
    keyed: set[str] = set()
    for name, flags, first_key, named, specifications in _described(commands):
        categories[name] = frozenset(category.removeprefix("@") for category in named)
        if first_key or specifications or "movablekeys" in flags:
            keyed.add(name)
    return CommandTable(categories, keyed)


def _described(commands: Sequence[Any]) -> Iterator[tuple[str, Sequence[str], int, Sequence[str], Sequence[Any]]]:
    """From the answer to COMMAND: name, arity, flags, position of the first key, ..., categories (7th) and, since Redis
    7, tips, key specifications, subcommands."""
    for command in commands:
        yield command[0].lower(), command[2], command[3], command[6], command[8] if len(command) > 8 else ()
        yield from _described(command[9]) if len(command) > 9 else ()


def _check_admin(server: Server, me: str, rules: Sequence[Rule], table: CommandTable) -> None:
    rule = next((rule for rule in rules if rule.user == me), None)
    needed = "acl|setuser" if "acl|setuser" in table.names else "acl"
    granted = table.granted(rule.commands).commands if rule is not None else frozenset()
    if needed not in table or (rule is not None and needed not in granted and not rule.selectors):
        raise NotAllowed(f"the user {me!r} may not run ACL SETUSER", where=str(server), hint=ADMIN_NEEDS)


def _check_where_users_are_kept(server: Server, aclfile: Any, info: Mapping[str, str]) -> None:
    """`NotAllowed` where the server has files and does not say in which of them its users are: users that are saved in
    the wrong one are gone after a restart."""
    if isinstance(aclfile, RedisError) and info.get("config_file", "").strip():
        raise NotAllowed(
            f"it does not say where its users are kept (CONFIG GET aclfile: {redact(str(aclfile))})",
            where=str(server),
            hint="let it have CONFIG (no rename-command for it), and the admin run CONFIG GET and CONFIG REWRITE; a "
            "managed service without CONFIG can't give apps users of their own",
        )


def _setting(answer: Any) -> str | None:
    """The value in an answer to CONFIG GET; None when the server refuses or does not know it."""
    return None if isinstance(answer, RedisError) or len(answer) < 2 else str(answer[1])


def _number(setting: str | None) -> int | None:
    return None if setting is None else int(setting)


def _persistence(aclfile: str | None, config_file: str) -> tuple[Literal["aclfile", "config", "none"], str]:
    """Where the rules are saved, and in what file."""
    if aclfile:
        return "aclfile", aclfile
    return ("config", config_file.strip()) if config_file.strip() else ("none", "")


def _claims(rule: Rule) -> list[Claim]:
    if is_reader_name(rule.user):
        return []  # it has the DB that its app has
    if marks := marks_of(rule):
        return [Claim(rule.user, db, owner, rule.enabled) for owner, db in marks]
    return [Claim(rule.user, number) for number in rule.database_numbers]


def keys_by_number(info: Mapping[str, str]) -> dict[int, int]:
    """From what INFO says: ``db3:keys=12,expires=0,...``."""
    lines = {name: value for name, value in info.items() if re.fullmatch(r"db\d+", name)}
    return {int(name[2:]): int(value.partition("keys=")[2].partition(",")[0]) for name, value in lines.items()}


def _project(rule: Rule) -> str | None:
    return next((owner.project for owner, _ in marks_of(rule)), None)


def _will_change(desired: Sequence[Resource], live: Sequence[Resource]) -> bool:
    """Whether applying will send a rule. A user that is not ours is a conflict, which sends none."""
    there = {resource.key: resource for resource in live}
    for want in desired:
        have = there.get(want.key)
        if isinstance(want, DefaultUser) and have is not None and have != want:
            return True
        if isinstance(want, AclUser) and (have is None or (have != want and have.owner == want.owner)):
            return True
    return False
