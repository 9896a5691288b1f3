"""The closed list of what an admin's login sends to an app's database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb.errors import NotAllowed
from multidb.provisioners.postgres.backup import contents
from multidb.provisioners.postgres.isolation import inventory
from multidb.provisioners.postgres.observe import usage
from multidb.provisioners.postgres.provision import (
    existing,
    interior,
    mentions,
    move_survey,
    reading,
    shared_catalog,
    summary,
)
from multidb.provisioners.postgres.provision.admitted import FORMS, QUERIES, require
from multidb.provisioners.postgres.provision.interior_statements import NOTHING_PREPARED
from multidb.provisioners.postgres.provision.quoting import identifier, literal

_DECISION = Path(__file__).parents[3] / "docs/decisions/0020-sessions-that-an-app-cannot-lead.md"
_NAMES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1)


@given(_NAMES, _NAMES)
def test_no_name_and_no_text_leaves_its_quotes(name: str, text: str) -> None:
    quoted = identifier(name)
    require(f"ALTER TABLE {quoted}.{quoted} OWNER TO {quoted}")
    require(f"GRANT CREATE, USAGE ON SCHEMA {quoted} TO {quoted}, PUBLIC")
    require(f"COMMENT ON DATABASE {quoted} IS {literal(text)}")
    require(f"ROLLBACK PREPARED {literal(text)}")


@pytest.mark.parametrize(
    "text",
    [
        "REVOKE GRANT OPTION FOR CREATE ON SCHEMA public FROM PUBLIC CASCADE",
        'ALTER DEFAULT PRIVILEGES FOR ROLE "a_owner" GRANT SELECT, DELETE ON TABLES TO "a_ro", "a_rw"',
        'ALTER ROUTINE public.f("A;b", integer[], VARIADIC text[]) OWNER TO "a_owner"',
        'GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO "a_rw"',
        "REVOKE EXECUTE ON FUNCTION pg_catalog.lo_creat(integer), pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC",
        'GRANT EXECUTE ON FUNCTION pg_catalog.lo_create(oid) TO "a_owner", "a_rw"',
        'GRANT EXECUTE ON ROUTINE public.f("A;b", text), s."g""(1)"() TO "a_ro", "a_rw"',
        'GRANT DELETE, SELECT ON TABLE public.t, "S"."u, v" TO "a_ro", "a_rw"',
        'REVOKE DELETE ON TABLE t FROM "a_restricted"',
        'CREATE EXTENSION IF NOT EXISTS "vector" SCHEMA public CASCADE',
        'CREATE EXTENSION IF NOT EXISTS "vector" SCHEMA "extensions" CASCADE',
        'CREATE SCHEMA "brain"',
        "COMMENT ON SCHEMA \"brain\" IS 'multidb:a/brain unfinished'",
        'DROP SCHEMA "brain"',
        shared_catalog.SHARED,
        'DROP OWNED BY "a_owner", "a_user"',
        'REASSIGN OWNED BY "a_owner" TO "multidb__left"',
        *NOTHING_PREPARED,
        interior.INTERIOR,
        usage.INSIDE,
    ],
)
def test_what_is_sent_is_on_the_list(text: str) -> None:
    require(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT public.f()",
        'REASSIGN OWNED BY "a_owner" TO CURRENT_USER',
        'REASSIGN OWNED BY "a_owner" TO "postgres"',
        'CREATE POLICY p ON public.t TO "a" USING (public.f())',
        "COMMENT ON DATABASE \"a\" IS 'x'; DROP ROLE b",
        'ALTER TABLE public.t OWNER TO "a"; CREATE ROLE x SUPERUSER',
        "ALTER TABLE public.t OWNER TO a b",
        "ALTER ROUTINE public.f(text DEFAULT 'x') OWNER TO \"a\"",
        "ALTER ROUTINE public.f($$x$$) OWNER TO a",
        "GRANT SELECT ON public.t TO a",
        "GRANT SELECT ON TABLE public.t TO a; DROP ROLE b",
        "GRANT EXECUTE ON ROUTINE public.f(), public.g() TO a; DROP ROLE b",
        "GRANT EXECUTE ON FUNCTION public.lo_create(oid) TO a",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO a",
        "GRANT ALL ON ROUTINE public.f() TO a",
        "REFRESH MATERIALIZED VIEW public.m",
        'CREATE SCHEMA "brain" CREATE TABLE t (a int)',
        'DROP SCHEMA "brain" CASCADE',
        'CREATE EXTENSION IF NOT EXISTS "vector" SCHEMA "brain" CASCADE',
        "ROLLBACK PREPARED E'\\'; DROP ROLE b --'",
        "",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(NotAllowed):
        require(text)


def test_every_form_says_why_and_is_in_the_decisions_table_which_has_no_others() -> None:
    assert all(form.why for form in FORMS)
    rows = [line for line in _DECISION.read_text().splitlines() if line.startswith("| ")]
    *statements, queries = [re.findall("`([^`]+)`", row.split(" | ")[0]) for row in rows[1:]]
    titles = [title for row in statements for title in row]
    assert sorted(titles) == sorted(form.title for form in FORMS)
    modules = {
        "contents": contents,
        "existing": existing,
        "interior": interior,
        "inventory": inventory,
        "mentions": mentions,
        "move_survey": move_survey,
        "reading": reading,
        "shared_catalog": shared_catalog,
        "summary": summary,
        "usage": usage,
    }
    named = [getattr(modules[name.split(".")[0]], name.split(".")[1]) for name in queries]
    assert sorted(named) == sorted(QUERIES)
