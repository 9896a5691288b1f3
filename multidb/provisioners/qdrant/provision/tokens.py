"""An app's JSON Web Token: signed here with the server's api key, and read back from the secret store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jwt

from multidb.secrets import Secret

__all__ = ["SHORTEST_KEY", "claims_of", "sign", "signed_with", "with_expiry"]

SHORTEST_KEY: Final = 32  # bytes; what HS256 needs


def with_expiry(claims: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The claims with the shown lifetime (``+365d``) as a moment."""
    days = int(str(claims["exp"]).removeprefix("+").removesuffix("d"))
    return {**claims, "exp": int(now) + days * 86_400}


def sign(claims: Mapping[str, Any], key: Secret) -> Secret:
    return Secret(jwt.encode(dict(claims), key.reveal(), algorithm="HS256"))


def signed_with(token: Secret, key: Secret) -> bool:
    try:
        jwt.decode(token.reveal(), key.reveal(), algorithms=["HS256"], options={"verify_exp": False})
    except jwt.InvalidTokenError:
        return False
    return True


def claims_of(held: Secret) -> dict[str, Any] | None:
    """What a token says of itself, unproved; None for what is no token at all."""
    try:
        return dict(jwt.decode(held.reveal(), options={"verify_signature": False}))
    except jwt.InvalidTokenError:
        return None
