"""The command line: typer, one module per command, and the one place where errors become text and exit codes.

A command's module is imported when the command is run, so `multidb --help` reads no driver and no model; and a shell
that asks what could be typed next is answered without typer.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from io import TextIOWrapper
from typing import NoReturn

try:
    from multidb import DISTRIBUTION  # noqa: F401
except ImportError:  # somebody else's package of this name lies over ours, or has taken a file of ours along
    sys.stderr.write(
        "Error: the module multidb that Python finds is not this tool's\n"
        "  pip uninstall multidb, then: pip install --force-reinstall multidb-cli\n"
    )
    sys.exit(2)

__all__ = ["main"]

_INTERRUPTED, _TERMINATED = 130, 143  # as shells have it: 128 and the number of SIGINT, of SIGTERM
_NEVER_OTHERS = 0o002  # whatever the umask: nothing that we make is written by all accounts of the machine
_COMPLETE = "_MULTIDB_COMPLETE"  # what a shell's script sets that asks what could be typed next


class _StandardOutput(TextIOWrapper):
    """Standard output that knows whether it has failed. What a terminal has no letter for is spelled, as on stderr."""

    lost = False

    def __init__(self, real: TextIOWrapper) -> None:
        super().__init__(
            real.buffer, encoding=real.encoding, errors="backslashreplace", line_buffering=real.line_buffering
        )
        self._real = real  # it would close what is under it with its own end

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self.lost = True
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self.lost = True
            raise


def main() -> NoReturn:
    """Runs the command line and exits with its code. Never shows a traceback unless MULTIDB_DEBUG is set."""
    if _COMPLETE in os.environ:
        from multidb.cli.candidates import respond

        sys.exit(respond(os.environ[_COMPLETE], os.environ))
    from multidb import startup

    startup.begin()
    from multidb.cli.root import app

    arguments = sys.argv[1:]
    os.umask(os.umask(0o077) | _NEVER_OTHERS)
    _open_standard_files()
    _end_on_sigterm()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout = _StandardOutput(sys.stdout)
    try:
        code = app(args=arguments, prog_name="multidb", standalone_mode=False)
        if code == _INTERRUPTED:  # typer makes this of a KeyboardInterrupt
            raise KeyboardInterrupt
        _flush()
    except Exception as error:
        code = _failed(error, arguments)
    except KeyboardInterrupt:
        code = _interrupted(arguments)
    sys.exit(code if isinstance(code, int) else 0)


class _Terminated(KeyboardInterrupt):
    """SIGTERM has come: what a Ctrl-C ends, and gives back, is ended and given back."""

    came = False


def _end_on_sigterm() -> None:
    """Has SIGTERM, by which CI and supervisors end a run, be as Ctrl-C: locks are given back, what was begun is put
    right. By default it would kill us, and leave a lease to run out."""

    def end(*_: object) -> NoReturn:
        _Terminated.came = True
        raise _Terminated

    ours = threading.current_thread() is threading.main_thread()
    if ours and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)


def _open_standard_files() -> None:
    """Opens what the caller has closed (``>&-``), so that no file of ours gets its number, and somebody's output."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _failed(error: Exception, arguments: list[str]) -> int:
    if os.environ.get("MULTIDB_DEBUG"):
        raise error
    if isinstance(error, BrokenPipeError):  # `multidb plan | head`
        _close_output()
        return 0
    from multidb.cli.output import report_error
    from multidb.errors import MachineError

    shown = MachineError.of(error) or error
    if _is_lost():
        if isinstance(shown, MachineError):
            shown.where = "standard output"
        return _report_on_stderr(shown)
    try:
        code = report_error(shown, arguments)
    except OSError:
        return _report_on_stderr(shown)
    return _report_on_stderr(shown) if _is_lost() else code


def _report_on_stderr(error: Exception) -> int:
    """A document would be lost; stderr may be read."""
    from multidb.cli.output import report_error
    from multidb.errors import MultidbError

    _close_output()
    try:
        return report_error(error, [])
    except OSError:
        return error.exit_code if isinstance(error, MultidbError) else 1


def _is_lost() -> bool:
    """Whether standard output takes no more, such as a file on a full disk."""
    try:
        _flush()
    except OSError:
        return True
    return isinstance(sys.stdout, _StandardOutput) and sys.stdout.lost


def _close_output() -> None:
    """What is still to be written goes nowhere: at the end of the process it would be tried once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupted(arguments: list[str]) -> int:
    from multidb.cli.output import report_interrupt

    report_interrupt(arguments)
    return _TERMINATED if _Terminated.came else _INTERRUPTED


def _flush() -> None:
    sys.stdout.flush()
