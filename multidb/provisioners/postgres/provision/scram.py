"""SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677), so that no password is ever sent to a server or written to its log.

Postgres keeps ``SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>``, and accepts that same text as a password.
Our passwords are ASCII, on which SASLprep (RFC 4013) changes nothing; one that is not is normalised as NFKC, which is
what SASLprep does to text without forbidden characters.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import unicodedata

__all__ = ["keys", "matches", "verifier"]

_ITERATIONS = 4096  # what Postgres itself uses by default
_SALT_BYTES = 16


def verifier(password: str, salt: bytes | None = None, iterations: int = _ITERATIONS) -> str:
    """What the server has to know to recognise `password`, under a random salt unless one is given."""
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    client_key, server_key = _keys(password, salt, iterations)
    stored_key = hashlib.sha256(client_key).digest()
    return f"SCRAM-SHA-256${iterations}:{_text(salt)}${_text(stored_key)}:{_text(server_key)}"


def matches(password: str, held: str) -> bool:
    """Whether the verifier `held` by a server is one of `password`. False for any other kind of hash."""
    try:
        expected = verifier(password, *_parameters(held))
    except (ValueError, OverflowError):
        return False
    return hmac.compare_digest(expected, held)


def keys(password: str, held: str) -> dict[str, str]:
    """ClientKey and ServerKey in the parameters of libpq that take them, so that it need not derive them from the
    password for each connection, which is most of a connection's work. As secret as the password.

    Args:
        held: the verifier that the server has. Of another password, or another kind of hash: no keys.
    """
    if not matches(password, held):
        return {}
    client_key, server_key = _keys(password, *_parameters(held))
    return {"scram_client_key": _text(client_key), "scram_server_key": _text(server_key)}


def _parameters(held: str) -> tuple[bytes, int]:
    """Salt and iterations of a verifier. `ValueError` for any other text."""
    method, parameters, _ = held.split("$")
    iterations, salt = parameters.split(":")
    if method != "SCRAM-SHA-256":
        raise ValueError(method)
    return base64.b64decode(salt, validate=True), int(iterations)


def _keys(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    salted = hashlib.pbkdf2_hmac("sha256", unicodedata.normalize("NFKC", password).encode(), salt, iterations)
    return hmac.digest(salted, b"Client Key", "sha256"), hmac.digest(salted, b"Server Key", "sha256")


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
