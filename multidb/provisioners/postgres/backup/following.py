"""A place that follows a database elsewhere: loaded as of the moment of a slot there, and from then on kept by a
subscription, which writes each change as the owner of its table.
"""

from __future__ import annotations

import json
import time
from typing import Final

from multidb.errors import ArchiveError
from multidb.model import Lag, Place, Progress
from multidb.progress import ProgressTimer
from multidb.provisioners.postgres.backup import derived, importing
from multidb.provisioners.postgres.backup.databases import Databases
from multidb.provisioners.postgres.backup.followed import FollowedPostgres
from multidb.provisioners.postgres.provision.admin_inside import AdminInside
from multidb.provisioners.postgres.provision.quoting import identifier, literal

__all__ = ["drain", "follow", "lag"]

_LOOK: Final = 0.05  # seconds between two looks whether everything is there
_BACK_WITHIN: Final = 20.0  # seconds that a worker is given to come back; a server begins it again after 5

# $1: a subscription. Whether its worker runs, whether it has for a while, and how often one has ended with an error: a
# change could not be written, or the source was cut off. One that cannot write a change ends soon after each beginning.
_STATE: Final = """
SELECT json_build_object(
  'there', EXISTS (SELECT FROM pg_subscription WHERE subname = $1),
  'runs', EXISTS (SELECT FROM pg_stat_subscription WHERE subname = $1 AND pid IS NOT NULL),
  'lasts', EXISTS (SELECT FROM pg_stat_subscription s JOIN pg_stat_activity a USING (pid)
                   WHERE s.subname = $1 AND a.backend_start < clock_timestamp() - interval '10 seconds'),
  'errors', coalesce((SELECT apply_error_count FROM pg_stat_subscription_stats WHERE subname = $1), 0))"""


def follow(databases: Databases, place: Place, source: FollowedPostgres, mark: str, progress: Progress) -> None:
    """Loads the source as of the moment of a slot, and subscribes to what comes after it."""
    with source.published(mark) as moment:
        importing.bring_in(databases, place, source, progress, moment)
    role = databases.owner_of(place)
    with (
        databases.delegates.acting(place.app, role, [place.name], reads=False) as delegate,
        delegate.open(place.name) as connection,
    ):
        connection.execute(f"SET ROLE {identifier(role)}", f"DROP PUBLICATION IF EXISTS {identifier(mark)}")
    progress(place.app.id, "following the source")
    with databases.open(place.name) as inside:
        AdminInside(inside).subscribe(mark, source.address_for(mark))


def lag(databases: Databases, source: FollowedPostgres, mark: str) -> Lag:
    """How far the subscription is behind its source."""
    behind = source.behind(mark)
    if behind is None:
        return Lag(0, "its slot at the source is gone, so changes were lost: give it up and begin again")
    state = json.loads(databases.main.ask(_STATE, (mark,)))
    if not state["there"]:
        return Lag(behind, "its subscription is gone: give it up and begin again")
    if state["errors"] and not state["lasts"]:
        return Lag(
            behind,
            f"changes could not be written ({state['errors']} times): the log of the app's server says why",
        )
    return Lag(behind, "" if state["runs"] else "nothing follows at this moment: the log of the app's server says why")


def drain(databases: Databases, place: Place, source: FollowedPostgres, mark: str, progress: Progress) -> None:
    """Waits until the place has everything, then gives sequences their positions and fills materialized views.

    Raises:
        ArchiveError: it does not follow any more.
        ServerSlow: it does not come nearer.
    """
    position = source.position()
    timer = ProgressTimer(databases.server.progress_timeout)
    last: int | None = -1
    followed = time.monotonic()
    while not source.has_passed(mark, position):
        behind = lag(databases, source, mark)
        if behind.size != last:
            timer.moved()
            last = behind.size
            progress(place.app.id, f"{last:,} bytes behind")
        if not behind.problem:
            followed = time.monotonic()
        elif time.monotonic() - followed > _BACK_WITHIN:
            raise ArchiveError(
                f"the copy does not follow its source: {behind.problem}",
                where=databases.where,
                hint=f"end what is in its way, then run the command again; or give the copy up: multidb import "
                f"{place.app.id} --abort",
            )
        if timer.expired():
            raise timer.error(databases.server, behind.problem)
        time.sleep(_LOOK)
    role = databases.owner_of(place)
    with (
        databases.delegates.acting(place.app, role, [place.name], reads=False) as delegate,
        delegate.open(place.name, own_zone=True) as connection,
    ):
        connection.execute(f"SET ROLE {identifier(role)}")
        for name, value, called in source.sequences():
            connection.ask(f"SELECT setval({literal(name)}::regclass, {int(value)}, {str(called).lower()})")
        zone = source.zone()
        if zone and databases.knows_zone(zone):
            connection.execute(f"SET TimeZone = {literal(zone)}")
        for name, cause in derived.refill(connection).items():
            progress(place.app.id, f"materialized view {name} is there without rows: {cause}")
