"""The ACL language of Redis and Valkey: reading a user's rule as the server lists it, and telling what it allows.

The server rewrites a rule when it stores it (Redis 7.0 turns a list of categories into sixty items in another order),
so two rules are compared by what they *allow*, never as text. `granted` plays the server's own left-to-right
evaluation over the server's own command list; a contract test compares it with ``ACL DRYRUN`` command by command.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["CommandTable", "Granted", "Rule", "join_line", "parse_rule", "split_line"]

ALL_DATABASES = "all"
NO_DATABASES = "none"


class CommandTable:
    """The commands that a server knows.

    Args:
        categories: every command and subcommand (``get``, ``client|id``) with its ACL categories, without the ``@``.
    """

    def __init__(self, categories: Mapping[str, frozenset[str]]) -> None:
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

    def deviation(self, wanted: Granted) -> tuple[str, ...]:
        """How this differs from `wanted`, as readable tokens: ``+config|set`` is one too many, ``-get`` is missing."""
        mine, theirs = self._everything(), wanted._everything()
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


def parse_rule(line: str) -> Rule:
    """A line of ``ACL LIST``: ``user lernmi_user on #5e88... ~* resetchannels &lernmi:* db=3 -@all +get``."""
    words = _with_selectors_whole(line.split(" ")[1:])
    flags = set(words[1:])
    databases = [word for word in words if word in ("resetdbs", "alldbs") or word.startswith("db=")]
    return Rule(
        user=words[0],
        enabled="on" in flags,
        nopass="nopass" in flags,
        sanitized="skip-sanitize-payload" not in flags,
        passwords=frozenset(word[1:] for word in words[1:] if word.startswith("#")),
        keys=_patterns(words, ("~", "%"), "allkeys"),
        channels=_patterns(words, ("&",), "allchannels"),
        databases=_databases(databases[-1]) if databases else ALL_DATABASES,
        commands=tuple(_command(word) for word in words[1:] if word[:1] in "+-" or word.endswith("commands")),
        selectors=tuple(word for word in words[1:] if word.startswith("(")),
    )


def _with_selectors_whole(words: Sequence[str]) -> list[str]:
    whole: list[str] = []
    for word in words:
        if whole and whole[-1].startswith("(") and not whole[-1].endswith(")"):
            whole[-1] += f" {word}"
        elif word:
            whole.append(word)
    return whole


def _patterns(words: Sequence[str], signs: tuple[str, ...], everything: str) -> tuple[str, ...]:
    found = {word.removeprefix(signs[0]) for word in words[1:] if word.startswith(signs)}
    return tuple(sorted(found | ({"*"} if everything in words[1:] else set())))


def _databases(word: str) -> str:
    match word:
        case "alldbs":
            return ALL_DATABASES
        case "resetdbs":
            return NO_DATABASES
    return ",".join(sorted(word.removeprefix("db=").split(","), key=int))


def _command(word: str) -> str:
    return {"allcommands": "+@all", "nocommands": "-@all"}.get(word, word)


def join_line(words: Iterable[str]) -> str:
    """A command as a line for the ``redis-cli`` prompt; `split_line` reads it back."""
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    if word and not any(letter.isspace() or letter in "\"'\\" for letter in word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def split_line(line: str) -> list[str]:
    """The words of a line written by `join_line`. ``ValueError`` when a quote is not closed."""
    words: list[str] = []
    letters = iter(line)
    word: str | None = None
    quoted = False
    for letter in letters:
        if letter == "\\" and quoted:
            word = (word or "") + next(letters, "")
        elif letter == '"':
            quoted, word = not quoted, word or ""
        elif letter == " " and not quoted:
            words += [word] if word is not None else []
            word = None
        else:
            word = (word or "") + letter
    if quoted:
        raise ValueError("a quote is not closed")
    return [*words, *([word] if word is not None else [])]
