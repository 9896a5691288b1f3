"""What the server's ACL log has of an app. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from multidb.document import printable
from multidb.model import App, Refusal
from multidb.provisioners.redis.driver.batch_connection import OWN_NAME
from multidb.provisioners.redis.provision.resources import user_names

__all__ = ["refusals"]

_SCRIPTS: Final = ("eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro", "script")
_WITHOUT_PREFIX: Final = ("scan", "keys", "randomkey", "dbsize", "flushdb", "sort", "sort_ro")


def refusals(app: App, log: Iterable[object], now: datetime) -> Sequence[Refusal]:
    """The app's entries of ``ACL LOG`` (https://valkey.io/commands/acl-log/), the newest first.

    What an audit tries with the app's login is no trouble of the app's, and not among them.

    Args:
        log: each entry as a mapping, or as a list of names and values in turn, of text or bytes.
    """
    kept = []
    for entry in map(_fields, log):
        of_the_app = entry.get("username") in user_names(app.id)
        if of_the_app and f" name={OWN_NAME}" not in f" {entry.get('client-info', '')}":
            kept.append(_refusal(app.id, entry, now))
    return kept


def _fields(entry: object) -> dict[str, str]:
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(entry, Mapping):
        pairs = entry.items()
    elif isinstance(entry, Sequence):
        pairs = zip(entry[::2], entry[1::2], strict=False)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _refusal(app: str, entry: Mapping[str, str], now: datetime) -> Refusal:
    reason, what = entry.get("reason", ""), printable(entry.get("object", ""))
    try:
        count, last = int(entry.get("count", "1")), now - timedelta(seconds=float(entry.get("age-seconds", "")))
    except (ValueError, OverflowError):
        count, last = 1, None
    return Refusal(f"{reason} {what}".strip(), count, last and last.astimezone(UTC), _hint(app, reason, what))


def _hint(app: str, reason: str, what: str) -> str:
    command = what.partition("|")[0].lower()
    match reason:
        case "command" if command in _SCRIPTS:
            return "name its library (redis: {profile: celery}), or allow scripts: redis: {scripts: true}"
        case "command" if command == "select":
            return f"its DB number is REDIS_DB of multidb env {app}"
        case "command" if command in _WITHOUT_PREFIX:
            return "it sees the keys of every app; one with a DB number of its own may send it: isolation: database"
        case "channel":
            return f"begin its channels with {app}: or name the library: redis: {{profile: celery}}"
        case "key":
            return f"begin its keys with REDIS_KEY_PREFIX of multidb env {app}"
        case "database":
            return f"it reaches other DBs than the app's own, which is REDIS_DB of multidb env {app}"
        case "auth":
            return f"give it the credentials of now: multidb env {app} --write"
    return "no option of an app gives that: it acts on more than the app, or shows more"
