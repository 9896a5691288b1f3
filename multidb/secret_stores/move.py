"""Secrets on their way from one secret store to another, so that a run that is cut off anywhere can be run again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from multidb.errors import Conflict, UsageError
from multidb.model.secret_options import SecretStoreSpec
from multidb.secret_stores import open_secret_store
from multidb.secrets import Secret, SecretRef, SecretStore, generate

__all__ = ["SecretMove"]

_MARK: Final = SecretRef("@multidb-move", "move", "mark")  # of no server


class SecretMove:
    """A move of every secret of the project in the folder `root`. Each step reads anew what is there.

    Raises:
        UsageError: both are the same place.
    """

    def __init__(self, old: SecretStoreSpec, new: SecretStoreSpec, root: Path) -> None:
        self._specs, self._root = (old, new), root
        self._refuse_same()

    def names(self) -> list[SecretRef]:
        """The secrets that are still in the old store."""
        return sorted(self._stores()[0].refs())

    def copy(self) -> None:
        """Puts into the new store what it has not, and reads everything back.

        Raises:
            Conflict: it has another value of one, and nothing was put; or one did not come back as it was put.
        """
        old, new = self._stores()
        missing: dict[SecretRef, Secret] = {}
        for ref in sorted(old.refs()):
            value, there = old.get(ref), new.get(ref)
            if value is not None and there is None:
                missing[ref] = value
            elif value != there:
                raise Conflict(
                    f"another value of {ref} is there already, and nothing was moved",
                    where=str(self._specs[1]),
                    hint="it is of another project, or of an older move: give another path or file, or delete it there",
                )
        if not missing:
            return
        new.put(missing)
        _, again = self._stores()
        if wrong := [str(ref) for ref, value in missing.items() if again.get(ref) != value]:
            raise Conflict(
                f"{', '.join(wrong)} did not come back as put there, and nothing was deleted",
                where=str(self._specs[1]),
                hint="run the command again; where it stays so, give another place",
            )

    def delete(self) -> list[str]:
        """Deletes in the old store what the new one has with the same value.

        Returns:
            The names of what is left in the old one.
        """
        old, new = self._stores()
        refs = old.refs()
        copied = [ref for ref in refs if (value := old.get(ref)) is not None and value == new.get(ref)]
        old.delete(copied)
        return sorted(str(ref) for ref in refs - set(copied))

    def _stores(self) -> tuple[SecretStore, SecretStore]:
        old, new = (open_secret_store(spec, self._root) for spec in self._specs)
        return old, new

    def _refuse_same(self) -> None:
        """By a mark in the old store that is looked for in the new one: one place can have two addresses, and what is
        deleted in one would be gone in both."""
        old, new = self._stores()
        old.put({_MARK: generate()})
        try:
            same = new.get(_MARK) is not None
        finally:
            old.delete([_MARK])
        if same:
            raise UsageError(
                f"is where secrets are kept already: {self._specs[0]}",
                where=str(self._specs[1]),
                hint="for other recipients: write them into the manifest, then multidb secrets rekey",
            )
