"""What is sent to bring a server to the manifest, as lines for the ``redis-cli`` prompt. Pure.

A statement's scope is the DB number that it runs in. One thing the prompt does not have: ``SCAN 0 MATCH x:* | UNLINK``
is a scan to its end, each key found being the argument of the command behind the bar, which a shell would write as
``redis-cli --scan --pattern 'x:*' | xargs redis-cli unlink``.
"""

from __future__ import annotations

from collections.abc import Sequence

from multidb.model import Action, Change, Statement, StoreContext
from multidb.provisioners.redis.provision.resources import (
    NOTE_USER,
    AclUser,
    DefaultUser,
    RedisFacts,
    SavedRules,
    SaveNote,
    command_rule,
    hash_ref,
    mark,
)
from multidb.provisioners.redis.provision.rules import ALL_DATABASES, join_line

__all__ = ["limits", "note", "saving", "statements"]

_HASH = "user_sha256"


def statements(change: Change, context: StoreContext) -> Sequence[Statement]:
    """The statements that make one change. Each may be sent again; each leaves the server in a sound state."""
    if change.action not in (Action.CREATE, Action.UPDATE):
        return ()
    facts = RedisFacts.of(context.facts)
    match change.desired:
        case SaveNote():
            return (note(),)
        case AclUser() as user:
            adopted = change.action is Action.UPDATE and change.changed("owner")
            # The server is read before anybody knows whether it will be adopted, so the plan may lack the saving.
            if adopted and facts.persistence != "none":
                return (note(), _rule(user, facts), *saving(facts))
            return (*_retiring(change, user), _rule(user, facts))
        case DefaultUser():
            return (Statement("ACL SETUSER default off resetpass"),)
        case SavedRules():
            return saving(facts)
    return ()


def _rule(user: AclUser, facts: RedisFacts) -> Statement:
    """The whole rule in one command: the server takes all of it or nothing, and nobody sees a half-made user.

    It starts with ``reset``, which also wipes passwords, so the password has to be in the same command.
    """
    assert user.app is not None
    has_password = user.password == "current"
    words = ["ACL", "SETUSER", user.name, "reset", "on" if user.enabled else "off", *[f"#${_HASH}"] * has_password]
    binds = ((_HASH, hash_ref(user.app, user.alternate)),) if has_password else ()
    return Statement(join_line([*words, *_rights(user, facts)]), binds)


def _retiring(change: Change, user: AclUser) -> Sequence[Statement]:
    """A user that is off keeps the sessions that it has; one whose other one has taken its place must not.

    It is turned off, its sessions end, and only then does it lose its password: whoever finds a user that has one after
    a run was killed in between ends the sessions that it still has.
    """
    live = change.live
    if user.password == "current" or not isinstance(live, AclUser) or live.password == "none":
        return ()
    words = (["ACL", "SETUSER", user.name, "off"], ["CLIENT", "KILL", "USER", user.name])
    return tuple(Statement(join_line(sent)) for sent in words)


def limits(user: AclUser, facts: RedisFacts) -> str:
    """The line that takes from a user every right beyond the app's rule, and leaves it its passwords."""
    words = ["ACL", "SETUSER", user.name, "sanitize-payload", "resetkeys"]
    if "acl|getuser" in facts.commands:  # selectors came with subcommands in the ACL, in Redis 7
        words.append("clearselectors")
    return join_line([*words, *_rights(user, facts)])


def _rights(user: AclUser, facts: RedisFacts) -> list[str]:
    assert user.owner is not None
    words = [f"~{pattern}" for pattern in user.keys]
    words += ["resetchannels", *(f"&{pattern}" for pattern in (*user.channels, mark(user.owner, user.db)))]
    if user.databases != ALL_DATABASES:
        words += ["resetdbs", f"db={user.databases}"]
    return [*words, *command_rule(user.keys != ("*",), user.db, facts, user.read_only, scripts=user.scripts)]


def note() -> Statement:
    """Says on the server that rules are about to change and are not saved yet."""
    return Statement(join_line(["ACL", "SETUSER", NOTE_USER, "reset", "off"]))


def saving(facts: RedisFacts) -> tuple[Statement, ...]:
    """Saved once with the note, so that being killed here means saving again, and once without it."""
    save = Statement("ACL SAVE" if facts.persistence == "aclfile" else "CONFIG REWRITE")
    return (save, Statement(join_line(["ACL", "DELUSER", NOTE_USER])), save)
