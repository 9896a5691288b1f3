"""`multidb rotate --certificates` as far as no engine is needed: who is asked, and what does not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Folder

MANIFEST = """\
version: 1
project: certified
runtime: {runtime}
deploy: {{tls: {tls}}}
apps:
  ann: {{stores: [postgres, redis]}}
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rotate", "--authority"), "--authority is of certificates"),
        (("rotate", "ann", "--certificates"), "is about servers"),
        (("rotate", "--certificates", "--finish"), "is one step"),
        (("rotate", "--certificates", "--admin"), "is one step"),
        (("rotate", "--certificates", "--authority", "--store", "redis"), "every server's"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    folder = Folder(tmp_path, [])
    folder.manifest(MANIFEST.format(runtime="compose", tls="own"))
    done = folder.run(*arguments)
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize(("runtime", "tls"), [("compose", "none"), ("embedded", "none")])
def test_where_multidb_makes_none_it_is_refused(tmp_path: Path, runtime: str, tls: str) -> None:
    folder = Folder(tmp_path, [])
    folder.manifest(MANIFEST.format(runtime=runtime, tls=tls))
    done = folder.run("rotate", "--certificates", "--yes")
    assert done.code == 3
    assert "multidb makes no certificates here" in done.err
    assert "deploy.tls" in done.err
