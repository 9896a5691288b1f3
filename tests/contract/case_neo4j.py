"""Neo4j on real servers: Community 2026.08.1, started here, and an Enterprise server that the environment names.

``MULTIDB_TEST_NEO4J_ENTERPRISE=bolt://user:password@host:port`` runs the suite on that server, in databases of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import neo4j
import pytest
from neo4j import exceptions

from multidb.errors import RuntimeUnavailable
from multidb.model import Endpoint, Owner, Server
from multidb.ports import choose
from multidb.provisioners.neo4j import PROVISIONER
from multidb.provisioners.neo4j.hosting import jars, program
from multidb.provisioners.neo4j.provision.cypher import quoted
from multidb.provisioners.neo4j.provision.options import ServerOptions
from multidb.provisioners.neo4j.provision.resources import (
    Mode,
    database_name,
    mark_name,
    ro_role,
    rw_role,
    user_name,
    user_names,
)
from multidb.secrets import Secret, generate
from tests.support.case import Drift, RealServer, Refused, StoreCase, Tenant, Threat
from tests.support.load_neo4j import CLIENTS

ENTERPRISE = "MULTIDB_TEST_NEO4J_ENTERPRISE"
COMMUNITY_5 = "MULTIDB_TEST_NEO4J_5"  # of Community
_REFUSALS = ("Neo.ClientError.Security.", "Neo.ClientError.Database.DatabaseNotFound")


@contextlib.contextmanager
def community(folder: Path, app: str | None = None) -> Iterator[RealServer]:
    """A Community server in `folder`; with `app` it is that app's own, as the embedded runtime would make it."""
    java = program.find_java()
    if java is None:
        pytest.skip("no Java 21 or later for a Neo4j server")
    try:
        library = jars.fetch_neo4j(lambda *_: None)
    except RuntimeUnavailable as error:
        pytest.skip(f"Neo4j's jars cannot be had: {error.message}")
    port, admin = choose(()), generate()
    program.prepare(folder, bolt_port=port, password=admin, heap="384m")
    argv = program.command(java, library, folder, "384m")

    def begin() -> subprocess.Popen[bytes]:
        with (folder / "out.log").open("ab") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for_bolt(port, admin)
        return process

    process = begin()

    def kill() -> None:
        process.kill()
        process.wait()

    def restart() -> None:
        nonlocal process
        kill()
        process = begin()
        object.__setattr__(real, "pid", process.pid)

    endpoint = Endpoint("127.0.0.1", port, "neo4j", database="neo4j")
    server = Server("neo4j" if app is None else f"neo4j-{app}", "neo4j", endpoint, app=app, timeout=15)
    real = RealServer(server, admin, ServerOptions(), pid=process.pid, kill=kill, restart=restart)
    try:
        yield real
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def wait_for_bolt(port: int, admin: Secret) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            with neo4j.GraphDatabase.driver(f"bolt://127.0.0.1:{port}", auth=("neo4j", admin.reveal())) as driver:
                driver.verify_connectivity()
                return
        except (exceptions.ServiceUnavailable, exceptions.SessionExpired, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def enterprise(folder: Path) -> contextlib.AbstractContextManager[RealServer]:
    return named_by(ENTERPRISE, "Neo4j Enterprise")


def community_5(folder: Path) -> contextlib.AbstractContextManager[RealServer]:
    return named_by(COMMUNITY_5, "Neo4j 5")


@contextlib.contextmanager
def named_by(variable: str, what: str) -> Iterator[RealServer]:
    """The server that the variable names, which is not ours to stop."""
    url = os.environ.get(variable)
    if not url:
        pytest.skip(f"no {what} here; name one with {variable}=bolt://user:password@host:port")
    parts = urlsplit(url)
    params = {"scheme": parts.scheme}
    endpoint = Endpoint(parts.hostname or "", parts.port or 7687, unquote(parts.username or "neo4j"), params=params)
    yield RealServer(Server("neo4j", "neo4j", endpoint), Secret(unquote(parts.password or "")), ServerOptions())


def as_admin(real: RealServer, *texts: str, database: str = "system") -> list[dict[str, object]]:
    """Runs Cypher as the admin, each text by itself; the rows of the last one."""
    assert real.admin is not None
    endpoint = real.server.endpoint
    uri = f"{endpoint.params.get('scheme', 'bolt')}://{endpoint.host}:{endpoint.port}"
    rows: list[dict[str, object]] = []
    with neo4j.GraphDatabase.driver(
        uri, auth=(endpoint.user, real.admin.reveal()), notifications_min_severity="OFF"
    ) as driver:
        for text in texts:
            rows = [dict(row) for row in driver.execute_query(text, database_=database).records]
    return rows


def emptied(real: RealServer) -> None:
    """Takes away all data, schema and users but the first one."""
    for row in as_admin(real, "SHOW CONSTRAINTS YIELD name", database="neo4j"):
        as_admin(real, f"DROP CONSTRAINT {quoted(str(row['name']))}", database="neo4j")
    for row in as_admin(real, "SHOW INDEXES YIELD name, type WHERE type <> 'LOOKUP'", database="neo4j"):
        as_admin(real, f"DROP INDEX {quoted(str(row['name']))}", database="neo4j")
    as_admin(real, "MATCH (n) DETACH DELETE n", database="neo4j")
    for row in as_admin(real, "SHOW USERS YIELD user WHERE user <> 'neo4j'"):
        as_admin(real, f"DROP USER {quoted(str(row['user']))}")


def ask(
    tenant: Tenant, text: str, *, database: str | None = None, like: Tenant | None = None
) -> list[dict[str, object]]:
    """Runs Cypher with the app's own credentials (against the server of `like`). `Refused` when the server says no."""
    env = tenant.env
    uri = (like or tenant).env["NEO4J_URI"]
    auth = (env["NEO4J_USER"], env["NEO4J_PASSWORD"])
    try:
        with neo4j.GraphDatabase.driver(uri, auth=auth, notifications_min_severity="OFF") as driver:
            records = driver.execute_query(text, database_=database or env["NEO4J_DATABASE"]).records
            return [dict(row) for row in records]
    except exceptions.Neo4jError as error:
        if (error.code or "").startswith(_REFUSALS):
            raise Refused(error.code) from None
        raise


def use(tenant: Tenant) -> None:
    """Writes a node with a new label, index included, and reads it back; twice is harmless."""
    label = quoted(f"Used_{tenant.app}")
    ask(tenant, f"CREATE INDEX {quoted(f'used_{tenant.app}')} IF NOT EXISTS FOR (n:{label}) ON (n.id)")
    ask(tenant, f"MERGE (n:{label} {{id: 1}}) SET n.text = 'ü'")
    assert ask(tenant, f"MATCH (n:{label}) RETURN count(n) AS n") == [{"n": 1}]


@contextlib.contextmanager
def session(tenant: Tenant) -> Iterator[Callable[[], object]]:
    """A transaction of the app's that is open for as long as the block lasts."""
    env = tenant.env
    auth = (env["NEO4J_USER"], env["NEO4J_PASSWORD"])
    with contextlib.ExitStack() as stack:
        driver = stack.enter_context(neo4j.GraphDatabase.driver(env["NEO4J_URI"], auth=auth))
        transaction = driver.session(database=env["NEO4J_DATABASE"]).begin_transaction()

        def ask() -> object:
            return transaction.run("RETURN 1 AS one").data()

        ask()
        yield ask


def change_password(real: RealServer, app: str) -> None:
    as_admin(real, f"ALTER USER {quoted(user_name(app))} SET PASSWORD 'changed-by-hand' CHANGE NOT REQUIRED")


def demand_change(real: RealServer, app: str) -> None:
    as_admin(real, f"ALTER USER {quoted(user_name(app))} SET PASSWORD CHANGE REQUIRED")


def drop_user(real: RealServer, app: str) -> None:
    as_admin(real, f"DROP USER {quoted(user_name(app))}")


# Community


def _squat(real: RealServer, app: str) -> None:
    as_admin(real, f"CREATE (:Squat {{app: '{app}'}})", database="neo4j")
    as_admin(real, f"CREATE USER {quoted(user_name(app))} SET PASSWORD 'made-by-hand' CHANGE NOT REQUIRED")


def _squatted(real: RealServer, app: str) -> bool:
    rows = as_admin(real, f"MATCH (n:Squat {{app: '{app}'}}) RETURN count(n) AS n", database="neo4j")
    users = as_admin(real, "SHOW USERS YIELD user")
    return rows == [{"n": 1}] and {"user": user_name(app)} in users


def _empty(real: RealServer, app: str) -> None:
    mark = quoted(mark_name(Owner("contract", app), Mode.INSTANCE))
    texts = [
        "MATCH (n) DETACH DELETE n",
        f"DROP INDEX {mark} IF EXISTS",
        f"DROP INDEX {quoted(f'used_{app}')} IF EXISTS",
    ]
    as_admin(real, *texts, database="neo4j")
    as_admin(real, *(f"DROP USER {quoted(user)} IF EXISTS" for user in user_names(app)))


_LOGIN_DRIFTS = (
    Drift("the password is changed", change_password, ("password",)),
    Drift("a new password is demanded", demand_change, ("change_required",)),
    Drift("the user is dropped", drop_user, ("user",)),
)

_TYPED = {"CREATE (n:Typed {a: 7}) RETURN n.a;": "7", "SHOW CURRENT USER YIELD user;": "{app}_user"}

_COMMUNITY = StoreCase(
    name="neo4j-community-2026.08",
    provisioner=PROVISIONER,
    start=community,
    use=use,
    squat=_squat,
    squatted=_squatted,
    remove=_empty,
    drifts=_LOGIN_DRIFTS,
    typed=_TYPED,
    refused="CREATE DATABASE x",
    session=session,
    clients=CLIENTS,
    attackable=False,
    instance=True,
)

_COMMUNITY_5 = replace(_COMMUNITY, name="neo4j-community-5", start=community_5)


# Enterprise


def _admin_texts(*texts: str) -> Callable[[RealServer, str], None]:
    """Damage done by administration commands in which ``{db}``, ``{rw}``, ``{ro}`` and ``{user}`` stand for names."""

    def damage(real: RealServer, app: str) -> None:
        as_admin(real, *(_named(text, app) for text in texts))

    return damage


def _named(text: str, app: str) -> str:
    return text.format(
        db=quoted(database_name(app)), rw=quoted(rw_role(app)), ro=quoted(ro_role(app)), user=quoted(user_name(app))
    )


def _squat_database(real: RealServer, app: str) -> None:
    as_admin(real, _named("CREATE DATABASE {db} WAIT", app))
    as_admin(real, "CREATE (:Squat)", database=database_name(app))


def _squatted_database(real: RealServer, app: str) -> bool:
    return as_admin(real, "MATCH (n:Squat) RETURN count(n) AS n", database=database_name(app)) == [{"n": 1}]


def _drop_all(real: RealServer, app: str) -> None:
    mark = quoted(mark_name(Owner("contract", app), Mode.DATABASE))
    as_admin(real, *(f"DROP USER {quoted(user)} IF EXISTS" for user in user_names(app)))
    texts = ("DROP ROLE {rw} IF EXISTS", "DROP ROLE {ro} IF EXISTS")
    as_admin(real, *(_named(text, app) for text in (*texts, "DROP DATABASE {db} IF EXISTS WAIT")))
    as_admin(real, f"DROP ROLE {mark} IF EXISTS")


def _on(name: str, attack: str, control: str | None = None, *, system: bool = False) -> Threat:
    """An attack in Cypher where ``{db}`` ... are the victim's names; the control is the same on one's own."""

    def run(attacker: Tenant, owner: Tenant, text: str) -> None:
        database = "system" if system else owner.env["NEO4J_DATABASE"]
        ask(attacker, _named(text, owner.app), database=database)

    def attempt(attacker: Tenant, victim: Tenant) -> None:
        run(attacker, victim, attack)

    def try_own(attacker: Tenant) -> None:
        run(attacker, attacker, control or attack)

    return Threat(name, attempt, None if system and control is None else try_own)


def _listed(attacker: Tenant, victim: Tenant) -> None:
    rows = ask(attacker, "SHOW DATABASES YIELD name", database="system")
    if {"name": victim.env["NEO4J_DATABASE"]} not in rows:
        raise Refused("not listed")


def _impersonate(attacker: Tenant, victim: Tenant) -> None:
    env = attacker.env
    auth = (env["NEO4J_USER"], env["NEO4J_PASSWORD"])
    try:
        with neo4j.GraphDatabase.driver(env["NEO4J_URI"], auth=auth) as driver:
            driver.execute_query("RETURN 1", database_=env["NEO4J_DATABASE"], impersonated_user_=user_name(victim.app))
    except exceptions.Neo4jError as error:
        if (error.code or "").startswith(_REFUSALS):
            raise Refused(error.code) from None
        raise


def _load_csv(attacker: Tenant, victim: Tenant) -> None:
    ask(attacker, "LOAD CSV FROM 'http://127.0.0.1:1/x' AS row RETURN row")


_DRIFTS = (
    *_LOGIN_DRIFTS,
    Drift("the user is suspended", _admin_texts("ALTER USER {user} SET STATUS SUSPENDED"), ("suspended",)),
    Drift("the home database is another", _admin_texts("ALTER USER {user} SET HOME DATABASE `neo4j`"), ("home",)),
    Drift("the database is stopped", _admin_texts("STOP DATABASE {db} WAIT"), ("status",)),
    Drift("the database is read-only", _admin_texts("ALTER DATABASE {db} SET ACCESS READ ONLY WAIT"), ("access",)),
    Drift("a role is dropped", _admin_texts("DROP ROLE {ro}"), ("role",)),
    Drift("a membership is taken", _admin_texts("REVOKE ROLE {rw} FROM {user}"), ("membership",)),
    Drift("a built-in role is given", _admin_texts("GRANT ROLE reader TO {user}"), ("membership",)),
    Drift("a right is taken", _admin_texts("REVOKE GRANT WRITE ON GRAPH {db} FROM {rw}"), ("grant",)),
    Drift("a right is added", _admin_texts("GRANT MATCH {{*}} ON GRAPH * TO {ro}"), ("grant",)),
    Drift("a right is denied", _admin_texts("DENY WRITE ON GRAPH {db} TO {rw}"), ("grant",)),
    Drift("PUBLIC may load files again", _admin_texts("GRANT LOAD ON ALL DATA TO PUBLIC"), ("public rights",)),
)

_THREATS = (
    _on("read another's nodes", "MATCH (n) RETURN count(n)"),
    _on("write into another's database", "CREATE (:Attack)", "CREATE (n:Attack) DELETE n"),
    _on("list another's indexes", "SHOW INDEXES YIELD name"),
    Threat("see another's database", _listed, lambda own: _listed(own, own)),
    Threat("impersonate another's user", _impersonate, lambda own: _impersonate(own, own)),
    Threat("read a URL from the server", _load_csv, None),
    _on("list users", "SHOW USERS YIELD user", system=True),
    _on("list rights", "SHOW ALL PRIVILEGES YIELD role", system=True),
    _on("make a user", "CREATE USER attack SET PASSWORD 'attack-attack'", system=True),
    _on("make a role", "CREATE ROLE attack", system=True),
    _on("make a database", "CREATE DATABASE attack", system=True),
    _on("drop another's database", "DROP DATABASE {db}", system=True),
    _on("take another's role", "GRANT ROLE {rw} TO {user}", system=True),
    _on("change another's password", "ALTER USER {user} SET PASSWORD 'attack-attack'", system=True),
    _on("drop another's user", "DROP USER {user}", system=True),
)

_ENTERPRISE = StoreCase(
    name="neo4j-enterprise",
    provisioner=PROVISIONER,
    start=enterprise,
    use=use,
    squat=_squat_database,
    squatted=_squatted_database,
    remove=_drop_all,
    drifts=_DRIFTS,
    threats=_THREATS,
    typed=_TYPED,
    refused="CREATE DATABASE x",
    session=session,
    clients=CLIENTS,
)

CASES = [_COMMUNITY, _COMMUNITY_5, _ENTERPRISE]
