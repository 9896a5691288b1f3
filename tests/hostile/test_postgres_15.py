"""A hostile app on Postgres 15."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.postgres_promises import PostgresPromises
from tests.hostile.scenario import Case, Scenario, scenario
from tests.support.postgres_servers import PLATFORM, SUPERUSER

pytestmark = [pytest.mark.server, pytest.mark.rare]
CASES = [Case(15, PLATFORM, "split"), Case(15, SUPERUSER, "simple")]


@pytest.fixture(scope="module", params=CASES, ids=str)
def project(request: pytest.FixtureRequest) -> Iterator[Scenario]:
    with scenario(request.param) as made:
        yield made


class TestPostgres15(PostgresPromises):
    """See there."""
