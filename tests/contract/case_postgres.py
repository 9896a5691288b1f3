"""Postgres for the contract suite: 18 and 15, each with a superuser as admin, and with one that is none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from multidb.model import Server
from multidb.provisioners.postgres import PROVISIONER
from multidb.provisioners.postgres.provision.options import ServerOptions
from multidb.secrets import Secret
from tests.support.case import Drift, Lesser, RealServer, Refused, StoreCase, Tenant, Threat
from tests.support.load_postgres import CLIENTS
from tests.support.postgres_servers import PLATFORM, SUPERUSER, cluster, cluster_at

# ------------------------------------------------------------------------------------------------------ the servers


def _starts(major: int, admin: str) -> Callable[[Path], contextlib.AbstractContextManager[RealServer]]:
    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[RealServer]:
        with cluster(major) as made:
            if admin == PLATFORM:  # as managed services do; what happens otherwise has a test of its own
                made.sql(*(f"ALTER DATABASE {name} OWNER TO {PLATFORM}" for name in ("postgres", "template1")))
            assert made.process is not None
            yield RealServer(
                server=made.server(admin),
                admin=made.admin(admin),
                options=ServerOptions(),
                pid=made.process.pid,
                kill=made.crash,
                restart=made.start,
            )

    return start


def _sql(real: RealServer, *statements: str, database: str = "postgres") -> list[Any]:
    return cluster_at(real.server.endpoint.port).sql(*statements, database=database)


# ------------------------------------------------------------------------------------------------ what an app does


def _url(tenant: Tenant, login: str = "user") -> str:
    prefix = tenant.app.upper()
    migrate = tenant.env.get(f"{prefix}_DB_MIGRATE_URL", tenant.env["DATABASE_URL"])
    return {"user": tenant.env["DATABASE_URL"], "readonly": tenant.env[f"{prefix}_DB_READONLY_URL"], "owner": migrate}[
        login
    ]


def _as(tenant: Tenant, *statements: str, login: str = "user", **connection: str) -> list[Any]:
    with psycopg.connect(_url(tenant, login), autocommit=True, **connection) as opened:
        rows: list[Any] = []
        for statement in statements:
            cursor = opened.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description is not None else []
        return rows


def _use(tenant: Tenant) -> None:
    _as(tenant, "CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY, text text)", login="owner")
    _as(tenant, "INSERT INTO notes (text) VALUES ('kept')")
    assert _as(tenant, "SELECT text FROM notes LIMIT 1", login="readonly") == [("kept",)]
    _as(tenant, "CREATE SCHEMA IF NOT EXISTS more", "CREATE TABLE IF NOT EXISTS more.things (a int)", login="owner")
    _as(tenant, "SELECT * FROM more.things", login="readonly")


@contextlib.contextmanager
def _session(tenant: Tenant) -> Iterator[Callable[[], object]]:
    with psycopg.connect(tenant.env["DATABASE_URL"], autocommit=True) as opened:
        yield lambda: opened.execute("SELECT 1").fetchone()


# --------------------------------------------------------------------------------------- admins who may do too little


@contextlib.contextmanager
def _lesser(real: RealServer, attributes: str) -> Iterator[tuple[Server, Secret]]:
    cluster, password = cluster_at(real.server.endpoint.port), "of-the-lesser-admin"
    cluster.sql(
        f"CREATE ROLE lesser LOGIN {attributes} PASSWORD '{password}'", "GRANT CONNECT ON DATABASE postgres TO lesser"
    )
    try:
        yield cluster.server("lesser"), Secret(password)
    finally:
        cluster.sql("DROP OWNED BY lesser", "DROP ROLE lesser")


_LESSER = (
    Lesser("nothing", lambda real: _lesser(real, ""), "may not make logins (CREATEROLE) and databases (CREATEDB)"),
    Lesser("no logins", lambda real: _lesser(real, "CREATEDB"), "may not make logins (CREATEROLE)"),
    Lesser("no databases", lambda real: _lesser(real, "CREATEROLE"), "may not make databases (CREATEDB)"),
)


# ------------------------------------------------------------------------------------------------------- squatters


_OLD = '"Old ""one""; -- 🐘"'  # a name that every careless quoting stumbles over


def _squat(real: RealServer, app: str) -> None:
    admin = real.server.endpoint.user
    _sql(real, f'CREATE DATABASE "{app}" OWNER "{admin}"')
    owner = admin
    if admin == SUPERUSER:
        _sql(real, f"CREATE ROLE {app}_user LOGIN PASSWORD 'of old'")
        owner = f"{app}_user"
        _sql(real, f'GRANT CREATE ON SCHEMA public TO "{owner}"', database=app)
    _sql(
        real,
        f'SET ROLE "{owner}"',
        f"CREATE TABLE {_OLD} (id serial, text text)",
        f"INSERT INTO {_OLD} (text) VALUES ('precious')",
        "CREATE FUNCTION twice(int, text DEFAULT 'x') RETURNS int LANGUAGE sql AS 'SELECT 2 * $1'",
        "CREATE TYPE mood AS ENUM ('fine')",
        "CREATE VIEW seen AS SELECT 1 AS one",
        database=app,
    )


def _squatted(real: RealServer, app: str) -> bool:
    return _sql(real, f"SELECT text FROM {_OLD}", database=app) == [("precious",)]


def _remove(real: RealServer, app: str) -> None:
    _sql(real, f'DROP DATABASE IF EXISTS "{app}" WITH (FORCE)')
    ours = f"^{app}_(owner|rw|ro|user|user_b|readonly|readonly_b|migrate|migrate_b|restricted)$"
    roles = _sql(real, f"SELECT rolname FROM pg_roles WHERE rolname ~ '{ours}'")
    for (role,) in roles:
        _sql(real, f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')


# ----------------------------------------------------------------------------------------------------------- drifts


def _by_hand(*statements: str) -> Callable[[RealServer, str], None]:
    """Statements run as superuser in the maintenance database; ``{app}`` is the app."""
    return lambda real, app: _none(_sql(real, *(statement.format(app=app) for statement in statements)))


def _inside(*statements: str) -> Callable[[RealServer, str], None]:
    """The same in the app's database."""
    return lambda real, app: _none(_sql(real, *(text.format(app=app) for text in statements), database=app))


def _by_admin(*statements: str) -> Callable[[RealServer, str], None]:
    """The same as the admin login: what was granted can only be taken back by who granted it, or by a superuser."""

    def damage(real: RealServer, app: str) -> None:
        _sql(real, f"SET ROLE {real.server.endpoint.user}", *(statement.format(app=app) for statement in statements))

    return damage


def _none(_: object) -> None:
    return None


_STRANGER = "DO $$ BEGIN CREATE ROLE stranger; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
_MEMBERSHIP = ("membership", "admin", "inherit")

# Of the logins that may make things themselves.
_SPLIT_DRIFTS = (
    Drift(
        "what a login makes unreadable",
        _inside("ALTER DEFAULT PRIVILEGES FOR ROLE {app}_user REVOKE SELECT ON TABLES FROM {app}_ro, {app}_owner"),
        ("default_privileges",),
    ),
)

_DRIFTS = (
    Drift("password changed", _by_hand("ALTER ROLE {app}_user PASSWORD 'by hand'"), ("password",)),
    Drift("login switched off", _by_hand("ALTER ROLE {app}_user NOLOGIN"), ("login",)),
    Drift("owner role can log in", _by_hand("ALTER ROLE {app}_owner LOGIN"), ("login",)),
    Drift("connection limit of a login", _by_hand("ALTER ROLE {app}_user CONNECTION LIMIT 1"), ("connection_limit",)),
    Drift("login expired", _by_hand("ALTER ROLE {app}_user VALID UNTIL '2020-01-01'"), ("valid_until",)),
    Drift("login inherits", _by_hand("ALTER ROLE {app}_readonly NOINHERIT"), ("inherit",)),
    Drift("login may create databases", _by_hand("ALTER ROLE {app}_user CREATEDB"), ("createdb",)),
    Drift("login may create roles", _by_hand("ALTER ROLE {app}_user CREATEROLE"), ("createrole",)),
    Drift("everybody may connect", _by_hand("GRANT CONNECT ON DATABASE {app} TO PUBLIC"), ("privileges",)),
    Drift("nobody has been shut out yet", _by_hand("GRANT ALL ON DATABASE {app} TO PUBLIC"), ("privileges",)),
    Drift("a privilege too many", _by_hand("GRANT CREATE ON DATABASE {app} TO {app}_ro"), ("privileges",)),
    Drift(
        "a privilege to pass on",
        _by_hand("GRANT CONNECT ON DATABASE {app} TO {app}_owner WITH GRANT OPTION"),
        ("privileges",),
    ),
    Drift(
        "everybody may connect, by the leave of somebody else",
        _by_hand(
            _STRANGER.replace("stranger", "bystander"),  # the admin is to be the one who makes the stranger
            "GRANT CONNECT ON DATABASE {app} TO bystander WITH GRANT OPTION",
            "SET ROLE bystander",
            "GRANT CONNECT ON DATABASE {app} TO PUBLIC",
        ),
        ("privileges",),
    ),
    Drift("a privilege missing", _by_hand("REVOKE CONNECT ON DATABASE {app} FROM {app}_ro"), ("privileges",)),
    Drift("a stranger is a member", _by_admin(_STRANGER, "GRANT {app}_ro TO stranger"), _MEMBERSHIP),
    Drift("a login belongs elsewhere", _by_admin(_STRANGER, "GRANT stranger TO {app}_user"), _MEMBERSHIP),
    Drift("a membership missing", _by_admin("REVOKE {app}_ro FROM {app}_readonly"), _MEMBERSHIP),
    Drift(
        "a membership with admin option",
        _by_admin("GRANT {app}_ro TO {app}_readonly WITH ADMIN OPTION"),
        _MEMBERSHIP,
    ),
    Drift("no timeout", _by_hand("ALTER ROLE {app}_user IN DATABASE {app} SET statement_timeout = 0"), ("values",)),
    Drift("settings gone", _by_hand("ALTER ROLE {app}_user IN DATABASE {app} RESET ALL"), ("settings of login",)),
    Drift(
        "read-only login writes",
        _by_hand("ALTER ROLE {app}_readonly IN DATABASE {app} SET default_transaction_read_only = off"),
        ("values",),
    ),
    Drift("database limited", _by_hand("ALTER DATABASE {app} CONNECTION LIMIT 0"), ("connection_limit",)),
    Drift("database shut", _by_hand("ALTER DATABASE {app} ALLOW_CONNECTIONS false"), ("allow_connections",)),
    Drift("database is a template", _by_hand("ALTER DATABASE {app} IS_TEMPLATE true"), ("template",)),
    Drift("everybody in the schema", _inside("GRANT ALL ON SCHEMA public TO PUBLIC"), ("schema_privileges",)),
    Drift("reader shut out", _inside("REVOKE USAGE ON SCHEMA public FROM {app}_ro"), ("schema_privileges",)),
    Drift("schema dropped", _inside("DROP SCHEMA public CASCADE"), ("schema_owner",)),
    Drift(
        "future tables unreadable",
        _inside("ALTER DEFAULT PRIVILEGES FOR ROLE {app}_owner REVOKE SELECT ON TABLES FROM {app}_ro"),
        ("default_privileges",),
    ),
    Drift(
        "future functions for everybody",
        _inside("ALTER DEFAULT PRIVILEGES FOR ROLE {app}_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC"),
        ("default_privileges",),
    ),
    Drift("extension dropped", _inside("DROP EXTENSION ltree CASCADE"), ("extensions",)),
    Drift("server database open", _by_hand("GRANT CONNECT ON DATABASE postgres TO PUBLIC"), ("public",)),
)

# Only a superuser can put these right.
_SUPERUSER_DRIFTS = (
    Drift(
        "a member by the leave of a member",
        _by_hand(
            _STRANGER,
            "GRANT {app}_ro TO stranger WITH ADMIN OPTION",
            "SET ROLE stranger",
            "GRANT {app}_ro TO {app}_user",
        ),
        _MEMBERSHIP,
    ),
    Drift("a login reads files", _by_hand("GRANT pg_read_server_files TO {app}_user"), _MEMBERSHIP),
    Drift("login is superuser", _by_hand("ALTER ROLE {app}_user SUPERUSER"), ("superuser",)),
    Drift("login bypasses row security", _by_hand("ALTER ROLE {app}_user BYPASSRLS"), ("bypassrls",)),
    Drift("login may replicate", _by_hand("ALTER ROLE {app}_user REPLICATION"), ("replication",)),
    Drift("no password", _by_hand("ALTER ROLE {app}_user PASSWORD NULL"), ("password",)),
    Drift("owner role has a password", _by_hand("ALTER ROLE {app}_owner PASSWORD 'by hand'"), ("password",)),
    Drift("database belongs to the app", _by_hand("ALTER DATABASE {app} OWNER TO {app}_owner"), ("belongs_to",)),
    Drift("schema belongs to another", _inside("ALTER SCHEMA public OWNER TO postgres"), ("schema_owner",)),
    Drift(
        "objects of another owner",
        _inside(
            "CREATE TABLE t (id serial)", "CREATE SCHEMA s", "CREATE DOMAIN s.d AS int", "CREATE VIEW s.v AS SELECT 1"
        ),
        ("misowned",),
    ),
    Drift(
        "objects of the app's own logins",
        _inside(
            "CREATE TABLE u (id serial)",
            "ALTER TABLE u OWNER TO {app}_user",
            "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "ALTER FUNCTION g() OWNER TO {app}_readonly",
        ),
        ("misowned",),
    ),
)

# ---------------------------------------------------------------------------------------------------------- threats

_DENIED = ("42501",)
_AT_THE_DOOR = "permission denied for database"


@contextlib.contextmanager
def _refusal() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate in _DENIED or (error.sqlstate is None and _AT_THE_DOOR in str(error)):
            raise Refused(str(error)) from error
        raise


def _try(text: str, login: str = "user") -> Callable[[Tenant, Tenant], None]:
    """A statement in the attacker's own database; ``{a}`` is the attacker, ``{b}`` the victim."""

    def attempt(attacker: Tenant, victim: Tenant) -> None:
        with _refusal():
            _as(attacker, text.format(a=attacker.app, b=victim.app), login=login)

    return attempt


def _does(*texts: str, login: str = "user") -> Callable[[Tenant], None]:
    return lambda attacker: _none(_as(attacker, *(text.format(a=attacker.app) for text in texts), login=login))


def _enter(database: str, login: str = "user") -> Callable[[Tenant, Tenant], None]:
    def attempt(attacker: Tenant, victim: Tenant) -> None:
        with _refusal():
            _as(attacker, "SELECT 1", login=login, dbname=database.format(b=victim.app))

    return attempt


def _kill_session(attacker: Tenant, victim: Tenant) -> None:
    with psycopg.connect(_url(victim), autocommit=True) as session, _refusal():
        _as(attacker, "SET ROLE NONE", f"SELECT pg_terminate_backend({session.info.backend_pid})")


def _kill_own_session(attacker: Tenant) -> None:
    with psycopg.connect(_url(attacker), autocommit=True) as session:
        ended = _as(attacker, "SET ROLE NONE", f"SELECT pg_terminate_backend({session.info.backend_pid})")
        assert ended == [(True,)]


def _reopen(attacker: Tenant, victim: Tenant) -> None:
    """The server calls it a success and only warns, so what counts is the privilege afterwards."""
    question = (
        "SELECT count(*) FROM pg_database, aclexplode(datacl) x "
        f"WHERE datname = current_database() AND (x.grantee = 0 OR x.grantee = '{victim.app}_user'::regrole)"
    )
    with _refusal():
        _as(attacker, f"GRANT CONNECT ON DATABASE {attacker.app} TO PUBLIC, {victim.app}_user", login="owner")
    if _as(attacker, question) == [(0,)]:
        raise Refused("nothing was granted")


def _change_own_password(attacker: Tenant) -> None:
    with psycopg.connect(_url(attacker), autocommit=True) as session:
        session.execute("SET ROLE NONE")  # back from the owner to itself
        info = session.info
        verifier = session.pgconn.encrypt_password(info.password.encode(), info.user.encode(), b"scram-sha-256")
        session.execute(f"ALTER ROLE {info.user} PASSWORD '{verifier.decode()}'".encode())


def _untrusted_extension(attacker: Tenant, victim: Tenant) -> None:
    (name,) = _as(
        attacker,
        "SELECT v.name FROM pg_available_extension_versions v WHERE v.superuser AND NOT v.trusted AND NOT v.installed "
        "AND v.requires IS NULL ORDER BY v.name LIMIT 1",
    )[0]
    with _refusal():
        _as(attacker, f'CREATE EXTENSION "{name}"', login="owner")


_OWN_TABLE = "CREATE TABLE IF NOT EXISTS threatened (a int)"

_THREATS = (
    Threat("connect to another app's database", _enter("{b}"), _does("SELECT 1")),
    Threat("connect to it with the read-only login", _enter("{b}", "readonly"), _does("SELECT 1", login="readonly")),
    Threat("connect to it with the owning login", _enter("{b}", "owner"), _does("SELECT 1", login="owner")),
    Threat("connect to postgres", _enter("postgres"), _does("SELECT 1")),
    Threat("connect to template1", _enter("template1"), _does("SELECT 1")),
    Threat("become another app's owner", _try("SET ROLE {b}_owner"), _does("SET ROLE {a}_owner", login="owner")),
    Threat("become another app's login", _try("SET ROLE {b}_user"), _does("SET ROLE {a}_owner", login="owner")),
    Threat("read password hashes", _try("SELECT * FROM pg_authid"), _does("SELECT rolname FROM pg_roles")),
    Threat("create a database", _try("CREATE DATABASE mine", "owner"), None),
    Threat("create a role", _try("CREATE ROLE mine", "owner"), None),
    Threat(
        "create an untrusted extension",
        _untrusted_extension,
        _does("CREATE EXTENSION IF NOT EXISTS pg_trgm", "DROP EXTENSION pg_trgm", login="owner"),
    ),
    Threat("change another app's password", _try("ALTER ROLE {b}_user PASSWORD 'x'"), _change_own_password),
    Threat("become superuser", _try("ALTER ROLE {a}_user SUPERUSER"), None),
    Threat("lift its own connection limit", _try("ALTER ROLE {a}_user CONNECTION LIMIT -1"), None),
    Threat("join another app's role", _try("GRANT {b}_rw TO {a}_user", "owner"), None),
    Threat("end another app's session", _kill_session, _kill_own_session),
    Threat(
        "see the size of another app's database",
        _try("SELECT pg_database_size('{b}')"),
        _does("SELECT pg_database_size('{a}')"),
    ),
    Threat("run a program", _try("COPY (SELECT 1) TO PROGRAM 'true'", "owner"), None),
    Threat("read a server file", _try("SELECT pg_read_file('/etc/passwd')", "owner"), None),
    Threat("import a server file", _try("SELECT lo_import('/etc/passwd')", "owner"), None),
    Threat("alter another app's database", _try("ALTER DATABASE {b} CONNECTION LIMIT 1", "owner"), None),
    Threat("alter its own database", _try("ALTER DATABASE {a} CONNECTION LIMIT -1", "owner"), None),
    Threat("drop another app's database", _try("DROP DATABASE {b}", "owner"), None),
    Threat(
        "let others into its own database",
        _reopen,
        _does(_OWN_TABLE, "GRANT SELECT ON threatened TO {a}_ro", login="owner"),
    ),
    Threat(
        "write with the read-only login",
        lambda attacker, victim: _write_readonly(attacker),
        _does(_OWN_TABLE, "INSERT INTO threatened VALUES (1)", login="owner"),
    ),
)


def _write_readonly(attacker: Tenant) -> None:
    _as(attacker, _OWN_TABLE, login="owner")
    with _refusal():
        _as(
            attacker,
            "SET default_transaction_read_only = off",
            "INSERT INTO threatened VALUES (1)",
            login="readonly",
        )


_SPLIT_THREATS = (
    Threat(
        "change the schema with the writing login",
        _try("CREATE TABLE public.mine (a int)"),
        _does("CREATE TABLE public.mine (a int)", "DROP TABLE public.mine", login="owner"),
    ),
    Threat(
        "empty a table with the writing login",
        lambda attacker, victim: _truncate(attacker),
        _does(_OWN_TABLE, "TRUNCATE threatened", login="owner"),
    ),
)


def _truncate(attacker: Tenant) -> None:
    _as(attacker, _OWN_TABLE, login="owner")
    with _refusal():
        _as(attacker, "TRUNCATE threatened")


# ------------------------------------------------------------------------------------------------------------ cases


def _drifts(admin: str, options: Mapping[str, Any]) -> tuple[Drift, ...]:
    becomes = "migrate" if options.get("roles") == "split" else "user"
    reset = f"ALTER ROLE {{app}}_{becomes} IN DATABASE {{app}} RESET role"
    # It may do this to itself.
    own_doing = Drift("the login does not become the owner", _by_hand(reset), ("values", "settings of login"))
    split = _SPLIT_DRIFTS if becomes == "migrate" else ()
    return (*_DRIFTS, *split, own_doing, *(_SUPERUSER_DRIFTS if admin == SUPERUSER else ()))


def _case(major: int, admin: str, **options: Any) -> StoreCase:
    return StoreCase(
        name=f"postgres-{major}" if admin == SUPERUSER else f"postgres-{major}-createrole",
        provisioner=PROVISIONER,
        start=_starts(major, admin),
        use=_use,
        squat=_squat,
        squatted=_squatted,
        remove=_remove,
        app_options={"extensions": ("ltree",), **options},
        lesser=_LESSER,
        drifts=_drifts(admin, options),
        typed={
            "CREATE TEMP TABLE typed (a int); INSERT INTO typed VALUES (7); SELECT a FROM typed": "7",
            "SELECT session_user": "{app}_user",
        },
        refused="CREATE ROLE typed",
        session=_session,
        clients=CLIENTS,
        rare=major == 15,
        threats=_THREATS + (_SPLIT_THREATS if options.get("roles") == "split" else ()),
    )


CASES = [
    _case(18, SUPERUSER),
    _case(15, SUPERUSER),
    _case(18, PLATFORM, roles="split"),
    _case(15, PLATFORM, roles="split"),
]
