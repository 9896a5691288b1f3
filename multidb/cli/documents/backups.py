"""What is said of backup sets, and of what is made of them."""

from __future__ import annotations

from pydantic import AwareDatetime

from multidb.backup.sets import Consistency, Reason
from multidb.cli.documents.changes import AppliedChanges
from multidb.cli.documents.envelope import (
    AppId,
    DocumentPart,
    ErrorDocument,
    ResultDocument,
    SetId,
    Size,
    StoreName,
    TargetName,
    Written,
)

__all__ = [
    "ArchiveDocument",
    "ArchivedDocument",
    "BackupDocument",
    "BackupFailureDocument",
    "CloneDocument",
    "CopiedSetsDocument",
    "CopyDocument",
    "ExpireDocument",
    "KeptPartDocument",
    "KeptSetDocument",
    "ListedSetsDocument",
    "MadePartDocument",
    "MadeSetDocument",
    "NearestDocument",
    "PruneDocument",
    "RestoreDocument",
    "SetDocument",
    "ShownSetDocument",
    "TriedSetDocument",
    "TriedSetsDocument",
    "UnfinishedDocument",
]


class CopyDocument(DocumentPart):
    """A set on a target."""

    app: AppId
    set: SetId
    target: TargetName
    made_as: str | None = None
    """What its app was called when it was made, where that is another name."""


class MadePartDocument(DocumentPart):
    """What a new set has of one store."""

    size: Size
    stored_size: Size
    sha256: dict[str, str]
    """By file."""
    counts: dict[str, int]
    """How many, by what: `table public.orders`."""


class MadeSetDocument(DocumentPart):
    """A new set."""

    app: AppId
    set: SetId
    consistency: Consistency
    seconds: float
    stores: dict[str, MadePartDocument]
    files: MadePartDocument | None
    """Of the app's files beside its stores; null: none."""
    verified: bool | None
    """Whether it was restored and came out as it was measured; null: not tried."""


class BackupFailureDocument(ErrorDocument):
    """What went wrong with one app's set."""

    app: AppId
    subject: str
    """The store or the target."""


class ArchivedDocument(DocumentPart):
    """What came of archiving what a server writes."""

    server: str
    files: int
    """Of its log, how many were archived."""
    base: SetId | None
    """The base backup that was made."""
    began: str | None
    """Why its archive has no moment from before; null: it goes on."""
    removed: int
    """Files that need not stay any more."""
    error: ErrorDocument | None


class BackupDocument(ResultDocument):
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
    archived: list[ArchivedDocument]
    """By server, where the manifest wants what it writes archived."""


class KeptPartDocument(DocumentPart):
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
    files: KeptPartDocument | None = None
    """Of the app's files beside its stores; null: none."""


class ArchiveDocument(DocumentPart):
    """The log of a server without a gap, with its base backups, on a target."""

    server: str
    target: TargetName
    stream: SetId
    since: AwareDatetime | None
    """The first moment that an app can be brought back to; null: none yet."""
    until: AwareDatetime | None
    """The last one."""
    bases: list[SetId]
    stored_size: Size
    problem: str | None
    """Why nothing of it can be used."""


class ListedSetsDocument(ResultDocument):
    """The sets that there are."""

    sets: list[SetDocument]
    archives: list[ArchiveDocument]
    """Of the servers whose log is archived, by stream and target."""


class ShownSetDocument(ResultDocument):
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


class TriedSetsDocument(ResultDocument):
    """What came of verifying sets."""

    sets: list[TriedSetDocument]


class CopiedSetsDocument(ResultDocument):
    """What was brought to another target."""

    copied: list[CopyDocument]
    failed: list[ErrorDocument]


class KeptSetDocument(CopyDocument):
    """A set that stays."""

    why: str


class UnfinishedDocument(DocumentPart):
    """What a run left that never came to its end."""

    target: TargetName
    folder: str


class PruneDocument(ResultDocument):
    """What need not stay, and whether it was removed."""

    agreed: bool
    """Whether it was removed, as far as nothing failed."""
    remove: list[CopyDocument]
    keep: list[KeptSetDocument]
    unfinished: list[UnfinishedDocument]
    copies: list[str]
    """Servers whose copy, which `restore --keep-copy` has kept, need not stay."""
    failed: list[ErrorDocument]


class NearestDocument(DocumentPart):
    """What there is of a store that was left as it is."""

    store: str
    set: str | None
    """Its set that is nearest to the moment; null: there is none."""
    seconds_before: float | None
    """How long before the moment it was made; negative: after it."""


class RestoreDocument(AppliedChanges):
    """A set that was brought back."""

    app: AppId
    set: SetId
    stores: list[StoreName]
    tables: list[str]
    """With `--table`."""
    files: list[str]
    """The locations of the app's files that were brought back."""
    safety_set: str | None
    """The set of what it had before."""
    notes: list[str]
    mentions: list[str]
    """What names in its text a place that is called otherwise in this app."""
    at: AwareDatetime | None
    """With `--at` or `--until`, the moment."""
    kept_until: AwareDatetime | None
    """Until when the copy of the server is kept at that moment, for `--until`; null: it is not."""
    nearest: list[NearestDocument]
    """With `--at` or `--until`, what there is of stores that no moment can be had of."""
    written: Written
    breaches: list[str]
    """What is open in the app's own walls."""
    open_elsewhere: list[str]
    """What is open on the servers as a whole, or of other apps. It does not make the command fail."""


class CloneDocument(ResultDocument):
    """A clone."""

    app: AppId
    of: str
    """Its original."""
    expires_at: str | None
    """When it is to go; null: never."""
    safety_set: str | None
    mentions: list[str]
    """What names in its text the original's place, which is called otherwise in the clone."""
    written: Written
    breaches: list[str]
    """What is open in the clone's own walls."""
    open_elsewhere: list[str]
    """What is open on the servers as a whole, or of other apps. It does not make the command fail."""


class ExpireDocument(ResultDocument):
    """The clones whose time is up."""

    expired: list[AppId]
    removed: list[AppId]
    failed: dict[str, ErrorDocument]
