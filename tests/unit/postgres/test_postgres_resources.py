"""Postgres, the pure part: options, names, secrets, environment, isolation."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from dataclasses import replace
from urllib.parse import unquote, urlsplit

import pytest
from pydantic import ValidationError

from multidb.model import App, Endpoint, Isolation, Owner
from multidb.provisioners.postgres import PROVISIONER
from multidb.provisioners.postgres.isolation.level import isolation
from multidb.provisioners.postgres.observe.advice import advise
from multidb.provisioners.postgres.provision import scram
from multidb.provisioners.postgres.provision.applications import APPLICATIONS, ApplicationName
from multidb.provisioners.postgres.provision.desired import desired
from multidb.provisioners.postgres.provision.environment import env
from multidb.provisioners.postgres.provision.options import AppOptions, duration_of, duration_text
from multidb.provisioners.postgres.provision.requirements import unmet
from multidb.provisioners.postgres.provision.resources import (
    Access,
    Database,
    Interior,
    Membership,
    PostgresFacts,
    ReaderRole,
    Reading,
    Role,
    ServerDatabase,
    ServerDatabaseFacts,
    Settings,
    derived_names,
    secrets,
)
from multidb.secrets import Alternate, Secret, SecretRef
from tests.unit.postgres.apps import app, context, facts

# --- options ---


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        *(("30s", "30s"), (30000, "30s"), ("0.5 min", "30s"), ("60s", "1min"), ("90s", "90s"), ("1500", "1500ms")),
        *(("0", "0"), ("0s", "0"), ("24h", "1d"), ("1.5s", "1500ms"), ("2500us", "2ms")),
    ],
)
def test_a_duration_has_one_form(text: object, canonical: str) -> None:
    assert duration_text(duration_of(text)) == canonical
    assert duration_text(duration_of(canonical)) == canonical


@pytest.mark.parametrize("text", ["", "soon", "-1", "-1s", "30 seconds", "30S", True, None, "60d", "1s; DROP", "250us"])
def test_what_is_no_duration_is_refused_with_what_would_be(text: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        duration_of(text)


@pytest.mark.parametrize("name", ["", "a b", "vector;", 'x"y', "-a", "a" * 64])
def test_an_extension_name_is_checked(name: str) -> None:
    with pytest.raises(ValidationError, match="must be names of extensions"):
        AppOptions(extensions=(name,))


def test_extensions_are_a_set() -> None:
    assert AppOptions(extensions=("uuid-ossp", "ltree", "ltree")).extensions == ("ltree", "uuid-ossp")


@pytest.mark.parametrize(
    "readers",
    [
        *({"Analytics": {}}, {"a_b": {}}, {"user": {}}, {"a" * 17: {}}, {"": {}}),
        *({"a": {"tables": [table]}} for table in ("orders", ".orders", "public.", "public." + "x" * 64, "public.a\0")),
        {"a": {"tables": "some"}},
    ],
)
def test_a_reader_with_another_name_or_table_is_refused(readers: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AppOptions.model_validate({"readers": readers})


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValidationError):
        AppOptions(connection_limits=3)  # type: ignore[call-arg]


# --- names, secrets ---


def test_names_of_an_app() -> None:
    by_space: dict[str, list[str]] = {}
    for name in derived_names(app()):
        by_space.setdefault(name.space, []).append(name.name)
    assert by_space == {
        "postgres database": ["lernmi"],
        "postgres role": [
            "lernmi_owner",
            "lernmi_rw",
            "lernmi_ro",
            "lernmi_user",
            "lernmi_user_b",
            "lernmi_readonly",
            "lernmi_readonly_b",
            "lernmi_migrate",
            "lernmi_migrate_b",
            "lernmi_restricted",
        ],
    }


def test_a_test_database_has_what_the_first_has() -> None:
    made = desired([app(test_database=True, roles="split")], context())
    for kind in (Database, Access, Interior):
        first, second = (resource for resource in made if isinstance(resource, kind))
        assert (first.name, second.name) == ("lernmi", "lernmi_test")
        assert replace(second, name="lernmi") == first
    settings = [resource for resource in made if isinstance(resource, Settings)]
    assert len(settings) == 6
    assert {(one.role, one.values) for one in settings[:3]} == {(one.role, one.values) for one in settings[3:]}


def test_a_test_database_takes_a_name_that_another_app_could_have() -> None:
    names = {(name.space, name.name) for name in derived_names(app(test_database=True))}
    assert names & {(name.space, name.name) for name in derived_names(app("lernmi_test"))}
    assert not {(name.space, name.name) for name in derived_names(app())} & {("postgres database", "lernmi_test")}


@pytest.mark.parametrize(("roles", "login"), [("simple", "lernmi_user"), ("split", "lernmi_migrate")])
def test_tests_go_past_a_pooler_by_the_login_that_makes_tables(roles: str, login: str) -> None:
    server = Endpoint("db", 5432, pooler=Endpoint("pooler", 6432))
    variables = env(app(roles=roles, test_database=True), context(), server, lambda _: Secret("x"))
    assert variables["TEST_DATABASE_URL"] == Secret(f"postgresql://{login}:x@db:5432/lernmi_test")
    assert "TEST_DATABASE_URL" not in env(app(roles=roles), context(), server, lambda _: Secret("x"))


@pytest.mark.parametrize(
    ("number", "roles", "maintain", "refused"),
    [
        *((160004, "split", True, True), (160004, "split", False, False)),
        *((160004, "simple", True, False), (170000, "split", True, False)),
    ],
)
def test_what_a_version_has_no_right_for_is_refused_for_that_app(
    number: int, roles: str, maintain: bool, refused: bool
) -> None:
    refusals = dict(unmet([app(roles=roles, maintain=maintain), app("other")], facts(number)))
    assert list(refusals) == (["lernmi"] if refused else [])
    assert all("roles: simple" in str(error.hint) for error in refusals.values())


@pytest.mark.parametrize(
    ("options", "first"),
    [({}, "lernmi"), ({"test_database": True}, "lernmi_test"), ({"database": "shop", "schema": "mind"}, "shop")],
)
def test_the_database_that_the_admin_enters_first_is_no_apps(options: dict[str, object], first: str) -> None:
    apps = [app(**options), app("other")]
    known = facts(server_databases=(ServerDatabaseFacts(first, "postgres", open=True, closable=True),))
    refusals = dict(unmet(apps, known))
    assert list(refusals) == ["lernmi"]
    assert refusals["lernmi"].message.startswith(f"database {first} is the one that the server's address names")
    assert "postgresql://.../postgres" in str(refusals["lernmi"].hint)
    assert not dict(unmet(apps, facts(server_databases=(ServerDatabaseFacts("postgres", "postgres", True, True),))))


def test_a_longest_id_fits() -> None:
    longest = app("a" * 31, readers={"b" * 16: {}})
    assert all(len(name.name.encode()) <= name.limit for name in derived_names(longest))


def test_what_a_reader_has_takes_names_and_passwords_of_its_own() -> None:
    made = app(readers={"bi": {"tables": ["public.orders"]}})
    roles = {name.name for name in derived_names(made)} - {name.name for name in derived_names(app())}
    assert roles == {"lernmi_reads_bi", "lernmi_reader_bi", "lernmi_reader_bi_b"}
    slots = {spec.ref.name for spec in secrets(made)} - {spec.ref.name for spec in secrets(app())}
    assert slots == {"reader_bi", "reader_bi_verifier", "reader_bi_b", "reader_bi_b_verifier"}


def test_a_login_of_a_reader_that_is_gone_is_turned_off_and_nobody_elses() -> None:
    digi, lernmi = Owner("digi", "lernmi"), "lernmi_reader_gone"
    logins = (
        ReaderRole(digi, lernmi, True, 3),
        ReaderRole(digi, "lernmi_reader_bi", True, 3),
        ReaderRole(Owner("other", "lernmi"), "lernmi_reader_theirs", True, 3),
        ReaderRole(Owner("digi", "another"), "another_reader_bi", True, 3),
        ReaderRole(digi, "lernmi_reads_gone", False, -1),
        ReaderRole(digi, "lernmi_reads_bi", False, -1),  # it reads all now
        ReaderRole(Owner("other", "lernmi"), "lernmi_reads_theirs", False, -1),
    )
    desired_of = desired([app(readers={"bi": {}})], context(facts(reader_roles=logins)))
    off = [role for role in desired_of if isinstance(role, Role) and not role.login and role.secret]
    assert [(role.name, role.password, role.connection_limit) for role in off] == [(lernmi, None, 3)]
    readings = {(one.role, one.tables) for one in desired_of if isinstance(one, Reading)}
    assert readings == {("lernmi_reads_gone", frozenset()), ("lernmi_reads_bi", frozenset())}


@pytest.mark.parametrize(
    ("replica", "at"),
    [("replica.example.com", "replica.example.com:5432"), ("10.0.0.2:6000", "10.0.0.2:6000"), ("[::2]:6", "[::2]:6")],
)
def test_what_only_reads_is_led_to_the_replica(replica: str, at: str) -> None:
    made = app(readers={"bi": {}}, replica=replica)
    variables = env(made, context(), Endpoint("db", 5432), lambda _: Secret("x"))
    assert variables["LERNMI_DB_READONLY_URL"] == Secret(f"postgresql://lernmi_readonly:x@{at}/lernmi")
    assert variables["LERNMI_DB_READER_BI_URL"] == Secret(f"postgresql://lernmi_reader_bi:x@{at}/lernmi")
    assert variables["DATABASE_URL"] == Secret("postgresql://lernmi_user:x@db:5432/lernmi")


@pytest.mark.parametrize("name", list(ApplicationName))
def test_a_profile_gives_the_variables_of_its_application_and_what_the_entry_does_not_say(
    name: ApplicationName,
) -> None:
    nasty = Secret("p@ss {host}:w/rd%")
    plain, made = app(), app(profile=name)
    variables, usual = (env(one, context(), Endpoint("db", 5433), lambda _: nasty) for one in (made, plain))
    more = {variable: variables[variable] for variable in variables.keys() - usual.keys()}
    assert set(more) == set(APPLICATIONS[name].variables)
    values = [value.reveal() if isinstance(value, Secret) else value for value in more.values()]
    assert nasty.reveal() in values or any(
        "lernmi_user:p%40ss" in value and ":5433/lernmi" in value for value in values
    )
    assert nasty.reveal() not in repr(more)
    options = made.stores["postgres"]
    assert isinstance(options, AppOptions)
    assert options.connection_limit == APPLICATIONS[name].connection_limit
    assert AppOptions(profile=name, connection_limit=3).connection_limit == 3


def test_an_application_that_makes_tables_while_it_runs_has_simple_roles() -> None:
    with pytest.raises(ValidationError, match="roles: simple"):
        AppOptions(profile="directus", roles="split")  # type: ignore[arg-type]


@pytest.mark.parametrize("replica", ["a b", "http://a", "a:b", "a:1/x", "a,b", "[::1", ""])
def test_a_replica_is_a_host(replica: str) -> None:
    with pytest.raises(ValidationError):
        AppOptions(replica=replica)


def test_an_app_and_one_named_like_its_role_collide() -> None:
    taken = {(name.space, name.name) for name in derived_names(app("a"))}
    assert ("postgres role", "a_user_b") in taken
    assert not taken & {(name.space, name.name) for name in derived_names(app("b"))}


def test_each_login_has_a_password_and_a_verifier_of_it() -> None:
    first = ["user", "user_verifier", "readonly", "readonly_verifier", "migrate", "migrate_verifier"]
    second = ["user_b", "user_b_verifier", "readonly_b", "readonly_b_verifier", "migrate_b", "migrate_b_verifier"]
    specs = secrets(app(roles="split"))
    assert [spec.ref.name for spec in specs if spec.alternate is Alternate.FIRST] == first
    assert [spec.ref.name for spec in specs if spec.alternate is Alternate.SECOND] == second
    verifier = secrets(app())[1]
    assert verifier.source == SecretRef("lernmi", "postgres", "user")
    assert verifier.derive is not None
    assert scram.matches("a password", verifier.derive("a password"))


# --- SCRAM ---


def test_a_verifier_is_what_the_server_would_make() -> None:
    """The example of RFC 7677, section 3: the server key signs what the client can check."""
    import hmac

    made = scram.verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    _, parameters, keys = made.split("$")
    assert parameters == "4096:W22ZaJ0SNY7soEsUEjb6gQ=="
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    signature = hmac.digest(server, message, "sha256")
    assert base64.b64encode(signature).decode() == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client_key = bytes(a ^ b for a, b in zip(proof, hmac.digest(stored, message, "sha256"), strict=True))
    assert hashlib.sha256(client_key).digest() == stored


def test_a_verifier_matches_its_password_only() -> None:
    held = scram.verifier("right")
    assert scram.matches("right", held)
    assert not scram.matches("wrong", held)
    assert held != scram.verifier("right"), "every verifier has its own salt"


@pytest.mark.parametrize("held", ["", "md5" + "0" * 32, "SCRAM-SHA-256$x:y$z:w", "SCRAM-SHA-256$0:AAAA$a:b", "a$b$c"])
def test_what_is_no_verifier_matches_nothing(held: str) -> None:
    assert not scram.matches("right", held)


def test_keys_are_those_that_a_verifier_proves() -> None:
    held = scram.verifier("right")
    made = scram.keys("right", held)
    stored, server = held.rpartition("$")[2].split(":")
    assert base64.b64encode(hashlib.sha256(base64.b64decode(made["scram_client_key"])).digest()).decode() == stored
    assert made["scram_server_key"] == server


@pytest.mark.parametrize("held", [scram.verifier("wrong"), "", "md5" + "0" * 32])
def test_there_are_no_keys_for_another_verifier(held: str) -> None:
    assert scram.keys("right", held) == {}


# --- desired ---


def of(kind: type, *apps: App, known: PostgresFacts | None = None) -> dict[str, object]:
    return {r.name: r for r in desired(apps or (app(),), context(known)) if isinstance(r, kind)}


def test_simple_the_login_becomes_the_owner_and_inherits_nothing() -> None:
    login = of(Role)["lernmi_user"]
    assert isinstance(login, Role)
    assert (login.login, login.inherit, login.connection_limit) == (True, False, 20)
    settings = of(Settings)["lernmi_user in lernmi"]
    assert isinstance(settings, Settings)
    assert ("role", "lernmi_owner") in settings.values
    assert "lernmi_migrate" not in of(Role)


def test_split_only_the_migration_login_becomes_the_owner() -> None:
    members = of(Membership, app(roles="split"))
    assert set(members) == {
        "lernmi_user in lernmi_rw",
        "lernmi_readonly in lernmi_ro",
        "lernmi_migrate in lernmi_owner",
    }
    settings = of(Settings, app(roles="split"))
    assert ("role", "lernmi_owner") not in settings["lernmi_user in lernmi"].values  # type: ignore[attr-defined]
    assert settings["lernmi_migrate in lernmi"].values == {("role", "lernmi_owner")}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("number", "known"), [(130000, False), (159999, False), (160000, True), (180006, True)])
def test_membership_options_are_wanted_where_the_server_has_them(number: int, known: bool) -> None:
    edges = of(Membership, known=facts(number)).values()
    assert all((edge.inherit is not None) is known for edge in edges)  # type: ignore[attr-defined]


def test_an_admin_who_is_no_superuser_joins_the_owner() -> None:
    assert "plat in lernmi_owner" in of(Membership, known=facts(superuser=False))
    assert "postgres in lernmi_owner" not in of(Membership)


def test_the_revision_changes_with_what_is_wanted_inside_and_with_nothing_else() -> None:
    def revision(**options: object) -> str:
        interior = of(Interior, app(**options))["lernmi"]
        assert isinstance(interior, Interior)
        return interior.revision

    assert revision() == revision(connection_limit=7, statement_timeout="1s")
    assert revision() != revision(extensions=("ltree",))


def test_only_databases_that_can_be_closed_are_to_be() -> None:
    known = facts(
        server_databases=(
            ServerDatabaseFacts("postgres", "root", open=True, closable=False),
            ServerDatabaseFacts("template1", "plat", open=True, closable=True),
        )
    )
    assert set(of(ServerDatabase, known=known)) == {"template1"}
    level, why = isolation(app(), known)
    assert level is Isolation.PARTIAL
    assert "postgres" in why
    assert "root" in why
    assert "REVOKE" in why
    assert isolation(app(), facts())[0] is Isolation.ENFORCED


# --- environment, advice ---


def test_the_environment_survives_any_password() -> None:
    nasty = "p@ss:w/rd%20$#?&'\"\\ü "
    variables = env(
        app("beep_boop", roles="split"),
        context(),
        Endpoint("::1", 5432, params={"sslmode": "verify-full"}),
        lambda _: Secret(nasty),
    )
    assert set(variables) == {
        "DATABASE_URL",
        "BEEP_BOOP_DB_URL",
        "BEEP_BOOP_DB_READONLY_URL",
        "BEEP_BOOP_DB_MIGRATE_URL",
        "DATABASE_URL_ASYNC",
        "POSTGRES_HOST",
        "POSTGRES_PORT",
        "POSTGRES_DB",
        "POSTGRES_USER",
        "POSTGRES_PASSWORD",
    }
    alone = ("::1", "5432", "beep_boop", "beep_boop_user", Secret(nasty))
    assert tuple(variables[f"POSTGRES_{name}"] for name in ("HOST", "PORT", "DB", "USER", "PASSWORD")) == alone
    secret = variables["DATABASE_URL"]
    assert isinstance(secret, Secret)
    url = urlsplit(secret.reveal())
    assert (url.hostname, url.port, url.path, url.query) == ("::1", 5432, "/beep_boop", "sslmode=verify-full")
    assert unquote(url.password or "") == nasty
    asynchronous = variables["DATABASE_URL_ASYNC"]
    assert isinstance(asynchronous, Secret)
    assert asynchronous.reveal().startswith("postgresql+asyncpg://beep_boop_user:")
    assert asynchronous.reveal().endswith("/beep_boop?ssl=verify-full")
    assert nasty not in repr(variables)


def test_too_many_connections_are_advised_against() -> None:
    (finding,) = advise([app(), app("other")], context(facts(max_connections=53)))
    assert finding.level == "ok", finding
    (finding,) = advise([app(), app("other"), app("third", roles="split")], context(facts(max_connections=50)))
    assert finding.level == "warning"
    assert "80 connections" in finding.message
    assert finding.fix


def test_a_stale_collation_is_found() -> None:
    *_, finding = advise([], context(facts(stale_collations=("old",))))
    assert (finding.level, finding.subject) == ("warning", "database old")
    assert "REINDEX" in finding.fix


def test_no_driver_is_loaded_to_plan() -> None:
    code = "import sys, multidb.provisioners.postgres; sys.exit('psycopg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert PROVISIONER.name == "postgres"
