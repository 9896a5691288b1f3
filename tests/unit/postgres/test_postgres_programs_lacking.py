"""A machine that has no more files or processes is not one without pg_dump."""

from __future__ import annotations

import errno
import subprocess

import pytest

from multidb.provisioners.postgres.backup import programs


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM])
def test_what_the_machine_lacks_is_not_said_of_the_program(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object, **__: object) -> None:
        raise OSError(number, "no more")

    monkeypatch.setattr(subprocess, "run", lacking)
    with pytest.raises(OSError, match="no more"):
        programs.program_at("/nowhere/of/no/more/pg_dump")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENOEXEC])
def test_a_program_that_is_none_is_none(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise OSError(number, "no such program")

    monkeypatch.setattr(subprocess, "run", absent)
    assert programs.program_at(f"/nowhere/{number}/pg_dump") is None
