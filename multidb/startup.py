"""How a process of the command line begins: quickly, since somebody waits for it (decision 74)."""

from __future__ import annotations

import gc
import os
from typing import Final

__all__ = ["begin", "is_command_line"]

_NO_PLUGINS: Final = ("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it reads every installed distribution for them: 25 ms
_BETWEEN_COLLECTIONS: Final = 50_000  # new objects; of what modules are made of none is ever garbage

_begun = False


def begin() -> None:
    """Sets up the process for the command line. Not for a process that somebody else's code runs in, too."""
    global _begun
    os.environ.setdefault(*_NO_PLUGINS)
    gc.set_threshold(_BETWEEN_COLLECTIONS, *gc.get_threshold()[1:])
    _begun = True


def is_command_line() -> bool:
    """Whether nothing but multidb's command line runs in this process: an app that imports multidb may want more of
    a library than we do."""
    return _begun
