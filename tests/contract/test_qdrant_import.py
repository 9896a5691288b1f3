"""Qdrant: collections of another server, or of a folder of local mode, brought into an app's."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multidb.errors import ArchiveError, AuthenticationFailed, MultidbError, ServerDown, UsageError
from multidb.model import App, ImportOptions, PlaceKind, SourceLocation, StoreContext
from multidb.ports import choose
from multidb.provisioners.qdrant.backup import transfer
from multidb.provisioners.qdrant.backup.archive import QdrantArchive
from multidb.provisioners.qdrant.backup.source import CollectionsSource
from multidb.provisioners.qdrant.backup.source import source as any_source
from multidb.secrets import Secret
from tests.contract.case_qdrant import READ_ONLY_KEY, ask, opened
from tests.contract.qdrant_driver import Driver, app
from tests.contract.qdrant_sets import contents, one_long, quiet, rounded
from tests.contract.qdrant_sources import KINDS, MADE, PAIRS, fill, location, some_place
from tests.support.case import RealServer
from tests.support.checkpoints import Killed, Marks

pytestmark = pytest.mark.server


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RealServer, Driver]]:
    """A Qdrant with collections that multidb has not made, and one with an app that has none of their points."""
    there, _, here = request.param.partition(" to ")
    with some_place(there, tmp_path / "there") as source, some_place(here, tmp_path / "here") as target:
        fill(source)
        driver = Driver(target, app("lernmi", **KINDS))
        driver.apply()
        yield source, driver


@pytest.fixture
def local(tmp_path: Path) -> Iterator[tuple[RealServer, Driver]]:
    with some_place("local", tmp_path / "there") as source, some_place("local", tmp_path / "here") as target:
        fill(source)
        driver = Driver(target, app("lernmi", **KINDS))
        driver.apply()
        yield source, driver


def source(real: RealServer, key: str | None = None, **options: Any) -> CollectionsSource:
    return CollectionsSource(location(real, key), ImportOptions(**{"prefix": "old_", **options}))


def archive(driver: Driver) -> QdrantArchive:
    return QdrantArchive(driver.real.server, driver.real.admin, "multidb test")


def lernmi(driver: Driver) -> tuple[App, StoreContext]:
    return driver.apps[0], driver.context()


def test_collections_come_along_renamed_with_every_vector_and_what_their_points_lacked(
    pair: tuple[RealServer, Driver],
) -> None:
    there, driver = pair
    owner, context = lernmi(driver)
    before = {name: contents(there, name) for name in MADE}
    with archive(driver) as target, source(there) as collections:
        survey = target.survey(owner, context, collections)
        assert survey.obstacles == ()
        assert survey.counts == {"points knowledge": 44, "points pages": 3}
        assert survey.renames == {"old_knowledge": "lernmi_knowledge", "old_Pages": "lernmi_pages"}
        assert any("1 point has another tenant_id than lernmi in old_knowledge" in loss for loss in survey.losses)
        assert any("1 collection that the options leave out (other)" in loss for loss in survey.losses)
        place = target.prepare(PlaceKind.NEW, owner, context)
        target.bring_in(place, collections, Marks(), quiet)
        measured, copied = target.measure(place), collections.copied()
        assert copied is not None
        assert copied.counts == measured.counts == survey.counts
        assert copied.fingerprints == measured.fingerprints
        assert len(measured.fingerprints) == 4
        assert collections.measure(owner, context) == copied
        target.replace(place, context)
    now = {one["id"]: one["payload"] for one in contents(driver.real, "lernmi_knowledge")}
    moment = now[1]["created_at"]
    assert now[1] == {"n": 1, "tenant_id": "lernmi", "app_name": "lernmi", "created_at": moment}
    assert now[100] == {"tenant_id": "lernmi", "app_name": "old", "created_at": "2020-01-01T00:00:00Z"}
    assert now[101]["tenant_id"] == "a customer"
    assert now[102] == {"tenant_id": "lernmi", "app_name": "lernmi", "created_at": moment}
    assert now["6f1f4cf6-37c8-4f1d-8a9a-000000000001"]["tenant_id"] == "lernmi"
    for one, other in (("old_knowledge", "lernmi_knowledge"), ("old_Pages", "lernmi_pages")):
        assert vectors(contents(driver.real, other)) == vectors(before[one])
    assert {name: contents(there, name) for name in MADE} == before
    driver.apply()  # whatever the manifest wants beside it
    assert not driver.changes()


def vectors(points: list[dict[str, Any]]) -> dict[Any, Any]:
    """By point; one long, as what is read of local mode is."""
    return {one["id"]: rounded(one_long(one["vector"])) for one in points}


def test_a_run_that_was_killed_goes_on_where_it_was_with_the_same_moment(
    local: tuple[RealServer, Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, driver = local
    owner, context = lernmi(driver)
    monkeypatch.setattr(transfer, "POINTS", 10)
    monkeypatch.setattr("multidb.provisioners.qdrant.backup.source.page_size", lambda details: 5)
    marks = Marks(most=4)
    with archive(driver) as target, source(there) as collections:
        place = target.prepare(PlaceKind.NEW, owner, context)
        with pytest.raises(Killed):
            target.bring_in(place, collections, marks, quiet)
    assert 0 < target_points(driver, place.name) < 47
    marks = Marks(parts=marks.parts)
    with archive(driver) as target, source(there) as collections:
        target.bring_in(place, collections, marks, quiet)
        assert collections.copied() is None  # a part of it was copied before
        assert target.measure(place) == collections.measure(owner, context)
        target.bring_in(place, collections, Marks(parts=marks.parts), quiet)
        assert target.measure(place) == collections.measure(owner, context)
        target.replace(place, context)
    moments = {one["payload"]["created_at"] for one in contents(driver.real, "lernmi_knowledge")}
    assert len(moments) == 2  # one of them from there


def target_points(driver: Driver, begin: str) -> int:
    with opened(driver.real.server.endpoint.path) as client:
        names = [each.name for each in client.get_collections().collections if each.name.startswith(begin)]
        return sum(client.count(name).count for name in names)


def test_what_the_manifest_has_not_is_an_obstacle_that_says_what_to_write(local: tuple[RealServer, Driver]) -> None:
    there, driver = local
    owner, context = lernmi(driver)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"prefix": ""}, "apps.lernmi.qdrant.collections: {other: {size: 2, distance: dot}}"),
        ({"prefix": "", "pattern": "other", "names": {"other": "knowledge"}}, "other has 2 dot, and lernmi_knowledge"),
        ({"names": {"old_Pages": "knowledge"}}, "not the only one"),
        ({"names": {"old_Pages": "../x"}}, "cannot be called"),
        ({"names": {"none": "knowledge"}}, "there is no collection none"),
    ]
    for options, text in cases:
        with source(there, **options) as collections:
            obstacles = collections.survey(owner, context).obstacles
            assert any(text in obstacle for obstacle in obstacles), obstacles
    with source(there, pattern="*_knowledge", names={"old_knowledge": "knowledge"}) as collections:
        survey = collections.survey(owner, context)
        assert (survey.obstacles, survey.counts) == ((), {"points knowledge": 44})
    dense = "vectors: {body: {size: 2, distance: euclid}, title: {size: 3, distance: dot}}"
    with source(there, names={"old_Pages": "more"}) as collections:
        [obstacle] = collections.survey(owner, context).obstacles
        assert f"{{more: {{{dense}, sparse: {{words: {{modifier: idf}}}}}}}}" in obstacle


def test_a_source_that_cannot_be_read_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{choose(())}"
    wrong: list[tuple[SourceLocation, type[MultidbError], str]] = [
        (SourceLocation(url, url), ServerDown, "--from-qdrant"),
        (SourceLocation("redis://x", "redis://x"), UsageError, "http://"),
        (SourceLocation("x", None, tmp_path), UsageError, "meta.json"),
        (SourceLocation(url, url, None, Secret("schlüssel-zum-server")), AuthenticationFailed, "MULTIDB_IMPORT_QDRANT"),
    ]
    for where, kind, hint in wrong:
        with pytest.raises(kind) as caught, CollectionsSource(where, ImportOptions()):
            pass
        assert hint in (caught.value.hint or "")
        assert "schlüssel" not in f"{caught.value}{caught.value.hint}"


def test_a_key_that_only_reads_is_enough_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    with some_place("server", tmp_path / "there") as there, some_place("local", tmp_path / "here") as here:
        fill(there)
        driver = Driver(here, app("lernmi", **KINDS))
        driver.apply()
        owner, context = lernmi(driver)
        with archive(driver) as target, source(there, READ_ONLY_KEY) as collections:
            place = target.prepare(PlaceKind.NEW, owner, context)
            target.bring_in(place, collections, Marks(), quiet)
            assert target.measure(place) == collections.copied()
        with pytest.raises(AuthenticationFailed) as refused, source(there, "wrong-password"):
            pass
        assert "MULTIDB_IMPORT_QDRANT_PASSWORD" in (refused.value.hint or "")


def test_a_snapshot_is_recovered_and_its_points_get_what_they_lack(tmp_path: Path) -> None:
    with some_place("server", tmp_path / "there") as there, some_place("server", tmp_path / "here") as here:
        fill(there)
        made = ask(there, "POST", "/collections/old_knowledge/snapshots").json()["result"]
        file = tmp_path / made["name"]
        file.write_bytes(ask(there, "GET", f"/collections/old_knowledge/snapshots/{made['name']}").content)
        driver = Driver(here, app("lernmi", **KINDS))
        driver.apply()
        owner, context = lernmi(driver)
        where = SourceLocation(str(file), None, file)
        for _ in range(2):  # the second time goes on where everything is done
            marks = Marks()
            with archive(driver) as target, any_source(where, ImportOptions(prefix="old_")) as snapshot:
                survey = target.survey(owner, context, snapshot)
                assert (survey.obstacles, survey.renames) == ((), {"old_knowledge": "lernmi_knowledge"})
                place = target.prepare(PlaceKind.NEW, owner, context)
                target.bring_in(place, snapshot, marks, quiet)
                target.bring_in(place, snapshot, marks, quiet)
                measured = target.measure(place)
                assert measured.counts == {"points knowledge": 44}
                assert measured == snapshot.copied() == snapshot.measure(owner, context)
        with archive(driver) as target:
            target.replace(place, context)
        now = {one["id"]: one["payload"] for one in contents(here, "lernmi_knowledge")}
        assert now[1].keys() == {"n", "tenant_id", "app_name", "created_at"}
        assert now[101]["tenant_id"] == "a customer"
        assert (now[102]["tenant_id"], now[102]["created_at"]) == ("lernmi", now[1]["created_at"])
        assert vectors(contents(here, "lernmi_knowledge")) == vectors(contents(there, "old_knowledge"))
        driver.apply()
        assert not driver.changes()

        wrong = location_of(tmp_path / "wrong.snapshot")
        (tmp_path / "wrong.snapshot").write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(ArchiveError, match="is no snapshot"), any_source(wrong, ImportOptions()):
            pass
        (tmp_path / "wrong.snapshot").write_bytes(tarred("config.json", configuration()))
        options = ImportOptions(names={"wrong": "knowledge"})
        with archive(driver) as target, any_source(wrong, options) as snapshot:
            place = target.prepare(PlaceKind.NEW, owner, context)
            with pytest.raises(ArchiveError, match="does not take the snapshot"):
                target.bring_in(place, snapshot, Marks(), quiet)
            target.discard(place)


def test_a_file_that_is_no_snapshot_is_refused_and_local_mode_takes_none(
    local: tuple[RealServer, Driver], tmp_path: Path
) -> None:
    _, driver = local
    owner, context = lernmi(driver)
    for name, content in (("a", b"hello"), ("b", tarred("config.json", b"[]")), ("c", tarred("x", configuration()))):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(ArchiveError, match="is no snapshot"), any_source(location_of(file), ImportOptions()):
            pass
    with pytest.raises(UsageError, match="cannot be read"), any_source(location_of(tmp_path / "none"), ImportOptions()):
        pass
    file.write_bytes(tarred("config.json", configuration()))
    with archive(driver) as target, any_source(location_of(file), ImportOptions(names={"c": "knowledge"})) as snapshot:
        [obstacle] = target.survey(owner, context, snapshot).obstacles
        assert "local mode takes no snapshot" in obstacle


def configuration() -> bytes:
    return json.dumps({"params": {"vectors": {"size": 4, "distance": "Dot"}}}).encode()


def location_of(file: Path) -> SourceLocation:
    return SourceLocation(str(file), None, file)


def tarred(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archived:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archived.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
