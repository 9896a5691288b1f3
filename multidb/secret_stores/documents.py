"""A `SecretStore` on a service that keeps documents with versions: one document for each owner, so that who may read
one app's secrets need not be let into another's, and writers of different apps never meet."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import uniform
from typing import Final, Protocol

from multidb.document import Unreadable
from multidb.errors import NewerFormat, SecretsUnavailable, UsageError
from multidb.formats import NewerVersion
from multidb.secrets import Secret, SecretRef, of_owner
from multidb.state import SeenSecrets, secrets_of, secrets_text

__all__ = ["DocumentSecretStore", "Documents", "Outdated", "Versioned", "document_name"]

_TRIES: Final = 50  # at one document that others write at the same time
_PAUSE: Final = 0.2  # seconds between two, at most
_APPS, _SERVERS = "apps/", "servers/"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,120}")


class Outdated(Exception):
    """The document is of another version than the one that was read; nothing was written."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """A document as it was read.

    Args:
        text: None where there is none, or one that was deleted.
        version: whatever the service tells versions by; None: there never was a document.
    """

    text: str | None = None
    version: str | None = None


class Documents(Protocol):
    """The service. What goes wrong is a `SecretsUnavailable` that names it.

    Names are ``apps/<app>`` and ``servers/<name>``.
    """

    @property
    def title(self) -> str:
        """What a person calls it; no secret in it."""

    def read(self, name: str) -> Versioned:
        """The newest version of a document."""

    def write(self, name: str, text: str, before: Versioned) -> Versioned:
        """Puts `text` in the place of `before`. `Outdated` where that is not the newest version any more."""

    def erase(self, name: str, before: Versioned) -> None:
        """Takes away what the document has held, earlier versions too. `Outdated` as for `write`."""

    def names(self) -> Iterator[str]:
        """The documents that there are; also ones of other shapes of name, which are passed over."""


class DocumentSecretStore:
    """A `SecretStore` on such a service. A document is read once, when a secret of its owner is first asked for, and
    again only when another run has written it before us."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._guard = threading.Lock()
        self._held: dict[str, tuple[dict[SecretRef, Secret], Versioned]] = {}
        self._seen = SeenSecrets()

    def get(self, ref: SecretRef) -> Secret | None:
        with self._guard:
            return self._seen.note(ref, self._of(ref.owner)[0].get(ref))

    def put(self, values: Mapping[SecretRef, Secret]) -> None:
        self._change(values)

    def delete(self, refs: Iterable[SecretRef]) -> None:
        self._change(dict.fromkeys(refs))

    def refs(self, owner: str | None = None) -> frozenset[SecretRef]:
        with self._guard:
            owners = self._owners() if owner is None else [owner]
            return frozenset().union(*(of_owner(self._of(one)[0], one) for one in owners))

    def _change(self, changes: Mapping[SecretRef, Secret | None]) -> None:
        with self._guard:
            for owner in sorted({ref.owner for ref in changes}):
                self._change_one(owner, {ref: value for ref, value in changes.items() if ref.owner == owner})

    def _change_one(self, owner: str, changes: Mapping[SecretRef, Secret | None]) -> None:
        name = document_name(owner)
        for number in range(_TRIES):
            if number:
                time.sleep(uniform(0, _PAUSE))  # noqa: S311 - so that two do not meet again
            held, before = self._of(owner)
            after = self._seen.changed(held, changes)
            try:
                if after != held and after:
                    self._held[owner] = after, self._documents.write(name, secrets_text(after), before)
                elif after != held:
                    self._held.pop(owner)
                    self._documents.erase(name, before)
            except Outdated:
                self._held.pop(owner, None)
                continue
            except BaseException:  # who knows whether it was written
                self._held.pop(owner, None)
                raise
            for ref, value in changes.items():
                self._seen.note(ref, value)
            return
        raise SecretsUnavailable(
            f"other runs have written {name} each time before this one could",
            where=self._documents.title,
            hint="wait for them to end, then run the command again",
        )

    def _of(self, owner: str) -> tuple[dict[SecretRef, Secret], Versioned]:
        if owner not in self._held:
            read = self._documents.read(document_name(owner))
            self._held[owner] = self._understood(owner, read.text), read
        return self._held[owner]

    def _understood(self, owner: str, text: str | None) -> dict[SecretRef, Secret]:
        if text is None:
            return {}
        where = f"{self._documents.title}, {document_name(owner)}"
        try:
            held = secrets_of(text)
            if any(ref.owner != owner for ref in held):
                raise Unreadable("has another owner's secrets in it")
        except NewerVersion as wrong:
            raise NewerFormat(str(wrong), where=where, hint="use the multidb that wrote it, or a newer one") from None
        except ValueError:
            lost = "APP" if owner.startswith("@") else owner
            raise UsageError(
                "is not what multidb writes there",
                where=where,
                hint="bring an earlier version of it back; without one, delete it, then make new credentials: "
                f"multidb apply --regenerate {lost}",
            ) from None
        return held

    def _owners(self) -> list[str]:
        owners = []
        for name in self._documents.names():
            folder, last = name[: name.find("/") + 1], name[name.find("/") + 1 :]
            if folder in (_APPS, _SERVERS) and _NAME.fullmatch(last):
                owners.append(last if folder == _APPS else f"@{last}")
        return owners


def document_name(owner: str) -> str:
    """The document of the owner. `UsageError` where none can be called so."""
    last = owner.removeprefix("@")
    if not _NAME.fullmatch(last):
        raise UsageError("has a name under which no secrets can be kept", where=f"owner {last!r}"[:100])
    return (_SERVERS if owner.startswith("@") else _APPS) + last
