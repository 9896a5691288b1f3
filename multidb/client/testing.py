"""An app's test database (``postgres: {test_database: true}``), emptied before a run of tests.

An app may not drop and make databases: who may make one may make any, in every other app's name and open to all. So
what test runners do by DROP DATABASE and CREATE DATABASE is done here by dropping what the app has in it. Django does
so with ``TEST_RUNNER = "multidb.client.django.TestRunner"``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from multidb.client.errors import CallRefused, VariableMissing

__all__ = ["empty_test_database"]

_OURS: Final = """pg_has_role({owner}, 'USAGE') AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = {catalog} AND d.objid = {oid} AND d.objsubid = 0
      AND d.deptype IN ('e', 'i', 'a'))"""


def _ours(catalog: int, oid: str, owner: str) -> str:
    return _OURS.format(catalog=catalog, oid=oid, owner=owner)


# Objects of extensions stay: an app cannot make all of them again. So does what comes with another object, such as the
# sequence of a column. The texts are made before the first of them is run, which takes others with it.
_EMPTY: Final = f"""
DO $$ DECLARE lines text[]; line text; BEGIN
PERFORM set_config('search_path', 'pg_catalog', true);
SELECT array_agg(text ORDER BY turn) INTO lines FROM (
  SELECT 1 AS turn, format('DROP SCHEMA IF EXISTS %I CASCADE', n.nspname) AS text FROM pg_namespace n
  WHERE n.nspname NOT IN ('public', 'information_schema') AND n.nspname !~ '^pg_'
    AND NOT EXISTS (SELECT FROM pg_extension e WHERE e.extnamespace = n.oid) AND {_ours(2615, "n.oid", "n.nspowner")}
  UNION ALL
  SELECT 2, format('DROP %s IF EXISTS %I.%I CASCADE', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW'
      WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname !~ '^pg_' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {_ours(1259, "c.oid", "c.relowner")}
  UNION ALL
  SELECT 3, format('DROP ROUTINE IF EXISTS %s CASCADE', p.oid::regprocedure)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE n.nspname !~ '^pg_' AND {_ours(1255, "p.oid", "p.proowner")}
  UNION ALL
  SELECT 4, format('DROP TYPE IF EXISTS %I.%I CASCADE', n.nspname, t.typname)
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
  WHERE n.nspname !~ '^pg_' AND (t.typtype IN ('d', 'e', 'r') OR c.relkind = 'c' OR t.typtype = 'b' AND t.typelem = 0)
    AND {_ours(1247, "t.oid", "t.typowner")}) o;
FOREACH line IN ARRAY coalesce(lines, ARRAY[]::text[]) LOOP EXECUTE line; END LOOP; END $$"""  # noqa: S608


def empty_test_database(variables: Mapping[str, str] = os.environ) -> None:
    """Drops all that the app has made in its test database; extensions and their objects stay.

    Args:
        variables: the app's, with ``TEST_DATABASE_URL``.

    Raises:
        VariableMissing: it is not among them.
        CallRefused: it leads to another database than the app's test database.
    """
    import psycopg

    url, app = variables.get("TEST_DATABASE_URL"), variables.get("APP_NAME", "")
    if not url:
        raise VariableMissing(
            "TEST_DATABASE_URL is not set; postgres: {test_database: true} in the app's entry of the manifest and "
            "`multidb apply` make it"
        )
    with psycopg.connect(url, autocommit=True, application_name="multidb tests") as connection:
        if connection.info.dbname != f"{app}_test":
            raise CallRefused(
                f"{connection.info.dbname} is not {app}_test, the test database of APP_NAME: it is left alone"
            )
        connection.execute(_EMPTY)
