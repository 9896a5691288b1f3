"""Text that names a schema, where a server keeps it as text and does not follow the schema to another name. Pure.

What a server has parsed (views, defaults, policies, bodies in standard SQL) knows things by their oids. Bodies of other
functions, settings and literals are text, and say afterwards what they have said before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["TEXTS", "mentions", "pattern"]

# $1: a pattern as `pattern` gives it, $2: a schema; empty: all of the database. Of everything whose text fits it: what
# it is, the text, and whether that is SQL which the server has written of what it has parsed.
TEXTS: Final = """
WITH member AS MATERIALIZED (SELECT classid, objid FROM pg_depend WHERE deptype = 'e' AND refclassid = 3079),
ours AS MATERIALIZED (
  SELECT oid FROM pg_namespace
  WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND $2 IN ('', nspname::text)),
relation AS MATERIALIZED (
  SELECT c.oid, c.relkind FROM pg_class c WHERE c.relnamespace IN (SELECT oid FROM ours)
    AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 1259 AND m.objid = c.oid)),
routine AS MATERIALIZED (
  SELECT p.oid, p.prosrc, p.prokind, p.proconfig, l.lanname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
  WHERE p.pronamespace IN (SELECT oid FROM ours)
    AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 1255 AND m.objid = p.oid)),
written AS (
  SELECT 1255 AS class, oid, prosrc AS text, false AS parsed FROM routine WHERE lanname NOT IN ('internal', 'c')
  UNION ALL SELECT 1255, oid, array_to_string(proconfig, E'\\n'), false FROM routine
  UNION ALL SELECT 1255, oid, pg_get_functiondef(oid), true FROM routine WHERE prokind IN ('f', 'p') AND prosrc = ''
  UNION ALL SELECT 1259, oid, pg_get_viewdef(oid), true FROM relation WHERE relkind IN ('v', 'm')
  UNION ALL SELECT 2618, w.oid, pg_get_ruledef(w.oid), true FROM pg_rewrite w JOIN relation r ON r.oid = w.ev_class
    WHERE r.relkind NOT IN ('v', 'm')
  UNION ALL SELECT 2604, d.oid, pg_get_expr(d.adbin, d.adrelid), true
    FROM pg_attrdef d JOIN relation r ON r.oid = d.adrelid
  UNION ALL SELECT 2606, k.oid, pg_get_constraintdef(k.oid), true FROM pg_constraint k
    WHERE k.connamespace IN (SELECT oid FROM ours) AND k.contype IN ('c', 'x')
  UNION ALL SELECT 2620, t.oid, pg_get_triggerdef(t.oid), true FROM pg_trigger t JOIN relation r ON r.oid = t.tgrelid
    WHERE NOT t.tgisinternal
  UNION ALL SELECT 3256, p.oid,
    concat_ws(' ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)), true
    FROM pg_policy p JOIN relation r ON r.oid = p.polrelid
  UNION ALL SELECT 1259, i.indexrelid, pg_get_indexdef(i.indexrelid), true
    FROM pg_index i JOIN relation r ON r.oid = i.indrelid WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
  UNION ALL SELECT 1247, t.oid, t.typdefault, true FROM pg_type t
    WHERE t.typnamespace IN (SELECT oid FROM ours) AND t.typtype = 'd' AND t.typdefault IS NOT NULL)
SELECT coalesce(json_agg(json_build_array(i.type || ' ' || i.identity, w.text, w.parsed) ORDER BY i.type, i.identity),
                '[]'::json)
FROM written w, pg_identify_object(w.class, w.oid, 0) i WHERE w.text ~* $1"""

# Of SQL that the server has written: names in quotes, and literals, which it writes without comments between them.
_TOKEN: Final = re.compile(r"""("(?:[^"]|"")*")|(E'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*')(::reg[a-z]+)?""", re.DOTALL)


def pattern(schemas: Iterable[str]) -> str:
    """What finds text that may name one of the schemas, on the server."""
    return rf"\m({'|'.join(sorted(schemas))})\M"


def mentions(rows: Iterable[Sequence[object]], schemas: Iterable[str]) -> list[str]:
    """What names one of the schemas in its text, by the answer to `TEXTS`; each once.

    Args:
        schemas: names of letters, digits and ``_``.
    """
    names = "|".join(sorted(schemas))
    naming = re.compile(
        rf"""(?<![\w$])"?(?:{names})"?\s*\.   # before a name
        | '"?(?:{names})"?'                   # alone in quotes
        | search_path.{{0,200}}?(?<![\w$])(?:{names})(?![\w$])""",
        re.IGNORECASE | re.DOTALL | re.VERBOSE,
    )
    naming_of_literal = re.compile(rf"""(?<![\w$])(?:{names})(?![\w$])""", re.IGNORECASE)
    named_in = []
    for what, text, parsed in rows:
        if parsed:
            literals = (match[2] for match in _TOKEN.finditer(str(text)) if match[2] and not match[3])
            named = any(naming_of_literal.search(literal) for literal in literals)
        else:
            named = naming.search(str(text)) is not None or (
                str(text).startswith("search_path") and naming_of_literal.search(str(text)) is not None
            )
        if named:
            named_in.append(str(what))
    return list(dict.fromkeys(named_in))
