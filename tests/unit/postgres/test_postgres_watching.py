"""What is asked of and said about a Postgres server, without one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from multidb.model import App, Owner, StoreContext
from multidb.provisioners.postgres.backup import places
from multidb.provisioners.postgres.isolation import holes_inside
from multidb.provisioners.postgres.observe import usage
from multidb.provisioners.postgres.provision import catalog_text, quoting, script
from multidb.provisioners.postgres.provision.desired import desired
from multidb.provisioners.postgres.provision.options import AppOptions
from multidb.provisioners.postgres.provision.resources import Interior, Membership, PostgresFacts, Settings
from multidb.provisioners.postgres.provision.statements import ending_sessions

FACTS = PostgresFacts(
    product="PostgreSQL", version="18.6", number=180006, admin="plat", superuser=True, createrole=True, createdb=True
)


def app(**options: Any) -> App:
    return App("lernmi", "lernmi", {"postgres": AppOptions(**options)})


def interior(**context: Any) -> Interior:
    found = desired([app()], StoreContext("digi", FACTS, **context))
    return next(each for each in found if isinstance(each, Interior))


def test_the_marks_of_places_are_no_marks_of_apps() -> None:
    assert not places.place_mark(Owner("digi", "lernmi")).startswith("multidb:")
    assert all(len(name) <= 63 for name in places.place_names("a" * 31))


def test_a_policy_is_made_for_other_roles_word_by_word() -> None:
    entry: dict[str, object] = {
        "schema": "public",
        "table": 'odd "one"',
        "name": "p",
        "permissive": False,
        "command": "SELECT",
        "using": "(a > 1)",
        "check": None,
    }
    text = 'CREATE POLICY "p" ON "public"."odd ""one""" AS RESTRICTIVE FOR SELECT TO "other_ro", PUBLIC USING ((a > 1))'
    assert catalog_text.policy(entry, ["other_ro", "public"]) == text


_NOTHING = ("rights", "owned", "routines", "relations", "mappings", "events", "languages")


def test_a_grant_inside_a_database_is_closed_there() -> None:
    rights = [
        ["public", "table", "public.t", None, "stranger", None, "SELECT", False],
        ["public", "table", "public.t", "a b", "stranger", "lernmi_rw", "UPDATE", False],
        [None, "default acl", 'for role "x on y" on tables', None, "public", None, "INSERT", False],
        ["pg_catalog", "table", "pg_catalog.pg_authid", None, "lernmi_user", None, "SELECT", True],
    ]
    answer = json.dumps({**dict.fromkeys(_NOTHING), "rights": rights, "searched": {}})
    database = holes_inside.SearchedDatabase("lernmi", "lernmi", ("lernmi_owner", "lernmi_user"))
    default, verifiers, table = holes_inside.holes_inside(answer, database)
    enter = r'\connect "lernmi"'
    assert table.closes == (
        enter,
        'REVOKE SELECT ON TABLE public.t FROM "stranger" CASCADE;',
        'SET ROLE "lernmi_rw";',
        'REVOKE UPDATE ("a b") ON TABLE public.t FROM "stranger" CASCADE;',
        "RESET ROLE;",
    )
    text = 'ALTER DEFAULT PRIVILEGES for role "x on y" REVOKE ALL ON tables FROM PUBLIC;'
    assert default.closes == (enter, text)
    assert (table.app, default.app, verifiers.app) == ("lernmi", "lernmi", None), "the server's own is everybody's"
    assert (table.account, default.account, verifiers.account) == ("stranger", None, "lernmi_user")


def test_a_name_cannot_part_a_statement() -> None:
    for name in ('a"b', "a\nb", "\\", "a\u2028b", "\x1b[2J", "\U000e0041", "U&", "'", "🦊", '\n"\n'):
        quoted = '"' + name.replace('"', '""') + '"'
        literal = quoting.literal(name)
        line = script.printable(f"REVOKE SELECT ({quoted}) ON TABLE {quoted} FROM {quoted} -- {literal}")
        assert line.isprintable(), line
        if name.isprintable():
            assert line == f"REVOKE SELECT ({quoted}) ON TABLE {quoted} FROM {quoted} -- {literal}"
    assert script.printable('"a\n\\"') == 'U&"a\\000A\\\\"'
    assert script.printable("E'a\\\\\n'") == "E'a\\\\\\u000a'"


def test_who_is_no_superuser_joins_a_login_to_end_its_sessions_and_leaves_it() -> None:
    assert len(list(ending_sessions(["lernmi_user"], FACTS))) == 1
    texts = [each.text for each in ending_sessions(["lernmi_user"], replace(FACTS, superuser=False))]
    assert texts[0] == 'GRANT "lernmi_user" TO "plat" WITH INHERIT TRUE'
    assert texts[-1] == 'REVOKE "lernmi_user" FROM "plat" GRANTED BY "plat"'


def test_over_its_quota_no_login_belongs_to_owner_or_writer() -> None:
    for roles in ("simple", "split"):
        found = desired([app(roles=roles)], StoreContext("digi", FACTS, read_only=frozenset({"lernmi"})))
        into = {each.role for each in found if isinstance(each, Membership)}
        assert into == {"lernmi_ro", "lernmi_restricted"}
        become = [dict(each.values).get("role") for each in found if isinstance(each, Settings)]
        assert set(become) == {"lernmi_restricted", None}
    assert interior(read_only=frozenset({"another"})) == interior()
    assert interior(read_only=frozenset({"lernmi"})).revision != interior().revision


def test_what_the_server_does_not_tell_is_not_made_up() -> None:
    row = {"size": None, "open": False, "limited": False, "connections": 0, "limits": [5, -1], "hit": 0, "read": 0}
    row |= {"deadlocks": 0, "temp_files": 0, "temp_bytes": 0, "transactions": 0}
    row |= {"home": "lernmi", "schema": None}
    answer = json.dumps({"size": None, "connections": 3, "statements": None, "apps": {"lernmi": row}})
    assert usage.queries_query(answer) is None
    assert usage.enterable(answer, FACTS) == {}
    used = usage.read(answer, None, {}, FACTS)
    assert "pg_stat_statements" in used.notes[0]
    found = used.apps["lernmi"]
    assert (found.size, found.connection_limit, found.largest) == (None, None, ())
    assert "cache_hit" not in found.counts
    assert "rows" not in found.counts


def test_an_empty_list_of_libraries_names_no_library() -> None:
    made = catalog_text.setting("shop", "shop_user", "local_preload_libraries=")
    assert made == 'ALTER ROLE "shop_user" IN DATABASE "shop" RESET "local_preload_libraries"'
    assert catalog_text.setting("shop", None, "search_path=").endswith("SET \"search_path\" = ''")
