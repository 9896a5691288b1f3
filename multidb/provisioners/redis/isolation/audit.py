"""The walls between apps, tried with an app's own credentials.

Nothing is carried out. A command is sent inside a transaction that is then discarded: the server checks a command's
permissions, those of its keys, channels and DB numbers too, when it queues it (seen on Redis 7.0 and Valkey 9.1). What
cannot be queued is sent in a form that the server would refuse for its arguments, had it not refused the user. Only
SELECT, AUTH, RESET and scripts are sent as they are; the keys and channels that they name are made up and unguessable.
What is refused is left in the server's ACL LOG, which keeps the last 128.
"""

from __future__ import annotations

import secrets as random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from redis.exceptions import ResponseError

from multidb.errors import ServerError
from multidb.model import Isolation, Outcome, Probe, Tenant
from multidb.provisioners.redis.driver.batch_connection import BatchConnection, as_app
from multidb.provisioners.redis.driver.connection import explained
from multidb.provisioners.redis.isolation.inventory import SCRIPTS
from multidb.provisioners.redis.isolation.level import isolation
from multidb.provisioners.redis.provision.channels import reaches
from multidb.provisioners.redis.provision.options import STORE, AppOptions
from multidb.provisioners.redis.provision.resources import RedisFacts, command_rule
from multidb.secrets import redact

__all__ = ["probe"]

# DEBUG is off for everybody where enable-debug-command says so, and that is asked before the app's rules.
_REFUSALS = ("NOPERM", "NOAUTH", "WRONGPASS", "ERR DEBUG command not allowed")
_REFUSALS_IN_SCRIPTS = ("The user executing the script can't", "ACL failure in script", "No permissions")
_DETAIL = 120  # characters

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Act:
    """One thing that an app may do to its own place, and not to another's.

    `queued`: sent in a transaction that is discarded. `futile`: sent with arguments that the server refuses if it lets
    the user send the command at all, so that only a refusal of the user is one.

    In `words`, ``{key}``, ``{channel}``, ``{db}``, ``{user}`` are those of whoever it is aimed at, ``{own}`` is a key
    of the app that does it.
    """

    name: str
    words: Words
    queued: bool = True
    futile: bool = False


_CHANNELS: Final = (
    _Act("PUBLISH", ("PUBLISH", "{channel}", "x")),
    _Act("SPUBLISH", ("SPUBLISH", "{channel}", "x")),
    _Act("SUBSCRIBE", ("SUBSCRIBE", "{channel}")),
    _Act("SSUBSCRIBE", ("SSUBSCRIBE", "{channel}")),
    _Act("PSUBSCRIBE", ("PSUBSCRIBE", "{app}:*")),
    _Act("PUBLISH in a script", ("EVAL", "return redis.call('PUBLISH', ARGV[1], 'x')", "0", "{channel}"), queued=False),
)
_NUMBERS: Final = (
    _Act("SELECT in a transaction", ("SELECT", "{db}")),
    _Act("SELECT in a script", ("EVAL", "redis.call('SELECT', ARGV[1]) return 1", "0", "{db}"), queued=False),
    _Act("SELECT", ("SELECT", "{db}"), queued=False),
)
_KEYS: Final = (
    *(_Act(name, (name, "{key}")) for name in ("GET", "EXISTS", "TYPE", "TTL", "DUMP", "DEL", "UNLINK", "LLEN")),
    _Act("SET", ("SET", "{key}", "x")),
    _Act("EXPIRE", ("EXPIRE", "{key}", "1000")),
    _Act("RENAME", ("RENAME", "{key}", "{key}")),
    _Act("MEMORY USAGE", ("MEMORY", "USAGE", "{key}")),
    _Act("SUNIONSTORE", ("SUNIONSTORE", "{own}", "{key}")),
    _Act("XREAD", ("XREAD", "STREAMS", "{key}", "0")),
    _Act("GET in a script", ("EVAL", "return redis.call('GET', KEYS[1])", "1", "{key}"), queued=False),
    _Act("GET in a script, undeclared", ("EVAL", "return redis.call('GET', ARGV[1])", "0", "{key}"), queued=False),
)
# What no app may do at all.
_NOBODYS: Final = (
    *(
        _Act(line, tuple(line.split()))
        for line in (
            *("FLUSHALL", "SWAPDB 0 1", "CONFIG GET maxmemory", "CONFIG SET maxmemory 0", "CONFIG RESETSTAT"),
            *("ACL LIST", "ACL GETUSER default", "ACL SETUSER default on", "ACL DELUSER {user}", "ACL LOG"),
            *("CLIENT LIST", "CLIENT KILL USER {user}", "CLIENT TRACKING ON BCAST", "CLIENT PAUSE 0"),
            *("FUNCTION LIST", "FUNCTION FLUSH", "FUNCTION DUMP", "SCRIPT FLUSH", "SCRIPT KILL"),
            *("PUBSUB CHANNELS", "PUBSUB NUMSUB {channel}", "MEMORY STATS", "MEMORY PURGE", "LATENCY LATEST"),
            *("SLOWLOG GET", "DEBUG HELP", "MODULE LIST", "BGSAVE", "REPLICAOF NO ONE", "MONITOR"),
            *("MIGRATE 127.0.0.1 1 {own} 0 1", "RESTORE {own} 0 x", "MOVE {own} 1", "COPY {own} {own} DB 1"),
            *("PSUBSCRIBE *", "SUBSCRIBE __keyspace@0__:x"),
        )
    ),
    _Act("SHUTDOWN", ("SHUTDOWN", "__multidb_probe"), queued=False, futile=True),
)
# What an app may not do whose manifest entry does not say `scripts`.
_SCRIPTING: Final = (
    *(_Act(name, (name, "return 1", "0")) for name in ("EVAL", "EVAL_RO")),
    *(_Act(name, (name, "0" * 40, "0")) for name in ("EVALSHA", "EVALSHA_RO")),
    *(_Act(name, (name, "__multidb_probe", "0")) for name in ("FCALL", "FCALL_RO")),
    _Act("SCRIPT LOAD", ("SCRIPT", "LOAD", "return 1")),
)
_BLIND_TO_PREFIX: Final = tuple(
    _Act(line.split()[0], tuple(line.split()))
    for line in ("SCAN 0", "KEYS *", "RANDOMKEY", "DBSIZE", "FLUSHDB", "SORT {own} BY nosort GET *")
)


def probe(attacker: Tenant, victims: Sequence[Tenant]) -> Iterator[Probe]:
    """What came of trying each wall of the store, with the attacker's credentials and a control for each act.

    Raises:
        ServerError: the attacker cannot log in, or nobody asked the server what it is.
    """
    facts = attacker.context.facts
    if not isinstance(facts, RedisFacts):
        raise ServerError("what the server is, is not known", where=str(attacker.server), hint="multidb doctor")
    with explained(attacker.server):
        yield from _Attack(attacker, facts).run(victims)


class _Attack:
    """One app's attempts on one server."""

    def __init__(self, attacker: Tenant, facts: RedisFacts) -> None:
        self._attacker = attacker
        self._facts = facts
        self._suffix = f"__multidb_probe:{random.token_hex(8)}"
        level, _ = isolation(attacker.app, facts)
        self._walls = level is not Isolation.NAMING_ONLY

    def run(self, victims: Sequence[Tenant]) -> Iterator[Probe]:
        number = _number(self._attacker)
        acts = [*_NOBODYS, *(_BLIND_TO_PREFIX if number == 0 else ())]
        acts += () if AppOptions.of(self._attacker.app.stores[STORE]).scripts else _SCRIPTING
        with as_app(self._attacker) as connection:
            yield from self._alone(connection, acts)
            for victim in victims:
                yield from self._against(connection, victim, _acts(self._attacker, victim))
        yield self._reset()
        if number:
            yield self._before_select()
        for victim in victims:
            yield self._become(victim)

    def _alone(self, connection: BatchConnection, acts: Sequence[_Act]) -> Iterator[Probe]:
        """Acts forbidden to everybody; that the way of trying them works is shown by one that is allowed."""
        control = self._try(connection, _Act("GET", ("GET", "{own}")), self._attacker)
        for act in acts:
            if self._knows(act):
                yield self._judged(act.name, None, self._try(connection, act, self._attacker), [control])

    def _against(self, connection: BatchConnection, victim: Tenant, acts: Sequence[_Act]) -> Iterator[Probe]:
        for act in acts:
            if self._knows(act) and self._may(act):
                attempt = self._try(connection, act, victim)
                control = self._try(connection, act, self._attacker)
                shared = act in _CHANNELS and reaches(self._attacker.app, self._names(victim)["channel"])
                judged = self._judged(act.name, victim.app.id, attempt, [control], Outcome.ALLOWED if shared else None)
                open_ = shared and judged.got is Outcome.ALLOWED
                yield replace(judged, detail="shared by the manifest") if open_ else judged

    def _knows(self, act: _Act) -> bool:
        return act.words[0].lower() in self._facts.commands

    def _may(self, act: _Act) -> bool:
        """Whether the app may do it to its own place: one over its quota may not write."""
        read_only = self._attacker.app.id in self._attacker.context.read_only
        scripts = AppOptions.of(self._attacker.app.stores[STORE]).scripts
        number = _number(self._attacker)
        rule = command_rule(number == 0, number, self._facts, read_only, scripts=scripts)
        name = "|".join(act.words[:2]).lower() if act.words[0] == "MEMORY" else act.words[0].lower()
        if name in SCRIPTS and not scripts:
            return False
        return not read_only or name in self._facts.commands.granted(rule).commands

    def _try(self, connection: BatchConnection, act: _Act, target: Tenant) -> object:
        words = [word.format_map(self._names(target)) if "{" in word else word for word in act.words]
        if not act.queued:
            answer = connection.tell([words])[0]
            return None if act.futile and _outcome(answer)[0] is not Outcome.REFUSED else answer
        return connection.tell([("MULTI",), words, ("DISCARD",)])[1]

    def _names(self, target: Tenant) -> dict[str, str]:
        return {
            "app": target.app.id,
            "key": f"{target.env.get('REDIS_KEY_PREFIX', '')}{self._suffix}",
            "own": f"{self._attacker.env.get('REDIS_KEY_PREFIX', '')}{self._suffix}",
            "channel": f"{target.app.id}:{self._suffix}",
            "db": str(_number(target)),
            "user": str(target.env["REDIS_USER"]),
        }

    def _reset(self) -> Probe:
        """RESET makes a connection the default user's again."""
        with as_app(self._attacker) as connection:
            reset, answer = connection.tell([("RESET",), ("GET", self._suffix)])
        return self._judged("RESET, then GET", None, answer, [reset])

    def _before_select(self) -> Probe:
        """Every connection starts in DB 0. Only database rules keep an app with a DB of its own out of it."""
        with as_app(self._attacker, select=False) as connection:
            control, _, answer, _ = connection.tell([("PING",), ("MULTI",), ("GET", self._suffix), ("DISCARD",)])
        expected = None if self._facts.db_rules else Outcome.ALLOWED
        return self._judged("GET in DB 0, before SELECT", None, answer, [control], expected)

    def _become(self, victim: Tenant) -> Probe:
        """Logs in as the other app without its password; with the app's own it works, as the control shows."""
        with as_app(self._attacker) as connection:
            [answer] = connection.tell([("AUTH", str(victim.env["REDIS_USER"]), self._suffix)])
        return self._judged("AUTH", victim.app.id, answer, [])

    def _judged(
        self,
        name: str,
        target: str | None,
        answer: object,
        controls: Sequence[object],
        expected: Outcome | None = None,
    ) -> Probe:
        expected = expected or (Outcome.REFUSED if self._walls else Outcome.ALLOWED)
        broken = [control for control in controls if isinstance(control, ResponseError)]
        got, detail = (Outcome.BROKEN, f"the control failed: {broken[0]}") if broken else _outcome(answer)
        return Probe(self._attacker.app.id, target, name, expected, got, redact(detail)[:_DETAIL])


def _acts(attacker: Tenant, victim: Tenant) -> Sequence[_Act]:
    """Apps with the same number are told apart by the prefix of their keys, others by the number."""
    return (*_CHANNELS, *(_KEYS if _number(attacker) == _number(victim) else _NUMBERS))


def _number(tenant: Tenant) -> int:
    return int(str(tenant.env["REDIS_DB"]))


def _outcome(answer: object) -> tuple[Outcome, str]:
    if not isinstance(answer, ResponseError):
        return Outcome.ALLOWED, "the server took it"
    text = str(answer)
    if text.startswith(_REFUSALS) or any(words in text for words in _REFUSALS_IN_SCRIPTS):
        return Outcome.REFUSED, text
    return Outcome.BROKEN, text
