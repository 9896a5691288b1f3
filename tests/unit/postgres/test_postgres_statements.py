"""Postgres: changes as SQL, and the catalogs' answers as resources. No server."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb.errors import NotAllowed, ServerError, WrongVersion
from multidb.model import Action, Alternates, App, Change, Inspection, Isolation, Owner, Resource
from multidb.plan import diff
from multidb.provisioners.postgres.isolation.level import isolation
from multidb.provisioners.postgres.provision import catalog, server_facts
from multidb.provisioners.postgres.provision.desired import desired
from multidb.provisioners.postgres.provision.marks import RESTORED
from multidb.provisioners.postgres.provision.options import AppOptions, ServerOptions
from multidb.provisioners.postgres.provision.quoting import identifier, literal
from multidb.provisioners.postgres.provision.resources import (
    Access,
    Database,
    Interior,
    Membership,
    PostgresFacts,
    Role,
    ServerDatabase,
    ServerDatabaseFacts,
    Settings,
)
from multidb.provisioners.postgres.provision.roles import ATTRIBUTES, RoleAttribute
from multidb.provisioners.postgres.provision.statements import statements
from multidb.secrets import Alternate, MemorySecretStore
from tests.unit.postgres.apps import app, context, facts


def sql(change: Change, known: PostgresFacts | None = None) -> list[str]:
    return [statement.text for statement in statements(change, context(known))]


def the(kind: type[Resource], *, known: PostgresFacts | None = None, **options: object) -> list[Resource]:
    return [resource for resource in desired([app(**options)], context(known)) if isinstance(resource, kind)]


def changed(want: Resource, known: PostgresFacts | None = None, **live: object) -> list[str]:
    """What is sent when the server's `want` has the fields `live`."""
    (change,) = diff([want], [dataclasses.replace(want, **live)])
    return sql(change, known)


# --- quoting ---


@given(st.text(alphabet=st.characters(exclude_characters="\0")))
def test_an_identifier_reads_back_unchanged(name: str) -> None:
    quoted = identifier(name)
    assert quoted[0] == quoted[-1] == '"'
    assert '"' not in quoted[1:-1].replace('""', "")
    assert quoted[1:-1].replace('""', '"') == name


@given(st.text(alphabet=st.characters(exclude_characters="\0")))
def test_a_literal_reads_back_unchanged(text: str) -> None:
    quoted = literal(text)
    body = quoted.removeprefix("E")[1:-1]
    assert "'" not in body.replace("''", "")
    read = body.replace("''", "'")
    assert (read.replace("\\\\", "\\") if quoted.startswith("E") else read) == text


@pytest.mark.parametrize("quote", [identifier, literal])
def test_nul_is_refused(quote: object) -> None:
    with pytest.raises(ValueError, match="NUL"):
        quote("a\0b")  # type: ignore[operator]


# --- roles, memberships ---


def test_an_altered_role_names_only_what_differs() -> None:
    (login,) = [role for role in the(Role) if role.name == "lernmi_user"]
    assert changed(login, connection_limit=3) == ['ALTER ROLE "lernmi_user" CONNECTION LIMIT 20']
    assert changed(login, superuser=True, login=False) == ['ALTER ROLE "lernmi_user" LOGIN NOSUPERUSER']
    assert changed(login, valid_until="2020-01-01") == ["ALTER ROLE \"lernmi_user\" VALID UNTIL 'infinity'"]


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.field)
def test_what_a_role_may_be_is_made_altered_and_read_by_one_table(attribute: RoleAttribute) -> None:
    role = the(Role)[0]
    other = not getattr(role, attribute.field)
    assert changed(role, **{attribute.field: other}) == [
        f'ALTER ROLE "{role.name}" {attribute.word(getattr(role, attribute.field))}'
    ]
    turned = dataclasses.replace(role, **{attribute.field: not attribute.default})
    made = sql(Change(Action.CREATE, turned, None))[0]
    assert attribute.word(not attribute.default) in made.split()
    assert f"'{attribute.field}', {attribute.column}" in catalog.overview_query(facts())


def test_the_table_has_every_yes_or_no_of_a_role() -> None:
    fields = {field.name for field in dataclasses.fields(Role) if isinstance(field.default, bool)}
    assert {attribute.field for attribute in ATTRIBUTES} == fields


def test_a_password_is_a_parameter() -> None:
    (login,) = [role for role in the(Role) if role.name == "lernmi_user"]
    (change,) = diff([login], [dataclasses.replace(login, password="other")])
    (statement,) = statements(change, context())
    assert statement.text == "ALTER ROLE \"lernmi_user\" PASSWORD :'verifier'"
    assert [(name, str(ref)) for name, ref in statement.binds] == [("verifier", "lernmi/postgres/user_verifier")]


def test_a_password_where_none_belongs_is_taken_away() -> None:
    owner = the(Role)[0]
    assert changed(owner, password="other") == ['ALTER ROLE "lernmi_owner" PASSWORD NULL']


def test_a_surplus_membership_is_revoked_from_each_grantor() -> None:
    edge = Membership(name="x in y", role="y", member="x", grantors=("a", 'b"'))
    assert sql(Change(Action.DELETE, None, edge)) == [
        'REVOKE "y" FROM "x" GRANTED BY "a" CASCADE',
        'REVOKE "y" FROM "x" GRANTED BY "b""" CASCADE',
    ]
    assert sql(Change(Action.DELETE, None, edge), facts(150000)) == ['REVOKE "y" FROM "x" CASCADE']


def test_before_16_a_membership_has_no_options() -> None:
    old = facts(150000)
    grants = [line for edge in the(Membership, known=old) for line in sql(Change(Action.CREATE, edge, None), old)]
    assert 'GRANT "lernmi_ro" TO "lernmi_readonly"' in grants
    assert not any("WITH" in grant for grant in grants)


# --- privileges ---


def test_only_the_difference_is_revoked_and_granted() -> None:
    (access,) = the(Access)
    assert isinstance(access, Access)
    live = access.privileges - {("lernmi_ro", "CONNECT")} | {("public", "CONNECT"), ("lernmi_rw", "CREATE")}
    assert changed(access, privileges=live) == [
        'REVOKE CREATE ON DATABASE "lernmi" FROM "lernmi_rw"',
        'REVOKE CONNECT ON DATABASE "lernmi" FROM PUBLIC',
        'GRANT CONNECT ON DATABASE "lernmi" TO "lernmi_ro"',
    ]


def test_a_right_to_pass_on_is_revoked_alone() -> None:
    (access,) = the(Access)
    assert isinstance(access, Access)
    live = access.privileges | {("lernmi_owner", "GRANT OPTION FOR CONNECT")}
    assert changed(access, privileges=live) == [
        'REVOKE GRANT OPTION FOR CONNECT ON DATABASE "lernmi" FROM "lernmi_owner" CASCADE'
    ]


def test_a_role_called_public_in_capitals_is_not_everybody() -> None:
    (access,) = the(Access)
    assert isinstance(access, Access)
    (line,) = changed(access, privileges=access.privileges | {("PUBLIC", "CONNECT")})
    assert line.endswith('FROM "PUBLIC"')


# --- interior ---


def test_the_revision_is_written_with_the_work_and_last() -> None:
    (interior,) = the(Interior, extensions=("ltree",))
    sent = statements(Change(Action.CREATE, interior, None), context())
    assert sent[-1].text.startswith('COMMENT ON DATABASE "lernmi" IS \'multidb:digi/lernmi ')
    assert {statement.scope for statement in sent} == {"lernmi"}
    assert all(statement.atomic for statement in sent)


def test_repairing_a_drift_does_not_write_the_revision() -> None:
    (interior,) = the(Interior)
    assert changed(interior, schema_owner="mallory") == ['ALTER SCHEMA public OWNER TO "lernmi_owner"']


def test_a_missing_schema_is_made() -> None:
    (interior,) = the(Interior)
    assert changed(interior, schema_owner=None, schema_privileges=frozenset()) == [
        'CREATE SCHEMA public AUTHORIZATION "lernmi_owner"',
        'GRANT USAGE ON SCHEMA public TO "lernmi_ro", "lernmi_rw"',
    ]


def test_objects_of_another_owner_are_taken_over_one_by_one() -> None:
    (interior,) = the(Interior)
    objects = frozenset({("TABLE", "s.t"), ("SCHEMA", "s"), ("ROUTINE", "s.f(integer)")})
    assert changed(interior, misowned=objects) == [
        'ALTER SCHEMA s OWNER TO "lernmi_owner"',
        'ALTER ROUTINE s.f(integer) OWNER TO "lernmi_owner"',
        'ALTER TABLE s.t OWNER TO "lernmi_owner"',
    ]


def test_an_admin_that_is_no_superuser_joins_the_login_that_has_made_a_thing() -> None:
    (interior,) = the(Interior)
    live = {"misowned": frozenset({("TABLE", "t")}), "misowners": frozenset({"lernmi_user", "stranger"})}
    assert changed(interior, facts(superuser=False), **live) == [
        'GRANT "lernmi_user" TO "plat" WITH INHERIT TRUE',
        'ALTER TABLE t OWNER TO "lernmi_owner"',
        'REVOKE "lernmi_user" FROM "plat" GRANTED BY "plat"',
    ]
    assert changed(interior, **live) == ['ALTER TABLE t OWNER TO "lernmi_owner"']


def test_what_a_login_gives_is_changed_by_who_may_act_as_it() -> None:
    for superuser in (True, False):
        known = facts(160004, superuser=superuser)
        (wanted,) = the(Interior, known=known, roles="split")
        assert isinstance(wanted, Interior)
        lost = {("lernmi_user", "TABLES", "lernmi_ro", "SELECT"), ("lernmi_owner", "TABLES", "lernmi_ro", "SELECT")}
        given = ['ALTER DEFAULT PRIVILEGES FOR ROLE "lernmi_user" GRANT SELECT ON TABLES TO "lernmi_ro"']
        joins = 'GRANT "lernmi_user" TO "plat" WITH INHERIT TRUE', 'REVOKE "lernmi_user" FROM "plat" GRANTED BY "plat"'
        assert changed(wanted, known, default_privileges=wanted.default_privileges - lost) == [
            'ALTER DEFAULT PRIVILEGES FOR ROLE "lernmi_owner" GRANT SELECT ON TABLES TO "lernmi_ro"',
            *(given if superuser else [joins[0], *given, joins[1]]),
        ]


@pytest.mark.parametrize("superuser", [True, False])
@pytest.mark.parametrize(("revision", "reaches"), [("0a0b0c0d", True), (RESTORED, False), ("", False)])
def test_maintain_reaches_what_is_there_unless_its_rights_came_back(
    revision: str, reaches: bool, superuser: bool
) -> None:
    known = facts(superuser=superuser)
    (wanted,) = the(Interior, known=known)
    assert isinstance(wanted, Interior)
    right = ("lernmi_owner", "TABLES", "lernmi_rw", "MAINTAIN")
    assert right in wanted.default_privileges
    held = wanted.default_privileges - {right}
    beside = (("s", "TABLES", ("s.t", 's."T u"')), ("empty", "TABLES", ()), ("s", "ROUTINES", ("s.f()",)))
    live = {"revision": revision, "schemas": ("empty", "public", "s"), "beside": beside}
    sent = changed(wanted, known, default_privileges=held, **live)
    assert [text for text in sent if text.startswith("GRANT MAINTAIN")] == (
        [
            'GRANT MAINTAIN ON ALL TABLES IN SCHEMA public TO "lernmi_rw"',
            'GRANT MAINTAIN ON TABLE s.t, s."T u" TO "lernmi_rw"',
        ]
        if reaches
        else []
    )
    assert 'ALTER DEFAULT PRIVILEGES FOR ROLE "lernmi_owner" GRANT MAINTAIN ON TABLES TO "lernmi_rw"' in sent


def test_what_is_taken_over_is_named_where_an_extension_has_some_beside_it() -> None:
    (wanted,) = the(Interior)
    beside = (("s", "ROUTINES", ("s.f()", "s.g(integer)")), ("s", "SEQUENCES", ()))
    sent = changed(wanted, revision="", schemas=("public", "s"), beside=beside)
    given = {text.split(" ON ")[1].split(" TO ")[0] for text in sent if text.startswith("GRANT")}
    assert given == {
        "SCHEMA public",
        "SCHEMA s",
        "ALL ROUTINES IN SCHEMA public",
        "ROUTINE s.f(), s.g(integer)",
        "ALL SEQUENCES IN SCHEMA public",
        "ALL TABLES IN SCHEMA public",
        "ALL TABLES IN SCHEMA s",
    }


def test_before_17_there_is_no_right_to_maintain() -> None:
    (older,) = the(Interior, known=facts(160004))
    assert isinstance(older, Interior)
    assert not any("MAINTAIN" in entry for entry in older.default_privileges)


def test_an_extension_that_the_server_lacks_is_told_from_one_that_is_not_allowed() -> None:
    (missing,) = the(Interior, extensions=("postgis",))
    with pytest.raises(ServerError, match="the server has no extension postgis, which lernmi wants") as lacking:
        sql(Change(Action.CREATE, missing, None))
    assert not isinstance(lacking.value, NotAllowed)
    (untrusted,) = the(Interior, extensions=("vector",))
    with pytest.raises(NotAllowed, match="plat may not create the extension vector") as denied:
        sql(Change(Action.CREATE, untrusted, None), facts(superuser=False))
    assert "superuser" in (denied.value.hint or "")
    assert sql(Change(Action.CREATE, untrusted, None))
    assert sql(Change(Action.CREATE, untrusted, None), facts(superuser=False, service="rds"))
    (trusted,) = the(Interior, extensions=("ltree",))
    assert sql(Change(Action.CREATE, trusted, None), facts(superuser=False))


def test_before_15_the_schema_takes_a_superuser() -> None:
    (interior,) = the(Interior)
    change = Change(Action.CREATE, interior, None)
    assert sql(change, facts(140000))
    with pytest.raises(NotAllowed, match="cannot give schema public"):
        sql(change, facts(140000, superuser=False))


# --- reading the catalogs ---


def overview(server: PostgresFacts | None = None, **document: object) -> catalog.Overview:
    apps: list[App] = [App("lernmi", "lernmi", {"postgres": AppOptions()})]
    wanted = desired(apps, context(server))
    answer = {"known": None, "roles": None, "memberships": None, "databases": None, "everywhere": None} | document
    inspection = Inspection(context(server), apps, wanted, MemorySecretStore())
    return catalog.read_overview(json.dumps(answer), inspection)


def database(**fields: object) -> dict[str, object]:
    row = {"name": "lernmi", "mark": None, "owner": "postgres", "open": True, "template": False, "connection_limit": -1}
    return row | {"privileges": None, "settings": None} | fields


def owner_role(mark: str | None = "multidb:digi/lernmi owns") -> dict[str, object]:
    flags = ("login", "inherit", "superuser", "createdb", "createrole", "replication", "bypassrls")
    row = dict.fromkeys(flags, False) | {"inherit": True, "connection_limit": -1, "valid_until": None, "held": None}
    return row | {"name": "lernmi_owner", "mark": mark}


def found(seen: catalog.Overview) -> Database:
    (resource,) = [resource for resource in seen.resources if isinstance(resource, Database)]
    return resource


def test_a_database_created_and_not_marked_yet_is_ours() -> None:
    seen = overview(roles=[owner_role()], databases=[database(open=False)])
    assert found(seen).owner == Owner("digi", "lernmi")
    assert not any(isinstance(resource, Access) for resource in seen.resources), "all the rest is still to be made"
    assert not seen.insides


@pytest.mark.parametrize(
    ("role", "row"),
    [
        (owner_role(), database(open=True)),  # somebody may already be in it
        (owner_role(None), database(open=False)),
        (owner_role("multidb:rival/lernmi"), database(open=False)),
        (owner_role(), database(open=False, mark="a note of somebody's")),
    ],
)
def test_any_other_unmarked_database_is_not(role: dict[str, object], row: dict[str, object]) -> None:
    assert found(overview(roles=[role], databases=[row])).owner is None


def test_the_admin_is_let_in_before_everybody_else_is_shut_out() -> None:
    """In a database that belongs to somebody else its way in may be the one of everybody, which is about to be shut."""
    known = facts(
        superuser=False, server_databases=(ServerDatabaseFacts("postgres", "root", open=True, closable=True),)
    )
    everybody = [["public", "CONNECT", False], ["public", "TEMPORARY", False]]

    def seen(*privileges: list[object], owner: str = "root", accounts: list[str] | None = None) -> list[str]:
        row = database(name="postgres", owner=owner, privileges=privileges)
        (want,) = [each for each in desired([app()], context(known)) if isinstance(each, ServerDatabase)]
        live = [
            each
            for each in overview(known, databases=[row], known=accounts).resources
            if isinstance(each, ServerDatabase)
        ]
        return [text for change in diff([want], live) for text in sql(change, known)]

    shut = 'REVOKE CONNECT, CREATE, TEMPORARY ON DATABASE "postgres" FROM PUBLIC'
    assert seen(*everybody) == ['GRANT CONNECT ON DATABASE "postgres" TO "plat"', shut]
    assert seen(*everybody, ["plat", "CONNECT", False]) == [shut]
    assert seen(*everybody, owner="plat") == [shut]
    assert seen(["plat", "CONNECT", False]) == []
    keeps = 'GRANT CONNECT, TEMPORARY ON DATABASE "postgres" TO "monitor"'
    assert seen(*everybody, owner="plat", accounts=["monitor"]) == [keeps, shut]
    assert seen(["plat", "CONNECT", False], accounts=["monitor"]) == [], "what it never had it is not given"


def test_a_server_whose_defaults_stay_is_partial() -> None:
    known = facts(server_databases=(ServerDatabaseFacts("postgres", "plat", open=True, closable=True),))
    left = dataclasses.replace(context(known), options=ServerOptions(close_defaults=False))
    assert [each for each in desired([app()], left) if isinstance(each, ServerDatabase)] == []
    level, why = isolation(app(), known)
    assert level is Isolation.PARTIAL
    assert "postgres" in why


@pytest.mark.parametrize(
    ("mark", "owner", "settled"),
    [
        (None, None, False),
        ("multidb:digi/lernmi", Owner("digi", "lernmi"), False),
        ("multidb:digi/lernmi unfinished", Owner("digi", "lernmi"), False),
        ("multidb:digi/lernmi 00000000", Owner("digi", "lernmi"), False),
        ("multidb:digi/lernmi REVISION and a note", Owner("digi", "lernmi"), True),
    ],
)
def test_a_mark_tells_whose_and_whether_it_has_to_be_entered(
    mark: str | None, owner: Owner | None, settled: bool
) -> None:
    (interior,) = the(Interior)
    assert isinstance(interior, Interior)
    seen = overview(databases=[database(mark=mark and mark.replace("REVISION", interior.revision))])
    assert found(seen).owner == owner
    (inside,) = seen.insides
    assert (inside.settled, inside.marked) == (settled, owner is not None)


def test_a_rivals_database_is_not_entered() -> None:
    assert not overview(databases=[database(mark="multidb:rival/lernmi unfinished")]).insides


def edges(seen: catalog.Overview) -> dict[str, Membership]:
    return {resource.name: resource for resource in seen.resources if isinstance(resource, Membership)}


def test_grants_of_several_grantors_are_one_membership() -> None:
    rows = [["lernmi_ro", "x", "a", False, False, True], ["lernmi_ro", "x", "b", True, True, False]]
    edge = edges(overview(memberships=rows))["x in lernmi_ro"]
    assert (edge.admin, edge.inherit, edge.set_role, edge.grantors) == (True, True, True, ("a", "b"))


def test_what_the_server_grants_a_roles_creator_is_no_drift() -> None:
    known = facts(superuser=False)
    rows = [[role, "plat", "postgres", True, False, False] for role in ("lernmi_owner", "lernmi_ro")]
    assert not edges(overview(known, memberships=rows))
    rows.append(["lernmi_owner", "plat", "plat", False, True, True])
    edge = edges(overview(known, memberships=rows))["plat in lernmi_owner"]
    assert not diff([edge for edge in the(Membership, known=known) if edge.name == "plat in lernmi_owner"], [edge])


@pytest.mark.parametrize("value", ["30s", "30000", "0.5min", "30000ms"])
def test_equal_durations_are_no_drift(value: str) -> None:
    config = [
        f"statement_timeout={value}",
        "idle_in_transaction_session_timeout=60s",
        "role=lernmi_owner",
        "work_mem=4MB",
    ]
    seen = overview(databases=[database(settings=[["lernmi_user", config]])])
    wanted = [r for r in desired([app()], context()) if r.name == "lernmi_user in lernmi" and r.kind == "settings"]
    live = [r for r in seen.resources if r.name == "lernmi_user in lernmi"]
    assert not diff(wanted, live)


@pytest.mark.parametrize(("number", "ok"), [(90624, False), (129999, False), (130000, True), (190000, True)])
def test_versions(number: int, ok: bool) -> None:
    if ok:
        server_facts.require_version(number, "postgres")
    else:
        with pytest.raises(WrongVersion, match="needs 13 or newer"):
            server_facts.require_version(number, "postgres")


# --- the second of two credentials ---

_BOTH = Alternates(Alternate.FIRST, frozenset(Alternate), tuple(Alternate))
_SECOND = Alternates(Alternate.SECOND, frozenset({Alternate.SECOND}), tuple(Alternate))


@pytest.mark.parametrize("roles", ["simple", "split"])
def test_a_second_login_is_as_the_first(roles: str) -> None:
    """Whatever a login has, by its name; only the names differ."""
    told = dataclasses.replace(context(), alternates={"lernmi": _BOTH})
    found = desired([app(roles=roles)], told)
    logins = [role for role in found if isinstance(role, Role) and role.secret]
    assert len(logins) == (6 if roles == "split" else 4)
    for first, second in _pairs(logins):
        assert second == dataclasses.replace(first, name=second.name)
        for kind in (Membership, Settings):
            of_first, of_second = (
                {
                    repr(each).replace(login, "LOGIN")
                    for each in found
                    if isinstance(each, kind) and login in each.name.split()
                }
                for login in (first.name, second.name)
            )
            assert of_first == of_second
            assert of_first


def _pairs(logins: Sequence[Role]) -> list[tuple[Role, Role]]:
    by_name = {role.name: role for role in logins}
    return [(role, by_name[f"{name}_b"]) for name, role in by_name.items() if not name.endswith("_b")]


def test_a_retired_login_is_off_without_a_password_and_its_sessions_end() -> None:
    told = dataclasses.replace(context(), alternates={"lernmi": _SECOND})
    found = {each.name: each for each in desired([app()], told) if isinstance(each, Role)}
    assert (found["lernmi_user_b"].login, found["lernmi_user_b"].password) == (True, "current")
    retired = found["lernmi_user"]
    lines = changed(retired, login=True, password="other")
    assert [line.split(" ")[0] for line in lines] == ["SELECT", "ALTER", "SELECT", "ALTER"]
    assert lines[1] == 'ALTER ROLE "lernmi_user" CONNECTION LIMIT 0 PASSWORD NULL', "nobody comes in any more"
    assert all("pg_terminate_backend" in line and "'lernmi_user'" in line for line in (lines[0], lines[2]))
    limit = retired.connection_limit
    assert lines[3] == f'ALTER ROLE "lernmi_user" NOLOGIN CONNECTION LIMIT {limit} PASSWORD NULL', "the plan's last"
    killed = changed(retired, login=True, connection_limit=0)
    assert killed == lines, "a run that was killed before the last is gone on with from the first"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("work_mem", "7MB", "'7MB'"),
        ("search_path", '"$user", public', "'$user', 'public'"),
        ("search_path", '"Odd, ""one""", x', """'Odd, "one"', 'x'"""),
        ("search_path", '""', "''"),
        ("search_path", "Odd;CREATE/**/ROLE", "'odd;create/**/role'"),  # as `FROM CURRENT` stores it
        ("app.note", "it's; DROP", "'it''s; DROP'"),
    ],
)
def test_a_setting_of_the_other_login_is_quoted_by_its_kind(name: str, value: str, expected: str) -> None:
    [settings] = [each for each in the(Settings) if each.role == "lernmi_user"]
    live = dataclasses.replace(settings, unlike=frozenset({(True, name, value), (False, "x", None)}))
    lines = sql(Change(Action.UPDATE, settings, live, ()))
    assert lines[0] == 'ALTER ROLE "lernmi_user" RESET "x"'
    parameter = ".".join(f'"{part}"' for part in name.split("."))
    assert lines[1] == f'ALTER ROLE "lernmi_user" IN DATABASE "lernmi" SET {parameter} = {expected}'


def test_a_library_without_a_name_is_not_given_to_the_other_login() -> None:
    [settings] = [each for each in the(Settings) if each.role == "lernmi_user"]
    live = dataclasses.replace(settings, unlike=frozenset({(True, "local_preload_libraries", '""')}))
    lines = sql(Change(Action.UPDATE, settings, live, ()))
    assert lines == ['ALTER ROLE "lernmi_user" IN DATABASE "lernmi" RESET "local_preload_libraries"']
