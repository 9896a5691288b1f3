#!/bin/sh
# Written by multidb from multidb.yaml; changes made here are lost. Make it again: multidb render. Template: init-multiple-databases.sh.j2
#
# Makes a database with a login of its own for each name in POSTGRES_MULTIPLE_DATABASES, closed to everybody else.
# Mount it into the official Postgres image, where it runs once, when the data folder is made:
#
#   environment: {POSTGRES_MULTIPLE_DATABASES: "shop,blog", SHOP_DB_PASSWORD_FILE: /run/secrets/shop}
#   volumes: ["./init-multiple-databases.sh:/docker-entrypoint-initdb.d/10-multiple-databases.sh:ro"]
#
#   POSTGRES_MULTIPLE_DATABASES   names: 2 to 31 of a-z, 0-9 and _, first a letter, last not _
#   SHOP_DB_PASSWORD              password of shop_user, or SHOP_DB_PASSWORD_FILE with the name of a file that has it.
#                                 Without one shop_user cannot log in until it is given a password.
#   MULTIDB_PROJECT               whose databases they are: with it `multidb apply` goes on from here,
#                                 without it `multidb apply --adopt shop` does
#
# For each name: the database; <name>_owner, who owns what is in it; <name>_user, who logs in and acts as the owner.
# It may be run any number of times: what is there stays, passwords too. One wrong name, and nothing is made at all.

# A subshell: the image reads the script into its own shell when the file is not executable.
(
set -euf
LC_ALL=C
export LC_ALL

refuse() {
  printf 'init-multiple-databases: %s\n' "$1" >&2
  exit 1
}

# The server answers on its socket only, while it is being set up.
case ${PGHOST:-} in /*) ;; *) PGHOST= ;; esac
PGHOSTADDR=
PGPASSWORD=${PGPASSWORD:-${POSTGRES_PASSWORD:-}}
PGOPTIONS="${PGOPTIONS:-} -c client_min_messages=warning -c password_encryption=scram-sha-256"
export PGHOST PGHOSTADDR PGPASSWORD PGOPTIONS
admin=${POSTGRES_USER:-postgres}

as_admin() {
  psql --no-psqlrc --quiet --no-password --set=ON_ERROR_STOP=1 --username="$admin" --dbname=postgres "$@"
}

check_name() {
  case $1 in
    '') refuse 'an empty name in POSTGRES_MULTIPLE_DATABASES' ;;
    [!a-z]* | *[!a-z0-9_]* | *_) refuse "not a name for a database: '$1' (a-z, 0-9 and _, first a letter, last not _)" ;;
    postgres | template0 | template1 | pg_*) refuse "Postgres keeps the name '$1' for itself" ;;
  esac
  if [ "${#1}" -lt 2 ] || [ "${#1}" -gt 31 ]; then refuse "a name has 2 to 31 characters: '$1'"; fi
}

# The password given for the app $1, empty when there is none.
password_of() {
  variable=$(printf '%s_DB_PASSWORD' "$1" | tr '[:lower:]' '[:upper:]')
  eval "value=\${$variable:-} file=\${${variable}_FILE:-}" # the name was checked: letters, digits and _
  if [ -n "$file" ]; then
    if [ -n "$value" ]; then refuse "both $variable and ${variable}_FILE are set"; fi
    value=$(cat -- "$file") || refuse "${variable}_FILE cannot be read: $file"
    if [ -z "$value" ]; then refuse "the file of ${variable}_FILE is empty: $file"; fi
  fi
  case $value in *[![:print:]]*) refuse "$variable has characters that are not printable ASCII" ;; esac
  printf '%s' "$value"
}

create() {
  as_admin --set=app="$1" --set=owner="$1_owner" --set=user="$1_user" --set=project="${MULTIDB_PROJECT:-}" <<'SQL'
SELECT format('CREATE ROLE %I NOLOGIN', :'owner')
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'owner') \gexec
SELECT format('CREATE ROLE %I LOGIN NOINHERIT CONNECTION LIMIT 20', :'user')
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'user') \gexec
SELECT format('GRANT %I TO %I', :'owner', :'user')
  || CASE WHEN current_setting('server_version_num')::int >= 160000 THEN ' WITH INHERIT FALSE, SET TRUE' ELSE '' END
  WHERE NOT EXISTS (
    SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
    WHERE r.rolname = :'owner' AND u.rolname = :'user') \gexec
SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING ''UTF8'' ALLOW_CONNECTIONS false', :'app')
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'app') \gexec
REVOKE CONNECT, TEMPORARY ON DATABASE :"app" FROM PUBLIC;
GRANT CONNECT, CREATE, TEMPORARY ON DATABASE :"app" TO :"owner";
GRANT CONNECT ON DATABASE :"app" TO :"user";
ALTER ROLE :"user" IN DATABASE :"app" SET role = :'owner';
SELECT statement FROM (VALUES
    (shobj_description((SELECT oid FROM pg_roles WHERE rolname = :'owner'), 'pg_authid'),
      format('COMMENT ON ROLE %I IS %L', :'owner', 'multidb:' || :'project' || '/' || :'app' || ' owns what is in the database')),
    (shobj_description((SELECT oid FROM pg_roles WHERE rolname = :'user'), 'pg_authid'),
      format('COMMENT ON ROLE %I IS %L', :'user', 'multidb:' || :'project' || '/' || :'app' || ' login of the app')),
    (shobj_description((SELECT oid FROM pg_database WHERE datname = :'app'), 'pg_database'),
      format('COMMENT ON DATABASE %I IS %L', :'app', 'multidb:' || :'project' || '/' || :'app' || ' unfinished'))
  ) AS mark (present, statement)
  WHERE present IS NULL AND :'project' <> '' \gexec
ALTER DATABASE :"app" ALLOW_CONNECTIONS true;
\connect :"app"
ALTER SCHEMA public OWNER TO :"owner";
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
SQL
}

# Gives the login $1 the password $2 unless it has one. psql makes the SCRAM verifier itself: the password is in no
# argument, no statement and no log. It asks for it twice, on its input where it has no terminal, which setsid sees to.
give_password() {
  has=$(printf "SELECT count(*) FROM pg_authid WHERE rolname = :'login' AND rolpassword IS NOT NULL" |
    as_admin --tuples-only --no-align --set=login="$1")
  if [ "$has" = 0 ]; then
    printf '%s\n%s\n' "$2" "$2" | PGDATABASE=postgres setsid \
      psql --no-psqlrc --quiet --no-password --set=ON_ERROR_STOP=1 --username="$admin" --command="\\password $1" 2>&1 |
      grep -v '^Enter ' >&2 || true
  fi
}

case ${MULTIDB_PROJECT:-} in *[!a-z0-9_-]*) refuse "not a project: '$MULTIDB_PROJECT'" ;; esac

names=${POSTGRES_MULTIPLE_DATABASES:-}
if [ -z "$names" ]; then exit 0; fi
# Blanks around names are allowed, inside they are not; a comma at the end is.
apps=$(printf '%s' "$names" | tr ',' '\n' | sed -e 's/^[[:blank:]]*//' -e 's/[[:blank:]]*$//')
case $names in *'
'*) refuse 'POSTGRES_MULTIPLE_DATABASES has more than one line' ;; esac

IFS='
'
for app in $apps; do
  check_name "$app"
  password_of "$app" >/dev/null
done

# The databases that every login could enter otherwise.
as_admin --set=first="${POSTGRES_DB:-$admin}" <<'SQL'
SELECT format('REVOKE CONNECT, CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC', datname)
  FROM pg_database WHERE datname IN ('postgres', 'template1', :'first') \gexec
SQL

for app in $apps; do
  create "$app"
  password=$(password_of "$app")
  if [ -n "$password" ]; then give_password "${app}_user" "$password"; fi
  printf 'init-multiple-databases: %s is there\n' "$app"
done
)
