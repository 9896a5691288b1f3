"""What a CI job waits for, in an empty folder on a machine that has all that is fetched or made once."""

from __future__ import annotations

import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from multidb.model import unwatched
from multidb.provisioners.neo4j.hosting import jars, program
from multidb.provisioners.neo4j.provision.options import ServerOptions
from tests.support.command import Folder

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: job
runtime: embedded
apps:
  ann: {stores: [postgres, neo4j, redis]}
"""


@pytest.mark.rare
def test_servers_start_side_by_side_and_nothing_is_made_twice() -> None:
    with tempfile.TemporaryDirectory(prefix="job-") as name:
        folder = Folder(Path(name), [])
        folder.path.chmod(0o755)  # as root, Postgres runs as another user, who has to get in
        folder.manifest(MANIFEST)
        try:
            _warm()
            up = folder.ok("up", "--json")
            applied = folder.ok("apply", "--yes")
            assert "preparing" not in up.err, "Neo4j's classes are kept from the first start on this machine"
            assert "fetching" not in up.err.lower()
            processes = {row["store"]: psutil.Process(row["pid"]) for row in up.json()["servers"]}
            began = {store: process.create_time() for store, process in processes.items()}
            assert any(word.startswith("-XX:AOTCache=") for word in processes["neo4j"].cmdline())
            log = (folder.path / ".multidb/servers/neo4j-ann/logs/neo4j.log").read_text()
            (stamp,) = re.findall(r"^(\S+ \S+)\+0000 INFO  Started\.$", log, re.MULTILINE)
            ready = datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp()
            assert began["redis"] < ready, "the quick one has not waited for the slow one"
            assert (folder.path / "apps/ann/.env").exists(), applied.err
            assert folder.ok("plan", "--check").code == 0
        finally:
            folder.run("down")


def _warm() -> None:
    """Has this machine know what it needs for the first server only."""
    java = program.find_java()
    assert java is not None
    program.train(java, jars.fetch_neo4j(unwatched, ServerOptions().version), unwatched)
