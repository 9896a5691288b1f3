"""Another password for the admin's user, which has two for a while. Pure.

The new one is saved before the former is dropped, so that a server that is started anew in between knows both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from multidb.model import AdminPassword, Facts, Statement
from multidb.provisioners.redis.provision.resources import RedisFacts
from multidb.provisioners.redis.provision.rules import join_line
from multidb.provisioners.redis.provision.statements import saving
from multidb.secrets import SecretRef

__all__ = ["ADMIN_PASSWORD"]

_HASH: Final = "admin_sha256"


def _take(facts: Facts, login: str, secret: SecretRef) -> Sequence[Statement]:
    return _with(facts, ("ACL", "SETUSER", login, f"#${_HASH}"), secret)


def _drop(facts: Facts, login: str, secret: SecretRef) -> Sequence[Statement]:
    return _with(facts, ("ACL", "SETUSER", login, "resetpass", f"#${_HASH}"), secret)


def _with(facts: Facts, words: Sequence[str], secret: SecretRef) -> Sequence[Statement]:
    redis = RedisFacts.of(facts)
    saved = saving(redis)[:1] if redis.persistence != "none" else ()
    return (Statement(join_line(words), ((_HASH, secret),)), *saved)


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


ADMIN_PASSWORD: Final = AdminPassword(
    by_hand="ACL SETUSER {login} >NEW, then, once nobody uses the former, ACL SETUSER {login} <FORMER, and ACL SAVE "
    "(or CONFIG REWRITE) after each",
    take=_take,
    drop=_drop,
    derived=_sha256,
)
