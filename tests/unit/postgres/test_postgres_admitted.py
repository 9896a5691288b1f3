"""The closed list of what an admin's login sends to an app's database."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb.errors import NotAllowed
from multidb.provisioners.postgres.observe import usage
from multidb.provisioners.postgres.provision import catalog
from multidb.provisioners.postgres.provision.admitted import FORMS, require
from multidb.provisioners.postgres.provision.statements import NOTHING_PREPARED, identifier, literal

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
        'REVOKE ALL ON ROUTINE public.dblink_connect_u("A;b", text) FROM "a_ro", "a_rw"',
        'REVOKE ALL ON TABLE public.pg_buffercache FROM "a_ro", "a_rw"',
        'CREATE EXTENSION IF NOT EXISTS "vector" SCHEMA public CASCADE',
        'DROP OWNED BY "a_owner", "a_user"',
        'REASSIGN OWNED BY "a_owner" TO "multidb__left"',
        *NOTHING_PREPARED,
        catalog.INTERIOR,
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
        "GRANT EXECUTE ON FUNCTION public.lo_create(oid) TO a",
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO a",
        "GRANT ALL ON ROUTINE public.f() TO a",
        "REFRESH MATERIALIZED VIEW public.m",
        "ROLLBACK PREPARED E'\\'; DROP ROLE b --'",
        "",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(NotAllowed):
        require(text)


def test_every_form_says_why() -> None:
    assert all(form.why for form in FORMS)
