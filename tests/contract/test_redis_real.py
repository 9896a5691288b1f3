"""What is special to Redis and Valkey, on real servers."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from multidb.errors import Locked, NotAllowed, ServerError, StatementFailed, UsageError, WrongVersion
from multidb.model import Action, Endpoint, Isolation, Server, Statement
from multidb.ports import choose
from multidb.provisioners.redis import PROVISIONER
from multidb.provisioners.redis.provision.numbers import lock_number
from multidb.provisioners.redis.provision.options import ServerOptions
from multidb.provisioners.redis.provision.resources import command_rule
from multidb.provisioners.redis.provision.rules import parse_rule, split_line
from multidb.provisioners.redis.provision.session import connect
from multidb.secrets import MemorySecretStore, Secret
from tests.contract.case_redis import (
    ADMIN,
    as_admin,
    as_app,
    real_server,
    redis_binary,
    refusals,
    use,
    valkey_binary,
)
from tests.contract.redis_project import Project
from tests.support.case import RealServer, Refused

pytestmark = pytest.mark.server

BINARIES = {"valkey-9": valkey_binary, "redis-7": redis_binary}


@pytest.fixture(scope="module", params=BINARIES)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with real_server(tmp_path_factory.mktemp("redis"), binary=BINARIES[request.param]) as server:
        yield server


@pytest.fixture
def project(real: RealServer) -> Iterator[Project]:
    yield Project(real)
    with as_admin(real) as client:
        users = client.execute_command("ACL", "USERS")
        for user in set(users) - {"default", ADMIN}:
            client.execute_command("ACL", "DELUSER", user)
        client.execute_command("FLUSHALL")


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param("database", id="an app with a database"),
        pytest.param("scripts", id="an app with a database and scripts"),
        pytest.param("prefix", id="an app with a prefix"),
        "+@all",
        "+@all -@dangerous -@scripting +script|load",
        "-@all +@read -get +client +acl|whoami -client|kill",
        "-@all +@stream +@dangerous -xgroup|create +memory|usage",
        "+@all -@all +@fast -@read +select|3 +get|x",
        "-@all +config -config|set -@admin +@hash +hgetall -hget",
    ],
)
def test_what_we_compute_is_what_the_server_allows(project: Project, tokens: str) -> None:
    """Every command of the server is tried against ACL DRYRUN, for the rule as sent and as the server lists it."""
    with project.connect() as session, as_admin(project.real) as client:
        facts = session.facts
        rule = {
            "database": command_rule(False, 3, facts),
            "scripts": command_rule(False, 3, facts, scripts=True),
            "prefix": command_rule(True, 0, facts),
        }.get(tokens, tuple(tokens.split()))
        client.execute_command("ACL", "SETUSER", "probe", "reset", "~*", "&*", *rule)
        [listed] = [line for line in client.execute_command("ACL", "LIST") if line.startswith("user probe ")]
        computed = facts.commands.granted(rule)
        assert facts.commands.granted(parse_rule(listed).commands).deviation(computed) == ()
        arity = _arities(client.execute_command("COMMAND"))
        pipeline = client.pipeline(transaction=False)
        pipeline.response_callbacks.clear()
        for name in arity:
            words = name.split("|")
            pipeline.execute_command("ACL", "DRYRUN", "probe", *words, *["1"] * (arity[name] - len(words)))
        answers = dict(zip(arity, pipeline.execute(raise_on_error=False), strict=True))
    odd = {name: said for name, said in answers.items() if (said == "OK") is not (name in computed.commands)}
    assert odd == {}
    assert len(answers) > 200


def _arities(commands: Sequence[Any]) -> dict[str, int]:
    """The shortest length of each command, without those that need no permission (AUTH, HELLO, QUIT, RESET)."""
    found: dict[str, int] = {}
    for command in commands:
        subcommands = command[9]
        if "no_auth" not in command[2] and not subcommands:
            found[command[0]] = abs(command[1])
        found |= _arities(subcommands)
    return found


def test_no_command_that_ignores_keys_is_left_to_an_app_with_a_prefix(project: Project) -> None:
    """A server that learns a new SCAN (Valkey 9.1: CLUSTERSCAN) fails here, not in production."""
    with project.connect() as session, as_admin(project.real) as client:
        granted = session.facts.commands.granted(command_rule(True, 0, session.facts)).commands
        blind = {
            command[0]
            for command in client.execute_command("COMMAND")
            if "@keyspace" in command[6] and command[3] == 0 and "movablekeys" not in command[2] and not command[9]
        }
    assert {"scan", "keys", "dbsize", "randomkey", "flushdb"} <= blind
    assert not granted & blind


def test_one_unknown_token_would_have_cost_the_whole_rule(project: Project) -> None:
    """Why rules are made of the server's own command list."""
    with as_admin(project.real) as client, pytest.raises(redis.ResponseError, match="Unknown command"):
        client.execute_command("ACL", "SETUSER", "probe", "reset", "+get", "+client|not-yet-invented")


def test_the_mark_is_of_no_use_to_the_app_or_to_others(project: Project) -> None:
    project.apply("lernmi", "other")
    channel = f"__multidb__:realtest:lernmi:{project.recorded['lernmi']}"
    with as_app(project.tenant("lernmi")) as mine, as_app(project.tenant("other")) as others:
        assert mine.execute_command("PUBLISH", channel, "x") == 0
        with pytest.raises(Refused), refusals():
            others.execute_command("PUBLISH", channel, "x")
    assert project.in_sync("lernmi", "other")


# --- isolation -------------------------------------------------------------------------------------------------------


def test_partial_is_called_partial_because_of_db_zero(project: Project) -> None:
    """On Redis two apps can meet in DB 0, where connections start; on Valkey with database rules they can't."""
    project.apply("lernmi", "other")
    with project.connect() as session:
        level, why = PROVISIONER.isolation(project.apps(["lernmi"])[0], session.facts)
        walls = session.facts.db_rules
    with as_app(project.tenant("lernmi"), db=0) as mine, as_app(project.tenant("other"), db=0) as others:
        if walls:
            assert level is Isolation.ENFORCED
            with pytest.raises(Refused), refusals():
                mine.execute_command("SET", "left", "here")
        else:
            assert level is Isolation.PARTIAL
            assert "DB 0" in why
            mine.execute_command("SET", "left", "here")
            assert others.execute_command("GET", "left") == "here"


def test_an_app_with_a_prefix_is_safe_from_db_zero(project: Project) -> None:
    project.options = {"isolation": "prefix"}
    project.apply("lernmi", "other")
    with project.connect() as session:
        assert PROVISIONER.isolation(project.apps(["lernmi"])[0], session.facts)[0] is Isolation.ENFORCED
    tenant = project.tenant("lernmi")
    assert tenant.env["REDIS_KEY_PREFIX"] == "lernmi:"
    assert tenant.env["REDIS_DB"] == "0"
    use(tenant)


def test_a_mix_of_prefix_and_database_is_refused_where_it_is_unsafe(project: Project) -> None:
    project.options = {"isolation": "prefix"}
    project.apply("lernmi")
    project.options = {"isolation": "database"}
    with project.connect() as session:
        if session.facts.db_rules:
            assert project.plan(session, "other")[0]
        else:
            with pytest.raises(UsageError, match="does not go with"):
                project.plan(session, "other")


def test_what_popular_clients_send_works(project: Project) -> None:
    """The sequences of redis-py, RQ, Celery (kombu), BullMQ and Sidekiq, by the app's own URL."""
    project.options = {"scripts": True}
    project.apply("lernmi")
    number = project.recorded["lernmi"]
    url = project.tenant("lernmi").env["REDIS_URL"]
    with redis.Redis.from_url(url, protocol=3, client_name="worker", decode_responses=True) as client:
        assert client.ping()
        assert client.client_getname() == "worker"
        assert client.client_info()["db"] == number
        assert "redis_version" in client.info()
        with client.pipeline() as pipeline:
            pipeline.lpush("queue", "job")
            pipeline.zadd("retry", {"job": 1})
            assert pipeline.execute() == [1, 1]
        assert client.brpop(["queue"], timeout=20) == ["queue", "job"]
        assert client.bzpopmin(["retry"], timeout=20) == ["retry", "job", 1.0]
        script = client.register_script("redis.call('time') return redis.call('incr', KEYS[1])")
        assert [script(keys=["count"]), script(keys=["count"])] == [1, 2]
        digest = client.script_load("return 1")
        assert client.script_exists(digest) == [True]
        client.xgroup_create("events", "workers", mkstream=True)
        client.xadd("events", {"event": "done"})
        assert client.xreadgroup("workers", "one", {"events": ">"}, block=100)
        with client.lock("lock", timeout=5):
            assert client.exists("lock")
        assert sorted(client.scan_iter(count=100)) == ["count", "events"]
        assert client.dbsize() == 2
        for pattern in ("lernmi:*", f"/{number}.celery.pidbox", f"/{number}.celeryev/worker.*"):
            with client.pubsub() as pubsub:
                pubsub.psubscribe(pattern)
                message = pubsub.get_message(timeout=20)
                assert message is not None
                assert message["type"] == "psubscribe"
        client.publish(f"/{number}.celeryev/worker.heartbeat", "x")
        client.flushdb()
        assert client.dbsize() == 0


# --- kept over restarts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_users", ["aclfile", "config", "none"])
@pytest.mark.parametrize("binary", BINARIES.values(), ids=BINARIES)
def test_over_a_restart(tmp_path: Path, binary: Callable[[], str], keep_users: str) -> None:
    with real_server(tmp_path, binary=binary, keep_users=keep_users) as real:
        project = Project(real)
        project.apply("lernmi")
        assert project.in_sync("lernmi")
        with project.connect() as session:
            level, why = PROVISIONER.isolation(project.apps(["lernmi"])[0], session.facts)
            assert session.facts.persistence == keep_users
        assert real.restart is not None
        real.restart()
        if keep_users == "none":
            assert level is Isolation.NAMING_ONLY  # its admin is the default user, without a password
            assert "forgets them" in why
            [caveat] = PROVISIONER.caveats(session.facts) if PROVISIONER.caveats else ()
            assert "forgets them" in caveat
            assert not project.in_sync("lernmi")
            project.apply("lernmi")
        assert project.in_sync("lernmi")
        use(project.tenant("lernmi"))


@pytest.mark.parametrize("binary", BINARIES.values(), ids=BINARIES)
def test_killed_between_any_two_statements_nothing_stays_unsaved(tmp_path: Path, binary: Callable[[], str]) -> None:
    with real_server(tmp_path, binary=binary) as real:
        assert real.restart is not None
        for sent in range(5):
            project, app = Project(real), f"app{sent}"
            project.apply(app, only=sent)
            if sent == 4:  # saved with the note, and the note is gone: it comes back once with the restart
                assert project.in_sync(app)
                real.restart()
                use(project.tenant(app))
            assert not project.in_sync(app)
            project.apply(app)
            assert project.in_sync(app)
            real.restart()
            assert project.in_sync(app)
            use(project.tenant(app))


# --- the default user and the admin ----------------------------------------------------------------------------------


def test_an_open_default_user_is_closed_unless_it_is_to_be_kept(project: Project) -> None:
    with as_admin(project.real) as client:
        client.execute_command("ACL", "SETUSER", "default", "on", "nopass", "~*", "+@all")
    app = project.apps(["lernmi"])[0]
    project.server_options = ServerOptions(default_user="keep")
    project.apply("lernmi")
    with project.connect() as session:
        assert PROVISIONER.isolation(app, session.facts)[0] is Isolation.NAMING_ONLY
    project.server_options = ServerOptions()
    assert not project.in_sync("lernmi")
    project.apply("lernmi")
    with project.connect() as session:
        assert PROVISIONER.isolation(app, session.facts)[0] is not Isolation.NAMING_ONLY


def test_we_never_lock_ourselves_out(tmp_path: Path) -> None:
    with real_server(tmp_path, binary=valkey_binary, keep_users="none") as real:
        project = Project(real)
        project.apply("lernmi")
        assert project.in_sync("lernmi"), "the admin is still let in"


@pytest.mark.parametrize("denied", ["-acl", "-acl|setuser", "-@admin"])
def test_an_admin_without_acl_setuser_is_told_so(project: Project, denied: str) -> None:
    with as_admin(project.real) as client:
        client.execute_command("ACL", "SETUSER", "weak", "reset", "on", ">weak-password", "~*", "&*", "+@all", denied)
    endpoint = project.real.server.endpoint
    server = Server("redis", "redis", Endpoint(endpoint.host, endpoint.port, "weak"))
    with pytest.raises(NotAllowed) as caught:
        connect(server, Secret("weak-password"), "test")
    assert "ACL" in (caught.value.hint or "")


@pytest.mark.parametrize("taken", ["by the configuration", "from the admin"])
def test_a_server_that_does_not_say_where_its_users_are_kept_is_refused(tmp_path: Path, taken: str) -> None:
    """An apply made the users and ended with the refusal of CONFIG REWRITE; on a server with an aclfile that would have
    kept none of them."""
    settings = ('rename-command CONFIG ""',) if taken == "by the configuration" else ()
    with real_server(tmp_path, binary=valkey_binary, settings=settings) as real:
        if not settings:
            with as_admin(real) as client:
                client.execute_command("ACL", "SETUSER", ADMIN, "-config")
        with pytest.raises(NotAllowed, match="does not say where its users are kept") as caught:
            Project(real).apply("lernmi")
        assert "rename-command" in (caught.value.hint or "")
        with as_admin(real) as client:
            assert {*client.execute_command("ACL", "USERS")} == {ADMIN, "default"}


def _answering(answer: Callable[[bytes], bytes]) -> tuple[socket.socket, Server]:
    """Something on a port that is no server of ours."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    said = answer(data)
                    connection.sendall(said)
                    if said.startswith(b"HTTP"):
                        break

    threading.Thread(target=serve, daemon=True).start()
    return listener, Server("redis", "redis", Endpoint("127.0.0.1", listener.getsockname()[1]), timeout=2)


def test_a_server_too_old_and_one_that_is_no_redis_are_told_apart() -> None:
    info = b"# Server\r\nredis_version:5.0.14\r\n"

    def redis_5(data: bytes) -> bytes:
        told = {b"INFO": b"$%d\r\n%s\r\n" % (len(info), info), b"COMMAND": b"*0\r\n"}
        commands = re.findall(rb"^\*\d+\r\n\$\d+\r\n(\w+)\r$", data, re.MULTILINE)
        default = b"-ERR unknown command\r\n" if b"INFO" in commands else b"+OK\r\n"
        return b"".join(told.get(command, default) for command in commands)

    old, server = _answering(redis_5)
    with old, pytest.raises(WrongVersion, match=r"Redis 5\.0\.14 has no ACL users"):
        connect(server, None, "test")
    web, server = _answering(lambda data: b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with web, pytest.raises(WrongVersion, match="does not speak the Redis protocol"):
        connect(server, None, "test")


# --- statements ------------------------------------------------------------------------------------------------------


def test_nothing_follows_a_statement_that_failed(project: Project) -> None:
    texts = ["ACL SETUSER probe reset off", "ACL NONSENSE", "ACL DELUSER probe"]
    with project.connect() as session:
        steps = session.run([Statement(text) for text in texts], project.secrets)
        assert next(steps) == 1
        with pytest.raises(StatementFailed) as caught:
            next(steps)
    assert (caught.value.index, caught.value.durable) == (1, 1)
    with as_admin(project.real) as client:
        assert "probe" in client.execute_command("ACL", "USERS")


def test_what_is_shown_is_what_is_sent_and_no_password_is(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bytes on the wire (MONITOR leaves out what changes rules): the plan's statements in order, with the hash
    in the place of its parameter, and nothing that changes anything besides."""
    wire: list[bytes] = []
    send = redis.Connection.send_packed_command

    def recorded(self: Any, command: Any, *more: Any, **options: Any) -> Any:
        wire.append(b"".join([command] if isinstance(command, bytes) else command))
        return send(self, command, *more, **options)

    project.generate("lernmi")
    with project.connect() as session:
        statements = project.plan(session, "lernmi")[1]
        monkeypatch.setattr(redis.Connection, "send_packed_command", recorded)
        list(session.run(statements, project.secrets))
    sent = [_unpacked(command) for command in wire]
    assert [words for words in sent if words] == [_as_sent(statement, project.secrets) for statement in statements]
    passwords = [project.secrets.get(ref) for ref in project.secrets.refs() if ref.name == "user"]
    assert passwords
    assert all(secret is not None and secret.reveal().encode() not in b"".join(wire) for secret in passwords)


def _unpacked(command: bytes) -> list[str]:
    """The words of one command in the server's protocol."""
    count, *parts = command.split(b"\r\n")
    words = [word.decode() for word in parts[1::2]]
    assert count == f"*{len(words)}".encode()
    return words


def _as_sent(statement: Statement, secrets: MemorySecretStore) -> list[str]:
    words = split_line(statement.text)
    for name, ref in statement.binds:
        value = secrets.get(ref)
        assert value is not None
        words = [word.replace(f"#${name}", f"#{value.reveal()}") for word in words]
    return words


@pytest.mark.parametrize("isolation", ["database", "prefix"])
def test_a_plan_takes_as_many_round_trips_for_a_thousand_apps_as_for_one(
    project: Project, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.options = {"isolation": isolation}
    names = [f"app{number}" for number in range(1000 if isolation == "prefix" else 40)]
    project.apply(*names)
    sends: list[int] = []
    send = redis.Connection.send_packed_command

    def counted(self: Any, *words: Any, **options: Any) -> Any:
        sends.append(1)
        return send(self, *words, **options)

    monkeypatch.setattr(redis.Connection, "send_packed_command", counted)
    took = []
    for some in (names[:1], names):
        sends.clear()
        started = time.process_time()  # by the clock, a busy machine would be measured
        assert project.in_sync(*some)
        took.append((len(sends), time.process_time() - started))
    (few, _), (many, seconds) = took
    assert few == many
    assert many <= 8, "a handshake, the facts and one ACL LIST"
    assert seconds < 3


# --- lock ------------------------------------------------------------------------------------------------------------


def test_a_living_holder_is_named(project: Project) -> None:
    with project.connect() as first, project.connect() as second, first.lock("realtest", "multidb apply by me@here"):
        rival = second.lock("rival", "x")
        with pytest.raises(Locked, match="multidb apply by me@here, since 20"):
            rival.__enter__()
    with project.connect() as third, third.lock("realtest", "x"):
        pass


def lock_db(project: Project) -> int:
    with project.connect() as session:
        return lock_number(session.facts)


def test_the_lock_of_a_dead_connection_is_taken_over_at_once(project: Project) -> None:
    value = json.dumps({"project": "realtest", "holder": "x", "since": "now", "client": 999_999_999})
    with as_admin(project.real, lock_db(project)) as client:
        client.execute_command("SET", "__multidb__:lock", value, "PX", "15000")
    started = time.monotonic()
    with project.connect() as session, session.lock("realtest", "x"):
        assert time.monotonic() - started < 10, "it would have been for 15 s"


def test_a_lock_that_tells_nothing_is_waited_for(project: Project) -> None:
    with as_admin(project.real, lock_db(project)) as client:
        started = time.monotonic()
        client.execute_command("SET", "__multidb__:lock", "?", "PX", "1500")
    with project.connect() as session, session.lock("realtest", "x"):
        assert time.monotonic() - started > 1.4


def test_who_loses_the_lock_stops(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidb.provisioners.redis.provision.lock.RENEWAL_INTERVAL", 0.05)
    with project.connect() as session, session.lock("realtest", "x"):
        with as_admin(project.real, lock_db(project)) as client:
            client.execute_command("SET", "__multidb__:lock", "somebody else's")

        def work_on() -> None:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                list(session.run([Statement("ACL SETUSER probe off")], project.secrets))

        with pytest.raises(StatementFailed, match="the lock was lost"):
            work_on()
    with as_admin(project.real, lock_db(project)) as client:
        assert client.execute_command("GET", "__multidb__:lock") == "somebody else's", "only our own lock is released"


def test_each_node_of_a_cluster_has_a_lock_of_its_own(tmp_path: Path) -> None:
    """A node refuses keys whose slots are another's; whoever works on that node still finds the same lock."""
    with contextlib.ExitStack() as stack:
        nodes, buses = [], [bus := choose(()), choose({bus})]
        for bus in buses:
            folder = tmp_path / str(bus)
            folder.mkdir()
            cluster = ("cluster-enabled yes", "cluster-require-full-coverage no", f"cluster-port {bus}")
            nodes.append(stack.enter_context(real_server(folder, binary=valkey_binary, settings=cluster)))
        for real, first, last in zip(nodes, (0, 8192), (8191, 16383), strict=True):
            with as_admin(real) as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        with as_admin(nodes[0]) as client:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", str(nodes[1].server.endpoint.port), str(buses[1]))
        deadline = time.monotonic() + 20
        while any(not _sees_the_whole_cluster(real) for real in nodes):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for real in nodes:
            project = Project(real)
            with project.connect() as session, session.lock("realtest", "x"):
                project.apply("lernmi")
                with as_admin(real) as client:
                    [key] = [key for key in client.execute_command("KEYS", "*") if key.startswith("__multidb__:lock")]
                    assert client.execute_command("GET", key)
            assert project.in_sync("lernmi")


def _sees_the_whole_cluster(real: RealServer) -> bool:
    with as_admin(real) as client:
        info = client.execute_command("CLUSTER", "INFO")
    return "cluster_state:ok" in info and "cluster_slots_assigned:16384" in info


def test_numbers_are_read_again_under_the_lock(project: Project) -> None:
    """Two projects plan at once and both see DB 1 free; the second to get the lock sees that it is gone."""
    rival = Project(project.real)
    rival.generate("rival")
    project.generate("lernmi")
    with project.connect() as first, rival.connect() as second:
        with first.lock("realtest", "x"):
            list(first.run(project.plan(first, "lernmi")[1], project.secrets))
        with second.lock("rival", "x"):
            list(second.run(rival.plan(second, "rival")[1], rival.secrets))
    assert project.recorded["lernmi"] != rival.recorded["rival"]


def test_a_driver_option_that_is_unknown_is_refused(project: Project) -> None:
    endpoint = Endpoint("127.0.0.1", 1, tls=True, params={"sslmode": "require"})
    with pytest.raises(UsageError, match="sslmode"):
        connect(Server("redis", "redis", endpoint), None, "test")


def test_plain_text_to_a_tls_address_is_an_error_of_ours(project: Project) -> None:
    endpoint = project.real.server.endpoint
    server = Server("redis", "redis", Endpoint(endpoint.host, endpoint.port, tls=True), timeout=2)
    with pytest.raises(ServerError):
        connect(server, None, "test")


def test_a_change_is_shown_before_it_is_made(project: Project) -> None:
    with project.connect() as session:
        changes, statements = project.plan(session, "lernmi")
        again, _ = project.plan(session, "lernmi")
    assert [change.action for change in changes] == [Action.UPDATE, Action.CREATE, Action.UPDATE]
    assert changes == again, "planning changed something"
    assert [statement.text.split()[1] for statement in statements] == ["SETUSER", "SETUSER", "SAVE", "DELUSER", "SAVE"]
