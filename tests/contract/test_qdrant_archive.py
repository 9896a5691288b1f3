"""Qdrant's data coming and going: round trips with data that bites, damage, crashes, other apps, other versions."""

from __future__ import annotations

import contextlib
import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from multidb.errors import ArchiveError, Conflict, ServerError, WrongVersion
from multidb.model import PlaceKind
from multidb.provisioners.qdrant.backup.archive import QdrantArchive
from multidb.provisioners.qdrant.driver.transport import Reply
from multidb.provisioners.qdrant.provision.options import ServerOptions
from multidb.provisioners.qdrant.provision.statements import Call
from tests.contract.case_qdrant import ask, local_folder, real_server
from tests.contract.qdrant_driver import Driver, app
from tests.contract.qdrant_sets import Files, archive, contents, put, quiet, saved
from tests.support.case import RealServer

pytestmark = pytest.mark.server

KINDS: dict[str, Any] = {
    "plain": {"size": 4},
    "pages": {
        "vectors": {"title": {"size": 3, "distance": "dot"}, "body": {"size": 2, "distance": "euclid"}},
        "sparse": {"words": {"modifier": "idf"}},
        "strict": {"max_query_limit": 7},
    },
    "empty": {"size": 2, "distance": "manhattan"},
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with real_server(tmp_path_factory.mktemp("qdrant"), own=True) as real:
        yield real


@pytest.fixture(params=["snapshot", "points", "local"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """An app with data that bites, on a server (backed up in both formats) and in a local folder."""
    if request.param == "local":
        with local_folder(tmp_path) as real:
            yield filled(Driver(real, app("lernmi", **KINDS), app("devao", plain=KINDS["plain"])))
        return
    yield from on_server(request.getfixturevalue("shared"), ServerOptions(backup=request.param))


@pytest.fixture
def served(shared: RealServer) -> Iterator[Driver]:
    yield from on_server(shared, ServerOptions())


def on_server(real: RealServer, options: ServerOptions) -> Iterator[Driver]:
    yield filled(Driver(real, app("lernmi", **KINDS), app("devao", plain=KINDS["plain"]), options=options))
    for entry in ask(real, "GET", "/collections").json()["result"]["collections"]:
        ask(real, "DELETE", f"/collections/{entry['name']}").raise_for_status()


PAYLOADS: list[dict[str, Any]] = [
    {"tenant_id": "lernmi", "deep": {"list": [1, {"x": None}], "ü": "ß\n\u2028"}},
    {"tenant_id": "a customer", "big": 2**53 + 1, "small": -1.5e-7, "truth": True},
    {"tenant_id": "lernmi", "empty": {}, "none": None, "text": 'quoted "words"', "float": 0.1},
    {"tenant_id": ["a customer", "lernmi"]},
    {"tenant_id": ["lernmi"]},
    {"tenant_id": [["lernmi"], "a customer", None]},
    {},
]


def filled(driver: Driver) -> Driver:
    driver.apply()
    numbers = random.Random(7)
    plain = [
        {
            "id": n if n % 2 else str(uuid.UUID(int=n)),
            "vector": [numbers.uniform(-1, 1) for _ in range(4)],
            "payload": PAYLOADS[n % len(PAYLOADS)],
        }
        for n in range(1, 40)
    ]
    pages: list[dict[str, Any]] = [
        {"id": 1, "vector": {"title": [1, 2, 3], "words": {"indices": [7, 3], "values": [0.5, 1.25]}}, "payload": {}},
        {"id": 2**63 + 5, "vector": {"title": [0.1, 0, 0], "body": [3, 4]}, "payload": PAYLOADS[0]},
        {"id": 9, "vector": {"words": {"indices": [4294967295], "values": [1]}}, "payload": PAYLOADS[1]},
        *({"id": 100 + n, "vector": {"body": [n, 0.5]}, "payload": {"n": n}} for n in range(30)),
    ]
    put(driver.real, "lernmi_plain", plain)
    put(driver.real, "lernmi_pages", pages)
    put(driver.real, "devao_plain", plain[:3])
    return driver


def collections(driver: Driver) -> set[str]:
    def names(session: Any, _: Any) -> set[str]:
        return set(session._catalog.names())

    return driver.asked(names)


def test_a_set_is_proved_in_a_scratch_place_and_replaces_what_is_there(driver: Driver) -> None:
    context, (lernmi, _) = driver.context(), driver.apps
    before = {name: contents(driver.real, f"lernmi_{name}") for name in KINDS}
    part, files = saved(driver)
    assert part.measures.counts == {"points plain": 39, "points pages": 33, "points empty": 0}
    names = collections(driver)
    with archive(driver.real) as open_:
        assert open_.measure(open_.live(lernmi, context)) == part.measures
        scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
        assert open_.is_empty(scratch)
        open_.restore(scratch, part, files, quiet)
        assert open_.measure(scratch) == part.measures
        assert not open_.is_empty(scratch)
        assert [place.kind for place in open_.leftovers(lernmi, context)] == [PlaceKind.SCRATCH]
        open_.discard(scratch)
        open_.discard(scratch)
        assert open_.leftovers(lernmi, context) == []
        with pytest.raises(ValueError, match="live"):
            open_.discard(open_.live(lernmi, context))
    assert collections(driver) == names, "nothing stays"
    put(driver.real, "lernmi_plain", [{"id": 777, "vector": [1, 1, 1, 1], "payload": {"late": True}}])
    with archive(driver.real) as open_:
        assert open_.measure(open_.live(lernmi, context)).fingerprints != part.measures.fingerprints
        new = open_.prepare(PlaceKind.NEW, lernmi, context)
        open_.restore(new, part, files, quiet)
        open_.replace(new, context)
        assert open_.measure(open_.live(lernmi, context)) == part.measures
        assert open_.leftovers(lernmi, context) == []
    assert {name: contents(driver.real, f"lernmi_{name}") for name in KINDS} == before
    driver.apply()
    assert collections(driver) == names
    if not driver.real.server.endpoint.path:
        assert ask(driver.real, "GET", "/collections", key=driver.token("lernmi")).status_code == 200
        for name in KINDS:
            assert ask(driver.real, "GET", f"/collections/lernmi_{name}/snapshots").json()["result"] == []


def test_writes_during_a_backup_are_in_it_or_not_and_measured_as_they_are(served: Driver) -> None:
    """A point comes between the snapshot and its measuring: the measures are the snapshot's all the same."""
    real, lernmi, context = served.real, served.apps[0], served.context()

    class Written(Files):
        @contextlib.contextmanager
        def _write(self, name: str) -> Iterator[BinaryIO]:
            with super()._write(name) as out:
                yield out
            if name == "plain.snapshot":
                put(real, "lernmi_plain", [{"id": 888, "vector": [1, 1, 1, 1], "payload": {"late": True}}])

    assert saved(served)[0].consistent
    files = Written()
    with archive(real) as open_:
        part = open_.backup(lernmi, context, files, quiet)
        assert not part.consistent
        assert part.measures.counts["points plain"] == 39
        assert open_.leftovers(lernmi, context) == []
        scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
        open_.restore(scratch, part, files, quiet)
        assert open_.measure(scratch) == part.measures
        open_.discard(scratch)


def test_a_copy_for_another_app_is_that_apps(driver: Driver) -> None:
    context, devao = driver.context(), driver.apps[1]
    part, files = saved(driver)
    with archive(driver.real) as open_:
        new = open_.prepare(PlaceKind.NEW, devao, context)
        open_.restore(new, part, files, quiet)
        assert open_.measure(new) == part.measures
        open_.replace(new, context)
    driver.apply()
    tenants = [point["payload"].get("tenant_id") for point in contents(driver.real, "devao_plain")]
    several = ["['a customer', 'devao']", "['devao']", "[['lernmi'], 'a customer', None]"]
    assert {str(tenant) for tenant in tenants} == {"devao", "a customer", "None", *several}
    assert len(tenants) == 39
    assert "lernmi" in [point["payload"].get("tenant_id") for point in contents(driver.real, "lernmi_plain")]


def test_an_interrupted_replacement_is_finished_and_never_shown(
    served: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multidb.provisioners.qdrant.backup import archive as module

    context, lernmi = served.context(), served.apps[0]
    part, files = saved(served)
    for name in ("lernmi_plain", "lernmi_pages"):
        ask(served.real, "POST", f"/collections/{name}/points/delete?wait=true", {"points": [1]}).raise_for_status()
    original, done = module.QdrantArchive._become, []

    def dying(self: Any, name: str, *rest: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(name)
        original(self, name, *rest)

    monkeypatch.setattr(module.QdrantArchive, "_become", dying)
    with archive(served.real) as open_:
        new = open_.prepare(PlaceKind.NEW, lernmi, context)
        open_.restore(new, part, files, quiet)
        with pytest.raises(KeyboardInterrupt):
            open_.replace(new, context)
    assert ask(served.real, "GET", "/collections", key=served.token("lernmi")).status_code == 401, "half is not shown"
    monkeypatch.undo()
    with archive(served.real) as open_:
        (left,) = open_.leftovers(lernmi, context)
        open_.discard(left)
        assert open_.measure(open_.live(lernmi, context)) == part.measures
        assert open_.leftovers(lernmi, context) == []
    served.apply()
    assert ask(served.real, "GET", "/collections", key=served.token("lernmi")).status_code == 200


def test_a_place_that_was_not_finished_is_emptied_and_the_app_keeps_what_it_had(served: Driver) -> None:
    context, lernmi = served.context(), served.apps[0]
    part, files = saved(served)
    with archive(served.real) as open_:
        before = open_.measure(open_.live(lernmi, context))
        open_.restore(open_.prepare(PlaceKind.NEW, lernmi, context), part, files, quiet)
    assert {hole.name for hole in served.holes()} == {"copy left behind"}
    with archive(served.real) as open_:
        assert open_.is_empty(open_.prepare(PlaceKind.NEW, lernmi, context))
        assert open_.measure(open_.live(lernmi, context)) == before
    token = served.token("lernmi")
    assert ask(served.real, "GET", "/collections/multidb__new__contract__lernmi__plain", key=token).status_code == 403


def test_what_a_server_makes_late_for_an_earlier_run_is_made_anew(driver: Driver) -> None:
    """One that stood still had carried it out after the place was emptied, and the next run ended with error 409."""
    context, lernmi = driver.context(), driver.apps[0]
    part, files = saved(driver)
    with archive(driver.real) as open_:
        place = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
        for _ in range(2):
            open_.restore(place, part, files, quiet)
        assert open_.measure(place) == part.measures
        open_.discard(place)
        assert open_.leftovers(lernmi, context) == []


def test_a_snapshot_that_a_server_takes_in_late_is_in_nobodys_way(served: Driver) -> None:
    context, lernmi = served.context(), served.apps[0]
    part, files = saved(served)
    late = {
        "vectors": {"size": 2, "distance": "Cosine"},
        "metadata": {"multidb": {"project": "contract", "app": "lernmi"}},
    }
    with archive(served.real) as open_:
        place = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
        ask(served.real, "PUT", "/collections/multidb__scratch__contract__lernmi__plain", late).raise_for_status()
        open_.restore(place, part, files, quiet)
        assert open_.measure(place) == part.measures
        open_.discard(place)


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_damaged_snapshot_is_refused_and_loads_nothing(served: Driver) -> None:
    context, lernmi = served.context(), served.apps[0]
    part, files = saved(served)
    whole = files.held["plain.snapshot"]
    with archive(served.real) as open_:
        for damaged in (_cut(whole), _flipped(whole), b""):
            files.held["plain.snapshot"] = damaged
            scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
            with pytest.raises(ArchiveError, match="does not take the snapshot"):
                open_.restore(scratch, part, files, quiet)
            assert open_.measure(scratch).counts.get("points plain", 0) == 0
        open_.discard(scratch)


def test_lines_that_are_no_points_are_refused(served: Driver) -> None:
    served.options = ServerOptions(backup="points")
    context, lernmi = served.context(), served.apps[0]
    part, files = saved(served)
    files.held["plain.jsonl"] = _cut(files.held["plain.jsonl"])
    with archive(served.real) as open_:
        scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
        with pytest.raises(ArchiveError, match="is no point"):
            open_.restore(scratch, part, files, quiet)


def test_another_version_is_refused_before_anything_is_loaded(served: Driver) -> None:
    context, lernmi = served.context(), served.apps[0]
    part, files = saved(served)
    major, minor = (int(number) for number in part.server.removeprefix("Qdrant ").split(".")[:2])
    with archive(served.real) as open_:
        scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
        for other in (f"{major}.{minor - 2}.0", f"{major}.{minor + 1}.0", f"{major + 1}.0.0"):
            with pytest.raises(WrongVersion, match=other) as refused:
                open_.restore(scratch, replace(part, server=f"Qdrant {other}"), files, quiet)
            assert "backup: points" in str(refused.value.hint)
            assert open_.leftovers(lernmi, context) == []
        open_.restore(scratch, replace(part, server=f"Qdrant {major}.{minor - 1}.4"), files, quiet)


def test_points_go_between_servers_and_local_mode(served: Driver, tmp_path: Path) -> None:
    served.options = ServerOptions(backup="points")
    part, files = saved(served)
    with local_folder(tmp_path) as real:
        local = Driver(real, *served.apps)
        context = local.context()
        with archive(real) as open_:
            new = open_.prepare(PlaceKind.NEW, served.apps[0], context)
            open_.restore(new, part, files, quiet)
            open_.replace(new, context)
        assert contents(real, "lernmi_plain") == contents(served.real, "lernmi_plain")
        back, files = saved(local)
        with archive(real) as open_:
            place = open_.prepare(PlaceKind.SCRATCH, served.apps[0], context)
            with pytest.raises(WrongVersion, match="no snapshot"):
                open_.restore(place, replace(back, format="qdrant snapshot 1"), files, quiet)
    assert back.measures.counts == part.measures.counts
    assert back.measures.fingerprints.items() <= part.measures.fingerprints.items()
    context = served.context()
    with archive(served.real) as open_:
        scratch = open_.prepare(PlaceKind.SCRATCH, served.apps[0], context)
        open_.restore(scratch, back, files, quiet)
        assert open_.measure(scratch).counts == part.measures.counts
        open_.discard(scratch)


def test_multivectors_aliases_and_changed_vectors_come_back(served: Driver) -> None:
    """Made by hand and marked: what the manifest cannot say yet has to survive all the same."""
    context, lernmi, real = served.context(), served.apps[0], served.real
    mark = {"multidb": {"project": "contract", "app": "lernmi"}}
    many = {"size": 2, "distance": "Cosine", "multivector_config": {"comparator": "max_sim"}}
    ask(real, "PUT", "/collections/lernmi_multi", {"vectors": {"m": many}, "metadata": mark}).raise_for_status()
    put(real, "lernmi_multi", [{"id": 1, "vector": {"m": [[1, 2], [3, 4], [5, 6]]}, "payload": {}}])
    alias = {"create_alias": {"collection_name": "lernmi_multi", "alias_name": "lernmi_search"}}
    ask(real, "POST", "/collections/aliases", {"actions": [alias]}).raise_for_status()
    for options in (ServerOptions(), ServerOptions(backup="points")):
        served.options = options
        part, files = saved(served)
        before = contents(real, "lernmi_multi")
        ask(real, "DELETE", "/collections/lernmi_multi").raise_for_status()
        other = {"vectors": {"size": 3, "distance": "Dot"}, "metadata": mark}
        ask(real, "PUT", "/collections/lernmi_multi", other).raise_for_status()
        with archive(real) as open_:
            new = open_.prepare(PlaceKind.NEW, lernmi, context)
            open_.restore(new, part, files, quiet)
            open_.replace(new, context)
            assert open_.measure(open_.live(lernmi, context)) == part.measures
        assert contents(real, "lernmi_multi") == before
        aliases = ask(real, "GET", "/aliases").json()["result"]["aliases"]
        assert aliases == [{"alias_name": "lernmi_search", "collection_name": "lernmi_multi"}]


def test_a_payload_comes_back_in_as_many_requests_as_it_takes(served: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As below, with a limit of our own."""
    context, lernmi, real = served.context(), served.apps[0], served.real
    body = {"payload": {key: key * 900 for key in "abcde"}, "points": [1]}
    ask(real, "POST", "/collections/lernmi_plain/points/payload?wait=true", body).raise_for_status()
    served.options = ServerOptions(backup="points")
    part, files = saved(served)
    send = QdrantArchive._must

    def limited(self: QdrantArchive, call: Call) -> Reply:
        if len(json.dumps(call.body)) > 2_000:
            raise ServerError("JSON payload is larger than allowed")
        return send(self, call)

    monkeypatch.setattr(QdrantArchive, "_must", limited)
    with archive(real) as open_:
        scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
        open_.restore(scratch, part, files, quiet)
        assert open_.measure(scratch) == part.measures
        open_.discard(scratch)


@pytest.mark.rare
def test_a_point_that_is_larger_than_a_request_may_be_comes_back(served: Driver) -> None:
    context, lernmi, real = served.context(), served.apps[0], served.real
    for key in ("a", "b", "c"):
        body = {"payload": {key: key * 15_000_000}, "points": [1]}
        ask(real, "POST", "/collections/lernmi_plain/points/payload?wait=true", body).raise_for_status()
    served.options = ServerOptions(backup="points")
    part, files = saved(served)
    with archive(real) as open_:
        scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
        open_.restore(scratch, part, files, quiet)
        assert open_.measure(scratch) == part.measures
        open_.discard(scratch)
        nested = {"payload": {"d": {"e": 1}}, "points": [1]}
        ask(real, "POST", "/collections/lernmi_plain/points/payload?wait=true", nested).raise_for_status()
        for key in ("f", "g", "h"):
            body = {"key": "d", "payload": {key: key * 15_000_000}, "points": [1]}
            ask(real, "POST", "/collections/lernmi_plain/points/payload?wait=true", body).raise_for_status()
        part, files = saved(served)
        scratch = open_.prepare(PlaceKind.SCRATCH, lernmi, context)
        with pytest.raises(ServerError, match="'d' alone is more than one request may have"):
            open_.restore(scratch, part, files, quiet)
        open_.discard(scratch)


def test_shards_with_keys_of_their_own_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    mark = {"multidb": {"project": "contract", "app": "lernmi"}}
    body = {"vectors": {"size": 2, "distance": "Dot"}, "metadata": mark}
    with real_server(tmp_path, own=True, cluster=True) as real:
        driver = Driver(real, app("lernmi", auto={"size": 2}, keyed={"size": 2}))
        ask(real, "PUT", "/collections/lernmi_auto", body).raise_for_status()
        ask(real, "PUT", "/collections/lernmi_keyed", {**body, "sharding_method": "custom"}).raise_for_status()
        saved(driver)  # no shards, nothing to lose
        ask(real, "PUT", "/collections/lernmi_keyed/shards", {"shard_key": "k"}).raise_for_status()
        for options in (ServerOptions(), ServerOptions(backup="points")):
            driver.options = options
            with pytest.raises(ArchiveError, match="lernmi_keyed lies in shards with keys"):
                saved(driver)
        ask(real, "DELETE", "/collections/lernmi_keyed").raise_for_status()
        driver.options = ServerOptions()
        assert saved(driver)[0].measures.counts == {"points auto": 0}


def test_somebody_elses_collection_is_not_replaced(served: Driver) -> None:
    context, lernmi = served.context(), served.apps[0]
    part, files = saved(served)
    ask(served.real, "PATCH", "/collections/lernmi_plain", {"metadata": {"multidb": None}}).raise_for_status()
    with archive(served.real) as open_:
        new = open_.prepare(PlaceKind.NEW, lernmi, context)
        open_.restore(new, part, files, quiet)
        with pytest.raises(Conflict, match="lernmi_plain"):
            open_.replace(new, context)
        open_.discard(new)
    assert len(contents(served.real, "lernmi_plain")) == 39
