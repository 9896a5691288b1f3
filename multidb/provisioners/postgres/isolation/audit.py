"""The walls between apps, tried with an app's own logins.

Every act runs in a transaction that is rolled back, or fails for a harmless reason even where it is allowed. What the
server answers is the proof: `42501` is a wall; anything else that is not success proves nothing, and says so. What no
app may do at all is tried with every login, as the role that it comes as, and as itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from multidb.errors import AuthenticationFailed, NotAllowed, ServerDown, ServerError, ServerSlow
from multidb.model import App, Outcome, Probe, Tenant
from multidb.provisioners.postgres.driver.connection import Answer, Connection
from multidb.provisioners.postgres.isolation.acts import LARGE_OBJECTS, SHOWN, TRUSTED, UNTRUSTED, Act
from multidb.provisioners.postgres.isolation.sessions import patiently, session_of
from multidb.provisioners.postgres.isolation.shared_walls import between_schemas, in_a_schema, share
from multidb.provisioners.postgres.provision.databases import database_names, home
from multidb.provisioners.postgres.provision.logins import Login, logins
from multidb.provisioners.postgres.provision.options import STORE, AppOptions, ServerOptions
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.resources import PostgresFacts, only_reads
from multidb.provisioners.postgres.provision.roles import READER
from multidb.secrets import generate

__all__ = ["Attack", "probe"]

_DENIED = "42501"


_BECOME_SELF = "SET LOCAL ROLE {login}"
_SIZE = Act("see the size", "SELECT pg_database_size({b_text})", "SELECT pg_database_size({a_text})")
_OF_OTHERS = (
    Act("become the owner", "SET LOCAL ROLE {b_owner}", _BECOME_SELF, owning=True),
    Act("become the writer", "SET LOCAL ROLE {b_rw}", _BECOME_SELF),
    Act("become the reader", "SET LOCAL ROLE {b_ro}", _BECOME_SELF),
    Act("become the login", "SET LOCAL ROLE {b_user}", _BECOME_SELF),
    Act(
        "ALTER ROLE",
        "SET LOCAL ROLE {login}; ALTER ROLE {b_user} SET work_mem = '4MB'",
        "SET LOCAL ROLE {login}; ALTER ROLE {login} SET work_mem = '4MB'",
    ),
    Act("change the password", "ALTER ROLE {b_user} PASSWORD NULL"),
    Act("join its roles", "GRANT {b_rw} TO {login}", owning=True),
    Act("ALTER DATABASE", "ALTER DATABASE {b} SET work_mem = '4MB'", owning=True),
    # What DROP and RENAME ask for, too. So does COMMENT, which goes well where there is no such database.
    Act("own the database", "ALTER DATABASE {b} CONNECTION LIMIT -1", owning=True),
    Act("let itself in", "GRANT CONNECT ON DATABASE {b} TO {login}", owning=True),
    _SIZE,
)
_OF_DATABASES = tuple(act for act in _OF_OTHERS if "{b}" in act.text or "{b_text}" in act.text)
_QUERIES = "SELECT count(*) FROM pg_stat_activity WHERE query <> '<insufficient privilege>' AND"
_OF_SESSIONS = (
    Act(
        "cancel a query",
        "SELECT pg_cancel_backend({pid})",
        "SET LOCAL ROLE {login}; SELECT pg_cancel_backend(pg_backend_pid()); SELECT pg_sleep(1)",
        done=frozenset({"57014"}),
    ),
    Act(
        "read its queries",
        f"{_QUERIES} pid = {{pid}}",
        f"SET LOCAL ROLE {{login}}; {_QUERIES} pid = pg_backend_pid()",
        counts=True,
    ),
)
_GROUPS = (
    "pg_read_all_data",
    "pg_write_all_data",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_execute_server_program",
    "pg_signal_backend",
    "pg_monitor",
)
# Writing needs a right on some table, so asking for the rights needs no table and touches none.
_WRITABLE = (
    "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' "
    "AND has_table_privilege(session_user, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')"
)
_READABLE = _WRITABLE.replace("INSERT, UPDATE, DELETE, TRUNCATE", "SELECT")
# What stands in the way of a trusted extension is something of the app's: it was let as far as that.
_IN_ITS_WAY = frozenset({"42710", "42723", "42P07", "42P06"})
# What the server was made with for superusers alone, and this login may use all the same.
_KEPT = (
    "SELECT count(*) FROM {catalog} o JOIN pg_init_privs i ON i.classoid = '{catalog}'::regclass AND i.objoid = o.oid "
    "AND i.objsubid = 0 WHERE i.privtype = 'i' AND {may}(current_user, o.oid, '{right}') AND NOT EXISTS ("
    "SELECT FROM aclexplode(i.initprivs) x WHERE x.grantee = 0 AND x.privilege_type = '{right}')"
)


def _kept(catalog: str, may: str, right: str) -> str:
    return _KEPT.replace("{catalog}", catalog).replace("{may}", may).replace("{right}", right)


_PARAMETERS = "SELECT count(*) FROM pg_settings WHERE has_parameter_privilege(current_user, name, "
_OF_THE_SERVER = (
    Act("read password verifiers", "SELECT count(*) FROM pg_authid", "SELECT count(*) FROM pg_roles"),
    Act("read password verifiers in a view", "SELECT count(*) FROM pg_shadow", "SELECT count(*) FROM pg_user"),
    Act("read user mappings", "SELECT count(*) FROM pg_user_mapping", "SELECT count(*) FROM pg_foreign_server"),
    Act("read others' values", "SELECT count(*) FROM pg_statistic", "SELECT 1 FROM pg_stats LIMIT 1"),
    Act("read pg_hba.conf", "SELECT count(*) FROM pg_hba_file_rules", "SELECT count(*) FROM pg_settings"),
    Act(
        "read others' passwords",
        "SELECT count(subconninfo) FROM pg_subscription",
        "SELECT count(subname) FROM pg_subscription",
    ),
    Act("read what is the server's", _kept("pg_class", "has_table_privilege", "SELECT"), counts=True),
    *(
        Act(f"{right} what is the server's", _kept("pg_class", "has_table_privilege", right), counts=True)
        for right in ("INSERT", "UPDATE", "DELETE")
    ),
    Act("call what is the server's", _kept("pg_proc", "has_function_privilege", "EXECUTE"), counts=True),
    Act(
        "belong to a predefined role",
        "SELECT count(*) FROM pg_roles WHERE rolname ~ '^pg_' AND pg_has_role(current_user, oid, 'MEMBER')",
        counts=True,
    ),
    Act("CREATE ROLE", "CREATE ROLE multidb_audit"),
    # The name is taken, which the server finds only after it has looked at the right.
    Act("CREATE DATABASE", "CREATE DATABASE {a}", done=frozenset({"42P04"}), transaction=False),
    Act("CREATE EXTENSION, untrusted", UNTRUSTED, TRUSTED, owning=True, grows=True, harmless=_IN_ITS_WAY),
    Act("become superuser", "ALTER ROLE {login} SUPERUSER"),
    Act("raise its connection limit", "ALTER ROLE {login} CONNECTION LIMIT -1"),
    Act("ALTER DATABASE, its own", "ALTER DATABASE {a} CONNECTION LIMIT -1"),
    Act("let everybody in", "GRANT CONNECT ON DATABASE {a} TO PUBLIC"),
    Act("change server settings", "SET LOCAL log_statement = 'none'", "SET LOCAL work_mem = '4MB'"),
    # The value is none, which the server finds only after it has looked at the right.
    Act("ALTER SYSTEM", "ALTER SYSTEM SET work_mem = 'none'", done=frozenset({"22023"}), transaction=False),
    Act(
        "SET what is the server's",
        f"{_PARAMETERS}'SET') AND context IN ('superuser', 'superuser-backend')",
        counts=True,
        since=150000,
    ),
    Act("ALTER SYSTEM, anything", f"{_PARAMETERS}'ALTER SYSTEM')", counts=True, since=150000),
    Act("run a program", "COPY (SELECT 1) TO PROGRAM 'true'"),
    Act("write a server file", "COPY (SELECT 1) TO '/dev/null'"),
    Act("read a server file", "SELECT pg_read_file('PG_VERSION')"),
    Act("read a server file as bytes", "SELECT pg_read_binary_file('PG_VERSION')"),
    Act("list server files", "SELECT count(*) FROM pg_ls_dir('.')"),
    Act("look at a server file", "SELECT count(*) FROM pg_stat_file('PG_VERSION')"),
    Act("import a server file", "SELECT lo_import('/dev/null')"),
    # There is no such object, which the server finds only after it has looked at the right.
    Act("export to a server file", "SELECT lo_export(0, '/dev/null')", done=frozenset({"42704"})),
    *(Act(f"become {group}", f"SET LOCAL ROLE {group}", _BECOME_SELF) for group in _GROUPS),
)
_OF_ITS_OWN_DATABASE = tuple(act for act in _OF_THE_SERVER if "DATABASE {a}" in act.text and act.transaction)
_OF_THE_READER = (
    Act("write with the read-only login", _WRITABLE, counts=True),
    Act("make a temporary table with the read-only login", "CREATE TEMPORARY TABLE multidb_audit (a int)"),
    Act(
        "create with the read-only login",
        "SELECT (SELECT count(*) FROM pg_namespace WHERE has_schema_privilege(current_user, oid, 'CREATE')) "
        "+ has_database_privilege(current_database(), 'CREATE, TEMPORARY')::int",
        counts=True,
    ),
    Act(
        "move a sequence with the read-only login",
        "SELECT count(*) FROM pg_class "
        "WHERE relkind = 'S' AND has_sequence_privilege(current_user, oid, 'USAGE, UPDATE')",
        counts=True,
    ),
)


def probe(attacker: Tenant, victims: Sequence[Tenant]) -> Iterator[Probe]:
    """What came of trying every wall with the attacker's logins: one refused attempt at each door for each of them,
    then one connection for each of them, and one as each victim, to have a session to attack. A connection limit of 1
    is enough.

    Raises:
        ServerError: the attacker cannot even come into its own database.
    """
    for login in logins(attacker):  # before a session of its own takes what may be the only connection that it has
        yield from _doors(attacker, login, victims)
    with ExitStack() as stack:
        sessions = [
            Attack(attacker, login, stack.enter_context(patiently(attacker, login))) for login in logins(attacker)
        ]
        user = sessions[0]
        owning = next((session for session in sessions if session.login.purpose == "migrate"), user)
        for session in sessions:
            yield from session.at_the_server(owning=session is owning)
            if only_reads(session.login.purpose):
                yield from map(session.tried, _OF_THE_READER)
                yield from session.at_large_objects()
                yield from session.at_tables_of_others()
        yield from owning.at_further_databases(_OF_ITS_OWN_DATABASE)
        if home(attacker.app).schema is not None:
            yield from in_a_schema(sessions, owning)
        for victim in victims:
            for act in _OF_OTHERS:
                probe = (owning if act.owning else user).tried(act, victim)
                its_own = act is _SIZE and share(attacker, victim)
                yield replace(probe, expected=Outcome.ALLOWED) if its_own else probe
            if share(attacker, victim):
                yield from between_schemas(sessions, owning, victim)
            yield from owning.at_further_databases(_OF_DATABASES, victim)
            yield from user.at_a_session(victim)


def _doors(attacker: Tenant, login: Login, victims: Sequence[Tenant]) -> Iterator[Probe]:
    """Connects to every database but the attacker's own. That the login works at all, its own session shows later."""
    yield _without_its_password(attacker, login)
    facts = attacker.context.facts
    own = facts.server_databases if isinstance(facts, PostgresFacts) else ()
    options = ServerOptions.of(attacker.context.options)
    left_open = {
        database.name for database in own if database.open and not (database.closable and options.close_defaults)
    }
    for database in sorted({"postgres", "template1"} | {database.name for database in own}):
        expected = Outcome.ALLOWED if database in left_open else Outcome.REFUSED
        yield from _door(attacker, login, None, database, expected)
    for victim in victims:
        for database in database_names(victim.app) or (home(victim.app).database,):
            if database != home(attacker.app).database:
                yield from _door(attacker, login, victim, database, Outcome.REFUSED)


def _without_its_password(attacker: Tenant, login: Login) -> Probe:
    """A login with another password than its own: whoever comes from here comes in so where a line of pg_hba.conf asks
    for none."""
    act = f"log in without the password as {login.purpose}"
    try:
        patiently(attacker, Login(login.user, generate(), login.purpose)).close()
    except (ServerDown, ServerSlow):
        raise
    except ServerError as error:
        got = Outcome.REFUSED if isinstance(error, AuthenticationFailed) else Outcome.BROKEN
        return Probe(attacker.app.id, None, act, Outcome.REFUSED, got, error.message[:SHOWN])
    return Probe(attacker.app.id, None, act, Outcome.REFUSED, Outcome.ALLOWED, f"{login.user} came in")


def _door(attacker: Tenant, login: Login, victim: Tenant | None, database: str, expected: Outcome) -> Iterator[Probe]:
    target = victim.app.id if victim is not None else None

    def seen(act: str, got: Outcome, detail: str) -> Probe:
        return Probe(attacker.app.id, target, f"{act} as {login.purpose}", expected, got, detail)

    act, there = "connect", ""
    if victim is None:
        act = f"connect to {database}"
    elif database != home(victim.app).database:
        there = f" in {database}"
        act = f"connect to {database}"
    try:
        with patiently(attacker, login, database) as connection:
            yield seen(act, Outcome.ALLOWED, f"{login.user} came into {database}")
            if victim is not None:
                for what, question in (("read tables", _READABLE), ("write tables", _WRITABLE)):
                    answer = connection.send(question, attacker.server.timeout)
                    yield seen(f"{what}{there}", *_outcome(answer, frozenset(), counts=True))
    except (ServerDown, ServerSlow):
        raise
    except ServerError as error:
        shut = isinstance(error, NotAllowed) or "not currently accepting" in error.message
        shut = shut or (isinstance(error, AuthenticationFailed) and "pg_hba.conf" in error.message)
        yield seen(act, Outcome.REFUSED if shut else Outcome.BROKEN, error.message[:SHOWN])


class Attack:
    """One login of the attacker, in its own database."""

    def __init__(self, attacker: Tenant, login: Login, connection: Connection) -> None:
        self._attacker = attacker
        self.login = login
        self.connection = connection
        self._version = connection.version
        self._identity = ""  # appended to the acts' names: as whom they are tried
        self._controls: dict[str, str] = {}  # what is wrong with a control, by act
        # What the app has made is in no statement's way: none of it is the server's own.
        connection.send(
            "SET search_path = pg_catalog; SET default_transaction_read_only = off", attacker.server.timeout
        )

    @property
    def app(self) -> App:
        """The attacker."""
        return self._attacker.app

    @property
    def read_only(self) -> frozenset[str]:
        """Apps over their quota."""
        return self._attacker.context.read_only

    def at_the_server(self, *, owning: bool) -> Iterator[Probe]:
        """What no app may do at all: as the login comes, and as itself where it comes as a role that it becomes.

        Args:
            owning: whether it owns what it makes.
        """
        timeout, purpose = self._attacker.server.timeout, self.login.purpose
        yield from self._as(f" as {purpose}" if purpose != "user" else "", owning=owning)
        if self.connection.send("ROLLBACK; SELECT 1 WHERE current_user <> session_user", timeout).rows:
            self.connection.send("SET ROLE NONE", timeout)
            yield from self._as(f" as {purpose}, without its role", owning=False)
            self.connection.send("ROLLBACK; RESET ROLE", timeout)
        self._identity = ""
        self._controls.clear()

    def at_large_objects(self) -> Iterator[Probe]:
        for act in LARGE_OBJECTS:
            yield replace(self.tried(act), expected=Outcome.ALLOWED if self.large_objects_open else Outcome.REFUSED)

    @property
    def large_objects_open(self) -> bool:
        """Whether everybody may make large objects, which only a superuser can change."""
        facts = self._attacker.context.facts
        return isinstance(facts, PostgresFacts) and not facts.superuser

    def _as(self, identity: str, *, owning: bool) -> Iterator[Probe]:
        self._identity = identity
        self._controls.clear()
        read_only = self.app.id in self.read_only
        shares = home(self.app).schema is not None  # where nobody may make even a trusted extension
        for act in _OF_THE_SERVER:
            if self._version >= act.since and (owning or not act.owning) and not (read_only and act.grows):
                yield self.tried(replace(act, control=None) if shares and act.control == TRUSTED else act)

    def tried(self, act: Act, victim: Tenant | None = None, **values: str) -> Probe:
        """Carries out the act, unless its control shows that it would prove nothing."""
        target = victim.app.id if victim is not None else None
        if act.name not in self._controls:
            self._controls[act.name] = self._control(act)
        if self._controls[act.name]:
            got, detail = Outcome.BROKEN, f"its control failed: {self._controls[act.name]}"
        else:
            names = {**self._names(victim), **values}
            got, detail = self._send(act.text.format_map(names) if "{" in act.text else act.text, act)
        return Probe(self._attacker.app.id, target, f"{act.name}{self._identity}", Outcome.REFUSED, got, detail[:SHOWN])

    def _control(self, act: Act) -> str:
        if act.control is None:
            return ""
        text = act.control.format_map(self._names(None)) if "{" in act.control else act.control
        got, detail = self._send(text, replace(act, done=act.done | act.harmless))
        return "" if got is Outcome.ALLOWED else detail or "it was not done"

    def at_a_session(self, victim: Tenant) -> Iterator[Probe]:
        """What may be done to a session of the victim: an idle one, opened with its own login for this."""
        try:
            with session_of(victim) as session:
                session.send("SELECT 'something of its own'", victim.server.timeout)
                for act in _OF_SESSIONS:
                    yield self.tried(act, victim, pid=str(session.process))
        except (ServerDown, ServerSlow):
            raise
        except ServerError as error:
            for act in _OF_SESSIONS:
                detail = f"there is no session of {victim.app.id} to try it on: {error.message}"[:SHOWN]
                yield Probe(self._attacker.app.id, victim.app.id, act.name, Outcome.REFUSED, Outcome.BROKEN, detail)

    def at_tables_of_others(self) -> Iterator[Probe]:
        """What a reader by table may read beside its tables."""
        reader = AppOptions.of(self._attacker.app.stores[STORE]).readers.get(self.login.purpose.removeprefix(READER))
        if reader is None or isinstance(reader.tables, str):
            return
        given = ", ".join(map(literal, reader.tables))
        text = f"{_READABLE} AND NOT ARRAY[n.nspname || '.*', n.nspname || '.' || c.relname] && ARRAY[{given}]::text[]"
        name = f"read other tables with the login of {self.login.purpose}"
        yield self.tried(Act(name, text.replace("{", "{{").replace("}", "}}"), counts=True))

    def at_further_databases(self, acts: Sequence[Act], victim: Tenant | None = None) -> Iterator[Probe]:
        """The same for the databases that an app has beside its own: the victim, or the attacker itself."""
        tenant, key = (victim, "b") if victim is not None else (self._attacker, "a")
        for database in database_names(tenant.app)[1:]:
            names = {key: identifier(database), f"{key}_text": literal(database)}
            yield from (self.tried(replace(act, name=f"{act.name}: {database}"), victim, **names) for act in acts)

    def _names(self, victim: Tenant | None) -> Mapping[str, str]:
        names = {"login": identifier(self.login.user), **_named("a", self.app)}
        if victim is not None:
            roles = {f"b_{role}": identifier(f"{victim.app.id}_{role}") for role in ("owner", "rw", "ro", "user")}
            names |= {**_named("b", victim.app), **roles}
        return names

    def _send(self, text: str, act: Act) -> tuple[Outcome, str]:
        timeout = self._attacker.server.timeout
        if not act.transaction:
            self.connection.send("ROLLBACK", timeout)
            return _outcome(self.connection.send(text, timeout), act.done)
        # One round trip: what the act before it has left is rolled back now, and nothing at all is a warning.
        answer = self.connection.send(f"ROLLBACK; BEGIN READ WRITE; {text}", timeout)
        return _outcome(answer, act.done, counts=act.counts)


def _named(key: str, app: App) -> dict[str, str]:
    """The app's database and schema, as identifiers and as texts."""
    place = home(app)
    schema = place.schema or "public"
    return {
        key: identifier(place.database),
        f"{key}_text": literal(place.database),
        f"{key}_schema": identifier(schema),
        f"{key}_schema_text": literal(schema),
    }


def _outcome(answer: Answer, done: frozenset[str], *, counts: bool = False) -> tuple[Outcome, str]:
    refusal = answer.refusal
    if refusal is None and answer.warnings:  # a grant that granted nothing
        return Outcome.REFUSED, answer.warnings[0].message
    if refusal is None:
        nothing = counts and answer.rows[-1:] == [["0"]]
        return (Outcome.REFUSED, "there is nothing that it may") if nothing else (Outcome.ALLOWED, "")
    if refusal.sqlstate in done:
        return Outcome.ALLOWED, refusal.message
    return Outcome.REFUSED if refusal.sqlstate == _DENIED else Outcome.BROKEN, refusal.message
