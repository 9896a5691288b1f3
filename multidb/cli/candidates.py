"""What may stand next on a command line, for the shells' completion.

A shell's script (``multidb/cli/scripts``) runs multidb with the line so far in the environment, and reads one word (how
to take what follows), then a candidate a line: value, tab, what it is. Nothing is imported here that takes long: a
person waits. Nothing that is printed is evaluated by a shell: names come from files, and files are data.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from multidb.cli.known_names import Completion, KnownNames, Line

__all__ = ["TABLE", "respond"]

TABLE: Final = os.path.join(os.path.dirname(__file__), "commands.json")  # noqa: PTH118, PTH120  # no pathlib: 5 ms
_FILES, _WORDS = "files", "words"
_REDIRECTION: Final = re.compile(r"[0-9&]*(<|>|>>|>\|)")
_PLAIN: Final = re.compile(r"[^A-Za-z0-9_@%+=:,./-]")
_MANIFEST: Final = "multidb.yaml"


class _Parameter(NamedTuple):
    """A row of the table, see `multidb.cli.command_table`."""

    names: list[str]
    source: str | list[str] | None
    repeated: bool
    help: str


def respond(shell: str, environ: Mapping[str, str]) -> int:
    """Prints what may stand next on the line that a shell's script has put into the environment.

    Returns:
        The exit code: 1 when nothing can be said, as for a shell that is not known. Then nothing was printed.
    """
    try:
        if shell == "bash":
            words, quote = split(environ.get("_MULTIDB_LINE", ""))
        elif shell in ("zsh", "fish"):
            words, quote = [*environ.get("_MULTIDB_WORDS", "").split("\n"), environ.get("_MULTIDB_WORD", "")], ""
        else:
            return 1
        *before, current = words
        how, candidates = complete(before[1:], current, environ)
        rows = [row for row in candidates if row.value.isprintable()]
        if shell == "bash":
            rows = list(_for_bash(rows, current, quote, environ.get("_MULTIDB_BREAKS", "")))
        elif shell == "zsh":  # which reads value:description
            rows = [Completion(value.replace("\\", "\\\\").replace(":", "\\:"), summary) for value, summary in rows]
        text = "\n".join([how, *(f"{value}\t{' '.join(summary.split())}" for value, summary in rows)])
        sys.stdout.buffer.write(f"{text}\n".encode())
        sys.stdout.flush()
    except Exception:
        if environ.get("MULTIDB_DEBUG"):
            raise
        return 1  # a person is typing: no place for an error
    return 0


def complete(before: Iterable[str], current: str, environ: Mapping[str, str]) -> tuple[str, list[Completion]]:
    """What may stand in the place of `current`, which is what is typed of it so far.

    Args:
        before: the words between the program's and this one.

    Returns:
        How to take it ("files": the shell is to offer files; "words": what follows), and the candidates.
    """
    with open(TABLE, encoding="utf-8") as file:  # noqa: PTH123
        table = json.load(file)
    reading = _LineReader(table)
    for word in before:
        reading.take(word)
    prefix, source = "", reading.source_of(current)
    if source == "options" and "=" in current:
        name, _, current = current.partition("=")
        prefix, source = f"{name}=", reading.option(name)
    if source == _FILES:
        return _FILES, []
    line = reading.line(current, environ)
    offered = reading.offers(source) if source in ("commands", "options") else _values(source, line)
    typed = prefix + current
    unique = {prefix + value: summary for value, summary in offered if (prefix + value).startswith(typed)}
    return _WORDS, [Completion(value, summary) for value, summary in unique.items()]


def _values(source: str | list[str] | None, line: Line) -> Iterable[Completion]:
    if isinstance(source, list):
        return [Completion(choice, "") for choice in source]
    if source in (None, "nothing"):
        return []
    offered: Iterable[Completion] = getattr(KnownNames(line), str(source))()
    return offered


class _LineReader:
    """A command line, read word by word."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._table = table
        self._path = ""
        self._words: list[str] = []
        self._given: dict[str, list[str]] = {}
        self._pending: _Parameter | None = None
        self._ended = False  # a -- was seen
        self._last = ""
        self._enter("")

    def take(self, word: str) -> None:
        """The next word, whole."""
        self._last = word
        if self._pending is not None:
            self._give(self._pending, word)
            self._pending = None
        elif word == "--" and not self._ended:
            self._ended = True
        elif word.startswith("-") and len(word) > 1 and not self._ended:
            self._take_option(word)
        elif self._subcommands():
            self._enter(f"{self._path} {word}".strip())
        else:
            self._words.append(word)

    def source_of(self, current: str) -> str | list[str] | None:
        """Where the values come from that may stand in the place of `current`."""
        if _REDIRECTION.fullmatch(self._last):
            return _FILES
        if self._pending is not None:
            return self._pending.source
        if current.startswith("-") and not self._ended:
            return "options"
        if self._subcommands():
            return "commands"
        arguments = [row for row in self._parameters if not row.names]
        for number, row in enumerate(arguments):
            if row.repeated or number >= len(self._words):
                return row.source
        return "nothing"

    def option(self, name: str) -> str | list[str] | None:
        """Where the values of this option come from."""
        return next((row.source for row in self._parameters if name in row.names), None)

    def offers(self, source: str) -> Iterator[Completion]:
        """The subcommands; or the options, but for those that were given and stand once."""
        if source == "commands":
            for name in self._subcommands():
                yield Completion(name, self._table[f"{self._path} {name}".strip()]["help"])
            return
        for row in self._parameters:
            if row.repeated or not self._given.keys() & set(row.names):
                yield from (Completion(name, row.help) for name in row.names)

    def line(self, current: str, environ: Mapping[str, str]) -> Line:
        """What the words before have said."""

        def last(variable: str, *names: str) -> str | None:
            given = [value for name in names for value in self._given.get(name, ())]
            return given[-1] if given else environ.get(variable) or None

        named = self._words if self._takes_apps() else []
        apps = [app.replace("-", "_") for app in [*named, *self._given.get("--app", ())]]
        return Line(last("MULTIDB_FILE", "--file") or _MANIFEST, last("MULTIDB_ENV", "--env"), tuple(apps), current)

    def _enter(self, path: str) -> None:
        self._path = path
        root = [["--version"], None, False, "Print the version."], [["--help", "-h"], None, False, "Show this message."]
        rows = self._table.get(path, {"parameters": ()})["parameters"] if path else root
        self._parameters = [_Parameter(*row) for row in rows]

    def _subcommands(self) -> list[str]:
        start = f"{self._path} " if self._path else ""
        return [path[len(start) :] for path in self._table if path.startswith(start) and " " not in path[len(start) :]]

    def _take_option(self, word: str) -> None:
        name, joined, value = word.partition("=")
        if not word.startswith("--"):
            name, joined, value = word[:2], word[2:], word[2:]
        row = next((row for row in self._parameters if name in row.names), None)
        if row is None or row.source is None:
            self._given.setdefault(row.names[0] if row else name, [])
        elif joined:
            self._give(row, value)
        else:
            self._pending = row

    def _give(self, row: _Parameter, value: str) -> None:
        if row.names == ["--app"] and self._takes_apps():
            self._words.append(value)  # another way to say NAME
        else:
            self._given.setdefault(row.names[0], []).append(value)

    def _takes_apps(self) -> bool:
        arguments = [row for row in self._parameters if not row.names]
        return bool(arguments) and arguments[0].source in ("apps", "apps_or_plans", "backed_up", "removed")


def split(line: str) -> tuple[list[str], str]:
    """The words of a line that ends at the cursor, the last one unfinished, as bash reads them; and the quote that is
    open at the end."""
    words, word, quote, inside, escaped = [], "", "", False, False
    for character in line:
        if escaped:
            word, escaped = word + character, False
        elif character == "\\" and quote != "'":
            escaped = inside = True
        elif quote:
            if character == quote:
                quote = ""
            else:
                word += character
        elif character in "'\"":
            quote, inside = character, True
        elif character.isspace():
            if word or inside:
                words.append(word)
            word, inside = "", False
        else:
            word, inside = word + character, True
    return [*words, word], quote


def _for_bash(rows: Iterable[Completion], current: str, quote: str, breaks: str) -> Iterator[Completion]:
    """As bash puts it into the line, where it replaces what stands behind the last character that breaks words for it.

    In an open quote only names are offered that need none: what else is in a quote would have to be quoted twice.
    """
    begun = 0 if quote else max((current.rfind(character) + 1 for character in breaks if character in "=:@"), default=0)
    for value, summary in rows:
        if not quote:
            yield Completion(_PLAIN.sub(r"\\\g<0>", value[begun:]), summary)
        elif not _PLAIN.search(value):
            yield Completion(value, summary)
