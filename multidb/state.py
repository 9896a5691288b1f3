"""What multidb remembers between runs, in the project's ``.multidb/`` folder.

``secrets.json`` (0600) holds every generated credential; ``state.json`` holds durable choices that are not secret:
ports, Redis DB numbers, the processes of the embedded runtime. Losing ``state.json`` costs nothing that cannot be read
back from the servers. Losing ``secrets.json`` means new credentials for apps (`multidb apply --regenerate APP`), and
of embedded servers it loses the admin's way in: keep a copy.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from multidb import files
from multidb.document import Unreadable, parse
from multidb.errors import NewerFormat, SecretsChanged, UsageError
from multidb.formats import SECRETS, STATE, Format, NewerVersion
from multidb.secrets import Secret, SecretRef, SecretStore, of_owner

__all__ = ["FILE", "Cipher", "FileSecretStore", "ProjectState", "SeenSecrets", "holder", "secrets_of", "secrets_text"]

FILE: Final = "file"
"""The kind of secret store that a project has where its manifest names none."""
TURN = 60.0  # seconds in which one process has done what takes some: it stands still
_UPGRADE = "use the multidb that wrote it, or a newer one"
_LARGEST = 256 * 1024**2  # bytes; a removed app's tombstone holds whole manifests


class Cipher(Protocol):
    """What makes a file of secrets one that may be committed."""

    def encrypted(self, text: str) -> str:
        """The text as it stands in the file."""

    def decrypted(self, text: str) -> str:
        """The text of which the file was made. `SecretsUnavailable` where the key for it is not here."""


class SeenSecrets:
    """What a store has given out, so that nothing is written over what another run has put meanwhile."""

    def __init__(self) -> None:
        self._seen: dict[SecretRef, Secret | None] = {}

    def note(self, ref: SecretRef, value: Secret | None) -> Secret | None:
        """Remembers that this is what the secret is known as here."""
        self._seen[ref] = value
        return value

    def changed(
        self, held: Mapping[SecretRef, Secret], changes: Mapping[SecretRef, Secret | None]
    ) -> dict[SecretRef, Secret]:
        """What is held with what is put in its place; None: not there any more.

        Raises:
            SecretsChanged: another run has put a value where we want to.
        """
        for ref, value in changes.items():
            if held.get(ref) not in (self._seen.get(ref, held.get(ref)), value):
                owner = f"server {ref.owner[1:]}" if ref.owner.startswith("@") else f"app {ref.owner}"
                raise SecretsChanged(
                    f"another run has changed the secret {ref} since this one read it, and its value stands",
                    where=owner,
                    hint="run the command again: it goes on from what is there now",
                )
        after = {**held, **changes}
        return {ref: value for ref, value in after.items() if value is not None}


class FileSecretStore:
    """A `SecretStore` in one file. Every `get` sees what another process has put.

    Args:
        path: of mode 0600, unless it is encrypted.
        cipher: encrypts it; None: it is plain.
        lock: the file by which writers on this machine keep each other out; by default beside `path`.

    Raises:
        UsageError: the file is not ours to understand, or its permissions let others read it.
    """

    def __init__(self, path: Path, cipher: Cipher | None = None, lock: Path | None = None) -> None:
        self._path = path
        self._cipher = cipher
        self._lock = lock or path.with_suffix(".lock")
        self._guard = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._values: dict[SecretRef, Secret] = {}
        self._seen = SeenSecrets()

    def get(self, ref: SecretRef) -> Secret | None:
        with self._guard:
            return self._seen.note(ref, self._read().get(ref))

    def put(self, values: Mapping[SecretRef, Secret]) -> None:
        self._change(values)

    def delete(self, refs: Iterable[SecretRef]) -> None:
        self._change(dict.fromkeys(refs))

    def refs(self, owner: str | None = None) -> frozenset[SecretRef]:
        with self._guard:
            return of_owner(self._read(), owner)

    def rewrite(self) -> None:
        """Writes the file again as it is, encrypted for those who may read it from now on."""
        with self._guard, _turn(self._lock):
            self._write(self._read())

    def _change(self, changes: Mapping[SecretRef, Secret | None]) -> None:
        with self._guard, _turn(self._lock):
            held = self._read()
            after = self._seen.changed(held, changes)
            if after != held:
                self._write(after)
            for ref, value in changes.items():
                self._seen.note(ref, value)

    def _write(self, held: Mapping[SecretRef, Secret]) -> None:
        text = secrets_text(held)
        if self._cipher is None:
            files.write_text(self._path, text, mode=files.PRIVATE)
        elif not held:  # whoever comes next may have other keys
            files.delete(self._path)
        else:
            files.write_text(self._path, self._cipher.encrypted(text), mode=files.PUBLIC)
        self._stamp = None

    def _read(self) -> dict[SecretRef, Secret]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return {}
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamp:
            return self._values
        if self._cipher is None and status.st_mode & 0o077:
            raise UsageError(
                "others can read the secrets",
                where=str(self._path),
                hint=f"chmod 600 {self._path}, and rotate what they may have seen",
            )
        text = files.read_text(self._path) or ""
        try:
            values = secrets_of(text if self._cipher is None else self._cipher.decrypted(text))
        except NewerVersion as wrong:
            raise NewerFormat(str(wrong), where=str(self._path), hint=_UPGRADE) from None
        except ValueError as wrong:
            reason = f": it {wrong}" if isinstance(wrong, Unreadable) else ""
            raise UsageError(
                f"is not a multidb secrets file{reason}",
                where=str(self._path),
                hint="restore it from a copy; without one, move it away, then make new credentials: "
                "multidb apply --regenerate APP",
            ) from None
        self._values, self._stamp = values, stamp
        return values


class ProjectState:
    """The ``.multidb/`` folder of one project, and its secrets, wherever they are.

    Args:
        root: the folder of the manifest.
        secrets: where the manifest has them kept (`multidb.secret_stores.open_state`); by default in the folder.
        where: what a person calls that.
    """

    def __init__(self, root: Path, secrets: SecretStore | None = None, where: str = ".multidb/secrets.json") -> None:
        self.folder = root / ".multidb"
        self.where_secrets_are = where
        self.secrets: SecretStore = secrets or FileSecretStore(self.folder / "secrets.json")
        self._path = self.folder / "state.json"
        self._guard = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._held: dict[str, Any] = {}
        self._sections: dict[str, dict[str, Any]] = {}

    def read(self, section: str) -> dict[str, Any]:
        """One section (``ports``), in the shape that `multidb.sections` gives it; empty where there is none.
        Not to be changed: it is shared until the file is written again.

        Raises:
            NewerFormat: a newer multidb has written the state.
            UsageError: it is damaged, or the section has another shape.
        """
        with self._guard:
            stamp = self.stamp()
            if stamp is None or stamp != self._stamp:
                self._held, self._sections = self._document(), {}
                self._stamp = stamp
            if section not in self._sections:
                self._sections[section] = self._section(self._held, section)
            return self._sections[section]

    def stamp(self) -> tuple[int, int, int] | None:
        """What is another one whenever the state has been written; None where there is none."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    @contextlib.contextmanager
    def change(self, section: str) -> Iterator[dict[str, Any]]:
        """The section, to be changed in the block, written when it ends well. Keeps other processes out meanwhile;
        `Locked` when one keeps us out, see `turn`."""
        with self.turn("state"):
            document = self._document()
            value = document[section] = self._section(document, section)
            yield value
            document["version"] = STATE.version
            files.write_text(self._path, json.dumps(document, indent=1, sort_keys=True) + "\n", mode=files.PRIVATE)

    def lock(
        self, name: str, command: str, timeout: float = 0.0, waiting: Callable[[str], None] | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """The project's lock `name` (``apply-postgres``); `Locked` when one other process holds it for longer than
        `timeout` seconds.

        Args:
            waiting: told who has it.
        """
        return files.lock(self.folder / "locks" / name, holder(command), timeout, waiting)

    @contextlib.contextmanager
    def lock_apps(self, apps: Iterable[str], command: str) -> Iterator[None]:
        """Keeps every other removal, undo, purge, clone and restore of these apps away while the block runs. What is
        known of them has to be read again in it.

        Raises:
            Locked: one is at it; says which.
        """
        with contextlib.ExitStack() as stack:
            for app in sorted(set(apps)):
                stack.enter_context(self.lock(f"app-{app}", command))
            yield

    def turn(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Waits until nobody else has the turn `name`, and has it while the block runs. For work of some seconds.

        Raises:
            Locked: one process has had it for a minute; says which.
            UsageError: the folder cannot be written.
        """
        return _turn(self.folder / f"{name}.lock")

    def _section(self, document: Mapping[str, Any], name: str) -> dict[str, Any]:
        from multidb.sections import ANY, SECTIONS  # with pydantic, which secrets do without

        try:
            return SECTIONS.get(name, ANY).read(document.get(name, {}))
        except Unreadable as wrong:
            raise self._damaged(f"{wrong}, in its section {name}") from None

    def _document(self) -> dict[str, Any]:
        text = files.read_text(self._path)
        if text is None:
            return {}
        try:
            document = _upgraded(parse(text, _LARGEST), STATE)
            if not all(isinstance(section, dict) for name, section in document.items() if name != "version"):
                raise Unreadable("has a section that is none")
        except NewerVersion as wrong:
            raise NewerFormat(str(wrong), where=str(self._path), hint=_UPGRADE) from None
        except Unreadable as wrong:
            raise self._damaged(str(wrong)) from None
        return document

    def _damaged(self, reason: str) -> UsageError:
        return UsageError(
            f"is damaged: it {reason}",
            where=str(self._path),
            hint="restore it from a copy; without one, move it away, then: multidb plan reads back from the servers "
            "what they know",
        )


def _turn(path: Path) -> contextlib.AbstractContextManager[None]:
    return files.lock(path, holder(_command()), TURN)


def _command() -> str:
    """The command that this process runs, as far as its arguments tell."""
    word = next(iter(sys.argv[1:]), "")
    return f"multidb {word}" if re.fullmatch("[a-z][a-z-]*", word) else "multidb"


def _upgraded(document: object, kind: Format) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise Unreadable("is not what multidb writes")
    return kind.upgraded(document, document.get("version", 1))


def secrets_text(held: Mapping[SecretRef, Secret]) -> str:
    """Secrets as they are written down. `secrets_of` reads them."""
    document = {str(ref): held[ref].reveal() for ref in sorted(held)}
    return json.dumps({"version": SECRETS.version, "secrets": document}, indent=1) + "\n"


def secrets_of(text: str) -> dict[SecretRef, Secret]:
    """The secrets of a text of `secrets_text`. `ValueError` for anything else, `NewerVersion` for a newer multidb's."""
    document = _upgraded(parse(text, _LARGEST), SECRETS)
    held = document.get("secrets")
    if document.keys() != {"version", "secrets"} or not isinstance(held, dict):
        raise Unreadable("is not what multidb writes")
    if not all(isinstance(value, str) for value in held.values()):
        raise Unreadable("has a secret that is no text")
    return {SecretRef.parse(name): Secret(value) for name, value in held.items()}


def holder(command: str) -> dict[str, object]:
    """Who holds a lock: command, user and host, process id, time in UTC."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {
        "command": command,
        "user": f"{user}@{socket.gethostname()}",
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
