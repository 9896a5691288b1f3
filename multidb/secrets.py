"""Secrets: values that must never be shown, the names by which plans refer to them, and where they are kept.

A plan holds *references* (`SecretRef`), never values, so a plan can be printed, saved and compared freely. The value is
looked up in a `SecretStore` at the moment a statement is sent.
"""

from __future__ import annotations

import hmac
import re
import secrets as _random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

__all__ = [
    "MASK",
    "Alternate",
    "HELD_VALUES",
    "MemorySecretStore",
    "Secret",
    "SecretRef",
    "SecretSpec",
    "SecretStore",
    "generate",
    "of_owner",
    "redact",
    "revealed",
]

MASK: Final = "***"
_ALPHABET_BYTES: Final = 32  # 32 random bytes are 43 URL-safe characters, 256 bits
_SHORTEST_REDACTED: Final = 8  # shorter values would also hide harmless words

# scheme://user:PASSWORD@rest. A percent-encoded password has none of ":/@" in it; anything else is hidden whole.
_ADDRESS: Final = re.compile(r"([a-z][a-z0-9+.-]*://[^:/@?#]*:)[^:/@?#]+(@[^@]*)")

HELD_VALUES: set[str] = set()
"""Of the secrets that this process has held, for `redact`."""


class Secret:
    """A value that prints as ``***``. Compare with ``==`` (constant time); read with `reveal`.

    An address prints with only its password hidden: ``redis://lernmi_user:***@127.0.0.1:6379/1``. Copying, pickling
    and formatting never show the value.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        if len(value) >= _SHORTEST_REDACTED:
            HELD_VALUES.add(value)

    def reveal(self) -> str:
        """The value itself. Call it only where the value is sent or written to a 0600 file."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        address = _ADDRESS.fullmatch(self._value)
        return f"{address[1]}{MASK}{address[2]}" if address else MASK

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Secret cannot be pickled or copied to another process")


@dataclass(frozen=True, slots=True, order=True)
class SecretRef:
    """A secret's name: whose it is (an app id, or ``@server-name`` for an admin), for which store, which one."""

    owner: str
    store: str
    name: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.store}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> SecretRef:
        """The reference written as ``owner/store/name``; `ValueError` for anything else."""
        owner, store, name = text.split("/")
        return cls(owner, store, name)


class Alternate(StrEnum):
    """One of the two credentials that an app has on a store in turn: it comes with one while the other is replaced."""

    FIRST = "first"
    SECOND = "second"

    @property
    def other(self) -> Alternate:
        """The one that follows it."""
        return Alternate.SECOND if self is Alternate.FIRST else Alternate.FIRST


@dataclass(frozen=True, slots=True)
class SecretSpec:
    """A secret that an app needs. Without `derive` it is random; with it, it is made from the secret `source`.

    A derived secret (a SCRAM verifier, a hash) is made anew whenever its source is.

    Args:
        fits: whether a derived value is one of a source's, where deriving gives another each time.
        alternate: which of the app's two credentials it belongs to. A store that has none for the second does not
            rotate.
    """

    ref: SecretRef
    source: SecretRef | None = None
    derive: Callable[[str], str] | None = None
    fits: Callable[[str, str], bool] | None = None
    alternate: Alternate = Alternate.FIRST

    def is_of(self, source: str, derived: str) -> bool:
        """Whether `derived` was made of `source`."""
        if self.fits is not None:
            return self.fits(source, derived)
        return self.derive is None or hmac.compare_digest(self.derive(source).encode(), derived.encode())


class SecretStore(Protocol):
    """Where secrets are kept.

    `put` and `delete` are atomic for each owner: after a crash either all or none of the values of one are there. A
    value is never written over one that another run has put since `get` gave it here: `SecretsChanged`. What other
    runs do to other secrets, the same owner's too, is kept.

    Every method raises `SecretsUnavailable` where the store cannot be reached, is sealed or read-only, or does not let
    us in, and `UsageError` where what it holds is not what multidb writes.
    """

    def get(self, ref: SecretRef) -> Secret | None: ...

    def put(self, values: Mapping[SecretRef, Secret]) -> None: ...

    def delete(self, refs: Iterable[SecretRef]) -> None: ...

    def refs(self, owner: str | None = None) -> frozenset[SecretRef]:
        """The names of all secrets, or of one owner's, for which no other's is read."""


class MemorySecretStore:
    """A `SecretStore` that forgets everything with the process; for dry runs and tests."""

    def __init__(self, values: Mapping[SecretRef, Secret] | None = None) -> None:
        self._values: dict[SecretRef, Secret] = dict(values or {})

    def get(self, ref: SecretRef) -> Secret | None:
        return self._values.get(ref)

    def put(self, values: Mapping[SecretRef, Secret]) -> None:
        self._values.update(values)

    def delete(self, refs: Iterable[SecretRef]) -> None:
        for ref in refs:
            self._values.pop(ref, None)

    def refs(self, owner: str | None = None) -> frozenset[SecretRef]:
        return of_owner(self._values, owner)


def of_owner(refs: Iterable[SecretRef], owner: str | None) -> frozenset[SecretRef]:
    """Those of the owner's; all where it is None."""
    return frozenset(ref for ref in refs if owner is None or ref.owner == owner)


def revealed(value: str | Secret) -> str:
    """A value in clear, whether or not it is secret. As `Secret.reveal`: only where it is sent or written."""
    return value.reveal() if isinstance(value, Secret) else value


def generate() -> Secret:
    """A new random secret: 43 characters of ``[A-Za-z0-9_-]``, safe in URLs, env files and shells."""
    return Secret(_random.token_urlsafe(_ALPHABET_BYTES))


def redact(text: str) -> str:
    """`text` with every secret value that this process has held replaced by ``***``.

    A safety net for messages that come from drivers and servers; our own messages never contain a secret.
    """
    values = HELD_VALUES.copy()
    for length in sorted(set(map(len, values)), reverse=True):
        # By what stands in the message, since it is short and a thousand apps have thousands of values.
        held = {part for start in range(len(text) - length + 1) if (part := text[start : start + length]) in values}
        for value in held:
            text = text.replace(value, MASK)
    return text
