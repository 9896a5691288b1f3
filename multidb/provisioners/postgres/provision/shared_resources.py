"""What there is on a server for apps that share a database, a schema each, as values. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

from multidb.model import Resource
from multidb.provisioners.postgres.provision.marks import parse_mark
from multidb.provisioners.postgres.provision.resources import PUBLIC

__all__ = [
    "SHARED",
    "VACANT",
    "Schema",
    "SharedAccess",
    "SharedDatabase",
    "SharedInterior",
    "is_shared",
    "unfinished_name",
]

SHARED: Final = "shared"
"""What the mark of a shared database says behind the database's own name."""
VACANT: Final = "vacant"
"""The same, once the last app that had a schema there was purged."""


def is_shared(comment: str | None) -> bool:
    """Whether it is the mark of a database that apps of some project share, or have shared."""
    return parse_mark(comment)[0] is not None and (comment or "").partition(" ")[2] in (SHARED, VACANT)


def unfinished_name(database: str) -> str:
    """What a shared database is called until it is closed to everybody and has its mark."""
    return f"multidb_shared_{database}"


@dataclass(frozen=True, kw_only=True)
class SharedDatabase(Resource):
    """A database in which several apps have a schema each. It is no app's: its mark names the database itself."""

    kind: ClassVar[str] = "shared database"
    rank: ClassVar[int] = 40
    marked: ClassVar[bool] = True

    belongs_to: str
    connection_limit: int = -1
    template: bool = False
    allow_connections: bool = True
    vacant: bool = False  # its last app was purged
    finished: bool = True  # it is there under its name; a new one gets it in the last step
    strangers: frozenset[tuple[str, str]] = frozenset()  # (grantee, privilege) of who is of no app of the project


@dataclass(frozen=True, kw_only=True)
class SharedInterior(Resource):
    """What of the inside of a shared database is no app's: nobody makes anything but in a schema of its own."""

    kind: ClassVar[str] = "inside of shared database"
    rank: ClassVar[int] = 52

    belongs_to: str | None  # the schema of extensions; None: there is none
    extensions: frozenset[tuple[str, str]] = frozenset({(PUBLIC, "USAGE")})
    """(grantee, privilege) on that schema, beside its owner's."""
    public: frozenset[tuple[str, str]] = frozenset()  # the same on schema public
    large_objects: frozenset[tuple[str, str]] | None = None
    """As `Interior.large_objects`: nobody's, since none would be in a set of a schema."""


@dataclass(frozen=True, kw_only=True)
class SharedAccess(Resource):
    """What an app's roles may do on a database that it shares, as a whole."""

    kind: ClassVar[str] = "access to shared database"
    rank: ClassVar[int] = 51

    database: str
    privileges: frozenset[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Schema(Resource):
    """An app's schema in a shared database. It belongs to the platform's admin: the app cannot let others in."""

    kind: ClassVar[str] = "schema"
    rank: ClassVar[int] = 55
    marked: ClassVar[bool] = True

    database: str = field(compare=False)
    schema: str = field(compare=False)
    belongs_to: str
