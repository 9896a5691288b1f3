"""One folder of data in the place of another: how a scratch server's becomes its server's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

__all__ = ["DATA", "REPLACED", "settle"]

DATA: Final = "data"
"""In a server's folder, what a scratch server's can take the place of."""
REPLACED: Final = "data.replaced"
"""Where it is meanwhile."""


def settle(folder: Path) -> None:
    """Finishes an exchange of data in a server's folder that was interrupted: what was moved away comes back when
    nothing has taken its place, and goes when something has."""
    data, replaced = folder / DATA, folder / REPLACED
    if not replaced.exists():
        return
    if data.exists():
        shutil.rmtree(replaced)
    else:
        replaced.rename(data)
