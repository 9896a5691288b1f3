"""What the server's log has of refusals of an app. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from multidb.document import printable
from multidb.model import App, Refusal
from multidb.provisioners.postgres.provision.databases import database_names
from multidb.provisioners.postgres.provision.options import AppOptions
from multidb.provisioners.postgres.provision.resources import derived_names

__all__ = ["LINE_PREFIX", "logged_refusals"]

LINE_PREFIX: Final = "%m [%p] app=%d user=%u state=%e by=%a "
"""``log_line_prefix`` of the servers that multidb runs."""

_LINE: Final = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.\d+ UTC \[\d+\] app=(?P<database>\S*) user=(?P<user>\S+) "
    r"state=(?P<state>[0-9A-Z]{5}) by=(?P<by>.*?) ?(?:ERROR|FATAL):  (?P<message>.*)"
)
_OWN: Final = (
    "multidb"  # the application names of multidb's own sessions: what an audit tries is no trouble of the app's
)
_LIMIT, _CANCELLED, _IDLE, _READ_ONLY, _RIGHT = "53300", "57014", "25P03", "25006", "42501"
_EXTENSION: Final = re.compile(r'permission denied to create extension "([^"]+)"')


def logged_refusals(app: App, lines: Iterable[str]) -> Sequence[Refusal]:
    """Those of the app's logins in its databases, in the lines of a log; each message once, the newest first.

    Logins that failed are not among them: a session has no application name yet then, so that an audit's and the app's
    look alike. Whoever tried knows.
    """
    databases = database_names(app)
    logins = {name.name for name in derived_names(app) if name.space == "postgres role"}
    kept: dict[str, Refusal] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None or match["database"] not in databases or match["user"] not in logins:
            continue
        if match["by"].startswith(_OWN):
            continue
        hint = _hint(app, match["state"], match["message"])
        if hint is None:
            continue
        what = printable(match["message"])
        before = kept.pop(what, None)  # the newest stand last
        at = datetime.strptime(match["at"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        kept[what] = Refusal(what, 1 + (before.count if before is not None else 0), at, hint)
    return list(kept.values())[::-1]


def _hint(app: App, state: str, message: str) -> str | None:
    """What would help; None: it is no refusal."""
    migrate = f"multidb connect {app.id} --migrate -- COMMAND"
    if state == _LIMIT:
        return "close connections in the app, or raise its postgres: {connection_limit: ...}"
    if state == _CANCELLED and "statement timeout" in message:
        return f"raise its postgres: {{statement_timeout: ...}}; a migration runs without it: {migrate}"
    if state == _IDLE:
        return "end transactions in the app, or raise its postgres: {idle_in_transaction_session_timeout: ...}"
    if state == _READ_ONLY:
        return f"what it is allowed to store is used up, or its read-only login wrote: multidb usage {app.id}"
    if state != _RIGHT:
        return None
    if extension := _EXTENSION.search(message):
        return f"name it in the manifest: postgres: {{extensions: [{extension[1]}]}}"
    if "create database" in message:
        return "postgres: {test_database: true} gives its tests a database, which they keep (--keepdb)"
    if AppOptions.of(app.stores["postgres"]).roles == "split":
        return f"what changes the schema is for the login for migrations: {migrate}"
    return "no option of an app gives that: it belongs to somebody else, or acts on more than the app"
