"""The databases of places: made beside an app's own or like the one that a set is of, put in its place, and dropped.

The exchange is one transaction of renames, so an interruption leaves the old database or the new one, never half of
each.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from multidb.errors import ArchiveError, Conflict, Refused, ServerError, WrongVersion
from multidb.model import App, Owner, Part, Place, PlaceKind
from multidb.provisioners.postgres.backup import bound, conversions
from multidb.provisioners.postgres.backup.databases import Databases, same_from_elsewhere
from multidb.provisioners.postgres.backup.locales import Locale
from multidb.provisioners.postgres.backup.places import (
    NEW,
    OLD,
    SCRATCH,
    is_of_another_kind,
    parse_place_mark,
    place_mark,
    place_names,
)
from multidb.provisioners.postgres.provision import catalog_text
from multidb.provisioners.postgres.provision.admin_inside import AdminInside
from multidb.provisioners.postgres.provision.databases import home
from multidb.provisioners.postgres.provision.marks import RESTORED, UNFINISHED, mark, parse_mark
from multidb.provisioners.postgres.provision.quoting import identifier, literal

__all__ = ["discard", "leftovers", "make_like_set", "prepare", "replace", "require_unbound"]

_ROUNDS = 10  # attempts to find a database without sessions
_BUSY = "55006"


def prepare(databases: Databases, kind: PlaceKind, app: App, project: str) -> Place:
    """A new database beside the app's own, with its locale, that nobody but the admin may connect to.

    Raises:
        Conflict: there is a database of that name that is not ours.
        Refused: `replace` would refuse.
    """
    if kind is PlaceKind.NEW and home(app).schema is None:  # said before hours of loading, too
        require_unbound(databases, app)
    place = Place(kind, app, app.id + {PlaceKind.SCRATCH: SCRATCH, PlaceKind.NEW: NEW}[kind])
    discard(databases, place)
    beside = home(app).database
    like = databases.find(beside).get(beside)
    words = f"{Locale.read(like).clause(databases.major)}{_tablespace(like)}" if like is not None else "ENCODING 'UTF8'"
    databases.make(place.name, words, place_mark(Owner(project, app.id)))
    return place


def make_like_set(databases: Databases, place: Place, part: Part) -> None:
    """Makes the place again where the app's data was kept and compared in another way than it is here.

    Raises:
        WrongVersion: the server cannot do that. The place is gone.
        ArchiveError: the set does not say it as multidb does.
    """
    locale = part.details.get("locale")
    if locale is None:  # made by an earlier version
        return
    try:
        expected = Locale.read(locale if isinstance(locale, Mapping) else {})
    except ValueError as error:
        raise ArchiveError(str(error), where=databases.where, hint="take another set") from None
    there = databases.find(place.name)[place.name]
    if Locale.read(there) == expected:
        return
    if place.kind is PlaceKind.LIVE:
        raise Refused(
            f"the set's database has {expected}, and {place.name} has {Locale.read(there)}", where=databases.where
        )
    databases.drop(place.name, there)
    try:
        databases.make(place.name, f"{expected.clause(databases.major)}{_tablespace(there)}", str(there["mark"]))
    except ServerError as error:
        raise WrongVersion(
            f"cannot make a database like the set's ({expected}): {error.message}",
            where=databases.where,
            hint="install that locale on the server's machine, or take a server that has it",
        ) from None


def discard(databases: Databases, place: Place) -> None:
    """Drops the database of a place, whoever is connected to it.

    Raises:
        ValueError: it is the app's own.
        Conflict: it is not ours.
    """
    if place.kind is PlaceKind.LIVE:
        raise ValueError("a live place is not discarded")
    there = databases.find(place.name).get(place.name)
    if there is not None:
        if not _is_place(there, place.app):
            if (owner := parse_mark(there["mark"])[0]) is not None:
                raise Conflict(
                    f"the database {place.name} is of app {owner}, and this makes one of that name for a while",
                    where=databases.where,
                    hint=f"give that app another name: multidb rename-app {owner.app} NEW",
                )
            raise Conflict(
                f"the database {place.name} exists and multidb did not make it",
                where=databases.where,
                hint="rename it, or drop it if nobody needs it",
            )
        databases.drop(place.name, there)
    databases.delegates.forget(place.app)


def leftovers(databases: Databases, app: App) -> Sequence[Place]:
    """What an earlier run has left; the app's old database after an exchange is among it, as scratch."""
    there = databases.find(*place_names(app.id))
    return [
        Place(PlaceKind.NEW if name.endswith(NEW) else PlaceKind.SCRATCH, app, name)
        for name, database in there.items()
        if _is_place(database, app)
    ]


def _tablespace(database: Mapping[str, Any]) -> str:
    """What puts a database where another one is."""
    name = database["tablespace"]
    return f" TABLESPACE {identifier(name)}" if name != "pg_default" else ""


def _is_place(database: Mapping[str, Any], app: App) -> bool:
    """Whether it is a place of the app that multidb made, maybe half."""
    comment = database["mark"]
    if comment is None:
        return not database["open"]
    owner = parse_place_mark(comment)
    return owner is not None and owner.app == app.id


def replace(databases: Databases, new: Place, project: str) -> None:
    """Puts the new database in the place of the app's own, with its settings, privileges and limit.

    Its inside counts as unfinished until the next apply. Interrupted before the exchange, the app's database is
    shut at worst, which this or `multidb apply` mends; after it, only the old one is left to be dropped.

    Raises:
        Conflict: the app's database is not ours.
        Refused: something is bound to it (`require_unbound`); nothing was changed.
        ServerError: somebody cannot be kept out for long enough; nothing was changed.
    """
    live, old = new.app.id, new.app.id + OLD
    require_unbound(databases, new.app)
    there = databases.find(live, new.name, old)
    if is_of_another_kind(there[new.name]["mark"]):
        conversions.into_database(databases, new, databases.owner_of(new))
    if old in there:
        discard(databases, Place(PlaceKind.SCRATCH, new.app, old))
    owner = Owner(project, new.app.id)
    texts = [f"ALTER DATABASE {identifier(new.name)} RENAME TO {identifier(live)}"]
    with databases.open(new.name) as connection:
        inside = RESTORED if AdminInside(connection).has_rights() else UNFINISHED
    texts.append(f"COMMENT ON DATABASE {identifier(live)} IS {literal(mark(owner, inside))}")
    if live not in there:
        _exchange(databases, [new.name], texts)
        return
    if parse_mark(there[live]["mark"])[0] != owner:
        raise Conflict(f"the database {live} is not ours", where=databases.where, hint="multidb plan says whose it is")
    away = [
        f"ALTER DATABASE {identifier(live)} RENAME TO {identifier(old)}",
        f"COMMENT ON DATABASE {identifier(old)} IS {literal(place_mark(owner))}",
    ]
    likewise = _likewise(live, there[live], there[new.name], databases.where)
    databases.main.execute(f"ALTER DATABASE {identifier(live)} ALLOW_CONNECTIONS false")
    try:
        databases.end_sessions([live, new.name])
        _require_unbound_at_server(databases, live)  # whoever was there until now may have made something
        _exchange(databases, [live, new.name], [*away, *texts, *likewise])
    except BaseException:
        with contextlib.suppress(ServerError):
            databases.main.execute(f"ALTER DATABASE {identifier(live)} ALLOW_CONNECTIONS true")
        raise
    databases.drop(old, databases.find(old)[old])


def require_unbound(databases: Databases, app: App) -> None:
    """Refuses what would be lost with the app's database, or would keep it.

    Raises:
        Refused: names it, with the statements that end it.
    """
    _require_unbound_at_server(databases, app.id)
    there = databases.find(app.id).get(app.id)
    if there is None or not there["open"]:  # shut: by an exchange that was interrupted, and had looked before
        return
    roles = databases.delegates.roles(app)
    with databases.open(app.id) as connection:
        bound_inside = AdminInside(connection).beyond(databases.main.version, roles).bound
    if bound_inside:
        raise bound.refusal(bound_inside, app.id, databases.where)


def _require_unbound_at_server(databases: Databases, database: str) -> None:
    answer = json.loads(databases.main.ask(bound.AT_SERVER, (database,)))
    bound_there = list(bound.at_server(answer, database, databases.main.version))
    if bound_there:
        raise bound.refusal(bound_there, database, databases.where)


def _likewise(name: str, database: Mapping[str, Any], new: Mapping[str, Any], where: str) -> list[str]:
    """What makes a database treat its users as another one did, beside what is set for it already."""
    made = {(role, entry.partition("=")[0]) for role, entries in new["settings"] or () for entry in entries}
    texts = [f"ALTER DATABASE {identifier(name)} CONNECTION LIMIT {int(database['limit'])}"]
    texts += [catalog_text.privilege(name, grantee, right) for grantee, right in database["privileges"] or ()]
    for role, settings in database["settings"] or ():
        for entry in settings:
            if (role, entry.partition("=")[0]) in made:
                continue
            try:
                if not same_from_elsewhere(entry, database):
                    raise ValueError("it is not ASCII, in another encoding than UTF-8")
                texts.append(catalog_text.setting(name, role, entry))
            except ValueError as error:
                raise ArchiveError(
                    f"a setting of {role or 'everybody'} in {name} cannot be kept: {error}",
                    where=where,
                    hint="nothing was changed; ALTER ROLE .. IN DATABASE .. RESET ALL, then multidb apply",
                ) from None
    return texts


def _exchange(databases: Databases, names: Sequence[str], texts: Sequence[str]) -> None:
    """The transaction, once no session is left in the databases."""
    for left in reversed(range(_ROUNDS)):
        databases.end_sessions(names)
        answer = databases.main.send("; ".join(["BEGIN", *texts, "COMMIT"]))
        if answer.refusal is None:
            return
        databases.main.execute("ROLLBACK")
        if answer.refusal.sqlstate != _BUSY or not left:
            raise databases.main.error(answer.refusal)
        time.sleep(0.1)
