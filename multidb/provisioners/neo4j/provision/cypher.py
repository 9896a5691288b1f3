r"""Names that others have chosen, as Cypher text: the one place where they are quoted. Pure.

Neo4j reads ``\u0060`` as a backtick before it looks for the end of a name in backticks, so a doubled backtick alone
keeps nobody in: a label ``x\u0060) DETACH DELETE n //`` ends the name and goes on as a query. The server's own
``createStatement`` writes such names as they are.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = ["CYPHER_5", "CYPHER_25", "makes_schema", "quoted", "requoted"]

CYPHER_5: Final = "CYPHER 5 "
CYPHER_25: Final = "CYPHER 25 "
"""What a text begins with that is to be read in this language, whatever the database's is."""

_ESCAPED: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
"""Categories of characters that are written by their numbers: what would break a line or hide in it."""

# A text of the server's: strings, names (a doubled backtick is one), anything else.
_SERVERS: Final = re.compile(r"'(?:[^'\\]|\\.)*'|`(?P<name>(?:[^`]|``)*)`|[^'`]+", re.DOTALL)
# A text of ours: strings without escapes, names in which nothing is an escape but what `quoted` writes, and what stands
# between them. No comment can begin, no parameter, and no word that is not one of those below.
_TOKEN: Final = re.compile(
    r"""\s+|'[^'\\]*'|`(?:[^`\\]|``|\\(?!u)|\\u(?!0060)[0-9a-f]{4})+`|(?P<word>[A-Za-z]\w*)|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"""
    r"""|[()\[\]{}|.,:<>=-]""",
    re.ASCII,
)
_SPOKEN: Final = (
    "n r indexConfig indexProvider true false infinity nan "
    "RANGE TEXT POINT FULLTEXT VECTOR INDEX CONSTRAINT FOR ON EACH WITH OPTIONS REQUIRE IS UNIQUE NOT NULL NODE "
    "RELATIONSHIP REL KEY TYPED ANY BOOLEAN STRING INTEGER INTEGER8 INTEGER16 INTEGER32 FLOAT FLOAT32 DATE LOCAL ZONED "
    "TIME DATETIME DURATION LIST"
)
_WORDS: Final = frozenset(_SPOKEN.split())


def quoted(name: str) -> str:
    """A name as Cypher writes it, on one line, whatever characters it has."""
    return "`" + "".join(map(_written, name)) + "`"


def requoted(text: str) -> str:
    """The server's own text of a constraint or index, with every name in it as `quoted` writes it."""

    def written(token: re.Match[str]) -> str:
        name = token["name"]
        return token[0] if name is None else quoted(name.replace("``", "`"))

    return _SERVERS.sub(written, text)


def makes_schema(text: str) -> bool:
    """Whether the text makes one constraint or index and can do nothing else."""
    text = text.removeprefix(CYPHER_25)
    if re.match(r"CREATE (?:CONSTRAINT|(?:(?:RANGE|TEXT|POINT|FULLTEXT|VECTOR) )?INDEX) ", text) is None:
        return False
    position = len("CREATE")
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None or (token["word"] is not None and token["word"] not in _WORDS):
            return False
        position = token.end()
    return True


def _written(character: str) -> str:
    if character == "`":
        return "``"
    if character == "\\" or (character <= "\uffff" and unicodedata.category(character) in _ESCAPED):
        return f"\\u{ord(character):04x}"
    return character
