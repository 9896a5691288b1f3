"""Neo4j Enterprise as its manual describes it: what our commands do, and how the server lists it afterwards.

No substitute for the real server: it knows only the commands that multidb sends, and repeats multidb's reading of the
manual. What it can show is that the store agrees with itself: what it sends is what it then expects to find.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from multidb.model import Statement
from multidb.provisioners.neo4j.provision.catalog import Listing
from multidb.provisioners.neo4j.provision.resources import canonical

PUBLIC_RIGHTS = (
    "GRANT ACCESS ON HOME DATABASE TO `PUBLIC`",
    "GRANT EXECUTE FUNCTION * ON DBMS TO `PUBLIC`",
    "GRANT EXECUTE PROCEDURE * ON DBMS TO `PUBLIC`",
    "GRANT LOAD ON ALL DATA TO `PUBLIC`",
)


@dataclass
class Enterprise:
    databases: dict[str, dict[str, str]] = field(
        default_factory=lambda: {"neo4j": {"requestedStatus": "online", "access": "read-write"}}
    )
    roles: set[str] = field(default_factory=lambda: {"PUBLIC", "admin", "reader"})
    rights: set[str] = field(default_factory=lambda: set(PUBLIC_RIGHTS))
    users: dict[str, dict[str, object]] = field(default_factory=lambda: {"neo4j": {"suspended": False, "home": None}})
    members: set[tuple[str, str]] = field(default_factory=lambda: {("admin", "neo4j")})
    user: str = "neo4j"

    def run(self, statement: Statement | str) -> None:
        text = statement if isinstance(statement, str) else statement.text
        name = re.findall(r"`([^`]+)`", text)
        verb = text.split("`")[0].strip()
        match verb:
            case "CREATE ROLE":
                assert name[0] not in self.roles or "IF NOT EXISTS" in text
                self.roles.add(name[0])
            case "CREATE DATABASE":
                assert name[0] not in self.databases
                self.databases[name[0]] = {"requestedStatus": "online", "access": "read-write"}
            case "CREATE OR REPLACE DATABASE":
                self.databases[name[0]] = {"requestedStatus": "online", "access": "read-write"}
            case "START DATABASE":
                self.databases[name[0]]["requestedStatus"] = "online"
            case "ALTER DATABASE":
                self.databases[name[0]]["access"] = "read-write" if "READ WRITE" in text else "read-only"
            case "CREATE USER" | "ALTER USER":
                assert (name[0] in self.users) is (verb == "ALTER USER")
                user = self.users.setdefault(name[0], {"suspended": False, "home": None})
                user["suspended"] = "SUSPENDED" in text or (user["suspended"] and "SET STATUS ACTIVE" not in text)
                user["home"] = name[1] if "SET HOME DATABASE" in text else user["home"]
            case "DROP USER" | "DROP ROLE" | "DROP DATABASE":
                assert "IF EXISTS" in text or name[0] in {*self.users, *self.roles, *self.databases}
                self._drop(verb, name[0])
            case "GRANT ROLE":
                self.members.add((name[0], name[1]))
            case "REVOKE ROLE":
                self.members.discard((name[0], name[1]))
            case _:
                self._rights(text)

    def _drop(self, verb: str, name: str) -> None:
        if verb == "DROP USER":
            self.users.pop(name, None)
        elif verb == "DROP ROLE":
            self.roles.discard(name)
            self.rights = {right for right in self.rights if not right.endswith(f" TO `{name}`")}
        else:
            self.databases.pop(name, None)
        self.members = {pair for pair in self.members if name not in pair or verb == "DROP DATABASE"}

    def ask(self, text: str, *_: object) -> list[dict[str, object]]:
        """The answers to what the removal of an app, its places and an audit ask, in the place of a `Bolt`."""
        if text == "SHOW DATABASES YIELD name":
            return [{"name": name} for name in self.databases]
        if text == "SHOW ALL PRIVILEGES AS COMMANDS YIELD command":
            return [{"command": command} for command in self.listing().commands]
        if text == "SHOW ROLES WITH USERS YIELD role, member":
            return [dict(row) for row in self.listing().members]
        if text.startswith("SHOW SETTINGS"):
            return [{"name": "dbms.security.auth_enabled", "value": "true"}]
        if text.startswith("SHOW ROLES"):
            return [{"role": role} for role in sorted(self.roles)]
        if text.startswith("SHOW USERS"):
            return [{"user": name, **row} for name, row in self.users.items()]
        if text.startswith("SHOW ALIASES"):
            return [{"name": "also", "database": "lernmi"}] if "lernmi" in self.databases else []
        assert text == "CALL dbms.listConnections() YIELD username"
        return []

    def _rights(self, text: str) -> None:
        if text.startswith("REVOKE "):
            given = re.sub(r"^REVOKE (.*) FROM (`\w+`)$", r"\1 TO \2", text)
            self.rights -= set(canonical(given))
        else:
            assert text.startswith(("GRANT ", "DENY ")), text
            self.rights |= set(canonical(text))

    def listing(self) -> Listing:
        members = [{"role": role, "member": user} for role, user in sorted(self.members)]
        empty = self.roles - {role for role, _ in self.members}
        return Listing(
            databases=[{"name": name, **row} for name, row in self.databases.items()],
            users=[{"user": name, "passwordChangeRequired": False, **row} for name, row in self.users.items()],
            members=[*members, *({"role": role, "member": None} for role in sorted(empty))],
            commands=sorted(self.rights),
        )
