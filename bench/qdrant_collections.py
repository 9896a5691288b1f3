"""100 collections on a Qdrant server, against bare HTTP calls as many at a time. Needs a server binary."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import urllib3

from bench.ground import Result, admin, apps, open_engine, project, taking_turns, write_manifest

APPS, RUNS, THREADS = 100, 1, 8
ENTRY = "{stores: [qdrant], qdrant: {collections: {knowledge: {size: 384}}}}"


def measure() -> list[Result]:
    with project(apps("warm", 1, ENTRY)) as folder:
        engine = open_engine(folder)
        (server,) = engine.fleet.runtime.servers()
        if server.endpoint.path:
            return []
        engine.apply()
        host, port, _, key = admin(engine, "qdrant")
        write_manifest(folder, apps("ours", APPS, ENTRY))
        planned = [
            s.text for c in open_engine(folder).plan().changes for s in c.statements if s.text.startswith("PUT ")
        ]
        calls = [text.replace("/ours", "/floor", 1).split("\n", 1) for text in planned]

        bare = urllib3.HTTPConnectionPool(host, port, maxsize=THREADS, block=True, headers={"api-key": key})

        def put(head: str, body: str) -> None:
            answer = bare.request(
                "PUT",
                head.removeprefix("PUT "),
                body=body,
                headers={"api-key": key, "content-type": "application/json"},
            )
            assert answer.status == 200, answer.data

        def get(path: str) -> None:
            assert bare.request("GET", path).status == 200

        def wave(chosen: list[list[str]]) -> None:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda each: put(*each), chosen))

        def floor() -> None:
            wave([each for each in calls if "/index" not in each[0]])
            wave([each for each in calls if "/index" in each[0]])  # an index needs its collection

        def ours() -> None:
            error = open_engine(folder).apply().error()
            assert error is None, error

        create = taking_turns(RUNS, ours, floor)
        ready = open_engine(folder)

        def look() -> None:
            get("/collections")
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda n: get(f"/collections/ours{n:04}_knowledge"), range(APPS)))

        def plan() -> None:
            assert ready.plan().in_sync

        read = taking_turns(5, plan, look)
    what = f"the same calls bare, {THREADS} at a time"
    return [
        Result(
            f"apply of {APPS} collections on Qdrant (with {APPS} tokens)",
            *create,
            what,
            "as few calls as the API allows",
        ),
        Result(
            f"plan with nothing to do, {APPS} collections", *read, f"GET of each, {THREADS} at a time", "in parallel"
        ),
    ]
