"""Another password for the admin's user, which has one; its sessions go on. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from multidb.model import AdminPassword, Facts, Statement
from multidb.provisioners.neo4j.provision.cypher import quoted
from multidb.provisioners.neo4j.provision.statements import SYSTEM
from multidb.secrets import SecretRef

__all__ = ["ADMIN_PASSWORD"]


def _take(facts: Facts, login: str, secret: SecretRef) -> Sequence[Statement]:
    text = f"ALTER USER {quoted(login)} SET PLAINTEXT PASSWORD $password CHANGE NOT REQUIRED"
    return (Statement(text, (("password", secret),), SYSTEM),)


ADMIN_PASSWORD: Final = AdminPassword(
    by_hand="in cypher-shell, as {login}: ALTER CURRENT USER SET PASSWORD FROM 'FORMER' TO 'NEW'",
    take=_take,
)
