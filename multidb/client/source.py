"""Where an app's variables come from, and that they are read again when they have changed.

A rotation writes new credentials into the env file and turns the former ones off later (`multidb rotate`). So a file is
looked at every second, and once more at the first refusal; whoever holds connections is told, and renews them.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from multidb.client.errors import VariableMissing

__all__ = ["FILE_VARIABLE", "Source", "env_file_of", "parse_env", "source_of"]

FILE_VARIABLE: Final = "MULTIDB_ENV_FILE"
"""The variable that names the env file, where the process's own variables are not to be used."""

_NAME = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)\Z", re.DOTALL)
_APP = re.compile(r"[a-z][a-z0-9_]{1,30}\Z")
_Stamp = tuple[int, int, int]


class Source:
    """An app's variables as they are now.

    Args:
        read: gives the variables; is called again only where `file` has changed.
        where: what to call it in a message (``the file /app/.env``).
        file: the env file; None where the variables are fixed.
        interval: seconds between two looks at the file; 0: it is looked at only when a server refuses the credentials.
    """

    def __init__(
        self, read: Callable[[], Mapping[str, str]], where: str, file: Path | None = None, interval: float = 1.0
    ) -> None:
        self._read = read
        self.where = where
        self._file = file
        self._interval = interval
        self._guard = threading.Lock()
        self._stamp = self._look()
        self._variables = dict(read())
        self._renewals: list[weakref.WeakMethod[Callable[[], object]]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.revision = 0
        """Grows by one whenever a variable has changed."""

    @property
    def app(self) -> str:
        """The app's name."""
        return self["APP_NAME"]

    def __getitem__(self, name: str) -> str:
        """A variable's value.

        Raises:
            VariableMissing: it is not there, or empty.
        """
        value = self._variables.get(name)
        if not value:
            app = self._variables.get("APP_NAME", "APP")
            raise VariableMissing(
                f"{self.where} has no {name}; `multidb show {app}` says which stores the app has, "
                f"`multidb env {app} --write` writes its env file again"
            )
        return value

    def get(self, name: str, default: str = "") -> str:
        """A variable's value, `default` where it is not there."""
        return self._variables.get(name, default)

    def __contains__(self, name: object) -> bool:
        return bool(self._variables.get(str(name)))

    def when_changed(self, renew: Callable[[], object]) -> None:
        """Calls the method `renew` after each change, from a thread of its own, for as long as its object lives."""
        self._renewals.append(weakref.WeakMethod(renew))
        with self._guard:
            if self._thread is None and self._file is not None and self._interval > 0:
                # A weak reference, so that a client that nobody closes does not keep its thread for ever.
                arguments = (weakref.ref(self), self._stop, self._interval)
                self._thread = threading.Thread(target=_watch, args=arguments, name="multidb-env-file", daemon=True)
                self._thread.start()

    def refresh(self) -> bool:
        """Reads the file again if it is another one than before; gives whether a variable has changed.

        A file that is gone or half-written is left for the next look: the credentials of before may still work.
        """
        with self._guard:
            stamp = self._look()
            if stamp is None or stamp == self._stamp:
                return False
            try:
                variables = dict(self._read())
            except (VariableMissing, OSError):
                return False
            self._stamp = stamp
            if variables == self._variables:
                return False
            self._variables = variables
            self.revision += 1
        for reference in list(self._renewals):
            renew = reference()
            if renew is None:
                self._renewals.remove(reference)
            else:
                renew()
        return True

    def close(self) -> None:
        """Ends the watching."""
        self._stop.set()

    def _look(self) -> _Stamp | None:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size


def _watch(reference: weakref.ref[Source], stop: threading.Event, interval: float) -> None:
    while not stop.wait(interval):
        source = reference()
        if source is None:
            return
        source.refresh()
        del source


def source_of(
    app: str | None, env_file: str | os.PathLike[str] | None, variables: Mapping[str, str] | None, interval: float
) -> Source:
    """The variables of an app, from the first that is given: `variables`, `env_file`, the env file of `app` beside the
    manifest, the file that ``MULTIDB_ENV_FILE`` names, the process's own environment.

    Raises:
        VariableMissing: the file or manifest is not there, or a line of the file cannot be read.
    """
    if variables is not None:
        fixed = dict(variables)
        return Source(lambda: fixed, "the given variables")
    if env_file is None and app is not None:
        env_file = env_file_of(app)
    if env_file is None:
        env_file = os.environ.get(FILE_VARIABLE) or None
    if env_file is None:
        return Source(lambda: os.environ, "the environment")
    file = Path(env_file)
    return Source(lambda: parse_env(file), f"the file {file}", file, interval)


def env_file_of(app: str, folder: Path | None = None) -> Path:
    """The env file of an app beside its manifest: that of ``MULTIDB_FILE``, or ``multidb.yaml`` in this folder or the
    nearest one above.

    Raises:
        VariableMissing: there is no manifest, or no env file of that app.
    """
    name = app.replace("-", "_")
    if not _APP.match(name):
        raise VariableMissing(f"{app!r} is no app's name: lower-case letters, digits and _")
    manifest = _manifest(folder or Path.cwd())
    file = manifest.parent / "apps" / name / ".env"
    if not file.is_file():
        there = sorted(other.parent.name for other in file.parents[1].glob("*/.env"))
        others = f" (there are {', '.join(there)})" if there else ""
        raise VariableMissing(f"{file} is not there{others}; `multidb env {name} --write` writes it")
    return file


def _manifest(folder: Path) -> Path:
    if given := os.environ.get("MULTIDB_FILE"):
        manifest = Path(given)
        if not manifest.is_file():
            raise VariableMissing(f"there is no manifest {manifest}, which MULTIDB_FILE names")
        return manifest.absolute()
    for place in (folder.absolute(), *folder.absolute().parents):
        if (place / "multidb.yaml").is_file():
            return place / "multidb.yaml"
    raise VariableMissing(
        f"there is no multidb.yaml in {folder} or above it; MULTIDB_FILE names one elsewhere, and connect() without a "
        "name takes the environment"
    )


def parse_env(file: Path) -> dict[str, str]:
    r"""The variables of an env file as Docker Compose and python-dotenv read it: one a line, values bare, in single
    quotes (literal but for ``\'`` and ``\\``) or in double quotes. Nothing is substituted.

    Raises:
        VariableMissing: the file cannot be read, or a line is no variable (which may be a secret, so it is not shown).
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise VariableMissing(f"{file} cannot be read: {why}") from None
    return dict(_lines(text, file))


def _lines(text: str, file: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _NAME.match(line)
        value = None if match is None else _unquoted(match[2])
        if match is None or value is None:
            raise VariableMissing(f"{file}:{number}: this is no NAME=value; `multidb env APP --write` writes it anew")
        yield match[1], value


def _unquoted(text: str) -> str | None:
    """A value without its quotes; None where a quote is not closed."""
    if text[:1] not in ("'", '"'):
        return re.split(r"\s+#", text, maxsplit=1)[0].strip()
    quote = text[0]
    match = re.match(rf"{quote}((?:\\.|[^\\{quote}])*){quote}\s*(?:#.*)?\Z", text)
    if match is None:
        return None
    escapes = {"n": "\n", "t": "\t", "r": "\r"} if quote == '"' else {}

    def plain(escape: re.Match[str]) -> str:
        letter = escape[1]
        if letter in escapes:
            return escapes[letter]
        return letter if letter in ("\\", quote) or quote == '"' else escape[0]

    return re.sub(r"\\(.)", plain, match[1])
