"""How long a set of an empty app takes, four stores' worth of ceremony: against logging in to each of its servers."""

from __future__ import annotations

from bench.backup_ground import peak, somewhere
from bench.ground import Result, apps, open_engine, project, quiet, taking_turns
from multidb.backup.creation import make_sets
from multidb.fleet import Scope

APPS, RUNS = 20, 3


def measure() -> list[Result]:
    with project(apps("app", APPS, "{stores: [postgres, redis]}")) as folder, somewhere() as sets:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error

        def ours() -> None:
            assert all(made.ok for made in make_sets(engine, Scope(), to=[str(sets)], progress=quiet))

        def floor() -> None:
            for server in engine.fleet.servers(Scope()):
                for _ in range(APPS):
                    with engine.fleet.open(server):
                        pass

        mine, bare = taking_turns(RUNS, ours, floor)
    note = f"{60 * APPS / mine:.0f} sets a minute, {peak()}"
    return [Result(f"sets of {APPS} empty apps", mine, bare, "a login to each server for each app", "", note)]
