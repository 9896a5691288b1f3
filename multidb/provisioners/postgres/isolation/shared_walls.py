"""The walls between apps that share a database, tried by sessions of one of them; and what the server does not keep
apart there, which is declared, and tried so that it is known to be so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from multidb.errors import ServerDown, ServerError, ServerSlow
from multidb.model import Outcome, Probe, Tenant
from multidb.provisioners.postgres.driver.connection import Connection
from multidb.provisioners.postgres.isolation.acts import (
    BETWEEN_SCHEMAS,
    CREATE_TRUSTED,
    IN_A_SCHEMA,
    LARGE_OBJECTS,
    READS,
    SHOWN,
    Act,
)
from multidb.provisioners.postgres.isolation.sessions import TIMEOUT, session_of
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.provisioners.postgres.provision.resources import only_reads

if TYPE_CHECKING:
    from multidb.provisioners.postgres.isolation.audit import Attack

__all__ = ["between_schemas", "in_a_schema", "share"]

_LOCK: Final = 7_305_528  # of an advisory lock that nobody else takes
_CHANNEL: Final = "multidb_audit"
# What is seen of each other in one database, whoever may do what.
_NAMES: Final = Act("see its names", "SELECT count(*) FROM pg_namespace WHERE nspname = {b_schema_text}", counts=True)


def share(one: Tenant, other: Tenant) -> bool:
    """Whether they are in one database."""
    return home(one.app).database == home(other.app).database


def in_a_schema(sessions: Sequence[Attack], owning: Attack) -> Iterator[Probe]:
    """What no app may do where several share a database, with each login, and by the one that owns what it makes."""
    grows = owning.app.id not in owning.read_only
    yield from (owning.tried(act) for act in IN_A_SCHEMA if grows or not act.grows)
    for session in sessions:
        purpose = f" as {session.login.purpose}"
        yield session.tried(replace(CREATE_TRUSTED, name=f"{CREATE_TRUSTED.name}{purpose}"))
        for act in () if only_reads(session.login.purpose) else LARGE_OBJECTS:  # that one is tried anyway
            name = act.name.replace(" with the read-only login", "")
            expected = Outcome.ALLOWED if session.large_objects_open else Outcome.REFUSED
            yield replace(session.tried(replace(act, name=f"{name}{purpose}")), expected=expected)


def between_schemas(sessions: Sequence[Attack], owning: Attack, victim: Tenant) -> Iterator[Probe]:
    """The walls between two apps of one database, and what the server does not keep apart there."""
    options = AppOptions.of(owning.app.stores[STORE])
    grows = owning.app.id not in owning.read_only
    for session in sessions:
        for act in BETWEEN_SCHEMAS:
            if (act.owning and session is not owning) or (act.grows and not grows):
                continue
            as_login = f" as {session.login.purpose}" if session.login.purpose != "user" and not act.owning else ""
            probe = session.tried(replace(act, name=f"{act.name}{as_login}"), victim)
            reads = victim.app.id in options.reads and act.name in READS
            yield replace(probe, expected=Outcome.ALLOWED) if reads else probe
    yield from _at_what_is_shared(sessions[0], victim)


def _at_what_is_shared(attack: Attack, victim: Tenant) -> Iterator[Probe]:
    """What the server does not keep apart in one database: declared, and tried so that it is known to be so."""
    timeout = victim.server.timeout

    def seen(name: str, got: Outcome, detail: str = "") -> Probe:
        return Probe(attack.app.id, victim.app.id, name, Outcome.ALLOWED, got, detail[:SHOWN])

    yield replace(attack.tried(_NAMES, victim), expected=Outcome.ALLOWED)
    try:
        with session_of(victim) as session:
            session.send(f"SELECT pg_advisory_lock({_LOCK})", timeout)
            answer = attack.connection.send(f"ROLLBACK; SELECT pg_try_advisory_lock({_LOCK})", timeout)
            held = answer.rows[-1:] == [["f"]]
            yield seen("keep it from an advisory lock", Outcome.ALLOWED if held else Outcome.BROKEN)
            attack.connection.send(f"SELECT pg_advisory_unlock_all(); LISTEN {_CHANNEL}", timeout)
            session.send(f"NOTIFY {_CHANNEL}", timeout)
            heard = _heard(attack.connection, timeout)
            attack.connection.send(f"UNLISTEN {_CHANNEL}", timeout)
            yield seen("hear its NOTIFY", Outcome.ALLOWED if heard else Outcome.BROKEN)
    except (ServerDown, ServerSlow):
        raise
    except ServerError as error:
        detail = f"there is no session of {victim.app.id} to try it on: {error.message}"
        for name in ("keep it from an advisory lock", "hear its NOTIFY"):
            yield seen(name, Outcome.BROKEN, detail)


def _heard(connection: Connection, timeout: float) -> bool:
    """Whether a notification comes, which is sent along with the end of a transaction."""
    until = time.monotonic() + TIMEOUT
    while not connection.notified(_CHANNEL):
        if time.monotonic() > until:
            return False
        time.sleep(TIMEOUT / 100)
        connection.send("SELECT 1", timeout)
    return True
