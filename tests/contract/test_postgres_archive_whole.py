"""What an app's database is beside its rows comes back, or is named before anything is done: on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from multidb.errors import ArchiveError, WrongVersion
from multidb.model import App, Part, PlaceKind
from multidb.provisioners.postgres.locales import Locale
from tests.contract.postgres_servers import PLATFORM, SUPERUSER, Cluster, cluster
from tests.contract.test_postgres_archive import Files, archive, backed_up, quiet
from tests.contract.test_postgres_server import Site

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=[18, 15])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param, max_prepared_transactions="5") as made:
        yield made


@pytest.fixture(params=[SUPERUSER, PLATFORM])
def site(served: Cluster, request: pytest.FixtureRequest) -> Site:
    return Site(served, request.param)


def brought_back(site: Site, app: App, part: Part, files: Files) -> None:
    """All of a set in the place of what the app has."""
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.NEW, app, context)
        opened.restore(place, part, files, quiet)
        assert opened.measure(place) == part.measures
        opened.replace(place, context)
    site.apply([app])
    assert not site.changes([app])


# --- encoding and locale ---

_KEPT = """SELECT pg_encoding_to_char(encoding), datcollate, datctype, to_jsonb(d) ->> 'datlocprovider',
  coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'), to_jsonb(d) ->> 'daticurules'
FROM pg_database d WHERE datname = """


@pytest.mark.parametrize(
    "made_with",
    [
        "ENCODING 'LATIN1' LOCALE 'C'",
        "ENCODING 'LATIN9' LC_COLLATE 'C' LC_CTYPE 'POSIX'",
        "ENCODING 'EUC_JP' LOCALE 'C'",
        "ENCODING 'SQL_ASCII' LOCALE 'C'",
        "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk'",
        "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en' ICU_RULES '& b < a'",
        "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'",
    ],
)
def test_a_database_is_made_again_in_its_encoding_and_its_locale(site: Site, made_with: str) -> None:
    app, other = site.app(), site.app()
    major = int(site.served.sql("SHOW server_version_num")[0][0]) // 10000
    if ("BUILTIN" in made_with and major < 17) or ("RULES" in made_with and major < 16):
        pytest.skip("this server has no such thing")
    try:
        site.served.sql(f"CREATE DATABASE {app.id} TEMPLATE template0 {made_with} OWNER {site.admin}")
    except psycopg.errors.FeatureNotSupported as reason:
        pytest.skip(str(reason))  # the wheel's server was built without ICU
    site.apply([app], adopt=[app.id])
    site.apply([other])
    text = (
        "caf\u00e9 \u00fc"
        if "LATIN" in made_with or "UTF8" in made_with
        else "\u65e5\u672c"
        if "EUC" in made_with
        else "abc"
    )
    with site.enter(app) as session:
        session.execute("SET client_encoding = 'UTF8'")
        session.execute("CREATE TABLE words (w text PRIMARY KEY)")
        session.execute("INSERT INTO words VALUES (%s), ('b'), ('a')", (text,))
        if "ASCII" in made_with:
            session.execute(r"INSERT INTO words VALUES (E'\\xe9\\xff')")
    kept = site.served.sql(f"{_KEPT} '{app.id}'")
    part, files = backed_up(site, app)
    brought_back(site, app, part, files)
    assert site.served.sql(f"{_KEPT} '{app.id}'") == kept
    with archive(site) as (opened, context):  # of an app whose own database is another
        place = opened.prepare(PlaceKind.NEW, other, context)
        opened.restore(place, part, files, quiet)
        assert opened.measure(place) == part.measures
        opened.replace(place, context)
    site.apply([other])
    assert site.served.sql(f"{_KEPT} '{other.id}'") == kept
    with site.enter(other) as session:
        assert session.execute("SELECT count(*) FROM words WHERE convert_to(w, 'SQL_ASCII') <> ''").fetchone() in (
            (3,),
            (4,),
        )


def test_what_a_server_cannot_make_is_said_before_anything_goes(site: Site) -> None:
    app = site.app()
    site.apply([app])
    with site.enter(app) as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    part, files = backed_up(site, app)
    said: Any = part.details["locale"]
    for change, error, message in (
        (
            {"collate": "tlh_QO", "ctype": "tlh_QO"},
            WrongVersion,
            r"cannot make a database like the set's \(encoding UTF8",
        ),
        ({"encoding": "KLINGON"}, WrongVersion, "cannot make a database like the set's"),
        ({"encoding": "UTF8' OWNER x; --"}, ArchiveError, "no database is made with encoding"),
        ({"collate": 7}, ArchiveError, "collate of the database's locale"),
        ({"provider": "x"}, ArchiveError, "no database is made with"),
    ):
        wrong = Part(
            part.format, part.server, part.client, True, part.measures, {**part.details, "locale": said | change}
        )
        with archive(site) as (opened, context):
            place = opened.prepare(PlaceKind.NEW, app, context)
            with pytest.raises(error, match=message):
                opened.restore(place, wrong, files, quiet)
            opened.discard(place)
            assert opened.leftovers(app, context) == []
    assert site.enter(app).execute("SELECT a FROM t").fetchone() == (1,)
    assert Locale.read(said).document() == said
