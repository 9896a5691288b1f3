"""What is promised of every command beside a hostile Postgres app, whatever the server; a test module has a class of it
for each server, and the fixture `project`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from tests.hostile.postgres_app import REFUSED, SINCE, SPOTS
from tests.hostile.scenario import APPS, HOSTILE, VICTIM, Scenario, faults
from tests.hostile.steps import STEPS, Step
from tests.support import admin_statements, postgres_watch

__all__ = ["PostgresPromises", "keeps_its_promises", "sent_nothing_else"]

# Traps that go off when somebody only reads, by which it is known that they would tell.
_WHILE_READ = {"view", "barrier view", "policy", "index predicate", "domain", "cast to text", "in a query"}

# By hand, what a command must never bring about: where, how, and how it is undone.
_VIOLATIONS = {
    "a superuser": ("postgres", "CREATE ROLE evil SUPERUSER", "DROP ROLE evil"),
    "a role": ("postgres", "CREATE ROLE evil", "DROP ROLE evil"),
    "a power": ("postgres", f"ALTER ROLE {HOSTILE}_user CREATEDB", f"ALTER ROLE {HOSTILE}_user NOCREATEDB"),
    "a membership": (
        "postgres",
        f"GRANT {VICTIM}_ro TO {HOSTILE}_user",
        f"REVOKE {VICTIM}_ro FROM {HOSTILE}_user",
    ),
    "a predefined role": (
        "postgres",
        f"GRANT pg_read_all_data TO {HOSTILE}_readonly",
        f"REVOKE pg_read_all_data FROM {HOSTILE}_readonly",
    ),
    "a door": (
        "postgres",
        f"GRANT CONNECT ON DATABASE {VICTIM} TO {HOSTILE}_user",
        f"REVOKE CONNECT ON DATABASE {VICTIM} FROM {HOSTILE}_user",
    ),
    "a setting of the server": ("postgres", "ALTER SYSTEM SET work_mem = '5MB'", "ALTER SYSTEM RESET work_mem"),
    "a setting of a victim": (
        "postgres",
        f"ALTER ROLE {VICTIM}_user SET work_mem = '5MB'",
        f"ALTER ROLE {VICTIM}_user RESET work_mem",
    ),
    "a function of the admin": (
        HOSTILE,
        "CREATE FUNCTION public.evil() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "DROP FUNCTION public.evil()",
    ),
    "an extension": (HOSTILE, "CREATE EXTENSION tablefunc SCHEMA public", "DROP EXTENSION tablefunc"),
    "a table of the victim's": (VICTIM, "CREATE TABLE evil ()", "DROP TABLE evil"),
    "a row of the victim's": (
        VICTIM,
        "UPDATE precious SET text = 'kept no more' WHERE id = 7",
        "UPDATE precious SET text = 'kept 7' WHERE id = 7",
    ),
    "a privilege of a function": (
        VICTIM,
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) FROM PUBLIC",
    ),
}  # fmt: skip


class PostgresPromises:
    """The tests, in the order in which they are to be run."""

    def test_every_trap_is_set(self, project: Scenario) -> None:
        """What an app may not have is refused, and everything else is there."""
        refused = REFUSED | {spot for spot, major in SINCE.items() if major > project.case.major}
        assert {spot: project.hostile.refusals.get(spot) for spot in SPOTS if spot not in refused} == {
            spot: None for spot in SPOTS if spot not in refused
        }
        assert not refused - project.hostile.refusals.keys()

    def test_a_trap_tells_of_too_much_power(self, project: Scenario) -> None:
        """The positive control: a superuser who reads what is in the app's place is seen by every kind of trap."""
        project.watch.look()
        with _superuser(project, HOSTILE) as connection:
            for query in (
                "SELECT * FROM trap.seen, trap.seen_by_owner",
                "SELECT count(*) FROM trap.indexed",
                "CREATE POLICY control ON trap.named USING (('(1,x)'::trap.pair) IS NOT NULL)",
                "SELECT a::text FROM trap.cast",
                "SELECT trap.sprung('in a query')",
            ):
                connection.execute(query.encode())
        told = project.watch.look()
        powerful = {trap.spot for trap in told.traps if trap.excess}
        assert powerful >= _WHILE_READ - {"policy"}, powerful
        assert not told.failed
        did = {power for trap in told.traps for power in trap.powers if power.startswith("did ")}
        assert any("SUPERUSER" in each for each in did), did
        files = postgres_watch.evil_files(project.folder.path, project.cluster.data)
        assert {path.name for path in files} == {"evil_program", "evil_file"}
        for path in files:
            path.unlink()

    @pytest.mark.parametrize("name", _VIOLATIONS)
    def test_a_violation_is_found(self, project: Scenario, name: str) -> None:
        database, damage, repair = _VIOLATIONS[name]
        before = project.inventory()
        assert not postgres_watch.violations(before, before, APPS, project.known)
        project.cluster.sql(damage, database=database)
        try:
            assert postgres_watch.violations(before, project.inventory(), APPS, project.known)
        finally:
            project.cluster.sql(repair, database=database)
        assert not postgres_watch.violations(before, project.inventory(), APPS, project.known)

    @pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
    def test_command(self, project: Scenario, step: Step) -> None:
        keeps_its_promises(project, step)

    def test_nobody_with_power_sent_anything_else(self, project: Scenario) -> None:
        """Every statement that the admin's login has sent to a database of an app is on a closed list. Runs last."""
        sent_nothing_else(project)


def keeps_its_promises(project: Scenario, step: Step) -> None:
    """Runs a command beside the hostile app: nothing that the app has made was run with more than the app's own rights,
    nothing came of it that is not the app's, the command gave an honest answer, and the other app works."""
    outcome = project.run(step)
    powerful = [str(trap) for trap in outcome.told.traps if trap.excess]
    problems = [f"ran with too much power: {each}" for each in dict.fromkeys(powerful)]
    problems += [f"a trap failed: {each}" for each in outcome.told.failed]
    problems += [f"left: {each}" for each in project.violations(outcome)]
    problems += [f"left the file {each}" for each in outcome.files]
    problems += faults(outcome.ran, step)
    problems += [] if project.victim_works() else [f"{VICTIM} has other data"]
    assert not problems, "\n".join(problems)


def sent_nothing_else(project: Scenario) -> None:
    """Every statement of the admin in an app's database, so far, is on the closed list."""
    assert project.statements
    unknown = {
        command: found
        for command, texts in project.statements.items()
        if (found := sorted(text for text in texts if not admin_statements.known(text)))
    }
    assert not unknown, "\n".join(f"{command}: {text}" for command, texts in unknown.items() for text in texts)


@contextlib.contextmanager
def _superuser(project: Scenario, database: str) -> Iterator[psycopg.Connection]:
    """A superuser's transaction that is rolled back: what a trap does in it does not stay, but for files."""
    cluster = project.cluster
    with psycopg.connect(
        host="127.0.0.1", port=cluster.port, user="postgres", password=cluster.password, dbname=database
    ) as connection:
        try:
            yield connection
        finally:
            connection.rollback()
