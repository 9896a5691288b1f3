"""A project on a server of its own: a hostile app, a victim, an operator who runs every command, and what comes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.hostile.postgres_app import HostileApp, Swapper
from tests.hostile.steps import Step
from tests.support import postgres_watch
from tests.support.command import REPOSITORY, Folder, Ran
from tests.support.postgres_servers import PLATFORM, SUPERUSER, Cluster, cluster
from tests.support.postgres_watch import Inventory, Told, Watch

HOSTILE, VICTIM, COPY, RENAMED = "alpha", "beta", "gamma", "delta"
APPS = (HOSTILE, VICTIM, COPY, RENAMED)
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_FORGED = re.compile(r"^(CREATE ROLE evil_line|\\! touch)", re.MULTILINE)  # a line that begins within a name
_FAULT = ("a fault of multidb itself", "Traceback (most recent call last)")
_TOKEN = "a-token-of-the-test-0123456789"

_MANIFEST = """\
version: 1
project: hostile
runtime: external
external:
  postgres: {{url: "postgresql://{admin}@127.0.0.1:{port}/postgres", password: {{file: admin-password}}}}
defaults: {{postgres: {{roles: {roles}}}}}
apps:
  alpha:
    stores: [postgres]{more}
  beta:
    stores: [postgres]
backup: {{to: [sets/], verify: always, keep: {{last: 2, daily: 0, weekly: 0}}}}
"""
_QUOTA = "\n    quota: {postgres: {size: 1MB, enforce: read-only}}"
_EXTENSIONS = ("ltree", "hstore", "cube", "seg")
_SCHEMA = "\n    postgres: {database: unity, schema: alpha, extensions: [ltree, hstore]}"
_EXTENSION = "\n    postgres: {extensions: [ltree, hstore]}"


@dataclass(frozen=True)
class Case:
    """One server, one kind of admin, one kind of roles."""

    major: int
    admin: str
    roles: str

    def __str__(self) -> str:
        kind = "superuser" if self.admin == SUPERUSER else "createrole"
        return f"postgres-{self.major}-{kind}-{self.roles}"


@dataclass
class Outcome:
    """What one command has done."""

    ran: Ran
    told: Told
    before: Inventory
    now: Inventory
    files: Sequence[Path]


@dataclass
class Scenario:
    """The project while it goes through the steps."""

    case: Case
    cluster: Cluster
    folder: Folder
    watch: Watch
    hostile: HostileApp
    victim: str  # its address
    known: frozenset[str]  # objects of others that may be in an app's place
    statements: dict[str, set[str]] = field(
        default_factory=dict
    )  # what the admin has sent in places of apps, by command

    # ------------------------------------------------------------------------------------------------------- commands

    def run(self, step: Step) -> Outcome:
        """Prepares and runs a step; what the app does afterwards with what it was left belongs to it.

        Args:
            step: with ``beside``, the app swaps a table for a view all the time.
        """
        if step.before:
            getattr(self, step.before.replace(" ", "_"))()
        before = self.inventory()
        self.watch.look()
        names = {"hostile": HOSTILE, "victim": VICTIM, "copy": COPY, "renamed": RENAMED}
        arguments = [word.format(**names) for word in step.command.split()]
        with Swapper(self.hostile) if step.beside else contextlib.nullcontext():
            ran = serve(self.folder) if arguments == ["serve"] else self.folder.run(*arguments)
        self._call()
        told = self.watch.look()
        self._remember(arguments, told)
        files = postgres_watch.evil_files(self.folder.path, self.cluster.data)
        return Outcome(ran, told, before, self.inventory(), files)

    def inventory(self) -> Inventory:
        return postgres_watch.inventory(self.cluster, (HOSTILE, COPY, RENAMED), APPS)

    def violations(self, outcome: Outcome) -> list[str]:
        return postgres_watch.violations(outcome.before, outcome.now, APPS, self.known)

    def victim_works(self) -> bool:
        """Whether the other app can log in, read what it has, and write."""
        with psycopg.connect(self.victim) as connection:
            connection.execute("UPDATE precious SET text = text WHERE id = 1")
            return connection.execute("SELECT count(*) FROM precious WHERE text ~ 'kept'").fetchone() == (50,)

    def _remember(self, arguments: Sequence[str], told: Told) -> None:
        for sent in told.sent:
            # A source is read by whom its address names, and is no database that this admin serves. An import that
            # reads rows as a superuser is seen by the traps.
            if arguments[0] == "import" and sent.database == HOSTILE:
                continue
            # The test's own connections have no name.
            if sent.user == self.case.admin and sent.application and postgres_watch.family(sent.database) in APPS:
                self.statements.setdefault(" ".join(arguments), set()).add(sent.text)

    def _call(self) -> None:
        """The app looks for a way in that the command may have left."""
        try:
            self.hostile.call()
        except psycopg.OperationalError:  # its logins are off, or it has new credentials
            self._connect_again()
            with contextlib.suppress(psycopg.OperationalError):
                self.hostile.call()

    def _connect_again(self) -> None:
        found = self.folder.run("env", HOSTILE, "--format", "json", "--reveal")
        if found.code == 0:
            hostile = HostileApp(HOSTILE, found.json(), VICTIM)
            hostile.refusals = self.hostile.refusals
            self.hostile = hostile

    # --------------------------------------------------------------------------------------------------- preparations

    def inside_changed(self) -> None:
        """The app undoes what multidb has made inside, so that there is something to plan."""
        with psycopg.connect(self.hostile.owner, autocommit=True) as connection:
            connection.execute(
                f"REVOKE ALL ON ALL TABLES IN SCHEMA trap, public FROM {HOSTILE}_rw, {HOSTILE}_ro".encode()
            )
            connection.execute(
                f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM {HOSTILE}_rw, {HOSTILE}_ro".encode()
            )
            connection.execute(f"REVOKE USAGE ON SCHEMA public FROM {HOSTILE}_rw, {HOSTILE}_ro".encode())

    def extension_wanted(self) -> None:
        self._manifest(_EXTENSION)

    def schema_wanted(self) -> None:
        self._manifest(_SCHEMA)

    def quota_passed(self) -> None:
        self._manifest(_QUOTA)

    def quota_gone(self) -> None:
        self._manifest("")

    def addresses_written(self) -> None:
        """The hostile app's database as a source: nothing hides rows from its owner any more, who would be refused."""
        port, password = self.cluster.port, self.cluster.password
        self._connect_again()
        with psycopg.connect(self.hostile.owner, autocommit=True) as connection:
            hidden = connection.execute(
                "SELECT format('ALTER TABLE %I.%I NO FORCE ROW LEVEL SECURITY', n.nspname, c.relname) "
                "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relforcerowsecurity"
            ).fetchall()
            for (text,) in hidden:
                connection.execute(text.encode())
        for name, address in (
            ("superuser-address", f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/{HOSTILE}"),
            ("own-address", self.hostile.owner),
        ):
            path = self.folder.path / name
            path.touch(0o600)
            path.write_text(address)

    def time_passed(self) -> None:
        time_passed(self.folder)

    def greed(self, wanted: bool = True) -> None:
        with psycopg.connect(self.hostile.owner, autocommit=True) as connection:
            text = f"CREATE OR REPLACE FUNCTION trap.greedy() RETURNS boolean LANGUAGE sql AS 'SELECT {wanted}'"
            connection.execute(text.encode())

    def greed_over(self) -> None:
        self.greed(wanted=False)

    def marks_gone(self) -> None:
        roles = [name for (name,) in self.cluster.sql(f"SELECT rolname FROM pg_roles WHERE rolname ~ '^{HOSTILE}_'")]
        self.cluster.sql(
            f"COMMENT ON DATABASE {HOSTILE} IS NULL", *(f"COMMENT ON ROLE {role} IS NULL" for role in roles)
        )

    def credentials_lost(self) -> None:
        credentials_lost(self.folder)

    def _manifest(self, more: str) -> None:
        case, cluster = self.case, self.cluster
        self.folder.manifest(_MANIFEST.format(admin=case.admin, port=cluster.port, roles=case.roles, more=more))


def time_passed(folder: Folder) -> None:
    """The clone's time is up."""
    path = folder.path / "multidb.yaml"
    text = path.read_text()
    path.write_text(re.sub(r"expires: '[^']*'", "expires: '2020-01-01T00:00:00+00:00'", text))
    assert "2020-01-01" in path.read_text(), text


def credentials_lost(folder: Folder) -> None:
    """The hostile app's are in no file any more."""
    path = folder.path / ".multidb" / "secrets.json"
    document = json.loads(path.read_text())
    secrets = document["secrets"]
    document["secrets"] = {name: value for name, value in secrets.items() if not name.startswith(f"{HOSTILE}/")}
    assert document["secrets"] != secrets
    path.write_text(json.dumps(document))


def serve(folder: Folder) -> Ran:
    """The service on a free port: everything that it answers is asked for once."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from multidb.cli import main; main()", "serve", "--port", "0", "--every", "0.5"],
        cwd=folder.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "MULTIDB_TOKEN": _TOKEN, "NO_COLOR": "1"},
    )
    assert process.stdout is not None
    said = ""
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", said)):
            line = process.stdout.readline()
            assert line, said
            said += line
        deadline = time.monotonic() + 30
        pages = ("/", f"/apps/{HOSTILE}", "/audit")
        for path in (*pages, "/metrics", "/health/databases", f"/health/databases/{HOSTILE}", "/openapi.json"):
            while True:
                asked = urllib.request.Request(found[0] + path, headers={"Authorization": f"Bearer {_TOKEN}"})
                try:
                    with urllib.request.urlopen(asked, timeout=30) as answer:
                        assert answer.read()
                        break
                except urllib.error.URLError as error:  # not listening yet, or 503 until the first look is done
                    if getattr(error, "code", 503) != 503 or time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    return Ran(("serve",), process.returncode, said + out, "")


def _reference(cluster: Cluster, admin: str) -> frozenset[str]:
    """What belongs to somebody else in a database of an app that has made nothing but extensions: what they bring."""
    cluster.sql(f"CREATE DATABASE reference OWNER {admin}")
    try:
        cluster.sql(
            f"ALTER SCHEMA public OWNER TO {admin}",
            f"SET ROLE {admin}",
            *(f"CREATE EXTENSION {name}" for name in _EXTENSIONS),
            database="reference",
        )
        return postgres_watch.foreign(cluster, "reference")
    finally:
        cluster.sql("DROP DATABASE reference")


def faults(ran: Ran, step: Step) -> list[str]:
    """What is wrong with a command itself."""
    said = ran.out + ran.err
    found = [f"says {text!r}" for text in _FAULT if text in said]
    if ran.code not in step.codes:
        found.append(f"exit {ran.code}:\n{said}")
    for_programs = "csv" in ran.arguments  # values as they are; on a terminal they are shown as text
    if not for_programs and (steering := _STEERING.search(said)):
        found.append(f"steers a terminal: {steering[0]!r}")
    if not for_programs and "--sql" not in ran.arguments and (forged := _FORGED.search(said)):
        found.append(f"a name makes a line of its own: {forged[0]}\n{said}")
    return found


@contextlib.contextmanager
def scenario(case: Case) -> Iterator[Scenario]:
    """A server with the project applied, the victim's data in it, and the hostile app's place full of traps."""
    with (
        cluster(case.major, **postgres_watch.LOGGING) as made,
        tempfile.TemporaryDirectory(prefix="hostile-") as name,
    ):
        if case.admin == PLATFORM:
            made.sql(*(f"ALTER DATABASE {database} OWNER TO {PLATFORM}" for database in ("postgres", "template1")))
        else:  # or it is a stranger with power, of whom every restore tells
            made.sql(f"REVOKE CONNECT ON DATABASE postgres FROM {PLATFORM}", f"DROP ROLE {PLATFORM}")
        folder = Folder(Path(name), [])
        password = folder.path / "admin-password"
        password.write_text(made.password if case.admin == SUPERUSER else made.platform_password)
        password.chmod(0o600)
        (folder.path / "mask.sql").write_text("UPDATE trap.watched SET a = a; SELECT * FROM trap.seen")
        (folder.path / "other").mkdir()
        text = _MANIFEST.format(admin=case.admin, port=made.port, roles=case.roles, more="")
        folder.manifest(text)
        folder.ok("apply", "--yes")
        env = {app: folder.variables(app) for app in (HOSTILE, VICTIM)}
        victim = env[VICTIM]["DATABASE_URL"]
        owner = env[VICTIM].get(f"{VICTIM.upper()}_DB_MIGRATE_URL", victim)
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute("CREATE TABLE precious (id int PRIMARY KEY, text text)")
            connection.execute("INSERT INTO precious SELECT n, 'kept ' || n FROM generate_series(1, 50) n")
        hostile = HostileApp(HOSTILE, env[HOSTILE], VICTIM)
        # A table that hides rows from its owner is read by superusers' help only, and a backup says so otherwise.
        hostile.fill(without=() if case.admin == SUPERUSER else ("forced policy",))
        known = _reference(made, case.admin) | postgres_watch.foreign(made, HOSTILE)
        yield Scenario(case, made, folder, Watch(made), hostile, victim, known)
