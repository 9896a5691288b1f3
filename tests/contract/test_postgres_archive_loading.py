"""What a load makes otherwise than a dump says it, so that a database is what it was. On real servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from multidb.model import PlaceKind, TableArchive
from tests.contract.postgres_sets import archive, backed_up, brought_back, quiet
from tests.contract.postgres_site import Site
from tests.support.postgres_servers import Cluster, cluster

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param) as made:
        yield made


@pytest.fixture
def site(served: Cluster) -> Site:
    return Site(served)


def test_rows_that_are_parted_by_the_hash_of_an_enum_are_those_of_their_table(site: Site) -> None:
    app, other = site.app(), site.app()
    site.apply([app, other])
    labels = ", ".join(f"'{chr(number)}'" for number in range(97, 117))
    with site.enter(app) as session:
        for text in (
            f"CREATE TYPE letter AS ENUM ({labels}); CREATE TABLE years (y int, l letter) PARTITION BY LIST (y)",
            "CREATE TABLE year PARTITION OF years FOR VALUES IN (1) PARTITION BY HASH (l)",
            "CREATE TABLE even PARTITION OF year FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
            "CREATE TABLE odd (l letter, gone int, y int)",
            "ALTER TABLE odd DROP COLUMN gone; ALTER TABLE year ATTACH PARTITION odd "
            "FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
            "INSERT INTO years SELECT 1, l FROM unnest(enum_range(NULL::letter)) l",
        ):
            session.execute(text.encode())
    part, files = backed_up(site, app)
    assert part.measures.counts["table public.year"] == 20
    assert not {"table public.even", "table public.odd"} & set(part.measures.counts)
    rows = "SELECT tableoid::regclass::text, l::text FROM years ORDER BY 2"
    before = site.served.sql(rows, database=app.id)
    for target in (app, other):
        brought_back(site, target, part, files)
        after = site.served.sql(rows, database=target.id)
        assert [letter for _, letter in after] == [letter for _, letter in before]
        assert after != before, "each database has its own numbers of labels"

    site.served.sql("DELETE FROM years WHERE l < 'j'", database=app.id)
    with archive(site) as (opened, context):
        assert isinstance(opened, TableArchive)
        place = opened.prepare(PlaceKind.NEW, app, context)
        opened.restore(place, part, files, quiet)
        opened.replace_tables(place, ["public.years"], part)
        opened.discard(place)
    assert [letter for _, letter in site.served.sql(rows, database=app.id)] == [letter for _, letter in before]
