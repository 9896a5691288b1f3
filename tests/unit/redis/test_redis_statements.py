"""What is sent, and in which order."""

from __future__ import annotations

import dataclasses

from multidb.model import Alternates, App, Owner, StoreContext
from multidb.plan import diff
from multidb.provisioners.redis import PROVISIONER
from multidb.provisioners.redis.provision.options import AppOptions
from multidb.provisioners.redis.provision.resources import AclUser, hash_ref
from multidb.secrets import Alternate
from tests.support.redis_tables import REDIS_7, VALKEY_9

CONTEXT = StoreContext("digi", VALKEY_9, None, {"lernmi": 3})
APPS = [App("lernmi", "lernmi", {"redis": AppOptions()})]


def texts(live: list[object], context: StoreContext = CONTEXT, adopt: frozenset[str] = frozenset()) -> list[str]:
    changes = diff(PROVISIONER.desired(APPS, context), live, adopt)  # type: ignore[arg-type]
    return [statement.text for change in changes for statement in PROVISIONER.statements(change, context)]


def test_the_note_comes_first_and_saving_last() -> None:
    sent = texts([])
    assert sent[0] == "ACL SETUSER __multidb__:unsaved reset off"
    assert sent[1].startswith("ACL SETUSER lernmi_user reset on #$user_sha256 ~* resetchannels ")
    assert sent[2] == "ACL SETUSER default off resetpass"
    assert sent[3:] == ["ACL SAVE", "ACL DELUSER __multidb__:unsaved", "ACL SAVE"]


def test_without_an_aclfile_the_configuration_is_rewritten() -> None:
    context = dataclasses.replace(CONTEXT, facts=REDIS_7)
    assert texts([], context)[-1] == "CONFIG REWRITE"


def test_only_the_hash_of_the_password_is_bound() -> None:
    change = next(change for change in diff(PROVISIONER.desired(APPS, CONTEXT), []) if change.resource.app)
    [statement] = PROVISIONER.statements(change, CONTEXT)
    assert statement.binds == (("user_sha256", hash_ref("lernmi")),)
    specs = {spec.ref: spec for spec in PROVISIONER.secrets(APPS[0])}
    derive = specs[hash_ref("lernmi")].derive
    assert derive is not None
    assert derive("x") == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def test_adopting_saves_by_itself() -> None:
    want = next(want for want in PROVISIONER.desired(APPS, CONTEXT) if isinstance(want, AclUser))
    others = [other for other in PROVISIONER.desired(APPS, CONTEXT) if other is not want]
    unmarked = dataclasses.replace(want, owner=None)
    assert texts([*others, unmarked]) == []
    adopting = texts([*others, unmarked], adopt=frozenset({"lernmi"}))
    assert [text.split()[1] for text in adopting] == ["SETUSER", "SETUSER", "SAVE", "DELUSER", "SAVE"]


def test_a_user_of_another_manifest_is_never_touched() -> None:
    want = next(want for want in PROVISIONER.desired(APPS, CONTEXT) if isinstance(want, AclUser))
    others = [other for other in PROVISIONER.desired(APPS, CONTEXT) if other is not want]
    foreign = dataclasses.replace(want, owner=Owner("rival", "lernmi"))
    assert texts([*others, foreign], adopt=frozenset({"lernmi"})) == []


def test_a_retired_user_loses_its_password_after_its_sessions() -> None:
    """So that a plan sees what is left to do, wherever a run was killed."""
    both = Alternates(Alternate.SECOND, frozenset(Alternate), tuple(Alternate))
    alone = dataclasses.replace(both, working=frozenset({Alternate.SECOND}))
    before = PROVISIONER.desired(APPS, dataclasses.replace(CONTEXT, alternates={"lernmi": both}))
    finishing = dataclasses.replace(CONTEXT, alternates={"lernmi": alone})
    retiring = [text for text in texts(list(before), finishing) if "lernmi" in text]
    assert retiring[:2] == ["ACL SETUSER lernmi_user off", "CLIENT KILL USER lernmi_user"]
    assert [text.partition(" ~")[0] for text in retiring[2:]] == ["ACL SETUSER lernmi_user reset off"]
    killed = [
        dataclasses.replace(user, enabled=False) if isinstance(user, AclUser) and user.name == "lernmi_user" else user
        for user in before
    ]
    assert [text for text in texts(killed, finishing) if "lernmi" in text] == retiring
    assert not any("KILL" in text for text in texts(list(PROVISIONER.desired(APPS, finishing)), finishing))
