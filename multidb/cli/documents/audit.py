"""What is said of an audit."""

from __future__ import annotations

from pydantic import AwareDatetime

from multidb.cli.documents.envelope import AppId, DocumentPart, ErrorDocument, ResultDocument, ServerName, StoreName
from multidb.model import Isolation, Outcome

__all__ = [
    "AuditDocument",
    "AuditedServerDocument",
    "CatalogDocument",
    "HoleDocument",
    "KnownDocument",
    "NotAskedDocument",
    "PairsDocument",
    "ProbeDocument",
    "RemarkDocument",
    "UnreadDocument",
    "UntriedDocument",
]


class ProbeDocument(DocumentPart):
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


class HoleDocument(DocumentPart):
    """What an app could do, by what a server's catalogs say."""

    store: StoreName
    server: ServerName
    app: str | None
    hole: str
    subject: str
    message: str
    closes: list[str]
    """Statements that close it."""


class CatalogDocument(DocumentPart):
    """One catalog of a server that was searched for holes."""

    catalog: str
    objects: int
    looked_for: str


class AuditedServerDocument(DocumentPart):
    """One server that was searched."""

    server: ServerName
    store: StoreName
    version: str
    searched: list[CatalogDocument]
    error: ErrorDocument | None
    skipped: str | None


class PairsDocument(DocumentPart):
    """Which pairs of apps were tried on a store."""

    tried: int
    possible: int
    sampled: bool
    """Whether some were left out."""
    seed: int | None
    waiting: int
    """How many apps tried nothing this time."""


class RemarkDocument(DocumentPart):
    """What an auditor may want to know."""

    server: ServerName
    app: str | None
    subject: str
    message: str


class UnreadDocument(DocumentPart):
    """A catalog that could not be read, so that nothing is proved of it."""

    server: ServerName
    app: str | None
    catalog: str
    why: str


class KnownDocument(DocumentPart):
    """What an account could do that the manifest names as known."""

    server: ServerName
    account: str
    could: list[str]


class UntriedDocument(DocumentPart):
    """A pair that could not be tried."""

    store: StoreName
    app: AppId
    against: str | None
    why: str


class NotAskedDocument(ErrorDocument):
    """Why a server or an app could not be asked."""

    subject: str


class AuditDocument(ResultDocument):
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
