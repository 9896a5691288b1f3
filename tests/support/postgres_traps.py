"""What an app that means harm puts into its database: each trap writes into the server's log who called it."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["TRAP", "TRAPPED", "caught_in"]

# Returns true, whatever happens; tries everything that more power than the app's would allow.
TRAP = """
CREATE FUNCTION public.trap(tag text, anything anyelement) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$
DECLARE attempt text; role text := current_setting('role');
BEGIN
  BEGIN PERFORM set_config('role', 'none', false); EXCEPTION WHEN OTHERS THEN NULL; END;
  RAISE LOG 'caught % in % as %', tag, current_database(), session_user;
  FOREACH attempt IN ARRAY ARRAY['CREATE ROLE pwned SUPERUSER', 'CREATE ROLE pwned', 'ALTER ROLE {app}_user SUPERUSER']
  LOOP BEGIN EXECUTE attempt; EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP;
  BEGIN PERFORM set_config('role', role, false); EXCEPTION WHEN OTHERS THEN NULL; END;
  RETURN true;
END $$"""

# One of every spot where a server evaluates what an app has made, in a table with rows.
TRAPPED = """
CREATE FUNCTION public.one(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT public.trap(''folded'', 1)::int';
CREATE DOMAIN trapped AS int CHECK (public.trap('domain', VALUE));
CREATE TYPE pair AS (a trapped, b text);
CREATE TABLE checked (
  a int CHECK (public.trap('check', a)), g bool GENERATED ALWAYS AS (public.trap('generated', 2)) STORED);
INSERT INTO checked VALUES (1), (2);
CREATE INDEX by_it ON checked (public.trap('index', a));
CREATE INDEX partly ON checked (a) WHERE public.trap('predicate', a);
CREATE INDEX folded ON checked (a, (public.one(1)));
CREATE STATISTICS about_it ON (public.one(a)), (public.one(2)) FROM checked;
CREATE TABLE typed (p pair, d trapped DEFAULT 3);
INSERT INTO typed VALUES ('(1,x)', 2);
CREATE TABLE hidden (a int);
INSERT INTO hidden VALUES (1);
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
CREATE POLICY by_name ON hidden FOR SELECT TO {app}_ro USING ('(1,x)'::pair IS NOT NULL AND public.trap('policy', a));
CREATE POLICY for_all ON hidden USING (public.trap('policy', a));
CREATE VIEW seen AS SELECT public.trap('view', 1) AS t;
CREATE MATERIALIZED VIEW kept AS SELECT public.trap('materialized', 1) AS t;
CREATE FUNCTION public.fired() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN PERFORM public.trap('trigger', 1); RETURN NEW; END $$;
CREATE TRIGGER watch AFTER INSERT ON checked FOR EACH ROW EXECUTE FUNCTION fired();
CREATE TYPE own AS ENUM ('x');
CREATE FUNCTION public.shown(own) RETURNS text LANGUAGE sql AS 'SELECT public.trap(''cast'', 1)::text';
CREATE CAST (own AS text) WITH FUNCTION public.shown(own) AS IMPLICIT;
CREATE TABLE cast_away (o own);
INSERT INTO cast_away VALUES ('x');
CREATE TABLE parted (a trapped) PARTITION BY LIST (a);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
INSERT INTO parted VALUES (1);
SELECT lo_from_bytea(4711, 'abc');
"""


def caught_in(log: Path) -> set[tuple[str, str]]:
    """Which trap was called by which login, by the server's log."""
    return set(re.findall(r"LOG:  caught (\w+) in \S+ as (\S+)", log.read_text(errors="replace")))
