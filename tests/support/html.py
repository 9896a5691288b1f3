"""An HTML page as a test reads it."""

from __future__ import annotations

from html.parser import HTMLParser


class Document(HTMLParser):
    """Elements with their attributes and texts, in order; refuses what is not closed."""

    VOID = frozenset({"meta", "link", "input", "br"})
    BLOCKS = frozenset({"p", "td", "th", "li", "dt", "dd", "pre"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        assert not self._open, "everything is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if "line" in (dict(attrs).get("class") or "").split():
            self.handle_data(" ")
        element: tuple[str, dict[str, str | None], list[str]] = (tag, dict(attrs), [])
        self.elements.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop()[0] == tag
        if tag in self.BLOCKS:
            self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element[2].append(data)

    def texts(self, tag: str, **attributes: str) -> list[str]:
        return [
            " ".join("".join(texts).split())
            for name, found, texts in self.elements
            if name == tag and attributes.items() <= found.items()
        ]
