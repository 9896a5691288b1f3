"""Small command tables, cut from the answers of real servers to COMMAND."""

from __future__ import annotations

from multidb.provisioners.redis.provision.resources import RedisFacts
from multidb.provisioners.redis.provision.rules import CommandTable

_REDIS_7 = {
    "get": "read string",
    "set": "write string",
    "xadd": "write stream",
    "copy": "keyspace write",
    "move": "keyspace write",
    "scan": "keyspace read",
    "keys": "keyspace read dangerous",
    "randomkey": "keyspace read",
    "dbsize": "keyspace read",
    "flushdb": "keyspace write dangerous",
    "flushall": "keyspace write dangerous",
    "swapdb": "keyspace write dangerous",
    "sort": "write list dangerous",
    "sort_ro": "read list dangerous",
    "publish": "pubsub",
    "select": "connection",
    "ping": "connection",
    "info": "slow dangerous",
    "time": "fast",
    "multi": "transaction",
    "eval": "scripting",
    "acl": "slow",
    "acl|whoami": "slow",
    "acl|setuser": "admin dangerous",
    "memory": "slow",
    "memory|usage": "read slow",
    "memory|stats": "slow",
    "client": "slow",
    "client|id": "connection",
    "client|info": "connection",
    "client|getname": "connection",
    "client|setname": "connection",
    "client|reply": "connection",
    "client|list": "admin dangerous connection",
    "client|tracking": "connection",
    "function": "slow",
    "function|flush": "scripting write",
    "script": "slow",
    "script|load": "scripting",
    "script|exists": "scripting",
    "script|flush": "scripting",
    "pubsub": "slow",
    "pubsub|channels": "pubsub",
    "config": "slow",
    "config|set": "admin dangerous",
    "cluster": "slow",
    "cluster|slots": "slow",
}
_VALKEY_9 = _REDIS_7 | {
    "client|setinfo": "connection",
    "client|no-touch": "connection",
    "client|capa": "connection",
    "clusterscan": "keyspace read",
}
# Before Redis 7 COMMAND tells nothing of subcommands.
_REDIS_6 = {name: categories for name, categories in _REDIS_7.items() if "|" not in name and name != "function"} | {
    "memory": "read slow",
    "acl": "admin dangerous",
    "client": "admin dangerous connection",
}


_KEYLESS = {"scan", "clusterscan", "keys", "randomkey", "dbsize", "flushdb", "flushall", "swapdb", "function|flush"}


def table(commands: dict[str, str]) -> CommandTable:
    categories = {name: frozenset(said.split()) for name, said in commands.items()}
    keyed = {name for name, said in categories.items() if said & {"read", "write"}} - _KEYLESS
    return CommandTable(categories, keyed)


REDIS_6 = RedisFacts("Redis", "6.2.14", table(_REDIS_6), databases=16, admin="multidb")
REDIS_7 = RedisFacts("Redis", "7.0.15", table(_REDIS_7), databases=16, admin="multidb", persistence="config")
VALKEY_9 = RedisFacts(
    "Valkey", "9.1.2", table(_VALKEY_9), databases=64, db_rules=True, admin="multidb", persistence="aclfile"
)
