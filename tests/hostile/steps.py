"""Every command that multidb has, as an operator runs it beside a hostile app: the one list that the suite goes by.

A command that is not in it fails `test_completeness.py`. A command that reaches no server is in it all the same: what
an app has made may have come into a file that it reads.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["IMPORTS", "STEPS", "Step"]


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        command: its arguments; ``{hostile}``, ``{victim}`` and ``{copy}`` are apps.
        codes: exit codes that are an honest answer here.
        before: the name of a preparation of the scenario that is done first.
        beside: a session of the hostile app is at work meanwhile.
    """

    command: str
    codes: tuple[int, ...] = (0,)
    before: str = ""
    beside: bool = False

    @property
    def name(self) -> str:
        return "beside-" * self.beside + "-".join(
            self.command.replace("{", "").replace("}", "").replace("--", "").split()[:5]
        ).replace("/", "")


# What the app has opened to everybody in its own database comes back with a set, and the audit at the end names it.
_OPEN = (0, 1)

STEPS: tuple[Step, ...] = (
    Step("validate"),
    Step("validate --connect"),
    Step("schema"),
    Step("completion bash"),
    Step("init -f other/multidb.yaml"),
    Step("up", codes=(3,)),  # not ours to start
    Step("status"),
    Step("doctor", codes=(0, 1)),
    Step("logs", codes=(3,)),
    Step("plan --deep -v", before="inside changed"),
    Step("plan --check", codes=(1,)),
    Step("plan --sql --shallow"),
    Step("plan --out saved.json"),
    Step("apply saved.json --yes"),
    Step("apply --yes", before="extension wanted"),
    Step("plan {hostile}", before="schema wanted"),
    Step("move {hostile} --accept --yes-destroy {hostile}", codes=(3,)),  # it has things in several schemas
    Step("move {hostile}", before="extension wanted"),
    Step("import --scan"),
    Step("show {hostile}"),
    Step("env {hostile} --reveal"),
    Step("render"),
    Step("apps"),
    Step("connect {hostile}"),
    Step("connect {hostile} --read-only --json"),
    Step("health", codes=(0, 1)),  # no backup yet
    Step("health --read-only", codes=(0, 1)),
    Step("audit --all-pairs --report audit.md", codes=(0, 1)),
    Step("usage --slow", codes=(0, 1)),
    Step("usage --enforce", codes=(0, 1), before="quota passed"),
    Step("health {hostile}", codes=(0, 1)),
    Step("query SELECT/**/*/**/FROM/**/trap.checks", codes=(0, 1)),
    Step("query SELECT/**/relname/**/FROM/**/pg_class --limit 0 --format csv"),
    Step("query SELECT/**/count(*)/**/FROM/**/pg_class --json --apps {victim},{hostile}"),
    Step("backup {hostile}"),
    Step("usage --enforce", codes=(0, 1), before="quota gone"),
    Step("backup --quiesce"),
    Step("backup --due"),
    Step("backups list"),
    Step("backups show {hostile}"),
    Step("backups verify {hostile}"),
    Step("backups copy --to more/"),
    Step("backups prune --yes"),
    Step("restore {hostile} --replace", codes=_OPEN),
    # It makes things of its own while its set is loaded: the set is refused or loaded, and nothing becomes the admin's.
    Step("backup {hostile}", codes=(0, 6), before="greed"),
    Step("restore {hostile} --replace", codes=(0, 1, 6)),
    Step("backup {hostile}", before="greed over"),
    Step("restore {hostile} --table trap.checks --table trap.named --replace", codes=_OPEN),
    Step("restore {hostile} --as {copy}", codes=_OPEN),
    Step("remove-app {copy} --no-backup --yes"),
    Step("purge {copy} --yes-destroy {copy}"),
    Step("clone {hostile} {copy} --ttl 1h --mask mask.sql", codes=_OPEN),
    Step("rename-app {copy} {renamed} --no-backup --incomplete --accept --yes-destroy {copy}", codes=_OPEN),
    Step("rename-app {renamed} {copy} --no-backup --incomplete --accept --yes-destroy {renamed}", codes=_OPEN),
    Step("expire", before="time passed"),
    Step("apply --yes --adopt {hostile}", before="marks gone"),
    Step("apply --yes --regenerate {hostile}", before="credentials lost"),
    Step("rotate {hostile}"),
    Step("rotate {hostile} --finish --force --yes"),
    Step("add-app {copy} --stores postgres --extension ltree --yes"),
    Step("recover {hostile}", codes=(2, 3)),  # for a Neo4j whose admin was locked out
    Step('secrets move --to {{"age":{{"file":"secrets.age"}}}}', codes=(2,)),  # without a recipient nothing is moved
    Step("secrets move --to file"),
    Step("secrets rekey", codes=(2,)),
    Step("state show"),
    Step("state pull"),
    Step("state push copy.json", codes=(2,)),  # there is none
    Step("state move --to .multidb/"),
    Step("state recover", codes=(0, 1)),
    Step("state unlock 1", codes=(2,)),
    Step("serve"),
    # What an app does to its own place while it is backed up costs it that backup, and nobody else anything.
    Step("plan --check", codes=(0, 1), beside=True),
    Step("apply --yes", codes=(0, 4, 5), beside=True),
    Step("usage --slow", codes=(0, 1), beside=True),
    Step("backup", codes=(0, 6), beside=True),
    Step("backups verify {hostile}", beside=True),
    Step("restore {hostile} --replace", codes=(0, 1, 4, 6), beside=True),
    Step("remove-app {hostile} --yes"),
    Step("undo-remove {hostile}"),
    Step("remove-app {hostile} --no-backup --yes"),
    Step("history -v"),
    Step("history {hostile} --json"),
    Step("purge"),
    Step("purge {hostile} --yes-destroy {hostile}"),
    Step("restart", codes=(3,)),
    Step("down", codes=(3,)),
)

# Its database is a source, whose address names a superuser, and then the app itself.
IMPORTS: tuple[Step, ...] = (
    Step("add-app {copy} --stores postgres --extension ltree --yes"),
    Step("import {copy} --from-postgres file:superuser-address", codes=(3,), before="addresses written"),
    Step("import {copy} --from-postgres file:superuser-address --yes", codes=(3,)),
    Step("import {copy} --from-postgres file:own-address"),
    Step("import {copy} --from-postgres file:own-address --yes", codes=_OPEN),
    Step("import {copy} --from-postgres file:own-address --replace --yes", codes=_OPEN),
    Step("import {copy} --from-postgres file:own-address --live --yes", codes=(3,)),
    Step("import {copy} --abort", codes=(2,)),  # there is nothing to give up
)
