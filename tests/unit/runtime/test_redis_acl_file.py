"""The ACL file of an embedded Valkey: ours are two lines, the rest belongs to the server."""

import pytest

from multidb.provisioners.redis.hosting.process import guarded

NEW, OLD = "a" * 64, "b" * 64
APP = "user lernmi_user on sanitize-payload #" + "c" * 64 + " ~* resetchannels &lernmi:* db=3 -@all +@read"


def test_an_empty_file_gets_a_closed_default_user_and_the_admin() -> None:
    default, admin = guarded("", NEW).splitlines()
    assert default.startswith("user default off ")
    assert admin == f"user multidb_admin on sanitize-payload #{NEW} ~* &* +@all"


def test_what_is_right_is_left_alone() -> None:
    acl = guarded("", NEW) + APP + "\n"
    assert guarded(acl, NEW) == acl


def test_the_lines_of_apps_survive_every_repair() -> None:
    acl = f"user default on nopass ~* &* +@all\n{APP}\nuser multidb_admin on #{OLD} ~* &* +@all\n"
    repaired = guarded(acl, NEW)
    assert APP in repaired.splitlines()
    assert OLD not in repaired
    assert "nopass" not in repaired


@pytest.mark.parametrize("blank", ["\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u2028"])
def test_what_only_python_takes_for_a_blank_or_a_line_end_is_part_of_a_name(blank: str) -> None:
    others = [
        f"user ann{blank}lee on #{OLD} ~k{blank}* resetchannels -@all +get",
        f"user multidb_admin{blank} on #{OLD} ~* &* +@all",
        f"user default{blank} on nopass ~* &* +@all",
        f"user ends{blank}",
        "user \udcff\udc80 on",
    ]
    repaired = guarded("\n".join([*others, "user default on nopass", ""]), NEW)
    assert repaired.split("\n")[1:-2] == others
    assert repaired.startswith("user default off ")
    assert guarded(repaired, NEW) == repaired


def test_an_admin_line_that_opens_to_a_second_password_is_replaced() -> None:
    acl = guarded("", NEW).replace(f"#{NEW}", f"#{NEW} #{OLD}")
    assert OLD not in guarded(acl, NEW)


def test_an_admin_that_lacks_a_right_gets_it_back() -> None:
    acl = guarded("", NEW).replace("+@all", "+@all -@dangerous")
    assert "-@dangerous" not in guarded(acl, NEW)


def test_a_user_whose_name_begins_like_the_admins_is_another_user() -> None:
    other = f"user multidb_admin2 on #{OLD} ~* &* +@all"
    assert other in guarded(other + "\n", NEW).splitlines()
