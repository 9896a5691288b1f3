"""What is asked of a Postgres server as a whole: who has which power there, and how logins come in.

Each part of the answer is one value of a JSON object, so that one round trip brings all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from multidb.model import Inspection, Owner
from multidb.provisioners.postgres.backup.places import place_mark, place_names
from multidb.provisioners.postgres.isolation.inventory import SHARED
from multidb.provisioners.postgres.provision.resources import Database, PostgresFacts, derived_names
from multidb.provisioners.postgres.provision.roles import POWERS
from multidb.provisioners.postgres.provision.shared_resources import SharedDatabase

__all__ = ["server_parameters", "server_query"]

_OF_PROVIDERS: Final = {"rds": "^rds", "cloudsql": "^cloudsql", "azure": "^azure"}
_POWERS: Final = [power.column for power in POWERS]
_POWERFUL: Final = " OR ".join(_POWERS)


def _name(oid: str) -> str:
    return f"CASE {oid} WHEN 0 THEN 'public' ELSE pg_get_userbyid({oid}) END"


# The value of each name is one expression; `mighty`, `powerful`, `derived` and `own` are named in `_roles`.
_RIGHTS: Final = {
    "members": f"""(SELECT json_agg(json_build_array({_name("roleid")}, {_name("member")}, {_name("grantor")})
      ORDER BY roleid, member) FROM pg_auth_members
    WHERE roleid IN (SELECT oid FROM powerful) AND member NOT IN (SELECT oid FROM mighty)
      AND roleid NOT IN (SELECT oid FROM derived) AND member NOT IN (SELECT oid FROM derived))""",  # noqa: S608
    "server databases": f"""(SELECT json_agg(json_build_array(d.datname, {_name("d.datdba")},
      d.datdba <> 10 AND d.datdba NOT IN (SELECT oid FROM mighty), d.datallowconn,
      (SELECT json_agg(json_build_array({_name("x.grantee")}, x.privilege_type) ORDER BY 1)
       FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
       WHERE x.grantee <> d.datdba AND x.grantee NOT IN (SELECT oid FROM mighty)
         AND (x.grantee <> 0 OR d.datname = 'template0' AND x.privilege_type <> 'CONNECT'))))
    FROM pg_database d WHERE d.datname IN ('postgres', 'template0', 'template1', current_database()))""",  # noqa: S608
    "tablespaces": f"""(SELECT json_agg(json_build_array(t.spcname, {_name("t.spcowner")},
      t.spcowner NOT IN (SELECT oid FROM mighty),
      (SELECT json_agg({_name("x.grantee")} ORDER BY 1) FROM aclexplode(t.spcacl) x
       WHERE x.grantee <> t.spcowner AND x.grantee NOT IN (SELECT oid FROM mighty UNION SELECT oid FROM derived))))
    FROM pg_tablespace t)""",  # noqa: S608
}
_SETTINGS: Final = {
    "settings": f"""(SELECT json_agg(json_build_array(CASE WHEN s.setrole <> 0 THEN {_name("s.setrole")} END, d.datname,
      split_part(c.line, '=', 1))) FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) c (line)
    LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_settings g ON g.name = split_part(c.line, '=', 1)
    WHERE g.context IN ('superuser', 'superuser-backend') AND substr(c.line, strpos(c.line, '=') + 1) <> g.boot_val
      AND (s.setrole = 0 OR s.setrole NOT IN (SELECT oid FROM mighty))
      AND (s.setdatabase = 0 OR s.setdatabase IN (SELECT oid FROM own)))""",  # noqa: S608
    "configured": """(SELECT json_agg(json_build_array(name, boot_val)) FROM pg_settings
    WHERE context IN ('superuser', 'superuser-backend') AND reset_val IS DISTINCT FROM boot_val
      AND source IN ('configuration file', 'command line', 'environment variable'))""",
}
_SESSIONS: Final = {
    "subscriptions": f"""(SELECT json_agg(json_build_array(s.subname, d.datname, {_name("s.subowner")}))
    FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
    WHERE s.subenabled AND s.subdbid IN (SELECT oid FROM own) AND s.subowner NOT IN (SELECT oid FROM derived))""",  # noqa: S608
    "slots": """(SELECT json_agg(json_build_array(slot_name, database, active)) FROM pg_replication_slots
    WHERE datoid IN (SELECT oid FROM own))""",
    "full": """(SELECT json_agg(json_build_array(f.rolname, f.rolconnlimit, f.who)) FROM (
    SELECT r.rolname, r.rolconnlimit, json_agg(json_build_array(coalesce(nullif(a.application_name, ''), 'no name'),
        coalesce(host(a.client_addr), 'this machine'), coalesce(a.state, 'unknown')) ORDER BY a.backend_start) AS who
    FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
    WHERE r.rolname IN (SELECT json_array_elements_text($1::json)) AND r.rolconnlimit >= 0
    GROUP BY 1, 2 HAVING count(*) >= r.rolconnlimit) f)""",
    "enterable": """(SELECT json_agg(datname ORDER BY datname) FROM pg_database
    WHERE datallowconn AND has_database_privilege(oid, 'CONNECT') AND oid NOT IN (SELECT oid FROM own))""",
}
_LEFT: Final = {
    "places": """(
  SELECT json_agg(json_build_array(d.datname, coalesce(split_part(c.description, '/', 2), $3::jsonb ->> d.datname))
                  ORDER BY d.datname)
  FROM pg_database d LEFT JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
  WHERE (starts_with(c.description, $2)
         OR (c.description IS NULL AND NOT d.datallowconn AND $3::jsonb ->> d.datname IS NOT NULL))
    AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid))""",
    "unmarked": """(
  SELECT json_agg(json_build_array(d.datname, $3::jsonb ->> d.datname, d.datallowconn AND EXISTS (
           SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
           WHERE x.grantee = 0 AND x.privilege_type = 'CONNECT')) ORDER BY d.datname)
  FROM pg_database d LEFT JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
  WHERE NOT d.datistemplate AND coalesce(c.description, '') !~ '^multidb(-place)?:'
    AND (d.datallowconn OR c.description IS NOT NULL))""",
}


def server_query(facts: PostgresFacts) -> str:
    """Asks for what no app's resources show; parameters as in `server_parameters`. Verifiers and pg_hba.conf are only
    told to a superuser."""
    answers = {
        **_logins(facts),
        "parameters": _parameters(facts),
        "strangers": _strangers(facts),
        **_RIGHTS,
        **_SETTINGS,
        **_SESSIONS,
        "counts": f"json_build_object({', '.join(_counted(facts))})",
        **_LEFT,
        "asked": "$1::json",
    }
    values = ",\n  ".join(f"'{name}', {value}" for name, value in answers.items())
    return f"WITH {_roles(facts)}\nSELECT json_build_object({values})"


def _roles(facts: PostgresFacts) -> str:
    """Names for what the answers are about: the roles that may do all (the provider's own among them), those with any
    power, the apps' roles, and the apps' databases."""
    provider = _OF_PROVIDERS.get(facts.service)
    theirs = f" OR rolname ~ '{provider}'" if provider else ""
    return f"""mighty AS MATERIALIZED (
  SELECT oid, rolname FROM pg_roles WHERE rolsuper OR rolname = current_user OR rolname ~ '^pg_'{theirs}),
powerful AS MATERIALIZED (
  SELECT oid FROM mighty UNION SELECT oid FROM pg_roles WHERE {_POWERFUL}
    OR rolname IN (SELECT json_array_elements_text($5::json))),
derived AS MATERIALIZED (SELECT oid FROM pg_roles WHERE rolname IN (SELECT json_array_elements_text($4::json))),
own AS MATERIALIZED (SELECT oid FROM pg_database WHERE datname IN (SELECT json_array_elements_text($6::json)))"""  # noqa: S608


def _logins(facts: PostgresFacts) -> dict[str, str]:
    if not facts.superuser:
        return {"weak": "NULL::json", "hba": "NULL::json", "lines": "NULL::int"}
    return {
        "weak": """(SELECT json_agg(json_build_array(rolname, rolpassword IS NULL) ORDER BY rolname) FROM pg_authid
    WHERE rolcanlogin AND rolname IN (SELECT json_array_elements_text($1::json))
      AND coalesce(rolpassword, '') NOT LIKE 'SCRAM-SHA-256$%')""",
        "hba": """(SELECT json_agg(json_build_array(line_number, type, database, user_name,
      coalesce(address, CASE type WHEN 'local' THEN 'this machine' ELSE 'everywhere' END), auth_method, options)
      ORDER BY line_number) FROM pg_hba_file_rules WHERE error IS NULL)""",
        "lines": "(SELECT count(*) FROM pg_hba_file_rules)",
    }


def _parameters(facts: PostgresFacts) -> str:
    if facts.number < 150000:
        return "NULL::json"
    return f"""(SELECT json_agg(json_build_array(p.parname, x.privilege_type, {_name("x.grantee")}))
    FROM pg_parameter_acl p, aclexplode(p.paracl) x WHERE x.grantee NOT IN (SELECT oid FROM mighty))"""  # noqa: S608


def _strangers(facts: PostgresFacts) -> str:
    provider = _OF_PROVIDERS.get(facts.service)
    not_theirs = f" AND rolname !~ '{provider}'" if provider else ""
    return f"""(SELECT json_agg(json_build_array(rolname, {", ".join(_POWERS)}) ORDER BY rolname) FROM pg_roles
    WHERE ({_POWERFUL}) AND oid <> 10 AND rolname <> current_user AND rolname !~ '^pg_'{not_theirs})"""  # noqa: S608


def _counted(facts: PostgresFacts) -> Iterator[str]:
    for name in SHARED:
        if name not in ("pg_authid", "pg_auth_members") and (name != "pg_parameter_acl" or facts.number >= 150000):
            yield f"'{name}', (SELECT count(*) FROM {name})"  # noqa: S608


def server_parameters(logins: Iterable[str], inspection: Inspection) -> tuple[str, ...]:
    """What `server_query` is asked with: the apps' `logins`, the beginning of the marks of this project's places, the
    app of each name that a place may have (one that was left before it got its mark is shut and has no comment), every
    role name of the apps, used or not, the known accounts, and the apps' databases."""
    places = {name: app.id for app in inspection.apps for name in place_names(app.id)}
    ours = place_mark(Owner(inspection.context.project, ""))
    names = [name for app in inspection.apps for name in derived_names(app)]
    roles = [name.name for name in names if name.space == "postgres role"]
    databases = [resource.name for resource in inspection.desired if isinstance(resource, (Database, SharedDatabase))]
    known = sorted(inspection.context.known)
    return (json.dumps(sorted(logins)), ours, json.dumps(places), *map(json.dumps, (roles, known, databases)))
