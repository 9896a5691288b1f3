"""Reading ACL rules and telling what they allow."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multidb.provisioners.redis.provision.resources import command_rule
from multidb.provisioners.redis.provision.rules import BYTES, Granted, join_line, parse_rule, same_rights, split_line
from tests.support.redis_tables import REDIS_6, REDIS_7

TABLE = REDIS_7.commands


def allowed(*tokens: str) -> Granted:
    return TABLE.granted(tokens)


def test_a_line_of_acl_list_is_read_whole() -> None:
    rule = parse_rule(
        "user lernmi_user on skip-sanitize-payload #aa #bb ~b:* %R~a:* resetchannels &lernmi:* db=10,9 -@all +get "
        "+select|3 (~x resetchannels -@all +get) (~y +@all)"
    )
    assert (rule.user, rule.enabled, rule.nopass, rule.sanitized) == ("lernmi_user", True, False, False)
    assert rule.passwords == {"aa", "bb"}
    assert rule.keys == ("%R~a:*", "b:*")
    assert rule.channels == ("lernmi:*",)
    assert rule.databases == "9,10"
    assert rule.commands == ("-@all", "+get", "+select|3")
    assert rule.selectors == ("(~x resetchannels -@all +get)", "(~y +@all)")


def test_a_user_whose_name_looks_like_a_rule_is_only_a_name() -> None:
    rule = parse_rule("user on off resetchannels -@all")
    assert (rule.user, rule.enabled) == ("on", False)


def test_the_old_words_for_everything_and_nothing() -> None:
    assert parse_rule("user x on allkeys allchannels allcommands").keys == ("*",)
    assert parse_rule("user x on allkeys allchannels allcommands").channels == ("*",)
    assert parse_rule("user x on nocommands").commands == ("-@all",)


@pytest.mark.parametrize(
    ("words", "databases"),
    [("", "all"), (" alldbs", "all"), (" resetdbs", "none"), (" resetdbs db=3", "3"), (" alldbs db=3", "3")],
)
def test_the_last_database_rule_counts(words: str, databases: str) -> None:
    assert parse_rule(f"user x on{words} -@all").databases == databases


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        ("user x on db=3,4 +@all", (3, 4)),
        ("user x on -@all -select +select|7", (7,)),
        ("user x on resetdbs -@all", ()),
        ("user x on +@all", ()),
    ],
)
def test_the_numbers_that_a_user_is_limited_to(line: str, numbers: tuple[int, ...]) -> None:
    assert parse_rule(line).database_numbers == numbers


def test_tokens_are_evaluated_from_left_to_right() -> None:
    assert allowed("-@all", "+@string", "-set").commands == {"get"}
    assert allowed("-@all", "-set", "+@string").commands == {"get", "set"}
    assert allowed("+@all", "-@all", "+get").commands == {"get"}


def test_a_container_stands_for_its_subcommands() -> None:
    assert allowed("-@all", "+script").commands == {"script|load", "script|exists", "script|flush"}
    assert allowed("-@all", "+@scripting", "-script", "+script|load").commands == {
        "eval",
        "function|flush",
        "script|load",
    }


def test_a_first_argument_is_lost_with_its_command() -> None:
    assert allowed("-@all", "+select|3").first_arguments == {"select|3"}
    assert allowed("-@all", "+select|3", "-select").first_arguments == frozenset()
    assert allowed("-@all", "+select|3", "+@connection").first_arguments == frozenset()
    assert allowed("-@all", "+select", "+select|3").first_arguments == frozenset()
    assert allowed("-@all", "+select|3", "+select|4").first_arguments == {"select|3", "select|4"}


def test_future_commands_stay_allowed_when_one_is_taken_away() -> None:
    assert allowed("+@all", "-config").future
    assert not allowed("+@all", "-@all").future


def test_a_deviation_names_what_is_too_much_and_what_is_missing() -> None:
    wanted = allowed("-@all", "+get", "+set")
    assert allowed("-@all", "+get", "+config|set").deviation(wanted) == ("+config|set", "-set")
    assert allowed("+@all").deviation(allowed(*(f"+{name}" for name in TABLE.names))) == ("+@all",)
    assert allowed("-@all", "+set", "+get").deviation(wanted) == ()


@pytest.mark.parametrize(
    ("token", "understood"),
    [
        ("+get", True),
        ("+@read", True),
        ("-@all", True),
        ("-function", True),
        ("+client|id", True),
        ("+client|setinfo", False),
        ("+clusterscan", False),
        ("+@search", False),
        ("+select|3", True),
        ("-select|3", False),
    ],
)
def test_only_what_redis_7_understands_is_sent(token: str, understood: bool) -> None:
    assert TABLE.understands(token) is understood


def test_before_redis_7_a_subcommand_is_a_first_argument() -> None:
    table = REDIS_6.commands
    assert table.known(["-client", "+client|id", "-function"]) == ("-client", "+client|id")
    assert table.granted(("-@all", "+client|id")).first_arguments == {"client|id"}
    granted = table.granted(command_rule(False, 3, REDIS_6))
    assert "memory" not in granted.commands, "there MEMORY STATS is a read command"
    assert {"memory|usage", "client|id", "select|3"} <= granted.first_arguments


@given(st.lists(st.text()))
def test_a_line_is_read_back_as_it_was_written(words: list[str]) -> None:
    assert split_line(join_line(words)) == words


@given(st.lists(st.binary(max_size=20)))
def test_bytes_that_are_no_text_come_back_and_can_be_shown(words: list[bytes]) -> None:
    line = join_line([word.decode(errors=BYTES) for word in words])
    assert line.isprintable()
    assert [word.encode(errors=BYTES) for word in split_line(line)] == words


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("user x >pw on allkeys allchannels allcommands", "user x on #{pw} ~* &* +@all"),
        ("user x on nopass #aa", "user x on #aa"),
        ("user x on #aa nopass", "user x on nopass"),
        ("user x on #aa #bb !aa", "user x on #bb"),
        ("user x on #{pw} #bb <pw", "user x on #bb"),
        ("user x on ~* resetkeys ~a:*", "user x on ~a:*"),
        ("user x on &* resetchannels &a", "user x on &a"),
        ("user x on (~* +get) clearselectors", "user x on"),
        ("user x on nopass ~* &* +@all reset off", "user x off"),
        ("user x off ~* on off", "user x off ~*"),
        ("user x on %RW~a", "user x on ~a"),
        ("user x on db=3 alldbs", "user x on"),
        ("user x on nopass resetpass", "user x on"),
    ],
)
def test_words_hold_from_left_to_right(line: str, same: str) -> None:
    pw = hashlib.sha256(b"pw").hexdigest()
    one, other = (parse_rule(each.replace("{pw}", pw)) for each in (line, same))
    assert same_rights(one, other, TABLE)


@pytest.mark.parametrize(
    "other",
    [
        "user x off ~* -@all +get (~a +get)",
        "user x on %R~* -@all +get (~a +get)",
        "user x on ~* -@all +get +set (~a +get)",
        "user x on ~* -@all +get (~a +set)",
        "user x on ~* -@all +get",
        "user x on ~* db=3 -@all +get (~a +get)",
    ],
)
def test_rules_that_allow_something_else_are_not_the_same(other: str) -> None:
    rule = parse_rule("user x on ~* -@all +get (~a +get)")
    assert same_rights(rule, parse_rule("user x on (~a -@all +get) ~* -@all +get"), TABLE)
    assert not same_rights(rule, parse_rule(other), TABLE)


def test_what_a_user_is_called_is_no_part_of_its_rule() -> None:
    assert parse_rule("user (x on +get (~a +get)").selectors == ("(~a +get)",)
    assert parse_rule("user #x on nopass").passwords == frozenset()


def test_a_pattern_that_ends_in_a_bracket_ends_no_selector() -> None:
    rule = parse_rule("user x on -@all +get (~a) resetchannels -@all +set)")
    assert rule.commands == ("-@all", "+get")
    assert rule.selectors == ("(~a) resetchannels -@all +set)",)


def test_plain_words_need_no_quotes() -> None:
    assert join_line(["ACL", "SETUSER", "x", "~*", "&a:*", "#$hash"]) == "ACL SETUSER x ~* &a:* #$hash"
    assert join_line(['say "hi"', ""]) == '"say \\"hi\\"" ""'


def test_an_open_quote_is_refused() -> None:
    with pytest.raises(ValueError, match="not closed"):
        split_line('GET "x')
