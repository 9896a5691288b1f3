"""Who is told when something is wrong: webhooks and a heartbeat.

What is wrong now is compared with what was told last (kept in ``.multidb/state.json``), so a thing is told once when it
begins, again as a reminder, and once when it is over; whether it was `multidb serve`, a cron job or a person's command
that looked. Everything that one look finds goes out in one message. What does not get through is told by a later look;
nothing here raises because of a receiver.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from multidb.alarms import Alarm, AlarmKind, Subject, drifts, late_backups, open_walls, over_quota, unwell
from multidb.audit import Audit, ServerAudited
from multidb.document import in_future, moment
from multidb.errors import MultidbError, UsageError
from multidb.fleet import Scope
from multidb.health import HealthReport
from multidb.model import Health, Project
from multidb.model.options import Webhook
from multidb.plan import Plan, ServerPlan
from multidb.secret_source import SecretSource
from multidb.secrets import Secret, redact
from multidb.state import TURN, ProjectState
from multidb.usage import ServerSeen, UsageReport

__all__ = [
    "TIMEOUT",
    "PAUSE",
    "Delivery",
    "LookScope",
    "News",
    "Notice",
    "Notifier",
    "SentAlarm",
    "news",
    "rename",
]

_TRIES: Final = 3
PAUSE: Final = 1.0  # seconds before the second try; doubled before the third
TIMEOUT: Final = 5.0  # seconds that one try may take, whatever the receiver does
_GAP: Final = timedelta(minutes=1)  # between two messages about one thing, however often it changes
_BEAT_GAP: Final = 30.0  # seconds between two heartbeats
_LISTED: Final = 30  # alarms in one message for people
_SECTION: Final = "told"
_EVERYTHING: Final = Scope()


_OF_HEALTH: Final = (AlarmKind.UNHEALTHY, AlarmKind.BACKUP, AlarmKind.CREDENTIALS)


@dataclass(frozen=True, slots=True)
class LookScope:
    """What a look was about: what was told of anything else stays as it is.

    Args:
        apps: only these; None means all.
        stores: only these; None means all.
        unread: not these apps (None: the servers themselves) on these stores, of which nothing could be seen.
    """

    kinds: frozenset[AlarmKind]
    apps: frozenset[str] | None = None
    stores: frozenset[str] | None = None
    unread: frozenset[tuple[str | None, str]] = frozenset()

    def covers(self, subject: Subject) -> bool:
        """Whether the look would have seen an alarm about that."""
        return (
            subject.kind in self.kinds
            and (self.apps is None or subject.app in self.apps)
            and (self.stores is None or subject.store in self.stores)
            and (subject.app, subject.store) not in self.unread
        )


class News(StrEnum):
    """Why something is told."""

    BEGAN = "began"
    REMINDER = "reminder"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell."""

    news: News
    alarm: Alarm
    since: datetime


@dataclass(frozen=True, slots=True)
class SentAlarm:
    """What a receiver was told last of one subject.

    Args:
        alarm: as it was told.
        since: when it began.
        at: when it was told.
        ended: whether that was its end.
    """

    alarm: Alarm
    since: datetime
    at: datetime
    ended: bool = False

    @classmethod
    def of(cls, notice: Notice, now: datetime) -> Self:
        """What is remembered of a notice that was taken `now`."""
        alarm = replace(notice.alarm, message=redact(notice.alarm.message))
        return cls(alarm, notice.since, now, notice.news is News.ENDED)

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Self | None:
        """What an entry of the state says; None for a kind that only a later multidb knows."""
        if entry["kind"] not in set(AlarmKind):
            return None
        alarm = Alarm(AlarmKind(entry["kind"]), entry["app"], entry["store"], entry["message"], entry["fix"])
        return cls(alarm, moment(entry["since"]), moment(entry["at"]), entry["ended"])

    def entry(self) -> dict[str, Any]:
        """The entry as plain JSON values, for the state."""
        return {
            "kind": str(self.alarm.kind),
            "app": self.alarm.app,
            "store": self.alarm.store,
            "message": self.alarm.message,
            "fix": self.alarm.fix,
            "since": self.since.isoformat(timespec="seconds"),
            "at": self.at.isoformat(timespec="seconds"),
            "ended": self.ended,
        }


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of telling one receiver. `detail` has neither its address nor any other secret."""

    receiver: str
    ok: bool
    detail: str = ""


def news(
    remembered: Iterable[SentAlarm],
    alarms: Iterable[Alarm],
    looked: LookScope,
    now: datetime,
    remind: timedelta,
) -> list[Notice]:
    """What there is to tell: what began or ended since it was told last, and what has to be said again.

    Something that was told less than a minute ago waits, so what comes and goes is not told each time.
    """
    current = {alarm.subject: alarm for alarm in alarms}
    before = {entry.alarm.subject: entry for entry in remembered}
    notices = []
    for subject in sorted({*current, *filter(looked.covers, before)}, key=_order):
        last, alarm = before.get(subject), current.get(subject)
        if last is not None and _ago(last.at, now) < _GAP:
            continue
        if alarm is not None and (last is None or last.ended):
            notices.append(Notice(News.BEGAN, alarm, now))
        elif alarm is not None and last is not None and _ago(last.at, now) >= remind:
            notices.append(Notice(News.REMINDER, alarm, last.since))
        elif alarm is None and last is not None and not last.ended:
            notices.append(Notice(News.ENDED, last.alarm, last.since))
    return notices


@dataclass(frozen=True, slots=True)
class _Hook:
    name: str
    address: Secret
    slack: bool


class Notifier:
    """Tells the receivers of one project.

    Raises:
        UsageError: the address of a receiver is not where the manifest says, or is none.
    """

    def __init__(self, project: Project, state: ProjectState) -> None:
        self._project = project.name
        self._state = state
        settings = project.notify
        root = Path(project.root)
        self._hooks = [_hook(number, url, root) for number, url in enumerate(settings.webhooks)]
        beat = settings.heartbeat
        self._beat = _address(beat, root, "notify.heartbeat") if beat else None
        self._about = frozenset(map(AlarmKind, settings.about))
        self._remind = settings.remind
        self._last_beat = self._quiet_until = float("-inf")

    @property
    def configured(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._hooks or self._beat)

    def tell(self, alarms: Iterable[Alarm], looked: LookScope) -> list[Delivery]:
        """Tells each webhook what is new to it; what it has taken is remembered. Lasts at most some 20 seconds.

        After a message that nobody has taken, there is none for a minute.
        """
        if not self._hooks or time.monotonic() < self._quiet_until:
            return []
        looked = replace(looked, kinds=looked.kinds & self._about)
        relevant = [alarm for alarm in alarms if alarm.kind in looked.kinds]
        try:
            with (
                self._state.lock(_SECTION, "multidb, telling what is new", TURN),
                ThreadPoolExecutor(len(self._hooks)) as pool,
            ):
                deliveries = list(filter(None, pool.map(lambda hook: self._tell(hook, relevant, looked), self._hooks)))
        except MultidbError as error:  # the state cannot be read or written
            deliveries = [Delivery("notify", False, redact(str(error)))]
        if deliveries and not any(delivery.ok for delivery in deliveries):
            self._quiet_until = time.monotonic() + _GAP.total_seconds()
        return deliveries

    def about_health(self, report: HealthReport, scope: Scope = _EVERYTHING) -> list[Delivery]:
        """Tells what a health check within `scope` has found, and calls the heartbeat after one of everything."""
        deliveries = self.tell(unwell(report), _looked(scope, *_OF_HEALTH))
        return deliveries + self.beat() if scope == _EVERYTHING else deliveries

    def about_backups(self, backups: Mapping[str, Health], scope: Scope = _EVERYTHING) -> list[Delivery]:
        """Tells whose backups have failed or are late; `backups` as for `late_backups`."""
        return self.tell(late_backups(backups), _looked(scope, AlarmKind.BACKUP))

    def about_plan(self, plan: Plan, scope: Scope = _EVERYTHING) -> list[Delivery]:
        """Tells what a plan within `scope` would change."""
        unread = _unread(plan.servers)
        return self.tell(drifts(plan), _looked(scope, AlarmKind.DRIFT, unread=unread))

    def about_audit(self, audit: Audit, scope: Scope = _EVERYTHING) -> list[Delivery]:
        """Tells which walls an audit within `scope` has found open."""
        unread = _unread(audit.servers) | audit.refusals.keys()
        return self.tell(open_walls(audit), _looked(scope, AlarmKind.BREACH, unread=unread))

    def about_usage(self, report: UsageReport, scope: Scope = _EVERYTHING) -> list[Delivery]:
        """Tells who has used up a quota."""
        unread = _unread(report.servers)
        return self.tell(over_quota(report), _looked(scope, AlarmKind.QUOTA, unread=unread))

    def beat(self) -> list[Delivery]:
        """Calls the heartbeat's address, at most every half minute."""
        if self._beat is None or time.monotonic() - self._last_beat < _BEAT_GAP:
            return []
        self._last_beat = time.monotonic()
        return [_deliver("notify.heartbeat", self._beat, None)]

    def _tell(self, hook: _Hook, alarms: Sequence[Alarm], looked: LookScope) -> Delivery | None:
        now = datetime.now(UTC)
        remembered = filter(None, map(SentAlarm.parse, self._state.read(_SECTION).get(hook.name, [])))
        notices = news(remembered, alarms, looked, now, self._remind)
        if not notices:
            return None
        body = {"text": _text(self._project, notices)} if hook.slack else _document(self._project, notices, now)
        delivery = _deliver(hook.name, hook.address, body)
        if delivery.ok:
            with self._state.change(_SECTION) as section:
                section[hook.name] = _remembered(section.get(hook.name, []), notices, now)
        return delivery


def rename(state: ProjectState, old: str, new: str) -> None:
    """What receivers were told of an app is of its new name from now on: it is not told again, and its end is."""
    if any(entry["app"] == old for entries in state.read(_SECTION).values() for entry in entries):
        with state.change(_SECTION) as section:
            for name, entries in section.items():
                section[name] = [{**entry, "app": new} if entry["app"] == old else entry for entry in entries]


def _hook(number: int, entry: Webhook, root: Path) -> _Hook:
    name = f"notify.webhooks[{number}]"
    return _Hook(name, _address(entry.url, root, f"{name}.url"), entry.form == "slack")


def _address(source: SecretSource, root: Path, where: str) -> Secret:
    address = source.read(root, where, "the receiver's address")
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", address.reveal().strip()):
        raise UsageError("the receiver's address must begin with https:// or http://", where=where)
    return Secret(address.reveal().strip())


def _unread(servers: Iterable[ServerPlan | ServerAudited | ServerSeen]) -> frozenset[tuple[str | None, str]]:
    """What nothing could be seen of, because its server told nothing."""
    silent = [server for server in servers if server.error is not None]
    return frozenset((app, server.store) for server in silent for app in (None, *server.apps))


def _looked(scope: Scope, *kinds: AlarmKind, unread: frozenset[tuple[str | None, str]] = frozenset()) -> LookScope:
    """What a look within `scope` has seen, but for what is `unread`."""
    return LookScope(frozenset(kinds), scope.apps, scope.stores, unread)


def _ago(moment: datetime, now: datetime) -> timedelta:
    """How long ago it was told; of a time that has not come nobody knows, and it is told again."""
    return timedelta.max if in_future(moment, now) else now - moment


def _order(subject: Subject) -> tuple[str, str, str]:
    return subject.kind, subject.app or "", subject.store or ""


def _remembered(entries: Sequence[dict[str, Any]], notices: Sequence[Notice], now: datetime) -> list[dict[str, Any]]:
    """The entries of one receiver with what it was told `now`; what has long ended is forgotten."""
    new = [SentAlarm.of(notice, now) for notice in notices]
    again = {notice.alarm.subject for notice in new}
    kept = [
        entry for entry in entries if (parsed := SentAlarm.parse(entry)) is None or parsed.alarm.subject not in again
    ]
    return [
        entry
        for entry in [*kept, *(notice.entry() for notice in new)]
        if not entry["ended"] or _ago(moment(entry["at"]), now) <= _GAP
    ]


def _document(project: str, notices: Sequence[Notice], now: datetime) -> dict[str, Any]:
    return {
        "version": 1,
        "project": project,
        "sent": now.isoformat(timespec="seconds"),
        "alarms": [
            {
                "news": str(notice.news),
                "kind": str(notice.alarm.kind),
                "app": notice.alarm.app,
                "store": notice.alarm.store,
                "message": redact(notice.alarm.message),
                "hint": redact(notice.alarm.fix) or None,
                "since": notice.since.isoformat(timespec="seconds"),
            }
            for notice in notices
        ],
    }


def _text(project: str, notices: Sequence[Notice]) -> str:
    """The message for people, in Slack's own escaping (its ``<...>`` would be links and mentions)."""
    signs = {News.BEGAN: ":red_circle:", News.REMINDER: ":repeat:", News.ENDED: ":white_check_mark: over:"}
    lines = [f"multidb, {project}:"]
    for notice in notices[:_LISTED]:
        alarm = notice.alarm
        subject = " / ".join(filter(None, (alarm.app, alarm.store))) or "servers"
        fix = f" ({alarm.fix})" if alarm.fix and notice.news is not News.ENDED else ""
        lines.append(redact(f"{signs[notice.news]} {alarm.kind}: {subject}: {alarm.message}{fix}"))
    if len(notices) > _LISTED:
        lines.append(f"and {len(notices) - _LISTED} more")
    return "\n".join(lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _deliver(receiver: str, address: Secret, body: Mapping[str, Any] | None) -> Delivery:
    """One message (or, without a body, one call), tried again where that can help."""
    detail = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            status = asyncio.run(_send(address, body))
        except TimeoutError:
            detail = f"no answer within {TIMEOUT:g} s"
            continue
        except Exception as error:  # whatever it is, it is not the check's fault; its text may hold the address
            detail = f"cannot be reached ({type(error).__name__})"
            continue
        if status < 300:
            return Delivery(receiver, True)
        detail = f"answers {status}"
        if status < 500 and status != 429:
            break  # it would say the same again
    return Delivery(receiver, False, detail)


async def _send(address: Secret, body: Mapping[str, Any] | None) -> int:
    """The status of the answer; its body is not read. Redirects are not followed: they would leak the address."""
    import httpx  # 100 ms, and most commands tell nobody

    async def send() -> int:
        async with (
            httpx.AsyncClient(timeout=TIMEOUT) as client,
            client.stream("GET" if body is None else "POST", address.reveal(), json=body) as answer,
        ):
            return answer.status_code

    return await asyncio.wait_for(send(), TIMEOUT)
