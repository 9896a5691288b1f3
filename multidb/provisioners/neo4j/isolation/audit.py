"""The walls between apps on Neo4j, tried with one app's login.

Every attempt is made in a transaction that is rolled back, administration commands included: Neo4j runs those in
transactions too, and checks the rights when they run (``EXPLAIN`` would not). What cannot be rolled back is not tried:
ending another app's transactions, and guessing passwords. Three wrong ones lock a user for five seconds, so an app's
login is tried on another app's server under its own name only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from neo4j import exceptions

from multidb.model import Outcome, Probe, Tenant
from multidb.provisioners.neo4j.driver.connection import DRIVER_ERRORS, Bolt, as_the_app, explain, words_of
from multidb.provisioners.neo4j.provision.cypher import quoted
from multidb.provisioners.neo4j.provision.options import STORE, AppOptions, ServerOptions
from multidb.provisioners.neo4j.provision.resources import Neo4jFacts, database_name, rw_role
from multidb.provisioners.neo4j.provision.statements import SYSTEM

__all__ = ["LOADS", "ON_DATABASES", "ON_LABELS", "Attempt", "barred", "probe"]

_REFUSALS: Final = ("Neo.ClientError.Security.", "Neo.ClientError.Database.DatabaseNotFound")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One act against another app's things.

    Args:
        text: Cypher in which ``{db}``, ``{rw}``, ``{user}`` and ``{label}`` stand for the names of whoever is attacked.
        system: it is an administration command, which no app may run; that the login works is its control.
        passed: the code of an error that comes after the server has let the act pass.
        counts_rows: an answer without rows is a refusal, since the server hides what is not to be seen.
        barred: the setting that an error of the code `passed` names where it was refused after all.
    """

    name: str
    text: str
    system: bool = False
    passed: str = ""
    counts_rows: bool = False
    barred: str = ""


_UNREAD: Final = "Neo.ClientError.Statement.ExternalResourceFailed"
LOADS: Final = (
    Attempt(
        "read a URL",
        "LOAD CSV FROM 'http://127.0.0.1:1/x' AS row RETURN row",
        passed=_UNREAD,
        barred="internal.dbms.cypher_ip_blocklist",
    ),
    Attempt(
        "read a file",
        "LOAD CSV FROM 'file:///multidb-probe' AS row RETURN row",
        passed=_UNREAD,
        barred="dbms.security.allow_csv_import_from_file_urls",
    ),
)
"""What reaches other servers of the machine, and its files, from inside a query."""
_OWN: Final = Attempt("read its own", "MATCH (n) RETURN labels(n) LIMIT 1")

ON_DATABASES: Final = (
    Attempt("read nodes", "MATCH (n) RETURN labels(n) LIMIT 1"),
    Attempt("write a node", "CREATE (n) RETURN n"),
    Attempt("list indexes", "SHOW INDEXES YIELD name"),
    Attempt("list constraints", "SHOW CONSTRAINTS YIELD name"),
    Attempt("make an index", "CREATE INDEX multidb_probe FOR (n:multidb_probe) ON (n.p)"),
)
"""Against another app's database; each is tried on the attacker's own first."""

ON_SYSTEM: Final = (
    Attempt("see the database", "SHOW DATABASE {db} YIELD name", system=True, counts_rows=True),
    Attempt("list users", "SHOW USERS YIELD user", system=True),
    Attempt("list rights", "SHOW ALL PRIVILEGES YIELD role", system=True),
    Attempt("make a user", "CREATE USER multidb_probe SET PASSWORD 'multidb-probe'", system=True),
    Attempt("make a role", "CREATE ROLE multidb_probe", system=True),
    Attempt("make a database", "CREATE DATABASE `multidb-probe`", system=True),
    Attempt("drop the database", "DROP DATABASE {db}", system=True),
    Attempt("take the role", "GRANT ROLE {rw} TO {own_user}", system=True),
    Attempt("change the password", "ALTER USER {user} SET PASSWORD CHANGE REQUIRED", system=True),
    Attempt("drop the user", "DROP USER {user}", system=True),
)
"""Against another app's database, roles and users, and the server: no app may do these, not even to itself."""

ON_LABELS: Final = (
    Attempt("read nodes", "MATCH (n:{label}) RETURN labels(n) LIMIT 1"),
    Attempt("write a node", "CREATE (n:{label}) RETURN n"),
    Attempt("list users", "SHOW USERS YIELD user", system=True),
    Attempt("change the password", "ALTER USER {user} SET PASSWORD CHANGE REQUIRED", system=True),
    Attempt("drop the user", "DROP USER {user}", system=True),
)
"""Where apps share one database by a convention; all of it works."""


def probe(attacker: Tenant, victims: Sequence[Tenant]) -> Iterable[Probe]:
    """Tries every wall between `attacker` and each of `victims`.

    Raises:
        ServerError: a server does not answer.
    """
    with as_the_app(attacker) as bolt:
        control, why = _tried(bolt, _OWN, attacker, attacker)
        if (_has_walls(attacker) or attacker.server.app is not None) and control is Outcome.ALLOWED:
            for load in LOADS if not _loads_are_left(attacker) else ():
                got, detail = _tried(bolt, load, attacker, attacker)
                yield Probe(attacker.app.id, None, load.name, Outcome.REFUSED, got, detail)
        for victim in victims:
            if control is not Outcome.ALLOWED:
                yield Probe(attacker.app.id, victim.app.id, _OWN.name, Outcome.ALLOWED, Outcome.BROKEN, why)
            elif victim.server.endpoint != attacker.server.endpoint:
                yield _log_in_elsewhere(attacker, victim)
            else:
                yield from _same_server(bolt, attacker, victim)


def _loads_are_left(attacker: Tenant) -> bool:
    """Whether the manifest leaves every user the right to LOAD CSV: what comes of it is the server's affair."""
    options = ServerOptions.of(attacker.context.options)
    facts = Neo4jFacts.of(attacker.context.facts)
    return bool(facts.public_load) and not options.close_defaults


def _log_in_elsewhere(attacker: Tenant, victim: Tenant) -> Probe:
    uri = victim.env["NEO4J_URI"]
    there = Tenant(attacker.app, victim.server, victim.context, {**attacker.env, "NEO4J_DATABASE": SYSTEM})
    with as_the_app(there, uri if isinstance(uri, str) else uri.reveal()) as bolt:
        got, detail = _tried(bolt, Attempt("log in", "SHOW DEFAULT DATABASE", system=True), there, victim)
    return Probe(attacker.app.id, victim.app.id, "log in to its server", Outcome.REFUSED, got, detail)


def _same_server(bolt: Bolt, attacker: Tenant, victim: Tenant) -> Iterator[Probe]:
    if not _has_walls(attacker):
        for attempt in ON_LABELS:
            got, detail = _tried(bolt, attempt, attacker, victim)
            yield Probe(attacker.app.id, victim.app.id, attempt.name, Outcome.ALLOWED, got, detail)
        return
    for attempt in (*ON_DATABASES, *ON_SYSTEM):
        got, detail = _tried(bolt, attempt, attacker, victim)
        if got is Outcome.REFUSED and not attempt.system and not _barred_at_home(attempt, attacker):
            got, detail = _checked_at_home(bolt, attempt, attacker, detail)
        yield Probe(attacker.app.id, victim.app.id, attempt.name, Outcome.REFUSED, got, detail)
    database, theirs = str(attacker.env["NEO4J_DATABASE"]), str(victim.env["NEO4J_USER"])
    got, detail = _outcome(bolt, Attempt("become its user", "RETURN 1"), "RETURN 1", database, theirs)
    yield Probe(attacker.app.id, victim.app.id, "become its user", Outcome.REFUSED, got, detail)


def _has_walls(tenant: Tenant) -> bool:
    if tenant.context.facts is None:
        return False
    facts = Neo4jFacts.of(tenant.context.facts)
    return facts.roles and facts.multi_database


def _checked_at_home(bolt: Bolt, attempt: Attempt, attacker: Tenant, detail: str) -> tuple[Outcome, str]:
    """A refusal that also meets the attacker's own things proves nothing."""
    control, why = _tried(bolt, attempt, attacker, attacker)
    return (Outcome.REFUSED, detail) if control is Outcome.ALLOWED else (Outcome.BROKEN, f"so is its own: {why}")


def _barred_at_home(attempt: Attempt, attacker: Tenant) -> bool:
    """Whether the app may not do this even to its own things, by the manifest or for being over its quota."""
    options = AppOptions.of(attacker.app.stores[STORE])
    if attacker.app.id in attacker.context.read_only:
        return attempt.name in ("write a node", "make an index")
    return attempt.name == "make an index" and not options.manage_schema


def _tried(bolt: Bolt, attempt: Attempt, attacker: Tenant, target: Tenant) -> tuple[Outcome, str]:
    app = target.app.id
    text = attempt.text.format(
        db=quoted(database_name(app)),
        rw=quoted(rw_role(app)),
        user=quoted(str(target.env["NEO4J_USER"])),
        own_user=quoted(str(attacker.env["NEO4J_USER"])),
        label=quoted(app),
    )
    return _outcome(bolt, attempt, text, SYSTEM if attempt.system else str(target.env["NEO4J_DATABASE"]))


def _outcome(bolt: Bolt, attempt: Attempt, text: str, database: str, user: str | None = None) -> tuple[Outcome, str]:
    """Runs the text, as `user` if one is given, and takes it back.

    Raises:
        ServerError: the server does not answer.
    """
    try:
        with bolt.within():
            rows = _rolled_back(bolt, text, database, user)
    except exceptions.ClientError as error:
        code = error.code or ""
        if code.startswith(_REFUSALS) or (code == attempt.passed and barred(error, attempt)):
            return Outcome.REFUSED, words_of(error)
        return Outcome.ALLOWED if code == attempt.passed else Outcome.BROKEN, words_of(error)
    except DRIVER_ERRORS as error:
        raise explain(error, bolt.server, "the app") from None
    return Outcome.REFUSED if attempt.counts_rows and not rows else Outcome.ALLOWED, ""


def barred(error: exceptions.Neo4jError, attempt: Attempt) -> bool:
    """Whether the server's settings refused the attempt."""
    return bool(attempt.barred) and attempt.barred in str(error.message)


def _rolled_back(bolt: Bolt, text: str, database: str, user: str | None) -> int:
    """How many rows came."""
    with bolt.session(database, impersonated_user=user) as session, session.begin_transaction() as transaction:
        rows = len(transaction.run(text).data())
        transaction.rollback()
        return rows
