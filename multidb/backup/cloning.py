"""An app's data in another app that is made for the time: a preview environment, isolated like any app.

Until the data is in, the clone's logins are off; masking is done with its own login, whose password nobody else has
before the command ends. A run that fails leaves the logins off, and the same command again goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from multidb.backup.encryption import Identities
from multidb.backup.journal import CLONING, Journal
from multidb.backup.making import make_sets, repository, turn_off
from multidb.backup.repository import Copy
from multidb.backup.restoring import restore
from multidb.engine import Engine, Report, Scope
from multidb.errors import ArchiveError, UsageError
from multidb.model import App, Progress
from multidb.provisioners import STORES, provisioner
from multidb.secrets import Secret

__all__ = ["CLONE_OF", "EXPIRES", "copy_into", "entry_for", "expired", "fill"]

CLONE_OF: Final = "clone_of"
EXPIRES: Final = "expires"
_MASKED: Final = "postgres"  # the store whose language a masking file is in


def entry_for(declaration: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest entry like the app's, without what only one app can have: its tenant, its numbers."""
    entry = {name: value for name, value in declaration.items() if name not in ("tenant_id", "backup", "deploy")}
    for store in STORES:
        options = entry.get(store)
        if isinstance(options, dict) and provisioner(store).allocate is not None:
            kept = {name: value for name, value in options.items() if type(value) is not int}
            entry[store] = kept
            if not kept:
                del entry[store]
    return entry


def expired(apps: Mapping[str, App], now: datetime) -> list[App]:
    """The clones whose time is up. What multidb did not make as a clone never is one."""
    return [app for app in apps.values() if CLONE_OF in app.labels and (_until(app) or now) < now]


def copy_into(engine: Engine, source: str, other: str, *, mask: str = "", progress: Progress) -> Report:
    """Gives `other`, an app of the manifest that has been applied, what `source` has now. The caller holds
    `exclusively`.

    Args:
        mask: SQL that is run in the clone's Postgres database before anybody gets its credentials.

    Raises:
        MultidbError: it could not be done; the clone's logins are off, and the same again goes on.
    """
    work = (engine.state.folder / "clones").resolve()  # targets are relative to the manifest, this is not
    shutil.rmtree(work, ignore_errors=True)  # of a run that died
    try:
        scope = Scope(frozenset({source}), frozenset(engine.project.apps[other].stores))
        (made,) = make_sets(engine, scope, to=[str(work)], remember=False, progress=progress)
        if made.made is None:
            name, error = next(iter(made.errors.items()))
            raise ArchiveError(f"{source} could not be read: {name}: {error}", where=f"app {source}", hint=error.hint)
        home = repository(engine, [str(work)])
        return fill(engine, home.find(f"{source}/{made.made.id}"), other, mask=mask, keys=None, progress=progress)
    finally:
        with suppress(OSError):
            shutil.rmtree(work)


def fill(engine: Engine, copy: Copy, other: str, *, mask: str, keys: Identities | None, progress: Progress) -> Report:
    """Gives the clone `other` what a set holds; see `copy_into`."""
    app = engine.project.apps[other]
    if mask and _MASKED not in app.stores:
        raise UsageError(
            "masking SQL is for Postgres, which this app does not use", where=f"app {other}", hint="leave --mask out"
        )
    journal = Journal(engine.state)
    journal.begin(CLONING, other, {"of": copy.app})
    turn_off(engine, app)
    home = repository(engine, [copy.target.name])
    restore(
        engine, home, copy, other, replace=True, safety=False, closed=True, keys=keys, apply=False, progress=progress
    )
    report = engine.apply(Scope(apps=frozenset({other})))
    if (error := report.error()) is not None:
        raise error
    if mask:
        progress(other, "masking")
        try:
            _mask(engine, app, mask)
        except BaseException:
            turn_off(engine, app)
            raise
    journal.end(CLONING, other)
    return report


def _mask(engine: Engine, app: App, sql: str) -> None:
    """Runs the text in one transaction, with the clone's own login: what fires on its way (triggers, functions in
    views) was made by an app, and an administrator must not carry it out."""
    import psycopg

    (tenant,), _ = engine.tenants(Scope(frozenset({app.id}), frozenset({_MASKED})))
    address = tenant.env["DATABASE_URL"]
    try:
        with psycopg.connect(address.reveal() if isinstance(address, Secret) else address) as connection:
            connection.execute("SET statement_timeout = 0")
            connection.execute(sql.encode())
    except psycopg.Error as error:
        raise ArchiveError(
            f"the masking SQL failed: {error.diag.message_primary or type(error).__name__}",
            where=f"app {app.id}",
            hint="its logins are off; correct the SQL, then run the same command again",
        ) from None


def _until(app: App) -> datetime | None:
    text = app.labels.get(EXPIRES)
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(
            f"its label {EXPIRES} is no time: {text!r}",
            where=app.where or f"app {app.id}",
            hint="write it as 2026-11-30T12:00:00+00:00, or take the label away and the app stays",
        ) from None
