"""Rotations of apps on several stores, one of which has no credential to replace."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from multidb.alternation import alternations
from multidb.state import ProjectState
from tests.support.command import Folder

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: several
runtime: embedded
rotate: {every: 90d}
servers:
  qdrant: {download: never}
apps:
  eve: {stores: [redis, qdrant], qdrant: {collections: {notes: {size: 4}}}}
  fay: {stores: [qdrant], qdrant: {collections: {notes: {size: 4}}}}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with tempfile.TemporaryDirectory(prefix="several-") as name:
        path = Path(name)
        path.chmod(0o755)
        found = Folder(path, [])
        found.manifest(MANIFEST)
        found.ok("up")
        found.ok("apply", "--yes")
        if "local mode" not in found.ok("show", "fay").out:
            found.run("down")
            pytest.skip("a qdrant on the PATH: it has credentials to replace")
        yield found
        found.run("down")


def test_a_store_without_a_credential_is_named_and_the_others_are_rotated(folder: Folder) -> None:
    done = folder.ok("rotate", "eve", "--json").json()["apps"][0]["stores"]
    assert done["redis"]["phase"] == "prepared"
    assert "nobody is asked for a credential" in done["qdrant"]["left_out"]
    said = folder.ok("rotate", "eve", "--now", "--yes").out
    assert "left as it is: qdrant: local mode is a folder" in said
    refused = folder.run("rotate", "eve", "--store", "qdrant")
    assert (refused.code, "local mode is a folder" in refused.err) == (3, True)
    assert "local mode is a folder" in folder.run("rotate", "fay").err


def test_what_cannot_be_rotated_is_never_due(folder: Folder) -> None:
    """Else it would have the other stores rotated with every run of a timer."""
    state = ProjectState(folder.path)
    with state.change("issued") as issued:
        issued |= dict.fromkeys(("eve", "fay"), "2020-01-01T00:00:00+00:00")
    with state.change("alternation") as section:
        section["eve"]["redis"]["issued"] = dict.fromkeys(("first", "second"), "2020-01-01T00:00:00+00:00")
    health = folder.run("health", "--json").json()["apps"]
    assert health["eve"]["stores"]["redis"]["status"] == "degraded"
    assert "manifest says 90d" in health["eve"]["stores"]["redis"]["message"]
    assert health["eve"]["stores"]["qdrant"]["status"] == "healthy"
    assert health["fay"]["status"] == "healthy"
    for _ in ("prepare", "finish"):
        assert folder.ok("rotate", "--auto", "--after", "1ms", "--json").json()["apps"][0]["step"] is not None
    entry = alternations(ProjectState(folder.path))["eve", "redis"]
    assert not entry.under_way
    assert "Nothing is due" in folder.ok("rotate", "--auto", "--after", "1ms").out
    assert "Nothing is due" in folder.ok("rotate", "--older-than", "90d").out
    assert alternations(ProjectState(folder.path))["eve", "redis"] == entry


def test_show_says_the_age_without_asking(folder: Folder) -> None:
    state = ProjectState(folder.path)
    current = alternations(state)["eve", "redis"].current
    shown = folder.ok("show", "eve")
    assert "credentials on redis: made in the last 24 hours" in shown.out
    assert ("the second of two" in shown.out) is (current == "second")
    with state.change("alternation") as section:
        section["eve"]["redis"]["issued"][current.value] = "2020-01-01T00:00:00+00:00"
    assert "credentials on redis: made 2020-01-01, " in folder.ok("show", "eve").out
    recorded = folder.ok("show", "eve", "--json").json()["credentials"]
    live = folder.ok("show", "eve", "--live", "--json").json()["credentials"]
    assert recorded["redis"] == live["redis"]
    assert recorded["redis"]["issued_at"] == "2020-01-01T00:00:00+00:00"
    with state.change("alternation") as section:
        section["eve"]["redis"]["phase"] = "half"
    assert folder.run("show", "eve").code == 2, "whoever reads it says what is wrong"
