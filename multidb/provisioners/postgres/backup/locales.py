"""How the text of a database is kept and compared: what is said when one is made, and never changed again. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from multidb.provisioners.postgres.provision.quoting import literal

__all__ = ["COLLATIONS", "Locale"]

_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
# The collations of a server, those of libc by name, and a provider that it has.
COLLATIONS = """
SELECT json_agg(DISTINCT name) FROM (
  SELECT collcollate AS name FROM pg_collation WHERE collprovider = 'c' AND collcollate IS NOT NULL
  UNION SELECT datcollate FROM pg_database UNION SELECT datctype FROM pg_database
  UNION SELECT collprovider::text || ':' FROM pg_collation) known"""
_PROVIDERS_SINCE = 15
_WORD = re.compile(r"[A-Za-z0-9_]{1,40}")
_LONGEST = 10_000


@dataclass(frozen=True, slots=True)
class Locale:
    """Encoding and collation of a database, as ``pg_database`` has them.

    Args:
        provider: ``c``, ``i`` or ``b``, as ``datlocprovider``.
        locale: the provider's own; None for ``c``.
        rules: those of ICU beside the locale's.
        version: of the collations of the provider that it was made under: told, and no difference by itself, because a
            load builds every index anew.
    """

    encoding: str
    collate: str
    ctype: str
    provider: str = "c"
    locale: str | None = None
    rules: str | None = None
    version: str | None = field(default=None, compare=False)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Locale:
        """Of a catalog's answer or a set's manifest.

        Raises:
            ValueError: it says nothing that a database could be made with.
        """
        names = ("encoding", "collate", "ctype", "provider", "locale", "rules", "version")
        values: dict[str, Any] = {name: document.get(name) for name in names}
        for name, value in values.items():
            fits = isinstance(value, str) and len(value) <= _LONGEST and "\0" not in value
            if not fits and not (value is None and name in ("locale", "rules", "version")):
                raise ValueError(f"{name} of the database's locale is {str(value)[:40]!r}")
        locale = cls(**values)
        if not _WORD.fullmatch(locale.encoding) or locale.provider not in _PROVIDERS:
            raise ValueError(f"no database is made with encoding {locale.encoding[:40]!r} of {locale.provider[:40]!r}")
        return locale

    def document(self) -> dict[str, Any]:
        return asdict(self)

    def known_to(self, collations: Collection[str]) -> bool:
        """Whether a server that has these collations (`COLLATIONS`) can make a database with it, as far as that is to
        be told without trying."""
        if self.provider == "c":
            names = {_plain(name) for name in collations}
            return all(word in ("C", "POSIX") or _plain(word) in names for word in (self.collate, self.ctype))
        return f"{self.provider}:" in collations

    def clause(self, major: int) -> str:
        """The options of CREATE DATABASE that give a database this locale.

        Args:
            major: of the server, whose own databases may have another provider.
        """
        words = f"ENCODING {literal(self.encoding)} LC_COLLATE {literal(self.collate)} LC_CTYPE {literal(self.ctype)}"
        if self.provider == "c" and major >= _PROVIDERS_SINCE:
            words += " LOCALE_PROVIDER libc"
        if self.provider == "i":
            words += f" LOCALE_PROVIDER icu ICU_LOCALE {literal(self.locale or '')}"
            words += f" ICU_RULES {literal(self.rules)}" if self.rules is not None else ""
        if self.provider == "b":
            words += f" LOCALE_PROVIDER builtin BUILTIN_LOCALE {literal(self.locale or '')}"
        return words

    def like(self, other: Locale) -> Locale:
        """The same encoding, with the collation of the other where that goes with it, else with that of bytes."""
        if self.encoding == other.encoding:
            return other
        return Locale(self.encoding, "C", "C")

    def __str__(self) -> str:
        return f"encoding {self.encoding}, {_PROVIDERS[self.provider]} locale {self.locale or self.collate}"


def _plain(name: str) -> str:
    """A name of libc's as all its spellings have it: ``de_DE.UTF-8`` is ``de_DE.utf8``."""
    return name.lower().replace("-", "")
