"""The toy of tests/toy: a store of data and a place for states, as a package beside multidb."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.command import REPOSITORY

__all__ = ["install"]


def install(folder: Path) -> Path:
    """Puts it into the folder, as pip installs any package; the folder."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    source = str(REPOSITORY / "tests" / "toy")
    subprocess.run([*pip, "--no-build-isolation", "--target", str(folder), source], check=True)
    return folder
