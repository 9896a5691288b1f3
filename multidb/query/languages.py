"""The languages that questions are written in, and the store that each is for."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress

from multidb.errors import UsageError
from multidb.provisioners import known_stores, provisioner

__all__ = ["languages"]

_WORD = re.compile(r"[a-z][a-z0-9]*")


def languages(taken: Collection[str] = ()) -> Mapping[str, str]:
    """By language the store. A question of which nothing is said is in the first.

    A store whose language is none of one word, is another store's or is `taken` is asked by its name alone; so is one
    whose package cannot be used, and then says why.
    """
    stores: dict[str, str] = {}
    for store in known_stores():
        with suppress(UsageError):
            querying = provisioner(store).querying
            if querying is not None and _WORD.fullmatch(querying.language) and querying.language not in taken:
                stores.setdefault(querying.language, store)
    return stores
