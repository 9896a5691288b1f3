"""What an app gets on Redis and Valkey, as values."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from multidb.errors import UsageError
from multidb.model import Action, Endpoint, Isolation, Level, Owner, Resource
from multidb.plan import diff
from multidb.provisioners.redis import PROVISIONER
from multidb.provisioners.redis.provision.numbers import allocate, lock_number
from multidb.provisioners.redis.provision.options import AppOptions, ServerOptions
from multidb.provisioners.redis.provision.profiles import PROFILES, ProfileName
from multidb.provisioners.redis.provision.resources import (
    AclUser,
    Claim,
    DefaultUser,
    RedisFacts,
    SavedRules,
    command_rule,
    live_default_user,
    live_user,
    mark,
    parse_mark,
)
from multidb.provisioners.redis.provision.rules import parse_rule
from multidb.secrets import MemorySecretStore, Secret
from tests.support.redis_tables import REDIS_6, REDIS_7, VALKEY_9
from tests.unit.redis.apps import DIGEST, HELD, app, context, sent, wanted_user

# --- options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"db": 0}, "kept empty"),
        ({"db": -1}, "1 or higher"),
        ({"db": 2, "isolation": "prefix"}, "isolation: database when db is given"),
        ({"isolation": "schema"}, "database"),
        ({"channels": ["a b"]}, "without spaces"),
        ({"channels": ["*"]}, "start with a letter"),
        ({"channels": ["__keyspace@0__:*"]}, "start with a letter"),
        ({"channels": ["[a-z]*"]}, "start with a letter"),
        ({"databse": 1}, "Extra inputs"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AppOptions(**options)


@pytest.mark.parametrize("options", [{"databases": 1}, {"maxmemory": "lots"}, {"port": 0}, {"default_user": "off"}])
def test_wrong_server_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ServerOptions(**options)


# --- marks ---


@given(st.text(min_size=1), st.text(min_size=1), st.integers(0, 10**6))
def test_a_mark_is_read_back_and_matches_nothing_but_itself(project: str, name: str, db: int) -> None:
    written = mark(Owner(project, name), db)
    assert parse_mark(written) == (Owner(project, name), db)
    assert not set(written) & set("*?[]\\ ^-") - {"-"}


@pytest.mark.parametrize("pattern", ["lernmi:*", "__multidb__:a:b", "__multidb__:a:b:c", "__multidb__:a:b:1:2", "*"])
def test_other_channels_are_no_marks(pattern: str) -> None:
    assert parse_mark(pattern) is None


# --- desired and found ---


@pytest.mark.parametrize("facts", [REDIS_6, REDIS_7, VALKEY_9], ids=lambda facts: f"{facts.product}-{facts.version}")
@pytest.mark.parametrize("options", [{}, {"isolation": "prefix"}, {"channels": ("rq:pubsub:*",)}], ids=str)
def test_what_is_sent_is_what_is_wanted(facts: RedisFacts, options: dict[str, Any]) -> None:
    want = wanted_user(facts, **options)
    assert live_user(parse_rule(sent(want, facts)), want, facts, HELD) == want


def test_valkey_limits_the_database() -> None:
    text = sent(wanted_user(), VALKEY_9)
    assert " resetdbs db=3 " in text
    assert "select" not in text


def test_redis_pins_select() -> None:
    text = sent(wanted_user(REDIS_7), REDIS_7)
    assert text.endswith(" -select +select|3")
    assert "db=" not in text


def test_a_prefix_limits_keys_and_what_ignores_them() -> None:
    want = wanted_user(isolation="prefix")
    assert (want.keys, want.databases, want.channels) == (("lernmi:*",), "0", ("lernmi:*",))
    granted = VALKEY_9.commands.granted(command_rule(True, 0, VALKEY_9)).commands
    assert not granted & {"scan", "clusterscan", "keys", "randomkey", "dbsize", "flushdb", "sort", "sort_ro"}
    assert {"get", "set"} <= granted


@pytest.mark.parametrize("facts", [REDIS_7, VALKEY_9], ids=lambda facts: facts.product)
@pytest.mark.parametrize("prefix", [False, True])
def test_scripts_are_granted_to_who_asks_for_them_and_nothing_else_with_them(facts: RedisFacts, prefix: bool) -> None:
    without, scripting = (
        facts.commands.granted(command_rule(prefix, 0 if prefix else 3, facts, scripts=scripts)).commands
        for scripts in (False, True)
    )
    assert scripting - without == {"eval", "script|load", "script|exists"}
    assert without < scripting
    assert wanted_user(scripts=True).scripts
    assert not wanted_user().scripts


@pytest.mark.parametrize("facts", [REDIS_7, VALKEY_9], ids=lambda facts: facts.product)
def test_nothing_server_wide_is_granted(facts: RedisFacts) -> None:
    granted = facts.commands.granted(command_rule(False, 3, facts)).commands
    denied = "flushall swapdb move copy config|set acl|setuser client|list client|tracking function|flush script|flush"
    assert not granted & {*denied.split(), "pubsub|channels"}
    assert {"get", "xadd", "info", "client|setname", "scan", "flushdb", "time"} <= granted


def test_a_cluster_without_databases_means_prefix() -> None:
    facts = dataclasses.replace(REDIS_7, cluster=True, databases=1)
    assert allocate([app()], facts, {}) == {"lernmi": 0}
    want = PROVISIONER.desired([app()], context(facts, 0))[0]
    assert isinstance(want, AclUser)
    assert want.keys == ("lernmi:*",)
    assert "cluster|slots" in facts.commands.granted(command_rule(True, 0, facts)).commands


def test_what_an_upgrade_takes_away_is_told_as_one_word() -> None:
    """Apps of an earlier version could run scripts; the plan says that they no longer can, and nothing else."""
    live = parse_rule(sent(wanted_user(scripts=True), VALKEY_9))
    [change] = diff([wanted_user()], [live_user(live, wanted_user(), VALKEY_9, HELD)])
    assert [(each.field, each.old, each.new) for each in change.fields] == [("scripts", True, False)]


@pytest.mark.parametrize(
    ("damage", "field", "value"),
    [
        ((" on ", " off "), "enabled", False),
        ((f" #{DIGEST}", " #aa"), "password", "other"),
        ((f" #{DIGEST}", f" #{DIGEST} #aa"), "password", "current and others"),
        ((f" #{DIGEST}", ""), "password", "none"),
        ((f" #{DIGEST}", " nopass"), "password", "not needed"),
        ((" ~* ", " ~a:* "), "keys", ("a:*",)),
        ((" ~* ", " ~* %R~b "), "keys", ("%R~b", "*")),
        ((" &lernmi:* ", " "), "channels", None),
        ((" db=3 ", " db=3,4 "), "databases", "3,4"),
        ((" db=3 ", " alldbs "), "databases", "all"),
        ((" +info ", " +info +flushall "), "commands", ("+flushall",)),
        ((" +@read ", " "), "commands", None),
        ((" +flushdb", " +flushdb (~a +get)"), "selectors", ("(~a +get)",)),
        ((" on ", " on skip-sanitize-payload "), "sanitized", False),
        ((":lernmi:3 ", ":lernmi:4 "), "db", 4),
    ],
)
def test_each_change_by_hand_shows_in_its_field(damage: tuple[str, str], field: str, value: object) -> None:
    want = wanted_user()
    line = sent(want, VALKEY_9)
    assert damage[0] in line
    found = live_user(parse_rule(line.replace(*damage)), want, VALKEY_9, HELD)
    [change] = diff([want], [found])
    assert [each.field for each in change.fields] == [field]
    assert value is None or change.fields[0].old == value


def test_a_lost_secret_is_told_from_another_one() -> None:
    want = wanted_user()
    assert live_user(parse_rule(sent(want, VALKEY_9)), want, VALKEY_9, MemorySecretStore()).password == "lost"


def test_an_unmarked_user_is_a_conflict_unless_our_password_opens_it() -> None:
    want = wanted_user()
    line = sent(want, VALKEY_9).replace(f"&{mark(Owner('digi', 'lernmi'), 3)}", "")
    ours = diff([want], [live_user(parse_rule(line), want, VALKEY_9, HELD)])
    assert [change.action for change in ours] == [Action.UPDATE]
    stranger = live_user(parse_rule(line.replace(DIGEST, "aa")), want, VALKEY_9, HELD)
    assert [change.action for change in diff([want], [stranger])] == [Action.CONFLICT]


def test_the_mark_of_another_project_is_not_overruled() -> None:
    want = wanted_user()
    line = sent(want, VALKEY_9).replace(":digi:", ":rival:")
    [change] = diff([want], [live_user(parse_rule(line), want, VALKEY_9, HELD)], frozenset({"lernmi"}))
    assert change.action is Action.CONFLICT
    assert "rival/lernmi" in change.reason


@pytest.mark.parametrize(
    ("line", "access"),
    [
        ("user default on nopass ~* &* +@all", "open"),
        ("user default on nopass ~* &* -@all +ping", "open"),
        ("user default on nopass ~* &* -@all", "closed"),
        ("user default off nopass ~* &* +@all", "closed"),
        ("user default on #aa ~* &* +@all", "closed"),
    ],
)
def test_when_the_default_user_is_open(line: str, access: str) -> None:
    assert live_default_user(parse_rule(line)).access == access


def _kinds(resources: Any) -> set[type[Resource]]:
    return {type(resource) for resource in resources}


def test_the_default_user_is_left_alone_when_it_is_us_or_to_be_kept() -> None:
    assert DefaultUser in _kinds(PROVISIONER.desired([app()], context()))
    assert DefaultUser not in _kinds(PROVISIONER.desired([app()], context(default_user="keep")))
    as_default = dataclasses.replace(VALKEY_9, admin="default")
    assert DefaultUser not in _kinds(PROVISIONER.desired([app()], context(as_default)))


@pytest.mark.parametrize(
    ("admin", "way_on"),
    [
        ("multidb_admin", "multidb apply turns it off, unless servers.redis.default_user is keep"),
        ("default", "give it an admin of its own, then multidb apply"),
    ],
)
def test_an_open_default_user_is_told_with_what_closes_it(admin: str, way_on: str) -> None:
    level, why = PROVISIONER.isolation(app(), dataclasses.replace(VALKEY_9, admin=admin, default_open=True))
    assert level is Isolation.NAMING_ONLY
    assert way_on in why


def test_where_nothing_can_be_saved_nothing_is_planned_to() -> None:
    nowhere = dataclasses.replace(VALKEY_9, persistence="none")
    assert SavedRules in _kinds(PROVISIONER.desired([app()], context()))
    assert SavedRules not in _kinds(PROVISIONER.desired([app()], context(nowhere)))
    assert "forgets them" in PROVISIONER.isolation(app(), nowhere)[1]


# --- numbers ---


def test_lowest_free_numbers_from_one() -> None:
    assert allocate([app("a1"), app("b1")], VALKEY_9, {}) == {"a1": 1, "b1": 2}


def test_a_number_is_chosen_that_nobody_has_had_or_uses() -> None:
    facts = dataclasses.replace(
        VALKEY_9, keys={2: 5}, claims=(Claim("legacy", 3), Claim("x_user", 4, Owner("other", "x")))
    )
    assert allocate([app("a1")], facts, {"gone": 1}) == {"a1": 5}


def test_explicit_wins_over_the_mark_that_over_the_record() -> None:
    facts = dataclasses.replace(VALKEY_9, claims=(Claim("lernmi_user", 7, Owner("digi", "lernmi")),))
    assert allocate([app(db=9)], facts, {"lernmi": 8}) == {"lernmi": 9}
    assert allocate([app()], facts, {"lernmi": 8}) == {"lernmi": 7}
    assert allocate([app()], VALKEY_9, {"lernmi": 8}) == {"lernmi": 8}


def test_a_recorded_number_stays_even_when_its_db_is_full() -> None:
    assert allocate([app()], dataclasses.replace(VALKEY_9, keys={8: 1000}), {"lernmi": 8}) == {"lernmi": 8}


def test_a_recorded_number_that_is_now_somebody_elses_is_given_up() -> None:
    facts = dataclasses.replace(VALKEY_9, claims=(Claim("x_user", 1, Owner("other", "x")),))
    assert allocate([app()], facts, {"lernmi": 1}) == {"lernmi": 2}


def test_a_number_that_two_projects_have_marked_is_named_and_moves_no_app() -> None:
    own = Claim("lernmi_user", 7, Owner("digi", "lernmi"))
    for other in (Claim("x_user", 7, Owner("other", "x")), Claim("gone_user", 7, Owner("digi", "gone"))):
        for claims in ((own, other), (other, own)):
            facts = dataclasses.replace(VALKEY_9, claims=claims)
            with pytest.raises(UsageError, match=f"DB 7 .* of app lernmi and of {other}") as refused:
                allocate([app()], facts, {"lernmi": 7})
            assert "apps.lernmi.redis.db" in (refused.value.hint or "")
            assert allocate([app(db=8), app("b1")], facts, {"lernmi": 7}) == {"lernmi": 8, "b1": 1}, "as the hint says"
            with pytest.raises(UsageError, match=f"DB 7 belongs to {other}"):
                allocate([app(db=7)], facts, {"lernmi": 7})


def test_a_user_made_by_hand_for_an_apps_number_moves_no_app() -> None:
    own, stranger = Claim("lernmi_user", 7, Owner("digi", "lernmi")), Claim("exporter", 7)
    for claims in ((own, stranger), (stranger, own)):
        facts = dataclasses.replace(VALKEY_9, claims=claims)
        assert allocate([app()], facts, {"lernmi": 7}) == {"lernmi": 7}
        assert allocate([app(db=7)], facts, {"lernmi": 7}) == {"lernmi": 7}
        assert allocate([app(), app("b1")], facts, {"b1": 7}) == {"lernmi": 7, "b1": 1}


def test_a_mark_on_the_server_outweighs_an_old_copy_of_the_state() -> None:
    own = Claim("lernmi_user", 7, Owner("digi", "lernmi"))
    facts = dataclasses.replace(VALKEY_9, claims=(own,))
    assert allocate([app()], facts, {}) == {"lernmi": 7}
    assert allocate([app()], facts, {"gone": 7}) == {"lernmi": 7}, "an app that is long gone, says the copy"
    assert allocate([app(), app("b1")], facts, {"lernmi": 3, "b1": 7}) == {"lernmi": 7, "b1": 1}
    foreign = dataclasses.replace(VALKEY_9, claims=(Claim("lernmi_user", 7),))
    with pytest.raises(UsageError, match="DB 7 belongs to app"):
        allocate([app(), app("b1")], foreign, {"b1": 7})


def test_two_apps_with_one_recorded_number_are_named_where_no_mark_decides() -> None:
    with pytest.raises(UsageError, match="DB 7 belongs to app lernmi") as refused:
        allocate([app(), app("b1")], VALKEY_9, {"lernmi": 7, "b1": 7})
    assert "db: number" in (refused.value.hint or "")
    assert allocate([app(), app("b1", db=8)], VALKEY_9, {"lernmi": 7, "b1": 7}) == {"lernmi": 7, "b1": 8}, "as it says"


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("elsewhere", [{"db": 9}, {"isolation": "prefix"}])
def test_no_app_is_sent_away_from_its_keys(elsewhere: dict[str, Any], marked: bool) -> None:
    claims = (Claim("lernmi_user", 7, Owner("digi", "lernmi")),) if marked else ()
    recorded = {} if marked else {"lernmi": 7}
    facts = dataclasses.replace(VALKEY_9, claims=claims, keys={7: 2, 9: 1})
    with pytest.raises(UsageError, match="2 keys of it are in DB 7") as refused:
        allocate([app(**elsewhere), app("b1")], facts, recorded)
    assert "db: 7 again (apps.lernmi.redis)" in (refused.value.hint or "")
    assert allocate([app(db=7)], facts, recorded) == allocate([app()], facts, recorded) == {"lernmi": 7}
    theirs = dataclasses.replace(facts, claims=(Claim("lernmi_user", 7),))
    assert allocate([app(**elsewhere)], theirs, {}) == {"lernmi": elsewhere.get("db", 0)}, "a conflict, and said as one"
    empty = dataclasses.replace(facts, keys={9: 1})
    assert allocate([app(**elsewhere)], empty, recorded) == {"lernmi": elsewhere.get("db", 0)}


@pytest.mark.parametrize("elsewhere", [{"isolation": "database"}, {"db": 9}])
def test_no_app_is_sent_away_from_its_prefix(elsewhere: dict[str, Any]) -> None:
    facts = dataclasses.replace(VALKEY_9, claims=(Claim("lernmi_user", 0, Owner("digi", "lernmi")),))
    with pytest.raises(UsageError, match="DB 0, under its prefix") as refused:
        allocate([app(**elsewhere)], facts, {"lernmi": 0})
    assert "isolation: prefix again (apps.lernmi.redis)" in (refused.value.hint or "")
    assert allocate([app(isolation="prefix"), app("b1")], facts, {"lernmi": 0}) == {"lernmi": 0, "b1": 1}
    assert allocate([app(), app("b1")], facts, {}) == {"lernmi": 0, "b1": 1}, "one that is not told stays"


class Looked(tuple[Claim, ...]):
    """Claims that count how often somebody goes through them."""

    times = 0

    def __iter__(self) -> Iterator[Claim]:
        type(self).times += 1
        return super().__iter__()


def test_claims_are_gone_through_as_often_for_many_apps_as_for_few() -> None:
    counted = []
    for number in (5, 50):
        names = [f"a{n}" for n in range(number)]
        claims = Looked(Claim(f"{name}_user", n + 1, Owner("digi", name)) for n, name in enumerate(names))
        facts = dataclasses.replace(VALKEY_9, claims=claims)
        Looked.times = 0
        assert allocate([app(name) for name in names], facts, {}) == {name: n + 1 for n, name in enumerate(names)}
        counted.append(Looked.times)
    assert counted[0] == counted[1]


@pytest.mark.parametrize("recorded", [{}, {"a1": 5}])
def test_two_apps_with_one_number(recorded: dict[str, int]) -> None:
    first = app("a1") if recorded else app("a1", db=5)
    with pytest.raises(UsageError, match="DB 5 belongs to app") as caught:
        allocate([first, app("b1", db=5)], VALKEY_9, recorded)
    assert {"a1", "b1"} <= set(str(caught.value).replace(":", " ").split())


def test_an_explicit_number_of_a_foreign_user_or_a_removed_app_is_refused() -> None:
    facts = dataclasses.replace(VALKEY_9, claims=(Claim("legacy", 3),))
    with pytest.raises(UsageError, match="DB 3 belongs to ACL user legacy"):
        allocate([app(db=3)], facts, {})
    with pytest.raises(UsageError, match="DB 3 belongs to app gone"):
        allocate([app(db=3)], VALKEY_9, {"gone": 3})


def test_beyond_the_servers_databases() -> None:
    with pytest.raises(UsageError, match="DB 64 is beyond the server's last one, 63") as caught:
        allocate([app(db=64)], VALKEY_9, {})
    assert "servers.redis.databases" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="beyond"):
        allocate([app(f"a{n}") for n in range(16)], REDIS_7, {})
    assert len(allocate([app(f"a{n}") for n in range(14)], REDIS_7, {})) == 14  # all but DB 0 and that of the lock


def test_the_lock_is_where_no_app_is() -> None:
    assert (lock_number(VALKEY_9), lock_number(REDIS_7)) == (0, 15)
    assert allocate([app(db=15)], REDIS_7, {}) == {"lernmi": 15}
    claimed = dataclasses.replace(REDIS_7, claims=(Claim("lernmi_user", 15, Owner("digi", "lernmi")),))
    assert lock_number(claimed) == 0
    assert lock_number(dataclasses.replace(REDIS_7, databases=1)) == 0
    assert lock_number(dataclasses.replace(REDIS_7, databases=None)) == 0


def test_an_unknown_number_of_databases_is_not_checked() -> None:
    assert allocate([app(db=500)], dataclasses.replace(VALKEY_9, databases=None), {}) == {"lernmi": 500}


def test_prefix_and_database_mix_only_where_the_server_keeps_them_apart() -> None:
    apps = [app("a1"), app("b1", isolation="prefix")]
    assert allocate(apps, VALKEY_9, {}) == {"a1": 1, "b1": 0}
    with pytest.raises(UsageError, match="does not go with that of app b1"):
        allocate(apps, REDIS_7, {})
    other = dataclasses.replace(REDIS_7, claims=(Claim("x_user", 4, Owner("other", "x")),))
    with pytest.raises(UsageError, match="app x of project other"):
        allocate([app(isolation="prefix")], other, {})


# --- environment and isolation ---


def test_the_apps_environment() -> None:
    env = PROVISIONER.env(app(), context(), Endpoint("redis", 6379), lambda ref: Secret("p%40ss/word"))
    shown = {name: value.reveal() if isinstance(value, Secret) else value for name, value in env.items()}
    assert shown == {
        "REDIS_URL": "redis://lernmi_user:p%2540ss%2Fword@redis:6379/3",
        "REDIS_HOST": "redis",
        "REDIS_PORT": "6379",
        "REDIS_USER": "lernmi_user",
        "REDIS_PASSWORD": "p%40ss/word",
        "REDIS_DB": "3",
        "REDIS_DB_LERNMI": "3",
    }
    assert isinstance(env["REDIS_URL"], Secret)


def test_tls_and_prefix_in_the_environment() -> None:
    env = PROVISIONER.env(
        app(isolation="prefix"), context(number=0), Endpoint("redis", 6379, tls=True), lambda ref: Secret("password")
    )
    url = env["REDIS_URL"]
    assert isinstance(url, Secret)
    assert url.reveal() == "rediss://lernmi_user:password@redis:6379/0"
    assert env["REDIS_KEY_PREFIX"] == "lernmi:"


@pytest.mark.parametrize("isolation", ["database", "prefix"])
def test_a_profile_gives_scripts_channels_of_its_own_and_variables(isolation: str) -> None:
    user, plain = (wanted_user(isolation=isolation, **more) for more in ({"profile": "celery"}, {"scripts": True}))
    assert set(user.channels) - set(plain.channels) == {
        f"lernmi:/{user.db}.{name}" for name in ("*", "celery.pidbox", "celeryev/*", "celeryev/worker.*")
    }
    assert dataclasses.replace(user, channels=plain.channels) == plain
    with_profile, without = (
        PROVISIONER.env(app(isolation=isolation, **more), context(), Endpoint("redis", 6379), lambda ref: Secret("x"))
        for more in ({"profile": "celery"}, {"scripts": True})
    )
    more = {name: with_profile[name] for name in with_profile.keys() - without.keys()}
    assert more == {"CELERY_KEY_PREFIX": "lernmi:"}


@pytest.mark.parametrize("name", list(ProfileName))
def test_what_a_profile_names_is_the_apps_own(name: ProfileName) -> None:
    user = wanted_user(profile=name)
    assert user.scripts
    assert all(channel.startswith(("lernmi:", "/3.")) for channel in user.channels)
    own = ("{app}:", "{url}", "{host}", "{port}", "{user}", "{password}", "{number}")
    assert all(value.startswith(own) for value in PROFILES[name].variables.values())


def test_a_profile_of_an_application_gives_the_variables_that_it_reads() -> None:
    variables = PROVISIONER.env(app(profile="n8n"), context(), Endpoint("redis", 6379), lambda ref: Secret("pass word"))
    names = ("PREFIX", "REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_DB")
    given = [variables[f"QUEUE_BULL_{name}"] for name in names]
    number = variables["REDIS_DB"]
    assert given == ["lernmi:bull", "redis", "6379", "lernmi_user", Secret("pass word"), number]
    broker = PROVISIONER.env(app(profile="airflow"), context(), Endpoint("redis", 6379), lambda ref: Secret("x"))
    assert broker["AIRFLOW__CELERY__BROKER_URL"] == broker["REDIS_URL"]


@pytest.mark.parametrize("name", [ProfileName.RQ, ProfileName.SIDEKIQ])
def test_a_profile_with_fixed_names_needs_a_number(name: ProfileName) -> None:
    with pytest.raises(ValidationError, match="fixed names"):
        AppOptions(profile=name, isolation="prefix")


@pytest.mark.parametrize(
    ("facts", "options", "level"),
    [
        (VALKEY_9, {}, Isolation.ENFORCED),
        (VALKEY_9, {"channels": ("rq:pubsub:*",)}, Isolation.PARTIAL),
        (REDIS_7, {}, Isolation.PARTIAL),
        (REDIS_7, {"isolation": "prefix"}, Isolation.ENFORCED),
        (dataclasses.replace(VALKEY_9, default_open=True), {}, Isolation.NAMING_ONLY),
        (dataclasses.replace(REDIS_7, default_open=True), {"isolation": "prefix"}, Isolation.NAMING_ONLY),
    ],
)
def test_isolation_is_said_as_it_is(facts: RedisFacts, options: dict[str, Any], level: Isolation) -> None:
    assert PROVISIONER.isolation(app(**options), facts)[0] is level


def test_importing_the_store_imports_no_driver() -> None:
    code = "import sys, multidb.provisioners.redis; assert 'redis' not in sys.modules, 'driver'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_server_that_forgets_its_users_is_told_by_apply_and_doctor() -> None:
    assert PROVISIONER.caveats is not None
    assert PROVISIONER.advise is not None
    assert PROVISIONER.caveats(REDIS_7) == ()
    [caveat] = PROVISIONER.caveats(REDIS_6)  # its table says that nothing is saved
    assert "forgets them when it restarts" in caveat
    [found] = PROVISIONER.advise([app()], context(REDIS_6))
    assert (found.level, found.message) == (Level.WARNING, caveat)
    assert "aclfile" in found.fix
    saved, scripts = PROVISIONER.advise([app(scripts=True)], context(VALKEY_9))
    assert (saved.level, scripts.level) == (Level.OK, Level.OK)
    assert "lernmi may run scripts" in scripts.message
