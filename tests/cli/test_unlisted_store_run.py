"""A store that was taken out of an app's `stores`, and apps whose entry is gone, with what they have on servers that no
other app uses: on real servers, by commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support.command import Folder, Ran, project_folder

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: unlisted
runtime: embedded
backup: {{to: [sets/]}}
apps:
  ann: {{stores: {stores}}}
  bob: {{stores: [postgres, redis]}}
"""
NOBODY = "version: 1\nproject: unlisted\nruntime: embedded\nbackup: {to: [sets/]}\napps: {}\n"
BOTH, ONE = "[postgres, redis]", "[postgres]"


@pytest.fixture
def folder() -> Iterator[Folder]:
    with project_folder("unlisted-store-", MANIFEST.format(stores=BOTH)) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


def text(ran: Ran) -> str:
    """What it said, as if on one line."""
    return " ".join((ran.out + ran.err).split())


def test_what_an_app_has_on_a_store_that_its_entry_does_not_name_is_said_and_ends_with_it(folder: Folder) -> None:
    """Plans said nothing of it, and its login there stayed on when the app was removed and when it was purged."""
    address = folder.variables("ann")["REDIS_URL"]
    with redis.Redis.from_url(address) as client:
        client.set("note", "of ann")

    folder.manifest(MANIFEST.format(stores=ONE))
    assert "put redis back into apps.ann.stores" in text(folder.ok("plan", "--check"))

    # as the hint says
    folder.manifest(MANIFEST.format(stores=BOTH))
    folder.ok("apply", "--yes")
    with redis.Redis.from_url(address) as client:
        assert client.get("note") == b"of ann"
    assert "still has" not in folder.ok("plan", "--check").out

    folder.manifest(MANIFEST.format(stores=ONE))
    folder.ok("remove-app", "ann", "--yes")
    with redis.Redis.from_url(address) as client, pytest.raises(redis.AuthenticationError):
        client.ping()

    folder.ok("purge", "ann", "--yes-destroy", "ann")
    left = folder.ok("plan", "--check")
    assert "ann" not in left.out + left.err

    # its final set has what was there
    folder.manifest(MANIFEST.format(stores=BOTH))
    folder.ok("apply", "--yes")
    (made, *_) = folder.ok("backups", "list", "ann", "--json").json()["sets"]
    folder.ok("restore", made["set"])
    with redis.Redis.from_url(folder.variables("ann")["REDIS_URL"]) as client:
        assert client.get("note") == b"of ann"


def test_a_server_that_no_app_uses_any_more_is_asked_like_the_others(folder: Folder) -> None:
    """Its apps' logins worked when their entries were gone and when the apps were removed; a plan of no app said that
    there was nothing to ask."""
    address = folder.variables("ann")["REDIS_URL"]
    alone = MANIFEST.format(stores=BOTH).replace("bob: {stores: [postgres, redis]}", "bob: {stores: [postgres]}")
    folder.manifest(alone)
    folder.ok("plan", "--check")

    folder.manifest(alone.replace(BOTH, ONE))
    assert "put redis back into apps.ann.stores" in text(folder.ok("plan", "--check"))
    assert "no app of the manifest uses it" in text(folder.ok("status"))

    folder.manifest(NOBODY)
    planned = folder.run("plan", "--check")
    assert planned.code == 1, text(planned)
    for app in ("ann", "bob"):
        assert f"app {app}: is on the servers and not in the manifest" in text(planned)
        assert f"multidb remove-app {app}" in text(planned)
    with redis.Redis.from_url(address) as client:
        client.set("note", "of ann")

    folder.ok("remove-app", "ann", "--yes")
    with redis.Redis.from_url(address) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    (made, *_) = folder.ok("backups", "list", "ann", "--json").json()["sets"]
    assert set(made["stores"]) == {"postgres", "redis"}
    folder.ok("purge", "ann", "--yes-destroy", "ann")
    folder.ok("purge", "bob", "--yes-destroy", "bob")
    assert "on the servers and not in the manifest" not in text(folder.ok("plan", "--check"))


@pytest.mark.rare
def test_a_neo4j_of_one_app_ends_with_it_though_its_entry_does_not_name_it(folder: Folder) -> None:
    folder.manifest(MANIFEST.format(stores="[postgres, redis, neo4j]"))
    folder.ok("up")
    folder.ok("apply", "--yes")
    folder.manifest(MANIFEST.format(stores=BOTH))
    assert "app ann: still has server neo4j-ann on neo4j" in text(folder.ok("plan", "--check"))

    folder.ok("remove-app", "ann", "--yes")
    assert "neo4j-ann" not in text(folder.ok("status"))
    (made, *_) = folder.ok("backups", "list", "ann", "--json").json()["sets"]
    assert set(made["stores"]) == {"postgres", "redis", "neo4j"}
    kept = folder.path / ".multidb" / "servers" / "neo4j-ann"
    assert kept.is_dir()
    folder.ok("purge", "ann", "--yes-destroy", "ann")
    assert not kept.exists()


def test_a_server_is_started_for_a_removed_app_until_it_is_purged(folder: Folder) -> None:
    """`purge` named `up`, which left out what only the removed app had used."""
    folder.manifest(
        MANIFEST.format(stores=BOTH).replace("bob: {stores: [postgres, redis]}", "bob: {stores: [postgres]}")
    )
    folder.ok("remove-app", "ann", "--yes")
    folder.ok("down")
    stopped = folder.run("purge", "ann", "--yes-destroy", "ann")
    assert (stopped.code, "multidb up; then" in text(stopped)) == (5, True), text(stopped)
    assert "redis running" in text(folder.ok("up"))
    folder.ok("purge", "ann", "--yes-destroy", "ann")
    assert "ann" not in text(folder.ok("apps"))
    folder.ok("down")
    assert "redis" not in text(folder.ok("up"))
