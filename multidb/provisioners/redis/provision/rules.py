"""The ACL language of Redis and Valkey: reading a user's rule as the server lists it, and telling what it allows.

The server rewrites a rule when it stores it (Redis 7.0 turns a list of categories into sixty items in another order),
so two rules are compared by what they *allow*, never as text. `granted` plays the server's own left-to-right
evaluation over the server's own command list; a contract test compares it with ``ACL DRYRUN`` command by command.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

__all__ = [
    "BYTES",
    "CommandTable",
    "Granted",
    "Rule",
    "join_line",
    "parse_rule",
    "same_rights",
    "selectors_of",
    "split_line",
]

BYTES: Final = "surrogateescape"  # how bytes that are no text stand in one, so that they go back as they came
_MARKS: Final = frozenset(" \"'\\")  # what a word may not have outside quotes; no other space is printable
ALL_DATABASES = "all"
NO_DATABASES = "none"


class CommandTable:
    """The commands that a server knows.

    Args:
        categories: every command and subcommand (``get``, ``client|id``) with its ACL categories, without the ``@``.
        keyed: those of which the server says what their keys are, so that a user's key patterns hold for them.
    """

    def __init__(self, categories: Mapping[str, frozenset[str]], keyed: Iterable[str] = ()) -> None:
        self.keyed = frozenset(keyed)
        self._subcommands: dict[str, frozenset[str]] = {}
        for name in categories:
            container, _, sub = name.partition("|")
            if sub:
                self._subcommands[container] = self._subcommands.get(container, frozenset()) | {name}
        # A container (CLIENT) does nothing by itself; its permission bit has no effect and is left out.
        self.names = frozenset(name for name in categories if name not in self._subcommands)
        self.categories = frozenset().union(*categories.values())
        self._of_category = {
            category: frozenset(name for name in self.names if category in categories[name])
            for category in self.categories
        }
        self.granted = functools.cache(self._granted)

    def __contains__(self, name: object) -> bool:
        return name in self.names or name in self._subcommands

    def understands(self, token: str) -> bool:
        """Whether the server accepts the command token (``-function``, ``+client|setinfo``, ``+@read``).

        One token that it does not know makes it reject a whole rule.
        """
        name = token[1:]
        if name.startswith("@"):
            return name[1:] in self.categories or name == "@all"
        container, _, argument = name.partition("|")
        if not argument or name in self.names:
            return container in self
        # Before Redis 7 there are no subcommands; there ``+client|id`` allows CLIENT with the first argument "id".
        return token.startswith("+") and container in self.names

    def known(self, tokens: Iterable[str]) -> tuple[str, ...]:
        """The tokens that the server understands, in their order."""
        return tuple(token for token in tokens if self.understands(token))

    def of_category(self, category: str) -> frozenset[str]:
        """The commands of a category, named without the ``@``."""
        return self._of_category.get(category, frozenset())

    def _members(self, name: str) -> frozenset[str]:
        if name.startswith("@"):
            return self.of_category(name[1:])
        return self._subcommands.get(name, frozenset({name}) & self.names)

    def _granted(self, tokens: tuple[str, ...]) -> Granted:
        commands: set[str] = set()
        first: set[str] = set()
        future = False
        for token in tokens:
            allow, name = token.startswith("+"), token[1:]
            if name == "@all":
                commands, first, future = (set(self.names) if allow else set()), set(), allow
                continue
            members = self._members(name)
            if allow and not members and "|" in name:
                first |= {name} if name.partition("|")[0] not in commands else set()
                continue
            commands = commands | members if allow else commands - members
            first = {argument for argument in first if argument.partition("|")[0] not in members}
        return Granted(frozenset(commands), frozenset(first), future)


@dataclass(frozen=True, slots=True)
class Granted:
    """What command tokens add up to."""

    commands: frozenset[str]
    first_arguments: frozenset[str]  # ``select|3``: SELECT with exactly this argument
    future: bool  # also the commands of modules loaded later

    def deviation(self, desired: Granted) -> tuple[str, ...]:
        """How this differs from `desired`, as readable tokens: ``+config|set`` is one too many, ``-get`` is missing."""
        mine, theirs = self._everything(), desired._everything()
        return (*(f"+{name}" for name in sorted(mine - theirs)), *(f"-{name}" for name in sorted(theirs - mine)))

    def _everything(self) -> frozenset[str]:
        return self.commands | self.first_arguments | ({"@all"} if self.future else frozenset())


@dataclass(frozen=True, slots=True)
class Rule:
    """One user of ``ACL LIST``."""

    user: str
    enabled: bool
    nopass: bool
    sanitized: bool  # RESTORE payloads are checked
    passwords: frozenset[str]  # SHA-256, hexadecimal
    keys: tuple[str, ...]
    channels: tuple[str, ...]
    databases: str  # "all", "none" or numbers: "3,4"
    commands: tuple[str, ...]
    selectors: tuple[str, ...]

    @property
    def database_numbers(self) -> tuple[int, ...]:
        """The DB numbers that the user is limited to, by a database rule or by the only SELECT that it may send."""
        if self.databases not in (ALL_DATABASES, NO_DATABASES):
            return tuple(int(number) for number in self.databases.split(","))
        pinned = (token.removeprefix("+select|") for token in self.commands if token.startswith("+select|"))
        return tuple(int(number) for number in pinned if number.isdecimal())


def parse_rule(line: str, *, channels: str = "") -> Rule:
    """A line of ``ACL LIST``: ``user lernmi_user on #5e88... ~* resetchannels &lernmi:* db=3 -@all +get``. Also one
    that a person has written into an ACL file, where words hold from left to right.

    Args:
        channels: the channel pattern that a user has about whom nothing is said (``acl-pubsub-default``).
    """
    name, *words = _with_selectors_whole(line.split(" ")[1:])
    rule = _Reading(channels)
    for word in words:
        rule.read(word)
    return Rule(
        user=name,
        enabled=rule.enabled,
        nopass=rule.nopass,
        sanitized=rule.sanitized,
        passwords=frozenset(rule.passwords),
        keys=tuple(sorted(rule.keys)),
        channels=tuple(sorted(rule.channels)),
        databases=rule.databases,
        commands=tuple(rule.commands),
        selectors=tuple(rule.selectors),
    )


class _Reading:
    """A user of whom so far nothing but a few words is known."""

    def __init__(self, channels: str) -> None:
        self._default = {channels} - {""}
        self._reset()

    def _reset(self) -> None:
        self.enabled = self.nopass = False
        self.sanitized = True
        self.passwords: set[str] = set()
        self.keys: set[str] = set()
        self.channels = set(self._default)
        self.databases = ALL_DATABASES
        self.commands: list[str] = []
        self.selectors: list[str] = []

    def read(self, word: str) -> None:
        """What the next word makes of the user; one that no server takes makes nothing of it."""
        if word in _SWITCHES:
            setattr(self, *_SWITCHES[word])
        elif word == "reset":
            self._reset()
        elif word in ("nopass", "resetpass"):
            self.nopass = word == "nopass"
            self.passwords.clear()
        elif word in _PATTERNS:
            name, patterns = _PATTERNS[word]
            setattr(self, name, set(patterns))
        elif word == "clearselectors":
            self.selectors.clear()
        else:
            self._add(word)

    def _add(self, word: str) -> None:
        sign, rest = word[:1], word[1:]
        match sign:
            case "#" | ">":
                self.nopass = False
                self.passwords.add(rest if sign == "#" else _sha256(rest))
            case "!" | "<":
                self.passwords.discard(rest if sign == "!" else _sha256(rest))
            case "~" | "%":
                self.keys.add(rest if sign == "~" else word.removeprefix("%RW~"))
            case "&":
                self.channels.add(rest)
            case "(":
                self.selectors.append(word)
            case "+" | "-":
                self.commands.append(word)
        if word.startswith("db="):
            numbers = [number for number in word.removeprefix("db=").split(",") if number.isdecimal()]
            self.databases = ",".join(sorted(numbers, key=int)) or NO_DATABASES
        elif word in ("allcommands", "nocommands"):
            self.commands.append("+@all" if word == "allcommands" else "-@all")


_SWITCHES: Final[Mapping[str, tuple[str, object]]] = {
    "on": ("enabled", True),
    "off": ("enabled", False),
    "sanitize-payload": ("sanitized", True),
    "skip-sanitize-payload": ("sanitized", False),
    "alldbs": ("databases", ALL_DATABASES),
    "resetdbs": ("databases", NO_DATABASES),
}
_PATTERNS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "allkeys": ("keys", ("*",)),
    "resetkeys": ("keys", ()),
    "allchannels": ("channels", ("*",)),
    "resetchannels": ("channels", ()),
}


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode(errors=BYTES)).hexdigest()


def _with_selectors_whole(words: Sequence[str]) -> list[str]:
    """The words, those of a selector in one. A pattern may end in a bracket, and then does not end the selector: the
    server names commands last."""
    whole: list[str] = []
    open_selector = False
    for word in words:
        if open_selector:
            whole[-1] += f" {word}"
        elif word:
            whole.append(word)
        else:
            continue
        starts = not open_selector and len(whole) > 1 and word.startswith("(")
        if starts or open_selector:
            open_selector = not (word.endswith(")") and word.removeprefix("(")[:1] not in ("~", "%", "&"))
    return whole


def selectors_of(rule: Rule) -> list[Rule]:
    """What a user may do beside, or instead of, the rest of its rule: each selector as a rule of its own."""
    return [parse_rule(f"user {rule.user} {selector[1:-1]}") for selector in rule.selectors]


def same_rights(one: Rule, other: Rule, table: CommandTable) -> bool:
    """Whether two rules come to the same, however they are written."""
    if one == other:
        return True
    if replace(one, commands=(), selectors=()) != replace(other, commands=(), selectors=()):
        return False
    if table.granted(one.commands) != table.granted(other.commands) or len(one.selectors) != len(other.selectors):
        return False
    pairs = zip(selectors_of(one), selectors_of(other), strict=True)
    return all(same_rights(mine, theirs, table) for mine, theirs in pairs)


def join_line(words: Iterable[str]) -> str:
    """A command as a line for the ``redis-cli`` prompt; `split_line` reads it back. All in it can be shown."""
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    if word and word.isprintable() and _MARKS.isdisjoint(word):
        return word
    return '"' + "".join(_shown(letter) for letter in word) + '"'


def _shown(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    return "".join(f"\\x{byte:02x}" for byte in letter.encode(errors=BYTES))


def split_line(line: str) -> list[str]:
    """The words of a line written by `join_line`. ``ValueError`` when a quote is not closed."""
    words: list[str] = []
    letters = iter(line)
    word: bytes | None = None
    quoted = False
    for letter in letters:
        if letter == "\\" and quoted:
            word = (word or b"") + _escaped(letters)
        elif letter == '"':
            quoted, word = not quoted, word or b""
        elif letter == " " and not quoted:
            words += [word.decode(errors=BYTES)] if word is not None else []
            word = None
        else:
            word = (word or b"") + letter.encode(errors=BYTES)
    if quoted:
        raise ValueError("a quote is not closed")
    return [*words, *([word.decode(errors=BYTES)] if word is not None else [])]


def _escaped(letters: Iterator[str]) -> bytes:
    """What follows a backslash: two hexadecimal digits after an ``x``, else any one letter."""
    letter = next(letters, "")
    return bytes([int(next(letters, "") + next(letters, ""), 16)]) if letter == "x" else letter.encode(errors=BYTES)
