"""A hostile app on Postgres 18."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.postgres_promises import PostgresPromises
from tests.hostile.scenario import Case, Scenario, scenario
from tests.support.postgres_servers import PLATFORM, SUPERUSER

pytestmark = [pytest.mark.server, pytest.mark.slow]
CASES = [Case(18, SUPERUSER, "simple"), pytest.param(Case(18, PLATFORM, "split"), marks=pytest.mark.rare)]


@pytest.fixture(scope="module", params=CASES, ids=str)
def project(request: pytest.FixtureRequest) -> Iterator[Scenario]:
    with scenario(request.param) as made:
        yield made


class TestPostgres18(PostgresPromises):
    """See there."""
