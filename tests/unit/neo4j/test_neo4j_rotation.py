"""A rotation's users on Enterprise as the manual describes it; on Community the contract suite has a real server."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from multidb.model import Alternates, Change, Endpoint, Inspection, Server, Statement, StoreContext
from multidb.plan import diff
from multidb.provisioners.neo4j import PROVISIONER
from multidb.provisioners.neo4j.driver.connection import Bolt
from multidb.provisioners.neo4j.isolation.holes import search
from multidb.provisioners.neo4j.provision.removal import orphans, removal, suspension
from multidb.provisioners.neo4j.provision.resources import alternates, desired, password_ref
from multidb.provisioners.neo4j.provision.session import Neo4jSession
from multidb.provisioners.neo4j.provision.statements import CONNECTED, statements
from multidb.secrets import Alternate, MemorySecretStore, Secret
from tests.unit.neo4j.enterprise import Enterprise
from tests.unit.neo4j.plans import APPS, CONTEXT, FACTS

LERNMI = APPS[0]
BOTH = Alternates(Alternate.FIRST, frozenset(Alternate), tuple(Alternate))
SECOND = Alternates(Alternate.SECOND, frozenset({Alternate.SECOND}), tuple(Alternate))
FIRST = Alternates(Alternate.FIRST, frozenset({Alternate.FIRST}), tuple(Alternate))


class Simulated(Enterprise):
    """With passwords and connections, in the place of a `Bolt`."""

    def __init__(self) -> None:
        super().__init__()
        self.passwords: dict[str, Secret | None] = {}
        self.connected: set[str] = set()
        self.secrets = MemorySecretStore({password_ref(app.id): Secret(f"first of {app.id}") for app in APPS})
        self.session = Neo4jSession(Server("neo4j", "neo4j", Endpoint("127.0.0.1", 7687)), None, "test")
        self.session.facts, self.session.bolt = FACTS, cast("Bolt", self)

    def explained(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def logs_in(self, name: str, password: Secret) -> bool:
        return self.passwords.get(name) == password

    def ask(self, text: str, *_: object) -> list[dict[str, object]]:
        if text == CONNECTED:
            return [{"username": name} for name in sorted(self.connected)]
        if text.startswith("SHOW DATABASES YIELD name, requestedStatus"):
            return [dict(row) for row in self.listing().databases]
        if text.startswith("SHOW USERS"):
            return [dict(row) for row in self.listing().users]
        return super().ask(text)

    def run(self, statement: Statement | str) -> None:
        text = statement if isinstance(statement, str) else statement.text
        if "killConnections" in text:
            self.connected -= set(re.findall("username = '(.*?)'", text))
            return
        super().run(statement)
        for name in re.findall("USER `(.*?)`", text):
            if isinstance(statement, Statement) and statement.binds:
                self.passwords[name] = self.secrets.get(statement.binds[0][1])

    def plan(self, told: StoreContext) -> tuple[Change, ...]:
        inspection = Inspection(told, APPS, tuple(desired(APPS, told)), self.secrets)
        return diff(inspection.desired, self.session.inspect(inspection))

    def sent(self, told: StoreContext) -> list[Statement]:
        return [statement for change in self.plan(told) for statement in statements(change, told)]

    def apply(self, told: StoreContext) -> list[str]:
        sent = self.sent(told)
        for statement in sent:
            self.run(statement)
        assert self.plan(told) == ()
        return [statement.text for statement in sent]


def told(of_lernmi: Alternates, **more: Any) -> StoreContext:
    return replace(CONTEXT, alternates={"lernmi": of_lernmi}, **more)


@pytest.fixture
def server() -> Simulated:
    made = Simulated()
    made.apply(CONTEXT)
    made.secrets.put({password_ref("lernmi", Alternate.SECOND): Secret("second of lernmi")})
    return made


def test_two_users_of_one_role_in_turn(server: Simulated) -> None:
    assert server.apply(told(BOTH)) == [
        "CREATE USER `lernmi_user_b` SET PLAINTEXT PASSWORD $password CHANGE NOT REQUIRED SET STATUS ACTIVE "
        "SET HOME DATABASE `lernmi`",
        "GRANT ROLE `lernmi_rw` TO `lernmi_user_b`",
    ]
    assert server.passwords["lernmi_user_b"] == Secret("second of lernmi")
    assert server.passwords["lernmi_user"] == Secret("first of lernmi"), "it works on"
    server.connected |= {"lernmi_user", "lernmi_user_b", "beep_boop_user"}
    drop, end = server.apply(told(SECOND))
    assert drop == "DROP USER `lernmi_user` IF EXISTS"
    assert "killConnections" in end
    assert server.connected == {"lernmi_user_b", "beep_boop_user"}, "nobody else's sessions are ended"
    assert {user for role, user in server.members if role == "lernmi_rw"} == {"lernmi_user_b"}
    server.secrets.put({password_ref("lernmi"): Secret("third of lernmi")})
    server.apply(told(replace(BOTH, current=Alternate.SECOND)))
    assert server.passwords["lernmi_user"] == Secret("third of lernmi")
    server.apply(told(FIRST))
    assert "lernmi_user_b" not in server.users


def test_killed_before_the_sessions_are_ended_the_next_run_ends_them(server: Simulated) -> None:
    server.apply(told(BOTH))
    server.connected.add("lernmi_user")
    drop, _ = server.sent(told(SECOND))
    server.run(drop)
    assert "lernmi_user" not in server.users
    assert server.plan(told(SECOND)), "its sessions are there"
    server.apply(told(SECOND))
    assert server.connected == set()


def test_a_former_user_that_somebody_makes_again_goes(server: Simulated) -> None:
    server.apply(told(BOTH))
    server.apply(told(SECOND))
    server.run("CREATE USER `lernmi_user` SET PASSWORD 'made by hand' CHANGE NOT REQUIRED")
    server.run("GRANT ROLE `lernmi_rw` TO `lernmi_user`")
    server.apply(told(SECOND))
    assert "lernmi_user" not in server.users


def test_both_are_turned_off_with_the_app_and_come_back(server: Simulated) -> None:
    both = told(BOTH)
    server.apply(both)
    server.connected |= {"lernmi_user_b"}
    for statement in suspension(cast("Bolt", server), LERNMI, both):
        server.run(statement)
    assert {name for name, row in server.users.items() if row["suspended"]} == {"lernmi_user", "lernmi_user_b"}
    assert server.connected == set()
    assert suspension(cast("Bolt", server), LERNMI, both) == []
    assert server.plan(told(BOTH, closed=frozenset({"lernmi"}))) == ()
    server.apply(both)
    assert not any(row["suspended"] for row in server.users.values())


def test_both_go_with_the_app(server: Simulated) -> None:
    server.apply(told(BOTH))
    assert orphans(cast("Bolt", server), CONTEXT, {"ab", "beep_boop"}) == {
        "lernmi": ["user lernmi_user", "user lernmi_user_b"]
    }
    for statement in removal(cast("Bolt", server), LERNMI, told(BOTH)):
        if not statement.text.startswith("DROP ALIAS"):
            server.run(statement)
    assert not [user for user in server.users if user.startswith("lernmi")]


def test_the_second_user_is_no_hole_with_its_app_and_one_without(server: Simulated) -> None:
    server.apply(told(BOTH))
    inspection = Inspection(told(BOTH), APPS, (), server.secrets)
    assert search(cast("Bolt", server), inspection).holes == ()
    gone = search(cast("Bolt", server), replace(inspection, apps=APPS[1:])).holes
    assert {hole.subject for hole in gone} == {"user lernmi_user", "user lernmi_user_b"}


@pytest.mark.parametrize(
    ("logins", "found"),
    [
        ((), {}),
        (("a_user", "a_user_b"), {"a": BOTH}),
        (("a_user_b",), {"a": SECOND}),
        (("a_user_b", "b_user", "b_user_b"), {"a": SECOND, "b": BOTH}),
    ],
)
def test_the_users_say_which_credentials_there_are(logins: Sequence[str], found: Mapping[str, Alternates]) -> None:
    assert alternates(replace(FACTS, logins=frozenset(logins)), "digi") == found


def test_the_variables_have_the_one_that_is_current() -> None:
    def variables(of_lernmi: Alternates) -> list[object]:
        held = PROVISIONER.env(LERNMI, told(of_lernmi), Endpoint("127.0.0.1", 7687), lambda ref: Secret(ref.name))
        return [held["NEO4J_USER"], held["NEO4J_PASSWORD"]]

    assert variables(BOTH) == ["lernmi_user", Secret("password")]
    assert variables(SECOND) == ["lernmi_user_b", Secret("password_b")]
    assert PROVISIONER.rotates(LERNMI, FACTS) == ""
    assert [spec.alternate for spec in PROVISIONER.secrets(LERNMI)] == list(Alternate)
