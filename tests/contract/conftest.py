"""Servers that are started once for all modules that use them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.case_neo4j import community
from tests.support.case import RealServer


@pytest.fixture(scope="package")  # gone before the folders that come after this one
def neo4j_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealServer, RealServer]]:
    """The own servers of the apps lernmi and devao, as the embedded runtime makes them. A test that needs them empty
    empties them first."""
    with (
        community(tmp_path_factory.mktemp("lernmi"), "lernmi") as first,
        community(tmp_path_factory.mktemp("devao"), "devao") as second,
    ):
        yield first, second
