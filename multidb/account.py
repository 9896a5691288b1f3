"""The unprivileged account that a server runs as when multidb itself runs as root.

Postgres refuses to run as root, rightly. An account that is not root often cannot reach what root can (a project under
``/root``, say), so everything here is found out by trying it as that account, not by reading permissions.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multidb.errors import UsageError

__all__ = ["RUN_AS", "Account", "owner_of", "owner_where_root", "unprivileged", "where_able"]

RUN_AS = "MULTIDB_RUN_AS"
_FALLBACK = "nobody"
_TRIAL = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine. `uid` and `gid` go to the operating system, `name` into messages."""

    name: str
    uid: int
    gid: int

    def can_write(self, folder: Path) -> bool:
        """Whether the account can reach the existing `folder` and make files in it."""
        return self.can_run(["/bin/sh", "-c", 'test -w "$1" && cd "$1"', "sh", str(folder)])

    def can_run(self, argv: Sequence[str]) -> bool:
        """Whether the command ends well when the account runs it."""
        try:
            done = subprocess.run(
                argv,
                user=self.uid,
                group=self.gid,
                extra_groups=[],
                cwd="/",
                env={"PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_TRIAL,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def own(self, folder: Path) -> None:
        """Makes `folder` (an existing, real folder) belong to the account, and to it alone."""
        os.chown(folder, self.uid, self.gid, follow_symlinks=False)
        folder.chmod(0o700)


def unprivileged(folder: Path | None = None) -> Account | None:
    """The account to drop to: the one named by ``MULTIDB_RUN_AS``, else the owner of `folder` where that is not root,
    else ``nobody``. None when we are not root.

    Raises:
        UsageError: there is no such account, or it is root again.
    """
    if os.geteuid() != 0:
        return None
    named = os.environ.get(RUN_AS)
    if not named and folder is not None and (owner := owner_where_root(folder)) is not None:
        return owner
    name = named or _FALLBACK
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise UsageError(f"there is no user {name!r}", where=RUN_AS, hint=f"set {RUN_AS} to an ordinary user") from None
    if entry.pw_uid == 0:
        raise UsageError("a server may not run as root", where=RUN_AS, hint=f"set {RUN_AS} to an ordinary user")
    return Account(name, entry.pw_uid, entry.pw_gid)


def owner_where_root(folder: Path) -> Account | None:
    """Whom a server runs as that root starts in somebody's `folder`; None: as whoever runs multidb.

    No server runs as an account that this machine has no entry of.
    """
    owner = owner_of(folder) if os.geteuid() == 0 else None
    return owner if owner is not None and owner.name != str(owner.uid) else None


def where_able(account: Account | None, program: str) -> Account | None:
    """The account, where it can reach and run the program; None: as whoever runs multidb."""
    return account if account is not None and account.can_run([program, "--version"]) else None


def owner_of(folder: Path) -> Account | None:
    """The account that `folder` belongs to; None when that is root."""
    status = folder.stat()
    if status.st_uid == 0:
        return None
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        name = str(status.st_uid)  # an account of another machine or container
    return Account(name, status.st_uid, status.st_gid)
