"""Runs the benchmarks, all or those named: ``python -m bench [postgres_apply ...]``. Prints a Markdown table."""

from __future__ import annotations

import sys
from importlib import import_module

BENCHMARKS = (
    "command_line",
    "job_start",
    "postgres_apply",
    "postgres_plan",
    "scan",
    "redis_plan",
    "growth",
    "app_rotation",
    "postgres_backup",
    "postgres_import",
    "postgres_moment",
    "redis_backup",
    "qdrant_backup",
    "neo4j_backup",
    "neo4j_dump",
    "backup_sets",
    "qdrant_collections",
    "health_round",
    "serve_storm",
    "client",
)


def main() -> None:
    print("| what | ratio to the floor | the floor | promised | |\n|---|---|---|---|---|")
    for name in sys.argv[1:] or BENCHMARKS:
        for result in import_module(f"bench.{name}").measure():
            print(result.row(), flush=True)
            print(f"  {name}: ours {result.ours:.3f}, floor {result.floor:.3f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
