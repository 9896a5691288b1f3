"""What a failed load says of rows that break a constraint."""

from __future__ import annotations

import pytest

from multidb.provisioners.postgres.backup.violations import violation

_COPY = 'pg_restore: error: COPY failed for table "c": ERROR:  {}\nCONTEXT:  COPY c, line 1: "secret"'
_MADE = "pg_restore: error: could not execute query: ERROR:  {}\nDETAIL:  Key (p)=(secret).\nCommand was: {}\n"


@pytest.mark.parametrize(
    ("said", "table", "broken"),
    [
        (
            _MADE.format(
                'insert or update on table "c" violates foreign key constraint "to p"',
                'ALTER TABLE ONLY "my shop"."a ""c"""\n    ADD CONSTRAINT "to p" FOREIGN KEY (p) REFERENCES p(id);',
            ),
            '"my shop"."a ""c"""',
            'foreign key constraint "to p"',
        ),
        (_COPY.format('new row for relation "c" violates check constraint "k"'), "c", 'check constraint "k"'),
        (_COPY.format('value for domain d violates check constraint "k"'), "c", 'check constraint "k"'),
        (
            _COPY.format('null value in column "n" of relation "c" violates not-null constraint'),
            "c",
            "not-null constraint",
        ),
        (_COPY.format('new row for relation "c" violates partition constraint'), "c", "partition constraint"),
        (
            _MADE.format(
                'check constraint "k" of relation "c" is violated by some row',
                "ALTER TABLE public.c\n    ADD CONSTRAINT k CHECK (fine(n));",
            ),
            "public.c",
            'check constraint "k"',
        ),
        (
            _MADE.format('could not create unique index "k"', "CREATE UNIQUE INDEX k ON public.c USING btree (n);"),
            "public.c",
            'unique index "k"',
        ),
        (
            _MADE.format(
                'could not create exclusion constraint "k"',
                "ALTER TABLE ONLY public.c\n    ADD CONSTRAINT k EXCLUDE ..",
            ),
            "public.c",
            'exclusion constraint "k"',
        ),
    ],
)
def test_table_and_constraint_are_named_and_no_row_is(said: str, table: str, broken: str) -> None:
    assert violation(said) == f"rows of table {table} break {broken}, and no server loads them"


@pytest.mark.parametrize(
    "said",
    [
        "",
        "pg_restore: error: could not execute query: ERROR:  out of memory\nCommand was: ALTER TABLE ONLY public.c",
        'pg_restore: error: COPY failed for table "c": ERROR:  invalid input syntax',
        'ERROR:  violates check constraint "k"',
    ],
)
def test_what_failed_for_something_else_is_none(said: str) -> None:
    assert violation(said) is None
