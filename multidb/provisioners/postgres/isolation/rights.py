"""Who may do what with the things in an app's database, as far as that is not what every new thing gets; and who owns
the large objects, since of all the rest an apply makes the app's owner role the owner.

`pg_dump` knows both by the names of roles, which are others where a set becomes another app's. So they are in the set's
manifest, as data: what is to be changed is found again by its address, and what the server then calls it is what stands
in a statement. Pure; the statements are for a login that may do no more than the app.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from multidb.provisioners.postgres.provision.quoting import identifier

__all__ = [
    "MOST_OBJECTS",
    "Default",
    "Member",
    "Objects",
    "Right",
    "Thing",
    "defaults",
    "given",
    "members",
    "members_query",
    "objects",
    "objects_query",
    "of_schema",
    "owned",
    "passed_on",
    "query",
    "read",
    "resolution",
    "strangers",
    "things",
]

Grants = frozenset[tuple[str, str, bool, str]]
"""Grantee ("" is everybody), privilege, whether it may be passed on, and who gave it ("" is the owner)."""

_PRIVILEGES: Final = frozenset(
    [
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "TRUNCATE",
        "REFERENCES",
        "TRIGGER",
        "MAINTAIN",
        "USAGE",
        "CREATE",
        "EXECUTE",
    ]
)
_LARGE: Final = "large object"
_SPAN: Final = re.compile(r"([1-9][0-9]{0,9})(?:-([1-9][0-9]{0,9}))?")
MOST_OBJECTS: Final = 20_000  # in one answer
_KINDS: Final[Mapping[str, str]] = {
    "r": "TABLES",
    "S": "SEQUENCES",
    "f": "FUNCTIONS",
    "T": "TYPES",
    "n": "SCHEMAS",
    "L": "LARGE OBJECTS",  # since Postgres 18
}
# What pg_identify_object calls a thing, and how GRANT calls it.
_WORDS: Final[Mapping[str, str]] = {
    "table": "TABLE",
    "view": "TABLE",
    "materialized view": "TABLE",
    "sequence": "SEQUENCE",
    "function": "ROUTINE",
    "procedure": "ROUTINE",
    "aggregate": "ROUTINE",
    "schema": "SCHEMA",
    "type": "TYPE",
    _LARGE: "LARGE OBJECT",
}

_ACL = """(SELECT coalesce(json_agg(json_build_array(
    CASE x.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(x.grantee) END, x.privilege_type, x.is_grantable,
    CASE x.grantor WHEN {owner} THEN '' ELSE pg_get_userbyid(x.grantor) END)
    ORDER BY x.grantee, x.privilege_type, x.is_grantable, x.grantor), '[]'::json) FROM {rows} x)"""
# Every thing that a load makes and that has an owner and privileges of its own:
# class, oid, column, owner, privileges, kinds of its defaults.
_THINGS = """
  SELECT 'pg_class'::regclass::oid AS class, c.oid, 0 AS sub, c.relowner AS owner, c.relacl AS acl,
    CASE c.relkind WHEN 'S' THEN 'S' ELSE 'r' END AS stored, CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END AS builtin
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname !~ '^pg_'
    -- what a foreign table has is left out with it
    AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_class f ON f.oid = d.refobjid AND f.relkind = 'f'
      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
        AND d.deptype IN ('a', 'i'))
  UNION ALL SELECT 'pg_proc'::regclass::oid, p.oid, 0, p.proowner, p.proacl, 'f', 'f' FROM pg_proc p
  WHERE p.oid >= 16384
  -- a multirange type has privileges of its own until 17
  UNION ALL SELECT 'pg_type'::regclass::oid, t.oid, 0, t.typowner, t.typacl, 'T', 'T' FROM pg_type t
  WHERE t.oid >= 16384 AND (t.typtype IN ('b', 'd', 'e', 'r', 'c')
      OR t.typtype = 'm' AND current_setting('server_version_num')::int < 170000)
    AND NOT (t.typelem <> 0 AND t.typlen = -1)
    AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c')
  UNION ALL SELECT 'pg_namespace'::regclass::oid, n.oid, 0, n.nspowner, n.nspacl, 'n', 'n' FROM pg_namespace n
  WHERE (n.oid >= 16384 OR n.nspname NOT IN ('public', 'information_schema')) AND n.nspname !~ '^pg_'
  UNION ALL SELECT 'pg_largeobject'::regclass::oid, l.oid, 0, l.lomowner, l.lomacl, 'L', 'L'
  FROM pg_largeobject_metadata l"""


@dataclass(frozen=True, slots=True)
class Default:
    """What a role gives on what it will make: everywhere, or on top of that in one schema."""

    role: str
    schema: str | None
    kind: str  # as ``pg_default_acl.defaclobjtype``
    grants: Grants
    builtin: Grants  # what it would be without

    @property
    def while_loading(self) -> Default:
        """The same with all that the role has by itself on what it makes, or it could not fill what it has made."""
        return replace(self, grants=self.grants | {grant for grant in self.builtin if grant[0] == self.role})


@dataclass(frozen=True, slots=True)
class Right:
    """One thing, or one column of it, by its address; `owner` is empty for a column."""

    type: str
    names: tuple[str, ...]
    args: tuple[str, ...]
    column: str | None
    owner: str
    grants: Grants


@dataclass(frozen=True, slots=True)
class Objects:
    """Large objects of one owner with the same privileges, by the first and the last of each row of numbers."""

    owner: str
    grants: Grants
    spans: tuple[tuple[int, int], ...]

    def right(self, thing: Thing) -> Right:
        """What there is to be on one of them."""
        return Right(_LARGE, (thing.identity,), (), None, self.owner, self.grants)


@dataclass(frozen=True, slots=True)
class Member:
    """What was given on a member of an extension, or a column of it, beside what the extension's script gives, and what
    of that was taken away. `owner` is empty where it is none of the app's roles."""

    type: str
    names: tuple[str, ...]
    args: tuple[str, ...]
    column: str | None
    owner: str
    given: Grants
    taken: Grants

    @property
    def address(self) -> tuple[object, ...]:
        """What identifies the thing in another database too."""
        return self.type, self.names, self.args, self.column

    def right(self, thing: Thing) -> Right:
        """What there is to be on the thing, which the extension's script has made."""
        held = thing.grants if self.column is None else frozenset()
        return Right(self.type, self.names, self.args, self.column, "", held - self.taken | self.given)


@dataclass(frozen=True, slots=True)
class Thing:
    """What the server calls it here, whose it is, and what is given on it now."""

    type: str
    identity: str
    owner: str
    grants: Grants
    is_member: bool  # of an extension


_IS_MEMBER: Final = "EXISTS (SELECT FROM pg_depend e WHERE e.classid = {0} AND e.objid = {1} AND e.deptype = 'e')"
# What differs from what the script gave; whatever has no row there has what every new thing has.
_MEMBERS: Final = f"""
  SELECT coalesce(json_agg(json_build_array(i.type, i.object_names, i.object_args, m.name, m.owner, m.held, m.initial)
    ORDER BY m.class, m.oid, m.name NULLS FIRST), '[]'::json)
  FROM (
    SELECT t.class, t.oid, a.name, pg_get_userbyid(t.owner) AS owner,
      {_ACL.format(rows="aclexplode(a.held)", owner="t.owner")}::jsonb AS held,
      {_ACL.format(rows="aclexplode(a.initial)", owner="t.owner")}::jsonb AS initial
    FROM thing t, LATERAL (
      SELECT NULL::name, coalesce(t.acl, acldefault(t.builtin::"char", t.owner)),
        coalesce((SELECT initprivs FROM pg_init_privs WHERE (classoid, objoid, objsubid) = (t.class, t.oid, 0)),
                 acldefault(t.builtin::"char", t.owner))
      UNION ALL
      SELECT attname, attacl, (SELECT initprivs FROM pg_init_privs
                               WHERE (classoid, objoid, objsubid) = (t.class, t.oid, attnum::int))
      FROM pg_attribute WHERE t.class = 'pg_class'::regclass AND attrelid = t.oid AND attacl IS NOT NULL
    ) a (name, held, initial)
    WHERE {_IS_MEMBER.format("t.class", "t.oid")}) m,
    pg_identify_object_as_address(m.class, m.oid, 0) i
  WHERE m.held <> m.initial"""  # noqa: S608


# Large objects, of which there may be a million alike: those of one owner and the same rights as one text of numbers.
_OBJECTS: Final = """
  SELECT coalesce(json_agg(json_build_array(owner, acl, spans) ORDER BY owner, acl), '[]'::json) FROM (
    SELECT owner, acl,
      string_agg(CASE low WHEN high THEN low::text ELSE low || '-' || high END, ' ' ORDER BY low) AS spans
    FROM (SELECT owner, acl, min(number) AS low, max(number) AS high FROM (
        SELECT owner, acl, oid::int8 AS number,
          oid::int8 - row_number() OVER (PARTITION BY owner, acl ORDER BY oid) AS island
        FROM kept WHERE class = 'pg_largeobject'::regclass) numbered
      GROUP BY owner, acl, island) span
    GROUP BY owner, acl) alike"""


def members_query() -> str:
    """The query for what was changed on the members of extensions: see `members`."""
    return f"WITH thing AS MATERIALIZED ({_THINGS}) {_MEMBERS}"


def query(owner: str) -> str:
    """The query for what the set keeps, in the database of the app whose owner role is the literal `owner`: one JSON
    document, see `read` and `members`."""
    default = _acl("d.defaclacl", "d.defaclrole")
    builtin = _acl(
        "acldefault(CASE d.defaclobjtype WHEN 'S' THEN 's' ELSE d.defaclobjtype END, d.defaclrole)", "d.defaclrole"
    )
    by_itself = 'acldefault(t.builtin::"char", t.owner)'
    held = _acl(f"coalesce(t.acl, {by_itself})", "t.owner")
    # As `Default.while_loading`: what the owner holds by itself, whatever it gives itself on what it makes.
    expected = _ACL.format(
        rows=f"""(
      SELECT grantee, privilege_type, is_grantable, grantor FROM aclexplode(coalesce((
        SELECT a.defaclacl FROM pg_default_acl a WHERE a.defaclrole = t.owner AND a.defaclnamespace = 0
          AND a.defaclobjtype = t.stored::"char"), {by_itself}))
      UNION
      SELECT grantee, privilege_type, is_grantable, grantor FROM aclexplode({by_itself}) o
      WHERE o.grantee = t.owner)""",  # noqa: S608
        owner="t.owner",
    )
    column = _acl("a.attacl", "t.owner")
    return f"""
WITH thing AS MATERIALIZED ({_THINGS}),
kept AS (
  SELECT t.class, t.oid, 0 AS sub, NULL::name AS column, pg_get_userbyid(t.owner) AS owner, {held}::jsonb AS acl
  FROM thing t WHERE t.owner <> {owner}::regrole OR ({held})::jsonb <> ({expected})::jsonb
  UNION ALL
  SELECT t.class, t.oid, 0, a.attname, '', {column}::jsonb FROM thing t
  JOIN pg_attribute a ON t.class = 'pg_class'::regclass AND a.attrelid = t.oid AND a.attacl IS NOT NULL
  WHERE NOT a.attisdropped)
SELECT json_build_object(
  'defaults', (SELECT coalesce(json_agg(json_build_array(pg_get_userbyid(d.defaclrole), n.nspname, d.defaclobjtype,
      {default}, {builtin}) ORDER BY d.oid), '[]'::json)
    FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace),
  'things', (SELECT coalesce(json_agg(json_build_array(i.type, i.object_names, i.object_args, k.column, k.owner, k.acl)
      ORDER BY k.class, k.oid, k.column NULLS FIRST), '[]'::json)  -- what is taken off a table goes off its columns
    FROM kept k, pg_identify_object_as_address(k.class, k.oid, 0) i
    WHERE k.class <> 'pg_largeobject'::regclass AND NOT {_IS_MEMBER.format("k.class", "k.oid")}),
  'objects', ({_OBJECTS}),
  'members', ({_MEMBERS}))"""  # noqa: S608


def of_schema(document: Mapping[str, Any], schema: str, roles: Sequence[str]) -> dict[str, Any]:
    """An answer to `query` as far as it is about one schema of a database that apps share, and the app's roles."""
    return {
        "defaults": [entry for entry in document["defaults"] if entry[0] in roles],
        "things": [entry for entry in document["things"] if _is_within(entry[0], entry[1], schema)],
        "members": [],
    }


def _is_within(type_: str, names: Sequence[str], schema: str) -> bool:
    """Whether a thing is in a schema, or is that; `schema` is one that a manifest can name, or such a one to be."""
    if type_ == "type":  # which has one name, as SQL writes it, with its schema
        return names[0].startswith((f"{schema}.", f"{identifier(schema)}."))
    return names[0] == schema


def strangers(document: Mapping[str, Any], roles: Sequence[str]) -> list[str]:
    """The roles in an answer to `query` that are none of these: who was given something, or gives on what it makes."""
    ours = {"", *roles}  # what others have made is theirs
    named = {grantee for *_, owner, acl in document["things"] if owner in ours for grantee, *_ in acl}
    named |= {grantee for _, acl, _ in document.get("objects", ()) for grantee, *_ in acl}
    for role, _, _, acl, _ in document["defaults"]:
        named |= {role, *(grantee for grantee, *_ in acl)}
    return sorted(named - ours)


def read(document: Mapping[str, Any], renamed: Callable[[str], str | None]) -> tuple[list[Default], list[Right]]:
    """An answer to `query`, as a set's manifest keeps it, for the roles of another app.

    Args:
        renamed: the role that is meant here by one of there; None where there is none, and then it is given nothing.

    Raises:
        ValueError: it is no such answer.
    """
    made: list[Default] = []
    for role, schema, kind, held, builtin in document["defaults"]:
        here = renamed(_text(role))
        if kind in _KINDS and here is not None:
            place = None if schema is None else _text(schema)
            made.append(Default(here, place, kind, _grants(held, renamed), _grants(builtin, renamed)))
    kept = [
        Right(
            _word(type_),
            tuple(map(_text, names)),
            tuple(map(_text, args)),
            None if column is None else _text(column),
            renamed(_text(owner)) or "" if owner else "",
            _grants(held, renamed),
        )
        for type_, names, args, column, owner, held in document["things"]
    ]
    return made, kept


def objects(document: Mapping[str, Any], renamed: Callable[[str], str | None]) -> list[Objects]:
    """The large objects in an answer to `query`. Otherwise as `read`; earlier versions have them among the things."""
    return [
        Objects(
            renamed(_text(owner)) or "",
            _grants(held, renamed),
            tuple(sorted((int(low), int(high or low)) for low, high in map(_span, _text(spans).split(" ")))),
        )
        for owner, held, spans in document.get("objects", ())
    ]


def _span(text: str) -> tuple[str, str | None]:
    if (match := _SPAN.fullmatch(text)) is None:
        raise ValueError(f"{text[:40]!r} is no number of a large object")
    return match[1], match[2]


def members(entries: Sequence[Any], renamed: Callable[[str], str | None]) -> list[Member]:
    """What was changed on members of extensions, for the roles of another app. Otherwise as `read`."""
    changed: list[Member] = []
    for type_, names, args, column, owner, held, initial in entries:
        now, first = (_grants(rows, lambda role: role) for rows in (held, initial))
        member = Member(
            _word(type_),
            tuple(map(_text, names)),
            tuple(map(_text, args)),
            None if column is None else _text(column),
            renamed(_text(owner)) or "",
            _renamed(now - first, renamed),
            _renamed(first - now, renamed),
        )
        changed += [member] if member.given or member.taken else []
    return changed


def _renamed(grants: Grants, renamed: Callable[[str], str | None]) -> Grants:
    return _grants(sorted(grants), renamed)


def _acl(privileges: str, owner: str) -> str:
    return _ACL.format(rows=f"aclexplode({privileges})", owner=owner)


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{str(value)[:40]!r} is no name")
    return value


def _word(value: object) -> str:
    if value not in _WORDS:
        raise ValueError(f"{str(value)[:40]!r} is nothing that has an owner")
    return str(value)


def _grants(rows: Sequence[Sequence[object]], renamed: Callable[[str], str | None]) -> Grants:
    grants: set[tuple[str, str, bool, str]] = set()
    for grantee, privilege, grantable, *by in rows:  # earlier versions did not say by whom
        if privilege not in _PRIVILEGES or not isinstance(grantable, bool):
            raise ValueError(f"{str(privilege)[:40]!r} is no privilege")
        here = renamed(_text(grantee)) if grantee else ""
        if here is not None:
            grantor = renamed(_text(by[0])) if by and by[0] else None
            grants.add((here, str(privilege), grantable, grantor or ""))
    return frozenset(grants)


def defaults(entries: Sequence[Default], *, everywhere: bool) -> Iterator[str]:
    """The statements that give a new database these defaults: those that hold everywhere, or those of schemas."""
    for entry in entries:
        if (entry.schema is None) is not everywhere:
            continue
        start = f"ALTER DEFAULT PRIVILEGES FOR ROLE {identifier(entry.role)}"
        start += f" IN SCHEMA {identifier(entry.schema)}" if entry.schema is not None else ""
        held = entry.builtin if everywhere else frozenset()
        yield from (f"{start} {text}" for text in _adjusted(held, entry.grants, f"ON {_KINDS[entry.kind]}"))


def resolution() -> str:
    """The query that finds things again; $1: `Right`s as JSON arrays of type, names, args. For each: type, identity,
    owner, grants, whether an extension brought it; of what has no privileges of its own here, nothing of these."""
    held = _acl('coalesce(t.acl, acldefault(t.builtin::"char", t.owner))', "t.owner")
    return f"""
WITH thing AS MATERIALIZED ({_THINGS})
SELECT coalesce(json_agg(CASE WHEN t.oid IS NOT NULL THEN
    json_build_array(i.type, i.identity, pg_get_userbyid(t.owner), {held}, {_IS_MEMBER.format("t.class", "t.oid")}) END
    ORDER BY asked.n), '[]'::json)
FROM json_array_elements($1::json) WITH ORDINALITY asked (value, n),
  pg_get_object_address(asked.value ->> 0, ARRAY(SELECT json_array_elements_text(asked.value -> 1)),
                        ARRAY(SELECT json_array_elements_text(asked.value -> 2))) a
LEFT JOIN thing t ON t.class = a.classid AND t.oid = a.objid
LEFT JOIN LATERAL pg_identify_object(t.class, t.oid, 0) i ON true"""  # noqa: S608


def objects_query() -> str:
    """The query for the large objects of some spans; $1: these as JSON arrays, $2: the number that they come after. At
    most `MOST_OBJECTS`: of each as `resolution` says it, with its number as its identity."""
    held = _acl("coalesce(l.lomacl, acldefault('L'::\"char\", l.lomowner))", "l.lomowner")
    return f"""
SELECT coalesce(json_agg(json_build_array('{_LARGE}', l.oid::text, pg_get_userbyid(l.lomowner), {held}, false)
                         ORDER BY l.oid), '[]'::json)
FROM (SELECT l.oid, l.lomowner, l.lomacl FROM json_array_elements($1::json) span JOIN pg_largeobject_metadata l
        ON l.oid BETWEEN (span ->> 0)::oid AND (span ->> 1)::oid
      WHERE l.oid > $2::oid ORDER BY l.oid LIMIT {MOST_OBJECTS}) l"""  # noqa: S608


def things(rows: Sequence[Sequence[Any] | None]) -> list[Thing | None]:
    """The things in an answer to `resolution`."""
    return [
        None if row is None else Thing(row[0], row[1], row[2], _grants(row[3], lambda role: role), row[4])
        for row in rows
    ]


def owned(right: Right, thing: Thing) -> Iterator[str]:
    """The statement that gives a large object to its owner; none for everything else, and when it has it."""
    if thing.type == _LARGE and right.owner not in ("", thing.owner):
        yield f"ALTER LARGE OBJECT {thing.identity} OWNER TO {identifier(right.owner)}"


def given(right: Right, thing: Thing) -> Iterator[str]:
    """The statements after which the right's privileges are given on the thing (or its column) by its owner, and no
    others."""
    what, held = _target(right, thing), thing.grants if right.column is None else frozenset()
    yield from _adjusted(_of_owner(held), _of_owner(right.grants), what)


def passed_on(right: Right, thing: Thing) -> list[tuple[str, str]]:
    """What others than the owner give on the thing, in an order in which each has it before it gives it: for each, the
    statement by which it does, and the one by which the owner does where that one cannot."""
    what, left = _target(right, thing), right.grants - _of_owner(right.grants)
    able = {(grantee, privilege) for grantee, privilege, grantable, _ in _of_owner(right.grants) if grantable}
    made: list[tuple[str, str]] = []
    while left:
        ready = {grant for grant in left if (grant[3], grant[1]) in able} or left
        for grantee, privilege, grantable, grantor in sorted(ready):
            text = _grant(privilege, what, grantee, grantable)
            made.append((f"SET ROLE {identifier(grantor)}; {text}; RESET ROLE", text))
            if grantable:
                able.add((grantee, privilege))
        left -= ready
    return made


def _of_owner(grants: Grants) -> Grants:
    return frozenset(grant for grant in grants if not grant[3])


def _target(right: Right, thing: Thing) -> str:
    """What a statement puts after a privilege."""
    column = f"({identifier(right.column)}) " if right.column is not None else ""
    return f"{column}ON {_WORDS[thing.type]} {thing.identity}"


def _adjusted(held: Grants, asked: Grants, what: str) -> Iterator[str]:
    for grantee, privilege, grantable, _ in sorted(held - asked):
        if (grantee, privilege, not grantable, "") in asked and grantable:
            yield f"REVOKE GRANT OPTION FOR {privilege} {what} FROM {_grantee(grantee)}"
        elif (grantee, privilege, True, "") not in asked:
            yield f"REVOKE {privilege} {what} FROM {_grantee(grantee)}"
    for grantee, privilege, grantable, _ in sorted(asked - held):
        if grantable or (grantee, privilege, True, "") not in held:
            yield _grant(privilege, what, grantee, grantable)


def _grant(privilege: str, what: str, grantee: str, grantable: bool) -> str:
    return f"GRANT {privilege} {what} TO {_grantee(grantee)}" + (" WITH GRANT OPTION" if grantable else "")


def _grantee(name: str) -> str:
    return identifier(name) if name else "PUBLIC"
