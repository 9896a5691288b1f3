"""What a backup set is, as a value, and as the ``manifest.json`` that is written last. Pure.

A set is a folder ``<project>/<app>/<id>/`` on a target. Without its ``manifest.json`` it is not a set; with it, every
file that belongs to it is there, whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, JsonValue, StringConstraints, TypeAdapter

from multidb.backup.set_ids import is_set_id, made_at
from multidb.document import Unreadable, parse, printable
from multidb.errors import ArchiveError
from multidb.formats import SET, VERIFICATION, NewerVersion
from multidb.model import App, Measures, Part
from multidb.model.file_options import files_entry
from multidb.plan import plain
from multidb.validation import AppId, Count, Document, Moment, Sha256, validated

__all__ = [
    "LARGEST",
    "MANIFEST",
    "VERIFIED",
    "BackupSet",
    "Consistency",
    "FILES",
    "FileDocument",
    "Reason",
    "StoredFile",
    "StoredPart",
    "Verification",
    "declaration",
    "stored_path",
]

MANIFEST: Final = "manifest.json"
VERIFIED: Final = "verified.json"
FILES: Final = "files"
"""What the part of a set is called that has the app's files, which are of no store."""
_FORMAT: Final = "multidb set"
_VERIFIED_FORMAT: Final = "multidb verification"
LARGEST: Final = 32 * 1024**2
"""Bytes of the longest ``manifest.json`` that is read: one of some 100,000 tables."""

_LARGEST_FILE: Final = 2**53  # bytes; what a larger number would mean is no file
_MOST_FILES: Final = 100_000  # of one store
_ANOTHER: Final = "take another set"

_StoreName = Annotated[str, StringConstraints(pattern=r"\A[a-z][a-z0-9_-]{0,30}\z")]
_FileName = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,120}\z")]
_Size = Annotated[int, Field(ge=0, le=_LARGEST_FILE)]


class Consistency(StrEnum):
    """Whether all that is in a set is of one moment."""

    CONSISTENT = "consistent"  # everything in it is of one moment
    PER_STORE = "per-store"  # each store is of a moment of its own, or not even that: see its `consistent`


class Reason(StrEnum):
    """Why a set was made."""

    ASKED = "asked"
    SCHEDULED = "scheduled"
    SAFETY = "safety"  # before a restore replaced what it holds
    FINAL = "final"  # before the app was removed


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a set.

    Args:
        name: as the store calls it: ``dump.pgc``.
        stored: as it lies on the target, relative to the set: ``postgres/dump.pgc.zst.age``.
        size, plain_sha256: of what the store wrote.
        stored_size, sha256: of what lies on the target.
    """

    name: str
    stored: str
    size: int
    plain_sha256: str
    stored_size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One store's part with its files, in the order in which they were written."""

    part: Part
    files: tuple[StoredFile, ...]

    @property
    def size(self) -> int:
        """Plain bytes of all its files."""
        return sum(file.size for file in self.files)

    @property
    def stored_size(self) -> int:
        """Bytes that its files take on the target."""
        return sum(file.stored_size for file in self.files)


@dataclass(frozen=True, slots=True)
class BackupSet:
    """One backup of one app over all of its stores.

    Args:
        declaration: the app's entry in the manifest, complete enough to add it again.
        recipients: the public keys that it is encrypted for; empty: it is not encrypted.
        absent: by store, why the app had nothing of it where the set was made.
        complete: whether it has every store that the app had; ``--store`` makes one that has not.
        quiesced: whether the app's logins were off meanwhile.
        files: the app's files beside its stores; None: it has none of them.
    """

    id: str
    project: str
    app: str
    finished: datetime
    multidb: str
    parts: Mapping[str, StoredPart]
    declaration: Mapping[str, Any] = field(default_factory=dict)
    recipients: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True
    quiesced: bool = False
    reason: Reason = Reason.ASKED
    files: StoredPart | None = None

    @property
    def made(self) -> datetime:
        """When it was begun, in UTC."""
        return made_at(self.id)

    @property
    def folder(self) -> str:
        """Where it lies on a target."""
        return f"{self.project}/{self.app}/{self.id}"

    @property
    def consistency(self) -> Consistency:
        """With the logins off nothing changes from the first store to the last; else only a single store can be of
        one moment. No login keeps an app from writing files."""
        if self.files is not None:
            return Consistency.PER_STORE
        alone = len(self.parts) == 1 and all(part.part.consistent for part in self.parts.values())
        return Consistency.CONSISTENT if alone or self.quiesced else Consistency.PER_STORE

    @property
    def all_parts(self) -> dict[str, StoredPart]:
        """Those of its stores by their names, and the app's files."""
        return {**self.parts, **({FILES: self.files} if self.files is not None else {})}

    @property
    def size(self) -> int:
        return sum(part.size for part in self.all_parts.values())

    @property
    def stored_size(self) -> int:
        return sum(part.stored_size for part in self.all_parts.values())

    @property
    def digest(self) -> str:
        """SHA-256 over everything that the set says of itself."""
        return _digest(self._body())

    def only(self, stores: Sequence[str]) -> BackupSet:
        """The same set as if it had these stores alone."""
        return replace(self, parts={name: part for name, part in self.parts.items() if name in stores})

    def to_json(self) -> str:
        """The text of its ``manifest.json``."""
        body = self._body()
        return json.dumps({**body, "digest": _digest(body)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> BackupSet:
        """The set that a ``manifest.json`` describes. `ArchiveError` when it is damaged, of a newer multidb, or says
        what no multidb has written."""
        try:
            body, version = _of_kind(parse(text, LARGEST), _FORMAT)
            digest = body.pop("digest", None)
            if version <= SET.version and digest != _digest(body):
                raise Unreadable("is damaged: it does not have the digest that it says")
            backup_set = _set_of(validated(SET.upgraded(body, version), _SET))
            if backup_set._body() != body:
                raise Unreadable("says of itself what does not fit together")
        except Unreadable as wrong:
            hint = "use the multidb that made it, or a newer one" if isinstance(wrong, NewerVersion) else _ANOTHER
            raise ArchiveError(str(wrong), where=where, hint=hint) from None
        return backup_set

    def _body(self) -> dict[str, Any]:
        # Without files it is written as ever: earlier versions read it, and marks of earlier sets stay good.
        with_files = self.files is not None or FILES in self.declaration
        return {
            "format": f"{_FORMAT} {SET.version if with_files else 1}",
            "id": self.id,
            "project": self.project,
            "app": self.app,
            "made": self.made.isoformat(),
            "finished": self.finished.isoformat(),
            "multidb": self.multidb,
            "reason": self.reason.value,
            "absent": dict(self.absent),
            "complete": self.complete,
            "consistency": self.consistency.value,
            "quiesced": self.quiesced,
            "encryption": {"scheme": "age", "recipients": list(self.recipients)} if self.recipients else None,
            "declaration": plain(self.declaration),
            "stores": {name: _part_document(part) for name, part in self.parts.items()},
            **({FILES: _part_document(self.files) if self.files is not None else None} if with_files else {}),
        }


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of restoring a set into a scratch place: the ``verified.json`` beside it.

    Args:
        digest: of the set that was tried, so that the mark cannot pass to another.
        failures: by store, what does not fit.
        unverified: by store, why it could not be restored here; its files were read and their checksums fit.
    """

    set_id: str
    digest: str
    when: datetime
    multidb: str
    failures: Mapping[str, str] = field(default_factory=dict)
    unverified: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every store was restored and came out as it was measured."""
        return not self.failures and not self.unverified

    def to_json(self) -> str:
        body = {
            "format": f"{_VERIFIED_FORMAT} {VERIFICATION.version}",
            "set": self.set_id,
            "digest": self.digest,
            "when": self.when.isoformat(),
            "multidb": self.multidb,
            "ok": self.ok,
            "failures": dict(self.failures),
            "unproved": dict(self.unverified),
        }
        return json.dumps(body, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Verification | None:
        """None for what is not one: then the set counts as not verified."""
        try:
            body, version = _of_kind(parse(text, LARGEST), _VERIFIED_FORMAT)
            document = validated(VERIFICATION.upgraded(body, version), _VERIFICATION)
        except Unreadable:
            return None
        verification = cls(
            document.set_id, document.digest, document.when, document.multidb, document.failures, document.unverified
        )
        return verification if verification.ok is document.ok else None


def stored_path(store: str, name: str, *, encrypted: bool) -> str:
    """Where a store's file lies, relative to its set."""
    return f"{store}/{name}.zst" + (".age" if encrypted else "")


def declaration(app: App) -> dict[str, Any]:
    """The app's entry as the manifest could have it; what is a default is left out."""
    entry: dict[str, Any] = {"stores": list(app.stores)}
    if app.tenant_id != app.id:
        entry["tenant_id"] = app.tenant_id
    for store, options in app.stores.items():
        if values := options.model_dump(mode="json", exclude_defaults=True, by_alias=True):
            entry[store] = values
    if app.quota:
        entry["quota"] = {
            store: {"size": f"{quota.size}B", "enforce": str(quota.enforce)} for store, quota in app.quota.items()
        }
    if app.modes:
        entry["mode"] = {store: mode.value for store, mode in app.modes.items()}
    if app.files:
        entry["files"] = files_entry(app.files)
    if app.labels:
        entry["labels"] = dict(app.labels)
    for name, section in (("backup", app.backup), ("deploy", app.deploy)):
        if values := section.model_dump(mode="json", exclude_unset=True):
            entry[name] = values
    return entry


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _part_document(stored: StoredPart) -> dict[str, Any]:
    part = stored.part
    return {
        "format": part.format,
        "server": part.server,
        "client": part.client,
        "consistent": part.consistent,
        "counts": dict(part.measures.counts),
        "fingerprints": dict(part.measures.fingerprints),
        "details": plain(part.details),
        "files": [
            {
                "name": file.name,
                "stored": file.stored,
                "bytes": file.size,
                "plain_sha256": file.plain_sha256,
                "stored_bytes": file.stored_size,
                "sha256": file.sha256,
            }
            for file in stored.files
        ],
    }


def _of_kind(document: object, kind: str) -> tuple[dict[str, Any], int]:
    """The document, when it is one of that kind, and its version."""
    if not isinstance(document, dict) or not isinstance(document.get("format"), str):
        raise Unreadable("is not of a backup set")
    known = re.fullmatch(rf"{kind} ([1-9][0-9]{{0,8}})", document["format"])
    if known is None:
        raise Unreadable(f"is a {printable(document['format'])!r}, not a {kind}")
    return document, int(known[1])


def _reason(value: object) -> Reason:
    if isinstance(value, str) and value in set(Reason):
        return Reason(value)
    raise Unreadable("is no reason for a set")


class FileDocument(Document):
    """One file of a set, as it stands in a manifest."""

    name: _FileName
    stored: str
    size: _Size = Field(alias="bytes")
    plain_sha256: Sha256
    stored_size: _Size = Field(alias="stored_bytes")
    sha256: Sha256


class _PartDocument(Document):
    format: str
    server: str
    client: str
    consistent: bool
    counts: dict[str, Count]
    fingerprints: dict[str, str]
    details: dict[str, JsonValue]
    files: list[FileDocument] = Field(max_length=_MOST_FILES)


class _EncryptionDocument(Document):
    scheme: Literal["age"]
    recipients: list[str] = Field(min_length=1)


class _DeclarationDocument(Document, extra="allow"):
    """The rest of an app's entry is sections, which are for the schema of the manifest when somebody adds it again."""

    __pydantic_extra__: dict[str, dict[str, JsonValue]]
    stores: list[_StoreName]
    files: list[str] | dict[str, str] | None = None
    tenant_id: Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\z")] | None = None


class _SetDocument(Document):
    format: Literal["multidb set 2"]
    id: str
    project: str
    app: AppId
    made: Moment
    finished: Moment
    multidb: str
    reason: Annotated[Reason, BeforeValidator(lambda value: _reason(value))]
    absent: dict[str, str]
    complete: bool
    consistency: str
    quiesced: bool
    encryption: _EncryptionDocument | None
    declaration: dict[str, JsonValue]
    stores: dict[_StoreName, _PartDocument]
    files: _PartDocument | None


class _VerificationDocument(Document):
    format: Literal["multidb verification 1"]
    set_id: str = Field(alias="set")
    digest: Sha256
    when: Moment
    multidb: str
    ok: bool
    failures: dict[str, str]
    unverified: dict[str, str] = Field(alias="unproved")  # the format's word


_SET: Final = TypeAdapter(_SetDocument)
_VERIFICATION: Final = TypeAdapter(_VerificationDocument)
_DECLARATION: Final = TypeAdapter(_DeclarationDocument)


def _set_of(document: _SetDocument) -> BackupSet:
    if not is_set_id(document.id):
        raise Unreadable("cannot be understood: id: is not the id of a set")
    if document.declaration:
        validated(document.declaration, _DECLARATION)
    if FILES in document.stores:
        raise Unreadable(f"cannot be understood: stores: has a store {FILES}")
    encrypted = document.encryption is not None
    return BackupSet(
        id=document.id,
        project=document.project,
        app=document.app,
        finished=document.finished,
        multidb=document.multidb,
        parts={store: _part_of(store, part, encrypted) for store, part in document.stores.items()},
        declaration=document.declaration,
        recipients=tuple(document.encryption.recipients) if document.encryption else (),
        absent=document.absent,
        complete=document.complete,
        quiesced=document.quiesced,
        reason=document.reason,
        files=_part_of(FILES, document.files, encrypted) if document.files is not None else None,
    )


def _part_of(store: str, document: _PartDocument, encrypted: bool) -> StoredPart:
    """A file's place is the one that multidb gives it, whatever the document says: nothing is looked for elsewhere."""
    names = [file.name for file in document.files]
    if len(names) != len(set(names)):
        raise Unreadable(f"cannot be understood: stores.{store}.files: has a file twice")
    for file in document.files:
        if file.stored != stored_path(store, file.name, encrypted=encrypted):
            raise Unreadable(f"says that a file of it lies elsewhere: {printable(file.stored)!r}")
    part = Part(
        format=document.format,
        server=document.server,
        client=document.client,
        consistent=document.consistent,
        measures=Measures(document.counts, document.fingerprints),
        details=document.details,
    )
    files = tuple(
        StoredFile(file.name, file.stored, file.size, file.plain_sha256, file.stored_size, file.sha256)
        for file in document.files
    )
    return StoredPart(part, files)
