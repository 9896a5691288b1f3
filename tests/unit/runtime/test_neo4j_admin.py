"""Neo4j's own tool: what it is given, what its failures become, and what is left of a load that failed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from multidb.errors import ArchiveError, MultidbError, ServerError, ServerSlow
from multidb.provisioners.neo4j.hosting.admin_tool import Neo4jAdmin, clear_half_loaded

SAID = """\
2026-11-21 20:34:29.302+0000 INFO  [o.n.c.d.DumpCommand] Starting
WARNING: sun.misc.Unsafe::putLong will be removed in a future release
Files: 57/57, data: 100.0%
-----------------------------------------------------
Command Failed
Unable to load database: {why}

-----------------------------------------------------
"""


def tool(folder: Path, script: str, progress_timeout: float = 600) -> Neo4jAdmin:
    program = folder / "tool"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Neo4jAdmin([str(program)], folder, "neo4j-ann", progress_timeout)


def test_it_works_on_the_servers_folder_and_knows_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "not to be seen")
    stream = io.BytesIO()
    tool(tmp_path, 'echo "$@"; echo "$NEO4J_HOME $NEO4J_CONF"; env').dump("neo4j", stream)

    arguments, folders, *environment = stream.getvalue().decode().splitlines()
    assert arguments == "database dump --to-stdout neo4j"
    assert folders == f"{tmp_path} {tmp_path}/conf"
    assert f"MULTIDB_SERVER={tmp_path}" in environment, "else a killed run's is not found again"
    assert "not to be seen" not in "".join(environment)


def test_what_is_loaded_arrives_whole_and_leaves_no_note(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    tool(tmp_path, 'cat >"$NEO4J_HOME/got"; echo "$@" >"$NEO4J_HOME/said"').load("neo4j", io.BytesIO(content))

    assert (tmp_path / "got").read_bytes() == content
    assert (tmp_path / "said").read_text() == "database load --from-stdin --overwrite-destination neo4j\n"
    assert not (tmp_path / "loading").exists()


@pytest.mark.parametrize("reads", ["", "head -c 10 >/dev/null;", "cat >/dev/null;"])
@pytest.mark.parametrize(
    ("why", "kind", "told"),
    [
        ("Truncated source", ArchiveError, "neo4j-admin load failed: Unable to load database: Truncated source"),
        ("IOException: No space left on device", ServerError, "neo4j-admin load: no space left"),
    ],
)
def test_a_failure_is_told_in_its_last_words_however_much_it_has_read(
    tmp_path: Path, reads: str, why: str, kind: type[MultidbError], told: str
) -> None:
    (tmp_path / "words").write_text(SAID.format(why=why))
    for folder in ("databases/neo4j", "transactions/neo4j", "databases/system"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "store").touch()

    with pytest.raises(kind) as raised:
        tool(tmp_path, f'{reads} cat "$NEO4J_HOME/words" >&2; exit 1').load("neo4j", io.BytesIO(bytes(5_000_000)))

    assert (raised.value.message, raised.value.where) == (told, "server neo4j-ann")
    for _ in range(2):
        clear_half_loaded(tmp_path)
    assert [path.parent.name for path in tmp_path.glob("data/*/*/store")] == ["system"]


def test_it_ends_with_whom_it_works_for(tmp_path: Path) -> None:
    class Damaged(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise ArchiveError("its checksum does not fit")
            return super().read(size)

    with pytest.raises(ArchiveError, match="its checksum does not fit"):
        tool(tmp_path, "exec sleep 600").load("neo4j", Damaged(b"less than a buffer"))
    assert (tmp_path / "loading").read_text() == "neo4j", "what the next start has to take away"


def test_a_dump_that_failed_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="neo4j-admin dump failed: it does not say why"):
        tool(tmp_path, "echo begun; exit 3").dump("neo4j", io.BytesIO())


@pytest.mark.parametrize("verb", ["dump", "load"])
def test_one_that_stands_still_is_ended(tmp_path: Path, verb: str) -> None:
    still = tool(tmp_path, "[ $2 = dump ] && echo begun; sleep 600", progress_timeout=1)
    with pytest.raises(ServerSlow, match="neo4j-admin has made no progress") as caught:
        still.dump("neo4j", io.BytesIO()) if verb == "dump" else still.load("neo4j", io.BytesIO(bytes(1 << 20)))
    assert caught.value.where == "server neo4j-ann"


def test_one_that_is_slow_and_works_is_not(tmp_path: Path) -> None:
    stream = io.BytesIO()
    slow = "for i in 1 2 3 4 5 6; do echo part; sleep 0.5; done; "
    slow += "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; echo end"
    tool(tmp_path, slow, progress_timeout=2.5).dump("neo4j", stream)
    assert stream.getvalue().endswith(b"end\n")
