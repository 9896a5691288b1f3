"""A hostile app's database as the source of an import: nothing that it has made climbs, neither there nor here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.postgres_promises import keeps_its_promises, sent_nothing_else
from tests.hostile.scenario import Case, Scenario, scenario
from tests.hostile.steps import IMPORTS, Step
from tests.support.postgres_servers import SUPERUSER

pytestmark = [pytest.mark.server, pytest.mark.slow]
CASES = [Case(18, SUPERUSER, "simple"), pytest.param(Case(15, SUPERUSER, "simple"), marks=pytest.mark.rare)]


@pytest.fixture(scope="module", params=CASES, ids=str)
def project(request: pytest.FixtureRequest) -> Iterator[Scenario]:
    with scenario(request.param) as made:
        yield made


@pytest.mark.parametrize("step", IMPORTS, ids=lambda step: step.name)
def test_command(project: Scenario, step: Step) -> None:
    keeps_its_promises(project, step)


def test_nobody_with_power_sent_anything_else(project: Scenario) -> None:
    sent_nothing_else(project)
