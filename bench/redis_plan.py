"""A plan with nothing to do for 1,000 apps on Valkey, against reading the rules of 1,000 users in one pipeline."""

from __future__ import annotations

import redis

from bench.ground import Result, admin, apps, open_engine, project, taking_turns

APPS, RUNS = 1000, 5


def measure() -> list[Result]:
    with project(apps("app", APPS, "{stores: [redis]}"), servers="{redis: {databases: 1100}}") as folder:
        engine = open_engine(folder)
        error = engine.apply().error()
        assert error is None, error
        host, port, user, password = admin(engine, "redis")

        def floor() -> None:
            with redis.Redis(host=host, port=port, username=user, password=password) as client:
                pipeline = client.pipeline(transaction=False)
                for number in range(APPS):
                    pipeline.execute_command("ACL GETUSER", f"app{number:04}_user")
                pipeline.execute()

        def ours() -> None:
            assert engine.plan().in_sync

        mine, bare = taking_turns(RUNS, ours, floor)
    return [
        Result(
            f"plan with nothing to do, {APPS} apps on Valkey",
            mine,
            bare,
            "ACL GETUSER of each, one pipeline",
            "constant round trips",
        )
    ]
