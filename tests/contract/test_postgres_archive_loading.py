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


def test_views_are_filled_in_whatever_order_they_need_and_one_that_cannot_be_stops_nothing(site: Site) -> None:
    app, said = site.app(), list[str]()
    site.apply([app])
    with site.enter(app) as session:
        for text in (
            "CREATE TABLE t AS SELECT generate_series(1, 5) AS n; CREATE MATERIALIZED VIEW z AS SELECT sum(n) FROM t",
            "CREATE FUNCTION total() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT sum FROM public.z); END'",
            "CREATE MATERIALIZED VIEW a AS SELECT total()",
            "CREATE MATERIALIZED VIEW parts AS SELECT 10 / n FROM t; INSERT INTO t VALUES (0)",
            "CREATE MATERIALIZED VIEW never AS SELECT 1 WITH NO DATA",
        ):
            session.execute(text.encode())
    part, files = backed_up(site, app)
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.NEW, app, context)
        opened.restore(place, part, files, lambda _, message, *__: said.append(message))
        assert opened.measure(place) == part.measures
        opened.replace(place, context)
    assert [each for each in said if "view" in each] == [
        "materialized view public.parts is there without rows: division by zero"
    ]
    filled = "SELECT relname::text FROM pg_class WHERE relkind = 'm' AND relispopulated ORDER BY 1"
    assert site.served.sql(filled, database=app.id) == [("a",), ("z",)]
    assert site.served.sql("SELECT total FROM a", database=app.id) == [(15,)]


def test_a_table_is_read_whose_index_calls_what_finds_names_in_the_app_alone() -> None:
    with cluster(15) as served:  # later versions make no such index
        site = Site(served)
        app, other = site.app(), site.app()
        site.apply([app, other])
        with site.enter(app) as session:
            for text in (
                "CREATE FUNCTION plain(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)'",
                "CREATE FUNCTION plainer(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT plain($1)'",
                "CREATE FUNCTION concat(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT NULL::text'",
                "CREATE TABLE posts (raw text); CREATE INDEX by_plain ON posts (plainer(raw))",
                "INSERT INTO posts VALUES ('A'), ('B')",
            ):
                session.execute(text.encode())
        part, files = backed_up(site, app)
        for target in (app, other):
            brought_back(site, target, part, files)
        with site.enter(app) as session:
            session.execute("UPDATE posts SET raw = 'C' WHERE raw = 'A'")
        assert backed_up(site, app)[0].measures.fingerprints != part.measures.fingerprints
        with archive(site) as (opened, context):
            assert isinstance(opened, TableArchive)
            place = opened.prepare(PlaceKind.NEW, app, context)
            opened.restore(place, part, files, quiet)
            opened.replace_tables(place, ["public.posts"], part)
            opened.discard(place)
        assert site.served.sql("SELECT raw FROM posts ORDER BY 1", database=app.id) == [("A",), ("B",)]
