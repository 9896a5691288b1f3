"""What is asked of and said about a Postgres server, without one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from multidb.model import App, Owner, StoreContext
from multidb.provisioners.postgres import contents, holes, places, usage
from multidb.provisioners.postgres.resources import AppOptions, Interior, Membership, PostgresFacts, Settings, desired
from multidb.provisioners.postgres.statements import ending_sessions

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
    assert contents.policy(entry, ["other_ro", "public"]) == text


def test_a_grant_inside_a_database_is_closed_there() -> None:
    answer = [["TABLE", "public.t", "stranger", "SELECT"], ["DEFAULT", 'FOR ROLE "x/y"/TABLES', "public", "INSERT"]]
    table, default = holes.holes_inside(json.dumps({"outsiders": answer, "searched": {}}), interior())
    assert table.closes == (r'\connect "lernmi"', 'REVOKE ALL ON TABLE public.t FROM "stranger" CASCADE;')
    text = 'ALTER DEFAULT PRIVILEGES FOR ROLE "x/y" REVOKE ALL ON TABLES FROM PUBLIC;'
    assert default.closes == (r'\connect "lernmi"', text)
    assert (table.app, default.app) == ("lernmi", "lernmi")


def test_who_is_no_superuser_joins_a_login_to_end_its_sessions_and_leaves_it() -> None:
    assert len(list(ending_sessions(["lernmi_user"], FACTS))) == 1
    texts = [each.text for each in ending_sessions(["lernmi_user"], replace(FACTS, superuser=False))]
    assert texts[0] == 'GRANT "lernmi_user" TO "plat" WITH INHERIT TRUE'
    assert texts[-1] == 'REVOKE "lernmi_user" FROM "plat" GRANTED BY "plat"'


def test_over_its_quota_no_login_belongs_to_owner_or_writer() -> None:
    for roles in ("simple", "split"):
        found = desired([app(roles=roles)], StoreContext("digi", FACTS, restricted=frozenset({"lernmi"})))
        into = {each.role for each in found if isinstance(each, Membership)}
        assert into == {"lernmi_ro", "lernmi_restricted"}
        become = [dict(each.values).get("role") for each in found if isinstance(each, Settings)]
        assert set(become) == {"lernmi_restricted", None}
    assert interior(restricted=frozenset({"another"})) == interior()
    assert interior(restricted=frozenset({"lernmi"})).revision != interior().revision


def test_what_the_server_does_not_tell_is_not_made_up() -> None:
    row = {"size": None, "open": False, "limited": False, "connections": 0, "limits": [5, -1], "hit": 0, "read": 0}
    row |= {"deadlocks": 0, "temp_files": 0, "temp_bytes": 0, "transactions": 0}
    answer = json.dumps({"size": None, "connections": 3, "statements": None, "apps": {"lernmi": row}})
    assert usage.queries_query(answer) is None
    assert usage.enterable(answer, FACTS) == ()
    used = usage.read(answer, None, {}, FACTS)
    assert "pg_stat_statements" in used.notes[0]
    found = used.apps["lernmi"]
    assert (found.size, found.connection_limit, found.largest) == (None, None, ())
    assert "cache_hit" not in found.counts
    assert "rows" not in found.counts
