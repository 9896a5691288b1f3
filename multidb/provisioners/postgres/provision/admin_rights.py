"""What the admin's login may do on a server, against what apps want there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from multidb.model import App, Finding, Level
from multidb.provisioners.postgres.provision.options import STORE, AppOptions
from multidb.provisioners.postgres.provision.quoting import identifier
from multidb.provisioners.postgres.provision.resources import PRIMARY, STANDBY, PostgresFacts

__all__ = ["admin_rights"]

_SCHEMA_GIVEN = 150000  # from here on the schema of an app's database can be given to the app without a superuser


def admin_rights(apps: Sequence[App], facts: PostgresFacts, subject: str) -> Iterator[Finding]:
    """What the facts say of the admin's login. See `multidb.model.Session.admin_rights`."""
    if facts.standby:
        yield Finding(Level.ERROR, subject, STANDBY, PRIMARY)
        return
    missing = {"CREATEROLE": facts.createrole, "CREATEDB": facts.createdb}
    lacking = [] if facts.superuser else [right for right, there in missing.items() if not there]
    if facts.superuser:
        yield Finding(Level.OK, subject, f"{facts.admin} is a superuser: it may do all that an app can want")
    elif lacking:
        words = " and ".join(_MEANING[right] for right in lacking)
        fix = f"let a superuser run: ALTER ROLE {identifier(facts.admin)} {' '.join(lacking)}"
        yield Finding(Level.ERROR, subject, f"{facts.admin} may not make {words}", fix)
    else:
        kind = f"the admin of a managed service ({facts.service})" if facts.service else "no superuser"
        message = f"{facts.admin} is {kind} and makes databases and logins (CREATEDB, CREATEROLE)"
        yield Finding(Level.OK, subject, f"{message}; without a superuser {_left_out(facts)}")
    yield from _extensions(apps, facts, subject)


_MEANING = {"CREATEROLE": "logins (CREATEROLE)", "CREATEDB": "databases (CREATEDB)"}


def _left_out(facts: PostgresFacts) -> str:
    """What is otherwise than with a superuser, as the end of a sentence."""
    left = ["a password that somebody has changed is seen only by trying it"]
    if not facts.service:
        left.insert(0, "extensions that are not trusted are left out")
    if facts.number < _SCHEMA_GIVEN:
        left.append("the schema public stays its owner's")
    return ", ".join(left)


def _extensions(apps: Sequence[App], facts: PostgresFacts, subject: str) -> Iterator[Finding]:
    users: dict[str, list[str]] = {}
    for app in apps:
        for name in AppOptions.of(app.stores[STORE]).extensions:
            users.setdefault(name, []).append(app.id)
    for name, ids in users.items():
        extension, who = facts.extensions.get(name), ", ".join(ids)
        if extension is None:
            fix = "install it on the server's machine or choose an image that has it"
            yield Finding(Level.ERROR, subject, f"the server has no extension {name}, which {who} wants", fix)
        elif not (facts.superuser or extension.trusted or facts.service):
            message = f"the extension {name}, which {who} wants, takes a superuser"
            fix = f"let one run, in each app's database: CREATE EXTENSION {identifier(name)}; or use one as the admin"
            yield Finding(Level.WARNING, subject, message, fix)
