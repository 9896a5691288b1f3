"""A manifest's text with its YAML nodes: a value put in, changed or taken out, every other character as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from multidb.errors import ManifestError, UsageError
from multidb.manifest.document import compose, plain, tree

__all__ = ["NAME", "ManifestText", "flow_text"]

NAME: Final = "multidb.yaml"
"""What a text is called in messages."""
_WIDEST: Final = 100  # an entry that fits is written on one line
_LINE_BREAK = re.compile("\r\n|\n|\r")
_GAP = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_ALIAS = re.compile(r"[\s,:-]*\*[^\s,\[\]{}]+")


class ManifestText:
    """A manifest's text with its YAML nodes, and where in the text they stand."""

    def __init__(self, text: str) -> None:
        self._mark = "\ufeff" if text.startswith("\ufeff") else ""
        self._text = text.removeprefix("\ufeff")
        self._root = compose(self._text, NAME)
        self._starts = [0, *(match.end() for match in _LINE_BREAK.finditer(self._text))]
        self._newline = "\r\n" if "\r\n" in self._text else "\n"

    def values(self) -> dict[str, Any]:
        """What the text says; `ManifestError` when YAML itself forbids it (a key twice, a tag)."""
        node, problems = tree(self._root, self._text, NAME)
        if problems:
            raise ManifestError(problems)
        values = {} if node is None else plain(node)
        if not isinstance(values, dict):
            raise UsageError("the manifest is not a mapping", where=NAME, hint="begin it with: version: 1")
        return values

    def is_included_file(self) -> bool:
        """Whether apps stand at the top, as in files that a manifest includes."""
        return not any(key.value in ("version", "apps") for key, _ in self._pairs(self._root))

    def with_apps(self, entries: Mapping[str, Mapping[str, Any]]) -> str:
        item = ", ".join(flow_text({app_id: entry}) for app_id, entry in entries.items())
        root, apps = self._root, self._apps()
        if not isinstance(root, yaml.MappingNode):
            raise UsageError("the manifest is empty", where=NAME, hint="multidb init writes one")
        if apps is None:
            if root.flow_style:
                return self._into_flow(root, f"apps: {{{item}}}")
            indent = " " * root.value[0][0].start_mark.column
            return self._line_after(self._end(root), [f"{indent}apps:", *self._block(entries, indent)])
        key, value = apps
        if isinstance(value, yaml.MappingNode) and value.flow_style:
            return self._into_flow(value, item)
        if isinstance(value, yaml.MappingNode):
            indent = " " * value.value[0][0].start_mark.column
            lines = [line for app_id, entry in entries.items() for line in self._lines(app_id, entry, indent)]
            return self._line_after(self._end(value), lines)
        end = self._end_of_pair(key, value)
        if root.flow_style:
            return self._spliced((end, end, f" {{{item}}}"))
        return self._line_after(end, self._block(entries, " " * key.start_mark.column))

    def without_app(self, app_id: str, *, included: bool) -> str:
        apps = self._apps()
        holder = self._root if included else apps[1] if apps else None
        assert isinstance(holder, yaml.MappingNode)
        pairs = self._pairs(holder)
        position = next((at for at, (key, _) in enumerate(pairs) if key.value == app_id), None)
        if position is None:  # it comes out of a merge key
            return self._mark + self._text
        key, value = pairs[position]
        if not holder.flow_style:
            return self._without_lines(self._at(key.start_mark), self._end_of_pair(key, value))
        return self._out_of_flow(pairs, position)

    def with_key(self, app_id: str, new: str, *, included: bool) -> str:
        apps = self._apps()
        for key, _ in self._pairs(self._root if included else apps[1] if apps else None):
            if key.value == app_id:
                return self._spliced((self._at(key.start_mark), self._at(key.end_mark), new))
        return self._mark + self._text  # it comes out of a merge key

    def with_value(self, path: Sequence[str], value: Any, hint: str) -> str:
        """The text with `value` at the end of `path`, whose first keys are there."""
        node = self._root
        for depth, name in enumerate(path):
            pair = next(((key, below) for key, below in self._pairs(node) if key.value == name), None)
            if pair is None:
                return self._with_pair(node, name, _nested(path[depth + 1 :], value))
            node = pair[1]
            if value == {} and isinstance(node, yaml.MappingNode) and depth + 1 == len(path):
                break  # nothing is laid over it
            if depth + 1 == len(path) or not isinstance(node, yaml.MappingNode):
                return self._with_new_value(*pair, _nested(path[depth + 1 :], value), hint)
        return self._mark + self._text

    def _with_pair(self, node: yaml.Node | None, name: str, value: Any) -> str:
        if node is None:  # comments at most
            return self._line_after(len(self._text.rstrip()), self._lines(name, value, ""))
        if not isinstance(node, yaml.MappingNode):
            return self._mark + self._text
        if node.flow_style or not node.value:
            return self._into_flow(node, flow_text({name: value}))
        return self._line_after(self._end(node), self._lines(name, value, " " * node.value[0][0].start_mark.column))

    def _with_new_value(self, key: yaml.Node, node: yaml.Node, value: Any, hint: str) -> str:
        start, end = self._at(node.start_mark), self._end_of_pair(key, node)
        if start < self._at(key.end_mark):
            raise UsageError("the entry uses what another one says", where=NAME, hint=hint)
        listed = node.value if isinstance(node, yaml.SequenceNode) and isinstance(value, list) else None
        if listed is not None and [item.value for item in listed] == value[: len(listed)]:
            assert isinstance(node, yaml.SequenceNode)
            items = [flow_text({"item": item}).removeprefix("item: ") for item in value[len(listed) :]]
            if not items:
                return self._mark + self._text
            if node.flow_style or not listed:
                return self._into_flow(node, ", ".join(items))
            return self._line_after(self._end(node), [f"{' ' * node.start_mark.column}- {item}" for item in items])
        text = flow_text({"value": value}).removeprefix("value: ")
        colon = self._text.find(":", self._at(key.end_mark), start) + 1
        if colon and key.end_mark.line < node.start_mark.line and not self._text[colon:start].strip():
            return self._spliced((colon, end, f" {text}"))  # instead of a block that begins on the next line
        return self._spliced((start, end, text) if start < end else (end, end, f" {text}"))

    # -- reading the layout --------------------------------------------------------------------------------------------

    def _apps(self) -> tuple[yaml.Node, yaml.Node] | None:
        return next(((key, value) for key, value in self._pairs(self._root) if key.value == "apps"), None)

    def _pairs(self, node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
        return list(node.value) if isinstance(node, yaml.MappingNode) else []

    def _at(self, mark: yaml.Mark) -> int:
        if mark.line >= len(self._starts):  # an empty value at the very end is marked on a line that is not there
            return len(self._text)
        return self._starts[mark.line] + mark.column

    def _line_start(self, position: int) -> int:
        return max(start for start in self._starts if start <= position)

    def _line_end(self, position: int) -> int:
        match = _LINE_BREAK.search(self._text, position)
        return match.start() if match else len(self._text)

    def _end(self, node: yaml.Node) -> int:
        """Where the last character of a node's value ends; the parser's own end of a block is where the next begins."""
        if isinstance(node, yaml.MappingNode) and not node.flow_style:
            return self._end_of_pair(*node.value[-1])
        if isinstance(node, yaml.SequenceNode) and not node.flow_style:
            end = self._at(node.start_mark)
            for item in node.value:
                end = self._end_of_item(item, end)
            return end
        return len(self._text[: self._at(node.end_mark)].rstrip())

    def _end_of_pair(self, key: yaml.Node, value: yaml.Node) -> int:
        return self._end_of_item(value, self._at(key.end_mark))

    def _end_of_item(self, node: yaml.Node, after: int) -> int:
        if self._at(node.start_mark) < after:  # an alias: the node stands where its anchor is
            alias = _ALIAS.match(self._text, after)
            return alias.end() if alias else after
        return max(after, self._end(node))

    # -- cutting and joining -------------------------------------------------------------------------------------------

    def _spliced(self, *changes: tuple[int, int, str]) -> str:
        """The text with each (start, end, replacement) made; of two at one place the first comes first."""
        pieces, done = [self._mark], 0
        for start, end, replacement in sorted(changes, key=lambda change: change[0]):
            pieces += [self._text[done:start], replacement]
            done = end
        return "".join([*pieces, self._text[done:]])

    def _line_after(self, position: int, lines: list[str]) -> str:
        end = self._line_end(position)
        return self._spliced((end, end, "".join(self._newline + line for line in lines)))

    def _without_lines(self, start: int, end: int, *more: tuple[int, int, str]) -> str:
        first, last = self._line_start(start), self._line_end(end)
        before = next((match.start() for match in _LINE_BREAK.finditer(self._text) if match.end() == first), None)
        if before is not None:
            return self._spliced((before, last, ""), *more)
        following = _LINE_BREAK.match(self._text, last)
        return self._spliced((first, following.end() if following else last, ""), *more)

    def _block(self, entries: Mapping[str, Mapping[str, Any]], indent: str) -> list[str]:
        inner = indent + " " * self._step()
        return [line for app_id, entry in entries.items() for line in self._lines(app_id, entry, inner)]

    def _lines(self, app_id: str, entry: Any, indent: str) -> list[str]:
        line = indent + flow_text({app_id: entry})
        if len(line) <= _WIDEST or not isinstance(entry, dict | list):
            return [line]
        block: str = _dump({app_id: entry}, None, self._step())
        return [indent + line for line in block.splitlines()]

    def _step(self) -> int:
        """By how much this file indents: as its first nested block does."""
        for key, value in self._pairs(self._root):
            if isinstance(value, yaml.MappingNode) and not value.flow_style:
                step: int = value.value[0][0].start_mark.column - key.start_mark.column
                return step if 1 < step < 9 else 2
        return 2

    def _alone_on_its_line(self, start: int, end: int) -> bool:
        rest = self._text[end : self._line_end(end)].strip()
        return self._starts_its_line(start) and (not rest or rest.startswith("#"))

    def _starts_its_line(self, position: int) -> bool:
        return not self._text[self._line_start(position) : position].strip()

    def _comma_after(self, position: int) -> int | None:
        """Where the comma after a flow entry stands, if there is one."""
        gap = _GAP.match(self._text, position)
        assert gap is not None
        return gap.end() if self._text[gap.end() : gap.end() + 1] == "," else None

    def _into_flow(self, node: yaml.CollectionNode, item: str) -> str:
        if not node.value:
            opening = "{" if isinstance(node, yaml.MappingNode) else "["
            brace = self._text.index(opening, self._at(node.start_mark)) + 1
            return self._spliced((brace, brace, item))
        last = node.value[-1]
        key, value = last if isinstance(node, yaml.MappingNode) else (last, last)
        end = self._end_of_pair(key, value)
        comma = self._comma_after(end)
        after = end if comma is None else comma + 1
        closing = "" if comma is None else ","
        opening = "," if comma is None else ""
        if not self._starts_its_line(self._at(key.start_mark)):
            return self._spliced((after, after, f"{opening} {item}{closing}"))
        line = f"{self._newline}{' ' * key.start_mark.column}{item}{closing}"
        if not self._alone_on_its_line(self._at(key.start_mark), after):
            return self._spliced((after, after, opening + line))
        return self._spliced((end, end, opening), (self._line_end(after), self._line_end(after), line))

    def _out_of_flow(self, pairs: list[tuple[yaml.Node, yaml.Node]], position: int) -> str:
        start, end = self._at(pairs[position][0].start_mark), self._end_of_pair(*pairs[position])
        comma = self._comma_after(end)
        after = end if comma is None else comma + 1
        previous = self._end_of_pair(*pairs[position - 1]) if position else None
        between = self._comma_after(previous) if previous is not None else None
        if self._alone_on_its_line(start, after):
            surplus = [(between, between + 1, "")] if between is not None and comma is None else []
            return self._without_lines(start, after, *surplus)
        if previous is None or between is None:
            if comma is not None and position + 1 < len(pairs):
                after = self._at(pairs[position + 1][0].start_mark)
            return self._spliced((start, after, ""))
        begin = previous if comma is None else between + 1
        return self._spliced((start if "#" in self._text[begin:start] else begin, after, ""))


def _nested(path: Sequence[str], value: Any) -> Any:
    return {path[0]: _nested(path[1:], value)} if path else value


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(value: Mapping[str, Any], flow: bool | None, step: int) -> str:
    text: str = yaml.dump(
        dict(value),
        Dumper=_Dumper,
        default_flow_style=flow,
        indent=step,
        width=1_000_000,
        sort_keys=False,
        allow_unicode=True,
    )
    return text


def flow_text(value: Mapping[str, Any]) -> str:
    """``key: value`` on one line."""
    return _dump(value, True, 2).strip().removeprefix("{").removesuffix("}")
