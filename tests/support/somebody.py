"""Work done as an account of the machine that is not root."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

SOMEBODY = 12345


def as_somebody(work: Callable[[], object], folder: Path) -> bool:
    """Whether it ends well in a process of an account that may enter `folder`, which belongs to pytest; as root. What
    goes wrong is on stderr."""
    for above in (folder, *folder.parents):
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            os.setgroups([])
            os.setgid(SOMEBODY)
            os.setuid(SOMEBODY)
            if not os.access(tempfile.gettempdir(), os.W_OK):  # a folder of whoever runs the tests, named by TMPDIR
                tempfile.tempdir = str(folder)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
