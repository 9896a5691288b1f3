"""All that the admin's login ever sends to a database that an app owns, in backups and restores: the methods of
`AdminInside`. Decision 19 says of each why it cannot call what an app has made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from multidb.errors import NotAllowed
from multidb.provisioners.postgres.backup import bound, contents
from multidb.provisioners.postgres.backup.bound import Beyond, beyond
from multidb.provisioners.postgres.backup.configuration import Relation
from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.isolation import rights
from multidb.provisioners.postgres.provision import interior, shared_catalog
from multidb.provisioners.postgres.provision.mentions import TEXTS, pattern
from multidb.provisioners.postgres.provision.move_survey import LAYOUT
from multidb.provisioners.postgres.provision.options import EXTENSION_SCHEMA
from multidb.provisioners.postgres.provision.privileges import grantee_in_sql
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.secrets import Secret

__all__ = ["AdminInside", "creation"]


# What a server would write of a statement, or keep of it, beyond the catalog.
_SILENT = (
    "log_statement = 'none'",
    "log_min_duration_statement = -1",
    "log_min_error_statement = 'panic'",
    "pg_stat_statements.track = 'none'",
)
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

    # ------------------------------------------------------------------- schemas of apps in a database that they share

    def schemas(self) -> str:
        """Every schema, with its owner, mark and rights (`shared_catalog.SHARED`): catalogs only."""
        return self._connection.ask(shared_catalog.SHARED)

    def made_of(self, schema: str) -> list[tuple[str, str]]:
        """What other apps have made of things in the schema, and these: catalogs only."""
        return [(other, ours) for other, ours in json.loads(self._connection.ask(contents.INWARD, (schema,)))]

    def make_schema(self, schema: str, role: str, comment: str) -> None:
        """A schema of the admin's, in which a role may make things."""
        self._require_quiet()
        name = identifier(schema)
        self._connection.transact(
            f"CREATE SCHEMA {name}",
            f"COMMENT ON SCHEMA {name} IS {literal(comment)}",
            f"GRANT USAGE, CREATE ON SCHEMA {name} TO {identifier(role)}",
        )

    def hand_over_schema(self, schema: str, role: str, database: str) -> None:
        """Makes a schema the role's, which takes a right on the database for that moment."""
        self._require_quiet()
        right, to = f"CREATE ON DATABASE {identifier(database)}", identifier(role)
        self._connection.transact(
            f"GRANT {right} TO {to}",
            f"ALTER SCHEMA {identifier(schema)} OWNER TO {to}",
            f"REVOKE {right} FROM {to}",
        )

    def exchange_schemas(self, name: str, old: str, new: str, marks: tuple[str, str], readers: Sequence[str]) -> None:
        """In one transaction, the schema `new` takes the name `name`; what is called so now is `old` then, which nobody
        may enter.

        Args:
            marks: of the old and of the new one.
            readers: the roles by which other apps read what is in it.
        """
        self._require_quiet()
        before, after, there = map(identifier, (old, name, new))
        away = []
        if (live := json.loads(self.schemas())["schemas"].get(name)) is not None:
            held = sorted({grantee for grantee, *_ in live["rights"] or ()})
            away = [
                f"ALTER SCHEMA {after} RENAME TO {before}",
                f"COMMENT ON SCHEMA {before} IS {literal(marks[0])}",
                *(f"REVOKE ALL ON SCHEMA {before} FROM {grantee_in_sql(grantee)}" for grantee in held),
            ]
        self._connection.transact(
            *away,
            f"ALTER SCHEMA {there} RENAME TO {after}",
            f"COMMENT ON SCHEMA {after} IS {literal(marks[1])}",
            *(f"GRANT USAGE ON SCHEMA {after} TO {identifier(reader)}" for reader in readers),
        )

    def _require_quiet(self) -> None:
        """`NotAllowed` where a statement would run, as the admin, a function of somebody who may do less."""
        if self._connection.quiets_event_triggers:
            return
        if triggers := json.loads(self._connection.ask(interior.EVENT_TRIGGERS)):
            name, owner = triggers[0]
            raise NotAllowed(
                f"the event trigger {name} would run a function of {owner} as the admin",
                hint=f"let a superuser disable it: ALTER EVENT TRIGGER {identifier(name)} DISABLE",
            )

    def layout(self) -> str:
        """What of an app lies where in the whole database (`move_survey.LAYOUT`): catalogs only."""
        return self._connection.ask(LAYOUT, ("",))

    def texts(self, schemas: Iterable[str]) -> str:
        """Texts that may name one of the schemas (`mentions.TEXTS`): catalogs only."""
        return self._connection.ask(TEXTS, (pattern(schemas), ""))

    def open_extension_schema(self) -> None:
        """In a place, the schema in which a shared database has its extensions."""
        self._require_quiet()
        name = identifier(EXTENSION_SCHEMA)
        self._connection.transact(f"CREATE SCHEMA IF NOT EXISTS {name}", f"GRANT USAGE ON SCHEMA {name} TO PUBLIC")

    def move_extension(self, name: str, schema: str) -> None:
        """In a place, an extension into another schema: rows of catalogs."""
        self._require_quiet()
        self._connection.execute(f"ALTER EXTENSION {identifier(name)} SET SCHEMA {identifier(schema)}")

    def roll_back(self, transaction: str) -> None:
        """Ends a prepared transaction."""
        self._connection.execute(f"ROLLBACK PREPARED {literal(transaction)}")

    def subscribe(self, name: str, address: Secret) -> None:
        """Has the server follow a publication elsewhere by a slot of the same name, from where that stands: each change
        is written as the owner of its table (``run_as_owner``), who is sandboxed from the admin.

        Args:
            address: with the password; it stands in no log of the server's.
        """
        self._connection.execute(*(f"SET {setting}" for setting in _SILENT))
        self._connection.execute(
            f"CREATE SUBSCRIPTION {identifier(name)} CONNECTION {literal(address.reveal())} PUBLICATION "
            f"{identifier(name)} WITH (create_slot = false, copy_data = false, run_as_owner = false)"
        )

    def end_subscription(self, name: str) -> None:
        """Ends it without asking whom it follows."""
        quoted = identifier(name)
        self._connection.execute(
            f"ALTER SUBSCRIPTION {quoted} DISABLE",
            f"ALTER SUBSCRIPTION {quoted} SET (slot_name = NONE)",
            f"DROP SUBSCRIPTION {quoted}",
        )

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
