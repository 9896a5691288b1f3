"""What is said of an admin's rights, from what each kind of server tells of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from multidb.model import App, Endpoint, Level, Server, StoreContext
from multidb.provisioners.neo4j.provision.admin_rights import admin_rights as neo4j_rights
from multidb.provisioners.neo4j.provision.options import ServerOptions as Neo4jOptions
from multidb.provisioners.neo4j.provision.resources import Neo4jFacts
from multidb.provisioners.postgres.provision.admin_rights import admin_rights as postgres_rights
from multidb.provisioners.postgres.provision.options import AppOptions
from multidb.provisioners.postgres.provision.resources import Extension, PostgresFacts
from multidb.provisioners.qdrant.provision.admin_rights import admin_rights as qdrant_rights
from multidb.provisioners.qdrant.provision.resources import QdrantFacts
from multidb.provisioners.redis.provision.admin_rights import admin_rights as redis_rights
from multidb.provisioners.redis.provision.numbers import more_databases
from multidb.provisioners.redis.provision.resources import RedisFacts
from multidb.provisioners.redis.provision.rules import CommandTable, parse_rule

OK, WARNING, ERROR = Level.OK, Level.WARNING, Level.ERROR
COMMUNITY = Neo4jFacts("Neo4j", "2026.08.1")
ENTERPRISE = Neo4jFacts("Neo4j", "2026.08.1", "enterprise", multi_database=True, roles=True)
DOZER = Neo4jFacts("Neo4j", "5.17.0", "enterprise", multi_database=True)
OWN = Neo4jFacts("Neo4j", "2026.08.1", dedicated=True)
RBAC = QdrantFacts("Qdrant", "1.18.3", api_key=True, rbac=True)
KEY_ONLY = QdrantFacts("Qdrant", "1.18.3", api_key=True)
OPEN = QdrantFacts("Qdrant", "1.18.3")
POSTGRES = PostgresFacts(
    "PostgreSQL",
    "18.1",
    number=180001,
    admin="ops",
    superuser=False,
    createrole=True,
    createdb=True,
    extensions={"ltree": Extension("1.3", True, None), "vector": Extension("0.8", False, None)},
)
MANAGEMENT = [f"GRANT {what} MANAGEMENT ON DBMS TO `ops`" for what in ("DATABASE", "USER", "ROLE", "PRIVILEGE")]


@pytest.mark.parametrize(
    ("about", "extensions", "said"),
    [
        ({"superuser": True}, ("vector",), [(OK, "ops is a superuser")]),
        ({}, ("ltree",), [(OK, "extensions that are not trusted are left out")]),
        ({"service": "rds"}, ("vector",), [(OK, "the admin of a managed service (rds)")]),
        ({"superuser": True, "standby": True}, (), [(ERROR, "is a standby, where nothing can be changed")]),
        ({"number": 140000}, (), [(OK, "the schema public stays its owner's")]),
        ({}, ("vector",), [(OK, "ops"), (WARNING, "the extension vector, which ann wants")]),
        ({}, ("postgis",), [(OK, "ops"), (ERROR, "the server has no extension postgis")]),
    ],
)
def test_postgres(about: dict[str, Any], extensions: tuple[str, ...], said: list[tuple[Level, str]]) -> None:
    ann = App("ann", "ann", {"postgres": AppOptions(extensions=extensions)})
    found = list(postgres_rights([ann], replace(POSTGRES, **about), "db"))
    assert [finding.level for finding in found] == [level for level, _ in said]
    assert all(words in finding.message for finding, (_, words) in zip(found, said, strict=True))


@pytest.mark.parametrize(
    ("facts", "commands", "isolation", "level", "words"),
    [
        (ENTERPRISE, ["GRANT ALL DBMS PRIVILEGES ON DBMS TO `admin`"], "auto", OK, "a user for each app"),
        (ENTERPRISE, MANAGEMENT, "auto", OK, "a user for each app"),
        (ENTERPRISE, MANAGEMENT[1:], "auto", ERROR, "the admin has no DATABASE MANAGEMENT"),
        (ENTERPRISE, [*MANAGEMENT, "DENY USER MANAGEMENT ON DBMS TO `ops`"], "auto", ERROR, "no USER MANAGEMENT"),
        (ENTERPRISE, [], "auto", ERROR, "no DATABASE MANAGEMENT, no USER MANAGEMENT"),
        (COMMUNITY, [], "auto", WARNING, "room for one app"),
        (DOZER, [], "auto", WARNING, "room for one app"),
        (COMMUNITY, [], "label", WARNING, "shared by label"),
        (OWN, [], "auto", OK, "a server of one app"),
    ],
)
def test_neo4j(facts: Any, commands: list[str], isolation: Any, level: Level, words: str) -> None:
    context = StoreContext("shop", facts, Neo4jOptions(isolation=isolation))
    (finding,) = neo4j_rights(context, commands, "graph")
    assert (finding.level, words in finding.message) == (level, True)


@pytest.mark.parametrize(
    ("facts", "manages", "said"),
    [
        (RBAC, True, [(OK, "signs a token for each app")]),
        (KEY_ONLY, True, [(WARNING, "jwt_rbac is off")]),
        (KEY_ONLY, False, [(ERROR, "may read and not change")]),
        (OPEN, True, [(WARNING, "asks for no key")]),
        (replace(RBAC, short_key=True), True, [(OK, "signs"), (WARNING, "could be guessed")]),
        (replace(OPEN, local=True), True, [(WARNING, "whoever opens it sees every app")]),
    ],
)
def test_qdrant(facts: Any, manages: bool, said: list[tuple[Level, str]]) -> None:
    found = list(qdrant_rights(facts, "vectors", manages=manages))
    assert [finding.level for finding in found] == [level for level, _ in said]
    assert all(words in finding.message for finding, (_, words) in zip(found, said, strict=True))


COMMANDS = "acl config info command eval set get getrange client randomkey scan type memory select unlink flushdb dump"
MORE = "pttl restore swapdb subscribe pubsub"
TABLE = CommandTable({name: frozenset({"slow"}) for name in [*COMMANDS.split(), *MORE.split()]})


@pytest.mark.parametrize(
    ("rule", "persistence", "said"),
    [
        ("~* &* +@all", "aclfile", [(OK, "may make users")]),
        ("~* &* +@all -eval", "config", [(ERROR, "eval")]),
        ("~* &* +@all -config", "config", [(ERROR, "config")]),
        ("~* &* +@all -memory", "aclfile", [(OK, ""), (WARNING, "memory, so it cannot measure what apps use")]),
        ("~* &* +@all -pubsub", "aclfile", [(OK, ""), (WARNING, "pubsub, so it cannot keep runs apart")]),
        ("~* resetchannels +@all", "aclfile", [(OK, ""), (WARNING, "may not listen to __multidb__:lock:*")]),
        ("~* resetchannels &__multidb__:lock:* +@all", "aclfile", [(OK, "")]),
        ("~a* &* +@all", "aclfile", [(OK, ""), (ERROR, "does not reach all keys")]),
        ("~* &* +@all db=1", "aclfile", [(OK, ""), (ERROR, "does not reach all databases")]),
        ("~* &* +@all", "none", [(OK, ""), (WARNING, "forgets the apps' users at a restart")]),
        ("-@all (~* +@all)", "aclfile", [(WARNING, "cannot be read from its rule")]),
    ],
)
def test_redis_before_there_were_subcommands(rule: str, persistence: Any, said: list[tuple[Level, str]]) -> None:
    facts = RedisFacts("Redis", "6.2", TABLE, persistence=persistence, admin="ops")
    found = list(redis_rights(parse_rule(f"user ops on {rule}"), facts, "cache"))
    assert [finding.level for finding in found] == [level for level, _ in said]
    assert all(words in finding.message for finding, (_, words) in zip(found, said, strict=True))
    assert [finding.level for finding in redis_rights(None, facts, "cache")] == [WARNING]


@pytest.mark.parametrize("external", [True, False])
def test_what_is_to_be_done_about_a_server_is_done_where_it_runs(external: bool) -> None:
    server = Server("redis", "redis", Endpoint("127.0.0.1", 6379), external=external)
    said = [server.start_hint, server.restart_hint, more_databases(RedisFacts("Redis", "7", TABLE, external=external))]
    assert all(("multidb" in words) is not external for words in said), said
