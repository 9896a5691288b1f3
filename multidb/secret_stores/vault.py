"""Secrets in HashiCorp Vault or OpenBao, in a KV engine of version 2.

What it is asked is said in its HTTP API (``/v1/<mount>/data/<path>``). Every write names the version that was read
(``cas``), so that the server refuses it where another run was first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from multidb.document import Unreadable, parse
from multidb.errors import SecretsUnavailable, UsageError
from multidb.model.secret_options import VaultSecrets
from multidb.secret_stores.documents import DocumentSecretStore, Outdated, Versioned
from multidb.secret_stores.kind import SecretStoreKind
from multidb.secrets import Secret, redact

__all__ = ["SECRET_STORE"]

_TIMEOUT: Final = 20.0  # seconds for one answer
_LARGEST: Final = 16 * 1024**2  # bytes of one
_LOGIN: Final = "log in again (vault login, bao login), or export VAULT_TOKEN=..., then run the command again"
_NEVER: Final = "0"  # the version of what never was, as cas has it


class VaultDocuments:
    """The engine, as `multidb.secret_stores.documents.Documents`."""

    def __init__(self, options: VaultSecrets) -> None:
        self.title = f"{options.url} ({options.mount}/{options.path})"
        self._url, self._mount, self._path = options.url, options.mount, options.path
        self._http: Any = None
        self._is_engine = False

    def read(self, name: str) -> Versioned:
        status, answer = self._ask("GET", f"data/{self._path}/{name}", f"read {name}")
        data = answer.get("data")
        if not isinstance(data, dict):
            if status == 404:
                return Versioned(version=_NEVER)
            raise self._strange()
        match data.get("metadata"), data.get("data"):  # with 404 too: a version that was deleted
            case {"version": int(version)}, None:
                return Versioned(None, str(version))
            case {"version": int(version)}, dict(held):
                return Versioned(json.dumps(held) if held else None, str(version))
        raise self._strange()

    def write(self, name: str, text: str, before: Versioned) -> Versioned:
        return Versioned(text, self._put(name, json.loads(text), before))

    def erase(self, name: str, before: Versioned) -> None:
        """Another run may write at the same time, so that the newest version is emptied first, and what goes for good
        are the versions before it."""
        emptied = int(self._put(name, {}, before))
        versions = {"versions": list(range(1, emptied))}
        self._ask("PUT", f"destroy/{self._path}/{name}", f"destroy earlier versions of {name}", versions)

    def names(self) -> Iterator[str]:
        for folder in ("apps", "servers"):
            status, answer = self._ask("LIST", f"metadata/{self._path}/{folder}", f"list {folder}")
            match answer:
                case {"data": {"keys": [*keys]}}:
                    yield from (f"{folder}/{key}" for key in keys if isinstance(key, str))
                case _ if status != 404:
                    raise self._strange()

    def _put(self, name: str, data: dict[str, Any], before: Versioned) -> str:
        self._check_engine()
        body = {"options": {"cas": int(before.version or _NEVER)}, "data": data}
        status, answer = self._ask("POST", f"data/{self._path}/{name}", f"write {name}", body)
        if status == 400:
            if "check-and-set" in " ".join(_errors(answer)):
                raise Outdated
            raise self._refused(f"write {name}", answer)
        match answer:
            case {"data": {"version": int(version)}}:
                return str(version)
        raise self._strange()

    def _check_engine(self) -> None:
        """One of version 1 would take a write for a version 2 as it is, and never ask for the version before it."""
        if not self._is_engine:
            status, answer = self._send("GET", f"sys/internal/ui/mounts/{self._mount}", None)
            match answer:
                case {"data": {"type": "kv", "options": {"version": "2"}}}:
                    self._is_engine = True
                case _ if status == 200:
                    raise self._no_engine()

    def _ask(self, method: str, path: str, doing: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """The status and the document of an answer: any of 200, 204, 400 to a write, and 404 to anything else."""
        status, answer = self._send(method, f"{self._mount}/{path}", body)
        if status in (200, 204) or (status == 404 and method in ("GET", "LIST")):
            if status == 404 and _errors(answer):
                raise self._no_engine()
            return status, answer
        if status == 400 and method == "POST":
            return status, answer
        if status == 403:
            raise self._forbidden(doing)
        if status == 404:
            raise self._no_engine()
        if status in (429, 472, 473, 500, 502, 503, 504):
            sealed = any("sealed" in error.lower() for error in _errors(answer))
            words = "is sealed" if sealed else f"does not work: it answered {status}{_quoted(answer)}"
            hint = "have it unsealed (vault operator unseal)" if sealed else "see what its log says"
            raise SecretsUnavailable(words, where=self.title, hint=f"{hint}, then run the command again")
        raise self._refused(doing, answer, status)

    def _send(self, method: str, path: str, body: object) -> tuple[int, dict[str, Any]]:
        import urllib3

        headers = {"X-Vault-Token": self._token().reveal(), "X-Vault-Request": "true"}
        if namespace := os.environ.get("VAULT_NAMESPACE"):
            headers["X-Vault-Namespace"] = namespace
        sent = None if body is None else json.dumps(body).encode()
        try:
            response = self._pool().request(
                method, f"{self._url}/v1/{path}", body=sent, headers=headers, redirect=False, preload_content=False
            )
            raw = response.read(_LARGEST + 1)
            response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            reason = redact(str(getattr(error, "reason", None) or error)).split(": ", 1)[-1][:200]
            raise SecretsUnavailable(
                f"cannot be reached: {reason}",
                where=self.title,
                hint="see that it runs and that its certificate is known here (VAULT_CACERT), then run it again",
            ) from None
        if not raw.strip():
            return response.status, {}
        try:
            answer = parse(raw, _LARGEST)
        except Unreadable:
            answer = None
        if not isinstance(answer, dict):
            raise self._strange()
        return response.status, answer

    def _pool(self) -> Any:
        if self._http is None:
            import certifi
            import urllib3

            ca = os.environ.get("VAULT_CACERT") or certifi.where()
            self._http = urllib3.PoolManager(ca_certs=ca, timeout=_TIMEOUT, retries=False)
        return self._http

    def _token(self) -> Secret:
        value = os.environ.get("VAULT_TOKEN") or os.environ.get("BAO_TOKEN") or ""
        if not value:
            try:
                value = (Path.home() / ".vault-token").read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError, RuntimeError):
                value = ""
        value = value.strip()
        if not value:
            raise SecretsUnavailable("there is no token for it here", where=self.title, hint=_LOGIN)
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise UsageError("$VAULT_TOKEN is no token: it has a space or a control character in it", hint=_LOGIN)
        return Secret(value)

    def _forbidden(self, doing: str) -> SecretsUnavailable:
        """Says whether it is the token or its rights."""
        status, _ = self._send("GET", "auth/token/lookup-self", None)
        if status == 403:
            return SecretsUnavailable("the token has ended, or never was one", where=self.title, hint=_LOGIN)
        return SecretsUnavailable(
            f"the token may not {doing}",
            where=self.title,
            hint="ask for a policy that allows it (docs/secrets.md), or leave that out: --app, --store",
        )

    def _no_engine(self) -> SecretsUnavailable:
        return SecretsUnavailable(
            f"there is no KV engine of version 2 at {self._mount}/",
            where=self.title,
            hint=f"make one: vault secrets enable -path={self._mount} -version=2 kv; or correct secrets.vault.mount",
        )

    def _refused(self, doing: str, answer: dict[str, Any], status: int = 400) -> SecretsUnavailable:
        return SecretsUnavailable(
            f"refuses to {doing}: it answered {status}{_quoted(answer)}",
            where=self.title,
            hint="correct secrets.vault in the manifest, or the engine's settings, then run the command again",
        )

    def _strange(self) -> SecretsUnavailable:
        return SecretsUnavailable(
            "answers what no Vault answers", where=self.title, hint="correct secrets.vault.url in the manifest"
        )


def _errors(answer: dict[str, Any]) -> list[str]:
    errors = answer.get("errors")
    return [error for error in errors if isinstance(error, str)] if isinstance(errors, list) else []


def _quoted(answer: dict[str, Any]) -> str:
    words = redact(" ".join(" ".join(_errors(answer)).split()))[:200]
    return f": {words}" if words else ""


def _open(options: VaultSecrets, root: Path) -> DocumentSecretStore:
    return DocumentSecretStore(VaultDocuments(options))


SECRET_STORE = SecretStoreKind("vault", VaultSecrets, _open)
