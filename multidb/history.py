"""What was done in a project: every run that changes something, by whom, from where, when, and what came of it.

A run writes a line as it begins and another as it ends, so that one that was killed is known by the line that it lacks.
Lines are only added, each with the SHA-256 of the one before it; that of the last is kept in a file of its own. So a
line that was altered or taken out is noticed, wherever it stood. Against who rewrites all of it there is only a digest
that was kept elsewhere: the one that `multidb history` prints is in the file as long as nobody has.

It stands where the state is (`multidb.history_lines`). `RunHistory` has three ways in: `append`, `runs`, `verify`.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import socket
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from multidb import __version__
from multidb.document import Unreadable, digest, parse, printable
from multidb.errors import MultidbError, Refused
from multidb.history_lines import LONGEST_LINE, NOTHING, link_of, opened
from multidb.model import Change
from multidb.report import Report
from multidb.secrets import redact
from multidb.state import ProjectState
from multidb.validation import AppId, Count, Document, Moment, Sha256, validated

__all__ = ["Chain", "RecordedChange", "RecordedRun", "RunHistory", "RunOutcome", "RunRecord"]

_MOST_CHANGES: Final = 1000  # of one run; how many more there were is written too
_MOST_ARGUMENTS, _LONGEST_ARGUMENT = 50, 200
_LONGEST_NAME: Final = 200  # characters of a user, a host, a job
_SAME_PROCESS: Final = 1.0  # seconds between two readings of when a process began

_ACTORS: Final = (
    "MULTIDB_ACTOR",
    "GITHUB_ACTOR",
    "GITLAB_USER_LOGIN",
    "BUILDKITE_BUILD_CREATOR",
    "CIRCLE_USERNAME",
    "SUDO_USER",
)
"""Variables that say for whom this process works, of CI services and sudo. They are said, not proved."""

_JOBS: Final = ("CI_JOB_URL", "BUILDKITE_BUILD_URL", "CIRCLE_BUILD_URL", "BUILD_URL")
"""Variables with the address of the job that this process is of (GitHub's is in three parts)."""

_CREDENTIALS: Final = re.compile(r"(://)[^/@\s]*@|((?:password|secret|token|key|sig\w*)=)[^&\s]+", re.IGNORECASE)


class RunOutcome(StrEnum):
    """What came of a run."""

    DONE = "done"
    PARTLY = "partly"  # something was changed, and something failed
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # by Ctrl-C or SIGTERM
    RUNNING = "running"  # it has begun, and its process lives on this machine, or holds a lock from another
    UNFINISHED = "unfinished"  # it has begun and not ended: killed; or on another machine, and without a lock just now


@dataclass(frozen=True, slots=True)
class RecordedChange:
    """One thing that a run has changed: a resource of a server, a set, an app as a whole.

    Args:
        action: what was done to it, such as `create`, `update`, `delete`, `remove`.
    """

    action: str
    kind: str
    name: str
    app: str | None = None
    server: str | None = None

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        named = {"action": self.action, "kind": self.kind, "name": redact(self.name)}
        return {**named, "app": self.app, "server": self.server}


@dataclass(slots=True)
class RunRecord:
    """What a run that is under way will have written of it when it ends.

    Args:
        apps: whom it is about.
        plan: the digest of the plan that it carries out.
        ends_in: where its end is written, of a run that has moved the history itself; None: where it began.
    """

    apps: tuple[str, ...]
    plan: str | None = None
    changes: list[RecordedChange] = field(default_factory=list)
    error: MultidbError | None = None
    ends_in: ProjectState | None = None

    def applied(self, *reports: Report) -> None:
        """Adds what applies have done; and that they failed, where they did."""
        for report in reports:
            self.plan = self.plan or (report.plan.digest if report.plan.changes else None)
            self.changes += [_recorded(change) for change in report.done if not change.resource.step]
            self.error = self.error or report.error()

    def add(self, action: str, kind: str, name: str, app: str | None = None) -> None:
        """Adds one change."""
        self.changes.append(RecordedChange(action, kind, name, app))


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run as the history has it.

    Args:
        arguments: of its command line, without what could be a credential.
        user: the account of the operating system; `actor`: for whom it worked, as a variable of CI or sudo said.
        job: the address of the CI job.
        ended: None where it has not.
        plan: the digest of the plan that it carried out.
        changes_left_out: how many more there were.
        error: of a run that did not end well: the code and the message.
    """

    run: str
    command: str
    arguments: tuple[str, ...]
    apps: tuple[str, ...]
    user: str
    actor: str | None
    host: str
    job: str | None
    version: str
    begun: datetime
    outcome: RunOutcome
    ended: datetime | None = None
    plan: str | None = None
    changes: tuple[RecordedChange, ...] = ()
    changes_left_out: int = 0
    error: Mapping[str, str | None] | None = None

    @property
    def who(self) -> str:
        """As a person reads it: ``octocat (runner@host)``."""
        account = f"{self.user}@{self.host}"
        return f"{self.actor} ({account})" if self.actor else account

    def is_about(self, app: str) -> bool:
        """Whether the app was changed, or meant to be."""
        return app in self.apps

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "run": self.run,
            "command": self.command,
            "arguments": list(self.arguments),
            "apps": list(self.apps),
            "user": self.user,
            "actor": self.actor,
            "host": self.host,
            "job": self.job,
            "multidb": self.version,
            "begun_at": self.begun.isoformat(timespec="seconds"),
            "ended_at": self.ended.isoformat(timespec="seconds") if self.ended else None,
            "outcome": self.outcome.value,
            "plan": self.plan,
            "changes": [change.document() for change in self.changes],
            "changes_left_out": self.changes_left_out,
            "error": dict(self.error) if self.error else None,
        }


@dataclass(frozen=True, slots=True)
class Chain:
    """Whether every line is there, as it was written.

    Args:
        lines: how many there are.
        digest: of the last one; empty where there is none.
        problems: what is wrong, a sentence each.
    """

    lines: int
    digest: str
    problems: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def way_on(self) -> str:
        """What to do about it: nothing brings a line back that only this place had."""
        return (
            "put it back from a copy; or keep what is left for whoever looks into it, and begin anew: "
            "multidb history --begin-anew"
        )


class RunHistory:
    """The history of one project."""

    def __init__(self, state: ProjectState) -> None:
        self._state = state
        self._kept = opened(state)

    @property
    def title(self) -> str:
        """What a person calls the place where it is."""
        return self._kept.title

    @contextmanager
    def recording(
        self,
        command: str,
        apps: Iterable[str] = (),
        plan: str | None = None,
        *,
        lost: Callable[[MultidbError], None],
    ) -> Iterator[RunRecord]:
        """Writes down that a run begins, and when the block ends what came of it.

        Args:
            lost: told why the end could not be written; what was done is done.

        Raises:
            UsageError: the beginning could not be written, so the block is not run.
        """
        run, record = secrets.token_hex(8), RunRecord(tuple(sorted(set(apps))), plan)
        self.append({"event": "begun", "run": run, "command": command, **_origin(), **_subject(record)})
        outcome, error = RunOutcome.FAILED, None
        try:
            yield record
            error = record.error
            outcome = _outcome(record)
        except KeyboardInterrupt:
            outcome = RunOutcome.INTERRUPTED
            raise
        except Exception as raised:
            error = raised if isinstance(raised, MultidbError) else None
            outcome = RunOutcome.PARTLY if record.changes else RunOutcome.FAILED
            raise
        finally:
            try:
                kept = self._kept if record.ends_in is None else opened(record.ends_in)
                kept.add({"event": "ended", "run": run, "outcome": outcome.value, **_result(record, error)})
            except MultidbError as why:
                lost(why)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Adds a line. Whole or not at all, and kept when this returns.

        Raises:
            Locked: other processes have been adding some for a minute.
            UsageError: it cannot be written.
            StateUnavailable: where the state is kept, nothing can be written now.
        """
        self._kept.add(entry)

    def runs(self) -> list[RecordedRun]:
        """Every run, oldest first. A line that cannot be understood is passed over: `verify` names it.

        Raises:
            UsageError: the file cannot be read.
        """
        begun: dict[str, _Begun] = {}
        ended: dict[str, _Ended] = {}
        for line in self._kept.lines():
            with suppress(Unreadable):
                entry = validated(parse(line, LONGEST_LINE), _ENTRY)
                if isinstance(entry, _Begun):
                    begun.setdefault(entry.run, entry)
                else:
                    ended.setdefault(entry.run, entry)
        open_runs = [entry for run, entry in begun.items() if run not in ended]
        elsewhere = self._at_work() if any(entry.host != _host() for entry in open_runs) else frozenset()
        return [_run_of(entry, ended.get(run), elsewhere) for run, entry in begun.items()]

    def verify(self) -> Chain:
        """Whether every line is there, as it was written.

        Raises:
            UsageError: the file cannot be read.
        """
        head = self._kept.head()  # first: what is added meanwhile comes after it
        lines = list(self._kept.lines())
        problems: list[str] = []
        number, previous, at_head = 0, NOTHING, ""
        for position, line in enumerate(lines, 1):
            given, follows = link_of(line)
            stated = number + 1 if given is None else given
            if given is None:
                problems.append(f"line {position} cannot be read")
            elif stated != number + 1:
                misplaced = f"line {position} stands where it does not belong"
                problems.append(_gap(f"before line {position}", number, stated) if stated > number else misplaced)
            elif follows != previous:
                problems.append(f"line {position - 1} was altered" if position > 1 else "line 1 was altered")
            number, previous = stated, digest(line)
            at_head = previous if number == head.number else at_head
        if not lines and not head.number:
            return Chain(0, "")
        if head.number > number:
            problems.append(_gap("at the end", number, head.number + 1))
        elif not head.number:
            problems.append("head.json is missing, or is not what multidb writes: nothing says which line was the last")
        elif at_head != head.digest and not problems:
            problems.append(f"line {len(lines) - (number - head.number)} was altered")
        return Chain(len(lines), previous if lines else "", tuple(problems))

    def begin_anew(self) -> str:
        """Puts all lines aside, so that the next one is the first. Gives the name under which they are.

        Raises:
            Refused: there is none.
        """
        chain = self.verify()
        if not chain.lines and chain.whole:
            raise Refused("no run is recorded", where=self.title)
        return self._kept.set_aside(f"history-{chain.digest[:8] or 'empty'}")

    def _at_work(self) -> frozenset[tuple[str, int]]:
        """The machines and processes of the runs that hold a lock now, wherever they are."""
        if not self._state.is_shared:
            return frozenset()
        return frozenset((lock.user.rpartition("@")[2], lock.pid) for lock in self._state.store.locks())


class _Link(Document):
    version: Literal[1]
    number: Count
    previous: Sha256
    at: Moment
    run: str


class _Changed(Document):
    action: str
    kind: str
    name: str
    app: str | None
    server: str | None


class _Begun(_Link):
    event: Literal["begun"]
    command: str
    arguments: list[str]
    apps: list[AppId]
    user: str
    actor: str | None
    host: str
    job: str | None
    pid: Count
    process_began: float
    multidb: str
    plan: Sha256 | None


class _Ended(_Link):
    event: Literal["ended"]
    outcome: Literal["done", "partly", "failed", "interrupted"]
    apps: list[AppId]
    plan: Sha256 | None
    changes: list[_Changed]
    changes_left_out: Count
    error: dict[str, str | None] | None


_ENTRY: Final[TypeAdapter[_Begun | _Ended]] = TypeAdapter(_Begun | _Ended)


def _run_of(begun: _Begun, ended: _Ended | None, elsewhere: Container[tuple[str, int]]) -> RecordedRun:
    lives = ended is None and (_lives(begun) or (begun.host, begun.pid) in elsewhere)
    outcome = RunOutcome(ended.outcome) if ended else RunOutcome.RUNNING if lives else RunOutcome.UNFINISHED
    return RecordedRun(
        begun.run,
        begun.command,
        tuple(begun.arguments),
        tuple(ended.apps if ended else begun.apps),
        begun.user,
        begun.actor,
        begun.host,
        begun.job,
        begun.multidb,
        begun.at,
        outcome,
        ended.at if ended else None,
        ended.plan if ended else begun.plan,
        tuple(RecordedChange(**change.model_dump()) for change in ended.changes) if ended else (),
        ended.changes_left_out if ended else 0,
        ended.error if ended else None,
    )


def _lives(begun: _Begun) -> bool:
    import psutil

    if begun.host != _host():
        return False
    try:
        return bool(abs(psutil.Process(begun.pid).create_time() - begun.process_began) < _SAME_PROCESS)
    except psutil.Error:
        return False


def _origin() -> dict[str, Any]:
    """Who runs what, where: as far as this machine knows, and as the environment says."""
    import psutil

    actor = next((os.environ[name] for name in _ACTORS if os.environ.get(name)), None)
    return {
        "arguments": [_argument(argument) for argument in sys.argv[1 : _MOST_ARGUMENTS + 1]],
        "user": _user(),
        "actor": _shown(actor),
        "host": _host(),
        "job": _shown(_job()),
        "pid": os.getpid(),
        "process_began": psutil.Process().create_time(),
        "multidb": __version__,
    }


def _user() -> str:
    """The account that this process really is of, whatever ``USER`` says."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _host() -> str:
    return printable(socket.gethostname(), _LONGEST_NAME)


def _job() -> str | None:
    parts = [os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")]
    if all(parts):
        return "{}/{}/actions/runs/{}".format(*parts)
    return next((os.environ[name] for name in _JOBS if os.environ.get(name)), None)


def _shown(text: str | None) -> str | None:
    return printable(_masked(text), _LONGEST_NAME) if text else None


def _argument(argument: str) -> str:
    return printable(_masked(argument), _LONGEST_ARGUMENT)


def _masked(text: str) -> str:
    """Without what is a secret that this process knows, or stands where addresses have their credentials."""
    return _CREDENTIALS.sub(lambda match: f"{match[1]}***@" if match[1] else f"{match[2]}***", redact(text))


def _subject(record: RunRecord) -> dict[str, Any]:
    return {"apps": sorted(set(record.apps)), "plan": record.plan}


def _result(record: RunRecord, error: MultidbError | None) -> dict[str, Any]:
    shown = record.changes[:_MOST_CHANGES]
    problem = {"code": error.code, "message": _masked(error.message), "where": error.where} if error else None
    return {
        **_subject(record),
        "changes": [change.document() for change in shown],
        "changes_left_out": len(record.changes) - len(shown),
        "error": problem,
    }


def _outcome(record: RunRecord) -> RunOutcome:
    if record.error is None:
        return RunOutcome.DONE
    return RunOutcome.PARTLY if record.changes else RunOutcome.FAILED


def _recorded(change: Change) -> RecordedChange:
    resource = change.resource
    return RecordedChange(change.action.value, resource.kind, resource.name, resource.app, change.server)


def _gap(where: str, before: int, after: int) -> str:
    if after == before + 2:
        return f"entry {before + 1}, {where}, is missing"
    return f"entries {before + 1} to {after - 1}, {where}, are missing"
