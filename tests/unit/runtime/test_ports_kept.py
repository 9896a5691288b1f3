"""The ports that were chosen for a server, and that it gives back when it goes."""

from __future__ import annotations

from pathlib import Path

from multidb.runtime.hosted import forget_ports
from multidb.state import ProjectState


def test_a_server_that_goes_gives_all_of_its_ports_back_and_no_others(tmp_path: Path) -> None:
    state = ProjectState(tmp_path)
    with state.change("ports") as kept:
        kept |= {"qdrant": 6333, "qdrant.grpc_port": 6334, "qdrant-ann": 6335, "qdrant-ann.grpc_port": 6336}

    forget_ports(state, "qdrant")

    assert state.read("ports") == {"qdrant-ann": 6335, "qdrant-ann.grpc_port": 6336}
