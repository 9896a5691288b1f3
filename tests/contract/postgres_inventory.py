"""What a Postgres database is, by every catalog that belongs to it: read from the server's own description of its
catalogs, with oids and attribute numbers resolved to names, so that a database and one made from it compare equal.

Nothing here names what is compared. What is not compared is named, each with its reason, and `unknown` asks a server
for what is in no list.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

__all__ = ["LEFT_OUT", "VOLATILE", "Inventory", "difference", "inventory", "unknown"]

_FIRST_OID: Final = 16384

LEFT_OUT: Final[Mapping[str, str]] = {
    "pg_largeobject": "the pages of large objects, of which there are others where one has holes: read through lo_get",
    "pg_statistic": "what ANALYZE has found",
    "pg_statistic_ext_data": "what ANALYZE has found",
    # shared by all databases of a server
    "pg_auth_members": "of the server",
    "pg_authid": "of the server",
    "pg_database": "asked for by itself: see _DATABASE",
    "pg_db_role_setting": "asked for by itself: see _DATABASE",
    "pg_parameter_acl": "of the server",
    "pg_replication_origin": "of the server",
    "pg_shdepend": "says again what the columns of owners, rights and policies say",
    "pg_shdescription": "the comment of a database is multidb's mark; the others are of the server",
    "pg_shseclabel": "no label provider is known to these servers",
    "pg_subscription": "bound to the database: refused, or not in a set",
    "pg_tablespace": "of the server",
}
"""Catalogs that are not compared, and why."""

VOLATILE: Final[Mapping[str, str]] = {
    "pg_attribute.attcacheoff": "a cache",
    "pg_attribute.atthasmissing": "how a column was added, not what is in it: a load writes every row whole",
    "pg_attribute.attmissingval": "as atthasmissing",
    "pg_attribute.attndims": "the server takes no notice of it, and no dump says it",
    "pg_class.relallfrozen": "a measure of VACUUM",
    "pg_class.relallvisible": "a measure of VACUUM",
    "pg_class.relfilenode": "a file's name",
    "pg_class.relfrozenxid": "a measure of VACUUM",
    "pg_class.relhasindex": "may be true of what once was",
    "pg_class.relhasrules": "may be true of what once was",
    "pg_class.relhassubclass": "may be true of what once was",
    "pg_class.relhastriggers": "may be true of what once was",
    "pg_class.relminmxid": "a measure of VACUUM",
    "pg_class.relnatts": "counts dropped columns, too",
    "pg_class.relpages": "a measure of VACUUM",
    "pg_class.reltuples": "a measure of VACUUM",
    "pg_class.relrewrite": "of a command that is running",
    "pg_class.reltoastrelid": "follows from the columns, of which a dropped one may have been the wide one",
    "pg_collation.collencoding": "a copy of a collation for every encoding is dumped by its locale, for this encoding",
    "pg_index.indcheckxmin": "of transactions that are long over",
    "pg_type.typndims": "as attndims",
}
"""Columns that are not compared, and why."""

# What a database's owner can change of the server's own, and large objects, which may have any number: all rows.
_WHOLE: Final[Mapping[str, str]] = {
    "pg_namespace": "NOT nspname ~ '^pg_(toast_)?temp_'",
    "pg_extension": "true",
    "pg_language": "true",
    "pg_description": "t.classoid IN ('pg_namespace'::regclass, 'pg_largeobject'::regclass)",
}

# Columns of parse trees, which are full of oids, as the server writes them down.
_DEPARSED: Final[Mapping[str, str]] = {
    # 15.20 and other servers of November 2026 write a version of the row type there, which nobody can set.
    "pg_attribute.attoptions": "(SELECT array_agg(o ORDER BY o) FROM unnest(t.attoptions) o WHERE o !~ '^pg_attver=')",
    "pg_attrdef.adbin": "pg_get_expr(t.adbin, t.adrelid)",
    "pg_class.relpartbound": "pg_get_expr(t.relpartbound, t.oid)",
    "pg_constraint.conbin": "pg_get_constraintdef(t.oid)",
    "pg_index.indexprs": "pg_get_indexdef(t.indexrelid)",
    "pg_index.indpred": "pg_get_expr(t.indpred, t.indrelid)",
    "pg_partitioned_table.partexprs": "pg_get_partkeydef(t.partrelid)",
    "pg_policy.polqual": "pg_get_expr(t.polqual, t.polrelid)",
    "pg_policy.polwithcheck": "pg_get_expr(t.polwithcheck, t.polrelid)",
    "pg_proc.proargdefaults": "pg_get_function_arguments(t.oid)",
    "pg_proc.prosqlbody": "pg_get_function_sqlbody(t.oid)",
    "pg_publication_rel.prqual": "pg_get_expr(t.prqual, t.prrelid)",
    "pg_rewrite.ev_action": "pg_get_ruledef(t.oid)",
    "pg_rewrite.ev_qual": "NULL",  # in ev_action's text, too
    "pg_statistic_ext.stxexprs": "pg_get_statisticsobjdef(t.oid)",
    "pg_trigger.tgqual": "pg_get_triggerdef(t.oid)",
    "pg_type.typdefaultbin": "pg_get_expr(t.typdefaultbin, 0)",
}

# Columns of oids whose target the server's own list of references does not name, since it differs by row: the class,
# the oid, the number of the column.
_BY_CLASS: Final[Sequence[tuple[str, str, str | None]]] = (
    ("classid", "objid", "objsubid"),
    ("refclassid", "refobjid", "refobjsubid"),
    ("classoid", "objoid", "objsubid"),
)
_OID_TYPES: Final = ("oid", "oidvector", "_oid", "pg_node_tree")

_CATALOGS: Final = """
SELECT c.relname, c.relisshared, (SELECT json_agg(json_build_array(a.attname, t.typname) ORDER BY a.attnum)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = c.oid AND a.attnum > 0)
FROM pg_class c WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r' ORDER BY 1"""
_REFERENCES: Final = """
SELECT fktable::regclass::text, fkcols, pktable::regclass::text, pkcols FROM pg_get_catalog_foreign_keys()"""
_DATABASE: Final = """
SELECT 'setting', coalesce(setrole::regrole::text, ''), unnest(setconfig) FROM pg_db_role_setting s
  JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()
UNION ALL SELECT 'database', pair.key, pair.value #>> '{}' FROM pg_database d, jsonb_each(to_jsonb(d)) pair
WHERE d.datname = current_database()
  AND pair.key NOT IN ('oid', 'datname', 'datdba', 'datacl', 'datfrozenxid', 'datminmxid', 'dattablespace')
UNION ALL SELECT 'right', CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee) END, x.privilege_type
FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x WHERE d.datname = current_database()"""
_IDENTITIES: Final = """
SELECT i.type, i.identity, t.oid FROM {catalog} t, pg_identify_object('{of}'::regclass, t.oid, 0) i"""
_ACL: Final = """
(SELECT json_agg(line ORDER BY line) FROM (
   SELECT concat_ws(' ', '{{' || CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee) END || '}}',
     x.privilege_type, CASE WHEN x.is_grantable THEN '*' END, 'by {{' || pg_get_userbyid(x.grantor) || '}}') AS line
   FROM aclexplode({acl}) x) each)"""
_ACLS: Final[Mapping[str, str]] = {
    "pg_class.relacl": "coalesce(t.relacl, "
    "acldefault(CASE t.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", t.relowner))",
    "pg_proc.proacl": "coalesce(t.proacl, acldefault('f', t.proowner))",
    "pg_type.typacl": "coalesce(t.typacl, acldefault('T', t.typowner))",
    "pg_namespace.nspacl": "coalesce(t.nspacl, acldefault('n', t.nspowner))",
    "pg_language.lanacl": "coalesce(t.lanacl, acldefault('l', t.lanowner))",
    "pg_largeobject_metadata.lomacl": "coalesce(t.lomacl, acldefault('L', t.lomowner))",
}
# What the server makes the name of, from the number of something or from the names that were taken at the time.
_NUMBERED: Final = re.compile(r'"?((?:RI|PK|Unique)_ConstraintTrigger_(?:[ac]_)?|pg_toast_)[0-9]+((?:_index)?)"?')
_TEMPORARY: Final = re.compile(r"^pg_(toast_)?temp_")

_RELATIONS: Final = """
SELECT c.relkind::text, format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid >= 16384 AND c.relkind IN ('r', 'm', 'S') AND c.relpersistence <> 't' AND c.relispopulated ORDER BY 2"""
_ROWS: Final = "SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))) FROM {name} t"

Inventory = Counter[str]


@dataclass
class _Described:
    """A server's own description of its catalogs."""

    columns: dict[str, dict[str, str]]
    shared: frozenset[str]
    references: dict[str, list[tuple[list[str], str, list[str]]]] = field(default_factory=dict)

    @classmethod
    def read(cls, session: psycopg.Connection[Any]) -> _Described:
        catalogs = session.execute(_CATALOGS.encode()).fetchall()
        made = cls(
            {name: dict(columns) for name, _, columns in catalogs},
            frozenset(name for name, shared, _ in catalogs if shared),
        )
        for table, columns, target, keys in session.execute(_REFERENCES.encode()).fetchall():
            made.references.setdefault(table, []).append((columns, target, keys))
        return made

    @property
    def compared(self) -> list[str]:
        return [name for name in self.columns if name not in LEFT_OUT]


def unknown(session: psycopg.Connection[Any]) -> list[str]:
    """What the server has and these lists do not account for: catalogs that are shared by all databases, and columns of
    oids or of parse trees that nobody says the target of. Nothing, or the inventory compares numbers."""
    described = _Described.read(session)
    found = sorted(described.shared - set(LEFT_OUT))
    for catalog in described.compared:
        named = {columns[-1] for columns, _, _ in described.references.get(catalog, [])}
        named |= {name for columns in _BY_CLASS for name in columns if name is not None}
        for column, kind in described.columns[catalog].items():
            name = f"{catalog}.{column}"
            if column == "oid" or name in VOLATILE or name in _DEPARSED:
                continue
            if kind in _OID_TYPES and column not in named:
                found.append(name)
            if kind == "_aclitem" and name not in _ACLS and catalog not in _GIVEN_ALWAYS:
                found.append(name)
    return found


# Their rights are of somebody's making always, or there is no default for them.
_GIVEN_ALWAYS: Final = frozenset(
    {"pg_attribute", "pg_default_acl", "pg_foreign_data_wrapper", "pg_foreign_server", "pg_init_privs"}
)


class _Reader:
    """Reads the catalogs of one database.

    Args:
        renamed: what a role is to be called.
    """

    def __init__(self, session: psycopg.Connection[Any], renamed: Callable[[str], str]) -> None:
        self._session = session
        self._renamed = renamed
        self._described = _Described.read(session)
        self._names: dict[str, dict[str, str]] = {}
        self._columns: dict[str, dict[str, str]] = {}  # relation -> attnum -> name
        self._ignored: dict[str, set[str]] = {}  # relations and types that are no objects of their own

    def read(self) -> Iterator[str]:
        self._identify()
        for kind, who, what in self._session.execute(_DATABASE.encode()).fetchall():
            name, equals, value = what.partition("=") if kind == "setting" else (what, "", "")
            yield f"{kind}: {self._renamed(who.strip(chr(34)))} {name}{equals}{self._renamed(value)}"
        for catalog in self._described.compared:
            # the server may say the same dependence twice: a domain's default names what the domain is made of
            yield from set(self._rows(catalog)) if catalog == "pg_depend" else self._rows(catalog)
        yield from self._states()

    # ---------------------------------------------------------------------------------------------------- names

    def _identify(self) -> None:
        for catalog, columns in self._described.columns.items():
            if "oid" not in columns or catalog in ("pg_enum", "pg_largeobject_metadata"):
                continue
            query = _IDENTITIES.format(catalog=catalog, of=catalog)
            self._names[catalog] = {
                str(oid): self._plain(identity or f"{kind} ?", catalog)
                for kind, identity, oid in self._session.execute(query.encode()).fetchall()
            }
        for relation, number, name in self._session.execute(
            b"SELECT attrelid, attnum, attname FROM pg_attribute WHERE NOT attisdropped"
        ).fetchall():
            self._columns.setdefault(str(relation), {})[str(number)] = name
        toast = self._session.execute(
            b"SELECT reltoastrelid, oid FROM pg_class WHERE reltoastrelid <> 0 UNION ALL "
            b"SELECT i.indexrelid, c.oid FROM pg_class c JOIN pg_index i ON i.indrelid = c.reltoastrelid"
        ).fetchall()
        self._ignored["pg_class"] = {str(oid) for oid, _ in toast}
        self._ignored["pg_type"] = set()

    def _plain(self, identity: str, catalog: str) -> str:
        if catalog == "pg_authid":
            return self._renamed(identity)
        if catalog == "pg_default_acl":
            return re.sub("for role ([a-z0-9_]+)", lambda role: f"for role {self._renamed(role[1])}", identity)
        return _NUMBERED.sub(r"\1N\2", identity)

    def _name(self, catalog: str, oid: str) -> str:
        if oid in ("0", "", "-"):
            return "-"
        if catalog == "pg_database":
            return "this database"
        return self._names.get(catalog, {}).get(oid, oid)

    def _column(self, relation: str, number: str) -> str:
        return "-" if number == "0" else self._columns.get(relation, {}).get(number, number)

    # ----------------------------------------------------------------------------------------------------- rows

    def _rows(self, catalog: str) -> Iterator[str]:
        columns = self._described.columns[catalog]
        references = self._described.references.get(catalog, [])
        chosen = ", ".join(self._expression(catalog, name, kind) for name, kind in columns.items())
        query = f"SELECT {chosen} FROM {catalog} t WHERE {self._ours(catalog, columns, references)}"
        for values in self._session.execute(query.encode()).fetchall():
            row = {name: "" if value is None else str(value) for name, value in zip(columns, values, strict=True)}
            if not self._is_ignored(catalog, row):
                yield f"{catalog}: " + self._written(catalog, row, references)

    def _expression(self, catalog: str, column: str, kind: str) -> str:
        name = f"{catalog}.{column}"
        if name in VOLATILE:
            return "NULL"
        if name in _DEPARSED:
            return f"CASE WHEN t.{column} IS NOT NULL THEN {_DEPARSED[name]} END"
        if kind == "_aclitem":
            return _ACL.format(acl=_ACLS.get(name, f"t.{column}")) + "::text"
        if kind in ("oidvector", "int2vector"):
            return f"array_to_string(t.{column}, ' ')"
        if name == "pg_enum.enumsortorder":
            return (
                "(SELECT count(*) FROM pg_enum e WHERE e.enumtypid = t.enumtypid AND e.enumsortorder < t.enumsortorder)"
            )
        if name == "pg_constraint.connoinherit":  # of a key, it says how a partition got it, and nothing else
            return "CASE WHEN t.contype NOT IN ('p', 'u', 'x') THEN t.connoinherit END"
        if name == "pg_attribute.attnum":
            return (
                "(SELECT count(*) FROM pg_attribute a WHERE a.attrelid = t.attrelid AND NOT a.attisdropped "
                "AND a.attnum BETWEEN 1 AND t.attnum)"
            )
        return f"t.{column}::text"

    def _ours(self, catalog: str, columns: Mapping[str, str], references: Sequence[Any]) -> str:
        """Rows that are of somebody's making, or refer to such."""
        if catalog == "pg_largeobject_metadata":
            return "true"
        oids = {names[-1] for names, target, _ in references if target != "pg_attribute"} | {"oid"}
        oids |= {names[0] for names, _, _ in references if len(names) > 1}
        oids |= {name for names in _BY_CLASS for name in names[1:2] if name is not None}
        tests = []
        for name, kind in columns.items():
            if name in oids and kind in ("oid", "regproc"):
                tests.append(f"t.{name}::oid >= {_FIRST_OID}")
            elif name in oids:
                tests.append(f"EXISTS (SELECT FROM unnest(t.{name}::oid[]) x WHERE x >= {_FIRST_OID})")
        tests += [_WHOLE[catalog]] if catalog in _WHOLE else []
        live = "NOT t.attisdropped AND " if catalog == "pg_attribute" else ""
        return f"{live}({' OR '.join(tests) or 'true'})"

    def _is_ignored(self, catalog: str, row: Mapping[str, str]) -> bool:
        relations = self._ignored["pg_class"]
        if catalog == "pg_class" and row["oid"] in relations:
            return not row["reloptions"]
        if catalog == "pg_attribute":
            return row["attrelid"] in relations
        if catalog == "pg_index":
            return row["indexrelid"] in relations
        if catalog == "pg_namespace":
            return bool(_TEMPORARY.match(row["nspname"]))
        return catalog == "pg_depend" and "pg_toast.pg_toast_" in "".join(
            self._names.get("pg_class", {}).get(row[name], "") for name in ("objid", "refobjid")
        )

    def _written(self, catalog: str, row: Mapping[str, str], references: Sequence[Any]) -> str:
        found = dict(row)
        found.update(self._resolved(catalog, row, references))
        found.update(self._resolved_by_class(row))
        if "oid" in row:
            # the number of a large object is its name; a label of an enum has none but its own
            numbered = {"pg_largeobject_metadata": row["oid"], "pg_enum": ""}
            found["oid"] = numbered.get(catalog, self._name(catalog, row["oid"]))
        if catalog == "pg_type" and row["typelem"] != "0" and row["typcategory"] == "A":
            found["typname"] = ""  # of an array: whatever was free at the time
        for name in {"tgname", "relname", "typname"} & set(found):
            found[name] = _NUMBERED.sub(r"\1N\2", found[name])
        for name, kind in self._described.columns[catalog].items():
            if kind == "_aclitem":
                found[name] = re.sub(r"\{([^{}]*)\}", lambda role: self._renamed(role[1]), found[name])
        return ", ".join(f"{name}={value}" for name, value in found.items() if value != "")

    def _resolved(self, catalog: str, row: Mapping[str, str], references: Sequence[Any]) -> Iterator[tuple[str, str]]:
        for names, target, _ in references:
            column = names[-1]
            if f"{catalog}.{column}" in {**VOLATILE, **_DEPARSED} or (
                target == "pg_proc" and not row[column].isdigit()
            ):
                continue  # of type regproc is written by its name
            parts = row[column].strip("{}").replace(",", " ").split()
            if target == "pg_attribute":
                yield column, " ".join(self._column(row[names[0]], each) for each in parts)
            else:
                yield column, " ".join(self._name(target, each) for each in parts)

        if row.get("prattrs"):  # of pg_publication_rel, which the server's own list leaves out
            yield "prattrs", " ".join(self._column(row["prrelid"], each) for each in row["prattrs"].split())

    def _resolved_by_class(self, row: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        for class_, object_, sub in _BY_CLASS:
            if class_ not in row or object_ not in row:
                continue
            target = self._class(row[class_])
            yield class_, target
            yield object_, self._name(target, row[object_])
            if sub is not None and sub in row and target == "pg_class":
                yield sub, self._column(row[object_], row[sub])

    def _class(self, oid: str) -> str:
        name = self._names["pg_class"].get(oid, oid).removeprefix("pg_catalog.")
        return "pg_largeobject_metadata" if name == "pg_largeobject" else name

    # --------------------------------------------------------------------------------- what is no catalog's row

    def _states(self) -> Iterator[str]:
        """Rows, positions of sequences, large objects."""
        relations = self._session.execute(_RELATIONS.encode()).fetchall()
        for kind, name in relations:
            query = f"SELECT last_value || ' ' || is_called FROM {name}" if kind == "S" else _ROWS.format(name=name)
            if kind == "r":
                query = query.replace(" FROM ", " FROM ONLY ")  # what its children have is theirs
            yield f"rows: {name} {self._session.execute(query.encode()).fetchall()}"
        objects = self._session.execute(b"SELECT oid, md5(lo_get(oid)) FROM pg_largeobject_metadata").fetchall()
        yield from (f"large object: {oid} {digest}" for oid, digest in objects)


def inventory(session: psycopg.Connection[Any], renamed: Callable[[str], str] = str) -> Inventory:
    """Everything that the database is: a line for each row of each catalog, the settings, the rows' digests.

    Args:
        session: a superuser's, in the database, by itself there.
    """
    session.execute(b"SET search_path = pg_catalog")
    found = Counter(_Reader(session, renamed).read())
    session.execute(b"RESET search_path")
    return found


def difference(before: Inventory, after: Inventory) -> list[str]:
    """What is no longer there (-) and what is new (+)."""
    lost = [f"- {line}" for line in (before - after).elements()]
    new = [f"+ {line}" for line in (after - before).elements()]
    return sorted(lost + new, key=lambda line: line[2:])
