"""Files of an app through the command line, on a real server: in its sets, back again, cloned, renamed, purged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from tests.support.command import Folder, project_folder

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: filed
runtime: embedded
apps:
  ann: {stores: [redis], files: [uploads/, data/facts.db]}
backup: {to: [sets/], verify: always}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("filed-", MANIFEST) as project:
        (project.path / "uploads").mkdir()
        (project.path / "data").mkdir()
        (project.path / "uploads" / "photo").write_bytes(b"photo")
        with closing(sqlite3.connect(project.path / "data" / "facts.db")) as facts:
            facts.execute("CREATE TABLE facts (id int)")
            facts.commit()
        project.ok("up")
        project.ok("apply", "--yes")
        with redis.Redis.from_url(project.variables("ann")["REDIS_URL"]) as client:
            client.set("greeting", "hello")
        yield project


def test_from_the_first_set_to_the_end_of_the_app(folder: Folder) -> None:
    (one,) = folder.ok("backup", "ann", "--json").json()["sets"]
    assert one["files"]["counts"]["files uploads"] == 1
    assert one["verified"] is True
    assert "files uploads: 1" in folder.ok("backups", "show", "ann").out
    assert "redis, files" in folder.ok("backups", "list").out
    photo = folder.path / "uploads" / "photo"
    photo.write_bytes(b"overwritten")
    refused = folder.run("restore", "ann", "--store", "files")
    assert (refused.code, "app ann has data in uploads" in refused.err) == (3, True)
    done = folder.ok("restore", "ann", "--store", "files", "--replace", "--json").json()
    assert (done["stores"], done["files"]) == ([], ["uploads", "data/facts.db"])
    assert photo.read_bytes() == b"photo"
    folder.ok("clone", "ann", "copy")
    own = folder.path / "apps" / "copy" / "files"
    assert (own / "uploads" / "photo").read_bytes() == b"photo"
    assert (own / "data" / "facts.db").exists()
    folder.ok("restore", "ann", "--as", "other")
    assert (folder.path / "apps" / "other" / "files" / "uploads" / "photo").read_bytes() == b"photo"
    folder.ok("rename-app", "ann", "bea", "--yes-destroy", "ann")
    assert photo.read_bytes() == b"photo"
    assert "files: [uploads/, data/facts.db]" in (folder.path / "multidb.yaml").read_text()
    folder.ok("rename-app", "copy", "third", "--yes-destroy", "copy")
    assert (own / "uploads" / "photo").exists(), "they are of the app still, which has another name"
    folder.ok("remove-app", "other", "--no-backup", "--yes")
    folder.ok("purge", "other", "--yes-destroy", "other")
    assert not (folder.path / "apps" / "other" / "files").exists()
    folder.ok("remove-app", "bea", "--yes")
    assert "files stay: uploads" in folder.ok("purge", "bea", "--yes-destroy", "bea").err
    assert photo.exists()
