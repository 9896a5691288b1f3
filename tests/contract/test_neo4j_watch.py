"""Watching apps on real Neo4j servers: health, the walls tried, holes made by hand, usage, and the end of an app."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import neo4j
import pytest
from neo4j import exceptions

from multidb.engine import Engine
from multidb.errors import AuthenticationFailed, ServerDown, ServerSlow
from multidb.fleet import Scope
from multidb.model import Outcome, Probe, Status, Tenant
from multidb.ports import choose
from multidb.provisioners.neo4j import PROVISIONER
from multidb.provisioners.neo4j.driver.connection import Bolt
from multidb.provisioners.neo4j.observe.health import check_health
from multidb.provisioners.neo4j.provision.options import ServerOptions
from multidb.secrets import Secret
from tests.contract.case_neo4j import as_admin, emptied
from tests.contract.neo4j_project import applied, engine_of, holes
from tests.support.case import RealServer
from tests.support.standing import standing

pytestmark = pytest.mark.server


@pytest.fixture
def own(neo4j_servers: tuple[RealServer, RealServer]) -> RealServer:
    """The own server of lernmi."""
    emptied(neo4j_servers[0])
    return neo4j_servers[0]


@pytest.fixture
def shared(neo4j_servers: tuple[RealServer, RealServer]) -> RealServer:
    """One that exists already and belongs to nobody."""
    real = neo4j_servers[1]
    emptied(real)
    return replace(real, server=replace(real.server, name="neo4j", app=None))


def tenants(engine: Engine) -> list[Tenant]:
    found, errors = engine.fleet.tenants(Scope())
    assert not errors
    return found


def names(real: RealServer) -> list[object]:
    texts = ("MATCH (n) RETURN count(n)", "CALL db.propertyKeys()", "CALL db.labels()", "SHOW INDEXES YIELD name")
    return [as_admin(real, text, database="neo4j") for text in texts]


# Health


def test_a_healthy_app_leaves_nothing(own: RealServer, tmp_path: Path) -> None:
    (app,) = tenants(applied(engine_of(own, tmp_path, "lernmi")))
    before = names(own)
    for may_write, proved in ((True, "wrote and read"), (False, "read")):
        health = check_health(app, may_write)
        assert (health.status, health.message) == (Status.HEALTHY, proved)
        assert health.latency is not None
    assert names(own) == before


def test_that_multidb_is_locked_out_shows_in_the_apps_health(own: RealServer, tmp_path: Path) -> None:
    (app,) = tenants(applied(engine_of(own, tmp_path, "lernmi")))
    unasked = replace(app, context=replace(app.context, facts=None))  # as where the admin's login is refused
    health = check_health(unasked, True)
    assert health.status is Status.DEGRADED
    assert health.fix == f"get back in: multidb recover {own.server.name}"
    shared = replace(unasked, server=replace(app.server, app=None))  # somebody else's, whose password may be elsewhere
    assert check_health(shared, True).status is Status.HEALTHY


def test_what_is_wrong_with_an_app_is_named(own: RealServer, tmp_path: Path) -> None:
    (app,) = tenants(applied(engine_of(own, tmp_path, "lernmi")))
    with pytest.raises(AuthenticationFailed, match="app lernmi") as caught:
        check_health(replace(app, env={**app.env, "NEO4J_PASSWORD": Secret("not-the-password")}), True)
    assert "multidb apply" in (caught.value.hint or "")
    missing = check_health(replace(app, env={**app.env, "NEO4J_DATABASE": "nowhere"}), True)
    assert missing.status is Status.UNHEALTHY
    assert "nowhere is not there" in missing.message
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(ServerDown):
        check_health(replace(app, env={**app.env, "NEO4J_URI": f"bolt://127.0.0.1:{port}"}), True)


def test_a_silent_server_costs_one_timeout(own: RealServer, tmp_path: Path) -> None:
    (app,) = tenants(applied(engine_of(own, tmp_path, "lernmi")))
    hurried = replace(app, server=replace(app.server, timeout=1))
    assert own.pid is not None
    with standing(own.pid):
        assert 0.9 < _seconds_until_slow(hurried) < 8
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"bolt://127.0.0.1:{silent.getsockname()[1]}"
        assert 0.9 < _seconds_until_slow(replace(hurried, env={**app.env, "NEO4J_URI": uri})) < 8
    assert check_health(app, True).status is Status.HEALTHY


def _seconds_until_slow(app: Tenant) -> float:
    began = time.monotonic()
    with pytest.raises(ServerSlow):
        check_health(app, True)
    return time.monotonic() - began


# The walls


def test_an_apps_login_opens_nothing_on_the_server_of_another(
    own: RealServer, shared: RealServer, tmp_path: Path
) -> None:
    (first,) = tenants(applied(engine_of(own, tmp_path / "a", "lernmi")))
    (second,) = tenants(applied(engine_of(shared, tmp_path / "b", "devao")))
    for attacker, victim in ((first, second), (second, first)):
        *loads, tried = PROVISIONER.probe(attacker, [victim])  # type: ignore[misc]
        assert [(load.name, load.got) for load in loads] == [
            (name, Outcome.REFUSED) for name in ("read a URL", "read a file") if attacker is first
        ]
        assert (tried.name, tried.got, tried.ok) == ("log in to its server", Outcome.REFUSED, True)
        broken = replace(attacker, env={**attacker.env, "NEO4J_DATABASE": "nowhere"})
        (tried,) = PROVISIONER.probe(broken, [victim])  # type: ignore[misc]
        assert tried.got is Outcome.BROKEN, "a login that opens nothing at home proves nothing"
    with_a_key = replace(first, env={**first.env, **_login(second)})
    open_door: list[Probe] = [*PROVISIONER.probe(replace(with_a_key, server=own.server), [second])]  # type: ignore[misc]
    assert [probe.got for probe in open_door] == [Outcome.BROKEN], "the credentials of another do not work at home"


def _login(tenant: Tenant) -> dict[str, str | Secret]:
    return {name: tenant.env[name] for name in ("NEO4J_USER", "NEO4J_PASSWORD")}


def test_a_label_is_no_wall_and_nothing_is_harmed_in_showing_it(shared: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(shared, tmp_path, "lernmi", "devao", isolation="label"))
    first, second = tenants(engine)
    as_admin(shared, "CREATE (:devao {secret: 1})", database="neo4j")
    before = [*names(shared), as_admin(shared, "SHOW USERS")]
    tried = [*PROVISIONER.probe(first, [second])]  # type: ignore[misc]
    assert {probe.name for probe in tried} >= {"read nodes", "write a node", "drop the user"}
    assert {(probe.expected, probe.got, probe.breach) for probe in tried} == {(Outcome.ALLOWED, Outcome.ALLOWED, False)}
    assert [*names(shared), as_admin(shared, "SHOW USERS")] == before
    assert engine.plan().in_sync
    assert holes(engine) == []
    (gone,) = holes(engine_of(shared, tmp_path, "lernmi", isolation="label"))
    assert (gone.name, gone.subject) == ("login of an app that is gone", "user devao_user")
    as_admin(shared, *gone.closes)
    assert holes(engine_of(shared, tmp_path, "lernmi", isolation="label")) == []


# Holes


def test_a_stranger_on_an_instance_is_a_hole_until_it_is_closed(own: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(own, tmp_path, "lernmi"))
    assert holes(engine) == []
    as_admin(own, "CREATE USER `old-worker` SET PASSWORD 'made-by-hand' CHANGE NOT REQUIRED")
    (found,) = holes(engine)
    assert (found.name, found.subject) == ("another administrator", "user old-worker")
    as_admin(own, *found.closes)
    assert holes(engine) == []


def test_a_stranger_that_the_manifest_knows_is_told_apart(own: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(own, tmp_path, "lernmi"))
    as_admin(own, "CREATE USER exporter SET PASSWORD 'made-by-hand' CHANGE NOT REQUIRED")
    (found,) = holes(engine)
    assert found.account == "exporter"


def test_what_settings_open_is_found_and_the_printed_lines_close_it(own: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(own, tmp_path, "lernmi"))
    assert own.restart is not None
    (row,) = as_admin(own, "SHOW SETTINGS 'server.directories.neo4j_home' YIELD value")
    conf = Path(str(row["value"])) / "conf" / "neo4j.conf"
    before = conf.read_text()
    opened = {
        "dbms.security.auth_enabled": "false",
        "dbms.security.procedures.unrestricted": "db.*",
        "dbms.security.allow_csv_import_from_file_urls": "true",
        "internal.dbms.cypher_ip_blocklist": "10.0.0.0/8",
        "server.http.enabled": "true",
        "server.http.listen_address": f"127.0.0.1:{choose(())}",
        "dbms.security.http_auth_allowlist": "/,/browser.*,/db/.*",
    }
    try:
        conf.write_text(changed(before, opened))
        own.restart()
        found = holes(engine)
        assert {hole.name for hole in found} == {
            "no authentication",
            "procedures without limits",
            "LOAD CSV can read a URL",
            "LOAD CSV can read a file",
            "paths without a login",
        }
        assert {probe.name for probe in walls(engine) if probe.got is Outcome.ALLOWED} == {"read a URL", "read a file"}
        closed = dict(line.partition("  //")[0].split("=", 1) for hole in found for line in hole.closes)
        conf.write_text(changed(conf.read_text(), closed))
        own.restart()
        assert holes(engine) == []
        assert {probe.got for probe in walls(engine)} == {Outcome.REFUSED}
    finally:
        conf.write_text(before)
        own.restart()


@pytest.mark.rare
def test_load_csv_of_the_internet_reaches_nothing_that_is_near(own: RealServer, tmp_path: Path) -> None:
    """Each address in every spelling that Java takes; a listener that would hear it; and one that is let through."""
    engine = applied(engine_of(own, tmp_path, "lernmi"))
    assert own.restart is not None
    (row,) = as_admin(own, "SHOW SETTINGS 'server.directories.neo4j_home' YIELD value")
    conf = Path(str(row["value"])) / "conf" / "neo4j.conf"
    before = conf.read_text()
    blocklist = "internal.dbms.cypher_ip_blocklist"

    def said(host: str, port: int) -> str:
        with pytest.raises(exceptions.ClientError) as caught:
            as_admin(own, f"LOAD CSV FROM 'http://{host}:{port}/' AS row RETURN row", database="neo4j")
        return str(caught.value)

    hosts = "127.0.0.1 localhost 127.1 2130706433 0.0.0.0 10.1.2.3 169.254.169.254 [::1] [::] [::ffff:127.0.0.1]"
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
        for load in ("none", "internet"):
            try:
                conf.write_text(changed(before, {blocklist: ServerOptions(load_csv=load).blocklist}))  # type: ignore[arg-type]
                own.restart()
                assert all(blocklist in said(host, port) for host in [*hosts.split(), "[2002:7f00:1::]", "[fe80::1]"])
                assert (blocklist in said("192.0.2.1", 1)) == (load == "none")  # an address of the internet, nobody's
                nobody.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    nobody.accept()
                assert holes(engine) == []
            finally:
                conf.write_text(before)
    own.restart()


def changed(conf: str, values: dict[str, str]) -> str:
    """A neo4j.conf with these values, each once."""
    kept = [line for line in conf.splitlines() if line.partition("=")[0] not in values]
    return "\n".join([*kept, *(f"{name}={value}" for name, value in values.items())]) + "\n"


def walls(engine: Engine) -> list[Probe]:
    """What the app's login can do beside its own work, on a server of its own."""
    (tenant,) = tenants(engine)
    assert PROVISIONER.probe is not None
    return list(PROVISIONER.probe(tenant, []))


def test_the_password_of_a_new_server_is_a_hole(own: RealServer, tmp_path: Path) -> None:
    """Neo4j takes no password so short but the very first one, so another pair stands for it here."""
    as_admin(own, "CREATE USER first SET PASSWORD 'first-password' CHANGE REQUIRED")
    assert own.admin is not None
    with Bolt(own.server, "neo4j", own.admin, "test") as bolt:
        assert bolt.takes_first_password("first", Secret("first-password")), "though it asks for a new one"
        assert not bolt.takes_first_password("first", Secret("another-password"))


# Usage


def test_usage_counts_what_is_there(own: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(own, tmp_path, "lernmi"))
    (app,) = tenants(engine)
    as_admin(own, "UNWIND range(1, 40) AS n CREATE (:A {n: n})-[:TO]->(:B:C {m: n})", database="neo4j")
    (server,) = engine.fleet.servers(Scope())
    with connected(app), engine.fleet.open(server) as session:
        used = session.usage(engine.fleet.context(server, session), engine.fleet.apps_of(server))
    own_use = used.apps["lernmi"]
    assert own_use.connections == 1
    assert used.connections is not None
    assert used.connections >= 2
    assert used.connection_limit == 400
    wanted = {"nodes": 80, "relationships": 40, "label A": 40, "label B": 40, "label C": 40}
    assert {name: own_use.counts[name] for name in wanted} == wanted
    assert own_use.size is not None
    assert 100_000 < own_use.size == used.size


@contextmanager
def connected(app: Tenant) -> Iterator[neo4j.Session]:
    env = {name: value.reveal() if isinstance(value, Secret) else value for name, value in app.env.items()}
    auth = (env["NEO4J_USER"], env["NEO4J_PASSWORD"])
    with neo4j.GraphDatabase.driver(env["NEO4J_URI"], auth=auth) as driver, driver.session() as session:
        session.run("RETURN 1").consume()
        yield session


# The end of an app


def test_a_suspended_app_is_out_and_comes_back_as_it_was(own: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(own, tmp_path, "lernmi"))
    (app,) = tenants(engine)
    as_admin(own, "CREATE (:Kept)", database="neo4j")
    with connected(app) as session:
        transaction = session.begin_transaction()
        assert ended(engine, "suspension")
        with pytest.raises((exceptions.ServiceUnavailable, exceptions.SessionExpired)):
            transaction.run("RETURN 1").consume()
    with pytest.raises(exceptions.AuthError), connected(app):
        pass
    assert not ended(engine, "suspension"), "it is so already"
    applied(engine)
    with connected(app) as session:
        assert session.run("MATCH (n:Kept) RETURN count(n)").single(strict=True)[0] == 1


def test_a_removed_app_leaves_nothing_and_can_be_removed_in_pieces(own: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(own, tmp_path, "lernmi"))
    _fill(own)
    while ended(engine, "removal", at_most=1):
        pass
    _assert_gone(own)


def test_only_a_marked_server_is_emptied(shared: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(shared, tmp_path / "a", "lernmi"))
    rival = engine_of(shared, tmp_path / "b", "lernmi", project="rival")
    _fill(shared)
    assert not ended(rival, "removal")
    assert not ended(rival, "suspension")
    assert ended(engine, "removal")
    _assert_gone(shared)


def test_a_label_is_removed_and_the_rest_stays(shared: RealServer, tmp_path: Path) -> None:
    engine = applied(engine_of(shared, tmp_path, "lernmi", "devao", isolation="label"))
    as_admin(
        shared,
        "CREATE (:lernmi)-[:R]->(:lernmi), (:devao)",
        "CREATE INDEX kept FOR (n:devao) ON (n.x)",
        database="neo4j",
    )
    assert ended(engine, "removal")
    assert as_admin(shared, "MATCH (n) RETURN labels(n) AS l", database="neo4j") == [{"l": ["devao"]}]
    assert {"user": "devao_user"} in as_admin(shared, "SHOW USERS YIELD user")
    left = {row["name"] for row in as_admin(shared, "SHOW INDEXES YIELD name", database="neo4j")}
    assert {"kept", "multidb_digi_LABELS_devao"} <= left
    assert "multidb_digi_LABELS_lernmi" not in left


def ended(engine: Engine, how: str, at_most: int | None = None) -> int:
    """Runs the statements for the first app; how many there were."""
    (server,) = engine.fleet.servers(Scope())
    with engine.fleet.open(server) as session:
        work = getattr(session, how)(engine.fleet.apps_of(server)[0], engine.fleet.context(server, session))
        list(session.run(work[:at_most], engine.state.secrets))
    return len(work)


def _fill(real: RealServer) -> None:
    texts = ("CREATE CONSTRAINT only FOR (n:A) REQUIRE n.id IS UNIQUE", "CREATE TEXT INDEX t FOR (n:A) ON (n.t)")
    as_admin(real, *texts, "UNWIND range(1, 30) AS id CREATE (:A {id: id})-[:TO]->()", database="neo4j")


def _assert_gone(real: RealServer) -> None:
    assert as_admin(real, "SHOW USERS YIELD user") == [{"user": "neo4j"}]
    assert as_admin(real, "MATCH (n) RETURN count(n) AS n", database="neo4j") == [{"n": 0}]
    assert as_admin(real, "SHOW CONSTRAINTS", database="neo4j") == []
    assert as_admin(real, "SHOW INDEXES YIELD type WHERE type <> 'LOOKUP'", database="neo4j") == []
