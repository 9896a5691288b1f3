"""All that the admin's login ever sends to a database that an app owns, in backups and restores: the methods of
`AdminInside`. Decision 19 says of each why it cannot call what an app has made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from multidb.errors import NotAllowed
from multidb.provisioners.postgres.backup import bound, contents
from multidb.provisioners.postgres.backup.bound import Beyond, beyond
from multidb.provisioners.postgres.backup.configuration import Relation
from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.isolation import rights
from multidb.provisioners.postgres.provision.quoting import identifier, literal

__all__ = ["AdminInside", "creation"]


_THERE = "SELECT coalesce(json_agg(extname), '[]'::json) FROM pg_extension"


class AdminInside:
    """The admin's connection to a database that an app owns. It can send nothing but this."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def give_schema(self, role: str, schema: str = "public") -> None:
        """Gives a schema to a role, in a place that nothing was loaded into yet."""
        self._connection.execute(f"ALTER SCHEMA {identifier(schema)} OWNER TO {identifier(role)}")

    def make_extension(self, name: str, schema: str, version: str) -> None:
        """In a place that nothing was loaded into yet; the script is the server's own and meets no object of an app."""
        self._connection.execute(creation(name, schema, version))

    def let_fill(self, relation: Relation, login: str) -> None:
        """Gives a login what it takes to load the rows of an extension's table, or the position of its sequence.

        Raises:
            NotAllowed: the admin may not give it.
        """
        self._give(f"GRANT {relation.filling} ON {relation.kind} {relation.name} TO {identifier(login)}", relation)
        self._let_in(relation, login)

    def keep_from(self, relation: Relation, login: str) -> None:
        """Takes back what `let_fill` has given."""
        self._connection.execute(
            f"REVOKE {relation.filling} ON {relation.kind} {relation.name} FROM {identifier(login)}"
        )
        if not relation.enterable:
            self._connection.execute(f"REVOKE USAGE ON SCHEMA {identifier(relation.schema)} FROM {identifier(login)}")

    def let_read(self, relation: Relation, role: str) -> None:
        """Gives a role the reading of an extension's table, or sequence, that the app had where the set is from."""
        self._let_in(relation, role)
        self._give(f"GRANT SELECT ON {relation.kind} {relation.name} TO {identifier(role)}", relation)

    def roll_back(self, transaction: str) -> None:
        """Ends a prepared transaction."""
        self._connection.execute(f"ROLLBACK PREPARED {literal(transaction)}")

    def of_others(self, roles: Sequence[str]) -> frozenset[tuple[str, ...]]:
        """What belongs to none of the roles, as `contents.owned_by_others` says it: catalogs only."""
        others = json.loads(self._connection.ask(contents.owned_by_others(roles)))
        return frozenset(map(tuple, others))

    def beyond(self, version: int, roles: Sequence[str]) -> Beyond:
        """What of the database no load can make, as `bound.inside` finds it: catalogs only."""
        return beyond(json.loads(self._connection.ask(bound.inside(version, roles))))

    def comment_on_extension(self, name: str, text: str) -> None:
        """Changes one row of a catalog. The extension is one that `make_extension` has made."""
        self._connection.execute(f"COMMENT ON EXTENSION {identifier(name)} IS {literal(text)}")

    def rights_on_members(self, roles: Sequence[str]) -> list[rights.Member]:
        """What the roles of the app were given on members of extensions, or have lost: catalogs only."""
        entries = json.loads(self._connection.ask(rights.members_query()))
        return rights.members(entries, lambda name: name if name in roles else None)

    def set_right(self, right: rights.Right, thing: rights.Thing) -> list[str]:
        """Gives and takes on a member of an extension, as the server has just found it; the statements that the admin
        may not send."""
        sent = [(text, self._connection.send(text)) for text in rights.given(right, thing)]
        return [text for text, answer in sent if answer.refusal is not None or answer.warnings]

    def has_rights(self) -> bool:
        """Whether a role gives anything on what it will make, as the app's owner role does once it has its rights: a
        catalog only."""
        return self._connection.ask("SELECT EXISTS (SELECT FROM pg_default_acl)") == "t"

    def extensions(self) -> Sequence[str]:
        """The names of the database's extensions, read from the catalog."""
        names: list[str] = json.loads(self._connection.ask(_THERE))
        return names

    def _let_in(self, relation: Relation, role: str) -> None:
        if not relation.enterable:
            self._give(f"GRANT USAGE ON SCHEMA {identifier(relation.schema)} TO {identifier(role)}", relation)

    def _give(self, text: str, relation: Relation) -> None:
        answer = self._connection.send(text)
        if refusal := answer.refusal or next(iter(answer.warnings), None):
            raise NotAllowed(
                f"{relation.kind.lower()} {relation.name} of extension {relation.extension} is not the admin's to "
                f"give: {refusal.message}",
                hint="use a superuser as the admin login, then run the command again",
            )


def creation(name: str, schema: str, version: str) -> str:
    """The statement that makes an extension in that schema and version."""
    where = f"SCHEMA {identifier(schema)} VERSION {literal(version)}"
    return f"CREATE EXTENSION IF NOT EXISTS {identifier(name)} {where}"
