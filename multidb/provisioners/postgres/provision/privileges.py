"""Statements that give privileges and take them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from multidb.provisioners.postgres.provision.quoting import identifier
from multidb.provisioners.postgres.provision.resources import PUBLIC, PostgresFacts

__all__ = ["adjustments", "grantee_in_sql", "grouped", "joining_login", "leaving_login", "privileges_of"]

_GRANT_OPTION = "GRANT OPTION FOR "


def grantee_in_sql(name: str) -> str:
    """Who is named in a GRANT."""
    return "PUBLIC" if name == PUBLIC else identifier(name)


def adjustments(what: str, held: frozenset[tuple[str, str]], desired: frozenset[tuple[str, str]]) -> Iterator[str]:
    """Revokes what is held and not wanted, grants what is wanted and not held, and touches nothing else."""
    surplus = held - desired
    options = {(to, right.removeprefix(_GRANT_OPTION)) for to, right in surplus if right.startswith(_GRANT_OPTION)}
    for grantees, privileges in grouped(options):
        yield f"REVOKE {_GRANT_OPTION}{privileges} {what} FROM {grantees} CASCADE"
    for grantees, privileges in grouped(pair for pair in surplus if not pair[1].startswith(_GRANT_OPTION)):
        yield f"REVOKE {privileges} {what} FROM {grantees}"
    for grantees, privileges in grouped(desired - held):
        yield f"GRANT {privileges} {what} TO {grantees}"


def grouped(privileges: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Lists of grantees, with the list of privileges that each of them has alike, as SQL writes them."""
    by_grantee: dict[str, list[str]] = {}
    for grantee, privilege in sorted(privileges):
        by_grantee.setdefault(grantee, []).append(privilege)
    alike: dict[str, list[str]] = {}
    for grantee, held in by_grantee.items():
        alike.setdefault(", ".join(held), []).append(grantee_in_sql(grantee))
    for shared, grantees in alike.items():
        yield ", ".join(grantees), shared


def joining_login(login: str, facts: PostgresFacts) -> str:
    """What makes the admin a member of an app's login, so that it may do what that one may."""
    option = " WITH INHERIT TRUE" if facts.membership_options else ""
    return f"GRANT {identifier(login)} TO {identifier(facts.admin)}{option}"


def leaving_login(login: str, facts: PostgresFacts) -> str:
    """What takes that back."""
    by = f" GRANTED BY {identifier(facts.admin)}" if facts.membership_options else ""
    return f"REVOKE {identifier(login)} FROM {identifier(facts.admin)}{by}"


def privileges_of(rows: Iterable[Sequence[Any]] | None) -> frozenset[tuple[str, str]]:
    """Pairs of grantee and privilege; the right to pass one on is a privilege of its own."""
    held: set[tuple[str, str]] = set()
    for grantee, privilege, grantable in rows or ():
        held.add((grantee, privilege))
        if grantable:
            held.add((grantee, f"GRANT OPTION FOR {privilege}"))
    return frozenset(held)
