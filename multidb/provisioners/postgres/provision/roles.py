"""What an app's roles and logins are called, and what a role may be: for all that makes, alters or reads them. Pure."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from multidb.secrets import Alternate

__all__ = ["ATTRIBUTES", "PEER", "POWERS", "READER", "READS", "AppNames", "RoleAttribute", "reader_purpose", "slot_of"]

READER: Final = "reader_"
"""What the purposes of readers' logins begin with."""
PEER: Final = "peer_"
"""What the role of an app by which it reads another app's schema is called by, behind the app's name."""
READS: Final = "reads_"
"""What the role of a reader by table is called by, behind the app's name and before the reader's."""


@dataclass(frozen=True, slots=True)
class RoleAttribute:
    """Something that a role is or is not (https://www.postgresql.org/docs/current/role-attributes.html).

    Args:
        field: its field in `Role`.
        keyword: of CREATE ROLE and ALTER ROLE; with NO before it the role is not.
        column: of pg_roles and pg_authid.
        default: what CREATE ROLE makes of a role for which it is not named.
    """

    field: str
    keyword: str
    column: str
    default: bool = False

    def word(self, has: bool) -> str:
        """The word of CREATE ROLE and ALTER ROLE for it: ``CREATEDB``, ``NOCREATEDB``."""
        return self.keyword if has else f"NO{self.keyword}"


POWERS: Final = (
    RoleAttribute("superuser", "SUPERUSER", "rolsuper"),
    RoleAttribute("createdb", "CREATEDB", "rolcreatedb"),
    RoleAttribute("createrole", "CREATEROLE", "rolcreaterole"),
    RoleAttribute("replication", "REPLICATION", "rolreplication"),
    RoleAttribute("bypassrls", "BYPASSRLS", "rolbypassrls"),
)
"""With any of these a role reaches what is not its own: no role of an app has one."""

ATTRIBUTES: Final = (
    RoleAttribute("login", "LOGIN", "rolcanlogin"),
    RoleAttribute("inherit", "INHERIT", "rolinherit", default=True),
    *POWERS,
)


@dataclass(frozen=True, slots=True)
class AppNames:
    """The names of one app on a server."""

    database: str
    owner: str
    rw: str
    ro: str
    user: str
    readonly: str
    migrate: str
    user_b: str  # the second of each login, which a rotation needs
    readonly_b: str
    migrate_b: str
    over_quota: str  # what an app over its quota becomes instead of the owner
    stand_in: str  # the owner of what a set holds of an app that has no roles here
    test_database: str

    @classmethod
    @functools.lru_cache(maxsize=4096)  # a plan asks for those of each app again and again
    def of(cls, app_id: str) -> AppNames:
        """The names of the app with this id."""
        logins = ("_user", "_readonly", "_migrate", "_user_b", "_readonly_b", "_migrate_b")
        suffixes = ("_owner", "_rw", "_ro", *logins, "_restricted", "__owner", "_test")
        return cls(app_id, *(app_id + suffix for suffix in suffixes))

    def login(self, slot: str) -> str:
        """The login of the slot: ``user``, ``readonly``, ``migrate``, one of `reader_purpose`, or as `slot_of` says."""
        return f"{self.database}_{slot}"

    def peer(self, other: str) -> str:
        """The role by which the app reads what another app has in the same database."""
        return f"{self.database}_{PEER}{other}"

    def reads(self, reader: str) -> str:
        """The role that has the rights of a reader by table."""
        return f"{self.database}_{READS}{reader}"

    @property
    def logins(self) -> frozenset[str]:
        """Every login that the app may have."""
        return frozenset(
            {self.user, self.readonly, self.migrate, self.user_b, self.readonly_b, self.migrate_b},
        )


def reader_purpose(reader: str) -> str:
    """The purpose of the login of a reader."""
    return f"{READER}{reader}"


def slot_of(purpose: str, alternate: Alternate) -> str:
    """The login slot of a purpose (``user``, ``readonly``, ``migrate``): with ``_b`` behind it that of the second."""
    return purpose if alternate is Alternate.FIRST else f"{purpose}_b"
