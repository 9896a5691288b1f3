"""What each command of a server could do to apps, for whoever may send it. Pure.

A command is judged by the server's own description (`CommandTable`): where it names the keys of a command, the ACL
keeps a user to its key patterns and DBs. What has no such keys is written down here by name. Whatever is neither, as a
command that a newer server brings, counts as one that reaches everybody (`Reach.SERVER`) until it is known; a test puts
every command of the real servers through this.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from multidb.provisioners.redis.provision.rules import CommandTable

__all__ = ["ACROSS", "HARMLESS", "IN_CHANNELS", "IN_DATABASE", "ON_THE_SERVER", "SCRIPTS", "Reach", "power", "reach"]


class Reach(Enum):
    """How far a command gets."""

    NOTHING = auto()  # of anybody's
    KEYS = auto()  # what the user's key patterns and DBs allow
    CHANNELS = auto()  # what the user's channel patterns allow
    DATABASE = auto()  # a whole DB, whatever the key patterns say
    EVERY_DATABASE = auto()  # all of them: a server with database rules wants a user that may touch all
    SERVER = auto()  # everybody


# Each acts on the connection that sends it, or tells numbers and names that INFO and CLUSTER NODES tell every app.
HARMLESS: Final = frozenset(
    {
        *("auth", "hello", "quit", "reset", "ping", "echo", "time", "select", "lolwut", "command", "info"),
        *("multi", "exec", "discard", "unwatch", "wait", "waitaof", "asking", "readonly", "readwrite"),
        *("unsubscribe", "punsubscribe", "sunsubscribe"),
        *("client|id", "client|info", "client|getname", "client|setname", "client|setinfo", "client|getredir"),
        *("client|trackinginfo", "client|caching", "client|reply", "client|no-touch", "client|capa"),
        *("command|count", "command|docs", "command|getkeys", "command|getkeysandflags", "command|info"),
        *("command|list", "acl|whoami", "acl|cat", "acl|genpass", "script|exists", "module|list", "lastsave", "role"),
        *("latency|doctor", "latency|graph", "latency|histogram", "latency|history", "latency|latest"),
        *("memory|doctor", "memory|malloc-stats", "memory|stats", "slowlog|len", "commandlog|len"),
        *("cluster|slots", "cluster|shards", "cluster|nodes", "cluster|info", "cluster|keyslot", "cluster|myid"),
        *("cluster|myshardid", "cluster|links", "cluster|replicas", "cluster|slaves", "cluster|slot-stats"),
        *("cluster|countkeysinslot", "cluster|count-failure-reports"),
    }
)
IN_CHANNELS: Final = frozenset({"publish", "spublish", "subscribe", "psubscribe", "ssubscribe"})
# These ignore key patterns (redis #8152, valkey #370). SORT does so before Redis 7, by what BY and GET name.
IN_DATABASE: Final = frozenset(
    {"scan", "clusterscan", "keys", "randomkey", "dbsize", "flushdb", "swapdb", "sort", "sort_ro"}
)
ACROSS: Final = frozenset({"copy", "move", "swapdb"})  # reach other DBs than the selected one
# Nobody can end a script that has written; the server serves no one until it is killed (SCRIPT KILL: UNKILLABLE).
SCRIPTS: Final = frozenset({"eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"})

ON_THE_SERVER: Final[Mapping[str, frozenset[str]]] = {
    "see what others do": frozenset(
        {
            *("monitor", "slowlog|get", "commandlog|get", "client|list", "client|tracking", "acl|log", "acl|users"),
            *("pubsub|channels", "pubsub|numpat", "pubsub|numsub", "pubsub|shardchannels", "pubsub|shardnumsub"),
            *("function|stats", "function|list", "script|show", "cluster|getslotmigrations"),
        }
    ),
    "copy what others have": frozenset(
        {"psync", "sync", "replconf", "migrate", "function|dump", "cluster|getkeysinslot", "cluster|syncslots"}
    ),
    "see or change who may do what": frozenset(
        {"acl|setuser", "acl|deluser", "acl|getuser", "acl|list", "acl|dryrun", "acl|load", "acl|save"}
    ),
    "see or change the server's settings": frozenset(
        {"config|get", "config|set", "config|rewrite", "config|resetstat", "module|load", "module|loadex"}
        | {"module|unload", "latency|reset", "slowlog|reset", "commandlog|reset", "debug"}
    ),
    "delete or replace what others have": frozenset(
        {"function|load", "function|delete", "function|flush", "function|restore", "script|flush", "restore"}
        | {"restore-asking", "replicaof", "slaveof", "cluster|flushslot", "cluster|reset"}
    ),
    "hold or stop the server": frozenset(
        {
            *("shutdown", "failover", "save", "bgsave", "bgrewriteaof", "pfdebug", "pfselftest", "memory|purge"),
            *("script|load", "script|debug", "script|kill", "function|kill", "client|pause", "client|unpause"),
            *SCRIPTS,
        }
    ),
    "end or hold others' sessions": frozenset({"client|kill", "client|unblock", "client|no-evict"}),
    "put itself above the server's rules for clients": frozenset({"client|import-source"}),
    "take a node out of its cluster": frozenset(
        {
            *("cluster|addslots", "cluster|addslotsrange", "cluster|bumpepoch", "cluster|cancelslotmigrations"),
            *("cluster|delslots", "cluster|delslotsrange", "cluster|failover", "cluster|flushslots", "cluster|forget"),
            *("cluster|meet", "cluster|migrateslots", "cluster|replicate", "cluster|saveconfig"),
            *("cluster|set-config-epoch", "cluster|setslot"),
        }
    ),
}
_POWERS: Final = {command: power for power, commands in ON_THE_SERVER.items() for command in commands}
_UNKNOWN: Final = "do what multidb does not know"
_BEYOND_KEYS: Final = ("admin", "dangerous", "scripting")  # categories whose commands do more than their keys say


def reach(command: str, table: CommandTable) -> Reach:
    """How far a command gets, as COMMAND names it: ``get``, ``client|list``, ``select|3`` (with that argument only)."""
    if command in HARMLESS or command.endswith("|help"):
        return Reach.NOTHING
    if command in IN_CHANNELS:
        return Reach.CHANNELS
    if command in IN_DATABASE:
        return Reach.DATABASE
    if command == "flushall":
        return Reach.EVERY_DATABASE
    if command not in _POWERS:
        if command in table.keyed and not any(command in table.of_category(name) for name in _BEYOND_KEYS):
            return Reach.KEYS
        container, _, argument = command.partition("|")
        if argument and command not in table.names:
            return reach(container, table)
    return Reach.SERVER


def power(command: str) -> str:
    """What a command that reaches everybody is good for, as it stands after "may"."""
    if command in _POWERS:
        return _POWERS[command]
    # Before Redis 7 the right to a command is the right to all of its subcommands.
    return next((power for name, power in _POWERS.items() if name.startswith(f"{command}|")), _UNKNOWN)
