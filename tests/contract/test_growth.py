"""What a command costs grows by the same for each app: sessions and statements, as the server itself has them."""

from __future__ import annotations

import itertools
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from multidb.audit import audit
from multidb.engine import Engine
from multidb.environment import environment, environments
from multidb.fleet import Fleet
from multidb.health import check
from multidb.model import App, Project, RuntimeKind, ServerSpec
from multidb.provisioners import provisioner
from multidb.provisioners.postgres.provision import interior, summary
from multidb.provisioners.postgres.provision.options import ServerOptions as PostgresOptions
from multidb.rotation import Rotation
from multidb.state import ProjectState
from multidb.usage import look
from tests.contract.case_redis import as_admin, real_server, valkey_binary
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime
from tests.support.postgres_servers import cluster, cluster_at

pytestmark = pytest.mark.server

SIZES = (
    6,
    9,
    12,
)  # above the number from which pairs are drawn below, and from which a password's keys are derived once


def _rotated(engine: Engine, *, finish: bool) -> None:
    apps = list(engine.project.apps)
    rotation = Rotation(engine, apps, None, lambda names: dict.fromkeys(names, True))
    rotation.finish(apps, force=True) if finish else rotation.prepare(apps)
    assert not rotation.errors, rotation.errors


COMMANDS: Mapping[str, Callable[[Engine], Any]] = {
    "apply": lambda engine: engine.apply(),
    "plan": lambda engine: engine.plan(),
    "env of all": lambda engine: list(environments(engine.fleet, list(engine.project.apps))),
    "env of one": lambda engine: environment(engine.fleet, next(iter(engine.project.apps))),
    "health": lambda engine: check(engine.fleet),
    "usage": lambda engine: look(engine.fleet, keep=False),
    "audit": lambda engine: audit(engine.fleet, seed=1, most=1),
    "rotate": lambda engine: _rotated(engine, finish=False),
    "rotate --finish": lambda engine: _rotated(engine, finish=True),
}

Cost = tuple[int, int]
"""Sessions, statements."""

Stage = tuple[RealServer, Callable[[], Cost], Callable[[], None]]
"""A server, what it has cost so far, and what takes away the databases of the size before."""

# What each further app may cost. An apply enters its database twice, to make what is inside and to see that it took
# effect, and looks who is in the way of a statement that lasts; an attacker of an audit comes to the doors of the
# server and of three others, and into its own place, with all that it tries there. A rotation comes in once by each
# credential that it tries; each login that is turned off has four statements, two of them in a transaction.
MOST: Mapping[str, Mapping[str, Cost]] = {
    "postgres": {
        "apply": (3, 6),
        "plan": (1, 1),
        "env of all": (0, 0),
        "env of one": (0, 0),
        "health": (1, 1),
        "usage": (1, 1),
        "audit": (17, 240),
        "rotate": (1, 1),
        "rotate --finish": (0, 12),
    },
    "redis": {
        "apply": (0, 1),
        "plan": (0, 0),
        "env of all": (0, 0),
        "env of one": (0, 0),
        "health": (1, 9),
        "usage": (0, 1),
        "audit": (6, 190),
        "rotate": (1, 8),
        "rotate --finish": (1, 5),
    },
}
# What a command may take beside: one session of the admin's. A statement counts with those that open the session; on
# Valkey these are a command each.
ONCE: Mapping[str, Mapping[str, Cost]] = {
    "postgres": {"plan": (1, 4), "health": (1, 1)},
    "redis": {"plan": (1, 16), "health": (1, 14)},
}
SLACK = 1  # of a slope: a statement that lasts on a slow machine is looked at by one more


@pytest.fixture(scope="module")
def postgres() -> Iterator[Stage]:
    with cluster(18, log_statement="all", log_connections="authorization") as made:

        def counted() -> Cost:
            made.sql("SELECT 1")  # what is logged before it has been written
            text = made.log.read_text(errors="replace")
            return text.count("connection authorized: "), len(re.findall(r"LOG:  (?:statement|execute [^:]*): ", text))

        def forget() -> None:
            for (name,) in made.sql("SELECT datname FROM pg_database WHERE starts_with(datname, 'g')"):
                made.sql(f"DROP DATABASE {name} WITH (FORCE)")

        yield RealServer(made.server(timeout=30), made.admin(), PostgresOptions()), counted, forget


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with real_server(tmp_path_factory.mktemp("valkey"), binary=valkey_binary) as real:

        def counted() -> Cost:
            with as_admin(real) as client:
                said = str(client.execute_command("INFO", "stats"))
            connections, commands = (
                int(re.search(rf"{name}:([0-9]+)", said)[1])  # type: ignore[index]
                for name in ("total_connections_received", "total_commands_processed")
            )
            return connections, commands

        yield real, counted, lambda: None


@pytest.fixture(params=["postgres", "redis"])
def site(request: pytest.FixtureRequest) -> tuple[str, *Stage]:
    return request.param, *request.getfixturevalue(request.param)


def test_each_app_costs_what_any_other_costs(site: tuple[str, *Stage], tmp_path: Path) -> None:
    store, real, counted, forget = site
    costs: dict[str, list[Cost]] = {}
    for size in SIZES:
        forget()
        project = _project(store, size, real, tmp_path)
        for command, run in COMMANDS.items():
            engine = _engine(project, real)
            before = counted()
            run(engine)
            after = counted()
            costs.setdefault(command, []).append((after[0] - before[0], after[1] - before[1]))
    grown = {command: _for_each(found) for command, found in costs.items()}
    for command, (first, second) in grown.items():
        for which in (0, 1):
            assert second[which] <= first[which] + SLACK, f"{command} grows faster than the apps: {costs[command]}"
            assert second[which] <= MOST[store][command][which], f"{command}: {costs[command]}"
    looking = counted(), counted()  # a look at what it has cost costs something itself
    for command, most in ONCE[store].items():
        for which in (0, 1):
            by_apps, by_looking = SIZES[0] * grown[command][0][which], looking[1][which] - looking[0][which]
            once = costs[command][0][which] - by_apps - by_looking
            assert once <= most[which], f"{command} takes {once} beside what its apps take: {costs[command]}"


@pytest.mark.rare
def test_what_a_plan_computes_grows_as_the_apps_do(postgres: Stage, tmp_path: Path) -> None:
    """By the calls of functions in all of its threads: nothing is looked through again for each app."""
    real, _, forget = postgres
    sizes, calls = (40, 80, 160), []
    for size in sizes:
        forget()
        project = _project("postgres", size, real, tmp_path)
        assert _engine(project, real).apply().error() is None
        engine = _engine(project, real)
        calls.append(_calls(lambda: engine.plan()))  # noqa: B023 (called at once)
    first, second = ((calls[n + 1] - calls[n]) / (sizes[n + 1] - sizes[n]) for n in (0, 1))
    assert second <= 1.15 * first, f"{calls} calls for {sizes} apps"


def _calls(work: Callable[[], object]) -> int:
    """How many functions it calls, those of C included."""
    made = itertools.count()

    def counted(frame: object, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            next(made)

    threading.setprofile(counted)
    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return next(made)


def test_a_plan_asks_the_long_question_only_where_the_short_one_shows_a_difference(
    postgres: Stage, tmp_path: Path
) -> None:
    real, _, forget = postgres
    forget()
    project = _project("postgres", 3, real, tmp_path)
    assert _engine(project, real).apply().error() is None
    server = cluster_at(real.server.endpoint.port)
    server.sql("GRANT CREATE ON SCHEMA public TO PUBLIC", database=next(iter(project.apps)))

    before = len(server.log.read_bytes())
    assert not _engine(project, real).plan().in_sync
    server.sql("SELECT 1")  # what is logged before it has been written
    asked = server.log.read_bytes()[before:].decode().replace("\n\t", "\n")

    assert asked.count(summary.QUERY) == len(project.apps)
    assert asked.count(interior.INTERIOR) == 1


def _project(store: str, size: int, real: RealServer, folder: Path) -> Project:
    root = folder / str(size)
    root.mkdir()
    options = provisioner(store).app_options()
    names = [f"g{size}n{number:02}" for number in range(size)]
    return Project(
        name=f"g{size}",
        runtime=RuntimeKind.EMBEDDED,
        apps={app: App(app, app, {store: options}, where=f"multidb.yaml:{app}") for app in names},
        servers=(ServerSpec(store, store, real.options),),
        root=str(root),
    )


def _engine(project: Project, real: RealServer) -> Engine:
    return Engine(Fleet(project, ProjectState(Path(project.root)), runtime=GivenRuntime(real), command="test"))


def _for_each(found: list[Cost]) -> list[tuple[float, float]]:
    """What each further app has cost, from size to size."""
    steps = zip(zip(SIZES, found, strict=True), list(zip(SIZES, found, strict=True))[1:], strict=False)
    return [((more[0] - less[0]) / (b - a), (more[1] - less[1]) / (b - a)) for (a, less), (b, more) in steps]
