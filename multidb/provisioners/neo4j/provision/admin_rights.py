"""What the admin's user may do on a server, against what multidb does there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from multidb.model import Finding, Level, StoreContext
from multidb.provisioners.neo4j.provision.options import ServerOptions
from multidb.provisioners.neo4j.provision.resources import Neo4jFacts

__all__ = ["OWN_RIGHTS", "admin_rights"]

OWN_RIGHTS: Final = "SHOW USER PRIVILEGES AS COMMANDS YIELD command"
_NEEDED: Final = ("DATABASE MANAGEMENT", "USER MANAGEMENT", "ROLE MANAGEMENT", "PRIVILEGE MANAGEMENT")
_ALL: Final = "ALL DBMS PRIVILEGES"


def admin_rights(context: StoreContext, commands: Sequence[str], subject: str) -> Iterator[Finding]:
    """What the server is, and what the user's own rights are. See `multidb.model.Session.admin_rights`.

    Args:
        commands: the rows of `OWN_RIGHTS`; none where the server has no roles.
    """
    facts = Neo4jFacts.of(context.facts)
    kind = f"{facts.edition} edition"
    if facts.dedicated:
        yield Finding(Level.OK, subject, f"{kind}: a server of one app, whose every user is an administrator")
    elif facts.roles and facts.multi_database:
        yield _with_roles(kind, commands, subject)
    elif ServerOptions.of(context.options).isolation == "label":
        yield Finding(Level.WARNING, subject, f"{kind}, shared by label: every app's user is an administrator there")
    else:
        yield Finding(
            Level.WARNING,
            subject,
            f"{kind}: without roles every user is an administrator, so the server has room for one app",
            "for more apps use Neo4j Enterprise, or do without walls: servers.neo4j.isolation: label",
        )


def _with_roles(kind: str, commands: Sequence[str], subject: str) -> Finding:
    able = f"{kind}: a database, a role and a user for each app"
    lacking = [right for right in _NEEDED if not _granted(right, commands)]
    if not lacking:
        return Finding(Level.OK, subject, able)
    fix = "; ".join(f"GRANT {right} ON DBMS TO ROLE" for right in lacking)
    message = f"{able}, and the admin has no {', no '.join(lacking)}"
    return Finding(Level.ERROR, subject, message, f"give the admin's role what is missing ({fix}), or the role admin")


def _granted(right: str, commands: Sequence[str]) -> bool:
    given = rf"(IMMUTABLE )?({_ALL}|{right}) ON DBMS TO "
    allowed = any(re.match(f"GRANT {given}", command) for command in commands)
    return allowed and not any(re.match(f"DENY {given}", command) for command in commands)
