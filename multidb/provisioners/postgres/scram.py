"""SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677), so that no password is ever sent to a server or written to its log.

Postgres keeps ``SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>``, and accepts that same text as a password.
Our passwords are ASCII, on which SASLprep (RFC 4013) changes nothing; one that is not is normalised as NFKC, which is
what SASLprep does to text without forbidden characters.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import unicodedata

__all__ = ["matches", "verifier"]

_ITERATIONS = 4096  # what Postgres itself uses by default
_SALT_BYTES = 16


def verifier(password: str, salt: bytes | None = None, iterations: int = _ITERATIONS) -> str:
    """What the server has to know to recognise `password`, under a random salt unless one is given."""
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", unicodedata.normalize("NFKC", password).encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    return f"SCRAM-SHA-256${iterations}:{_text(salt)}${_text(stored_key)}:{_text(server_key)}"


def matches(password: str, held: str) -> bool:
    """Whether the verifier `held` by a server is one of `password`. False for any other kind of hash."""
    try:
        method, parameters, _ = held.split("$")
        iterations, salt = parameters.split(":")
        if method != "SCRAM-SHA-256":
            return False
        expected = verifier(password, base64.b64decode(salt, validate=True), int(iterations))
    except (ValueError, binascii.Error, OverflowError):
        return False
    return hmac.compare_digest(expected, held)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
