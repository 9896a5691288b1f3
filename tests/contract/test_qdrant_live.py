"""Qdrant: a place that is made what collections elsewhere are, again and again while those are written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multidb.errors import Refused
from multidb.model import App, ImportOptions, Place, PlaceKind, StoreContext
from multidb.provisioners.qdrant.backup.archive import QdrantArchive
from multidb.provisioners.qdrant.backup.making import Maker
from multidb.provisioners.qdrant.backup.source import CollectionsSource
from tests.contract.case_qdrant import ask, opened
from tests.contract.qdrant_driver import Driver, app
from tests.contract.qdrant_sets import contents, one_long, put, quiet, rounded
from tests.contract.qdrant_sources import KINDS, MADE, PAIRS, create, fill, location, point, some_place
from tests.support.case import RealServer
from tests.support.checkpoints import Killed, Marks

pytestmark = pytest.mark.server


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RealServer, Driver]]:
    there, _, here = request.param.partition(" to ")
    with both(there, here, tmp_path) as made:
        yield made


@pytest.fixture
def local(tmp_path: Path) -> Iterator[tuple[RealServer, Driver]]:
    with both("local", "local", tmp_path) as made:
        yield made


@contextlib.contextmanager
def both(there: str, here: str, folder: Path) -> Iterator[tuple[RealServer, Driver]]:
    with some_place(there, folder / "there") as source, some_place(here, folder / "here") as target:
        fill(source)
        driver = Driver(target, app("lernmi", **KINDS))
        driver.apply()
        yield source, driver


class Work:
    """Runs of an import, each with sessions of its own."""

    def __init__(self, there: RealServer, driver: Driver, **options: Any) -> None:
        self.owner: App = driver.apps[0]
        self.context: StoreContext = driver.context()
        self._there = there
        self._driver = driver
        self._options = ImportOptions(**{"prefix": "old_", **options})

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[QdrantArchive, CollectionsSource]]:
        real = self._driver.real
        with (
            QdrantArchive(real.server, real.admin, "multidb test") as archive,
            CollectionsSource(location(self._there), self._options) as source,
        ):
            yield archive, source

    def begin(self) -> Place:
        with self.opened() as (archive, source):
            place = archive.prepare(PlaceKind.NEW, self.owner, self.context)
            archive.follow(place, source, "mark", quiet)
            return place

    def renew(self, place: Place) -> int:
        """How many points were not as they are there; the place is the same as the source then."""
        with self.opened() as (archive, source):
            before = list(archive.unlike(place, source))
            changed = archive.renewal(place).renew(source, quiet)
            assert archive.unlike(place, source) == []
            assert bool(before) is bool(changed)
            assert archive.renewal(place).renew(source, quiet) == 0
            now, here = source.measure(self.owner, self.context), archive.measure(place)
            assert now.counts == here.counts
            for name in now.fingerprints.keys() & here.fingerprints.keys():
                assert now.fingerprints[name] == here.fingerprints[name], name
        return changed

    def exchange(self, place: Place) -> None:
        with self.opened() as (archive, _):
            archive.replace(place, self.context)


def delete(real: RealServer, name: str, ids: list[Any]) -> None:
    if real.server.endpoint.path:
        with opened(real.server.endpoint.path) as client:
            client.delete(name, ids)
        return
    ask(real, "POST", f"/collections/{name}/points/delete?wait=true", {"points": ids}).raise_for_status()


def drop(real: RealServer, name: str) -> None:
    if real.server.endpoint.path:
        with opened(real.server.endpoint.path) as client:
            client.delete_collection(name)
        return
    ask(real, "DELETE", f"/collections/{name}").raise_for_status()


LOW = "00000000-0000-0000-0000-000000000001"
HIGH = "ffffffff-ffff-ffff-ffff-ffffffffffff"


def test_only_what_differs_is_loaded_whatever_its_id(pair: tuple[RealServer, Driver]) -> None:
    there, driver = pair
    work = Work(there, driver)
    place = work.begin()
    assert work.renew(place) == 0
    put(there, "old_knowledge", [{**point(1), "payload": {"n": True}}])  # 1 and true are equal only in Python
    put(there, "old_knowledge", [{**point(2), "vector": [2, 0.5, 0.25, 1.125]}])
    new = [0, 41, 2**63, 2**64 - 1, LOW, HIGH]
    put(there, "old_knowledge", [{**point(7), "id": number} for number in new])
    delete(there, "old_knowledge", [40, 100, "6f1f4cf6-37c8-4f1d-8a9a-000000000001"])
    put(there, "old_Pages", [{"id": 1, "vector": {"body": [4, 5]}, "payload": {}}])  # a vector less
    assert work.renew(place) == 2 + 6 + 3 + 1
    before = {one["id"]: one for one in contents(there, "old_knowledge")}
    work.exchange(place)
    now = {one["id"]: one for one in contents(driver.real, "lernmi_knowledge")}
    assert now.keys() == before.keys()
    assert directions(now) == directions(before)
    assert now[1]["payload"]["n"] is True
    assert {now[number]["payload"]["created_at"] for number in (1, 3, *new)} == {now[5]["payload"]["created_at"]}
    driver.apply()
    assert not driver.changes()


def directions(points: dict[Any, dict[str, Any]]) -> dict[Any, Any]:
    """What is read of local mode is one long."""
    return {key: rounded(one_long(one["vector"])) for key, one in points.items()}


def test_all_points_gone_or_all_new(local: tuple[RealServer, Driver]) -> None:
    there, driver = local
    work = Work(there, driver)
    place = work.begin()
    delete(there, "old_knowledge", [one["id"] for one in contents(there, "old_knowledge")])
    assert work.renew(place) == 44
    put(there, "old_knowledge", [point(number) for number in range(1, 30)])
    assert work.renew(place) == 29


def test_a_source_and_a_place_are_read_page_by_page_on_both_sides(
    local: tuple[RealServer, Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("source", "renewal"):
        monkeypatch.setattr(f"multidb.provisioners.qdrant.backup.{module}.page_size", lambda details: 3)
    there, driver = local
    work = Work(there, driver)
    place = work.begin()
    delete(there, "old_knowledge", list(range(1, 20, 2)))
    put(there, "old_knowledge", [{**point(4), "payload": {"n": number}, "id": number} for number in range(20, 60, 3)])
    assert work.renew(place) == 10 + 14


def test_collections_that_are_made_meanwhile_come_and_one_that_is_gone_is_said(
    local: tuple[RealServer, Driver],
) -> None:
    there, driver = local
    drop(there, "old_Pages")
    work = Work(there, driver)
    place = work.begin()
    create(there, "old_Pages", MADE["old_Pages"])
    put(there, "old_Pages", [{"id": 1, "vector": {"body": [4, 5]}, "payload": {}}])
    assert work.renew(place) == 1
    drop(there, "old_knowledge")
    with work.opened() as (archive, source), pytest.raises(Refused, match="what was copied as knowledge is not there"):
        archive.catch_up(place, source, "mark", quiet)
    create(there, "old_knowledge", {"vectors": {"size": 9, "distance": "Dot"}})
    with work.opened() as (archive, source), pytest.raises(Refused, match="old_knowledge has 9 dot"):
        archive.catch_up(place, source, "mark", quiet)
    drop(there, "old_knowledge")
    create(there, "old_knowledge", MADE["old_knowledge"])
    put(there, "old_knowledge", [point(3)])
    assert work.renew(place) == 43
    with work.opened() as (archive, _):
        archive.discard(place)
        assert archive.leftovers(work.owner, work.context) == []


def test_a_collection_that_is_made_otherwise_meanwhile_is_copied_anew(local: tuple[RealServer, Driver]) -> None:
    """The same vectors, but on disk: no point tells it."""
    there, driver = local
    work = Work(there, driver, pattern="*_knowledge")
    place = work.begin()
    points = contents(there, "old_knowledge")
    drop(there, "old_knowledge")
    create(there, "old_knowledge", {"vectors": {"size": 4, "distance": "Dot", "on_disk": True}})
    put(there, "old_knowledge", points)
    with work.opened() as (archive, source):
        assert archive.unlike(place, source)[0] == "collection knowledge: it was changed there meanwhile"
    assert work.renew(place) == 44
    work.exchange(place)
    with opened(driver.real.server.endpoint.path) as client:
        assert client.get_collection("lernmi_knowledge").config.params.vectors.on_disk is True


def test_a_run_that_was_killed_between_a_collection_and_its_mark_makes_it_anew(
    local: tuple[RealServer, Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, driver = local
    work = Work(there, driver)

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Maker, "index", die)
        with work.opened() as (archive, source):
            place = archive.prepare(PlaceKind.NEW, work.owner, work.context)
            with pytest.raises(Killed):
                archive.catch_up(place, source, "mark", quiet)
    assert work.renew(place) == 47


def test_points_that_are_more_than_a_server_takes_at_once_come_all_the_same(tmp_path: Path) -> None:
    with both("server", "server", tmp_path) as (there, driver):
        work = Work(there, driver, pattern="*_knowledge")
        for begin in range(0, 100, 50):  # 40 MB in all
            put(
                there,
                "old_knowledge",
                [{**point(n), "payload": {"t": "x" * 400_000}} for n in range(begin, begin + 50)],
            )
        place = work.begin()
        assert work.renew(place) == 0
        with work.opened() as (archive, source):
            place = archive.prepare(PlaceKind.NEW, work.owner, work.context)
            archive.bring_in(place, source, Marks(), quiet)
            assert archive.measure(place) == source.copied()
