"""Redis and Valkey: every hole is opened by hand, found, closed by what it prints, and gone."""

# ruff: noqa: F811 (fixtures are imported by their names)

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from multidb.model import Hole, Inspection, Search
from multidb.provisioners.redis import PROVISIONER
from multidb.provisioners.redis.driver.connection import ask
from multidb.provisioners.redis.isolation.holes import Catalog, find_holes
from multidb.provisioners.redis.isolation.inventory import (
    HARMLESS,
    IN_CHANNELS,
    IN_DATABASE,
    ON_THE_SERVER,
    Reach,
    reach,
)
from multidb.provisioners.redis.provision.rules import CommandTable, parse_rule, split_line
from tests.contract.case_redis import ADMIN, PASSWORD, as_admin, as_app, real_server, valkey_binary
from tests.contract.redis_project import Project
from tests.contract.redis_stage import Stage, redis_servers, stage, valkey  # noqa: F401

pytestmark = pytest.mark.server


def look(stage: Stage, *, known: frozenset[str] = frozenset()) -> Search:
    apps = (stage.alpha, stage.beta)
    with stage.project.connect() as session:
        context = replace(stage.context, facts=session.facts, known=known)
        desired = PROVISIONER.desired(apps, context)
        return session.search(Inspection(context, apps, desired, stage.project.secrets))


def holes(stage: Stage) -> list[Hole]:
    return list(look(stage).holes)


def by_hand(stage: Stage, *commands: str) -> None:
    with as_admin(stage.real) as client:
        for line in commands:
            ask(client, *split_line(line))


def saved(stage: Stage) -> None:
    by_hand(stage, "ACL SAVE")


STRANGER = "ACL SETUSER worker on >a-password"
# What somebody may do who has no key and no channel of anybody, and what it says of them.
WITHOUT_KEYS = {
    "+monitor": "see what others do",
    "+psync": "copy what others have",
    "+sync": "copy what others have",
    "+replconf": "copy what others have",
    "+slowlog|get": "see what others do",
    "+client|list": "see what others do",
    "+client|tracking": "see what others do",
    "+client|kill": "end or hold others' sessions",
    "+client|pause": "hold or stop the server",
    "+client|unblock": "end or hold others' sessions",
    "+acl|list": "who may do what",
    "+acl|getuser": "who may do what",
    "+acl|deluser": "who may do what",
    "+acl|setuser": "who may do what",
    "+acl|load": "who may do what",
    "+acl|log": "see what others do",
    "+replicaof": "delete or replace",
    "+config|get": "settings",
    "+config|set": "settings",
    "+config|rewrite": "settings",
    "+module|loadex": "settings",
    "+failover": "hold or stop the server",
    "+shutdown": "hold or stop the server",
    "+debug": "settings",
    "+bgsave": "hold or stop the server",
    "+function|flush": "delete or replace",
    "+function|load": "delete or replace",
    "+script|flush": "delete or replace",
    "+script|kill": "hold or stop the server",
    "+eval": "hold or stop the server",
    "+fcall": "hold or stop the server",
    "+pubsub|channels": "see what others do",
    "+memory|purge": "hold or stop the server",
    "+migrate": "copy what others have",
    "+restore": "delete or replace",
    "+cluster|getkeysinslot": "copy what others have",
    "+@connection": "see what others do",
    "+@admin": "who may do what",
    "+@all -@dangerous": "hold or stop the server",
    "+flushdb +select": "alpha, beta",
    "+swapdb +select": "alpha, beta",
    "+keys +select": "alpha, beta",
    "+scan +select": "alpha, beta",
    "+randomkey +select": "alpha, beta",
    "+dbsize +select": "alpha, beta",
    "+flushall": "",
    '-@all "(+shutdown)"': "hold or stop the server",
    '-@all +select "(~* +get)"': "alpha, beta",
    '-@all "(&* +subscribe)"': "alpha, beta",
    "resetchannels &__keyspace@*__:* +psubscribe": "alpha, beta",
    "~* +copy +move +select": "alpha, beta",
    "%R~* +get +select": "alpha, beta",
    "%W~* +set +select": "alpha, beta",
}


@pytest.mark.parametrize("rights", WITHOUT_KEYS)
def test_whatever_a_stranger_may_do_is_found_and_closed(stage: Stage, rights: str) -> None:
    by_hand(stage, f"{STRANGER} {rights}")
    saved(stage)
    [found] = holes(stage)
    assert (found.name, found.subject, found.account) == ("foreign user with access", "acl user worker", "worker")
    assert WITHOUT_KEYS[rights] in found.message
    by_hand(stage, *found.closes)
    saved(stage)
    assert holes(stage) == []


@pytest.mark.parametrize(
    "rights",
    [
        "+info +ping +hello +client|id +client|setname +latency|latest +memory|stats +slowlog|len",
        "~* +get +set +scan +flushdb resetdbs",
        "~* +get +set +scan +flushdb db=60,61 +swapdb",
        "~other:* resetchannels &other:* +@pubsub -pubsub -select",
        "resetdbs -@all +flushall",
    ],
)
def test_what_harms_nobody_is_no_hole(stage: Stage, rights: str) -> None:
    if ("dbs" in rights or "db=" in rights) and not stage.context.facts.db_rules:
        pytest.skip("the server has no database rules")
    by_hand(stage, f"{STRANGER} {rights}")
    saved(stage)
    assert holes(stage) == []


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a'b", "a\x1b[31mb", "(x", "#x", "a\udcffb", "\N{SNOWMAN}", "a=b,c"])
def test_a_user_of_any_name_is_shut_out_by_what_is_printed(stage: Stage, name: str) -> None:
    with as_admin(stage.real) as client:
        ask(client, "ACL", "SETUSER", name, "on", ">a-password", "+monitor")
        ask(client, "ACL", "SAVE")
    [found] = holes(stage)
    assert found.account == name
    assert all(text.isprintable() for text in (found.subject, found.message, *found.closes))
    by_hand(stage, *found.closes)
    saved(stage)
    assert holes(stage) == []


def test_who_is_still_logged_in_is_found_though_the_login_is_off(stage: Stage) -> None:
    by_hand(stage, f"{STRANGER} +monitor", "ACL SAVE")
    endpoint = stage.real.server.endpoint
    login = {"username": "worker", "password": "a-password"}
    with redis.Redis(host=endpoint.host, port=endpoint.port, **login) as client, client.monitor() as monitor:
        by_hand(stage, "ACL SETUSER worker off", "ACL SAVE")
        [found] = holes(stage)
        assert found.name == "session of a login that is off"
        by_hand(stage, *found.closes)
        with pytest.raises(redis.ConnectionError):
            deque(monitor.listen(), maxlen=0)
    assert holes(stage) == []


def test_a_known_account_is_for_the_audit_to_leave_out(stage: Stage) -> None:
    """The search says for whom each hole is; it stays one for everybody else."""
    by_hand(stage, f"{STRANGER} +monitor", "ACL SAVE")
    assert {hole.account for hole in look(stage, known=frozenset({"worker"})).holes} == {"worker"}
    by_hand(stage, "ACL SETUSER default on nopass +ping", "ACL SAVE")
    assert {hole.account for hole in look(stage, known=frozenset({"worker", "default"})).holes} == {"worker", None}


def test_ways_in_as_multidb_itself(stage: Stage) -> None:
    by_hand(stage, f"ACL SETUSER {ADMIN} >another", "ACL SAVE")
    [found] = holes(stage)
    assert (found.name, found.subject) == ("another way in", f"acl user {ADMIN}")
    by_hand(stage, *found.closes)
    saved(stage)
    assert holes(stage) == []
    by_hand(stage, f"ACL SETUSER {ADMIN} nopass", "ACL SAVE")
    [found] = holes(stage)
    assert found.name == "login without a password"
    by_hand(stage, *found.closes)
    saved(stage)
    assert holes(stage) == []
    with as_admin(stage.real) as client, pytest.raises(redis.AuthenticationError):
        client.execute_command("AUTH", ADMIN, "another")


def test_a_default_user_that_only_its_selector_opens(stage: Stage) -> None:
    by_hand(stage, 'ACL SETUSER default on nopass -@all "(~* +@all)"', "ACL SAVE")
    [found] = holes(stage)
    assert found.name == "login without a password"
    by_hand(stage, *found.closes, "ACL SAVE")
    assert holes(stage) == []


@pytest.mark.parametrize(
    "rights", ["skip-sanitize-payload", "+eval", "+@scripting", "&other:*", '"(~* +get)"', "+client|list", "+monitor"]
)
def test_an_apps_own_user_that_was_widened(stage: Stage, rights: str) -> None:
    if rights.startswith("skip") and stage.context.facts.product == "Valkey":
        pytest.skip("Valkey takes the word and does nothing")
    if stage.scripts and rights in ("+eval", "+@scripting"):
        pytest.skip("the app may run scripts")
    by_hand(stage, f"ACL SETUSER alpha_user {rights}", "ACL SAVE")
    assert not stage.project.in_sync("alpha", "beta")  # the plan sees it, too
    [found] = holes(stage)
    assert (found.name, found.app, found.account) == ("rights beyond the app", "alpha", None)
    by_hand(stage, *found.closes, "ACL SAVE")
    assert holes(stage) == []
    assert stage.project.in_sync("alpha", "beta")


# --- what a restart would change -------------------------------------------------------------------------------------


@contextlib.contextmanager
def edited(stage: Stage) -> Iterator[Path]:
    path = Path(stage.project.connect().facts.rules_file)
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("user ghost on nopass ~* +@all", "ghost"),
        ("user alpha_user on nopass ~* &* +@all", "alpha_user"),
        ("", "alpha_user"),
        ("user alpha_user off -@all +get", "alpha_user"),
    ],
)
def test_a_file_that_says_something_else_than_the_server(stage: Stage, line: str, told: str) -> None:
    with edited(stage) as path:
        kept = [one for one in path.read_text().splitlines() if not one.startswith(f"user {told} ")]
        path.write_text("\n".join([*kept, line]) + "\n")
        [found] = holes(stage)
        assert (found.name, found.subject) == ("rules that are not saved", f"file {path}")
        assert told in found.message
        assert not stage.project.in_sync("alpha", "beta")
        by_hand(stage, *found.closes)
        assert holes(stage) == []
        assert stage.project.in_sync("alpha", "beta")


def test_a_file_that_says_the_same_in_other_words_is_no_hole(stage: Stage) -> None:
    with edited(stage) as path:
        text = path.read_text()
        [mine] = [line for line in text.splitlines() if line.startswith(f"user {ADMIN} ")]
        path.write_text(text.replace(mine, f"user {ADMIN} off >{PASSWORD} allchannels allkeys nocommands +@all on"))
        assert holes(stage) == []
        assert stage.project.in_sync("alpha", "beta")


def test_a_file_that_cannot_be_read_from_here_is_noted(stage: Stage) -> None:
    remarks = [remark.subject for remark in look(stage).remarks]
    assert remarks == []
    with edited(stage) as path:
        path.unlink()
        found = look(stage)
        assert found.holes == ()
        assert [remark.subject for remark in found.remarks] == [f"file {path}"]


@pytest.mark.parametrize("keep_users", ["config", "none"])
def test_rules_in_the_configuration_file_and_nowhere(tmp_path: Path, keep_users: str) -> None:
    with real_server(tmp_path, binary=valkey_binary, keep_users=keep_users) as real:
        project = Project(real)
        project.apply("alpha")

        def found() -> Search:
            with project.connect() as session:
                context = project.context(session, project.apps(["alpha"]))
                desired = PROVISIONER.desired(project.apps(["alpha"]), context)
                return session.search(Inspection(context, project.apps(["alpha"]), desired, project.secrets))

        if keep_users == "none":
            [remark] = found().remarks
            assert "forgets them" in remark.message
            return
        assert found().holes == ()
        path = tmp_path / "server.conf"
        path.write_text(path.read_text() + "user ghost on nopass ~* +@all\n")
        [hole] = found().holes
        assert "ghost" in hole.message
        with as_admin(real) as client:
            for line in hole.closes:
                ask(client, *split_line(line))
        assert found().holes == ()


def test_new_users_that_begin_with_all_channels(stage: Stage) -> None:
    by_hand(stage, "CONFIG SET acl-pubsub-default allchannels")
    [found] = holes(stage)
    assert found.subject == "acl-pubsub-default"
    by_hand(stage, *found.closes)
    assert holes(stage) == []


def test_replicas_are_noted(tmp_path: Path, valkey: Stage) -> None:
    endpoint = valkey.real.server.endpoint
    settings = (f"replicaof 127.0.0.1 {endpoint.port}", f"masteruser {ADMIN}", f"masterauth {PASSWORD}")
    with real_server(tmp_path, binary=valkey_binary, settings=settings) as replica:
        deadline = time.monotonic() + 20
        while not look(valkey).remarks and time.monotonic() < deadline:
            time.sleep(0.05)
        [remark] = look(valkey).remarks
        assert remark.subject == f"replica 127.0.0.1:{replica.server.endpoint.port}"


# --- complete against the servers' own command lists ---------------------------------------------------------------


def find(stage: Stage, table: CommandTable, rule: str) -> list[Hole]:
    """What is found where there is one stranger with a rule."""
    apps = [stage.alpha, stage.beta]
    context = replace(stage.context, facts=replace(stage.context.facts, commands=table))
    inspection = Inspection(context, apps, PROVISIONER.desired(apps, context), stage.project.secrets)
    return list(find_holes(inspection, Catalog({"worker": parse_rule(f"user worker on #00 {rule}")})))


def test_each_command_of_the_server_is_known_or_a_hole(stage: Stage) -> None:
    table = stage.context.facts.commands
    known = {*HARMLESS, *IN_CHANNELS, *IN_DATABASE, "flushall"}.union(*ON_THE_SERVER.values())
    assert len(table.names) > 300
    for command in sorted(table.names):
        found = find(stage, table, f"~* &* -@all +{command} +select")
        harmless = command in HARMLESS or command.endswith("|help")
        assert (found == []) is harmless, command
        assert command in known or harmless or reach(command, table) is Reach.KEYS, f"look at {command}, and list it"


def test_no_list_has_a_command_twice() -> None:
    lists = [HARMLESS, IN_CHANNELS, IN_DATABASE, *ON_THE_SERVER.values()]
    assert sum(map(len, lists)) == len(frozenset().union(*lists))


def test_what_is_called_harmless_is_nothing_that_the_server_calls_dangerous(stage: Stage) -> None:
    """But for what was looked at: numbers of the server that every app sees, and that carry no name or key."""
    table = stage.context.facts.commands
    warned = {*table.of_category("admin"), *table.of_category("dangerous"), *table.of_category("scripting")}
    looked_at = {
        *("info", "lastsave", "role", "module|list", "slowlog|len", "commandlog|len", "script|exists"),
        *("latency|doctor", "latency|graph", "latency|histogram", "latency|history", "latency|latest"),
        *("cluster|replicas", "cluster|slaves", "cluster|count-failure-reports"),
    }
    assert HARMLESS & warned <= looked_at
    assert not {name for name in table.names if reach(name, table) is Reach.KEYS} & warned


def test_a_command_that_nobody_has_looked_at_is_a_hole(valkey: Stage) -> None:
    table = valkey.context.facts.commands
    categories = {name: frozenset[str]() for name in table.names}
    newer = CommandTable({**categories, "tomorrow": frozenset({"read"})}, table.keyed)
    [found] = find(valkey, newer, "-@all +tomorrow")
    assert "does not know (tomorrow)" in found.message
    keyed = CommandTable({**categories, "tomorrow": frozenset({"read"})}, {*table.keyed, "tomorrow"})
    assert find(valkey, keyed, "resetkeys -@all +tomorrow") == []
    [found] = find(valkey, keyed, "~alpha:x -@all +tomorrow +select")
    assert "gets at" in found.message


RULES = [
    "~* &* +@all",
    "~* &* +@all -@dangerous -@admin",
    "resetkeys +@all -@read -@write",
    "~x +@all -@admin -select",
    "~* -@all +@read",
    "~* -@all +@connection +@keyspace",
    "-@all +@pubsub &*",
    '-@all "(~* +@write)" "(+@admin -shutdown)"',
    "~* +@all resetdbs",
    "~* +@all db=60",
]


@pytest.mark.parametrize("rights", RULES)
def test_nothing_is_missed_that_the_server_would_allow(stage: Stage, rights: str) -> None:
    """The server's own word (ACL DRYRUN) on every command, in an app's DB: what it allows and is not harmless is in
    what the search says of that user."""
    if "db" in rights and not stage.context.facts.db_rules:
        pytest.skip("the server has no database rules")
    by_hand(stage, f"ACL SETUSER worker reset on >a-password {rights}", "ACL SAVE")
    table = stage.context.facts.commands
    with as_admin(stage.real, stage.context.numbers["alpha"]) as client:
        arity = arities(client.execute_command("COMMAND"))
        pipeline = client.pipeline(transaction=False)
        pipeline.response_callbacks.clear()
        for name in arity:
            words = name.split("|")
            pipeline.execute_command("ACL", "DRYRUN", "worker", *words, *["1"] * (arity[name] - len(words)))
        answers = dict(zip(arity, pipeline.execute(raise_on_error=False), strict=True))
    allowed = {name for name, said in answers.items() if said == "OK"}
    reaching = {name: reach(name, table) for name in allowed}
    found = holes(stage)
    everybody = [name for name, far in reaching.items() if far is Reach.SERVER]
    assert bool(everybody) <= bool(found)
    if everybody:
        message = found[0].message
        assert any(f"{name}" in message for name in everybody)
    inside = [name for name, far in reaching.items() if far in (Reach.KEYS, Reach.DATABASE)]
    if inside and (stage.context.facts.db_rules or "select" in allowed):
        assert found
        assert stage.prefix or "alpha" in found[0].message


def arities(commands: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for command in commands:
        if "no_auth" not in command[2] and not command[9]:
            found[command[0]] = abs(command[1])
        found |= arities(command[9])
    return found


def test_an_app_of_another_project_is_held_to_what_an_app_may(stage: Stage) -> None:
    rival = Project(stage.real, **({"isolation": "prefix"} if stage.prefix else {}), scripts=True)
    rival.context = lambda session, apps: replace(Project.context(rival, session, apps), project="rival")  # type: ignore[method-assign]
    rival.recorded = {"gamma": 0 if stage.prefix else 9}
    rival.apply("gamma")
    saved(stage)
    assert holes(stage) == []
    with as_app(rival.tenant("gamma")) as client:
        client.execute_command("EVAL", "return 1", "0")
    by_hand(stage, "ACL SETUSER gamma_user +monitor", "ACL SAVE")
    [found] = holes(stage)
    assert found.account == "gamma_user"
    assert "monitor" in found.message
    by_hand(stage, *found.closes, "ACL SAVE")
    assert holes(stage) == []
