"""What `--json` prints, command by command, as types: `python scripts/docs` makes the JSON Schemas of docs/json/ of
them. No command imports this; the tests hold every document that a command prints against its schema.

Within version 1 keys are added, and none is taken away or gets another meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from multidb.alternation import RotationPhase
from multidb.apps import Presence
from multidb.backup.sets import Consistency, Reason
from multidb.deployment import FileState
from multidb.history import RunOutcome
from multidb.model import Action, Cause, Isolation, Level, Outcome, Status
from multidb.model.usage import Enforce
from multidb.runtime import ServerState
from multidb.service.documents import HealthDocument
from multidb.tombstone import Phase
from multidb.usage.report import QuotaUse

__all__ = ["DOCUMENTS", "FAILURE", "WITHOUT_DOCUMENT", "json_schemas"]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

AppId = Annotated[str, Field(description="An app.")]
ServerName = Annotated[str, Field(description="A server, as `multidb status` calls it.")]
StoreName = Annotated[str, Field(description="A store, such as `postgres`.")]
SetId = Annotated[str, Field(description="A backup set.")]
TargetName = Annotated[str, Field(description="Where sets are kept, as the manifest writes it.")]
Size = Annotated[int, Field(description="Bytes.")]
Hint = Annotated[str | None, Field(description="What to do next, with the command to run; null: nothing.")]
Written = Annotated[list[str], Field(description="The files that were written.")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ProblemDocument(_Part):
    """One mistake in a manifest. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    message: str
    suggestion: str | None


class ErrorDocument(_Part):
    """What went wrong, of the whole run or of one app, store, server or set."""

    code: str
    """One word for programs, such as `usage`, `manifest`, `refused`, `conflict`, `locked`, `server-down`, `archive`."""
    message: str
    where: str | None
    """A place to go to: a file with its line, an app, a server with its address."""
    hint: Hint
    problems: list[ProblemDocument] | None = None
    """Each mistake by itself, where the manifest is wrong."""


class _Envelope(_Part):
    version: Literal[1]
    """Of this shape."""
    command: str
    """The command, with that of its group: `backups list`."""


class _Result(_Envelope):
    ok: bool
    """Whether all is as it should be; the exit code says how it is not."""


class FailedRunDocument(_Envelope):
    """A run that came to no result."""

    ok: Literal[False]
    error: ErrorDocument


class DiagnosedDocument(_Part):
    """One thing that was looked at."""

    level: Level
    subject: str
    message: str
    hint: Hint


class AskedServerDocument(_Part):
    """One server that was asked."""

    server: ServerName
    store: StoreName
    where: str
    """What the manifest says of it, as file:line:column."""
    address: str | None
    """Null where it has none yet."""
    product: str | None
    """With its version; null where it could not be asked."""
    ok: bool
    """Whether nothing is known to be in the way of an apply."""
    findings: list[DiagnosedDocument]
    """What its admin may do there, and what not."""
    error: ErrorDocument | None
    """Why it could not be asked, or why it cannot have the apps of the manifest."""
    skipped: str | None
    """Why this machine cannot have it."""


class InitDocument(_Result):
    """A manifest to start from."""

    written: Written
    ignored: list[str]
    """The lines that were added to `.gitignore`."""
    servers: list[AskedServerDocument] | None = None
    """Those that exist already, each as it was tried."""


class ServerStatusDocument(_Part):
    """One server, and whether it runs."""

    server: ServerName
    store: StoreName
    state: ServerState
    address: str | None
    pid: int | None
    """Its process on this machine; null where there is none, as of containers."""
    message: str


class ServersDocument(_Result):
    """The servers of the manifest."""

    servers: list[ServerStatusDocument]


class RestartDocument(ServersDocument):
    """Servers that were stopped and started again."""

    cut_off: list[str]
    """Apps with a place on a server that was stopped: their connections ended."""


class DoctorDocument(_Result):
    """What stands in the way."""

    findings: list[DiagnosedDocument]


class ValidateDocument(_Result):
    """A manifest without problems."""

    project: str
    runtime: str
    apps: list[AppId]
    servers: list[AskedServerDocument] | None = None
    """With `--connect`, each as it was asked."""


class SchemaDocument(_Result):
    """The manifest's JSON Schema."""

    schema_: dict[str, JsonValue] = Field(alias="schema")


class CompletionDocument(_Result):
    """The script by which a shell completes; with `--install` where it was written."""

    shell: str
    script: str | None = None
    written: Written | None = None
    to_do: str | None = None
    """What is left to do there."""


class FieldDocument(_Part):
    """One thing that is otherwise than the manifest says."""

    field: str
    old: JsonValue
    new: JsonValue


class StatementDocument(_Part):
    """A statement as it is sent. Secrets stand in it as parameters."""

    text: str
    scope: str
    """The database that it is run in; empty where that makes no difference."""


class ChangeDocument(_Part):
    """A change of one thing on a server."""

    action: Action
    store: StoreName
    server: ServerName
    kind: str
    """What it is, such as `role`, `database`, `collection`."""
    name: str
    app: str | None
    """Whose it is; null: the server's as a whole."""
    fields: list[FieldDocument]
    statements: list[StatementDocument]
    cause: Cause | None
    """What has changed since it was last as it was asked for: what is asked for (`manifest`), the server, and not by
    multidb (`server`), or `both`; null where that is not known."""
    reason: str | None = None
    """Why it is a conflict."""


class IsolationDocument(_Part):
    """How real the wall around an app is."""

    level: Isolation
    why: str


class PlannedServerDocument(_Part):
    """One server as it was read."""

    server: ServerName
    store: StoreName
    version: str
    digest: str
    """The same where the same would be done."""
    isolation: dict[str, IsolationDocument]
    """By app."""
    error: ErrorDocument | None
    """Why it could not be read."""
    skipped: str | None
    """Why this machine cannot have it."""
    unread: dict[str, ErrorDocument]
    """By app, why its place could not be read."""
    notes: list[str]


class WarningDocument(_Part):
    """What no apply sets right."""

    subject: str
    message: str
    hint: Hint


class _Planned(_Part):
    project: str
    digest: str
    """SHA-256; the same where the same would be done."""
    counts: dict[Action, int]
    servers: list[PlannedServerDocument]
    changes: list[ChangeDocument]
    warnings: list[WarningDocument]


class PlannedDocument(_Planned):
    """A plan inside another document."""


class PlanDocument(_Planned, _Result):
    """What would change on the servers."""


class ChangedDocument(_Part):
    """A change, by what it changes."""

    action: Action
    kind: str
    name: str
    app: str | None


class ChangeFailureDocument(_Part):
    """A change that failed, and why."""

    change: ChangedDocument
    error: ErrorDocument


class AppliedServerDocument(_Part):
    """What was done on one server."""

    server: ServerName
    store: StoreName
    done: list[ChangedDocument]
    failed: ChangedDocument | None
    """The first that failed."""
    failures: list[ChangeFailureDocument]
    not_tried: list[ChangedDocument]
    error: ErrorDocument | None


class _Applied(_Result):
    servers: list[AppliedServerDocument]
    error: ErrorDocument | None = None
    """Only where something was left undone."""


class ApplyDocument(_Applied):
    """What was planned, and what was done of it."""

    plan: PlannedDocument


class ManifestEditDocument(_Part):
    """An edit of the manifest, or of a file that it includes."""

    file: str
    added: bool
    """The app is new; else its entry was changed."""
    lines: list[str]
    """What was taken out (``-``) and put in (``+``), between the lines around it."""


class AddAppDocument(_Result):
    """An app that was added or changed; without `--no-apply` also what was made for it."""

    app: AppId
    applied: bool
    manifest: ManifestEditDocument
    skipped: dict[str, str] | None = None
    """By server that cannot be had on this machine, why."""
    plan: PlannedDocument | None = None
    servers: list[AppliedServerDocument] | None = None
    written: Written | None = None
    error: ErrorDocument | None = None


class StoreCredentialsDocument(_Part):
    """An app's credentials on one store."""

    phase: RotationPhase | None
    """How far their rotation has come; null: they were never rotated."""
    since: AwareDatetime | None
    """When that phase began."""
    issued_at: AwareDatetime | None
    """When those were made that the app's variables have; null: before that was recorded."""
    ended_sessions: int | None
    """How many sessions of the other ones were ended just now; null: none was to be, or the store has none."""
    left_out: str | None
    """Why they are not rotated there."""


class RotatedAppDocument(_Part):
    """What came of a rotation of one app."""

    app: AppId
    step: Literal["prepare", "finish", "abort", "now"] | None
    """What was done; null: nothing was to be done."""
    stores: dict[str, StoreCredentialsDocument]
    written: Written
    error: ErrorDocument | None


class RotateDocument(_Result):
    """New credentials of apps."""

    apps: list[RotatedAppDocument]


class RenameAppDocument(_Result):
    """An app under another name; with `--abort`, back under its own."""

    app: AppId
    was: str | None
    """What it was called before; null where it was aborted."""
    aborted: bool
    final_set: str | None = None
    """The last set under the old name; null: none was made."""
    notes: list[str] | None = None
    """What of it could not be copied."""
    servers: list[AppliedServerDocument] | None = None
    error: ErrorDocument | None = None
    breaches: list[str] | None = None
    """What is open in the app's own walls."""
    open_elsewhere: list[str] | None = None
    """What is open on the servers as a whole, or of other apps. It does not make the command fail."""


class RenderedDocument(_Part):
    """One file of the deployment."""

    path: str
    state: FileState
    """What was there before."""
    secret: bool
    """Whether only its owner may read it."""


class RenderDocument(_Result):
    """The files by which the project is run in containers."""

    files: list[RenderedDocument]
    written: Written


class RecoverDocument(_Applied):
    """A server that multidb is back in."""

    server: ServerName


class AppSummaryDocument(_Part):
    """One app on one line."""

    app: AppId
    presence: Presence
    stores: list[StoreName]
    health: Status | None
    size: int | None
    """Bytes on all of its stores together."""
    verified_at: AwareDatetime | None
    """When the newest of its sets that were verified was made."""
    issued_at: AwareDatetime | None
    """When the oldest of its credentials was made."""
    note: str | None


class AppsDocument(_Result):
    """Every app that there is or was."""

    apps: list[AppSummaryDocument]


class StoreAccessDocument(_Part):
    """What an app has in one store."""

    isolation: Isolation
    why: str
    names: list[str]
    read_at: AwareDatetime
    """When the server was asked."""


class CredentialUseDocument(_Part):
    """Sessions of one login from one address."""

    login: str
    sessions: int
    address: str | None
    since: AwareDatetime | None
    """When the oldest of them began."""


class StandingDocument(_Part):
    """How an app's credentials stand on one store."""

    phase: RotationPhase | None
    """How far their rotation has come; null: they were never rotated."""
    since: AwareDatetime | None
    """When that phase began."""
    issued_at: AwareDatetime | None
    """When those were made that the app's variables have; null: before that was recorded."""
    former_used_by: list[CredentialUseDocument]


class ShowDocument(_Result):
    """One app."""

    app: AppId
    tenant_id: str
    where: str
    """Its entry in the manifest."""
    stores: dict[str, StoreAccessDocument]
    credentials: dict[str, StandingDocument] | None
    """By store; with `--live`."""
    labels: dict[str, str]
    variables: dict[str, str]
    """Those of its env file, secrets as `***`."""


class EnvDocument(_Result):
    """An app's variables; with `--write` the file that they were written to."""

    app: AppId
    variables: dict[str, str] | None = None
    """In clear with `--reveal`, or where one was asked for by name."""
    written: Written | None = None


class AnswerDocument(_Part):
    """What came of one statement."""

    columns: list[str]
    rows: list[list[str]]
    note: str


class ConnectDocument(_Result):
    """What a store has answered to the statements that came by a pipe."""

    answers: list[AnswerDocument]
    error: ErrorDocument | None = None
    """Only where a statement failed, which ended the run."""


class LogsDocument(_Result):
    """The last lines of the servers' logs; with `--follow` one document for each line of one server."""

    logs: dict[str, list[str]] | None = None
    """By server."""
    server: str | None = None
    line: str | None = None


class ProbeDocument(_Part):
    """What one app tried that would reach another."""

    app: AppId
    against: str | None
    """The other app; null: the server as a whole."""
    store: StoreName
    server: ServerName
    probe: str
    expected: Outcome
    got: Outcome
    ok: bool
    detail: str
    """What the server said to it."""


class HoleDocument(_Part):
    """What an app could do, by what a server's catalogs say."""

    store: StoreName
    server: ServerName
    app: str | None
    hole: str
    subject: str
    message: str
    closes: list[str]
    """Statements that close it."""


class CatalogDocument(_Part):
    """One catalog of a server that was searched for holes."""

    catalog: str
    objects: int
    looked_for: str


class AuditedServerDocument(_Part):
    """One server that was searched."""

    server: ServerName
    store: StoreName
    version: str
    searched: list[CatalogDocument]
    error: ErrorDocument | None
    skipped: str | None


class PairsDocument(_Part):
    """Which pairs of apps were tried on a store."""

    tried: int
    possible: int
    sampled: bool
    """Whether some were left out."""
    seed: int | None
    waiting: int
    """How many apps tried nothing this time."""


class RemarkDocument(_Part):
    """What an auditor may want to know."""

    server: ServerName
    app: str | None
    subject: str
    message: str


class UnreadDocument(_Part):
    """A catalog that could not be read, so that nothing is proved of it."""

    server: ServerName
    app: str | None
    catalog: str
    why: str


class KnownDocument(_Part):
    """What an account could do that the manifest names as known."""

    server: ServerName
    account: str
    could: list[str]


class UntriedDocument(_Part):
    """A pair that could not be tried."""

    store: StoreName
    app: AppId
    against: str | None
    why: str


class NotAskedDocument(ErrorDocument):
    """Why a server or an app could not be asked."""

    subject: str


class AuditDocument(_Result):
    """Whether every wall that is promised was proved."""

    project: str
    started_at: AwareDatetime
    finished_at: AwareDatetime
    multidb: str
    pairs: dict[str, PairsDocument]
    """By store."""
    servers: list[AuditedServerDocument]
    isolation: dict[str, dict[str, Isolation]]
    """By app and store, what is promised."""
    verdicts: dict[str, dict[str, str]]
    """By app and store: what is promised and was proved, or `breach`, `hole`, `not proved`."""
    counts: dict[Outcome, int]
    breaches: list[ProbeDocument]
    holes: list[HoleDocument]
    remarks: list[RemarkDocument]
    unread: list[UnreadDocument]
    known: list[KnownDocument]
    broken: list[ProbeDocument]
    """Probes that do not work on the app's own things either, so that they prove nothing."""
    untried: list[UntriedDocument]
    errors: list[NotAskedDocument]
    probes: list[ProbeDocument]
    """All of them."""


class LargestDocument(_Part):
    """One of the largest things of an app."""

    name: str
    size: Size


class QueryDocument(_Part):
    """A query that took much time."""

    text: str
    calls: int
    mean_seconds: float
    total_seconds: float


class GrowthDocument(_Part):
    """By how much an app has grown, or, below zero, shrunk."""

    size: Size
    since: AwareDatetime


class QuotaDocument(_Part):
    """What an app may use."""

    size: Size
    enforce: Enforce
    share: float | None
    """How much of it is used, 1 being all."""


class StoreUsageDocument(_Part):
    """What one app uses of one store."""

    server: ServerName
    size: int | None
    estimated: bool
    """Whether the size was reckoned from a sample."""
    connections: int | None
    connection_limit: int | None
    counts: dict[str, float]
    largest: list[LargestDocument]
    slow: list[QueryDocument]
    growth: GrowthDocument | None
    quota: QuotaDocument | None
    standing: QuotaUse
    read_only: bool
    """Whether it is read-only now because of its quota."""
    notes: list[str]


class StoreTotalDocument(_Part):
    """What all apps have on one store together."""

    apps: int
    size: Size
    connections: int


class ServerUsageDocument(_Part):
    """One server's own figures."""

    server: ServerName
    store: StoreName
    size: int | None
    connections: int | None
    connection_limit: int | None
    notes: list[str]
    error: ErrorDocument | None


class EnforcementDocument(_Part):
    """Who is read-only because of a quota; each by store."""

    read_only: dict[str, list[AppId]]
    """From now on."""
    lifted: dict[str, list[AppId]]
    """No longer."""
    standing: dict[str, list[AppId]]
    """All that are."""
    powerless: dict[str, list[AppId]]
    """Those that should be, on servers that cannot do that for one app."""
    errors: dict[str, ErrorDocument]


class UsageDocument(_Result):
    """What each app uses."""

    project: str
    looked_at: AwareDatetime
    apps: dict[str, dict[str, StoreUsageDocument]]
    """By app and store."""
    totals: dict[str, StoreTotalDocument]
    """By store."""
    servers: list[ServerUsageDocument]
    notes: list[str]
    enforced: EnforcementDocument | None = None
    """With `--enforce`."""


class ServeDocument(_Result):
    """With `--show-token` the token, with `--check` what would be served and where."""

    token: str | None = None
    """In clear."""
    project: str | None = None
    address: str | None = None
    """A URL, or a socket's path."""


class CopyDocument(_Part):
    """A set on a target."""

    app: AppId
    set: SetId
    target: TargetName
    made_as: str | None = None
    """What its app was called when it was made, where that is another name."""


class MadePartDocument(_Part):
    """What a new set has of one store."""

    size: Size
    stored_size: Size
    sha256: dict[str, str]
    """By file."""
    counts: dict[str, int]
    """How many, by what: `table public.orders`."""


class MadeSetDocument(_Part):
    """A new set."""

    app: AppId
    set: SetId
    consistency: Consistency
    seconds: float
    stores: dict[str, MadePartDocument]
    verified: bool | None
    """Whether it was restored and came out as it was measured; null: not tried."""


class BackupFailureDocument(ErrorDocument):
    """What went wrong with one app's set."""

    app: AppId
    subject: str
    """The store or the target."""


class BackupDocument(_Result):
    """What came of a run of backups."""

    sets: list[MadeSetDocument]
    failed: list[BackupFailureDocument]
    recovered: list[str]
    """What of an earlier run was put right."""
    notes: list[str]
    pruned: list[CopyDocument]
    """The sets that were removed because they need not stay."""
    errors: dict[str, ErrorDocument]
    """By app, what went wrong beside the sets themselves."""


class KeptPartDocument(_Part):
    """What a set has of one store."""

    size: Size
    stored_size: Size
    counts: dict[str, int]


class SetDocument(CopyDocument):
    """A set that is there. Where its manifest cannot be read, `problem` says why, and what stands in it is missing."""

    verified: bool
    tried_at: AwareDatetime | None
    problem: str | None
    made_at: AwareDatetime | None = None
    age_seconds: float | None = None
    reason: Reason | None = None
    consistency: Consistency | None = None
    complete: bool | None = None
    encrypted: bool | None = None
    stores: dict[str, KeptPartDocument] | None = None


class ListedSetsDocument(_Result):
    """The sets that there are."""

    sets: list[SetDocument]


class ShownSetDocument(_Result):
    """One set."""

    set: SetDocument


class TriedSetDocument(CopyDocument):
    """What came of verifying a set."""

    verified: bool
    failures: dict[str, str]
    """By store, what is not as it was measured."""
    unverified: dict[str, str]
    """By store, why it could not be restored here."""
    error: ErrorDocument | None
    """Why it could not be tried."""


class TriedSetsDocument(_Result):
    """What came of verifying sets."""

    sets: list[TriedSetDocument]


class CopiedSetsDocument(_Result):
    """What was brought to another target."""

    copied: list[CopyDocument]
    failed: list[ErrorDocument]


class KeptSetDocument(CopyDocument):
    """A set that stays."""

    why: str


class UnfinishedDocument(_Part):
    """What a run left that never came to its end."""

    target: TargetName
    folder: str


class PruneDocument(_Result):
    """What need not stay, and whether it was removed."""

    agreed: bool
    """Whether it was removed, as far as nothing failed."""
    remove: list[CopyDocument]
    keep: list[KeptSetDocument]
    unfinished: list[UnfinishedDocument]
    failed: list[ErrorDocument]


class RestoreDocument(_Applied):
    """A set that was brought back."""

    app: AppId
    set: SetId
    stores: list[StoreName]
    tables: list[str]
    """With `--table`."""
    safety_set: str | None
    """The set of what it had before."""
    notes: list[str]
    written: Written
    breaches: list[str]
    """What is open in the app's own walls."""
    open_elsewhere: list[str]
    """What is open on the servers as a whole, or of other apps. It does not make the command fail."""


class CloneDocument(_Result):
    """A clone."""

    app: AppId
    of: str
    """Its original."""
    expires_at: str | None
    """When it is to go; null: never."""
    safety_set: str | None
    written: Written
    breaches: list[str]
    """What is open in the clone's own walls."""
    open_elsewhere: list[str]
    """What is open on the servers as a whole, or of other apps. It does not make the command fail."""


class MovedSecretsDocument(_Result):
    """Secrets that are kept elsewhere now."""

    from_: str | None = Field(alias="from")
    """Where they were, in words; null: they were there already."""
    to: str
    moved: int
    left: list[str]
    """The secrets, by name, that another run changed meanwhile, and that are left where they were."""


class RekeyedDocument(_Result):
    """Secrets that are encrypted anew."""

    secrets: str
    """Where they are, in words."""


class ExpireDocument(_Result):
    """The clones whose time is up."""

    expired: list[AppId]
    removed: list[AppId]
    failed: dict[str, ErrorDocument]


class RecordedChangeDocument(_Part):
    """One thing that a run has changed."""

    action: str
    """What was done: `create`, `update`, `delete`, `replace`, `remove`, `restore`, `purge`."""
    kind: str
    """What it is, such as `role`, `set`, `app`."""
    name: str
    app: AppId | None
    server: str | None


class RunErrorDocument(_Part):
    """Why a run did not end well."""

    code: str
    message: str
    where: str | None


class RecordedRunDocument(_Part):
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


class HistoryDocument(_Result):
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


class RemovedDocument(_Part):
    """An app that was removed."""

    phase: Phase
    since: AwareDatetime
    until: AwareDatetime
    """How long its data is meant to stay."""
    final_set: str | None
    """The set that was made before."""


class RemoveAppDocument(RemovedDocument, _Result):
    """An app that is out."""

    app: AppId


class UndoRemoveDocument(_Applied):
    """An app that is back."""

    app: AppId


class PurgeDocument(_Result):
    """An app that is gone for good; without a name all that were removed."""

    app: str | None = None
    final_set: str | None = None
    removed: dict[str, RemovedDocument] | None = None
    """By app."""


class LockDocument(_Part):
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


class StateDocument(_Result):
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


class PulledStateDocument(_Result):
    """A copy of the state."""

    state: dict[str, Any]
    """By section."""


class PushedStateDocument(_Result):
    """A state that was put back."""

    kept_in: str
    """Where, in words."""
    sections: list[str]


class MovedStateDocument(_Result):
    """A state that is kept elsewhere now."""

    from_: str | None = Field(alias="from")
    """Where it was; null: it was there already."""
    to: str
    moved: int
    """How many sections went; 0 where an earlier run had moved them."""


class RecoveredStateDocument(_Result):
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


class UnlockedDocument(_Result):
    """A lock that was taken from its holder."""

    taken: LockDocument


DOCUMENTS: Final[Mapping[str, type[BaseModel]]] = {
    "init": InitDocument,
    "up": ServersDocument,
    "down": ServersDocument,
    "restart": RestartDocument,
    "doctor": DoctorDocument,
    "validate": ValidateDocument,
    "schema": SchemaDocument,
    "completion": CompletionDocument,
    "plan": PlanDocument,
    "apply": ApplyDocument,
    "add-app": AddAppDocument,
    "rotate": RotateDocument,
    "rename-app": RenameAppDocument,
    "render": RenderDocument,
    "secrets move": MovedSecretsDocument,
    "secrets rekey": RekeyedDocument,
    "state show": StateDocument,
    "state pull": PulledStateDocument,
    "state push": PushedStateDocument,
    "state move": MovedStateDocument,
    "state recover": RecoveredStateDocument,
    "state unlock": UnlockedDocument,
    "recover": RecoverDocument,
    "apps": AppsDocument,
    "show": ShowDocument,
    "env": EnvDocument,
    "connect": ConnectDocument,
    "status": ServersDocument,
    "logs": LogsDocument,
    "health": HealthDocument,
    "audit": AuditDocument,
    "usage": UsageDocument,
    "history": HistoryDocument,
    "serve": ServeDocument,
    "backup": BackupDocument,
    "backups list": ListedSetsDocument,
    "backups show": ShownSetDocument,
    "backups verify": TriedSetsDocument,
    "backups copy": CopiedSetsDocument,
    "backups prune": PruneDocument,
    "restore": RestoreDocument,
    "clone": CloneDocument,
    "expire": ExpireDocument,
    "remove-app": RemoveAppDocument,
    "undo-remove": UndoRemoveDocument,
    "purge": PurgeDocument,
}
"""By command, what it prints when it came to a result; else it prints a failure."""

FAILURE: Final = "failure"
"""The schema of what is printed where the command line names no command."""

WITHOUT_DOCUMENT: Final[Mapping[str, str]] = {}
"""By command that has no document, why."""


def json_schemas() -> dict[str, dict[str, Any]]:
    """By command and under `FAILURE`, the JSON Schema (draft 2020-12) of its document."""
    schemas = {command: _schema(model | FailedRunDocument, command) for command, model in DOCUMENTS.items()}
    return {**schemas, FAILURE: _schema(FailedRunDocument, None)}


def _schema(model: Any, command: str | None) -> dict[str, Any]:
    made = TypeAdapter(model).json_schema()
    for section in (made, *made.get("$defs", {}).values()):
        properties = section.get("properties", {})
        if command is not None and {"version", "command"} <= properties.keys():
            properties["command"] = {**_untitled(properties["command"]), "const": command}
    title = f"multidb {command} --json" if command is not None else "multidb --json"
    return {"$schema": _DIALECT, "title": title, **_untitled(made)}


def _untitled(section: Any) -> Any:
    """Without the titles that pydantic makes of names, which say nothing more than these."""
    if isinstance(section, Mapping):
        return dict(_without_titles(section))
    return [_untitled(item) for item in section] if isinstance(section, list) else section


def _without_titles(section: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if key in ("properties", "$defs"):  # names, one of which may be "title"
            yield key, {name: _untitled(item) for name, item in value.items()}
        elif key != "title":
            yield key, _untitled(value)
