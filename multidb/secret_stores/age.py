"""Secrets in one file that age encrypts: ``age -d -i KEY secrets.age`` reads what is written here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from multidb.age_keys import Identities, read_identities, recipient, recipient_problem
from multidb.errors import SecretsUnavailable, UsageError
from multidb.model.secret_options import AgeSecrets
from multidb.secret_stores.kind import SecretStoreKind
from multidb.state import FileSecretStore

__all__ = ["IDENTITY_VARIABLE", "SECRET_STORE"]

IDENTITY_VARIABLE: Final = "MULTIDB_SECRETS_IDENTITY"
_WAY: Final = f"name the file of your secret key: export {IDENTITY_VARIABLE}=FILE"


class AgeCipher:
    """Encrypts for the recipients of the manifest, and reads with the key that the environment names.

    Args:
        where: the file, for errors.

    Raises:
        UsageError: a recipient is no key.
    """

    def __init__(self, options: AgeSecrets, where: str) -> None:
        self._recipients = options.recipients
        self._where = where
        for text in self._recipients:
            if problem := recipient_problem(text):
                raise UsageError(f"secrets.age.recipients: {text[:20]!r} {problem}", where="manifest")

    def encrypted(self, text: str) -> str:
        import pyrage

        data: bytes = pyrage.encrypt(text.encode(), [recipient(key) for key in self._recipients], armored=True)
        return data.decode()

    def decrypted(self, text: str) -> str:
        import pyrage

        keys = self._identities().keys
        try:
            plain: bytes = pyrage.decrypt(text.encode(), keys)
            return plain.decode()
        except Exception as error:  # pyrage has one kind; its message might quote anything
            if "No matching keys" in str(error):
                raise SecretsUnavailable(
                    "is encrypted for others: your secret key is none of its recipients'",
                    where=self._where,
                    hint=f"{_WAY}; or ask who can read it to add your public key, then: multidb secrets rekey",
                ) from None
            raise UsageError(
                "is not what age wrote", where=self._where, hint="restore it from a copy, such as an earlier commit"
            ) from None

    def _identities(self) -> Identities:
        named = os.environ.get(IDENTITY_VARIABLE)
        if not named:
            raise SecretsUnavailable("is encrypted, and no key to read it is given", where=self._where, hint=_WAY)
        return read_identities(Path(named).expanduser(), _WAY)


def _open(options: AgeSecrets, root: Path) -> FileSecretStore:
    path = root / options.file
    return FileSecretStore(path, AgeCipher(options, str(path)), root / ".multidb" / "secrets-age.lock")


SECRET_STORE = SecretStoreKind("age", AgeSecrets, _open, rekey=lambda options, root: _open(options, root).rewrite())
