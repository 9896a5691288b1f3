"""What a Postgres server of the test has to tell: who has sent what, which trap ran as whom, and what is there that no
app may bring about."""

from __future__ import annotations

import csv
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.postgres_servers import PLATFORM, SUPERUSER, Cluster

LOGGING = {
    "logging_collector": "on",
    "log_destination": "csvlog",
    "log_directory": "log",
    "log_filename": "hostile.log",
    "log_rotation_age": "0",
    "log_rotation_size": "0",
    "log_statement": "all",
    "log_min_messages": "log",
    "autovacuum": "off",  # it is the server's own, and runs what an app has made as the app
    "max_prepared_transactions": "4",
    "restart_after_crash": "on",
}

_TRAP, _TRAP_FAILED = "hostile-trap ", "hostile-trap-failed "
_STATEMENT = re.compile(r"(?:statement|execute [^:]*): (.*)", re.DOTALL)
# The columns of a line of csvlog, as far as they are used.
_USER, _DATABASE, _PROCESS, _SEVERITY, _MESSAGE, _APPLICATION = 1, 2, 3, 11, 13, 22

csv.field_size_limit(1 << 30)


@dataclass(frozen=True)
class Trap:
    """One run of a trap, as it told of itself."""

    spot: str
    how: str
    session: str
    current: str
    database: str
    application: str
    powers: Sequence[str]

    @property
    def excess(self) -> Sequence[str]:
        """What the login may do beyond the app. The login by which an archive acts in the app's place may pass row
        security while tables are read whose owner hides rows from itself: it reaches no table but the app's."""
        home = family(self.database)
        delegated = self.session == f"{home}__delegate" and family(self.current) == home
        return [power for power in self.powers if not (delegated and power == "bypassrls")]

    def __str__(self) -> str:
        return (
            f"{self.spot} ({self.how}) in {self.database}, run by {self.session} as {self.current} "
            f"[{self.application}]: {', '.join(self.excess) or 'no power beyond the app'}"
        )


@dataclass(frozen=True)
class Sent:
    """One statement that a client sent."""

    user: str
    database: str
    text: str
    application: str


@dataclass(frozen=True)
class Told:
    """What the server has told since the last look."""

    traps: Sequence[Trap]
    failed: Sequence[str]  # traps that could not tell of themselves
    sent: Sequence[Sent]


class Watch:
    """Reads the log of a server piece by piece."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._log = cluster.data / "log" / "hostile.csv"
        self._position = 0

    def look(self) -> Told:
        """Everything that has been said before this call, and not before the last one."""
        stamp = f"hostile-look-{uuid.uuid4()}"
        self._cluster.sql(f"SELECT '{stamp}'")
        rest = self._until(stamp)
        traps, failed, sent = [], [], []
        for line in csv.reader(rest.splitlines(keepends=True)):
            message, user, database = line[_MESSAGE], line[_USER], line[_DATABASE]
            if message.startswith(_TRAP):
                traps.append(Trap(**json.loads(message[len(_TRAP) :])))
            elif message.startswith(_TRAP_FAILED):
                failed.append(message)
            elif line[_SEVERITY] == "LOG" and (found := _STATEMENT.fullmatch(message)):
                sent.append(Sent(user, database, found[1], line[_APPLICATION]))
        return Told(traps, failed, sent)

    def _until(self, stamp: str) -> str:
        for _ in range(200):
            with self._log.open("rb") as log:
                log.seek(self._position)
                read = log.read()
            if stamp.encode() in read and read.endswith(b"\n"):
                self._position += len(read)
                return read.decode("utf-8", "replace")
            self._cluster.sql("SELECT pg_sleep(0.02)")
        raise AssertionError(f"the server's log does not show {stamp}")


# ------------------------------------------------------------------------------------------------------ what is there

_ROLES = """
SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolcanlogin FROM pg_roles
WHERE rolname !~ '^pg_' ORDER BY 1"""
_MEMBERS = """
SELECT pg_get_userbyid(roleid), pg_get_userbyid(member), admin_option FROM pg_auth_members ORDER BY 1, 2, 3"""
_DATABASES = "SELECT datname, pg_get_userbyid(datdba), datacl::text FROM pg_database ORDER BY 1"
_SETTINGS = """
SELECT coalesce(d.datname, ''), coalesce(r.rolname, ''), s.setconfig FROM pg_db_role_setting s
LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole ORDER BY 1, 2"""
_CONNECTABLE = """
SELECT r.rolname, d.datname FROM pg_roles r, pg_database d
WHERE r.rolcanlogin AND NOT r.rolsuper AND d.datallowconn AND has_database_privilege(r.oid, d.oid, 'CONNECT')
ORDER BY 1, 2"""
_OTHER_SHARED = """
SELECT 'tablespace ' || spcname || ' ' || coalesce(spcacl::text, '') FROM pg_tablespace
UNION ALL SELECT 'setting ' || name || '=' || setting FROM pg_file_settings WHERE sourcefile ~ 'auto'
UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
UNION ALL SELECT 'replication slot ' || slot_name FROM pg_replication_slots
UNION ALL SELECT 'replication origin ' || roname FROM pg_replication_origin
ORDER BY 1"""
_PARAMETERS = "SELECT 'parameter ' || parname || ' ' || paracl::text FROM pg_parameter_acl ORDER BY 1"

# Every catalog in which something has an owner, whatever version brought it.
_OWNED = """
SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r' AND NOT c.relisshared
  AND a.attname ~ 'owner$' AND a.atttypid = 'oid'::regtype ORDER BY 1"""
_OWNERS_OF = """
SELECT pg_describe_object('{named}'::regclass, o.oid, 0), pg_get_userbyid({column}) FROM {catalog} o
WHERE o.oid >= 16384 AND NOT EXISTS ( -- constructors of a range type are the server's own, whoever makes the type
  SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND '{catalog}' = 'pg_proc' AND d.objid = o.oid
    AND d.deptype = 'i' AND d.refclassid = 'pg_type'::regclass)"""
_WITHOUT_OWNER = """
SELECT 'access method ' || amname FROM pg_am WHERE oid >= 16384
UNION ALL SELECT 'default acl ' || defaclobjtype::text || pg_get_userbyid(defaclrole) || defaclacl::text
  FROM pg_default_acl
UNION ALL SELECT 'acl of schema ' || nspname || coalesce(nspacl::text, '') FROM pg_namespace
  WHERE nspname !~ '^pg_(temp|toast)'
UNION ALL SELECT 'acl of function ' || proname || proacl::text FROM pg_proc WHERE oid < 16384 AND proacl IS NOT NULL
UNION ALL SELECT 'acl of table ' || relname || relacl::text FROM pg_class WHERE oid < 16384 AND relacl IS NOT NULL
UNION ALL SELECT 'language ' || lanname || lanpltrusted::text || coalesce(lanacl::text, '') FROM pg_language
ORDER BY 1"""


@dataclass(frozen=True)
class Inventory:
    """What is on a server, but for what is inside the places of apps that are no victims.

    Args:
        shared: everything that stands in shared catalogs and is no app's.
        insides: by database, what is there and whose; with the rows of the victims' tables.
        foreign: by database of another app, what in it belongs to no role of that app.
    """

    roles: Mapping[str, Sequence[bool]]
    members: Sequence[tuple[str, str, bool]]
    connectable: Sequence[tuple[str, str]]
    shared: Sequence[str]
    insides: Mapping[str, Sequence[str]]
    foreign: Mapping[str, frozenset[str]]


def family(name: str) -> str:
    """Whose a role or database is, by the beginning of its name: of `alpha_user` and `alpha__new`, alpha."""
    return name.partition("_")[0]


def inventory(cluster: Cluster, hostile: Sequence[str], apps: Sequence[str]) -> Inventory:
    """What is there now.

    Args:
        hostile: apps whose places may hold anything that is theirs.
        apps: all apps that there may be.
    """
    databases = [row for row in cluster.sql(_DATABASES) if row[0] != "template0"]
    names = [name for (name,) in cluster.sql("SELECT datname FROM pg_database WHERE datallowconn")]
    shared = [f"database {row}" for row in databases if family(row[0]) not in apps]
    shared += [f"settings {row}" for row in cluster.sql(_SETTINGS) if family(row[1] or row[0]) not in hostile]
    shared += [text for (text,) in cluster.sql(_OTHER_SHARED)]
    if int(cluster.sql("SHOW server_version_num")[0][0]) >= 150000:
        shared += [text for (text,) in cluster.sql(_PARAMETERS)]
    return Inventory(
        roles={row[0]: row[1:] for row in cluster.sql(_ROLES)},
        members=[tuple(row) for row in cluster.sql(_MEMBERS)],
        connectable=[tuple(row) for row in cluster.sql(_CONNECTABLE)],
        shared=shared,
        insides={name: _inside(cluster, name) for name in names if family(name) not in hostile},
        foreign={name: foreign(cluster, name) for name in names if family(name) in hostile},
    )


def _owned(cluster: Cluster, database: str) -> Iterator[tuple[str, str]]:
    """Everything that somebody has made in a database, and its owner."""
    catalogs = cluster.sql(_OWNED, database=database)
    assert len(catalogs) > 12, catalogs
    # Large objects are called by the catalog of their pages.
    texts = [
        _OWNERS_OF.format(catalog=catalog, named=catalog.removesuffix("_metadata"), column=column)
        for catalog, column in catalogs
    ]
    yield from cluster.sql(" UNION ALL ".join(texts), database=database)


def foreign(cluster: Cluster, database: str) -> frozenset[str]:
    """What in the database of an app belongs to no role of that app."""
    return frozenset(
        f"{what}: {owner}" for what, owner in _owned(cluster, database) if family(owner) != family(database)
    )


def _inside(cluster: Cluster, database: str) -> list[str]:
    found = sorted(f"{what}: {owner}" for what, owner in _owned(cluster, database))
    found += [text for (text,) in cluster.sql(_WITHOUT_OWNER, database=database)]
    tables = cluster.sql(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'",
        database=database,
    )
    for (table,) in sorted(tables):
        rows = cluster.sql(f"SELECT count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t",
                           database=database)  # fmt: skip
        found.append(f"rows of {table}: {rows}")
    return found


def violations(before: Inventory, now: Inventory, apps: Sequence[str], known: frozenset[str]) -> list[str]:
    """What is wrong with what is there now, in words; nothing when no wall was passed."""
    found = []
    for name, flags in now.roles.items():
        if name not in (SUPERUSER, PLATFORM) and family(name) not in apps:
            found.append(f"a role that is nobody's: {name}")
        if any(flags[:-1]) and name not in (SUPERUSER, PLATFORM):
            found.append(f"a role with a power of its own: {name} {flags}")
    for role, member, _ in now.members:
        if member not in (SUPERUSER, PLATFORM) and not role.startswith("pg_") and family(role) != family(member):
            found.append(f"{member} is a member of {role}")
        if role.startswith("pg_") and (role, member) not in {(row[0], row[1]) for row in before.members}:
            found.append(f"{member} is a member of {role}")
    for login, database in now.connectable:
        if login != PLATFORM and family(login) != family(database):
            found.append(f"{login} may connect to {database}")
    found += _differences("shared", before.shared, now.shared)
    for database, inside in before.insides.items():
        found += _differences(database, inside, now.insides.get(database, ()))
    for database, objects in now.foreign.items():
        found += [f"in {database}: {each}" for each in sorted(objects - known)]
    return found


def _differences(where: str, before: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    yield from (f"{where}: gone: {each}" for each in sorted({*before} - {*now}))
    yield from (f"{where}: new: {each}" for each in sorted({*now} - {*before}))


def evil_files(*folders: Path) -> list[Path]:
    """Files that an attempt to get out of a server, or through a shell, has left."""
    found: list[Path] = []
    for folder in folders:
        found += [path for path in folder.rglob("*evil*") if path.name.startswith("evil")]
    return found
