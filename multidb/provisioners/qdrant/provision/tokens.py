"""An app's JSON Web Token: signed here with the server's api key, and read back from the secret store.

RFC 7519 with HS256, the one algorithm that Qdrant takes: a header, the claims and an HMAC of both.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final

from multidb.secrets import Secret

__all__ = ["SHORTEST_KEY", "claims_of", "sign", "signed_with", "with_expiry"]

SHORTEST_KEY: Final = 32  # bytes; what HS256 needs
_HEADER: Final = {"alg": "HS256", "typ": "JWT"}


def with_expiry(claims: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The claims with the shown lifetime (``+365d``) as a moment."""
    days = int(str(claims["exp"]).removeprefix("+").removesuffix("d"))
    return {**claims, "exp": int(now) + days * 86_400}


def sign(claims: Mapping[str, Any], key: Secret) -> Secret:
    parts = (json.dumps(part, separators=(",", ":")).encode() for part in (_HEADER, dict(claims)))
    signed = ".".join(map(_spelled, parts))
    return Secret(f"{signed}.{_signature(signed, key)}")


def signed_with(token: Secret, key: Secret) -> bool:
    signed, _, signature = token.reveal().rpartition(".")
    if claims_of(token) is None:
        return False
    return hmac.compare_digest(signature.encode(errors="replace"), _signature(signed, key).encode())


def claims_of(held: Secret) -> dict[str, Any] | None:
    """What a token says of itself, unproved; None for what is no token at all."""
    parts = held.reveal().split(".")
    try:
        header, claims = (json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    except (ValueError, RecursionError):  # ValueError: also what is no base64, no UTF-8 and no JSON
        return None
    known = len(parts) == 3 and isinstance(header, dict) and header.get("alg") == _HEADER["alg"]
    return claims if known and isinstance(claims, dict) else None


def _signature(signed: str, key: Secret) -> str:
    return _spelled(hmac.digest(key.reveal().encode(), signed.encode(), hashlib.sha256))


def _spelled(part: bytes) -> str:
    return urlsafe_b64encode(part).rstrip(b"=").decode()
