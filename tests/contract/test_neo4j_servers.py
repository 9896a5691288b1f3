"""What is special to Neo4j, on real Community servers: its walls between servers, its grammar, its small habits."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from neo4j import exceptions

from multidb.engine import Engine
from multidb.environment import environment
from multidb.errors import AuthenticationFailed, ServerDown, ServerError, ServerSlow, StatementFailed, WrongVersion
from multidb.errors import Refused as MultidbRefused
from multidb.fleet import Scope
from multidb.model import (
    App,
    Endpoint,
    Inspection,
    Isolation,
    Resource,
    Server,
    Statement,
    StoreContext,
)
from multidb.plan import diff
from multidb.provisioners.neo4j import PROVISIONER
from multidb.provisioners.neo4j.driver.connection import DRIVER_ERRORS, Bolt
from multidb.provisioners.neo4j.isolation.audit import ON_SYSTEM
from multidb.provisioners.neo4j.observe.health import HEAP, fullest
from multidb.provisioners.neo4j.provision.options import AppOptions, ServerOptions
from multidb.provisioners.neo4j.provision.resources import Grant, Membership, Neo4jFacts, PublicRights, password_ref
from multidb.provisioners.neo4j.provision.session import Neo4jSession, connect
from multidb.provisioners.neo4j.provision.statements import statements
from multidb.secrets import MemorySecretStore, Secret, generate
from tests.contract.case_neo4j import as_admin, ask, emptied, use
from tests.contract.neo4j_project import applied, engine_of
from tests.support.case import RealServer, Refused, Tenant
from tests.support.standing import standing

pytestmark = pytest.mark.server

ANY_NAMES = {"db": "`lernmi`", "rw": "`lernmi_rw`", "user": "`lernmi_user`", "own_user": "`devao_user`", "label": "`x`"}
COMMUNITYS = ("USER", "USERS", "SHOW")  # what Community has, too
UNSUPPORTED = "Unsupported administration command"


@pytest.fixture
def servers(neo4j_servers: tuple[RealServer, RealServer]) -> tuple[RealServer, RealServer]:
    """Two empty servers of one app each, as the embedded runtime makes them."""
    for real in neo4j_servers:
        emptied(real)
    return neo4j_servers


@pytest.fixture
def shared(servers: tuple[RealServer, RealServer]) -> RealServer:
    """The first server as one that exists already, empty and nobody's."""
    real = servers[0]
    return replace(real, server=replace(real.server, name="neo4j", app=None))


def tenant(engine: Engine, app: str) -> Tenant:
    env = environment(engine.fleet, app).env
    return Tenant(app, {k: v.reveal() if isinstance(v, Secret) else v for k, v in env.items()})


# Between two servers of one app


def test_one_apps_credentials_open_nothing_on_anothers_server(
    servers: tuple[RealServer, RealServer], tmp_path: Path
) -> None:
    first = tenant(applied(engine_of(servers[0], tmp_path / "a", "lernmi")), "lernmi")
    second = tenant(applied(engine_of(servers[1], tmp_path / "b", "devao")), "devao")
    assert first.env["NEO4J_URI"] != second.env["NEO4J_URI"]
    for attacker, victim in ((first, second), (second, first)):
        use(attacker)  # the control: at home the same credentials work
        with pytest.raises(Refused):
            ask(attacker, "RETURN 1", like=victim)
        borrowed = Tenant(attacker.app, {**attacker.env, "NEO4J_USER": "neo4j"})
        with pytest.raises(Refused):
            ask(borrowed, "RETURN 1", like=victim)


def test_a_server_of_its_own_is_enforced_and_has_no_mark(
    servers: tuple[RealServer, RealServer], tmp_path: Path
) -> None:
    engine = engine_of(servers[1], tmp_path, "devao")
    level, _ = next(iter(engine.plan().servers[0].isolation.values()))
    assert level is Isolation.ENFORCED
    names = [row["name"] for row in as_admin(servers[1], "SHOW INDEXES YIELD name", database="neo4j")]
    assert not [name for name in names if str(name).startswith("multidb_")]


# A server that exists already


def test_a_second_app_is_refused_with_the_choices(shared: RealServer, tmp_path: Path) -> None:
    (_, error), *_ = engine_of(shared, tmp_path, "lernmi", "devao").plan().errors
    assert isinstance(error, MultidbRefused)
    assert "lernmi, devao" in error.message
    assert "label" in (error.hint or "")
    assert as_admin(shared, "SHOW USERS YIELD user") == [{"user": "neo4j"}]


def test_a_second_app_that_is_looked_at_alone_is_refused_so_too(shared: RealServer, tmp_path: Path) -> None:
    """By `add-app`, `clone` and `rename-app`, which said that another manifest manages what is there."""
    applied(engine_of(shared, tmp_path, "lernmi"))
    planned = engine_of(shared, tmp_path, "devao").plan()
    [(_, error)] = planned.errors
    assert isinstance(error, MultidbRefused)
    assert "lernmi, devao" in error.message
    assert not planned.conflicts
    assert engine_of(shared, tmp_path, "lernmi").plan().in_sync


def test_another_project_cannot_take_a_server_that_has_an_owner(shared: RealServer, tmp_path: Path) -> None:
    applied(engine_of(shared, tmp_path / "a", "lernmi"))
    for app in ("lernmi", "devao"):
        plan = engine_of(shared, tmp_path / "b", app, project="rival").plan(Scope(adopt=frozenset({app})))
        assert [change.reason for change in plan.conflicts if "digi/lernmi" in change.reason]


def test_the_mark_survives_the_deletion_of_all_data(shared: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(shared, tmp_path, "lernmi"))
    ask(tenant(engine, "lernmi"), "CREATE (:Thing) WITH 1 AS x MATCH (n) DETACH DELETE n")
    assert engine.plan().in_sync
    assert next(iter(engine.plan().servers[0].isolation.values()))[0] is Isolation.PARTIAL


def test_labels_share_a_server_and_say_that_they_are_no_wall(shared: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(shared, tmp_path, "lernmi", "devao", isolation="label"))
    assert {level for level, _ in engine.plan().servers[0].isolation.values()} == {Isolation.NAMING_ONLY}
    first, second = tenant(engine, "lernmi"), tenant(engine, "devao")
    ask(second, f"CREATE (:{second.env['NEO4J_LABEL']} {{secret: 1}})")
    assert ask(first, f"MATCH (n:{second.env['NEO4J_LABEL']}) RETURN n.secret AS s") == [{"s": 1}], "it is no wall"


# Passwords


def test_wrong_logins_by_others_do_not_look_like_a_changed_password(shared: RealServer, tmp_path: Path) -> None:
    """After three wrong passwords Neo4j refuses the right one too, for five seconds."""
    engine = applied(engine_of(shared, tmp_path, "lernmi"))
    guest = tenant(engine, "lernmi")
    wrong = Tenant("lernmi", {**guest.env, "NEO4J_PASSWORD": "not-the-password"})
    for _ in range(4):
        with pytest.raises(Refused):
            ask(wrong, "RETURN 1")
    with pytest.raises(Refused):
        ask(guest, "RETURN 1")
    assert engine.plan().in_sync


def test_a_shallow_check_makes_no_login(shared: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(shared, tmp_path, "lernmi"))
    as_admin(shared, "ALTER USER lernmi_user SET PASSWORD 'changed-by-hand' CHANGE NOT REQUIRED")
    assert engine.plan(Scope(deep=False)).in_sync
    assert not engine.plan().in_sync


def test_odd_characters_in_a_password_arrive(shared: RealServer) -> None:
    for text in ('it\'s "odd" $x `y` \\ 100%', "päßwörd-漢字-🙂", "x" * 200):
        secrets = MemorySecretStore({password_ref("odd"): Secret(text)})
        command = "CREATE OR REPLACE USER `odd_user` SET PLAINTEXT PASSWORD $password CHANGE NOT REQUIRED"
        with open_session(shared) as session:
            list(session.run([Statement(command, (("password", password_ref("odd")),), "system")], secrets))
        login = Tenant("odd", {**address(shared), "NEO4J_USER": "odd_user", "NEO4J_PASSWORD": text})
        assert ask(login, "RETURN 1 AS one") == [{"one": 1}]


# The session


def open_session(real: RealServer, **changes: object) -> Neo4jSession:
    return connect(replace(real.server, **changes), real.admin, "multidb test")  # type: ignore[arg-type]


def address(real: RealServer) -> dict[str, str]:
    endpoint = real.server.endpoint
    return {"NEO4J_URI": f"bolt://{endpoint.host}:{endpoint.port}", "NEO4J_DATABASE": "neo4j"}


def test_what_the_server_is_comes_from_asking_it(shared: RealServer) -> None:
    with open_session(shared) as session:
        facts = session.facts
    assert (facts.product, facts.edition, facts.default_database) == ("Neo4j", "community", "neo4j")
    assert not facts.roles
    assert not facts.multi_database
    assert facts.version[0].isdigit()
    assert [row["name"] for row in as_admin(shared, "SHOW DATABASES YIELD name")] == ["neo4j", "system"]


def test_a_check_takes_a_constant_number_of_queries(shared: RealServer) -> None:
    counts = []
    for size in (1, 20):
        apps = [App(f"app{n}", f"app{n}", {"neo4j": AppOptions()}) for n in range(size)]
        with open_session(shared) as session:
            context = StoreContext("digi", session.facts, ServerOptions(isolation="label"))
            session.inspect(Inspection(context, apps, PROVISIONER.desired(apps, context), MemorySecretStore()))
            counts.append(session.sent)
    assert counts[0] == counts[1] <= 8


def test_a_failing_statement_names_itself_and_what_came_before(shared: RealServer) -> None:
    good, bad = Statement("SHOW USERS", scope="system"), Statement("DROP USER `nobody`", scope="system")
    with open_session(shared) as session:
        steps = session.run([good, bad, good], MemorySecretStore())
        assert next(steps) == 1
        with pytest.raises(StatementFailed, match="DROP USER `nobody`") as caught:
            next(steps)
    assert (caught.value.index, caught.value.durable) == (1, 1)


def test_a_server_that_is_no_neo4j_is_told_apart(shared: RealServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(64)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        endpoint = Endpoint("127.0.0.1", listener.getsockname()[1], "neo4j")
        with pytest.raises(WrongVersion, match="Bolt"):
            connect(Server("neo4j", "neo4j", endpoint, timeout=3), generate(), "multidb test")
        thread.join()


def test_tls_that_fails_is_told_from_a_server_that_is_down(shared: RealServer) -> None:
    for params in (
        {"scheme": "bolt+s"},
        {"scheme": "bolt+s", "ca_file": ssl.get_default_verify_paths().openssl_cafile},
    ):
        endpoint = replace(shared.server.endpoint, tls=True, params=params)
        with pytest.raises(ServerError, match=r"TLS|cannot be read") as caught:
            open_session(shared, endpoint=endpoint)
        assert "ca_file" in (caught.value.hint or "")


def test_a_server_that_hangs_up_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        endpoint = Endpoint("127.0.0.1", listener.getsockname()[1], "neo4j")
        with pytest.raises(ServerDown):
            connect(Server("neo4j", "neo4j", endpoint, timeout=3), generate(), "multidb test")
        thread.join()


def test_a_server_that_never_answers_costs_one_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint("127.0.0.1", listener.getsockname()[1], "neo4j")
        started = time.monotonic()
        with pytest.raises(ServerSlow):
            connect(Server("neo4j", "neo4j", endpoint, timeout=1), generate(), "multidb test")
        assert time.monotonic() - started < 10


def test_an_answer_that_does_not_come_is_given_up_and_the_next_question_is_answered(shared: RealServer) -> None:
    assert shared.pid is not None
    with Bolt(replace(shared.server, timeout=1), "neo4j", shared.admin, "test") as bolt:
        assert bolt.ask("RETURN 1 AS one", "neo4j", seconds=30) == [{"one": 1}]
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            bolt.ask("UNWIND range(1, 1000000000) AS n RETURN sum(n)", "neo4j")
        with standing(shared.pid):
            for large in ("", "x" * 50_000_000):  # more than a socket takes while nobody reads
                with pytest.raises((TimeoutError, *DRIVER_ERRORS)):
                    bolt.ask("RETURN size($large) AS size", "neo4j", {"large": large})
        assert time.monotonic() - started < 25, "each one timeout, and some for a busy machine"
        assert bolt.ask("RETURN 2 AS two", "neo4j", seconds=30) == [{"two": 2}]


def test_a_real_server_tells_how_full_its_heap_is(shared: RealServer) -> None:
    with connect(shared.server, shared.admin, "test") as session:
        pools = [row["usage"] for row in session.bolt.ask(HEAP)]
    assert 0 < fullest(pools) < 1


def test_too_many_wrong_admin_passwords_are_named(servers: tuple[RealServer, RealServer]) -> None:
    real = servers[1]
    messages = []
    for _ in range(5):
        with pytest.raises(AuthenticationFailed) as caught:
            connect(real.server, Secret("wrong-password"), "multidb test")
        messages.append(caught.value.message)
    assert "few seconds" in messages[-1]
    assert messages[0] != messages[-1]
    time.sleep(5.2)  # leave the server as it was found


# What an Enterprise server would be sent


def enterprise_texts() -> Sequence[str]:
    """Every kind of statement and question there is for a server with roles."""
    facts = Neo4jFacts("Neo4j", "2026.08.1", "enterprise", multi_database=True, roles=True)
    context = StoreContext("my-project", facts)
    apps = [App(name, name, {"neo4j": AppOptions()}) for name in ("lernmi", "ab", "system_x")]
    wanted = PROVISIONER.desired(apps, context)
    open_door = PublicRights(name="PUBLIC", load=("GRANT LOAD ON ALL DATA TO `PUBLIC`",))
    surplus: list[Resource] = [
        Grant(name="DENY WRITE ON GRAPH `lernmi` TO `lernmi_rw`", app="lernmi"),
        Membership.of("reader", "lernmi_user", "lernmi"),
        *(want for want in wanted if isinstance(want, Grant)),
    ]
    damaged = [_damaged(want) for want in wanted if not want.edge and want.app is not None]
    plans = (
        diff(wanted, [open_door]),
        diff([want for want in wanted if not isinstance(want, Grant)], [open_door, *surplus]),
        diff(wanted, damaged),
    )
    found = [s.text for changes in plans for change in changes for s in statements(change, context)]
    full = replace(context, read_only=frozenset({"lernmi"}))
    found += [want.name for want in PROVISIONER.desired(apps, full) if isinstance(want, Grant)]
    found += [
        attempt.text.format(**ANY_NAMES) for attempt in ON_SYSTEM if not set(COMMUNITYS) & {*attempt.text.split()}
    ]
    return [
        *dict.fromkeys(found),
        "ALTER USER `lernmi_user` SET STATUS SUSPENDED",
        "SHOW ALIASES FOR DATABASE YIELD name, database",
        "DROP ALIAS `also` IF EXISTS FOR DATABASE",
        "DROP DATABASE `lernmi` IF EXISTS DESTROY DATA WAIT 120 SECONDS",
        "DROP ROLE `lernmi_rw` IF EXISTS",
        "CREATE OR REPLACE DATABASE `try.lernmi` WAIT 120 SECONDS",
        "SHOW ROLES YIELD role RETURN role LIMIT 1",
        "SHOW ROLES WITH USERS YIELD role, member",
        "SHOW ALL PRIVILEGES AS COMMANDS YIELD command",
        "SHOW ROLE PUBLIC PRIVILEGES AS COMMANDS YIELD command",
        "EXPLAIN CREATE DATABASE `multidb-probe`",
    ]


def _damaged(want: Resource) -> Resource:
    other = {"status": "offline", "access": "read-only", "suspended": True, "home": "neo4j", "change_required": True}
    return replace(want, **{name: value for name, value in other.items() if hasattr(want, name)})


def test_every_enterprise_statement_is_good_cypher(shared: RealServer) -> None:
    """Community parses administration commands before it says that it does not have them."""
    texts = enterprise_texts()
    verbs = {" ".join(text.split()[:2]) for text in texts}
    assert {"CREATE DATABASE", "START DATABASE", "ALTER DATABASE", "CREATE ROLE", "GRANT ROLE", "REVOKE ROLE"} <= verbs
    assert {"REVOKE GRANT", "REVOKE DENY", "GRANT MATCH", "GRANT NAME", "CREATE USER", "ALTER USER"} <= verbs
    with open_session(shared) as session:
        for text in texts:
            binds = (("password", password_ref("x")),) if "$password" in text else ()
            with pytest.raises(StatementFailed) as caught:
                list(
                    session.run([Statement(text, binds, "system")], MemorySecretStore({password_ref("x"): generate()}))
                )
            answer = caught.value.message.removeprefix(text)
            assert UNSUPPORTED in answer or "not available in community edition" in answer, (text, answer)


def test_a_slip_in_the_grammar_would_be_noticed(shared: RealServer) -> None:
    with open_session(shared) as session, pytest.raises(StatementFailed) as caught:
        list(session.run([Statement("GRANT ACCESS ON DATABASE `x` TOO `y`", scope="system")], MemorySecretStore()))
    assert UNSUPPORTED not in caught.value.message


# The process


def test_only_bolt_listens_on_loopback_and_no_password_shows(servers: tuple[RealServer, RealServer]) -> None:
    real = servers[0]
    assert real.admin is not None
    assert real.pid is not None
    process = psutil.Process(real.pid)
    sockets = [each for each in process.net_connections() if each.status == "LISTEN"]
    listening = {(each.laddr.ip.removeprefix("::ffff:"), each.laddr.port) for each in sockets}
    assert listening == {("127.0.0.1", real.server.endpoint.port)}
    assert real.admin.reveal() not in " ".join(process.cmdline())
    assert real.admin.reveal() not in str(process.environ())


def test_no_password_is_in_any_file_of_the_server(servers: tuple[RealServer, RealServer], tmp_path: Path) -> None:
    """Nor in its logs: of a statement that works, of one that fails, of a wrong login."""
    real = servers[1]
    engine = _renewed(real, tmp_path)
    password = environment(engine.fleet, "devao").env["NEO4J_PASSWORD"]
    assert isinstance(password, Secret)
    assert real.admin is not None
    taken = Statement("CREATE USER devao_user SET PLAINTEXT PASSWORD $p", (("p", password_ref("devao")),), "system")
    with connect(real.server, real.admin, "test") as session, pytest.raises(StatementFailed):
        list(session.run([taken], engine.state.secrets))
    with pytest.raises(AuthenticationFailed):
        connect(real.server, Secret("a-password-that-is-wrong"), "test")
    files = [path for path in _home(real).rglob("*") if path.is_file()]
    assert any(path.name == "debug.log" for path in files), "the control: there are logs"
    for value in (password.reveal(), real.admin.reveal(), "a-password-that-is-wrong"):
        assert not [path for path in files if value.encode() in path.read_bytes()]


def test_an_app_cannot_read_files_of_the_machine(servers: tuple[RealServer, RealServer], tmp_path: Path) -> None:
    """On a server of its own an app is an administrator of the database, and still none of the machine."""
    app = tenant(_renewed(servers[1], tmp_path), "devao")
    use(app)
    with pytest.raises(exceptions.ClientError, match="allow_csv_import_from_file_urls"):
        ask(app, "LOAD CSV FROM 'file:///etc/passwd' AS line RETURN line")


def _renewed(real: RealServer, folder: Path) -> Engine:
    """The app of the second server, with new credentials where an earlier test has made it."""
    engine = engine_of(real, folder, "devao")
    assert engine.apply(Scope(regenerate=frozenset({"devao"}))).error() is None
    return engine


def _home(real: RealServer) -> Path:
    assert real.pid is not None
    words = psutil.Process(real.pid).cmdline()
    return Path(next(word.partition("=")[2] for word in words if word.startswith("--home-dir=")))
