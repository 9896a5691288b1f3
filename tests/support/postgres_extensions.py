"""Small extensions for the tests, as files of a server: what real ones do, and what none of them does at once."""

from __future__ import annotations

from typing import Final

__all__ = ["FILES"]

# Trusted, in two versions. What it has configured is kept in a table that nobody else may write; a trigger of its own
# notes who does. Its members are of every kind of type.
_TRUSTED: Final = """
CREATE TABLE setting (name text PRIMARY KEY, value text, shipped bool NOT NULL DEFAULT false);
CREATE SEQUENCE setting_number;
CREATE TABLE writer (who text, really text);
CREATE FUNCTION note_writer() RETURNS trigger LANGUAGE plpgsql SET search_path = @extschema@ AS
  $$ BEGIN INSERT INTO writer VALUES (current_user, session_user); RETURN NEW; END $$;
INSERT INTO setting VALUES ('given', 'by the script', true);
GRANT SELECT ON setting, setting_number TO PUBLIC;
GRANT INSERT ON writer TO PUBLIC;
CREATE TRIGGER noted BEFORE INSERT ON setting FOR EACH ROW EXECUTE FUNCTION note_writer();
SELECT pg_extension_config_dump('setting', 'WHERE NOT shipped');
SELECT pg_extension_config_dump('setting_number', '');
CREATE TYPE pair AS (a int, b text);
CREATE TYPE mood AS ENUM ('well', 'ill');
CREATE TYPE span AS RANGE (subtype = date);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE VIEW shown AS SELECT name FROM setting;
CREATE FUNCTION one() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
"""
# Neither trusted nor a superuser's: whoever makes it owns all of it.
_OWN: Final = """
CREATE TABLE choice (id int PRIMARY KEY, word text);
SELECT pg_extension_config_dump('choice', '');
"""
# For a superuser only. Its script looks for what it needs where the session would, changes the database's settings, and
# leaves a schema that is none of its members.
_ADMINS: Final = """
DO $$ BEGIN
  EXECUTE 'SET LOCAL search_path = ' || (SELECT reset_val FROM pg_settings WHERE name = 'search_path');
  PERFORM one();
  EXECUTE format('ALTER DATABASE %I SET search_path = "$user", public, tt_rooms', current_database());
  CREATE SCHEMA tt_rooms;
  ALTER EXTENSION tt_admins DROP SCHEMA tt_rooms;
END $$;
CREATE TABLE secret (word text);
SELECT pg_extension_config_dump('secret', '');
"""
# One that refuses to be made a second time on a server, as those with a worker for one database do.
_SINGLE: Final = """
DO $$ BEGIN
  IF current_database() ~ '__' THEN RAISE 'can only create extension in another database'; END IF;
END $$;
"""
# What an extension keeps apart by login.
_APART: Final = """
CREATE TABLE job (command text, username text DEFAULT current_user);
ALTER TABLE job ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON job USING (username = current_user);
GRANT SELECT ON job TO PUBLIC;
SELECT pg_extension_config_dump('job', '');
"""
# What it shows to everybody, and what it keeps from everybody.
_SOME: Final = """
CREATE TABLE displayed (a int);
GRANT SELECT ON displayed TO PUBLIC;
SELECT pg_extension_config_dump('displayed', 'WHERE a > 0');
CREATE TABLE hidden (a int);
CREATE VIEW looked AS SELECT a FROM hidden;
CREATE SEQUENCE hidden_number;
CREATE FUNCTION open_to_all() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION closed(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
REVOKE ALL ON FUNCTION closed(int) FROM PUBLIC;
"""

FILES: Final = {
    "tt_trusted.control": "default_version = '2.0'\ntrusted = true\nrelocatable = false\n",
    "tt_trusted--1.0.sql": _TRUSTED,
    "tt_trusted--1.0--2.0.sql": "CREATE FUNCTION two() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2';",
    "tt_trusted--0.5--2.0.sql": "SELECT 1;",
    "tt_own.control": "default_version = '1'\nsuperuser = false\nrelocatable = true\n",
    "tt_own--1.sql": _OWN,
    "tt_admins.control": "default_version = '1'\nrelocatable = false\n",
    "tt_admins--1.sql": _ADMINS,
    "tt_fixed.control": "default_version = '1'\nschema = tt_fixed\nrelocatable = false\n",
    "tt_fixed--1.sql": "CREATE TABLE one (a int);",
    "tt_single.control": "default_version = '1'\n",
    "tt_single--1.sql": _SINGLE,
    "tt_some.control": "default_version = '1'\n",
    "tt_some--1.sql": _SOME,
    "tt_apart.control": "default_version = '1'\n",
    "tt_apart--1.sql": _APART,
}
