"""What multidb remembers between runs, in the project's ``.multidb/`` folder or where its manifest says.

``secrets.json`` (0600) holds every generated credential; ``state.json`` holds durable choices that are not secret:
ports, Redis DB numbers, the processes of the embedded runtime. What of these is the project's, and not this machine's,
can be kept elsewhere (`multidb.state_stores`). Losing it costs nothing that cannot be read back from the servers.
Losing ``secrets.json`` means new credentials for apps (`multidb apply --regenerate APP`), and of embedded servers it
loses the admin's way in: keep a copy.
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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from multidb import files
from multidb.document import Unreadable, parse
from multidb.errors import Locked, NewerFormat, SecretsChanged, SecretsUnavailable, StateUnavailable, UsageError
from multidb.formats import SECRETS, Format, NewerVersion
from multidb.secrets import Secret, SecretRef, SecretStore, of_owner
from multidb.state_file import StateFile
from multidb.state_folder import MACHINE, FolderStateStore
from multidb.state_store import Kept, StateStore, identified, refuse_moved

__all__ = [
    "FILE",
    "Cipher",
    "FileSecretStore",
    "ProjectState",
    "SeenSecrets",
    "holder",
    "secrets_of",
    "secrets_text",
]

T = TypeVar("T")
FILE: Final = "file"
"""The kind of secret store that a project has where its manifest names none."""
TURN = 60.0  # seconds in which one process has done what takes some: it stands still
_SEEN: Final = "seen"  # section: by place, the id of the state that was there
_MOMENT: Final = 1.0  # seconds for which a state that is kept elsewhere is taken to be as it was read
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
        SecretsUnavailable: it cannot be written.
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
        with self._guard, self._turn():
            self._write(self._read())

    def _change(self, changes: Mapping[SecretRef, Secret | None]) -> None:
        with self._guard, self._turn():
            held = self._read()
            after = self._seen.changed(held, changes)
            if after != held:
                self._write(after)
            for ref, value in changes.items():
                self._seen.note(ref, value)

    def _write(self, held: Mapping[SecretRef, Secret]) -> None:
        text, mode = secrets_text(held), files.PRIVATE
        if self._cipher is not None:
            text, mode = self._cipher.encrypted(text), files.PUBLIC
        with _as_unavailable():
            if self._cipher is not None and not held:  # whoever comes next may have other keys
                files.delete(self._path)
            else:
                files.write_text(self._path, text, mode=mode)
        self._stamp = None

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with _as_unavailable():
                stack.enter_context(_turn(self._lock))
            yield

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


@contextlib.contextmanager
def _as_unavailable() -> Iterator[None]:
    """A place for secrets that cannot be written, of whatever kind, is one error."""
    try:
        yield
    except UsageError as error:
        raise SecretsUnavailable(error.message, where=error.where, hint=error.hint) from None


class ProjectState:
    """What one project remembers: its secrets, what is the project's, and what is this machine's only (processes, locks
    of the runtime), in the folder ``.multidb/``. The first two are wherever the manifest has them kept.

    Args:
        root: the folder of the manifest.
        secrets: its secrets (`multidb.secret_stores.open_secret_store`); by default in the folder.
        where: what a person calls that.
        store: its state (`multidb.state_stores.open_state_store`); by default in the folder.
    """

    def __init__(
        self,
        root: Path,
        secrets: SecretStore | None = None,
        where: str = ".multidb/secrets.json",
        store: StateStore | None = None,
    ) -> None:
        self.folder = root / ".multidb"
        self.where_secrets_are = where
        self.secrets: SecretStore = secrets or FileSecretStore(self.folder / "secrets.json")
        here = FolderStateStore(self.folder)
        self.store: StateStore = store or here
        self._here = _Sections(here)
        self._shared = self._here if store is None else _Sections(store, here)
        self._understood: dict[str, tuple[object, dict[str, Any]]] = {}  # by section: as read, and what it means

    @property
    def is_shared(self) -> bool:
        """Whether it is kept elsewhere than in the folder."""
        return self._shared is not self._here

    def read(self, section: str) -> dict[str, Any]:
        """One section (``ports``), in the shape that `multidb.sections` gives it; empty where there is none.
        Not to be changed: it is shared until the state is written again.

        Raises:
            NewerFormat: a newer multidb has written the state.
            UsageError: it is damaged, or the section has another shape.
            StateUnavailable: it is kept elsewhere, and that cannot be reached.
        """
        return self._of(section).read(section)

    def entries(self, section: str, of: str, understand: Callable[[str, Any], T]) -> dict[str, T]:
        """The entries of a section by their names, each as `understand` (name, entry) makes it; made anew when the
        state was written.

        Args:
            of: what they are of, for people: ``renames``.
            understand: the same for a section always; raises `ValueError` for an entry that has the section's shape and
                cannot be understood all the same.

        Raises:
            UsageError: one cannot be understood; and as `read`.
        """
        written = self.read(section)
        kept = self._understood.get(section)
        if kept is None or kept[0] is not written:
            try:
                kept = written, {name: understand(name, entry) for name, entry in written.items()}
            except ValueError:
                raise UsageError(
                    f"what it says of {of} cannot be read",
                    where=self.store.title,
                    hint="restore the file from a copy, or use the multidb that wrote it",
                ) from None
            self._understood[section] = kept
        return dict(kept[1])

    def refresh(self) -> None:
        """Has the next reader see what other runs have written until now."""
        self._shared.forget()

    def start_anew(self, project: str) -> None:
        """Writes an empty state where there is none, also where there was one that is gone."""
        with self._here.store.change(holder(_command())) as document:
            document.get(_SEEN, {}).pop(self.store.title, None)
        if self.is_shared:
            with self.store.change(holder(_command())) as document:
                refuse_moved(document, self.store.title)
                identified(document, project)
        self.refresh()

    def file(self, name: str) -> StateFile:
        """A text that is kept beside the project's state, such as ``usage.jsonl``."""
        return StateFile(self.store, name)

    def stamp(self) -> object:
        """What is another one whenever the project's state has been written; None where there is none."""
        return self._shared.version()

    @contextlib.contextmanager
    def change(self, section: str) -> Iterator[dict[str, Any]]:
        """The section, to be changed in the block, written when it ends well. Keeps other runs out meanwhile;
        `Locked` when one keeps us out, see `turn`."""
        with self._of(section).change(section) as value:
            yield value

    @contextlib.contextmanager
    def lock(
        self, name: str, command: str, timeout: float = 0.0, waiting: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        """The project's lock `name` (``apply-postgres``); `Locked` when one other run holds it for longer than
        `timeout` seconds, here or wherever else the state is shared.

        Args:
            waiting: told who has it.
        """
        with self.machine_lock(name, command, timeout, waiting):
            if not self.is_shared:
                yield
                return
            with self.store.lock(name, holder(command), timeout, waiting):
                self._shared.forget()  # the last holder may have written
                yield

    def machine_lock(
        self, name: str, command: str, timeout: float = 0.0, waiting: Callable[[str], None] | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """As `lock`, of what is this machine's only: its processes and its files."""
        return self._here.store.lock(name, holder(command), timeout, waiting)

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
        """Waits until nobody else on this machine has the turn `name`, and has it while the block runs. For work of
        some seconds on files of the folder.

        Raises:
            Locked: one process has had it for a minute; says which.
            UsageError: the folder cannot be written.
        """
        return _turn(self.folder / f"{name}.lock")

    def _of(self, section: str) -> _Sections:
        return self._here if section in MACHINE else self._shared


class _Sections:
    """The sections of the state in one place, read once for as long as they are the newest.

    Args:
        here: where this machine keeps its own, for a place that is not of it.
    """

    def __init__(self, store: StateStore, here: FolderStateStore | None = None) -> None:
        self.store = store
        self._local = here
        self._guard = threading.Lock()
        self._kept: Kept | None = None
        self._until = float("-inf")
        self._sections: dict[str, dict[str, Any]] = {}

    def read(self, name: str) -> dict[str, Any]:
        with self._guard:
            kept = self._newest()
            if name not in MACHINE:
                refuse_moved(kept.document, self.store.title)
            if name not in self._sections:
                self._sections[name] = self._section(kept.document, name)
            return self._sections[name]

    def version(self) -> object:
        with self._guard:
            return self.store.stamp() if isinstance(self.store, FolderStateStore) else self._newest().version

    def forget(self) -> None:
        """Has the next reader ask the place."""
        with self._guard:
            self._kept = None

    @contextlib.contextmanager
    def change(self, name: str) -> Iterator[dict[str, Any]]:
        with self.store.change(holder(_command())) as document:
            if name not in MACHINE:
                refuse_moved(document, self.store.title)
            value = document[name] = self._section(document, name)
            yield value
        self.forget()

    def _newest(self) -> Kept:
        """The state, no older than a moment; in the folder, no older at all."""
        if self._kept is not None and self._is_newest(self._kept):
            return self._kept
        self._kept, self._sections = None, {}
        kept = self.store.read()
        if self._local is not None:
            self._note_seen(kept, self._local)
        self._kept, self._until = kept, time.monotonic() + _MOMENT
        return kept

    def _note_seen(self, kept: Kept, local: FolderStateStore) -> None:
        """Remembers on this machine that there is a state, so that one which is gone is not taken for one which never
        was."""
        title = self.store.title
        identity = kept.document.get("identity", {}).get("id", "")
        seen = local.read().document.get(_SEEN, {})
        if kept.version is None and title in seen:
            raise StateUnavailable(
                "the state that was there is gone",
                where=title,
                hint="bring it back (an earlier version, a copy); without one: multidb state recover",
            )
        if identity and seen.get(title) != identity:
            with contextlib.suppress(UsageError, Locked), local.change(holder(_command())) as document:
                document[_SEEN] = {**document.get(_SEEN, {}), title: identity}

    def _is_newest(self, kept: Kept) -> bool:
        if isinstance(self.store, FolderStateStore):
            return kept.version is not None and kept.version == self.store.stamp()
        return time.monotonic() < self._until

    def _section(self, document: Mapping[str, Any], name: str) -> dict[str, Any]:
        from multidb.sections import ANY, SECTIONS  # with pydantic, which secrets do without

        try:
            return SECTIONS.get(name, ANY).read(document.get(name, {}))
        except Unreadable as wrong:
            raise self.store.damaged(f"{wrong}, in its section {name}") from None


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
