"""A Redis app that the manifest has elsewhere than its keys are: on a real server, by the command line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import redis

from tests.support.command import Folder, project_folder

pytestmark = pytest.mark.server

MANIFEST = """\
version: 1
project: places
runtime: embedded
backup: {{to: [sets/]}}
apps:
  ann: {{stores: [redis], redis: {{{place}}}}}
"""
PLACES = ("db: 7", "isolation: prefix", "db: 9")


@pytest.fixture
def folder() -> Iterator[Folder]:
    with project_folder("redis-places-", MANIFEST.format(place="db: 7")) as made:
        yield made


def keys(folder: Folder, app: str) -> set[str]:
    """What the app finds under the name ``note``, with its prefix."""
    variables = folder.variables(app)
    with redis.Redis.from_url(variables["REDIS_URL"], decode_responses=True) as client:
        return {value} if (value := client.get(f"{variables.get('REDIS_KEY_PREFIX', '')}note")) is not None else set()


def write(folder: Folder, app: str, text: str) -> None:
    variables = folder.variables(app)
    with redis.Redis.from_url(variables["REDIS_URL"]) as client:
        client.set(f"{variables.get('REDIS_KEY_PREFIX', '')}note", text)


def test_an_app_is_not_sent_away_from_its_keys_and_takes_them_along_as_said(folder: Folder) -> None:
    """It had an empty place without a word, and what it left another app was given with the number."""
    folder.ok("up")
    folder.ok("apply", "--yes")
    write(folder, "ann", "of ann")
    for before, after in pairwise(PLACES):
        folder.manifest(MANIFEST.format(place=after))
        for command in (("plan", "--check"), ("apply", "--yes")):
            refused = folder.run(*command)
            said = " ".join(refused.err.split())
            assert (refused.code, f"{before} again (apps.ann.redis)" in said) == (2, True), refused
        folder.manifest(MANIFEST.format(place=before))
        folder.ok("plan", "--check")
        assert keys(folder, "ann") == {"of ann"}
        # as the hint says
        folder.ok("remove-app", "ann", "--yes")
        folder.ok("purge", "ann", "--yes-destroy", "ann")
        folder.manifest(MANIFEST.format(place=after))
        folder.ok("apply", "--yes")
        assert keys(folder, "ann") == set()
        (made, *_) = folder.ok("backups", "list", "ann", "--json").json()["sets"]
        folder.ok("restore", made["set"])
        assert keys(folder, "ann") == {"of ann"}
        folder.ok("audit")


def test_an_app_that_has_nothing_goes_to_another_number(folder: Folder) -> None:
    folder.ok("up")
    folder.ok("apply", "--yes")
    folder.manifest(MANIFEST.format(place="db: 9"))
    folder.ok("apply", "--yes")
    assert folder.variables("ann")["REDIS_DB"] == "9"
    folder.ok("plan", "--check")


@pytest.mark.parametrize("ending", ["remove-app", "purge"])
def test_an_app_under_its_prefix_of_which_only_the_server_knows_is_ended_where_it_is(
    folder: Folder, ending: str
) -> None:
    """Its final set was one of an empty DB."""
    before = MANIFEST.format(place="isolation: prefix")
    folder.manifest(before.replace("ann:", "bob: {stores: [redis]}\n  ann:"))
    folder.ok("up")
    folder.ok("apply", "--yes")
    write(folder, "ann", "of ann")
    folder.manifest(before.replace("ann:", "bob: {stores: [redis]}\n  # ann:"))
    assert folder.run("plan", "--check").code == 1
    if ending == "remove-app":
        folder.ok("remove-app", "ann", "--yes")
    folder.ok("purge", "ann", "--yes-destroy", "ann")
    folder.ok("plan", "--check")
    if ending == "remove-app":
        (made,) = folder.ok("backups", "list", "ann", "--json").json()["sets"]
        folder.manifest(before)
        folder.ok("apply", "--yes")
        folder.ok("restore", made["set"])
        assert keys(folder, "ann") == {"of ann"}
