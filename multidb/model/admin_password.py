"""How the password of a server's admin is replaced by another, as a store says it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from multidb.model.core import Facts, Statement
from multidb.secrets import SecretRef

__all__ = ["AdminPassword", "AdminStatements"]

AdminStatements = Callable[[Facts, str, SecretRef], Sequence[Statement]]
"""(facts, the admin's login, under which name the statements bind the new password) -> what is sent."""


def _nothing(facts: Facts, login: str, secret: SecretRef) -> Sequence[Statement]:
    return ()


@dataclass(frozen=True, slots=True)
class AdminPassword:
    """How a store's servers come to another password of their admin's (or key).

    Args:
        by_hand: what the operator of a server that is not ours does, as a sentence with ``{login}`` for the admin's.
        take: has the server take the new password: beside the former where it knows two, else in place of it. Nothing
            where it reads its passwords at its start only.
        drop: has it take the new one alone; nothing where `take` has done that.
        derived: what is sent of the password, where the server keeps something else.
        at_start: it reads its passwords at its start only, two of them: the present one and an alternate.
        signs: apps' credentials are signed with it, and made anew by the next apply.
        obstacle: why a server's cannot be replaced while it is used; nothing where it can.
    """

    by_hand: str
    take: AdminStatements = _nothing
    drop: AdminStatements = _nothing
    derived: Callable[[str], str] = str
    at_start: bool = False
    signs: bool = False
    obstacle: Callable[[Facts], str] = lambda facts: ""
