"""A store that was taken out of an app's `stores`, with what the app has there: on real servers, by commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support.command import Folder, project_folder

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
BOTH, ONE = "[postgres, redis]", "[postgres]"


@pytest.fixture
def folder() -> Iterator[Folder]:
    with project_folder("unlisted-store-", MANIFEST.format(stores=BOTH)) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


def test_what_an_app_has_on_a_store_that_its_entry_does_not_name_is_said_and_ends_with_it(folder: Folder) -> None:
    """Plans said nothing of it, and its login there stayed on when the app was removed and when it was purged."""
    address = folder.variables("ann")["REDIS_URL"]
    with redis.Redis.from_url(address) as client:
        client.set("note", "of ann")

    folder.manifest(MANIFEST.format(stores=ONE))
    planned = folder.ok("plan", "--check")
    assert "put redis back into apps.ann.stores" in " ".join((planned.out + planned.err).split())

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
