"""The rules that a server keeps over a restart, compared with those that it has now. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from multidb.provisioners.redis.provision.readers import is_reader_name
from multidb.provisioners.redis.provision.resources import NOTE_USER, RedisFacts
from multidb.provisioners.redis.provision.rules import Rule, parse_rule, same_rights

__all__ = ["RulesFile", "differing"]


@dataclass(frozen=True, slots=True)
class RulesFile:
    """Where the rules are kept over a restart, and what stands there.

    Args:
        path: the file, as the server names it.
        lines: its lines about users; None where multidb cannot read it.
    """

    path: str
    lines: tuple[str, ...] | None = None


def differing(rules: Mapping[str, Rule], kept: RulesFile | None, facts: RedisFacts) -> list[str]:
    """The users that a restart, or ACL LOAD, would bring back, change or forget, as far as that can be read. Those
    of questions come and go: one that comes back is past its time."""
    if kept is None or kept.lines is None:
        return []
    default = "*" if facts.new_users_hear_all else ""
    saved = {rule.user: rule for rule in (parse_rule(line, channels=default) for line in kept.lines)}
    return sorted(
        name
        for name in {*saved, *rules} - {NOTE_USER}
        if not is_reader_name(name)
        if name not in saved or name not in rules or not same_rights(saved[name], rules[name], facts.commands)
    )
