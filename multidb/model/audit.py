"""What is found when the walls between apps are tried, and when a server is searched for holes in them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Hole", "Known", "Outcome", "Probe", "Remark", "Search", "Searched", "Unread"]


class Outcome(StrEnum):
    """What came of an attempt."""

    REFUSED = "refused"  # the server said no, in so many words
    ALLOWED = "allowed"  # it worked
    BROKEN = "broken"  # the probe itself does not work (its control failed), so it proves nothing


@dataclass(frozen=True, slots=True)
class Probe:
    """One attempt by `app`, with its own credentials, against `target`.

    A probe is harmless even when it succeeds: what would change or destroy something is asked for in a way that the
    server decides on and does not carry out (a transaction rolled back, a dry run, an empty change).

    Args:
        name: the act, in a word or two of the store (``connect``, ``SELECT``, ``read points``).
        target: the other app; None for an act that no app may do at all (``CREATE ROLE``).
        expected: what the isolation that multidb claims for this server promises. `ALLOWED` only where
            docs/security.md says that there is no wall.
        got: what came of it. `BROKEN` when the same act on the app's own things, its positive control, did not work.
        detail: what the server said, shortened, no secret in it.
    """

    app: str
    target: str | None
    name: str
    expected: Outcome
    got: Outcome
    detail: str = ""

    @property
    def breach(self) -> bool:
        """Whether something is open that is promised to be shut."""
        return self.got is Outcome.ALLOWED and self.expected is Outcome.REFUSED

    @property
    def wall(self) -> str:
        """The app whose wall it is about: the target's; that of `app` itself for what no app may do at all."""
        return self.target or self.app

    @property
    def ok(self) -> bool:
        """Whether it came out as promised, or tighter."""
        return self.got is self.expected or self.got is Outcome.REFUSED


@dataclass(frozen=True, slots=True)
class Hole:
    """Something on a server that lets an app, or anybody, through a wall: found in its catalogs, not by trying.

    Args:
        name: what kind of hole, a few words (``connect for everybody``).
        subject: where: ``database lernmi``, ``acl user old_worker``.
        message: what it means for whom, one sentence.
        closes: the statements that close it, as an operator could paste them.
        app: the app whose wall it is in; None: the server's own.
        account: the one login, role, user or token that it is for; None: everybody, or a thing of the server. Where the
            manifest names it under ``known``, the audit shows what it could do, and that is no hole.
    """

    name: str
    subject: str
    message: str
    closes: tuple[str, ...]
    app: str | None = None
    account: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """An account that the manifest names under ``known``, and what would be a hole if it did not; nothing of an account
    that does no harm, or that the server does not have."""

    account: str
    could: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that looks like what multidb makes, or stands beside it, and carries no mark: nobody's wall is open by
    it, and no command ever touches it; a person should know that it is there.

    Args:
        subject: what and where, as of a `Hole`.
        message: why it is told, one sentence.
        app: the app whose it may be; None: nobody's.
    """

    subject: str
    message: str
    app: str | None = None


@dataclass(frozen=True, slots=True)
class Searched:
    """A catalog that was searched for holes.

    Args:
        catalog: by the server's own name (``pg_roles``, ``ACL LIST``), and inside what, where there are several.
        objects: how many of its entries were looked at. 0 of what should be there proves nothing.
        looked_for: what would be a hole there.
    """

    catalog: str
    objects: int
    looked_for: str


@dataclass(frozen=True, slots=True)
class Unread:
    """Something that a search has to look at and may not read, or could not: nothing is proved of it.

    Args:
        catalog: as of `Searched`, or the place that could not be entered.
        why: what would be told by it, and why it is not.
        app: the app of which nothing is proved then; None: it is the server's own, and the admin has no right to it.
    """

    catalog: str
    why: str
    app: str | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """What a search of one server's catalogs has found, and which ones were searched, so that nothing found means
    something."""

    holes: tuple[Hole, ...] = ()
    catalogs: tuple[Searched, ...] = ()
    remarks: tuple[Remark, ...] = ()
    known: tuple[Known, ...] = ()  # filled in by the audit, of the holes that are for one of `StoreContext.known`
    unread: tuple[Unread, ...] = ()
