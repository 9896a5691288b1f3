"""Every way in which multidb can refuse or fail, and the exit code that each one means.

The rule of the tree: an error says *what* is wrong, *where* (file:line, app or server) and, in `hint`, the next command
to run. The command line turns an error into text or JSON; nothing below it prints.
"""

from __future__ import annotations

import errno
import re
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from multidb.distribution import repair_commands

__all__ = [
    "ArchiveError",
    "AuthenticationFailed",
    "Cancelled",
    "Conflict",
    "Locked",
    "MachineError",
    "Missing",
    "ManifestError",
    "MultidbError",
    "NeedsServer",
    "NewerFormat",
    "NotAllowed",
    "PartlyApplied",
    "Problem",
    "Refused",
    "RuntimeUnavailable",
    "SecretsChanged",
    "SecretsUnavailable",
    "ServerDown",
    "ServerError",
    "ServerSlow",
    "StalePlan",
    "StateUnavailable",
    "StartFailed",
    "StatementFailed",
    "TargetError",
    "UsageError",
    "WrongKey",
    "WrongVersion",
    "first_hint",
    "one_line",
]

_LINE_BREAK = re.compile("\\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\\s*")


def one_line(text: str) -> str:
    """`text` without line breaks. What a server says may quote a name that an app has made, and no name can add a line
    of its own, about another app, to a message or a report."""
    return _LINE_BREAK.sub(" ", text)


class MultidbError(Exception):
    """Base of all errors that a user is meant to read.

    Args:
        message: what is wrong, one sentence, no secret in it; kept on one line, whatever it quotes.
        where: a place a person can go to: ``multidb.yaml:12:3``, ``app lernmi``, ``server postgres (127.0.0.1:5432)``.
        hint: what to do next, with the command to run.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message = one_line(message)
        super().__init__(self.message)
        self.where = one_line(where) if where else where
        self.hint = one_line(hint) if hint else hint

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def document(self) -> dict[str, Any]:
        """As it stands in a JSON document, as its end or beside what went well."""
        return {"code": self.code, "message": self.message, "where": self.where, "hint": self.hint}

    def sentence(self, *, where: bool = True) -> str:
        """What is wrong, where (unless that is said already) and what to do, on one line."""
        text = str(self) if where else self.message
        return f"{text}; {self.hint}" if self.hint else text


def first_hint(errors: Iterable[MultidbError], otherwise: str) -> str:
    """What to do about the first of several errors of which that is known, in an error that has them all.

    Args:
        otherwise: what is said where none of them says more than that.
    """
    return next((error.hint for error in errors if error.hint and not error.hint.startswith(otherwise)), otherwise)


class UsageError(MultidbError):
    """The command line asks for something that does not exist or does not go together."""

    code = "usage"
    exit_code = 2


class NewerFormat(UsageError):
    """A file was written by a newer multidb than this one, which leaves it as it is."""

    code = "newer"
    exit_code = 3


class MachineError(UsageError):
    """The machine does not let the command do its work: a full disk, a folder that is gone, no more threads."""

    code = "machine"

    @classmethod
    def of(cls, error: BaseException) -> MachineError | None:
        """The error in our words; None for what is no fault of the machine."""
        if isinstance(error, MemoryError):
            return cls("too little memory is left", hint="end other programs, or give this one more, then run it again")
        if isinstance(error, RuntimeError) and "start new thread" in str(error):
            hint = "raise the limit (ulimit -u, pids_limit of the container), or end other programs; then run it again"
            return cls("this machine lets no more threads be started", hint=hint)
        if isinstance(error, ImportError):  # one that an extra brings is named by who needs it
            return cls(f"multidb is not installed whole: {error}", hint=repair_commands())
        if isinstance(error, UnicodeEncodeError) and error.encoding not in ("utf-8", "utf8"):  # a name of a file
            message = f"the locale's encoding ({error.encoding}) cannot write {error.object[error.start]!a}"
            return cls(message, hint="set PYTHONUTF8=1, or a locale of UTF-8 (LC_ALL=C.UTF-8); then run it again")
        if isinstance(error, OSError):
            where = error.filename if isinstance(error.filename, str) else None
            message = error.strerror or str(error) or type(error).__name__
            return cls(message, where=where, hint=_MACHINE_HINTS.get(error.errno or 0, _MACHINE_HINT))
        return None


_MACHINE_HINT = "correct that, then run the command again"
_MACHINE_HINTS = {
    errno.ENOSPC: "free space, then run the command again",
    errno.EDQUOT: "free space, then run the command again",
    errno.EROFS: "run it where files can be written",
    errno.EACCES: "correct the permissions, then run the command again",
    errno.EPERM: "correct the permissions, then run the command again",
    errno.ENOENT: "see whether the folder that the command was started in is still there (cd to it again)",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then run the command again",
    errno.ENFILE: "end other programs, then run the command again",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or end other programs; then run the command again",
    errno.ENOMEM: "end other programs, then run the command again",
}


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in a manifest. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        tail = f". {self.suggestion}" if self.suggestion else ""
        return f"{self.file}:{self.line}:{self.column}: {self.message}{tail}"


class ManifestError(MultidbError):
    """The manifest is wrong; `problems` lists every mistake found, in the order of the file.

    Args:
        file: the manifest as the user named it, for the command that checks it again.
    """

    code = "manifest"
    exit_code = 2

    def __init__(self, problems: Iterable[Problem], file: str = "multidb.yaml") -> None:
        self.problems = tuple(sorted(set(problems)))
        count = len(self.problems)
        again = "multidb validate" if file == "multidb.yaml" else f"multidb validate -f {shlex.quote(file)}"
        super().__init__("", hint=f"{count} problem{'s' if count != 1 else ''}; correct the manifest, then: {again}")
        self.message = "\n".join(str(problem) for problem in self.problems)

    def document(self) -> dict[str, Any]:
        """As for every error, and each problem by itself."""
        return {**super().document(), "problems": [asdict(problem) for problem in self.problems]}


class Refused(MultidbError):
    """multidb declines and has changed nothing."""

    code = "refused"
    exit_code = 3


class Conflict(Refused):
    """Something that multidb did not make stands under a name that the manifest wants."""

    code = "conflict"


class StalePlan(Refused):
    """The servers have moved on since the plan was saved."""

    code = "stale-plan"


class Locked(Refused):
    """Another run holds the lock; the message says who and since when."""

    code = "locked"


class SecretsChanged(Refused):
    """Another run has changed a secret since this one read it; its value stands."""

    code = "secrets-changed"


class SecretsUnavailable(MultidbError):
    """The place where secrets are kept cannot be reached, is sealed or read-only, or does not let multidb in."""

    code = "secrets"
    exit_code = 4


class StateUnavailable(MultidbError):
    """The place where the state is kept cannot be reached, is gone or does not let multidb in."""

    code = "state"
    exit_code = 4


class ServerError(MultidbError):
    """A server cannot be reached, or does not let multidb do its work."""

    code = "server"
    exit_code = 4


class ServerDown(ServerError):
    """Nothing accepts connections at the address."""

    code = "server-down"


class ServerSlow(ServerError):
    """The server accepted or ignored the connection and did not answer in time."""

    code = "server-slow"


class AuthenticationFailed(ServerError):
    """The server refuses the name or the password."""

    code = "authentication"


class NotAllowed(ServerError):
    """The admin login lacks a right that the work needs."""

    code = "not-allowed"


class Missing(ServerError):
    """What is asked for is not in the app's place: it has no such table, collection or schema."""

    code = "missing"


class Cancelled(ServerError):
    """Work was given up because nobody waits for it any more."""

    code = "cancelled"


class WrongVersion(ServerError):
    """The server is older or newer than what multidb supports, or is another product."""

    code = "wrong-version"


class RuntimeUnavailable(ServerError):
    """An embedded server cannot be had here (no Java, no network for its jars, no package)."""

    code = "runtime"


class StartFailed(ServerError):
    """A server that multidb runs has not come up. The message may end with the last lines of a log, as they are."""

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, where=where, hint=hint)
        self.message = message


class StatementFailed(ServerError):
    """A statement failed for a reason that a retry does not cure.

    Args:
        index: position of the failed statement in the sequence given to ``Session.run``.
        durable: how many statements, counted from the start, are known to have taken effect.
        refused: the server refused this one and goes on answering, so that what does not need it can be tried.
    """

    code = "statement"

    def __init__(
        self,
        message: str,
        *,
        index: int,
        durable: int,
        where: str | None = None,
        hint: str | None = None,
        refused: bool = False,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.index = index
        self.durable = durable
        self.refused = refused


class PartlyApplied(MultidbError):
    """Some changes were made and some were not; the report names each."""

    code = "partly-applied"
    exit_code = 5


class ArchiveError(MultidbError):
    """A backup could not be made, read or verified."""

    code = "archive"
    exit_code = 6


class TargetError(ArchiveError):
    """A place where sets are kept cannot be reached, is full or does not let multidb in; it says nothing of a set."""

    code = "target"


class WrongKey(ArchiveError):
    """A set is encrypted, and the key that would read it was not given."""

    code = "wrong-key"


class NeedsServer(ArchiveError):
    """The server has no room for a second place beside the live one; only a second server would have it."""

    code = "needs-server"
