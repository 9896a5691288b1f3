"""All effects on a Redis or Valkey server. The only module of this store that imports the driver."""

from __future__ import annotations

import contextlib
import json
import re
import secrets as random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
)
from redis.retry import Retry

from multidb.errors import (
    AuthenticationFailed,
    Locked,
    NotAllowed,
    ServerDown,
    ServerError,
    ServerSlow,
    StatementFailed,
    UsageError,
    WrongVersion,
)
from multidb.model import Inspection, Owner, Resource, Server, Statement
from multidb.provisioners.redis.resources import (
    NOTE_USER,
    AclUser,
    Claim,
    DefaultUser,
    RedisFacts,
    SavedRules,
    SaveNote,
    default_user_is_open,
    found_default_user,
    found_user,
    parse_mark,
)
from multidb.provisioners.redis.rules import CommandTable, Rule, parse_rule, split_line
from multidb.secrets import Secret, SecretStore, redact

__all__ = ["RedisSession", "connect"]

_LOCK_KEY = "multidb:lock"
_LOCK_CANDIDATES = 1000  # enough to find one on each of a hundred nodes
_LOCK_SECONDS = 15
_LOCK_MILLISECONDS = _LOCK_SECONDS * 1000
_RENEW_SECONDS = 4
_RETRIES = 5
_RETRYABLE = ("LOADING", "BUSY ", "TRYAGAIN", "CLUSTERDOWN")
_FIRST_DB_RULES = (9, 1, 1)  # in 9.1.0 COPY and CLUSTER FLUSHSLOT got past them (valkey #3801, #3806)
_FIRST_CHANNEL_RULES = (6, 2)
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")

_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"


def connect(server: Server, password: Secret | None, application: str) -> RedisSession:
    """Opens a session and reads what the server is: one handshake and one round trip.

    Raises:
        ServerDown, ServerSlow, AuthenticationFailed, NotAllowed, WrongVersion: see multidb.errors.
    """
    client = _client(server, password, application)
    try:
        return RedisSession(server, client, _read_facts(server, client), lambda: _client(server, password, application))
    except BaseException:
        client.close()
        raise


class RedisSession:
    """One connection to one server."""

    def __init__(
        self, server: Server, client: redis.Redis, facts: RedisFacts, another: Callable[[], redis.Redis]
    ) -> None:
        self._server = server
        self._client = client
        self._facts = facts
        self._another = another
        self._lease: _Lease | None = None

    @property
    def facts(self) -> RedisFacts:
        """What the server is; read again when the lock is taken, since DB numbers may have gone to somebody else."""
        return self._facts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(RedisError):
            self._client.close()

    def inspect(self, inspection: Inspection) -> Sequence[Resource]:
        """The live users by one ``ACL LIST``, however many apps there are."""
        rules = {rule.user: rule for rule in _read_rules(self._server, self._client)}
        wanted = {want.name: want for want in inspection.desired if isinstance(want, AclUser)}
        live: list[Resource] = []
        for name, rule in rules.items():
            want = wanted.get(name)
            if want is not None or _project(rule) == inspection.context.project:
                live.append(found_user(rule, want, self._facts, inspection.secrets))
        if "default" in rules:
            live.append(found_default_user(rules["default"]))
        unsaved = NOTE_USER in rules or _will_change(inspection.desired, live)
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
        with _Lease(self._server, self._another(), project, holder) as lease:
            self._lease = lease
            try:
                self._facts = _read_facts(self._server, self._client)
                yield
            finally:
                self._lease = None

    def run(self, statements: Sequence[Statement], secrets: SecretStore) -> Iterator[int]:
        """Sends one statement at a time, so that nothing follows one that failed. Each is durable when answered."""
        for index, statement in enumerate(statements):
            try:
                self._send(_words(statement, secrets))
            except RedisError as error:
                raise StatementFailed(
                    f"{redact(str(error))}: {_shortened(statement.text)}",
                    index=index,
                    durable=index,
                    where=str(self._server),
                    hint=_advice(error),
                ) from None
            except ServerError as error:
                raise StatementFailed(
                    error.message, index=index, durable=index, where=str(self._server), hint=error.hint
                ) from None
            yield index + 1

    def _send(self, words: Sequence[str]) -> None:
        for attempt in range(_RETRIES + 1):
            if self._lease is not None:
                self._lease.check()
            try:
                _ask(self._client, *words)
                return
            except RedisError as error:
                if attempt == _RETRIES or not _retryable(error):
                    raise
            time.sleep(min(0.1 * 2**attempt, 2.0))


# --- connection and errors -------------------------------------------------------------------------------------------


def _client(server: Server, password: Secret | None, application: str) -> redis.Redis:
    endpoint = server.endpoint
    client = redis.Redis(
        host=endpoint.host,
        port=endpoint.port,
        username=endpoint.user or None,
        password=password.reveal() if password is not None else None,
        protocol=2,
        decode_responses=True,
        encoding_errors="backslashreplace",
        socket_timeout=server.timeout,
        socket_connect_timeout=server.timeout,
        retry=Retry(NoBackoff(), 0),  # a lost answer is not proof that nothing happened; `run` decides what to repeat
        single_connection_client=False,
        max_connections=1,
        client_name=re.sub(r"\s+", "-", application) or None,
        **_tls(server),
    )
    client.response_callbacks.clear()  # answers as the server gives them, whatever the driver's version makes of them
    return client


def _tls(server: Server) -> dict[str, Any]:
    params = dict(server.endpoint.params)
    if not server.endpoint.tls:
        return {}
    options: dict[str, Any] = {"ssl": True}
    if "ca_file" in params:
        options["ssl_ca_certs"] = params.pop("ca_file")
    for name, value in params.items():
        if name not in _TLS_OPTIONS:
            raise UsageError(
                f"unknown connection option {name!r}", where=str(server), hint=f"one of: {', '.join(_TLS_OPTIONS)}"
            )
        options[name] = value.lower() in ("true", "1", "yes") if name == "ssl_check_hostname" else value
    return options


@contextlib.contextmanager
def _told_plainly(server: Server) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise _translated(server, error) from None


def _translated(server: Server, error: RedisError) -> ServerError:
    where, text = str(server), redact(str(error))
    if isinstance(error, BusyLoadingError):
        return ServerSlow("the server is still loading its data", where=where, hint="wait, then run the command again")
    if isinstance(error, redis.TimeoutError):
        return ServerSlow(
            f"no answer within {server.timeout:g} seconds",
            where=where,
            hint="look at the server's load (redis-cli --latency), then run the command again",
        )
    if isinstance(error, AuthenticationError) or text.startswith(("WRONGPASS", "NOAUTH", "invalid username")):
        user = server.endpoint.user or "default"
        return AuthenticationFailed(
            f"the server refuses the user {user!r} or its password",
            where=where,
            hint="correct the admin's name or password for this server",
        )
    if isinstance(error, NoPermissionError):
        return NotAllowed(text, where=where, hint=_ADMIN_NEEDS)
    if isinstance(error, ReadOnlyError):
        return NotAllowed("the server is a replica", where=where, hint=_PRIMARY)
    if isinstance(error, InvalidResponse):
        return WrongVersion(
            "what answers there does not speak the Redis protocol", where=where, hint="correct the port or the scheme"
        )
    if isinstance(error, redis.ConnectionError):
        return ServerDown(f"cannot be reached: {text}", where=where, hint="multidb up, or correct its address")
    return ServerError(text, where=where, hint="multidb doctor")


_PRIMARY = "name the primary server in the manifest"
_ADMIN_NEEDS = (
    "use an admin that may run ACL, CONFIG, INFO, COMMAND, EVAL, SET and GET; a managed service without ACL SETUSER "
    "can't give apps users of their own"
)


def _retryable(error: RedisError) -> bool:
    return isinstance(error, BusyLoadingError) or str(error).startswith(_RETRYABLE)


def _advice(error: RedisError) -> str:
    if isinstance(error, redis.TimeoutError | redis.ConnectionError):
        return "bring the server back, then run multidb apply again; it goes on where this stopped"
    if isinstance(error, NoPermissionError):
        return _ADMIN_NEEDS
    if isinstance(error, ReadOnlyError):
        return _PRIMARY
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


def _ask(client: redis.Redis, *words: str) -> Any:
    """The server's answer to one command, as it gave it."""
    execute: Any = client.execute_command
    return execute(*words)


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_facts(server: Server, client: redis.Redis) -> RedisFacts:
    with _told_plainly(server):
        pipeline: Any = client.pipeline(transaction=False)
        for words in (
            ("INFO",),
            ("COMMAND",),
            ("ACL", "LIST"),
            ("ACL", "WHOAMI"),
            ("CONFIG", "GET", "databases"),
            ("CONFIG", "GET", "aclfile"),
            ("CONFIG", "GET", "cluster-databases"),
        ):
            pipeline.execute_command(*words)
        pipeline.response_callbacks.clear()
        info, commands, users, admin, databases, aclfile, cluster_databases = pipeline.execute(raise_on_error=False)
        for answer in (info, commands):
            if isinstance(answer, RedisError):
                raise answer
    said = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    product, version = _product(said)
    if _numbers(said.get("redis_version", "")) < _FIRST_CHANNEL_RULES:
        raise WrongVersion(
            f"{product} {version} has no ACL users with channel permissions",
            where=str(server),
            hint="use Redis 6.2 or later, or Valkey",
        )
    if isinstance(users, RedisError):
        raise NotAllowed(f"ACL LIST: {redact(str(users))}", where=str(server), hint=_ADMIN_NEEDS)
    table = CommandTable(_categories(commands))
    rules = [parse_rule(line) for line in users]
    me = admin if isinstance(admin, str) else server.endpoint.user or "default"
    _check_admin(server, me, rules, table)
    cluster = said.get("cluster_enabled") == "1"
    return RedisFacts(
        product=product,
        version=version,
        commands=table,
        databases=_setting(cluster_databases) or 1 if cluster else _setting(databases),
        db_rules=product == "Valkey" and _numbers(version) >= _FIRST_DB_RULES,
        cluster=cluster,
        persistence=_persistence(aclfile, said.get("config_file", "")),
        admin=me,
        default_open=any(rule.user == "default" and default_user_is_open(rule) for rule in rules),
        claims=tuple(claim for rule in rules for claim in _claims(rule)),
        keys=_keyspace(said),
    )


def _read_rules(server: Server, client: redis.Redis) -> list[Rule]:
    with _told_plainly(server):
        return [parse_rule(line) for line in _ask(client, "ACL", "LIST")]


def _product(said: Mapping[str, str]) -> tuple[str, str]:
    """Valkey calls itself Redis 7.2.4 in ``redis_version``, for old clients."""
    if said.get("server_name") == "valkey" or "valkey_version" in said:
        return "Valkey", said.get("valkey_version", "")
    return "Redis", said.get("redis_version", "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _categories(commands: Sequence[Any]) -> dict[str, frozenset[str]]:
    """From the answer to COMMAND: name, ..., categories (7th), ..., subcommands (10th, since Redis 7)."""
    found: dict[str, frozenset[str]] = {}
    for command in commands:
        found[command[0].lower()] = frozenset(category.removeprefix("@") for category in command[6])
        found |= _categories(command[9]) if len(command) > 9 else {}
    return found


def _check_admin(server: Server, me: str, rules: Sequence[Rule], table: CommandTable) -> None:
    rule = next((rule for rule in rules if rule.user == me), None)
    needed = "acl|setuser" if "acl|setuser" in table.names else "acl"
    granted = table.granted(rule.commands).commands if rule is not None else frozenset()
    if needed not in table or (rule is not None and needed not in granted and not rule.selectors):
        raise NotAllowed(f"the user {me!r} may not run ACL SETUSER", where=str(server), hint=_ADMIN_NEEDS)


def _setting(answer: Any) -> int | None:
    """The value in an answer to CONFIG GET; None when the server refuses or does not know it."""
    if isinstance(answer, RedisError) or len(answer) < 2:
        return None
    return int(answer[1])


def _persistence(aclfile: Any, config_file: str) -> Any:
    if not isinstance(aclfile, RedisError) and len(aclfile) > 1 and aclfile[1]:
        return "aclfile"
    return "config" if config_file.strip() else "none"


def _claims(rule: Rule) -> list[Claim]:
    marks = [marked for pattern in rule.channels if (marked := parse_mark(pattern)) is not None]
    if marks:
        return [Claim(rule.user, db, owner) for owner, db in marks]
    return [Claim(rule.user, number) for number in rule.database_numbers]


def _keyspace(said: Mapping[str, str]) -> dict[int, int]:
    """From ``db3:keys=12,expires=0,...``."""
    lines = {name: value for name, value in said.items() if re.fullmatch(r"db\d+", name)}
    return {int(name[2:]): int(value.partition("keys=")[2].partition(",")[0]) for name, value in lines.items()}


def _project(rule: Rule) -> str | None:
    owners: list[Owner] = [marked[0] for pattern in rule.channels if (marked := parse_mark(pattern)) is not None]
    return owners[0].project if owners else None


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


# --- lock ------------------------------------------------------------------------------------------------------------


class _Lease:
    """The lock: a key that names a connection of its holder, and expires when nobody renews it.

    A waiting run asks the server whether that connection is still there. A killed process loses it at once; the
    expiry is for a machine that vanished without a word.
    """

    def __init__(self, server: Server, client: redis.Redis, project: str, holder: str) -> None:
        self._server = server
        self._client = client  # this lease's own: the lock is lost with it
        self._holder = {"project": project, "holder": holder, "since": datetime.now(UTC).isoformat(timespec="seconds")}
        self._key = _LOCK_KEY
        self._value = ""
        self._stop = threading.Event()
        self._until = 0.0
        self._lost = False
        self._thread = threading.Thread(target=self._keep, name="redis-lock", daemon=True)

    def __enter__(self) -> Self:
        try:
            with _told_plainly(self._server):
                self._key = _lock_key(self._client)
                client_id = _ask(self._client, "CLIENT", "ID")
                self._value = json.dumps({**self._holder, "client": client_id, "token": random.token_hex(8)})
                self._acquire()
        except BaseException:
            self._client.close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(RedisError):  # it expires by itself
            _ask(self._client, "EVAL", _RELEASE, "1", self._key, self._value)
        self._client.close()

    def check(self) -> None:
        """Raises `ServerError` when somebody else may hold the lock by now."""
        if self._lost or time.monotonic() > self._until:
            raise ServerError(
                "the lock was lost: its connection broke, or somebody removed it",
                hint="run multidb apply again; it goes on where this stopped",
            )

    def _acquire(self) -> None:
        deadline = time.monotonic() + _LOCK_SECONDS + 2
        left_before = _LOCK_MILLISECONDS
        while True:
            asked = time.monotonic()
            if _ask(self._client, "SET", self._key, self._value, "NX", "PX", str(_LOCK_MILLISECONDS)):
                self._until = asked + _LOCK_SECONDS
                return
            held = _ask(self._client, "GET", self._key) or ""
            if not held or (self._is_orphan(held) and _ask(self._client, "EVAL", _RELEASE, "1", self._key, held)):
                continue
            left = _ask(self._client, "PTTL", self._key)
            # A time to live that grows again has been renewed: its holder is alive.
            if left == -1 or left > left_before + 500 or time.monotonic() > deadline:
                raise Locked(
                    f"another run works on this server: {_described(held)}",
                    where=str(self._server),
                    hint="wait for it to end, then run the command again",
                )
            left_before = min(left_before, max(left, 0))
            time.sleep(0.25)

    def _is_orphan(self, held: str) -> bool:
        """Whether the holder's connection is gone. False when that can't be told."""
        try:
            client = int(json.loads(held)["client"])
            return not str(_ask(self._client, "CLIENT", "LIST", "ID", str(client))).strip()
        except (ValueError, KeyError, TypeError, NoPermissionError):
            return False

    def _keep(self) -> None:
        while not self._stop.wait(_RENEW_SECONDS):
            asked = time.monotonic()
            try:
                held = _ask(self._client, "EVAL", _RENEW, "1", self._key, self._value, str(_LOCK_MILLISECONDS))
            except RedisError:
                held = 0
            if not held:
                self._lost = True
                return
            self._until = asked + _LOCK_SECONDS


def _lock_key(client: redis.Redis) -> str:
    """The key of the lock: on a cluster, where a node refuses the keys of others, the first that this node holds."""
    for number in range(_LOCK_CANDIDATES):
        key = f"{_LOCK_KEY}:{number}" if number else _LOCK_KEY
        with contextlib.suppress(MovedError):
            _ask(client, "GET", key)
            return key
    return _LOCK_KEY


def _described(raw: str) -> str:
    try:
        held = json.loads(raw)
        return f"project {held['project']}, {held['holder']}, since {held['since']}"
    except (ValueError, KeyError, TypeError):
        return "it does not say who it is"
