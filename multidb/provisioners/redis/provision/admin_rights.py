"""What the admin's user may do on a server, against what multidb does there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from multidb.model import Finding, Level
from multidb.provisioners.redis.driver.connection import ADMIN_NEEDS
from multidb.provisioners.redis.provision.lock import CHANNEL
from multidb.provisioners.redis.provision.resources import RedisFacts
from multidb.provisioners.redis.provision.rules import ALL_DATABASES, CommandTable, Rule

__all__ = ["admin_rights"]

_APPLY: Final = ("acl|setuser", "acl|list", "acl|deluser", "config|get", "info", "command", "eval", "set", "getrange")
_SAVED_BY: Final = {"aclfile": "acl|save", "config": "config|rewrite"}
_LOCKING: Final = "keep runs apart while the server takes no writes, as without memory left"
_WORK: Final = {
    "measure what apps use": ("client|list", "randomkey", "scan", "type", "memory|usage"),
    "suspend and remove apps": ("client|kill", "select", "scan", "unlink", "flushdb"),
    _LOCKING: ("subscribe", "pubsub|channels", "pubsub|numsub"),
    "back up and restore": ("select", "scan", "dump", "pttl", "restore", "swapdb"),
}


def admin_rights(rule: Rule | None, facts: RedisFacts, subject: str) -> Iterator[Finding]:
    """What the user's rule says. See `multidb.model.Session.admin_rights`.

    Args:
        rule: the admin's; None: the server lists no such user, so that nothing can be told.
    """
    if rule is None or rule.selectors:
        yield Finding(Level.WARNING, subject, f"what {facts.admin} may do cannot be read from its rule")
        return
    saving = [_SAVED_BY[facts.persistence]] if facts.persistence in _SAVED_BY else []
    if lacking := _lacking((*_APPLY, *saving), rule, facts.commands):
        message = f"{facts.admin} may not run {', '.join(lacking)}, which every apply needs"
        yield Finding(Level.ERROR, subject, message, ADMIN_NEEDS)
    else:
        yield Finding(Level.OK, subject, f"{facts.admin} may make users and limit them ({facts.product}'s ACL)")
    for work, commands in _WORK.items():
        if lacking := _lacking(commands, rule, facts.commands):
            fix = f"ACL SETUSER {facts.admin} {' '.join(f'+{command}' for command in lacking)}"
            message = f"{facts.admin} may not run {', '.join(lacking)}, so it cannot {work}"
            yield Finding(Level.WARNING, subject, message, fix)
    if not any(channel == "*" or channel.rstrip("*") in (CHANNEL, CHANNEL[:-1]) for channel in rule.channels):
        fix = f"ACL SETUSER {facts.admin} &{CHANNEL}*"
        yield Finding(
            Level.WARNING, subject, f"{facts.admin} may not listen to {CHANNEL}*, so it cannot {_LOCKING}", fix
        )
    if "*" not in rule.keys or rule.databases != ALL_DATABASES:
        where = "keys" if "*" not in rule.keys else "databases"
        yield Finding(
            Level.ERROR,
            subject,
            f"{facts.admin} does not reach all {where} of the server",
            f"ACL SETUSER {facts.admin} {'~*' if where == 'keys' else 'alldbs'}",
        )
    if facts.persistence == "none":
        yield Finding(
            Level.WARNING,
            subject,
            "the server has neither an aclfile nor a configuration file, so it forgets the apps' users at a restart",
            "start it with an aclfile; until then, after each restart: multidb apply",
        )


def _lacking(commands: tuple[str, ...], rule: Rule, table: CommandTable) -> list[str]:
    """Those of the commands that the server has and the user may not run. Before Redis 7 there are no subcommands."""
    granted = table.granted(rule.commands).commands
    known = (command if command in table.names else command.partition("|")[0] for command in commands)
    return [command for command in dict.fromkeys(known) if command in table.names and command not in granted]
