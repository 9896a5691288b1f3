"""What is said of the project itself: where its secrets and its state are kept, and its history."""

from __future__ import annotations

from typing import Any

from pydantic import AwareDatetime, Field

from multidb.cli.documents.envelope import AppId, DocumentPart, ErrorDocument, ResultDocument
from multidb.history import RunOutcome

__all__ = [
    "HistoryDocument",
    "LockDocument",
    "MovedSecretsDocument",
    "MovedStateDocument",
    "PulledStateDocument",
    "PushedStateDocument",
    "RecordedChangeDocument",
    "RecordedRunDocument",
    "RecoveredStateDocument",
    "RekeyedDocument",
    "RunErrorDocument",
    "StateDocument",
    "UnlockedDocument",
]


class MovedSecretsDocument(ResultDocument):
    """Secrets that are kept elsewhere now."""

    from_: str | None = Field(alias="from")
    """Where they were, in words; null: they were there already."""
    to: str
    moved: int
    left: list[str]
    """The secrets, by name, that another run changed meanwhile, and that are left where they were."""


class RekeyedDocument(ResultDocument):
    """Secrets that are encrypted anew."""

    secrets: str
    """Where they are, in words."""


class RecordedChangeDocument(DocumentPart):
    """One thing that a run has changed."""

    action: str
    """What was done: `create`, `update`, `delete`, `replace`, `remove`, `restore`, `purge`."""
    kind: str
    """What it is, such as `role`, `set`, `app`."""
    name: str
    app: AppId | None
    server: str | None


class RunErrorDocument(DocumentPart):
    """Why a run did not end well."""

    code: str
    message: str
    where: str | None


class RecordedRunDocument(DocumentPart):
    """A run that changed something, or was to."""

    run: str
    command: str
    arguments: list[str]
    """Of its command line, credentials as `***`."""
    apps: list[AppId]
    user: str
    """The account of the operating system."""
    actor: str | None
    """For whom it worked, as a variable of the CI service or of sudo said."""
    host: str
    job: str | None
    """The address of the CI job, as its variables said."""
    multidb: str
    """Its version."""
    begun_at: AwareDatetime
    ended_at: AwareDatetime | None
    outcome: RunOutcome
    """`unfinished`: it has begun, has not ended, and no process of this machine is at it."""
    plan: str | None
    """The digest of the plan that it carried out."""
    changes: list[RecordedChangeDocument]
    changes_left_out: int
    """How many more there were."""
    error: RunErrorDocument | None


class HistoryDocument(ResultDocument):
    """What was done with a project, the newest run first. `ok`: every line is as it was written."""

    runs: list[RecordedRunDocument]
    left_out: int
    """How many more runs there are, by `--limit`."""
    lines: int
    """How many the whole history has: one for each run's beginning, one for its end."""
    digest: str | None
    """SHA-256 of the last line. As long as no line was altered, a later history has it too."""
    problems: list[str]
    """Which lines are missing or were altered."""
    set_aside: str | None
    """Under which name, in the same place, the history of before is now, where `--begin-anew` has put it there."""


class LockDocument(DocumentPart):
    """A lock that a run holds."""

    id: str
    """By which `state unlock` takes it."""
    name: str
    command: str
    user: str
    pid: int
    since: str
    until: str
    """The end of its lease; empty: it lasts as long as its holder."""


class StateDocument(ResultDocument):
    """The state of a project, and who is at work with it."""

    kept_in: str
    """Where, in words."""
    id: str | None
    """By which copies of it are known; null: it was never kept elsewhere than in its folder."""
    moved_to: str | None
    """Where it went; null: it is here."""
    sections: dict[str, int]
    """By section, how many entries are in it."""
    locks: list[LockDocument]


class PulledStateDocument(ResultDocument):
    """A copy of the state."""

    state: dict[str, Any]
    """By section."""


class PushedStateDocument(ResultDocument):
    """A state that was put back."""

    kept_in: str
    """Where, in words."""
    sections: list[str]


class MovedStateDocument(ResultDocument):
    """A state that is kept elsewhere now."""

    from_: str | None = Field(alias="from")
    """Where it was; null: it was there already."""
    to: str
    moved: int
    """How many sections went; 0 where an earlier run had moved them."""


class RecoveredStateDocument(ResultDocument):
    """A state that was rebuilt."""

    kept_in: str
    """Where, in words."""
    numbers: dict[str, dict[AppId, int]]
    """By server."""
    removed: list[AppId]
    """Apps that the servers know as removed, and the state did not."""
    lost: list[AppId]
    """Apps whose credentials are not here."""
    errors: dict[str, ErrorDocument]
    """By server, why it could not be asked."""


class UnlockedDocument(ResultDocument):
    """A lock that was taken from its holder."""

    taken: LockDocument
