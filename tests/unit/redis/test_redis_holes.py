"""Holes in a server's rules that a real server shows only in part."""

from __future__ import annotations

from multidb.model import Hole, Inspection, Owner
from multidb.provisioners.redis.isolation.holes import Catalog, find_holes
from multidb.provisioners.redis.provision.resources import mark
from multidb.provisioners.redis.provision.rules import parse_rule
from tests.support.redis_tables import VALKEY_9
from tests.unit.redis.apps import DIGEST, HELD, app, context, sent, wanted_user

MARK = f"&{mark(Owner('digi', 'lernmi'), 3)}"


def holes(line: str) -> list[Hole]:
    """What is found on a server with the one user."""
    rule = parse_rule(line)
    return list(find_holes(Inspection(context(), [app()], [wanted_user()], HELD), Catalog({rule.user: rule})))


def test_an_app_whose_mark_was_wiped_is_no_stranger() -> None:
    line = sent(wanted_user(), VALKEY_9)
    assert holes(line) == []
    [found] = holes(line.replace(MARK, "allchannels"))
    assert found.name == "rights beyond the app"
    assert found.app == "lernmi"
    assert " off" not in "".join(found.closes)


def test_a_login_under_an_apps_name_that_nothing_says_is_the_apps() -> None:
    unmarked = sent(wanted_user(), VALKEY_9).replace(MARK, "allchannels")
    for other in (unmarked.replace(f"#{DIGEST}", "#aa"), unmarked.replace(f"#{DIGEST}", "nopass")):
        assert other != unmarked
        [found] = holes(other)
        assert (found.name, found.app) == ("another way in", "lernmi")
        assert found.closes[0] == "ACL SETUSER lernmi_user resetpass"
        assert "--adopt lernmi" in found.message
    assert holes(unmarked.replace(f"#{DIGEST}", "")) == []  # what closes it leaves nothing to find


def test_another_projects_app_of_the_same_name_is_no_stranger() -> None:
    assert holes(sent(wanted_user(), VALKEY_9).replace(":digi:", ":rival:")) == []


def test_a_login_of_an_app_that_is_gone_is_told_by_every_audit() -> None:
    """An audit drops the holes of apps that are not in the manifest, so that this one may belong to none."""
    gone = f"user gone_user on #{DIGEST} resetchannels &{mark(Owner('digi', 'gone'), 5)} -@all +ping"
    [found] = holes(gone)
    assert (found.name, found.app) == ("login of an app that is gone", None)
    assert "gone" in found.message
