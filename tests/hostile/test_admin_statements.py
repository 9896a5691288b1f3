"""The list of an admin's statements is closed."""

from __future__ import annotations

import pytest

from tests.support import admin_statements


@pytest.mark.parametrize(
    "text",
    [
        'SELECT count(*) FROM ONLY "public"."people" t',
        'BEGIN; GRANT USAGE ON SCHEMA "a" TO "b"; SELECT lo_get(1)',
        'ANALYZE "public"."people"',
        'CREATE POLICY "p" ON "t" USING (true)',
        'REASSIGN OWNED BY "a" TO CURRENT_USER',
        "ALTER TABLE \"t\" ADD CONSTRAINT c CHECK (f('x'))",
        'REFRESH MATERIALIZED VIEW "m"',
        'COPY "t" TO STDOUT',
    ],
)
def test_what_may_run_an_apps_code_is_not_on_it(text: str) -> None:
    assert not admin_statements.known(text)


def test_names_cannot_hide_a_statement() -> None:
    assert admin_statements.known('BEGIN;\nGRANT USAGE ON SCHEMA "a; SELECT ""x""" TO "b"')
    assert not admin_statements.known('GRANT USAGE ON SCHEMA "a" TO "b"; SELECT "x"')


def test_every_entry_has_a_reason() -> None:
    assert all(admin_statements.OF_ARCHIVES.values())
