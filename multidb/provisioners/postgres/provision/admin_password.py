"""Another password for the admin's login: a server has one for each login, and sessions go on with neither. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from multidb.model import AdminPassword, Facts, Statement
from multidb.provisioners.postgres.provision.quoting import identifier
from multidb.provisioners.postgres.provision.scram import verifier
from multidb.secrets import SecretRef

__all__ = ["ADMIN_PASSWORD"]


def _take(facts: Facts, login: str, secret: SecretRef) -> Sequence[Statement]:
    return (Statement(f"ALTER ROLE {identifier(login)} PASSWORD :'verifier'", (("verifier", secret),)),)


ADMIN_PASSWORD: Final = AdminPassword(
    by_hand="in psql, as {login}: \\password",
    take=_take,
    derived=verifier,
)
