"""Keys of age (https://age-encryption.org) and ssh: public ones for whom something is encrypted, secret ones that read
it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multidb.errors import UsageError

__all__ = ["Identities", "read_identities", "recipient", "recipient_problem"]


class Identities:
    """Secret keys; they print as nothing."""

    def __init__(self, keys: Sequence[Any]) -> None:
        self.keys = list(keys)

    def __repr__(self) -> str:
        return f"Identities({len(self.keys)})"


def recipient(text: str) -> Any:
    """The public key, as pyrage takes it, which has an error of its own for each kind of key."""
    import pyrage

    return (pyrage.ssh if text.startswith("ssh-") else pyrage.x25519).Recipient.from_str(text)


def recipient_problem(text: str) -> str | None:
    """Why `text` is not a recipient that age could encrypt for; None when it is one."""
    try:
        recipient(text)
    except Exception:
        return "must be a public key: age1... of `age-keygen`, or a line of ssh-ed25519 or ssh-rsa"
    return None


def read_identities(path: Path, ways: str) -> Identities:
    """The secret keys of a file.

    Args:
        ways: for the hint: how another file is named.

    Raises:
        UsageError: the file cannot be read, others can read it, or there is no key in it.
    """
    try:
        with path.open("rb") as file:
            open_to_others = os.fstat(file.fileno()).st_mode & 0o077
            text = file.read()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path), hint=ways) from None
    if open_to_others:
        raise UsageError("others can read this secret key", where=str(path), hint=f"chmod 600 {path}")
    try:
        return Identities(_keys(text))
    except Exception:  # its message might quote the key
        raise UsageError(
            "holds no secret key of age or ssh", where=str(path), hint="age-keygen -o FILE makes one"
        ) from None


def _keys(text: bytes) -> list[Any]:
    import pyrage

    if b"-----BEGIN" in text:
        return [pyrage.ssh.Identity.from_buffer(text)]
    lines = [line.strip() for line in text.decode().splitlines()]
    identities = [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    if not identities:
        raise ValueError
    return identities
