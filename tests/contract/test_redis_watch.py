"""Redis and Valkey: health, the walls tried and searched, usage, suspension and removal, on real servers."""

# ruff: noqa: F811 (fixtures are imported by their names)

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis

from multidb.errors import AuthenticationFailed, Refused, ServerDown, ServerSlow
from multidb.model import App, Endpoint, Hole, Inspection, Outcome, Probe, Statement, Status, Tenant
from multidb.plan import diff
from multidb.provisioners.redis import PROVISIONER
from multidb.provisioners.redis.observe import usage
from multidb.provisioners.redis.provision.rules import split_line
from tests.contract.case_redis import ADMIN, as_admin, as_app
from tests.contract.redis_stage import Stage, redis_servers, stage, valkey  # noqa: F401

pytestmark = pytest.mark.server


def tenant(stage: Stage, app: App, **changes: object) -> Tenant:
    endpoint = stage.real.server.endpoint
    env = PROVISIONER.env(app, stage.context, endpoint, stage.project._secret)
    return replace(Tenant(app, stage.real.server, stage.context, env), **changes)


def healthy(of: Tenant, may_write: bool = True) -> tuple[Status, str]:
    assert PROVISIONER.check_health is not None
    found = PROVISIONER.check_health(of, may_write)
    assert found.status is Status.HEALTHY or found.fix
    return found.status, found.message


def probes(stage: Stage) -> list[Probe]:
    assert PROVISIONER.probe is not None
    return list(PROVISIONER.probe(tenant(stage, stage.alpha), [tenant(stage, stage.beta)]))


def by_hand(stage: Stage, *commands: str) -> None:
    with as_admin(stage.real) as client:
        for line in commands:
            client.execute_command(*split_line(line))


def run(stage: Stage, statements: object) -> None:
    with stage.project.connect() as session:
        for _ in session.run(list(statements), stage.project.secrets):
            pass


def keys_of(stage: Stage, app: App) -> set[bytes]:
    return set(stage.raw(app).execute_command("KEYS", f"{app.id}:*" if stage.prefix else "*"))


# --- health ----------------------------------------------------------------------------------------------------------


def test_health_is_what_the_app_finds(stage: Stage) -> None:
    alpha = tenant(stage, stage.alpha)
    assert healthy(alpha) == (Status.HEALTHY, "wrote, read and deleted a key")
    assert healthy(alpha, may_write=False) == (Status.HEALTHY, "read")
    assert keys_of(stage, stage.alpha) == set()

    by_hand(stage, "CONFIG SET maxclients 40")
    with contextlib.ExitStack() as stack:
        for _ in range(38):
            stack.enter_context(as_admin(stage.real)).execute_command("PING")
        status, message = healthy(alpha)
        assert status is Status.DEGRADED
        assert "of the server's 40 connections are taken" in message
        with contextlib.suppress(redis.ConnectionError):
            for _ in range(4):
                stack.enter_context(as_admin(stage.real)).execute_command("PING")
        with pytest.raises(ServerDown, match=r"no connection left|maxclients"):
            healthy(alpha)
    by_hand(stage, "CONFIG SET maxclients 10000")

    by_hand(stage, "CONFIG SET maxmemory 1kb")
    status, message = healthy(alpha)
    assert status is Status.UNHEALTHY
    assert "out of memory and refuses writes" in message
    assert healthy(alpha, may_write=False)[0] is Status.DEGRADED
    by_hand(stage, "CONFIG SET maxmemory 0")

    by_hand(stage, "REPLICAOF 127.0.0.1 1")
    assert healthy(alpha) == (Status.UNHEALTHY, "the server is a replica and refuses writes")
    assert healthy(alpha, may_write=False)[0] is Status.DEGRADED
    by_hand(stage, "REPLICAOF NO ONE")

    by_hand(stage, "ACL SETUSER alpha_user -set")
    status, message = healthy(alpha)
    assert status is Status.UNHEALTHY
    assert "refuses the app a plain command" in message
    by_hand(stage, "ACL SETUSER alpha_user off")
    with pytest.raises(AuthenticationFailed, match="app's user"):
        healthy(alpha)
    assert healthy(tenant(stage, stage.beta))[0] is Status.HEALTHY


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that accepts and then does what `answer` does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    answer(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def dripping(connection: socket.socket) -> None:
    """An answer that never ends, a byte at a time, each within any timeout for one byte."""
    connection.sendall(b"$1000\r\n")
    for _ in range(300):
        connection.sendall(b"x")
        time.sleep(0.1)


def agreeing_slowly(connection: socket.socket) -> None:
    """Every answer in time, and all together not."""
    for _ in range(100):
        connection.sendall(b"+OK\r\n")
        time.sleep(0.3)


def test_a_check_lasts_one_timeout_however_the_server_hangs(valkey: Stage) -> None:
    def lasts(endpoint: Endpoint) -> float:
        server = replace(valkey.real.server, endpoint=endpoint, timeout=0.6)
        began = time.monotonic()
        with pytest.raises(ServerSlow):
            healthy(tenant(valkey, valkey.alpha, server=server))
        return time.monotonic() - began

    assert valkey.real.pid is not None
    enough = 6.0  # and not as long as the server hangs, on a busy machine too
    os.kill(valkey.real.pid, signal.SIGSTOP)
    try:
        assert lasts(valkey.real.server.endpoint) < enough
    finally:
        os.kill(valkey.real.pid, signal.SIGCONT)
    for answer in (dripping, agreeing_slowly, lambda connection: time.sleep(30)):
        with listening(answer) as port:
            assert lasts(Endpoint("127.0.0.1", port)) < enough
    nobody = replace(valkey.real.server, endpoint=Endpoint("127.0.0.1", 1))
    with pytest.raises(ServerDown):
        healthy(tenant(valkey, valkey.alpha, server=nobody))


def test_an_app_over_its_quota_reads_and_deletes_and_gets_its_rights_back(stage: Stage) -> None:
    own = stage.prefix
    raw = stage.raw(stage.alpha)
    raw.execute_command("RPUSH", f"{own}list", *"abc")
    raw.execute_command("SET", f"{own}text", "x")
    before = stage.context
    stage.context = replace(before, read_only=frozenset({"alpha"}))

    def apply() -> tuple[str, ...]:
        with stage.project.connect() as session:
            apps = [stage.alpha, stage.beta]
            desired = PROVISIONER.desired(apps, stage.context)
            changes = diff(desired, session.inspect(Inspection(stage.context, apps, desired, stage.project.secrets)))
            run(stage, [each for change in changes for each in PROVISIONER.statements(change, stage.context)])
        return tuple(change.resource.name for change in changes if change.resource.app)

    assert apply() == ("alpha_user",)
    assert apply() == ()
    with as_app(stage.project.tenant("alpha")) as client:
        for allowed in (("GET", f"{own}text"), ("LPOP", f"{own}list"), ("EXPIRE", f"{own}list", "9"), ("TYPE", own)):
            client.execute_command(*allowed)
        for refused in (("SET", f"{own}text", "y"), ("RPUSH", f"{own}list", "d"), ("RENAME", f"{own}text", f"{own}z")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*refused)
        client.execute_command("DEL", f"{own}text")
    status, message = healthy(tenant(stage, stage.alpha))
    assert status is Status.DEGRADED
    assert "over its quota" in message
    assert not [probe for probe in probes(stage) if not probe.ok]
    stage.context = before
    assert apply() == ("alpha_user",)
    assert apply() == ()
    assert stage.project.in_sync("alpha", "beta")
    assert healthy(tenant(stage, stage.alpha))[0] is Status.HEALTHY


# --- audit -----------------------------------------------------------------------------------------------------------


def test_the_walls_are_as_promised_and_trying_them_harms_nobody(stage: Stage) -> None:
    stage.raw(stage.beta).execute_command("SET", f"{'beta:' if stage.prefix else ''}kept", "x")
    with as_admin(stage.real) as listener:
        listener.execute_command("CONFIG", "RESETSTAT")
        pubsub = listener.pubsub()
        pubsub.psubscribe("beta:*")
        found = probes(stage)
        pubsub.get_message(timeout=0.2)
        assert pubsub.get_message(timeout=0.2) is None
        stats = listener.execute_command("INFO", "commandstats")
    assert len(found) > 45
    assert [probe for probe in found if not probe.ok or probe.got is Outcome.BROKEN] == []
    partial = [probe.name for probe in found if probe.got is Outcome.ALLOWED]
    db_zero_open = not stage.context.facts.db_rules and not stage.prefix
    assert partial == (["GET in DB 0, before SELECT"] if db_zero_open else [])
    assert {probe.target for probe in found} == {None, "beta"}
    for harm in ("flushall", "set", "del", "swapdb", "config|set", "acl|setuser", "script|flush", "function|flush"):
        assert f"cmdstat_{harm}:calls=" not in stats.replace("calls=0,", "")
    assert len(keys_of(stage, stage.beta)) == 1


@pytest.mark.parametrize(
    ("opening", "names"),
    [
        ("&beta:*", {"PUBLISH", "SUBSCRIBE", "PUBLISH in a script"}),
        ("+eval +script|load", {"EVAL", "SCRIPT LOAD"}),
        ("+config|set", {"CONFIG SET maxmemory 0"}),
        ("+shutdown", {"SHUTDOWN"}),
        ("+acl|setuser", {"ACL SETUSER default on"}),
    ],
)
def test_an_opened_wall_is_a_breach(stage: Stage, opening: str, names: set[str]) -> None:
    if stage.scripts and "+eval" in opening:
        pytest.skip("the app may run scripts")
    if not stage.scripts:
        names = names - {"PUBLISH in a script"}
    by_hand(stage, f"ACL SETUSER alpha_user {opening}")
    assert names <= {probe.name for probe in probes(stage) if probe.breach}
    assert healthy(tenant(stage, stage.beta))[0] is Status.HEALTHY


def test_an_open_place_is_a_breach_and_a_broken_probe_no_proof(stage: Stage) -> None:
    if stage.prefix:
        opening, names = "~beta:*", {"GET", "SET", "DEL", "GET in a script", "RENAME"}
    elif stage.context.facts.db_rules:
        opening, names = "alldbs", {"SELECT", "SELECT in a transaction", "GET in DB 0, before SELECT"}
    else:
        opening, names = "+select", {"SELECT", "SELECT in a transaction", "SELECT in a script"}
    if not stage.scripts:
        names -= {name for name in names if "script" in name}
    by_hand(stage, f"ACL SETUSER alpha_user {opening}")
    assert names <= {probe.name for probe in probes(stage) if probe.breach}
    by_hand(stage, "ACL SETUSER beta_user nopass")
    assert "AUTH" in {probe.name for probe in probes(stage) if probe.breach}
    by_hand(stage, "ACL SETUSER alpha_user -get -eval -publish")
    broken = {probe.name for probe in probes(stage) if probe.got is Outcome.BROKEN}
    assert {"FLUSHALL", "PUBLISH", *(["PUBLISH in a script"] if stage.scripts else [])} <= broken


def holes(stage: Stage, *apps: App) -> list[Hole]:
    with stage.project.connect() as session:
        context = replace(stage.context, facts=session.facts)
        desired = PROVISIONER.desired(apps, context)
        return list(session.search(Inspection(context, apps, desired, stage.project.secrets)).holes)


OPENED = [
    ("login without a password", "ACL SETUSER default on nopass ~* &* +@all"),
    ("another way in", "ACL SETUSER alpha_user >second"),
    ("another way in", "ACL SETUSER alpha_user nopass"),
    ("rights beyond the app", "ACL SETUSER alpha_user +flushall"),
    ("rights beyond the app", "ACL SETUSER alpha_user &other:*"),
    ("rights beyond the app", "ACL SETUSER alpha_user allchannels"),  # wipes the mark, too
    ("rights beyond the app", 'ACL SETUSER alpha_user "(~* +@all)"'),
    ("foreign user with access", "ACL SETUSER worker on >pw ~* +@all"),
    ("foreign user with access", "ACL SETUSER worker on >pw %R~* +@read +select"),
    ("foreign user with access", "ACL SETUSER worker on >pw resetkeys allchannels +@pubsub"),
    ("foreign user with access", 'ACL SETUSER worker on >pw -@all "(~* +@all)"'),
    ("foreign user with access", "ACL SETUSER worker on >pw resetkeys +acl"),
    ("login of an app that is gone", "ACL SETUSER gamma_user on >pw resetchannels &__multidb__:realtest:gamma:{gamma}"),
    ("rules that are not saved", "ACL SETUSER __multidb__:unsaved reset off"),
]
HARMLESS = [
    "ACL SETUSER watcher on >pw +info +ping",
    "ACL SETUSER worker off ~* +@all",
    "ACL SETUSER other on >pw ~* resetchannels &other:* -@all +@read -select",
]


def test_holes_are_found_and_closed_by_what_they_say(stage: Stage) -> None:
    apps = (stage.alpha, stage.beta)
    assert holes(stage, *apps) == []
    by_hand(stage, *HARMLESS[: 2 if stage.prefix else 3])
    if stage.context.facts.db_rules:
        by_hand(stage, "ACL SETUSER other db=60")
    by_hand(stage, "ACL SAVE")
    assert holes(stage, *apps) == []
    opened = list(OPENED)
    if stage.prefix:
        opened.append(("rights beyond the app", "ACL SETUSER alpha_user ~beta:*"))
    if stage.context.facts.db_rules:
        opened.append(("rights beyond the app", "ACL SETUSER alpha_user db=1,2,3"))
    for name, line in opened:
        opening = line.replace("{gamma}", "0" if stage.prefix else "9")
        by_hand(stage, opening, "ACL SAVE")
        [found] = holes(stage, *apps)
        assert found.name == name, opening
        assert found.subject.split()[-1] in (*opening.split(), "rules")
        by_hand(stage, *found.closes, "ACL SAVE")
        assert holes(stage, *apps) == [], opening
        stage.project.apply("alpha", "beta")  # gives the app its password back where that was the price
        by_hand(stage, "ACL DELUSER worker gamma_user", "ACL SAVE")


# --- usage -----------------------------------------------------------------------------------------------------------


def test_usage_is_near_the_truth_in_a_constant_number_of_round_trips(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta = stage.raw(stage.alpha), stage.raw(stage.beta)
    own, other = stage.prefix, "beta:" if stage.prefix else ""
    alpha.execute_command("MSET", *(word for i in range(3000) for word in (f"{own}text{i}", "x" * 300)))
    alpha.execute_command("HSET", f"{own}hash", *(word for i in range(100) for word in (f"field{i}", "x" * 50)))
    beta.execute_command("MSET", *(word for i in range(1000) for word in (f"{other}text{i}", "x")))
    trips: list[str] = []
    for name in ("pipelined", "ask"):
        real = getattr(usage, name)
        monkeypatch.setattr(usage, name, lambda *words, real=real, **more: (trips.append(""), real(*words, **more))[1])
    with as_app(stage.project.tenant("alpha")) as client, stage.project.connect() as session:
        client.execute_command("PING")
        found = session.usage(stage.context, [stage.alpha, stage.beta])
        both = len(trips)
        trips.clear()
        session.usage(stage.context, [stage.alpha])
        assert len(trips) == both <= 4
    mine, theirs = found.apps["alpha"], found.apps["beta"]
    truth = sum(alpha.execute_command("MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys_of(stage, stage.alpha))
    assert mine.size is not None
    assert mine.estimated
    assert 0.7 * truth < mine.size < 1.4 * truth
    assert mine.counts["keys"] == 3001
    assert mine.largest[0][0] == "string keys"
    assert mine.connections == 1
    assert (theirs.counts["keys"], theirs.connections) == (1000, 0)
    assert found.connection_limit == 10_000
    assert found.size is not None
    assert found.size > mine.size


# --- suspension and removal ------------------------------------------------------------------------------------------


def test_a_suspended_app_is_out_and_keeps_its_data(stage: Stage) -> None:
    stage.raw(stage.alpha).execute_command("SET", f"{stage.prefix}kept", "x")
    with stage.project.connect() as session, as_app(stage.project.tenant("alpha")) as client:
        client.execute_command("PING")
        run(stage, session.suspension(stage.alpha, stage.context))
        with pytest.raises(redis.ConnectionError):
            client.execute_command("PING")
        assert session.suspension(stage.alpha, stage.context) == ()
    with pytest.raises(AuthenticationFailed):
        healthy(tenant(stage, stage.alpha))
    assert len(keys_of(stage, stage.alpha)) == 1
    assert stage.real.restart is not None
    stage.real.restart()  # it was saved (the data was not: these servers keep none)
    with pytest.raises(AuthenticationFailed):
        healthy(tenant(stage, stage.alpha))
    assert healthy(tenant(stage, stage.beta))[0] is Status.HEALTHY
    stage.project.apply("alpha", "beta")
    assert healthy(tenant(stage, stage.alpha))[0] is Status.HEALTHY


def test_a_removal_that_stops_anywhere_is_finished_by_the_next(stage: Stage) -> None:
    def removal() -> list[Statement]:
        with stage.project.connect() as session:
            return list(session.removal(stage.alpha, stage.context))

    length = 8
    for stop in range(length + 1):
        stage.project.apply("alpha", "beta")
        for app in (stage.alpha, stage.beta):
            prefix = f"{app.id}:" if stage.prefix else ""
            words = [word for i in range(1500) for word in (f"{prefix}\udcff{i}".encode(errors="surrogateescape"), "x")]
            stage.raw(app).execute_command("MSET", *words)
        statements = removal()
        assert len(statements) == length
        run(stage, statements[:stop])
        run(stage, removal())
        assert removal() == []
        assert keys_of(stage, stage.alpha) == set()
        assert len(keys_of(stage, stage.beta)) == 1500
        with as_admin(stage.real) as client:
            assert set(client.execute_command("ACL", "USERS")) == {"default", ADMIN, "beta_user"}


def test_only_what_is_ours_is_removed(stage: Stage) -> None:
    stage.raw(stage.alpha).execute_command("SET", f"{stage.prefix}kept", "x")
    with stage.project.connect() as session:
        if not stage.prefix:
            number = stage.context.numbers["alpha"]
            by_hand(stage, f"ACL SETUSER else on >pw resetchannels &__multidb__:other:app:{number}")
            with pytest.raises(Refused, match=f"DB {number} of app alpha is also that of ACL user else"):
                session.removal(stage.alpha, stage.context)
            by_hand(stage, "ACL DELUSER else")
        assert session.removal(stage.alpha, replace(stage.context, project="another")) == ()
        by_hand(stage, "ACL SETUSER alpha_user resetchannels")  # the mark is gone
        assert session.removal(stage.alpha, stage.context) == ()
        assert session.suspension(stage.alpha, stage.context) == ()
    assert len(keys_of(stage, stage.alpha)) == 1
