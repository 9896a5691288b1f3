"""One session of a Postgres that stands still, work that is slow and moves, and settings that would end it: each with
what it is to come to, on real servers."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import pytest

from multidb.errors import ServerDown, ServerSlow
from multidb.model import App, Archive, PlaceKind, ScriptArchive, StoreContext
from multidb.provisioners.postgres import PROVISIONER
from tests.contract.postgres_sets import Files, quiet
from tests.contract.postgres_site import Site
from tests.support.postgres_servers import SUPERUSER, Cluster, cluster

pytestmark = pytest.mark.server

LIMIT = 1.5  # seconds without progress
ENOUGH = 40.0  # seconds in which all that waits has ended
SLOW = 0.04  # seconds of processor time for a row
ROWS = 120


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param) as made:
        yield made


@pytest.fixture
def site(served: Cluster) -> Site:
    return Site(served, SUPERUSER)


@contextlib.contextmanager
def archive(site: Site, limit: float = LIMIT) -> Iterator[tuple[Archive, StoreContext]]:
    assert PROVISIONER.archive is not None
    with site.connect() as session:
        context = StoreContext("site", session.facts)
    server = replace(site.served.server(site.admin, timeout=2.0), progress_timeout=limit)
    with PROVISIONER.archive(server, site.served.admin(site.admin), "test", None) as opened:
        yield opened, context


def backed_up(site: Site, app: App) -> tuple[Any, Files]:
    files = Files()
    with archive(site, 600) as (opened, context):
        return opened.backup(app, context, files, quiet), files


@pytest.fixture
def app(site: Site) -> App:
    """With a table that takes a moment to be read."""
    made = site.app()
    site.apply([made])
    with site.enter(made) as session:
        session.execute(
            "CREATE TABLE t AS SELECT i, md5(i::text) || md5((-i)::text) AS w FROM generate_series(1, 200000) i"
        )
    return made


@pytest.fixture
def stopped(served: Cluster) -> Iterator[list[int]]:
    """Processes that stand still; they go on at the end."""
    pids: list[int] = []
    yield pids
    go_on(pids)


def go_on(pids: list[int]) -> None:
    while pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids.pop(), signal.SIGCONT)


def stop(site: Site, which: str, pids: list[int]) -> bool:
    """Stops the sessions for which `which` is true in pg_stat_activity, once there are any."""
    found = site.served.sql(f"SELECT pid FROM pg_stat_activity WHERE {which}")
    for (pid,) in found:
        os.kill(pid, signal.SIGSTOP)
        pids.append(pid)
    return bool(found)


@contextlib.contextmanager
def stopping(site: Site, which: str, pids: list[int]) -> Iterator[None]:
    """Stops such sessions in the block as soon as there are any."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() and not stop(site, which, pids):
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextlib.contextmanager
def ends_in_time() -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(ServerSlow, match=r"no progress for \d+ s \(since 2") as raised:
        yield
    assert time.monotonic() - began < ENOUGH
    assert raised.value.where is not None
    assert raised.value.where.startswith("postgres (127.0.0.1:")
    assert "progress_timeout" in str(raised.value.hint)


def nothing_left(site: Site, app: App) -> None:
    assert site.served.sql(f"SELECT count(*) FROM pg_roles WHERE rolname LIKE '{app.id}\\_\\_%'") == [(0,)]
    assert site.served.sql(f"SELECT count(*) FROM pg_database WHERE datname LIKE '{app.id}\\_\\_%'") == [(0,)]
    assert site.served.sql(f"SELECT count(*) FROM pg_stat_activity WHERE usename LIKE '{app.id}\\_\\_%'") == [(0,)]


@pytest.mark.parametrize("application", ["multidb", "test"], ids=["of the dump", "of the measures"])
def test_a_backup_whose_session_stands_still_ends(site: Site, app: App, stopped: list[int], application: str) -> None:
    class Stopping(Files):
        @contextlib.contextmanager
        def file(self, name: str) -> Iterator[BinaryIO]:
            which = f"usename = '{app.id}__delegate' AND application_name = '{application}'"
            with super().file(name) as written, stopping(site, which, stopped):
                yield written

    with ends_in_time(), archive(site) as (opened, context):
        opened.backup(app, context, Stopping(), quiet)
    assert stopped, "a session stood still"
    go_on(stopped)
    backed_up(site, app)
    nothing_left(site, app)


def test_a_load_whose_sessions_stand_still_ends(site: Site, app: App, stopped: list[int]) -> None:
    part, files = backed_up(site, app)
    which = f"usename = '{app.id}__delegate' AND application_name = 'multidb' AND query LIKE 'COPY%'"
    with ends_in_time(), archive(site) as (opened, context), stopping(site, which, stopped):
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        opened.restore(place, part, files, quiet)
    assert stopped, "a session stood still"
    go_on(stopped)
    with archive(site, 600) as (opened, context):
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        opened.restore(place, part, files, quiet)
        assert opened.measure(place) == part.measures
        opened.discard(place)
    nothing_left(site, app)


def test_a_database_that_cannot_be_dropped_is_given_up(site: Site, app: App, stopped: list[int]) -> None:
    """For that, the server waits for every one of its sessions, whosever they are."""
    with archive(site) as (opened, context), site.enter(app) as session:
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        os.kill(session.info.backend_pid, signal.SIGSTOP)
        stopped.append(session.info.backend_pid)
        with ends_in_time():
            opened.discard(place)
        go_on(stopped)
    with archive(site, 600) as (opened, context):
        opened.discard(place)
    nothing_left(site, app)


def test_a_session_that_somebody_ends_is_what_is_told(site: Site, app: App) -> None:
    """And not that pg_dump then finds no snapshot."""

    class Ending(Files):
        @contextlib.contextmanager
        def file(self, name: str) -> Iterator[BinaryIO]:
            which = f"usename = '{app.id}__delegate' AND application_name = 'test'"
            assert site.served.sql(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {which}")
            with super().file(name) as written:
                yield written

    with archive(site) as (opened, context), pytest.raises(ServerDown, match="terminating connection"):
        opened.backup(app, context, Ending(), quiet)


# --- slow, and moving ---


def burning(session: Any) -> None:
    """A function that takes its time, and says nothing meanwhile."""
    session.execute(
        f"""CREATE FUNCTION burn(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
        DECLARE until timestamptz := clock_timestamp() + interval '{SLOW} s'; BEGIN
        WHILE clock_timestamp() < until LOOP i := i + 1; i := i - 1; END LOOP; RETURN i; END $$"""
    )


def takes_longer_than_the_limit(work: Callable[[], object]) -> None:
    began = time.monotonic()
    work()
    assert time.monotonic() - began > 2 * LIMIT, "it was slow enough to be told from what stands still"


def test_a_load_that_is_slow_and_works_is_not_ended(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        burning(session)
        session.execute(f"CREATE TABLE t AS SELECT i FROM generate_series(1, {ROWS}) i")
        session.execute("CREATE INDEX ON t (burn(i))")
    part, files = backed_up(site, app)
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.SCRATCH, app, context)
        takes_longer_than_the_limit(lambda: opened.restore(place, part, files, quiet))
        assert opened.measure(place) == part.measures
        opened.discard(place)


def test_a_script_that_is_slow_and_works_is_not_ended(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        burning(session)
    with archive(site) as (opened, _):
        assert isinstance(opened, ScriptArchive)
        text = f"CREATE TABLE made AS SELECT burn(i) AS i FROM generate_series(1, {ROWS}) i"
        takes_longer_than_the_limit(lambda: opened.run_script(app, text))
        with ends_in_time():
            opened.run_script(app, "SELECT pg_sleep(600)")
    assert site.served.sql("SELECT count(*) FROM made", database=app.id) == [(ROWS,)]


# --- settings that would end it ---

SETTINGS = {
    "idle_session_timeout": "50ms",
    "idle_in_transaction_session_timeout": "50ms",
    "statement_timeout": "50ms",
    "transaction_timeout": "50ms",
    "lock_timeout": "50ms",
    "tcp_keepalives_idle": "1",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "1",
    "tcp_user_timeout": "1s",
    "client_connection_check_interval": "10ms",
}


def known(site: Site) -> dict[str, str]:
    there = {name for (name,) in site.served.sql("SELECT name FROM pg_settings")}
    return {name: value for name, value in SETTINGS.items() if name in there}


@contextlib.contextmanager
def stored(site: Site, app: App, where: str) -> Iterator[None]:
    """The settings, as somebody has stored them: for the server, for a database, for the logins."""
    targets = {
        "server": ["ALTER SYSTEM"],
        "database": [f"ALTER DATABASE {app.id}", "ALTER DATABASE postgres", "ALTER DATABASE template1"],
        "roles": ["ALTER ROLE ALL", f"ALTER ROLE {app.id}_owner", f"ALTER ROLE {site.admin}"],
    }[where]
    settings = known(site)
    try:
        site.served.sql(*(f"{each} SET {name} = '{value}'" for each in targets for name, value in settings.items()))
        site.served.sql("SELECT pg_reload_conf()")
        yield
    finally:
        undone = [f"{each} RESET {name}" for each in targets for name in settings]
        site.served.sql(*(f"SET {name} = 0" for name in settings if name.endswith("timeout")), *undone)
        site.served.sql("SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    "where", ["database", *(pytest.param(each, marks=pytest.mark.rare) for each in ("server", "roles"))]
)
def test_stored_settings_end_nothing_of_ours(site: Site, app: App, where: str) -> None:
    class Slow(Files):
        """Takes so long that somebody's patience would be over."""

        @contextlib.contextmanager
        def file(self, name: str) -> Iterator[BinaryIO]:
            time.sleep(0.2)
            with super().file(name) as file:
                yield file
            time.sleep(0.2)

    def slowly(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
        if done is None:
            time.sleep(0.2)

    files = Slow()
    with site.enter(app) as session:
        session.execute("CREATE INDEX ON t (w); CREATE TABLE u (i int)")
    with stored(site, app, where):
        with archive(site, 600) as (opened, context):
            time.sleep(0.2)
            part = opened.backup(app, context, files, slowly)
            place = opened.prepare(PlaceKind.NEW, app, context)
            opened.restore(place, part, files, slowly)
            assert opened.measure(place) == part.measures
            time.sleep(0.2)
            opened.replace(place, context)
            assert isinstance(opened, ScriptArchive)
            opened.run_script(app, "SELECT pg_sleep(0.3)")
        site.apply([app])
        assert not site.changes([app])
    nothing_left(site, app)
