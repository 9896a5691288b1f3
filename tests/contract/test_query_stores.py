"""Questions to apps on a real Valkey, Qdrant and Neo4j: by what they are asked, and what the server refuses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multidb.engine import Engine
from multidb.errors import Missing, NotAllowed, ServerSlow, UsageError
from multidb.fleet import Fleet, Scope
from multidb.model import App, Inspection, Project, Question, RuntimeKind, Server, ServerSpec, Tenant
from multidb.provisioners import provisioner
from multidb.provisioners.qdrant.driver.transport import Http
from multidb.provisioners.qdrant.provision.options import AppOptions as QdrantOptions
from multidb.provisioners.qdrant.provision.statements import Call
from multidb.provisioners.redis.driver.batch_connection import as_app
from multidb.provisioners.redis.driver.query import reader
from multidb.provisioners.redis.provision.options import AppOptions as RedisOptions
from multidb.provisioners.redis.provision.readers import is_reader_name, reader_name
from multidb.query.execution import AppStatus, QueryRequest, exit_code, querying_of
from multidb.query.run import HeldAnswer, held
from multidb.secrets import Secret
from multidb.state import ProjectState
from tests.contract import case_qdrant, case_redis
from tests.contract.case_neo4j import community
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime

pytestmark = pytest.mark.server


class Place:
    """Apps on one server."""

    def __init__(self, store: str, real: RealServer, root: Path, apps: dict[str, Any]) -> None:
        self.store, self.real = store, real
        project = Project(
            name="asked",
            runtime=RuntimeKind.EMBEDDED,
            apps={app: App(app, app, {store: options}, where=f"multidb.yaml:{app}") for app, options in apps.items()},
            servers=(ServerSpec(store, store, real.options),),
            root=str(root),
        )
        self.fleet = Fleet(project, ProjectState(root), runtime=GivenRuntime(real), command="test")
        assert Engine(self.fleet).apply().error() is None

    def tenants(self) -> list[Tenant]:
        return self.fleet.tenants(Scope())[0]

    def ask(self, *words: str, timeout: float | None = 30) -> dict[str, HeldAnswer]:
        querying_of(self.store).check(words)
        asked = QueryRequest(self.store, Question(words, timeout), tuple(self.fleet.project.apps), 1000)
        return {answer.result.app: answer for answer in held(self.fleet, asked)}

    def holes(self) -> list[str]:
        def search(server: Server, session: Any, context: Any) -> list[str]:
            store, apps = provisioner(server.store), self.fleet.apps_of(server)
            found = session.search(Inspection(context, apps, store.desired(apps, context), self.fleet.state.secrets))
            return [f"{hole.name}: {hole.subject}" for hole in found.holes]

        return [hole for answer in self.fleet.ask(Scope(), search) for hole in answer.value or ()]


# --- Valkey ---


@pytest.fixture(scope="module", params=["own", "prefix"])
def valkey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    with case_redis.real_server(folder, binary=case_redis.valkey_binary) as real:
        options = RedisOptions(isolation="prefix") if request.param == "prefix" else RedisOptions()
        place = Place("redis", real, tmp_path_factory.mktemp("root"), {"ann": options, "bob": options})
        for tenant in place.tenants():
            with as_app(tenant) as connection:
                own = f"{tenant.app.id}:"
                connection.ask("SET", f"{own}a", "1")
                connection.ask("RPUSH", f"{own}list", "x", b"\xff", "y")
                if tenant.app.id == "ann":
                    connection.ask("SET", f"{own}b", "2")
        yield place


def _by_prefix(place: Place) -> bool:
    return "REDIS_KEY_PREFIX" in place.tenants()[0].env


def test_a_command_is_answered_by_each_apps_own_keys(valkey: Place) -> None:
    if _by_prefix(valkey):
        assert isinstance(valkey.ask("DBSIZE")["ann"].result.error, NotAllowed), "it counts what all apps have"
        assert isinstance(valkey.ask("SCAN", "0")["ann"].result.error, NotAllowed)
    else:
        assert [answer.rows for answer in valkey.ask("DBSIZE").values()] == [[[3]], [[2]]]
    assert valkey.ask("GET ann:b")["ann"].rows == [["2"]]
    assert valkey.ask("LRANGE", "ann:list", "0", "-1")["ann"].rows == [["x"], ["\\xff"], ["y"]]


@pytest.mark.parametrize(
    "command",
    [
        *("SET ann:a 9", "DEL ann:a", "GETDEL ann:a", "GETEX ann:a EX 1", "EXPIRE ann:a 1", "RPUSH ann:list z"),
        *("FLUSHDB", "FLUSHALL", "EVAL 'return 1' 0", "PUBLISH ann:x y", "SUBSCRIBE ann:x", "CONFIG GET *", "ACL LIST"),
        *("SORT ann:list ALPHA STORE ann:c", "BLPOP ann:list 0", "XREAD BLOCK 0 STREAMS ann:s 0", "MULTI", "MONITOR"),
        *("CLIENT LIST", "COPY ann:a ann:c", "MOVE ann:a 0", "SHUTDOWN", "DEBUG SLEEP 1", "SAVE", "SCRIPT LOAD x"),
    ],
)
def test_a_command_that_does_more_than_read_is_refused(valkey: Place, command: str) -> None:
    answer = valkey.ask(command)["ann"]
    assert isinstance(answer.result.error, NotAllowed), answer.rows
    assert "__multidb__" not in answer.result.error.message
    assert valkey.ask("GET ann:a")["ann"].rows == [["1"]]


def test_the_app_itself_may_send_what_a_question_may_not(valkey: Place) -> None:
    """The control."""
    with as_app(valkey.tenants()[0]) as connection:
        assert connection.ask("SET", "ann:a", "1") == b"OK"


def test_no_question_reaches_another_apps_keys(valkey: Place) -> None:
    other = valkey.ask("GET ann:b")["bob"]
    if _by_prefix(valkey):
        assert isinstance(other.result.error, NotAllowed)
    else:
        assert other.rows == [[None]]
        number = next(tenant for tenant in valkey.tenants() if tenant.app.id == "ann").env["REDIS_DB"]
        assert isinstance(valkey.ask("SELECT", str(number))["bob"].result.error, NotAllowed)


def _users(place: Place) -> list[str]:
    with case_redis.as_admin(place.real) as client:
        return [str(name) for name in client.acl_users() if is_reader_name(str(name))]


def test_the_login_that_reads_is_there_for_the_question_alone(valkey: Place) -> None:
    tenant = next(tenant for tenant in valkey.tenants() if tenant.app.id == "ann")
    with reader(tenant, Question(("GET", "ann:a"), 5.0), valkey.real.admin) as lent:
        assert _users(valkey) == [str(lent.env["REDIS_USER"])]
        assert valkey.holes() == [], "nobody takes it for a stranger"
        assert Engine(valkey.fleet).plan().in_sync, "nor for drift"
        with as_app(lent) as connection:
            assert connection.ask("GET", "ann:a") == b"1"
    assert _users(valkey) == []


def test_what_a_killed_run_has_left_goes_with_the_next_question(valkey: Place) -> None:
    now = int(time.time())
    left, live = reader_name("asked", "ann", now - 10, "a"), reader_name("asked", "ann", now + 3000, "b")
    number = next(tenant for tenant in valkey.tenants() if tenant.app.id == "ann").env["REDIS_DB"]
    rule = ("reset", "on", ">" + "x" * 40, "~*", f"db={number}", "-@all", "+get")
    with case_redis.as_admin(valkey.real) as client:
        client.execute_command("ACL", "SETUSER", left, *rule)
        client.execute_command("ACL", "SETUSER", live, *rule)
        try:
            assert any(left in hole for hole in valkey.holes()), "past its time it is anybody's"
            assert not any(live in hole for hole in valkey.holes())
            valkey.ask("GET ann:a")
            assert _users(valkey) == [live]
            client.execute_command("ACL", "SETUSER", live, "+set")
            assert any(live in hole for hole in valkey.holes()), "one that can write is no reader, however it is called"
        finally:
            client.execute_command("ACL", "DELUSER", live)


def test_where_the_admin_is_not_let_in_nobody_can_read_only(valkey: Place, tmp_path: Path) -> None:
    valkey_admin = valkey.real.admin
    object.__setattr__(valkey.real, "admin", Secret("another password than that"))
    fleet = Fleet(valkey.fleet.project, valkey.fleet.state, runtime=GivenRuntime(valkey.real), command="test")
    try:
        answers = held(fleet, QueryRequest("redis", Question(("GET", "ann:a"), 5), ("ann", "bob")))
    finally:
        object.__setattr__(valkey.real, "admin", valkey_admin)
    assert {type(answer.result.error) for answer in answers} == {NotAllowed}


# --- Qdrant ---


@pytest.fixture(scope="module")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with case_qdrant.real_server(tmp_path_factory.mktemp("qdrant")) as real:
        size = {"size": 2, "distance": "cosine"}
        options = {
            "ann": QdrantOptions.model_validate({"collections": {"notes": size}}),
            "bob": QdrantOptions.model_validate({"collections": {"notes": size, "pages": size}}),
        }
        place = Place("qdrant", real, tmp_path_factory.mktemp("root"), options)
        for app, count in (("ann", 3), ("bob", 1)):
            points = [
                {"id": n, "vector": [1, n], "payload": {"lang": "de" if n > 1 else "en"}} for n in range(1, count + 1)
            ]
            path = f"/collections/{app}_notes/points?wait=true"
            case_qdrant.ask(real, "PUT", path, {"points": points}).raise_for_status()
        yield place


def test_points_are_counted_in_each_apps_collection(qdrant: Place) -> None:
    assert [answer.rows for answer in qdrant.ask("count", "notes").values()] == [[[3]], [[1]]]
    filtered = '{"must": [{"key": "lang", "match": {"value": "de"}}]}'
    assert [answer.rows for answer in qdrant.ask("count", "notes", filtered).values()] == [[[2]], [[0]]]
    answers = qdrant.ask("count pages")
    assert (answers["ann"].result.status, answers["bob"].rows) == (AppStatus.MISSING, [[0]])
    assert isinstance(answers["ann"].result.error, Missing)
    assert exit_code([answer.result for answer in answers.values()]) == 0


def test_a_question_that_qdrant_would_misunderstand_is_refused_before_it_is_asked(qdrant: Place) -> None:
    for words in (("count", "notes", '{"musst": []}'), ("count", "notes", "[]"), ("delete", "notes"), ("count",)):
        with pytest.raises(UsageError):
            qdrant.ask(*words)
    assert qdrant.ask("count", "../../collections/bob_notes")["ann"].result.status is AppStatus.MISSING


def test_the_token_of_a_question_reads_one_collection_for_a_while(qdrant: Place) -> None:
    tenant = next(tenant for tenant in qdrant.tenants() if tenant.app.id == "bob")
    querying = querying_of("qdrant")
    assert querying.reader is not None
    point = {"points": [{"id": 9, "vector": [1, 1]}]}

    def status(key: Any, verb: str, path: str, body: Any) -> int:
        transport = Http(tenant.server, key)
        try:
            return transport.send(Call(verb, path, body)).status
        finally:
            transport.close()

    with querying.reader(tenant, Question(("count", "notes"), 1.0), qdrant.real.admin) as lent:
        key = lent.env["QDRANT_API_KEY"]
        assert status(key, "POST", "/collections/bob_notes/points/count", {"exact": True}) == 200
        assert status(key, "PUT", "/collections/bob_notes/points?wait=true", point) == 403
        assert status(key, "POST", "/collections/bob_pages/points/count", {"exact": True}) == 403
    own = tenant.env["QDRANT_API_KEY"]
    assert status(own, "PUT", "/collections/bob_pages/points?wait=true", point) == 200, "the control: the app may write"


# --- Neo4j ---


@pytest.fixture(scope="module")
def neo4j(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with community(tmp_path_factory.mktemp("neo4j"), "ann") as real:
        from multidb.provisioners.neo4j.provision.options import AppOptions

        yield Place("neo4j", real, tmp_path_factory.mktemp("root"), {"ann": AppOptions()})


@pytest.mark.slow
def test_records_are_plain_values(neo4j: Place) -> None:
    text = (
        "RETURN 1 AS one, 2.5 AS two, 'x' AS text, [1, 'a'] AS list, {k: 1} AS map, date('2026-11-29') AS day, "
        "duration('P1D') AS long, point({x: 1, y: 2}) AS here, null AS nothing;"
    )
    [row] = neo4j.ask(text)["ann"].rows
    here = {"srid": 7203, "coordinates": [1.0, 2.0]}
    assert row == [1, 2.5, "x", [1, "a"], {"k": 1}, "2026-11-29", "P1D", here, None]
    assert [answer.rows for answer in neo4j.ask("MATCH (n) RETURN count(n)").values()] == [[[0]]]
    many = neo4j.ask("UNWIND range(1, 5000) AS n RETURN n")["ann"]
    assert (len(many.rows), many.result.limited) == (1000, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "CREATE (:Thing)",
        "MATCH (n) SET n.a = 1",
        "CREATE INDEX thing FOR (n:Thing) ON (n.a)",
        "CREATE USER eve SET PASSWORD 'a long password' CHANGE NOT REQUIRED",
        "ALTER CURRENT USER SET PASSWORD FROM 'a' TO 'another one'",
        "CALL db.createLabel('Thing')",
        "UNWIND [1] AS n CALL (n) { CREATE (:Thing) } IN TRANSACTIONS",
    ],
)
def test_the_server_refuses_whatever_writes(neo4j: Place, text: str) -> None:
    answer = neo4j.ask(text)["ann"]
    assert isinstance(answer.result.error, NotAllowed), answer.rows
    assert neo4j.ask("MATCH (n) RETURN count(n)")["ann"].rows == [[0]]


@pytest.mark.slow
def test_a_statement_that_takes_too_long_is_ended(neo4j: Place) -> None:
    answer = neo4j.ask("UNWIND range(1, 1000000) AS a UNWIND range(1, 1000000) AS b RETURN count(*)", timeout=1)["ann"]
    assert isinstance(answer.result.error, ServerSlow)
    assert answer.result.seconds < 60
