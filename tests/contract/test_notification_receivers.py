"""Messages to a real HTTP server: one that takes them, one that fails, hangs, drips, refuses or sends elsewhere."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from multidb import notification
from multidb.alarms import Alarm, AlarmKind
from multidb.errors import ServerDown, UsageError
from multidb.fleet import Scope
from multidb.model import Project, RuntimeKind
from multidb.model.options import Notify
from multidb.notification import LookScope, Notifier
from multidb.plan import Plan, ServerPlan
from multidb.secrets import Secret
from multidb.state import ProjectState
from tests.support import reports
from tests.support.receiver import Receiver, listening

ALL = LookScope(frozenset(AlarmKind))
REFUSED = Alarm(AlarmKind.UNHEALTHY, "lernmi", "postgres", "refuses <!channel> & all", "multidb apply")
HELD = "a-secret-that-this-process-holds"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening() as server:
        yield server


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification, "PAUSE", 0.02)


def notifier(folder: Path, address: str, *, form: str = "json", **more: Any) -> Notifier:
    (folder / "hook").write_text(f"{address}\n")
    hooks = [{"url": {"file": "hook"}, "form": form}]
    project = Project(
        "digi",
        RuntimeKind.EMBEDDED,
        {},
        (),
        root=str(folder),
        notify=Notify.model_validate({"webhooks": hooks, **more}),
    )
    return Notifier(project, ProjectState(folder))


def later(folder: Path, by: timedelta) -> None:
    """Makes everything that was told older."""
    with ProjectState(folder).change("told") as section:
        for told in section.values():
            for entry in told:
                entry["at"] = (datetime.fromisoformat(entry["at"]) - by).isoformat()


def test_a_beginning_and_an_end_are_one_message_each(receiver: Receiver, tmp_path: Path) -> None:
    Secret(HELD)
    leaking = Alarm(AlarmKind.BREACH, "lernmi", "redis", f"login with {HELD} works")
    (delivery,) = notifier(tmp_path, receiver.address).tell([REFUSED, leaking], ALL)
    assert delivery.ok
    for _ in range(3):  # other runs look, and see the same
        assert notifier(tmp_path, receiver.address).tell([leaking, REFUSED], ALL) == []
    later(tmp_path, timedelta(minutes=2))
    assert notifier(tmp_path, receiver.address).tell([leaking], ALL)[0].ok
    (method, _, first), (_, _, second) = receiver.heard
    assert method == "POST"
    assert first["project"] == "digi"
    assert [(alarm["news"], alarm["kind"], alarm["app"], alarm["store"]) for alarm in first["alarms"]] == [
        ("began", "breach", "lernmi", "redis"),
        ("began", "unhealthy", "lernmi", "postgres"),
    ]
    assert datetime.fromisoformat(first["sent"]).tzinfo == UTC
    assert [(alarm["news"], alarm["kind"]) for alarm in second["alarms"]] == [("ended", "unhealthy")]
    everything = json.dumps(receiver.heard) + (tmp_path / ".multidb/state.json").read_text()
    assert HELD not in everything
    assert "login with *** works" in everything


def test_slack_gets_a_text_without_live_markup(receiver: Receiver, tmp_path: Path) -> None:
    notifier(tmp_path, receiver.address, form="slack").tell([REFUSED], ALL)
    ((_, _, body),) = receiver.heard
    assert set(body) == {"text"}
    assert "unhealthy: lernmi / postgres: refuses &lt;!channel&gt; &amp; all (multidb apply)" in body["text"]


def test_only_what_the_manifest_wants_is_told(receiver: Receiver, tmp_path: Path) -> None:
    assert notifier(tmp_path, receiver.address, about=["breach"]).tell([REFUSED], ALL) == []
    assert receiver.heard == []


def test_a_failing_receiver_is_tried_again(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = [500, 429, 200]
    assert notifier(tmp_path, receiver.address).tell([REFUSED], ALL)[0].ok
    assert len(receiver.heard) == 3


@pytest.mark.parametrize(
    ("answer", "tries", "detail"), [(503, 3, "answers 503"), (404, 1, "answers 404"), (302, 1, "302")]
)
def test_what_was_not_taken_is_told_by_a_later_look(
    receiver: Receiver, tmp_path: Path, answer: int, tries: int, detail: str
) -> None:
    receiver.answers = [answer]
    first = notifier(tmp_path, receiver.address)
    (delivery,) = first.tell([REFUSED], ALL)
    assert not delivery.ok
    assert detail in delivery.detail
    assert len(receiver.heard) == tries
    assert first.tell([REFUSED], ALL) == [], "a run that goes on looking leaves a broken receiver alone for a while"
    assert {path for _, path, _ in receiver.heard} == {"/services/T0/very-secret-path"}
    receiver.answers = [200]
    assert notifier(tmp_path, receiver.address).tell([REFUSED], ALL)[0].ok


def test_what_a_later_multidb_has_told_is_left_to_it(receiver: Receiver, tmp_path: Path) -> None:
    notifier(tmp_path, receiver.address).tell([REFUSED], ALL)
    with ProjectState(tmp_path).change("told") as section:
        ((hook, (entry,)),) = section.items()
        section[hook].append(entry | {"kind": "weather", "app": "a/b"})
    later(tmp_path, timedelta(hours=1))
    (delivery,) = notifier(tmp_path, receiver.address).tell([], ALL)
    assert delivery.ok
    assert [alarm["kind"] for alarm in receiver.heard[-1][2]["alarms"]] == ["unhealthy"]
    kinds = [(each["kind"], each["ended"]) for each in ProjectState(tmp_path).read("told")[hook]]
    assert kinds == [("weather", False), ("unhealthy", True)]


@pytest.mark.parametrize("answer", ["hang", "drip"])
def test_a_receiver_that_does_not_answer_costs_a_bounded_time(
    receiver: Receiver, tmp_path: Path, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notification, "TIMEOUT", 0.4)
    receiver.answers = [answer]
    began = time.monotonic()
    (delivery,) = notifier(tmp_path, receiver.address).tell([REFUSED], ALL)
    assert time.monotonic() - began < 4.8, "it would be 5 s otherwise"
    assert (delivery.ok, delivery.detail) == (False, "no answer within 0.4 s")


def test_no_word_about_a_receiver_has_its_address(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}/very-secret-path"
        (delivery,) = notifier(tmp_path, address).tell([REFUSED], ALL)
    assert not delivery.ok
    assert delivery.receiver == "notify.webhooks[0]"
    assert "cannot be reached" in delivery.detail
    assert "very-secret-path" not in repr(delivery)
    with pytest.raises(UsageError) as wrong:
        notifier(tmp_path, "ftp://very-secret-path")
    assert "very-secret-path" not in repr(wrong.value)


def test_a_broken_state_is_reported_and_nothing_is_raised(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / ".multidb").mkdir()
    (tmp_path / ".multidb/state.json").write_text("[]")
    (delivery,) = notifier(tmp_path, receiver.address).tell([REFUSED], ALL)
    assert (delivery.ok, "damaged" in delivery.detail) == (False, True)


def test_the_heartbeat_is_called_once_in_a_while(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEAT", receiver.address)
    beating = notifier(tmp_path, receiver.address, heartbeat={"env": "BEAT"})
    assert [delivery.ok for delivery in beating.beat()] == [True]
    assert beating.beat() == []
    assert receiver.heard == [("GET", "/services/T0/very-secret-path", None)]


def test_a_server_that_could_not_be_read_has_not_mended_itself(receiver: Receiver, tmp_path: Path) -> None:
    telling = notifier(tmp_path, receiver.address)
    assert telling.about_plan(reports.plan())[0].ok
    later(tmp_path, timedelta(minutes=2))
    unread = Plan("digi", (ServerPlan("postgres", "postgres", error=ServerDown("is not running"), apps=("lernmi",)),))
    assert telling.about_plan(unread) == []
    assert telling.about_plan(Plan("digi", ()), Scope(apps=frozenset({"beep_boop"}))) == []
    assert telling.about_plan(Plan("digi", ()))[0].ok  # the control
    news = [[(alarm["news"], alarm["app"]) for alarm in body["alarms"]] for _, _, body in receiver.heard]
    assert news == [[("began", None), ("began", "lernmi")], [("ended", None), ("ended", "lernmi")]]
